//! `ssh`: the OpenSSH client, told how a guest is reached and by what it is known.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use rustix::mount::{MountFlags, mount, mount_bind};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};
use crate::operating::said;

/// What `ssh` with `arguments` comes to, where programs are found in `path`.
fn ssh(bench: &Bench, path: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(&bench.program);
    command.arg("ssh").arg("--runtime-dir").arg(bench.path("run")).args(arguments).env_clear();
    command.env("PATH", path).env("HOME", bench.path("")).stdin(Stdio::null());
    command.output().expect("started")
}

#[test]
fn the_client_is_called_with_the_identity_and_the_address_and_its_end_is_the_end() {
    isolated(|bench| {
        bench.assign(&[bench.vm("web-1", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["web-1 running"]);
        let programs = bench.path("programs");
        fs::create_dir(&programs).expect("made");
        let fake = programs.join("ssh");
        fs::write(&fake, "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 7\n").expect("written");
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).expect("set");
        let called =
            ssh(&bench, &format!("{}:/bin:/usr/bin", programs.display()), &["web", "-l", "me", "ls", "-l"]);
        assert_eq!(called.status.code(), Some(7));
        let words = String::from_utf8(called.stdout).expect("text");
        let vm = &bench.vms()[0];
        let (uuid, address) = (vm["uuid"].as_str().expect("one"), vm["address"].as_str().expect("one"));
        for option in [format!("HostKeyAlias={uuid}"), format!("HostName={address}")] {
            assert!(words.lines().any(|word| word == option), "{option} is not in {words}");
        }
        assert!(words.ends_with("-l\nme\nweb-1\nls\n-l\n"), "{words}");

        let none = ssh(&bench, "/nonexistent", &["web-1"]);
        let told = String::from_utf8_lossy(&none.stderr).into_owned();
        assert!(none.status.code() == Some(1) && told.contains("there is no ssh on this host"), "{told}");
        said(&bench, &["stop", "web-1"]);
        let off = ssh(&bench, "/bin:/usr/bin", &["web-1"]);
        let told = String::from_utf8_lossy(&off.stderr).into_owned();
        assert!(told.contains("VM web-1 is stopped: `procurator-worker start web-1` runs it"), "{told}");
        daemon.kill();
    });
}

#[test]
fn what_the_guest_says_is_passed_on_at_once() {
    isolated(|bench| {
        let socket = bench.path("vsock.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        let guest = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("connected");
            let mut bytes = [0; 11];
            stream.read_exact(&mut bytes).expect("a request");
            stream.write_all(b"OK 1\nfirst").expect("answered");
            stream.read_exact(&mut bytes[..5]).expect("an answer");
            assert_eq!(&bytes[..5], b"reply");
            stream.write_all(b"last").expect("sent");
            assert_eq!(stream.read(&mut bytes).expect("read"), 0, "the end is passed on");
        });
        let mut verb = Command::new(&bench.program);
        verb.arg("vsock-connect").arg(&socket).arg("22").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut verb = verb.spawn().expect("started");
        let (mut input, mut output) = (verb.stdin.take().expect("piped"), verb.stdout.take().expect("piped"));
        let mut bytes = [0; 5];
        // The guest says no more until it has an answer.
        output.read_exact(&mut bytes).expect("said");
        assert_eq!(&bytes, b"first");
        input.write_all(b"reply").expect("sent");
        output.read_exact(&mut bytes[..4]).expect("said");
        assert_eq!(&bytes[..4], b"last");
        drop(input);
        guest.join().expect("as told");
        assert!(verb.wait().expect("ends").success());
    });
}

/// A real sshd behind a vsock socket, as a guest's systemd starts one: a process a connection.
struct Sshd {
    program: PathBuf,
    folder: PathBuf,
}

impl Sshd {
    /// One with a host key that is new, whose user is whoever has the key in `folder`.
    fn new(program: PathBuf, folder: PathBuf) -> Self {
        let made = Self { program, folder };
        made.change_host_key();
        made
    }

