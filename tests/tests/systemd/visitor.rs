//! `procurator-worker ssh` as a user types it: the host's own OpenSSH client, led to the sshd that the guest's systemd has
//! listen on the machine's sockets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use end_to_end::Environment;

/// For one session: both ends work on an emulated processor.
const SECONDS: &str = "180";
/// A host's key that is not the guest's: the other half was thrown away.
const OTHER_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKT/TXbp/DXpOptYIYxxupxhUwxQitrNZqWwGl2f+h1A";
/// What the client ends with where it does not get to the command.
const NOT_CONNECTED: i32 = 255;

/// Somebody with a key of their own.
pub(crate) struct Visitor {
    program: PathBuf,
    folder: PathBuf,
    public_key: String,
}

impl Visitor {
    /// One with a new key.
    pub(crate) fn new(environment: &Environment) -> Result<Self> {
        let folder = PathBuf::from("/tmp/visitor");
        // Of a run before on the same host.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).context("cannot create the folder of a key")?;
        let key = folder.join("key");
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "visitor", "-f"]).arg(&key);
        ensure!(keygen.status().context("cannot start ssh-keygen")?.success(), "there is no new key");
        let public_key = read(&key.with_extension("pub"))?.trim_end().to_owned();
        Ok(Self { program: environment.worker().to_owned(), folder, public_key })
    }

    pub(crate) fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Checks that the guest of VM `id` lets this visitor in as root, and that what a command says and ends with is what the
    /// verb says and ends with. Its host key is kept as that of the VM's identity, and another key under that identity is
    /// refused.
    pub(crate) fn is_let_in(&self, id: &str, uuid: &str) -> Result<()> {
        let known = self.folder.join("known_hosts");
        let first = self.ssh(
            id,
            &known,
            "echo out; echo complaint >&2; cat /etc/ssh/ssh_host_ed25519_key.pub; exit 7",
        )?;
        let (said, complained) = (text(&first.stdout), text(&first.stderr));
        assert_eq!(first.status.code(), Some(7), "{said}{complained}");
        let own_key = said.strip_prefix("out\n").with_context(|| format!("it says {said:?}"))?;
        assert!(complained.contains("complaint"), "{complained}");
        // A comment may follow.
        let own_key: Vec<&str> = own_key.split_whitespace().take(2).collect();
        let kept = read(&known)?;
        assert!(
            kept.lines().any(|line| line == format!("{uuid} {}", own_key.join(" "))),
            "{own_key:?}: {kept}"
        );

        let changed = self.folder.join("changed_hosts");
        fs::write(&changed, format!("{uuid} {OTHER_KEY}\n")).context("cannot write known hosts")?;
        let refused = self.ssh(id, &changed, "touch /root/was-here")?;
        let complained = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(NOT_CONNECTED), "{complained}");
        assert!(complained.contains("HOST IDENTIFICATION HAS CHANGED"), "{complained}");
        assert!(read(&changed)?.ends_with(&format!("{OTHER_KEY}\n")), "it is not replaced");

        let again = self.ssh(id, &known, "test ! -e /root/was-here")?;
        assert!(again.status.success(), "{}", text(&again.stderr));
        Ok(())
    }

    /// What the verb comes to. A guest that does not answer must not hang its test.
    fn ssh(&self, id: &str, known_hosts: &Path, command: &str) -> Result<Output> {
        let mut verb = Command::new("busybox");
        verb.args(["timeout", SECONDS]).arg(&self.program);
        verb.arg("ssh").arg("--known-hosts").arg(known_hosts).args([id, "-l", "root", "-i"]);
        verb.arg(self.folder.join("key")).args(["-o", "BatchMode=yes", command]);
        verb.output().context("cannot start the verb")
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
