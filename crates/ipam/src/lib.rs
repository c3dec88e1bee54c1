//! Pure allocation of IPv4 addresses and hardware addresses to the network interfaces of virtual machines.
//!
//! Owns who holds which address of one subnet, and the rules for giving one out. It does no I/O and reads no
//! clock: whoever keeps the leases on disk writes [`Pool::export`]'s value, and whoever answers DHCP or builds
//! links is told a [`Lease`].
//!
//! ```
//! use ipam::{Pool, Wish};
//! use vm_model::VmId;
//!
//! let mut pool = Pool::new("10.100.0.0/16".parse()?)?;
//! let vm = VmId::new("web-1");
//! let lease = pool.allocate(&vm, "net0", Wish::default())?;
//! assert_eq!(lease.address.to_string(), "10.100.0.2");
//! assert_eq!(lease.mac.to_string(), "02:50:0a:64:00:02");
//!
//! // Asking again changes nothing.
//! assert_eq!(pool.allocate(&vm, "net0", Wish::default())?, lease);
//!
//! let book = pool.export();
//! pool.release(&vm);
//! assert_eq!(Pool::new("10.100.0.0/16".parse()?)?.import(&book)?.leases().next(), Some(lease));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod book;
mod change;
mod error;
mod free;
mod lease;
mod pool;
mod range;
mod subnet;
mod whole_vm;

pub use book::{LEASE_BOOK_VERSION, LeaseBook};
pub use change::PoolChange;
pub use error::{AllocationError, ImportError, PoolError, Wished};
pub use lease::{Interface, Lease, Wish};
pub use pool::Pool;
pub use range::{AddressRange, InvalidAddressRange};
pub use subnet::ReservedAddress;
