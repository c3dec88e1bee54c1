//! How often an address may come with a wrong token.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Wrong tokens in a row after which an address waits.
const FREE: u32 = 5;
/// How long it waits then.
const PAUSE: Duration = Duration::from_secs(60);
/// Addresses that are remembered.
const REMEMBERED: usize = 256;

/// Who has come with wrong tokens lately. Tokens are too long to be guessed: this is for the log, and for the worker's time.
#[derive(Debug, Default)]
pub struct Attempts {
    failed: BTreeMap<Place, Failed>,
}

/// The part of an address that its user cannot choose: of an IPv6 address the network.
type Place = u64;

#[derive(Clone, Copy, Debug)]
struct Failed {
    count: u32,
    last: Instant,
}

impl Attempts {
    /// How long `address` must wait before it is listened to; nothing where it need not.
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let failed = self.failed.get(&place(address))?;
        let waited = now.saturating_duration_since(failed.last);
        (failed.count >= FREE && waited < PAUSE).then(|| PAUSE.saturating_sub(waited))
    }

    /// A wrong token came from `address`.
    pub fn failed(&mut self, address: IpAddr, now: Instant) {
        self.failed.retain(|_, failed| now.saturating_duration_since(failed.last) < PAUSE);
        let place = place(address);
        if self.failed.len() >= REMEMBERED && !self.failed.contains_key(&place) {
            let oldest = self.failed.iter().min_by_key(|(_, failed)| failed.last).map(|(place, _)| *place);
            oldest.and_then(|oldest| self.failed.remove(&oldest));
        }
        let failed = self.failed.entry(place).or_insert(Failed { count: 0, last: now });
        failed.count = failed.count.saturating_add(1);
        failed.last = now;
    }

    /// The right token came from `address`.
    pub fn succeeded(&mut self, address: IpAddr) {
        self.failed.remove(&place(address));
    }
}

/// IPv4 addresses are apart from IPv6 networks, none of which begins with zeros and is anybody's.
fn place(address: IpAddr) -> Place {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            [a, b, c, d].into_iter().fold(0, |place, segment| place << 16 | u64::from(segment))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn who_is_wrong_five_times_waits_a_minute_and_nobody_else() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let (guesser, neighbour) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..FREE {
            assert_eq!(attempts.wait(guesser, start), None);
            attempts.failed(guesser, start);
        }
        assert_eq!(attempts.wait(guesser, start + PAUSE / 4), Some(PAUSE - PAUSE / 4));
        assert_eq!(attempts.wait(address("::ffff:192.0.2.1"), start), Some(PAUSE), "the same in IPv6");
        assert_eq!(attempts.wait(neighbour, start), None);
        assert_eq!(attempts.wait(guesser, start + PAUSE), None);
        attempts.failed(guesser, start + PAUSE);
        assert_eq!(attempts.wait(guesser, start + PAUSE), None, "it begins anew");
    }

    #[test]
    fn the_right_token_makes_up_for_wrong_ones() {
        let (mut attempts, now, who) = (Attempts::default(), Instant::now(), address("2001:db8::1"));
        for _ in 0..FREE {
            attempts.failed(who, now);
        }
        assert!(attempts.wait(address("2001:db8::2"), now).is_some(), "a network counts as one");
        attempts.succeeded(who);
        assert_eq!(attempts.wait(who, now), None);
    }

    #[test]
    fn few_are_remembered() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..10_000_u32 {
            attempts.failed(IpAddr::V4(number.into()), now);
        }
        assert_eq!(attempts.failed.len(), REMEMBERED);
    }
}
