//! Virtio 1.2: queues, the contract of a device, and the devices themselves.

mod configuration;
mod device;

pub use device::{ActivateError, Activation, DeviceEvent, VirtioDevice, VirtioDeviceType};
pub use queue_size::{QueueSize, QueueSizeError};
pub use rate_limiter::RateLimits;
pub use token_bucket::{BucketLimits, BucketLimitsError};
pub mod balloon;
pub mod block;
pub mod console;
pub mod net;
pub mod pci;
pub mod queue;
mod queue_size;
mod rate_limiter;
pub mod rng;
mod token_bucket;
mod vectors;
pub mod vsock;
mod work_left;
