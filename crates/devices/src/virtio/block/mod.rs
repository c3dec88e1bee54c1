//! The block device (virtio 1.2 §5.2) on a file or block device of the host's, raw or a qcow2 image.
//!
//! ```text
//! queue ──Chain──→ request (checked) ──→ service ──Transfer──→ engine ──→ file
//!   ↑                                       │  ↑                  │
//!   └────────── status, used ring ──────────┘  └─── Finished ─────┘
//! ```
//!
//! Nothing here waits for transfers except [`VirtioDevice::drain`](super::VirtioDevice::drain), until its deadline: a
//! reset forgets them, and is over when they have ended. A file that was truncated underneath gives the guest I/O
//! errors past the lowest end that it had. What the host cannot carry out is kept (`kept`). Who may open which file is the callers' business.

mod counters;
mod device;
mod disk;
mod engine;
mod file_end;
mod kept;
mod lanes;
mod qcow2;
mod request;
mod service;
mod shape;
mod slots;
mod trouble;

pub use self::counters::{BlockCounters, BlockCounts};
pub use self::device::{BlockDevice, BlockDeviceConfig};
pub use self::disk::{DiskError, DiskSerial};
pub use self::engine::{EngineChoice, EngineKind};
