//! Commands of a guest to the process that runs it.
//!
//! There is no other way to the thread of a vCPU: what it runs is the guest, and whatever tests call runs elsewhere. A
//! debugger can send it to another instruction, but changes what is tried: who is traced cannot be traced, and filters and
//! signals meet the tracer first. So a program for tests registers a function, a guest writes a number to a port at which no
//! machine has a device, and the function runs where the exit is handled.
//!
//! Nobody can register anything in a build that does not ask for `armed`: the function for it is not there, and
//! [`written`] is empty. A program that registers nothing does nothing either way.

#[cfg(feature = "armed")]
use std::sync::OnceLock;

/// The port at which guests command; no machine has a device there.
pub const COMMAND_PORT: u16 = 0x0e0d;

/// What is to be done, once somebody registered it. A static, because threads of vCPUs are handed nothing by programs.
#[cfg(feature = "armed")]
static ACT: OnceLock<fn(u8)> = OnceLock::new();

/// Has `act` called on the thread of every vCPU whose guest writes a byte to [`COMMAND_PORT`], with that byte. The first
/// call of a process counts.
#[cfg(feature = "armed")]
pub fn on_command(act: fn(u8)) {
    let _ = ACT.set(act);
}

/// A guest wrote `data` to `port`. Called on the thread of its vCPU.
#[inline]
pub fn written(port: u16, data: &[u8]) {
    #[cfg(feature = "armed")]
    if let (COMMAND_PORT, [command], Some(act)) = (port, data, ACT.get()) {
        act(*command);
    }
    #[cfg(not(feature = "armed"))]
    let _ = (port, data);
}
