//! How often an address may come with a wrong token.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
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
    /// By network: an address within one is chosen by its user.
    failed: BTreeMap<IpAddr, Failed>,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    count: u32,
    last: Instant,
}

impl Attempts {
    /// How long `address` must wait before it is listened to; nothing where it need not.
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let failed = self.failed.get(&network_of(address))?;
        let waited = now.saturating_duration_since(failed.last);
        (failed.count >= FREE && waited < PAUSE).then(|| PAUSE.saturating_sub(waited))
    }

    /// A wrong token came from `address`.
    pub fn failed(&mut self, address: IpAddr, now: Instant) {
        self.failed.retain(|_, failed| now.saturating_duration_since(failed.last) < PAUSE);
        let network = network_of(address);
        if self.failed.len() >= REMEMBERED && !self.failed.contains_key(&network) {
            let oldest =
                self.failed.iter().min_by_key(|(_, failed)| failed.last).map(|(network, _)| *network);
            oldest.and_then(|oldest| self.failed.remove(&oldest));
        }
        let failed = self.failed.entry(network).or_insert(Failed { count: 0, last: now });
        failed.count = failed.count.saturating_add(1);
        failed.last = now;
    }

    /// The right token came from `address`.
    pub fn succeeded(&mut self, address: IpAddr) {
        self.failed.remove(&network_of(address));
    }
}

/// The part of `address` that its user cannot choose: of an IPv6 address its network of 64 bits, with zeros after it.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
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
