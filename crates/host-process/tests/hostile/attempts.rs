//! What nobody may do who runs guests.

use super::scene::{Scene, Thread};
use super::support::has_kvm;

/// What an attempt comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It succeeds.
    Done,
    /// It fails with this error.
    Fails(i32),
    /// The process ends of this call, and says so.
    Ends(&'static str),
    /// The process ends of a call that is made with all signals blocked, that of its last words among them.
    EndsMute,
}

use Outcome::{Done, Ends, EndsMute, Fails};

const EPERM: i32 = libc::EPERM;
const ENOENT: i32 = libc::ENOENT;
/// In a PID namespace of its own a process has nobody to name.
const ESRCH: i32 = libc::ESRCH;
const EACCES: i32 = libc::EACCES;

/// What each attempt comes to on the thread of a vCPU and on the first one, each in a jail and with filters; in a jail alone;
/// and in neither.
#[rustfmt::skip]
pub(crate) const EXPECTED: &[(&str, [Outcome; 4])] = &[
    ("open-file",                [Fails(EACCES), Fails(ENOENT), Fails(ENOENT), Done]),
    ("open-file-the-old-way",    [Ends("open (2)"), Ends("open (2)"), Fails(ENOENT), Done]),
    ("open-siblings-memory",     [Fails(EACCES), Fails(ENOENT), Fails(ENOENT), Done]),
    ("open-siblings-guest",      [Fails(EACCES), Fails(ENOENT), Fails(ENOENT), Done]),
    ("read-siblings-memory",     [Ends("process_vm_readv (310)"), Ends("process_vm_readv (310)"), Fails(ESRCH), Done]),
    ("take-siblings-descriptor", [Ends("pidfd_open (434)"), Ends("pidfd_open (434)"), Fails(ESRCH), Done]),
    ("trace-sibling",            [Ends("ptrace (101)"), Ends("ptrace (101)"), Fails(ESRCH), Done]),
    ("signal-sibling",           [Ends("kill (62)"), Ends("kill (62)"), Fails(ESRCH), Done]),
    ("signal-siblings-thread",   [Ends("tgkill (234)"), Ends("tgkill (234)"), Fails(ESRCH), Fails(ESRCH)]),
    ("move-sibling",             [Ends("sched_setaffinity (203)"), Ends("sched_setaffinity (203)"), Fails(ESRCH), Done]),
    ("signal-worker",            [Ends("kill (62)"), Ends("kill (62)"), Fails(ESRCH), Done]),
    ("connect-unix",             [Ends("socket (41)"), Fails(ENOENT), Fails(ENOENT), Done]),
    ("connect-abstract",         [Ends("socket (41)"), Fails(libc::ECONNREFUSED), Fails(libc::ECONNREFUSED), Done]),
    ("connect-tcp",              [Ends("socket (41)"), Ends("socket (41)"), Fails(EACCES), Done]),
    ("packet-socket",            [Ends("socket (41)"), Ends("socket (41)"), Fails(EPERM), Done]),
    ("fork",                     [Ends("fork (57)"), Ends("fork (57)"), Done, Done]),
    ("fork-as-thread",           [Ends("clone (56)"), Ends("clone (56)"), Done, Done]),
    ("fork-the-new-way",         [Fails(libc::ENOSYS), Fails(libc::ENOSYS), Done, Done]),
    // The C library blocks signals meanwhile.
    ("start-thread",             [EndsMute, Done, Done, Done]),
    ("execute-file",             [Ends("execve (59)"), Ends("execve (59)"), Fails(ENOENT), Done]),
    // Here and below, what filters alone refuse. It gets nobody out of the jail. This file is no program, which is said last.
    ("execute-memory",           [Ends("memfd_create (319)"), Ends("execveat (322)"), Fails(libc::ENOEXEC), Fails(libc::ENOEXEC)]),
    ("mount",                    [Ends("mount (165)"), Ends("mount (165)"), Fails(EPERM), Done]),
    ("mount-the-new-way",        [Ends("fsopen (430)"), Ends("fsopen (430)"), Fails(EPERM), Done]),
    ("new-namespace",            [Ends("unshare (272)"), Ends("unshare (272)"), Fails(EPERM), Done]),
    ("become-root",              [Ends("setresuid (117)"), Ends("setresuid (117)"), Fails(EPERM), Done]),
    ("load-bpf",                 [Ends("bpf (321)"), Ends("bpf (321)"), Fails(EPERM), Done]),
    ("executable-memory",        [Ends("mmap (9)"), Ends("mmap (9)"), Done, Done]),
    ("executable-stack",         [Ends("mprotect (10)"), Ends("mprotect (10)"), Done, Done]),
    // What a ring is asked for, no filter sees: the first thread may make one for a machine, and the jail refuses.
    ("own-ring-open",            [Ends("io_uring_setup (425)"), Fails(ENOENT), Fails(ENOENT), Done]),
    ("own-ring-connect",         [Ends("io_uring_setup (425)"), Fails(EACCES), Fails(EACCES), Done]),
    // That of a disk refuses by itself.
    ("disks-ring-open",          [Fails(EACCES), Fails(EACCES), Fails(EACCES), Fails(EACCES)]),
    ("disks-ring-freed",         [Ends("io_uring_register (427)"), Fails(EACCES), Fails(EACCES), Fails(EACCES)]),
    // The kernel passes no more than 253.
    ("too-many-descriptors",     [Ends("sendmsg (46)"), Fails(libc::EINVAL), Fails(libc::EINVAL), Fails(libc::EINVAL)]),
];

