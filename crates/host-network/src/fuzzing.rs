//! A door for fuzzers: what the DHCP server makes of a packet before it is a message.

/// The message in `packet`, if it is one for a DHCP server.
#[must_use]
pub fn dhcp_payload(packet: &[u8]) -> Option<&[u8]> {
    crate::dhcp::payload_of(packet)
}
