//! The machine code that all guests share, and the parameters that make one of it.
//!
//! The code itself is in the `assembly` directory. It lies in this program as data and is only ever copied.

#![expect(unsafe_code, reason = "assembly, and the symbols that bound it, are foreign to the language")]

use std::arch::global_asm;
use std::net::Ipv4Addr;

use crate::ENTRY_ADDRESS;

global_asm!(
    include_str!("assembly/image.s"),
    include_str!("assembly/serial.s"),
    include_str!("assembly/power.s"),
    include_str!("assembly/boot.s"),
    include_str!("assembly/pci.s"),
    include_str!("assembly/virtio.s"),
    include_str!("assembly/block.s"),
    include_str!("assembly/churn.s"),
    include_str!("assembly/entropy.s"),
    include_str!("assembly/balloon.s"),
    include_str!("assembly/net.s"),
    include_str!("assembly/network_host.s"),
    include_str!("assembly/processors.s"),
    include_str!("assembly/lives.s"),
    include_str!("assembly/script.s"),
    include_str!("assembly/end.s"),
    options(raw, att_syntax)
);

unsafe extern "C" {
    static tiny_guest_image: u8;
    static tiny_guest_parameters: u8;
    static tiny_guest_image_end: u8;
}

/// What the host tells a guest, in the order of the parameter block.
pub(crate) struct Parameters<'guest> {
    /// Index into the image's table of guests.
    pub(crate) guest: u32,
    /// A text without a zero byte; any length.
    pub(crate) message: &'guest [u8],
    /// How often, or how many.
    pub(crate) count: u32,
    /// A guest-physical address.
    pub(crate) address: u32,
    /// An IPv4 address, or 0.0.0.0 for none.
    pub(crate) network: Ipv4Addr,
}

/// The image with its parameters filled in, to be loaded and entered at [`ENTRY_ADDRESS`].
pub(crate) fn with_parameters(parameters: &Parameters<'_>) -> Vec<u8> {
    let mut image = code().to_vec();
    let message_address = ENTRY_ADDRESS + u32::try_from(image.len()).expect("the code is a few kilobytes");
    image.extend_from_slice(parameters.message);
    image.push(0);
    let network = u32::from_le_bytes(parameters.network.octets());
    let words = [parameters.guest, message_address, parameters.count, parameters.address, network];
    for (index, word) in words.into_iter().enumerate() {
        let offset = parameters_offset() + index * size_of::<u32>();
        image[offset..offset + size_of::<u32>()].copy_from_slice(&word.to_le_bytes());
    }
    image
}

fn code() -> &'static [u8] {
    let start = &raw const tiny_guest_image;
    // SAFETY: both symbols bound one contiguous piece of read-only data of this program, which the assembly above
    // defines in this order; it lives as long as the program and is never written.
    unsafe { std::slice::from_raw_parts(start, distance(&raw const tiny_guest_image_end)) }
}

fn parameters_offset() -> usize {
    distance(&raw const tiny_guest_parameters)
}

/// How far a symbol is from the image's start.
fn distance(symbol: *const u8) -> usize {
    symbol.addr() - (&raw const tiny_guest_image).addr()
}
