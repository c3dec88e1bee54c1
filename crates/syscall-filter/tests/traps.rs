//! Filters of the real kernel, in processes of their own: this program starts itself once for each kind of thread.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::panic::catch_unwind;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Instant, SystemTime};

use last_words::Frame;
use syscall_filter::{Mode, ThreadKind, allowed, confine_main_thread, enter, prepare};

/// Says to a process what it is to do: a mode, and a kind of thread.
const VARIABLE: &str = "SYSCALL_FILTER_TEST";

/// The threads from the main one to one of `kind`, without the former.
fn line_of(kind: ThreadKind) -> Vec<ThreadKind> {
    let starter = ThreadKind::ALL
        .into_iter()
        .find(|starter| *starter != kind && starter.starts().contains(&kind))
        .filter(|_| kind != ThreadKind::Main);
    starter.map(line_of).into_iter().flatten().chain((kind != ThreadKind::Main).then_some(kind)).collect()
}

/// No thread of a host process moves to another directory once it serves guests.
fn do_what_is_forbidden() {
    eprintln!("went on: {:?}", std::env::set_current_dir("/"));
}

/// What the languages' libraries do on any thread, sooner or later.
fn do_what_libraries_do() {
    // A heap that grows, moves and shrinks, in blocks of its own and in such as are mapped.
    for block in [64 << 10, 1 << 20] {
        let mut blocks: Vec<Vec<u8>> = (0..32).map(|_| vec![1; block]).collect();
        blocks.iter_mut().for_each(|block| block.resize(block.len() * 3, 1));
        drop(std::hint::black_box(blocks));
    }
    let map: HashMap<_, _> = [(1, 2)].into_iter().collect();
    assert_eq!(std::hint::black_box(map).len(), 1);
    thread::yield_now();
    let times = (SystemTime::now(), Instant::now());
    let _ = std::hint::black_box(times);
    let panicked = catch_unwind(|| assert!(std::hint::black_box(false), "a panic and its message"));
    assert!(panicked.is_err());
    // Files that a library looks for are not there.
    eprintln!("a file: {:?}", fs::read("/sys/devices/system/cpu/online").err().map(|error| error.kind()));
    eprintln!("went on");
}

/// Starts a thread of the first kind, which starts one of the second, and so on; the last one does `what`.
fn descend(kinds: &[ThreadKind], what: fn()) {
    let Some((kind, rest)) = kinds.split_first() else { return what() };
    thread::scope(|scope| {
        let builder = thread::Builder::new().name(format!("a-{}", kind.name()));
        let body = || {
            enter(*kind, "web-1");
            descend(rest, what);
        };
        builder.spawn_scoped(scope, body).expect("a thread").join().expect("it does not panic");
    });
}

/// What the processes do that the tests start; nothing in a run of all tests.
#[test]
fn process() {
    let Ok(wanted) = std::env::var(VARIABLE) else { return };
    let [mode, kind, what] = wanted.split(' ').collect::<Vec<_>>()[..] else {
        panic!("three words: {wanted}")
    };
    let what = if what == "libraries" { do_what_libraries_do } else { do_what_is_forbidden };
    let kind = ThreadKind::ALL.into_iter().find(|known| known.name() == kind).expect("a kind");
    last_words::install(Frame { before: b"", after: b"" }).expect("installed");
    prepare(mode.parse().expect("a mode")).expect("this kernel filters");
    confine_main_thread().expect("confined");
    descend(&line_of(kind), what);
}

fn run(mode: Mode, kind: ThreadKind, what: &str) -> Output {
    let program = std::env::current_exe().expect("this one");
    let mut command = Command::new(program);
    command.args(["--exact", "process", "--nocapture", "--test-threads=1"]);
    command.env(VARIABLE, format!("{mode} {} {what}", kind.name())).stdin(Stdio::null());
    // A backtrace is taken of the panic that a test makes; it comes to less, and nothing ends of it.
    command.env("RUST_BACKTRACE", "1");
    command.output().expect("it starts")
}

#[test]
fn each_kind_of_thread_is_trapped_and_says_so() {
    for kind in ThreadKind::ALL {
        let output = run(Mode::Trap, kind, "forbidden");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{kind:?}: {said}");
        let who = match kind {
            ThreadKind::Main => "the main thread".to_owned(),
            kind => format!("the {0} thread a-{0} of web-1 made the system call ", kind.name()),
        };
        assert!(
            said.contains(&who)
                && said.contains("made the system call chdir (80), which its filter does not allow"),
            "{kind:?}: {said}"
        );
    }
}

#[test]
fn no_kind_of_thread_is_trapped_in_what_libraries_do() {
    for kind in ThreadKind::ALL {
        let output = run(Mode::Trap, kind, "libraries");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("went on"), "{kind:?}: {said}");
        let refused = said.contains("a file: Some(PermissionDenied)");
        let opens_files = allowed(kind).calls().any(|(number, _)| number == libc::SYS_openat);
        assert!(refused != opens_files, "{kind:?}: {said}");
    }
}

#[test]
fn other_modes_let_the_call_happen() {
    for mode in [Mode::Log, Mode::Off] {
        let output = run(mode, ThreadKind::Vcpu, "forbidden");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("went on: Ok(())"), "{mode}: {said}");
    }
}
