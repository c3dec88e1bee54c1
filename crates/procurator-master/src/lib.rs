//! The reference master: a directory says what should run on which worker, workers are told, and what they report is
//! shown.
//!
//! ```text
//!  DESIRED/<worker>.json ──look──→ desired ─┐                        ┌─→ directory ──→ listener ⇄ workers
//!                                           ├─→ serve: one task owns ┤
//!  workers, ls, drain ──control socket──────┤   state and fleet      ├─→ state file (before anybody is told)
//!                                           │                        │
//!  listener ──news of workers───────────────┘                        └─→ answers
//! ```
//!
//! What is not here: choosing a worker for a VM, moving VMs, several masters. `docs/master.md` says what that means.

#![forbid(unsafe_code)]

pub mod certificates;
pub mod control;
pub mod desired;
pub mod fleet;
pub mod render;
pub mod serve;
pub mod state;
