//! Which system calls each kind of thread of a host process may make, and what keeps it to them.
//!
//! ```text
//!   tables ── pure data: a table a kind of thread ──▶ allowed ── compile ──▶ a program for the kernel, once a process
//!                                                       │
//!   prepare ───────────── once a process, before its first thread: all programs are made
//!   confine_main_thread ─ the main thread, before it starts one that a guest has to do with: its own program is loaded
//!   enter ─────────────── every other thread, at its start: who it is, which signals it takes, and its own program
//!   narrow ────────────── the thread of a machine, once its guest runs: what built the machine is over
//! ```
//!
//! # Threads begin with the filters of whoever starts them
//! Filters only ever narrow. So a thread that starts others may do what they may: its table is its own calls and, by
//! construction ([`allowed`]), those of every kind that it [starts](ThreadKind::starts) or becomes. What builds a machine starts
//! vCPUs and disks and may do what they may; before it serves a device it gives that up. A machine that is rebuilt in place, as
//! its guest reset, therefore gets another thread, from one that no guest reaches (the reaper).
//!
//! Threads share their memory, and whoever controls one entirely can have another act for him. What bounds such an attacker
//! is the widest filter of the process, the main thread's, which lies on every thread; what the narrow ones add is that a
//! single bug on a guest's path (a vCPU, an event loop, a disk) does not reach the rest by itself.
//!
//! # What a refused call does
//! With [`Mode::Trap`] the kernel raises `SIGSYS` in place of the call; `last_words` says which thread made which call, and
//! the process ends, and with it every VM in it. With [`Mode::Log`] the call is made, and the kernel's audit log names it.
//!
//! Nothing here knows what a machine is. Where [`prepare`] was not called, [`enter`] loads nothing: machines on
//! threads of a worker, and tests.

mod call;
mod compile;
mod confine;
mod kind;
mod requests;
mod signals;
mod support;
mod table;
mod tables;

pub use call::{Arguments, Call, Value};
pub use confine::{
    ConfineError, Mode, ParseModeError, confine_main_thread, enter, mode_in_force, narrow, prepare,
};
pub use kind::ThreadKind;
pub use table::{Condition, Table, Verdict, allowed};
pub use tables::{Scope, entries};
