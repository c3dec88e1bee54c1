//! Reading a device's configuration space (virtio 1.2 §2.5).

/// Fills `data` from `space` at `offset`; zeros past its end.
pub(crate) fn read_configuration(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let rest = space.get(start..).unwrap_or(&[]);
    for (byte, field) in data.iter_mut().zip(rest) {
        *byte = *field;
    }
}
