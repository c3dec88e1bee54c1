//! Bytes as a source of decisions: a body draws numbers and pieces until they run out. Past their end everything is
//! zero, so that a shorter input is a simpler one.

/// What is left of an input.
pub(crate) struct Input<'bytes>(&'bytes [u8]);

impl<'bytes> Input<'bytes> {
    pub(crate) fn new(bytes: &'bytes [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `length` bytes, fewer at the end.
    pub(crate) fn piece(&mut self, length: usize) -> &'bytes [u8] {
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        piece
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'bytes [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let piece = self.piece(N);
        let mut array = [0; N];
        array[..piece.len()].copy_from_slice(piece);
        array
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn double_word(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn quad_word(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// A number below `end`, which is at most 65,536 and not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        if end <= 256 { usize::from(self.byte()) % end } else { usize::from(self.word()) % end }
    }

    /// A byte count as guests use them: mostly small, at times absurd.
    pub(crate) fn length(&mut self) -> u32 {
        match self.below(8) {
            0 => self.double_word(),
            1 => 0,
            2 => 512 * u32::from(self.byte()),
            3 => u32::MAX - u32::from(self.byte()),
            _ => u32::from(self.word()),
        }
    }

    /// A width of an access: mostly what processors do, sometimes up to nine bytes.
    pub(crate) fn width(&mut self) -> usize {
        match self.below(6) {
            0 => self.below(10),
            choice => 1 << (choice - 1).min(3),
        }
    }
}
