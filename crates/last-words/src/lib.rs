//! What a process says when a signal ends it: which of its threads did what, to whoever listens at a socket.
//!
//! ```text
//!   install ── once, before threads ──▶ handlers of the signals that a fault raises
//!   listen ─── a socket each ─────────▶ where the words go
//!   introduce ─ a thread each ────────▶ who speaks
//!                         a fault ──▶ handler: compose the words, write them to every listener, die of the signal
//! ```
//!
//! These ends cannot be contained: a call that the thread's filter forbids (`SIGSYS`), memory that is gone or broken
//! (`SIGBUS`), a stack that overflowed (`SIGSEGV`), an allocation that failed (`SIGABRT`). The process dies of the signal all
//! the same; what it adds is the reason. One that is the first of its PID namespace dies of no signal of its own: it exits with
//! a code that [stands for it](signal_behind).
//!
//! The handler runs on the thread that failed, wherever that was. It takes no lock, allocates nothing, and makes few
//! system calls: `write` (at once or not at all: sockets that are listened at do not wait), `tgkill` on itself and the
//! return from the handler, or `exit_group`. Filters allow these to every thread.
//!
//! There is one installation a process, because handlers are the process'. What is said is plain text in which nothing has to
//! be escaped in JSON; the frame around it is the caller's.

mod calls;
mod handler;
mod listeners;
mod speaker;
mod words;

pub use calls::call_name;
pub use handler::{Frame, SIGNALS, install, signal_behind};
pub use listeners::{LISTENERS_MAX, Listener, listen};
pub use speaker::introduce;
