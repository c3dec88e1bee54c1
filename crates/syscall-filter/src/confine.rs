//! Loads the programs: the main thread's for the process, and every other thread's own at its start.

use std::fmt;
use std::hash::RandomState;
use std::str::FromStr;
use std::sync::OnceLock;
use std::thread;

use last_words::introduce;
use seccompiler::{BpfProgram, apply_filter};
use thiserror::Error;

use crate::compile::compile;
use crate::kind::ThreadKind;
use crate::signals::leave_to_first_thread;
use crate::table::allowed;

/// What becomes of a call that a thread may not make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The process ends, and says which thread made which call.
    #[default]
    Trap,
    /// It is made, and the kernel's audit log names it: for trying filters on.
    Log,
    /// Nothing is filtered.
    Off,
}

/// A word is no mode.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{word:?} is not \"trap\", \"log\" or \"off\"")]
pub struct ParseModeError {
    word: String,
}

/// Why a process is not confined.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// The kernel filters no system calls, or not in this way.
    #[error("this kernel cannot filter system calls with seccomp = \"{mode}\"")]
    Unsupported {
        /// What was asked for.
        mode: Mode,
    },
    /// The kernel refused.
    #[error("the kernel does not take the filter of the {} thread", kind.name())]
    Load {
        /// Which thread's.
        kind: ThreadKind,
        /// Why.
        #[source]
        source: seccompiler::Error,
    },
    /// There is no thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The C library has not done what it does once.
    #[error("the thread that prepares the C library panicked")]
    Unready,
}

/// A program for each kind of thread, in the order of [`ThreadKind::ALL`].
type Programs = [BpfProgram; ThreadKind::ALL.len()];

/// The programs of this process, once it is confined. A static, because filters are the process' as well: what is loaded is
/// never taken off.
static PROGRAMS: OnceLock<(Mode, Programs)> = OnceLock::new();

/// Makes the programs for all kinds of threads; from here on threads that [`enter`] are kept to theirs. Called once, before the
/// process starts its first thread. Nothing is done where [`Mode::Off`] is asked for.
///
/// # Errors
/// The kernel cannot filter in this way; nothing is confined then.
pub fn prepare(mode: Mode) -> Result<(), ConfineError> {
    let otherwise = match mode {
        Mode::Off => return Ok(()),
        Mode::Trap => libc::SECCOMP_RET_TRAP,
        Mode::Log => libc::SECCOMP_RET_LOG,
    };
    if !mode.is_supported() {
        return Err(ConfineError::Unsupported { mode });
    }
    have_questions_asked()?;
    // A process that is prepared twice keeps what it has.
    let pid = std::process::id();
    // The kind is in what the answer carries along (`SECCOMP_RET_DATA`), where whoever traces the process reads it.
    let programs = ThreadKind::ALL.map(|kind| compile(&allowed(kind), pid, otherwise | kind as u32));
    let _ = PROGRAMS.set((mode, programs));
    Ok(())
}

/// What becomes of calls that this process' threads may not make: what it was [prepared](prepare) for.
#[must_use]
pub fn mode_in_force() -> Mode {
    PROGRAMS.get().map_or(Mode::Off, |(mode, _)| *mode)
}

/// Keeps the calling thread, the process' first, to what main threads do, and with it every thread that it starts from here
/// on. Called when all is done that is done once. Does nothing in a process that was not [prepared](prepare).
///
/// # Errors
/// The kernel refused; the thread is not confined.
pub fn confine_main_thread() -> Result<(), ConfineError> {
    let kind = ThreadKind::Main;
    introduce(kind.name(), "");
    let Some((_, programs)) = PROGRAMS.get() else { return Ok(()) };
    apply_filter(&programs[kind as usize]).map_err(|source| ConfineError::Load { kind, source })
}

/// Says who the calling thread is, for `vm` or for none in particular, has signals to the process go to other threads, and
/// keeps this one to what threads of `kind` do from here on. Does all but the last in a process that was not
/// [prepared](prepare).
///
/// # Panics
/// The kernel does not take the filter, for want of memory: the thread must not go on without.
pub fn enter(kind: ThreadKind, vm: &str) {
    leave_to_first_thread();
    // A thread draws random numbers once, for all the maps that it will have: afterwards it asks the kernel for none.
    let _drawn = RandomState::new();
    narrow(kind, vm);
}

/// Keeps the calling thread, which [entered](enter) as another kind, to what threads of `kind` do from here on. What it has
/// been kept to until now it is kept to as well.
///
/// # Panics
/// As of [`enter`].
pub fn narrow(kind: ThreadKind, vm: &str) {
    introduce(kind.name(), vm);
    let Some((_, programs)) = PROGRAMS.get() else { return };
    if let Err(error) = apply_filter(&programs[kind as usize]) {
        panic!("the kernel does not take the filter of the {} thread: {error}", kind.name());
    }
}

/// Has the C library do what it does once, on whichever thread comes first to need it, and opens files for: it counts the
/// host's processors when a second thread allocates, and asks how the host overcommits memory when a thread's heap first
/// shrinks.
fn have_questions_asked() -> Result<(), ConfineError> {
    let thread = thread::Builder::new().name("count".to_owned());
    thread.spawn(grow_and_shrink).map_err(ConfineError::Thread)?.join().map_err(|_| ConfineError::Unready)
}

/// Takes so much from the heap of this thread that it is given back to the host afterwards: more than 128 KiB (mallopt(3),
/// `M_TRIM_THRESHOLD`), in blocks that are not mapped by themselves (`M_MMAP_THRESHOLD`).
fn grow_and_shrink() {
    const BLOCK: usize = 64 << 10;
    const BLOCKS: usize = 16;
    let blocks: Vec<Box<[u8]>> = (0..BLOCKS).map(|_| vec![0; BLOCK].into_boxed_slice()).collect();
    drop(std::hint::black_box(blocks));
}

impl Mode {
    /// The word for it in settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Log => "log",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = ParseModeError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let all = [Self::Trap, Self::Log, Self::Off];
        all.into_iter()
            .find(|mode| mode.as_str() == word)
            .ok_or_else(|| ParseModeError { word: word.to_owned() })
    }
}
