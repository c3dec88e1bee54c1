//! Losing the outer host: how, and when that is worth a second try.
//!
//! QEMU's emulation of virtualisation is not sound (see `virtualisation.rs`); what is known of that is avoided, and a host
//! that is lost all the same says nothing about what ran on it. So a second try is made and announced. What is announced
//! often is worth a look at the host's kernel log and QEMU's monitor.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use anyhow::Result;

/// How an outer host was lost before its script's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostLost {
    /// QEMU has ended.
    Died,
    /// It gives no sign of life any more.
    Hangs,
    /// It took longer than it may.
    OutOfTime(Duration),
}

impl HostLost {
    /// Whether no verdict on what ran follows from it.
    fn deserves_another_try(self) -> bool {
        match self {
            Self::Died | Self::Hangs => true,
            Self::OutOfTime(_) => false,
        }
    }
}

impl fmt::Display for HostLost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died => formatter.write_str("the outer host ended before its script did"),
            Self::Hangs => formatter.write_str("the outer host hangs: its heart stopped beating"),
            Self::OutOfTime(deadline) => write!(formatter, "the outer host was ended after {deadline:?}"),
        }
    }
}

impl Error for HostLost {}

/// Repeats an attempt that lost its host, once, and says so.
pub(crate) fn with_second_try<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    match attempt() {
        Err(error) if error.downcast_ref().is_some_and(|loss: &HostLost| loss.deserves_another_try()) => {
            println!("{error:#}\nThat is no verdict on what ran: starting over, once");
            attempt()
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, bail};

    use super::*;

    #[test]
    fn a_lost_host_is_tried_again_once() {
        let mut tries = 0;
        let outcome: Result<()> = with_second_try(|| {
            tries += 1;
            Err(HostLost::Hangs).context("more is in a log")
        });
        assert_eq!((outcome.is_err(), tries), (true, 2));
    }

    #[test]
    fn a_failure_of_what_ran_stands() {
        let mut tries = 0;
        let outcome: Result<()> = with_second_try(|| {
            tries += 1;
            bail!("a test failed")
        });
        assert_eq!((outcome.is_err(), tries), (true, 1));
        let late = HostLost::OutOfTime(Duration::from_secs(1));
        assert!(!late.deserves_another_try());
    }
}
