//! Shapes of foreign types, for documents that describe ours.

use utoipa::ToSchema;

/// A length of time.
#[derive(ToSchema)]
#[schema(as = Duration)]
#[expect(dead_code, reason = "describes how `std::time::Duration` is written; no value of it is made")]
pub(crate) struct DurationParts {
    /// Whole seconds.
    secs: u64,
    /// What is left, in nanoseconds.
    nanos: u32,
}