    fn change_host_key(&self) {
        let key = self.folder.join("host_key");
        // The first time there is none.
        let _ = fs::remove_file(&key);
        keygen(&key);
    }

    /// Answers on `socket` from now on.
    fn listen(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).expect("bound");
        let (program, folder) = (self.program.clone(), self.folder.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &program, &folder);
            }
        });
    }
}

fn keygen(file: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file).status();
    assert!(made.expect("ssh-keygen runs").success());
}

fn serve(mut stream: UnixStream, program: &Path, folder: &Path) {
    let mut request = [0; 11];
    stream.read_exact(&mut request).expect("a request");
    assert_eq!(&request, b"CONNECT 22\n");
    stream.write_all(b"OK 1073741824\n").expect("answered");
    let side = || OwnedFd::from(stream.try_clone().expect("cloned"));
    let options = [
        format!("HostKey={}", folder.join("host_key").display()),
        format!("AuthorizedKeysFile={}", folder.join("key.pub").display()),
        "StrictModes=no".to_owned(),
        "PermitRootLogin=yes".to_owned(),
        "UsePAM=no".to_owned(),
    ];
    let mut sshd = Command::new(program);
    sshd.args(["-i", "-f", "/dev/null"]).stdin(side()).stdout(side()).stderr(Stdio::null());
    for option in options {
        sshd.arg("-o").arg(option);
    }
    let mut child = sshd.spawn().expect("sshd runs");
    thread::spawn(move || child.wait());
}

/// Gives this test's mounts what sshd insists on: its user and its directory.
fn prepare_for_sshd(bench: &Bench) {
    let users = fs::read_to_string("/etc/passwd").expect("read");
    let with_sshd = format!("{users}\nsshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n");
    fs::write(bench.path("passwd"), with_sshd).expect("written");
    mount_bind(bench.path("passwd"), "/etc/passwd").expect("mounted");
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).expect("mounted");
    fs::create_dir("/run/sshd").expect("made");
    fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755)).expect("set");
}

#[test]
#[ignore = "full: needs an OpenSSH server on this host (PROCURATOR_TEST_SSHD, else /usr/sbin/sshd)"]
fn a_real_server_is_reached_over_vsock_and_another_key_is_refused() {
    isolated(|bench| {
        let program = std::env::var_os("PROCURATOR_TEST_SSHD").unwrap_or_else(|| "/usr/sbin/sshd".into());
        prepare_for_sshd(&bench);
        bench.assign(&[bench.vm("a", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        keygen(&bench.path("key"));
        let sshd = Sshd::new(program.into(), bench.path(""));
        std::fs::create_dir_all(bench.path("state/vms/a/sockets")).expect("made");
        sshd.listen(&bench.path("state/vms/a/sockets/vsock.sock"));

        let (key, known) = (bench.path("key"), bench.path("known"));
        let options = ["-i", key.to_str().expect("text"), "-o", "BatchMode=yes"];
        let known_hosts = ["--known-hosts", known.to_str().expect("text")];
        let run = |command: &str| {
            let arguments = [&known_hosts[..], &["a", "-l", "root"], &options, &[command]].concat();
            ssh(&bench, "/bin:/usr/bin", &arguments)
        };
        let done = run("echo here; exit 9");
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!((done.status.code(), &done.stdout[..]), (Some(9), &b"here\n"[..]), "{told}");
        let uuid = bench.vms()[0]["uuid"].as_str().expect("one").to_owned();
        let kept = fs::read_to_string(&known).expect("kept");
        assert!(kept.starts_with(&format!("{uuid} ssh-ed25519 ")), "{kept}");
        let megabytes = run("head -c 8388608 /dev/zero");
        assert_eq!(megabytes.stdout.len(), 8 << 20, "{}", String::from_utf8_lossy(&megabytes.stderr));

        sshd.change_host_key();
        let refused = run("true");
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(255), "{told}");
        assert!(told.contains("HOST IDENTIFICATION HAS CHANGED"), "{told}");
        daemon.kill();
    });
}
