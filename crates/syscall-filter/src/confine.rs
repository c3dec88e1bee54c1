//! Loads the programs: the main thread's for the process, and every other thread's own at its start.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::thread;

use last_words::introduce;
use seccompiler::{BackendError, BpfProgram, SeccompAction, apply_filter};
use thiserror::Error;

use crate::compile::{compile, without_clone3};
use crate::kind::ThreadKind;
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
    /// A table is none that can be compiled.
    #[error("the table of system calls of {} threads cannot be compiled", kind.name())]
    Compile {
        /// Whose table it is.
        kind: ThreadKind,
        /// Why.
        #[source]
        source: BackendError,
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
}

/// A program for each kind of thread, in the order of [`ThreadKind::ALL`].
type Programs = [BpfProgram; ThreadKind::ALL.len()];

/// The programs of this process, once it is confined. A static, because filters are the process' as well: what is loaded is
/// never taken off.
static PROGRAMS: OnceLock<Programs> = OnceLock::new();

/// Makes the programs for all kinds of threads; from here on threads that [`enter`] are kept to theirs. Called once, before the
/// process starts its first thread. Nothing is done where [`Mode::Off`] is asked for.
///
/// # Errors
/// The kernel cannot filter in this way; nothing is confined then.
pub fn prepare(mode: Mode) -> Result<(), ConfineError> {
    let otherwise = match mode {
        Mode::Off => return Ok(()),
        Mode::Trap => SeccompAction::Trap,
        Mode::Log => SeccompAction::Log,
    };
    if !mode.is_supported() {
        return Err(ConfineError::Unsupported { mode });
    }
    have_processors_counted()?;
    let programs = programs(&otherwise)?;
    // A process that is prepared twice keeps what it has.
    let _ = PROGRAMS.set(programs);
    Ok(())
}

/// Keeps the calling thread, the process' first, to what main threads do, and with it every thread that it starts from here
/// on. Called when all is done that is done once. Does nothing in a process that was not [prepared](prepare).
///
/// # Errors
/// The kernel refused; the thread is not confined.
pub fn confine_main_thread() -> Result<(), ConfineError> {
    let kind = ThreadKind::Main;
    introduce(kind.name(), "");
    let Some(programs) = PROGRAMS.get() else { return Ok(()) };
    let without_clone3 = without_clone3().map_err(|source| ConfineError::Compile { kind, source })?;
    for program in [&without_clone3, &programs[kind as usize]] {
        apply_filter(program).map_err(|source| ConfineError::Load { kind, source })?;
    }
    Ok(())
}

/// Says who the calling thread is, for `vm` or for none in particular, and keeps it to what threads of `kind` do from here
/// on. Does the former alone in a process that was not [prepared](prepare).
///
/// # Panics
/// The kernel does not take the filter, for want of memory: the thread must not go on without.
pub fn enter(kind: ThreadKind, vm: &str) {
    introduce(kind.name(), vm);
    let Some(programs) = PROGRAMS.get() else { return };
    if let Err(error) = apply_filter(&programs[kind as usize]) {
        panic!("the kernel does not take the filter of the {} thread: {error}", kind.name());
    }
}

fn programs(otherwise: &SeccompAction) -> Result<Programs, ConfineError> {
    let mut programs = Programs::default();
    for (program, kind) in programs.iter_mut().zip(ThreadKind::ALL) {
        *program = compile(&allowed(kind), std::process::id(), otherwise.clone())
            .map_err(|source| ConfineError::Compile { kind, source })?;
    }
    Ok(programs)
}

/// The C library counts the host's processors when a second thread allocates for the first time, and opens a file of `/sys`
/// for that, on whichever thread it is. So one does before any is confined.
fn have_processors_counted() -> Result<(), ConfineError> {
    let thread = thread::Builder::new().name("count".to_owned());
    let counting =
        thread.spawn(|| drop(std::hint::black_box(Box::new(0_u64)))).map_err(ConfineError::Thread)?;
    // It does nothing that panics.
    let _ = counting.join();
    Ok(())
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
