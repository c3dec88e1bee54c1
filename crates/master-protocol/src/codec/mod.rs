//! From bytes to messages and back, without I/O.
//!
//! [`FrameDecoder`] cuts what arrives into frames; [`decode_worker_message`] and [`decode_master_message`] read one
//! frame; [`encode_frame`] writes one. Whatever comes in, nothing panics, and memory stays within what arrived.

mod decode;
mod encode;
mod frame;
mod nesting;

pub use decode::{MessageError, decode_master_message, decode_worker_message};
pub use encode::{EncodeError, encode_frame, encode_report};
pub use frame::{FrameDecoder, FrameError, HEADER_BYTES};

#[cfg(test)]
mod tests;
