//! Who a thread is, kept where a handler of signals may read it.

use std::cell::Cell;
use std::thread;

/// Bytes of a name that are kept: more than the id of a VM has.
const NAME_BYTES: usize = 64;

thread_local! {
    /// Constant at first and never dropped: reading it allocates nothing, also in a handler of signals.
    static SPEAKER: Cell<Speaker> = const { Cell::new(Speaker::UNKNOWN) };
}

/// A thread, as it is told of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speaker {
    /// What it is for.
    pub(crate) kind: &'static str,
    pub(crate) thread: Name,
    /// The VM for which it is; empty where it is for none, or for several.
    pub(crate) vm: Name,
}

/// A short text in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    bytes: [u8; NAME_BYTES],
    length: usize,
}

impl Speaker {
    const UNKNOWN: Self = Self { kind: "", thread: Name::EMPTY, vm: Name::EMPTY };

    /// The calling thread. Safe in a handler of signals.
    pub(crate) fn of_this_thread() -> Self {
        // A thread that is ending may have none any more.
        SPEAKER.try_with(Cell::get).unwrap_or(Self::UNKNOWN)
    }
}

impl Name {
    const EMPTY: Self = Self { bytes: [0; NAME_BYTES], length: 0 };

    fn new(text: &str) -> Self {
        let mut name = Self::EMPTY;
        name.length = text.len().min(NAME_BYTES);
        name.bytes[..name.length].copy_from_slice(&text.as_bytes()[..name.length]);
        name
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Says what the calling thread is for, and for which VM; an empty `vm` is none or several.
pub fn introduce(kind: &'static str, vm: &str) {
    let current = thread::current();
    let thread = Name::new(current.name().unwrap_or_default());
    SPEAKER.set(Speaker { kind, thread, vm: Name::new(vm) });
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) fn speaker(kind: &'static str, thread: &str, vm: &str) -> Speaker {
        Speaker { kind, thread: Name::new(thread), vm: Name::new(vm) }
    }
}
