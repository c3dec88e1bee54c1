//! A memory base address register, as the function that has it decodes it (PCI 3.0 §6.2.5.1).

/// Where a function's memory BAR lies and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The first address.
    pub base: u64,
    /// Bytes, a power of two.
    pub size: u64,
}

impl Bar {
    /// The offset of `address`, if the BAR contains `length` bytes from there on.
    #[must_use]
    pub fn offset_of(&self, address: u64, length: usize) -> Option<u64> {
        let offset = address.checked_sub(self.base)?;
        let end = offset.checked_add(length as u64)?;
        (end <= self.size).then_some(offset)
    }

    /// Whether any address belongs to both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        // In 128 bits: the guest may place a BAR at the very top.
        let end = |bar: &Self| u128::from(bar.base) + u128::from(bar.size);
        u128::from(self.base) < end(other) && u128::from(other.base) < end(self)
    }

    /// Whether the whole of it lies in `window`.
    #[must_use]
    pub fn lies_in(&self, window: &std::ops::Range<u64>) -> bool {
        self.base >= window.start && self.base.checked_add(self.size).is_some_and(|end| end <= window.end)
    }
}
