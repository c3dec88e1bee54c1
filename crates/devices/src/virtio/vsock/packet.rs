//! Packet headers (virtio 1.2 §5.10.6): 44 little-endian bytes, from and to any values.

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 44;
/// The host's address.
pub(super) const HOST_CID: u64 = 2;
/// The only type of socket that is offered.
const STREAM: u16 = 1;

/// In [`Operation::Shutdown`]: the sender will receive no more.
pub(super) const NO_MORE_RECEIVED: u32 = 1 << 0;
/// In [`Operation::Shutdown`]: the sender will send no more.
pub(super) const NO_MORE_SENT: u32 = 1 << 1;

/// The operation of a packet (§5.10.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Request,
    Response,
    Reset,
    Shutdown,
    Data,
    CreditUpdate,
    CreditRequest,
    /// One that does not exist, or of another type of socket.
    Unknown,
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
    /// Bytes of data that follow.
    pub(super) length: u32,
    pub(super) operation: Operation,
    pub(super) flags: u32,
    /// The size of the sender's receive buffer for this connection (`buf_alloc`).
    pub(super) buffer: u32,
    /// How many received bytes the sender has passed on, modulo 2³² (`fwd_cnt`).
    pub(super) forwarded: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let operation = match (u16::from_le_bytes(field(bytes, 28)), u16::from_le_bytes(field(bytes, 30))) {
            (STREAM, 1) => Operation::Request,
            (STREAM, 2) => Operation::Response,
            (STREAM, 3) => Operation::Reset,
            (STREAM, 4) => Operation::Shutdown,
            (STREAM, 5) => Operation::Data,
            (STREAM, 6) => Operation::CreditUpdate,
            (STREAM, 7) => Operation::CreditRequest,
            _ => Operation::Unknown,
        };
        Self {
            source_cid: u64::from_le_bytes(field(bytes, 0)),
            destination_cid: u64::from_le_bytes(field(bytes, 8)),
            source_port: u32::from_le_bytes(field(bytes, 16)),
            destination_port: u32::from_le_bytes(field(bytes, 20)),
            length: u32::from_le_bytes(field(bytes, 24)),
            operation,
            flags: u32::from_le_bytes(field(bytes, 32)),
            buffer: u32::from_le_bytes(field(bytes, 36)),
            forwarded: u32::from_le_bytes(field(bytes, 40)),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let operation: u16 = match self.operation {
            Operation::Unknown => 0,
            Operation::Request => 1,
            Operation::Response => 2,
            Operation::Reset => 3,
            Operation::Shutdown => 4,
            Operation::Data => 5,
            Operation::CreditUpdate => 6,
            Operation::CreditRequest => 7,
        };
        let fields: [&[u8]; 10] = [
            &self.source_cid.to_le_bytes(),
            &self.destination_cid.to_le_bytes(),
            &self.source_port.to_le_bytes(),
            &self.destination_port.to_le_bytes(),
            &self.length.to_le_bytes(),
            &STREAM.to_le_bytes(),
            &operation.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buffer.to_le_bytes(),
            &self.forwarded.to_le_bytes(),
        ];
        let mut bytes = [0; HEADER_BYTES];
        for (place, byte) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
        bytes
    }
}

/// The bytes of a field; those past the end of the header are zero.
fn field<const LENGTH: usize>(bytes: &[u8; HEADER_BYTES], offset: usize) -> [u8; LENGTH] {
    let mut field = [0; LENGTH];
    for (place, byte) in field.iter_mut().zip(bytes.iter().skip(offset)) {
        *place = *byte;
    }
    field
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let mut bytes = [0; HEADER_BYTES];
        for (place, value) in bytes.iter_mut().zip(1_u8..) {
            *place = value;
        }
        bytes[28..32].copy_from_slice(&[1, 0, 5, 0]);
        let header = Header::parse(&bytes);
        assert_eq!(header.source_cid, 0x0807_0605_0403_0201);
        assert_eq!((header.source_port, header.destination_port), (0x1413_1211, 0x1817_1615));
        assert_eq!((header.length, header.operation), (0x1c1b_1a19, Operation::Data));
        assert_eq!((header.flags, header.buffer, header.forwarded), (0x2423_2221, 0x2827_2625, 0x2c2b_2a29));
        bytes[28] = 2;
        assert_eq!(Header::parse(&bytes).operation, Operation::Unknown);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_and_known_ones_survive(bytes: [u8; HEADER_BYTES]) {
            let header = Header::parse(&bytes);
            if header.operation != Operation::Unknown {
                prop_assert_eq!(header.to_bytes(), bytes);
            }
            prop_assert_eq!(Header::parse(&Header { operation: Operation::Reset, ..header }.to_bytes()).buffer, header.buffer);
        }
    }
}
