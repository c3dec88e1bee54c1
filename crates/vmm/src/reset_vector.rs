//! The processor's reset vector, as much of a firmware as a machine without one needs.
//!
//! On a hardware-reduced machine Linux takes EFI's reset for the only proper one, and where there is no EFI it goes
//! straight to the oldest way of all: back to real mode and a jump to 0xFFFF:0 (`arch/x86/kernel/reboot.c`). What
//! waits there asks for the same reset that the ACPI tables offer.

use crate::acpi::RESET_VALUE;
use crate::layout;

/// Guest-physical address and 16-bit code: write the reset value to the sleep register's port, then halt for good.
pub(crate) fn build() -> (u64, Vec<u8>) {
    let port = u16::try_from(layout::SLEEP_PORTS.start).expect("a port number has 16 bits");
    let [low, high] = port.to_le_bytes();
    let code = vec![
        0xba,
        low,
        high, // mov dx, port
        0xb0,
        RESET_VALUE, // mov al, value
        0xee,        // out dx, al
        0xf4,        // hlt
        0xeb,
        0xfd, // jmp to the hlt
    ];
    (layout::RESET_VECTOR, code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_below_one_mebibyte_and_past_the_tables() {
        let (address, code) = build();
        assert_eq!(address, 0xf_fff0);
        assert!(address + code.len() as u64 <= layout::HIGH_MEMORY);
        assert!(layout::SMBIOS.end <= address);
        assert_eq!(code[..6], [0xba, 0x00, 0x06, 0xb0, 0x01, 0xee]);
    }
}
