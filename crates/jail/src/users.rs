//! Which user each jailed process is given: one of a range that belongs to this host's guests alone, and to one process at
//! a time.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

/// Numbers of users, none of which may be anybody else's on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRange {
    first: u32,
    last: u32,
}

/// Why a text is no range of users.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} is no range of users: FIRST-LAST is accepted, with 1000 or more first and 4294967294 or less last"
)]
pub struct RangeError {
    text: String,
}

impl UserRange {
    /// Whether `user` is one of them.
    pub fn contains(self, user: u32) -> bool {
        (self.first..=self.last).contains(&user)
    }

    /// Its lowest and its highest number.
    pub fn bounds(self) -> (u32, u32) {
        (self.first, self.last)
    }

    /// Users of this range whose names stand in the text of a `passwd` file (passwd(5)): they are not guests'.
    pub fn named_in(self, passwd: &str) -> Vec<String> {
        let entries = passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            Some((fields.next()?, fields.nth(1)?.parse().ok()?))
        });
        entries.filter(|(_, user)| self.contains(*user)).map(|(name, _)| name.to_owned()).collect()
    }
}

impl Default for UserRange {
    /// 65,536 users above those that systemd sets aside for containers, and below those that no 32-bit signed number holds.
    fn default() -> Self {
        Self { first: 0x7000_0000, last: 0x7000_ffff }
    }
}

impl fmt::Display for UserRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

impl FromStr for UserRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let bounds = text.split_once('-').and_then(|(first, last)| {
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            (first >= 1000 && first <= last && last < u32::MAX).then_some(Self { first, last })
        });
        bounds.ok_or_else(|| RangeError { text: text.to_owned() })
    }
}

/// Gives out users, each to one process at a time.
#[derive(Debug)]
pub struct UserPool {
    range: UserRange,
    /// Held for set operations; a poisoned lock is used on.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    taken: BTreeSet<u32>,
    /// Where the search goes on, so that a number that was given back rests for long.
    next: u32,
}

/// A user that is nobody else's until this is dropped.
#[derive(Debug)]
pub struct TakenUser {
    pool: Arc<UserPool>,
    user: u32,
}

impl UserPool {
    /// All users of `range` but those `in_use`, which are never given out. The first one is that of the place `start`, counted
    /// round the range: others of this host that use the same range hardly begin there, too.
    pub fn new(range: UserRange, in_use: impl IntoIterator<Item = u32>, start: u32) -> Arc<Self> {
        let taken: BTreeSet<u32> = in_use.into_iter().filter(|user| range.contains(*user)).collect();
        let next = range.first + start % (range.last - range.first).saturating_add(1);
        Arc::new(Self { range, state: Mutex::new(State { taken, next }) })
    }

    /// Its range.
    pub fn range(&self) -> UserRange {
        self.range
    }

    /// A user that nobody has; `None` where all are taken.
    pub fn take(self: &Arc<Self>) -> Option<TakenUser> {
        let mut state = self.lock();
        let begin = if self.range.contains(state.next) { state.next } else { self.range.first };
        let mut candidates = (begin..=self.range.last).chain(self.range.first..begin);
        let user = candidates.find(|user| !state.taken.contains(user))?;
        state.taken.insert(user);
        state.next = user.saturating_add(1);
        drop(state);
        Some(TakenUser { pool: self.clone(), user })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TakenUser {
    /// Its number, which is its group's, too.
    pub fn number(&self) -> u32 {
        self.user
    }
}

impl Drop for TakenUser {
    fn drop(&mut self) {
        self.pool.lock().taken.remove(&self.user);
    }
}

/// The users that processes of this host run as at the moment.
///
/// # Errors
/// `/proc` cannot be listed.
pub fn users_of_processes() -> io::Result<BTreeSet<u32>> {
    let mut users = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let is_process = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()).is_some();
        // One that has ended meanwhile has no user.
        if is_process && let Ok(status) = fs::read_to_string(path.join("status")) {
            users.extend(users_in(&status));
        }
    }
    Ok(users)
}

/// The real, effective, saved and file system user in the `status` of a process (proc_pid_status(5)).
fn users_in(status: &str) -> impl Iterator<Item = u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.unwrap_or_default().split_whitespace().filter_map(|user| user.parse().ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_and_others_refused() {
        assert_eq!("1879048192-1879113727".parse(), Ok(UserRange::default()));
        assert_eq!(UserRange::default().to_string(), "1879048192-1879113727");
        for text in
            ["", "1000", "999-2000", "2000-1000", "1000-4294967295", "1000-x", "a-b", "1000-2000-3000"]
        {
            assert!(text.parse::<UserRange>().expect_err(text).to_string().contains("FIRST-LAST"), "{text}");
        }
    }

    #[test]
    fn users_with_names_are_told() {
        let range: UserRange = "2000-2001".parse().expect("a range");
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:2001:100::/:/bin/sh\nbroken\nb:x:2002:1::/:\n";
        assert_eq!(range.named_in(passwd), ["ann"]);
    }

    #[test]
    fn the_users_of_a_process_are_in_its_status() {
        let status = "Name:\tx\nUid:\t7\t8\t9\t10\nGid:\t1\t1\t1\t1\n";
        assert_eq!(users_in(status).collect::<Vec<_>>(), [7, 8, 9, 10]);
        assert_eq!(users_in("").count(), 0);
        let own = rustix::process::getuid().as_raw();
        assert!(users_of_processes().expect("/proc is there").contains(&own));
    }

    #[test]
    fn a_user_that_was_given_back_rests() {
        let pool = UserPool::new("2000-2002".parse().expect("a range"), [2001, 7], 1);
        let first = pool.take().expect("free");
        assert_eq!(first.number(), 2002, "after the ones in use");
        let second = pool.take().expect("free");
        assert_eq!(second.number(), 2000);
        assert!(pool.take().is_none(), "2001 is in use");
        drop(first);
        assert_eq!(pool.take().expect("free again").number(), 2002);
    }

    proptest! {
        #[test]
        fn no_user_is_given_out_twice(
            start: u32, steps in proptest::collection::vec(any::<(bool, usize)>(), 0..60),
        ) {
            let range: UserRange = "2000-2009".parse().expect("a range");
            let pool = UserPool::new(range, [2003], start);
            let mut held: Vec<TakenUser> = Vec::new();
            for (takes, which) in steps {
                if takes {
                    match pool.take() {
                        Some(user) => {
                            prop_assert!(range.contains(user.number()) && user.number() != 2003);
                            prop_assert!(held.iter().all(|other| other.number() != user.number()));
                            held.push(user);
                        }
                        None => prop_assert_eq!(held.len(), 9),
                    }
                } else if !held.is_empty() {
                    held.swap_remove(which % held.len());
                }
            }
        }
    }
}
