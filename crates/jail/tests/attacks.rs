//! What a process in a jail tries fails, and would not fail outside.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

/// What an attempt leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// It is refused with one of these, whichever layer is asked first.
    Refused(&'static [i32]),
}

use Outcome::{Done, Refused};

const EPERM: i32 = libc::EPERM;
const EACCES: i32 = libc::EACCES;
const NOTHING_THERE: Outcome = Refused(&[libc::ENOENT]);
const NOBODY_THERE: Outcome = Refused(&[libc::ESRCH]);

/// Every attempt of the prisoner, and what it leads to in the jail.
const EXPECTED: &[(&str, Outcome)] = &[
    ("own-file", Done),
    ("own-socket", Done),
    ("own-status", Done),
    ("own-main-thread", Done),
    ("processors", Done),
    ("open-host-file", NOTHING_THERE),
    ("open-public-file", NOTHING_THERE),
    ("open-by-leaked-root", Refused(&[EACCES])),
    ("open-sibling-file", Refused(&[EACCES])),
    ("open-outside-tree", Refused(&[EACCES])),
    ("reopen-directory", Refused(&[EACCES])),
    ("list-root", NOTHING_THERE),
    ("read-victims-status", NOTHING_THERE),
    ("read-victims-memory", NOTHING_THERE),
    ("read-kernel-log", NOTHING_THERE),
    ("find-mount-with-devices", NOTHING_THERE),
    ("find-mount-with-programs", NOTHING_THERE),
    ("find-mount-with-privileges", NOTHING_THERE),
    ("write-to-host", Refused(&[libc::EROFS, EACCES])),
    ("connect-unix", NOTHING_THERE),
    ("connect-closed-directory", Refused(&[EACCES])),
    ("connect-abstract", Refused(&[libc::ECONNREFUSED])),
    ("connect-tcp", Refused(&[EACCES])),
    ("listen-tcp", Refused(&[EACCES])),
    ("send-udp", Refused(&[libc::ENETUNREACH])),
    ("raw-socket", Refused(&[EPERM])),
    ("signal-victim", NOBODY_THERE),
    ("signal-parent", NOBODY_THERE),
    ("find-any-process", NOBODY_THERE),
    ("trace-victim", NOBODY_THERE),
    ("watch-victim", NOBODY_THERE),
    ("take-victims-descriptor", NOBODY_THERE),
    ("become-root", Refused(&[EPERM])),
    ("become-roots-group", Refused(&[EPERM])),
    ("gain-capabilities", Refused(&[EPERM])),
    ("user-namespace", Refused(&[EPERM])),
    ("mount-namespace", Refused(&[EPERM])),
    ("make-device", Refused(&[EPERM, EACCES])),
    ("load-bpf", Refused(&[EPERM])),
    ("execute-itself", Refused(&[EACCES])),
    ("endless-descriptors", Refused(&[libc::EMFILE])),
    ("endless-threads", Refused(&[libc::EAGAIN])),
    ("endless-locked-memory", Refused(&[libc::ENOMEM])),
];

/// Attempts whose outcome outside of a jail depends on the host's settings.
const OF_THE_HOST: [&str; 5] = ["user-namespace", "load-bpf", "read-kernel-log", "send-udp", "raw-socket"];

