//! Waiting for what will be: by asking again, with a deadline. Deadlines suit an emulated processor.

use std::error::Error;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// For a guest to boot and answer, beside others that boot.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(150);
/// For a guest with systemd and all of a distribution to boot and be ready.
pub const STOCK_BOOT_DEADLINE: Duration = Duration::from_secs(900);
/// For everything that needs no boot.
pub const SHORT_DEADLINE: Duration = Duration::from_secs(45);

/// An answer after which waiting is of no use, with the reason.
#[derive(Debug)]
pub struct Never(pub String);

impl fmt::Display for Never {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for Never {}

/// Asks until the answer is a value. An answer that is an error says what is missing yet, or that it will [`Never`] be.
///
/// # Errors
/// The deadline passed, or there is no hope; the error says what was awaited and the last answer.
pub fn until<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    const PAUSE: Duration = Duration::from_millis(200);
    let end = Instant::now() + deadline;
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(end) if end.is::<Never>() => return Err(end.context(what.to_owned())),
            Err(missing) if Instant::now() >= end => {
                return Err(anyhow!("{what}: not within {deadline:?}; at last: {missing:#}"));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn the_first_value_ends_the_wait() {
        let mut asked = 0;
        let answer = until("a third answer", SHORT_DEADLINE, || {
            asked += 1;
            if asked < 3 {
                bail!("asked {asked} times");
            }
            Ok(asked)
        });
        assert_eq!(answer.expect("it comes"), 3);
    }

    #[test]
    fn no_hope_ends_the_wait_at_once() {
        let mut asked = 0;
        let error = until::<()>("the lost", SHORT_DEADLINE, || {
            asked += 1;
            Err(Never("it is gone".into()).into())
        })
        .expect_err("it never comes");
        assert_eq!((format!("{error:#}").as_str(), asked), ("the lost: it is gone", 1));
    }

    #[test]
    fn the_deadline_says_what_is_missing() {
        let error = until::<()>("the impossible", Duration::ZERO, || bail!("it is not there"))
            .expect_err("it never comes");
        assert_eq!(error.to_string(), "the impossible: not within 0ns; at last: it is not there");
    }
}
