//! What a guest asks of its machine as a whole: to be switched off or reset.

use vm_model::ResetSource;

/// Where a guest's requests go.
///
/// Called on a vCPU thread in the middle of the guest's register write: an implementation notes the request,
/// wakes whoever acts on it, and returns. A guest may ask any number of times.
pub trait PowerRequests: Send + Sync {
    /// The guest entered ACPI S5.
    fn power_off(&self);

    /// The guest asked for a reset.
    fn reset(&self, source: ResetSource);
}

#[cfg(test)]
pub(crate) mod testing {
    //! Power requests written down.

    use std::sync::{Mutex, PoisonError};

    use vm_model::ResetSource;

    use super::PowerRequests;

    /// What a guest asked for: `None` is power off.
    #[derive(Default)]
    pub(crate) struct RecordedRequests(Mutex<Vec<Option<ResetSource>>>);

    impl RecordedRequests {
        pub(crate) fn take(&self) -> Vec<Option<ResetSource>> {
            std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }

        fn push(&self, request: Option<ResetSource>) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        }
    }

    impl PowerRequests for RecordedRequests {
        fn power_off(&self) {
            self.push(None);
        }

        fn reset(&self, source: ResetSource) {
            self.push(Some(source));
        }
    }
}