/// What the prisoner finds: a tree with a directory of its own and one of a sibling, sockets, and a process.
struct Ground {
    directory: tempfile::TempDir,
    victim: Child,
    _sockets: [UnixListener; 3],
    _tcp: TcpListener,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        for (name, mode) in [("", 0o755), ("tree", 0o755), ("tree/own", 0o700), ("tree/sibling", 0o700)] {
            fs::create_dir_all(path.join(name)).expect("made");
            fs::set_permissions(path.join(name), PermissionsExt::from_mode(mode)).expect("set");
        }
        fs::write(path.join("public"), "for everybody").expect("written");
        fs::write(path.join("tree/sibling/secret"), "for nobody").expect("written");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        fs::write(path.join("tcp"), tcp.local_addr().expect("bound").to_string()).expect("written");
        let listen = |name: &str| {
            let listener = UnixListener::bind(path.join(name)).expect("bound");
            fs::set_permissions(path.join(name), PermissionsExt::from_mode(0o777)).expect("set");
            listener
        };
        let abstract_name =
            SocketAddr::from_abstract_name(path.as_os_str().as_encoded_bytes()).expect("a name");
        let sockets = [
            listen("open.sock"),
            listen("tree/sibling/closed.sock"),
            UnixListener::bind_addr(&abstract_name).expect("bound"),
        ];
        let victim = Command::new("cat").stdin(Stdio::piped()).spawn().expect("started");
        Self { victim, _sockets: sockets, _tcp: tcp, directory }
    }

    /// What each attempt led to: 0 where it succeeded.
    fn try_all(&self, order: &str) -> (BTreeMap<String, i32>, Vec<String>) {
        let output = Command::new(env!("CARGO_BIN_EXE_prisoner"))
            .arg(order)
            .arg::<&Path>(self.directory.path())
            .arg(self.victim.id().to_string())
            .output()
            .expect("started");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines().peekable();
        let sibling = lines.next_if(|line| line.bytes().all(|byte| byte.is_ascii_digit()));
        let goes_well = output.status.success() && sibling.is_none_or(ends_well);
        assert!(goes_well, "{order}: {text}{}", String::from_utf8_lossy(&output.stderr));
        let (gaps, attempts): (Vec<&str>, _) = lines.partition(|line| line.starts_with("gap "));
        let attempts = attempts.into_iter().map(|line| {
            let (name, outcome) = line.split_once(' ').expect("two words");
            (name.to_owned(), if outcome == "done" { 0 } else { outcome.parse().expect("a number") })
        });
        (attempts.collect(), gaps.into_iter().map(str::to_owned).collect())
    }
}

/// How the process ends that goes on in place of one that this one started, which makes it a child as well.
fn ends_well(number: &str) -> bool {
    let number = number.parse().ok().and_then(Pid::from_raw).expect("a number");
    let ended = waitpid(Some(number), WaitOptions::empty()).expect("it is a child");
    ended.is_some_and(|(_, status)| status.exit_status() == Some(0))
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

#[test]
fn nothing_that_a_prisoner_tries_succeeds() {
    let ground = Ground::new();
    let (seen, gaps) =
        ground.try_all("pid-namespace,user=1879048999,descriptors=256,threads=64,locked=65536");
    assert_eq!(gaps, [""; 0], "this host has every layer");
    assert_eq!(seen.len(), EXPECTED.len(), "{seen:?}");
    let surprises: Vec<_> = EXPECTED
        .iter()
        .filter(|(name, expected)| match expected {
            Done => seen[*name] != 0,
            Refused(errors) => !errors.contains(&seen[*name]),
        })
        .map(|(name, expected)| format!("{name}: {}, not {expected:?}", seen[*name]))
        .collect();
    assert!(surprises.is_empty(), "{surprises:#?}");
}

#[test]
fn the_same_attempts_succeed_outside() {
    let ground = Ground::new();
    let (seen, _) = ground.try_all("free");
    let refused = seen.iter().filter(|(name, error)| **error != 0 && !OF_THE_HOST.contains(&name.as_str()));
    assert_eq!(refused.collect::<Vec<_>>(), []);
}

#[test]
fn a_prisoner_without_a_user_of_its_own_says_so() {
    let ground = Ground::new();
    let (seen, gaps) = ground.try_all("threads=64");
    assert_eq!(gaps, ["gap own user: none is given to it"]);
    assert_eq!(seen["open-by-leaked-root"], EACCES, "the other layers hold");
}

/// As a worker without `CAP_SYS_ADMIN` starts them.
#[test]
fn a_prisoner_without_a_right_to_namespaces_says_so() {
    let ground = Ground::new();
    // Whoever starts it has it lose the right, which is a thread's.
    let starting = || {
        remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN).expect("tests run as root");
        ground.try_all("pid-namespace,user=1879048999,threads=64")
    };
    let (seen, gaps) = thread::scope(|scope| scope.spawn(starting).join()).expect("no panic");
    assert_eq!(
        gaps.first().map(String::as_str),
        Some("gap PID namespace: Operation not permitted (os error 1)")
    );
    assert!(gaps.iter().any(|gap| gap.starts_with("gap mount namespace: ")), "{gaps:?}");
    for (name, error) in
        [("own-file", 0), ("own-main-thread", 0), ("signal-victim", EPERM), ("become-root", EPERM)]
    {
        assert_eq!(seen[name], error, "{name}: the other layers hold");
    }
}
