//! What a process is told of its jail: one word of its command line.
//!
//! `pid-namespace,user=1879048192,descriptors=3072,threads=1536,locked=33554432`, in any order and each at most once. What is
//! not named is left as it is.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The part that is no number.
const PID_NAMESPACE: &str = "pid-namespace";

/// What a process is told of its jail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JailOrder {
    /// Whether it goes on in another process, which has process numbers of its own: whoever started it hears which.
    pub pid_namespace: bool,
    /// The user and the group that it becomes, where it gets one of its own.
    pub user: Option<u32>,
    /// How many descriptors it may have open.
    pub descriptors: Option<u64>,
    /// How many threads its user may have.
    pub threads: Option<u64>,
    /// How many bytes of memory its user may lock. Recent kernels count the rings of disks (io_uring) as that.
    pub locked: Option<u64>,
}

/// Why a word is no order.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OrderError {
    /// A part is not one of those there are.
    #[error(
        "{part:?} is no part of a jail: pid-namespace is accepted, and user=, descriptors=, threads= and locked=, each with a number"
    )]
    Part {
        /// The part.
        part: String,
    },
    /// A part has another value than it may.
    #[error("{part:?} is out of range: {accepted} is accepted")]
    Value {
        /// The part.
        part: String,
        /// What is accepted.
        accepted: &'static str,
    },
    /// A part is there twice.
    #[error("{name} is said twice")]
    Twice {
        /// The part's name.
        name: &'static str,
    },
}

impl fmt::Display for JailOrder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid_namespace, user, descriptors, threads, locked } = *self;
        let parts = [
            ("user", user.map(u64::from)),
            ("descriptors", descriptors),
            ("threads", threads),
            ("locked", locked),
        ];
        let numbers = parts.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        let said = pid_namespace.then(|| PID_NAMESPACE.to_owned()).into_iter().chain(numbers);
        formatter.write_str(&said.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for JailOrder {
    type Err = OrderError;

    fn from_str(word: &str) -> Result<Self, OrderError> {
        let mut order = Self::default();
        for part in word.split(',').filter(|_| !word.is_empty()) {
            if part == PID_NAMESPACE {
                if std::mem::replace(&mut order.pid_namespace, true) {
                    return Err(OrderError::Twice { name: PID_NAMESPACE });
                }
                continue;
            }
            let unknown = || OrderError::Part { part: part.to_owned() };
            let out_of_range = |accepted| OrderError::Value { part: part.to_owned(), accepted };
            let (name, value) = part.split_once('=').ok_or_else(unknown)?;
            let value: u64 = value.parse().map_err(|_| unknown())?;
            match name {
                "user" => {
                    // The last number stands for no user at all, and the first is root.
                    let user = u32::try_from(value).ok().filter(|user| (1..u32::MAX).contains(user));
                    let user = user.ok_or_else(|| out_of_range("1 to 4294967294"))?;
                    set(&mut order.user, user, "user")?;
                }
                "descriptors" if value >= 64 => set(&mut order.descriptors, value, "descriptors")?,
                "threads" if value >= 16 => set(&mut order.threads, value, "threads")?,
                "locked" => set(&mut order.locked, value, "locked")?,
                "descriptors" => return Err(out_of_range("64 or more")),
                "threads" => return Err(out_of_range("16 or more")),
                _ => return Err(unknown()),
            }
        }
        Ok(order)
    }
}

fn set<T>(place: &mut Option<T>, value: T, name: &'static str) -> Result<(), OrderError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(OrderError::Twice { name }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_order_is_refused_by_name() {
        for (word, named) in [
            ("user=0", "1 to 4294967294"),
            ("user=4294967295", "1 to 4294967294"),
            ("user=-1", "\"user=-1\" is no part"),
            ("uid=7", "\"uid=7\" is no part"),
            ("threads", "\"threads\" is no part"),
            ("threads=1", "16 or more"),
            ("descriptors=63", "64 or more"),
            ("user=7,user=8", "user is said twice"),
            ("pid-namespace=1", "\"pid-namespace=1\" is no part"),
            ("pid-namespace,threads=16,pid-namespace", "pid-namespace is said twice"),
            (",", "\"\" is no part"),
        ] {
            let error = word.parse::<JailOrder>().expect_err(word).to_string();
            assert!(error.contains(named), "{word}: {error}");
        }
    }

    proptest! {
        #[test]
        fn an_order_survives_the_command_line(
            pid_namespace: bool,
            user in proptest::option::of(1..u32::MAX),
            descriptors in proptest::option::of(64u64..),
            threads in proptest::option::of(16u64..),
            locked in proptest::option::of(0u64..),
        ) {
            let order = JailOrder { pid_namespace, user, descriptors, threads, locked };
            prop_assert_eq!(order.to_string().parse(), Ok(order));
        }

        #[test]
        fn any_word_is_read_or_refused(word in ".{0,40}") {
            if let Ok(order) = word.parse::<JailOrder>() {
                prop_assert_eq!(order.to_string().parse(), Ok(order));
            }
        }
    }
}
