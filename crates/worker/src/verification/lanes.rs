//! How many store paths of one file system are hashed at the same time.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::supervisor::GivenUp;

/// How often whoever waits looks whether it still has to.
const LOOK: Duration = Duration::from_millis(50);

/// A file system: the number of its device.
pub(super) type FileSystem = (u32, u32);

/// The lanes of all file systems.
#[derive(Debug)]
pub(super) struct Lanes {
    width: usize,
    /// Hashings per file system; those without any are absent. Held for moments.
    busy: Mutex<BTreeMap<FileSystem, usize>>,
    freed: Condvar,
}

/// The right to hash one path; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    lanes: Arc<Lanes>,
    file_system: FileSystem,
}

impl Lanes {
    /// Lanes of `width` slots each.
    pub(super) fn new(width: NonZeroUsize) -> Arc<Self> {
        Arc::new(Self { width: width.get(), busy: Mutex::default(), freed: Condvar::new() })
    }

    /// Waits for a slot of `file_system`; `None` where that was given up.
    pub(super) fn take(self: &Arc<Self>, file_system: FileSystem, given_up: &GivenUp) -> Option<Slot> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while !given_up.is_set() {
            let taken = busy.entry(file_system).or_default();
            if *taken < self.width {
                *taken += 1;
                return Some(Slot { lanes: Arc::clone(self), file_system });
            }
            busy = self.freed.wait_timeout(busy, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut busy = self.lanes.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = busy.get_mut(&self.file_system) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                busy.remove(&self.file_system);
            }
        }
        drop(busy);
        self.lanes.freed.notify_all();
    }
}
