//! What the systemd of a guest reports by itself (`sd_notify(3)`, over a stream of the socket device): the messages, what
//! they amount to, and the socket on which they arrive.

mod listener;
mod message;
mod report;

pub use listener::{NotifyError, NotifyListener};
pub use message::{MESSAGE_BYTES_MAX, NotifyMessage};

pub(crate) use report::{absorb, finding};
