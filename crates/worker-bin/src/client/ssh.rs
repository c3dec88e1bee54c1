//! `ssh`: hands over to the OpenSSH client, with all that it has to know of a VM.
//!
//! A guest that listens on port 22 of its vsock is reached there, without a network; others by their address. A guest is
//! known by the identity of its VM, not by its name or address: a VM of the same name that is made later is another host,
//! and a key that changes under one identity is refused by the client.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use admin::{AdminClient, VmView};
use anyhow::{Context, Result, anyhow, bail};
use tokio::task::spawn_blocking;
use vm_model::VmId;

use super::list::is_up;
use crate::cli::SshFlags;
use crate::vsock;

/// Where sshd listens, also on vsock.
const PORT: u32 = 22;
/// The client.
const CLIENT: &str = "ssh";

/// How a guest is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    /// Through this socket.
    Vsock(PathBuf),
    Address(Ipv4Addr),
}

/// Becomes an OpenSSH client that is connected with VM `id`. Returns only where it does not.
pub(super) async fn ssh(client: &AdminClient, id: &VmId, flags: &SshFlags) -> Result<()> {
    let vm = client.get_vm(id).await?;
    if !is_up(&vm) && vm.phase != "booting" {
        bail!("VM {id} is {}: `procurator-worker start {id}` runs it", vm.phase);
    }
    let route = route(&vm).await?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let problem = Command::new(CLIENT).args(arguments(&vm, &route, &program, flags)).exec();
    match problem.kind() {
        ErrorKind::NotFound => bail!(
            "there is no {CLIENT} on this host: install the OpenSSH client (Debian: apt install openssh-client)"
        ),
        _ => Err(problem).context("the OpenSSH client cannot be run"),
    }
}

/// How the guest of `vm` is reached.
async fn route(vm: &VmView) -> Result<Route> {
    let by_vsock = match &vm.directory {
        Some(directory) => answers(socket_in(directory)).await,
        None => Err(anyhow!("the worker does not tell where its vsock socket is")),
    };
    match (by_vsock, vm.address) {
        (Ok(socket), _) => Ok(Route::Vsock(socket)),
        (Err(_), Some(address)) => Ok(Route::Address(address)),
        (Err(problem), None) => {
            Err(problem.context(format!("VM {} has no address, and its vsock cannot be used", vm.id)))
        }
    }
}

/// The socket of the VM in `directory`. A machine that an earlier release launched has it beside its other files.
fn socket_in(directory: &Path) -> PathBuf {
    let earlier = directory.join("vsock.sock");
    if earlier.exists() { earlier } else { directory.join("sockets/vsock.sock") }
}

/// The socket, where the guest behind it listens.
async fn answers(socket: PathBuf) -> Result<PathBuf> {
    let tried = spawn_blocking(move || vsock::connect(&socket, PORT).map(|_| socket)).await?;
    tried.context("no sshd answers there")
}

/// What the client is called with.
fn arguments(vm: &VmView, route: &Route, program: &Path, flags: &SshFlags) -> Vec<OsString> {
    let alias = vm.uuid.as_deref().unwrap_or(vm.id.as_str());
    let known_hosts = quoted_option(&flags.known_hosts);
    let route = match route {
        Route::Vsock(socket) => {
            let words =
                [program.as_os_str().to_string_lossy(), "vsock-connect".into(), socket.to_string_lossy()];
            let words: Vec<String> = words.iter().map(|word| quoted_for_shell(word)).collect();
            format!("ProxyCommand={} {PORT}", words.join(" "))
        }
        Route::Address(address) => format!("HostName={address}"),
    };
    let options = [
        route,
        format!("HostKeyAlias={alias}"),
        format!("UserKnownHostsFile={known_hosts}"),
        // A VM's identity is no secret, and whoever removes a key has to find it.
        "HashKnownHosts=no".to_owned(),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "StrictHostKeyChecking=accept-new".to_owned(),
        "CheckHostIP=no".to_owned(),
    ];
    let mut arguments: Vec<OsString> =
        options.into_iter().flat_map(|option| ["-o".into(), option.into()]).collect();
    if let Some(user) = &flags.login {
        arguments.extend(["-l".into(), user.into()]);
    }
    arguments.push(vm.id.as_str().into());
    // After the host the client takes options still, and then the command.
    arguments.extend(flags.rest.iter().cloned());
    arguments
}

/// A word of a command that the client gives to a shell, after it has put what it knows in place of `%` and a letter.
fn quoted_for_shell(word: &str) -> String {
    format!("'{}'", word.replace('%', "%%").replace('\'', r"'\''"))
}

/// A file's name as a value of an option, which may be several.
fn quoted_option(file: &str) -> String {
    format!("\"{}\"", file.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm() -> VmView {
        let json = serde_json::json!({
            "id": "web-1", "uuid": "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "phase": "running", "desired": "running",
            "reason": null, "address": "10.0.0.2", "mac": null, "tap": null, "store_path": "/nix/store/x", "hash": "",
            "generation": 3, "restarts": 1, "last_stop": null, "timings": {}, "warnings": [], "unverified": [],
            "metrics": null,
        });
        serde_json::from_value(json).expect("a view")
    }

    fn called(route: &Route, login: Option<&str>, rest: &[&str]) -> Vec<String> {
        let flags = SshFlags {
            vm: "web-1".parse().expect("a name"),
            login: login.map(str::to_owned),
            known_hosts: "~/.ssh/known".to_owned(),
            rest: rest.iter().map(OsString::from).collect(),
        };
        let arguments = arguments(&vm(), route, Path::new("/opt/it's 100%/worker"), &flags);
        arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_guest_is_known_by_the_identity_of_its_vm() {
        let by_address =
            called(&Route::Address(Ipv4Addr::new(10, 0, 0, 2)), Some("admin"), &["-v", "uptime"]);
        assert!(by_address.contains(&"HostKeyAlias=1b4e28ba-2fa1-11d2-883f-0016d3cca427".to_owned()));
        assert!(by_address.contains(&"HostName=10.0.0.2".to_owned()), "{by_address:?}");
        assert!(by_address.ends_with(&["-l", "admin", "web-1", "-v", "uptime"].map(str::to_owned)));
        let by_vsock = called(&Route::Vsock("/srv/vms/web-1/vsock.sock".into()), None, &[]);
        let proxy =
            r"ProxyCommand='/opt/it'\''s 100%%/worker' 'vsock-connect' '/srv/vms/web-1/vsock.sock' 22";
        assert_eq!(by_vsock[1], proxy);
        assert_eq!(by_vsock.last().map(String::as_str), Some("web-1"));
    }
}