/// What is to be read in the reason why a process was lost.
fn words_of(outcome: Outcome, thread: Thread) -> String {
    match (outcome, thread) {
        (Done, _) => " exited with status 0".to_owned(),
        (Fails(error), _) => format!(" exited with status {error}"),
        (EndsMute, _) => " was killed by SIGSYS".to_owned(),
        (Ends(call), Thread::Vcpu) => format!(
            " was killed by SIGSYS: the vCPU thread vcpu0:hostile of hostile made the system call {call}, which its filter \
             does not allow"
        ),
        (Ends(call), Thread::Main) => format!(
            " was killed by SIGSYS: the main thread made the system call {call}, which its filter does not allow"
        ),
    }
}

/// Goes through all attempts, each on `threads` with what is expected of it there, and says which came to something else.
async fn try_all(scene: &Scene, expected: impl Fn([Outcome; 4]) -> Vec<(Thread, Outcome)>) {
    let mut surprises = Vec::new();
    for (attempt, outcomes) in EXPECTED {
        for (thread, outcome) in expected(*outcomes) {
            let reason = scene.attempt(attempt, thread).await;
            let wanted = words_of(outcome, thread);
            if !reason.ends_with(&wanted) {
                surprises.push(format!("{attempt} on {thread:?}: {reason}, and not{wanted}"));
            }
        }
    }
    assert!(surprises.is_empty(), "{surprises:#?}");
}

#[tokio::test]
async fn nothing_that_hostile_code_tries_succeeds_and_each_attempt_ends_its_own_process_alone() {
    if !has_kvm() {
        return;
    }
    let scene = Scene::new(|_| {}).await;
    try_all(&scene, |[vcpu, main, _, _]| vec![(Thread::Vcpu, vcpu), (Thread::Main, main)]).await;
    scene.end().await;
}

#[tokio::test]
async fn the_jail_holds_without_filters() {
    if !has_kvm() {
        return;
    }
    let scene = Scene::new(|options| options.program.push("--seccomp=off".into())).await;
    try_all(&scene, |[_, _, jailed, _]| vec![(Thread::Vcpu, jailed)]).await;
    scene.end().await;
}

#[tokio::test]
async fn the_same_attempts_succeed_with_neither() {
    if !has_kvm() {
        return;
    }
    let scene = Scene::new(|options| {
        options.program.push("--seccomp=off".into());
        options.jail = None;
    })
    .await;
    try_all(&scene, |[_, _, _, free]| vec![(Thread::Vcpu, free)]).await;
    scene.end().await;
}
