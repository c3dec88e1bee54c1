//! Spreads delays, so that VMs which failed together are not started together. Pure but for the draw.

use std::time::Duration;

use uuid::Uuid;

/// How far a delay may be from what it would be, in hundredths of it.
const SPREAD: u32 = 15;

/// A point in the spread of a delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Jitter(u16);

impl Jitter {
    /// A random one.
    pub(super) fn draw() -> Self {
        // The last bits of such an identifier are all random (RFC 9562 §5.4).
        let [.., high, low] = Uuid::new_v4().into_bytes();
        Self(u16::from_be_bytes([high, low]))
    }

    /// `delay`, 15 % longer or shorter at most and never longer than `longest`. Delays that reach `longest` are spread below
    /// it.
    pub(super) fn apply(self, delay: Duration, longest: Duration) -> Duration {
        let most = (delay * (100 + SPREAD) / 100).min(longest);
        let width = delay * (2 * SPREAD) / 100;
        most.saturating_sub(width) + width * u32::from(self.0) / u32::from(u16::MAX)
    }
}

#[cfg(test)]
impl Jitter {
    /// The shortest delay.
    pub(super) const SHORTEST: Self = Self(0);
    /// The longest delay.
    pub(super) const LONGEST: Self = Self(u16::MAX);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);

    #[test]
    fn delays_are_spread_around_what_they_would_be_and_below_the_longest() {
        let spread = |seconds| {
            let of = |jitter: Jitter| jitter.apply(Duration::from_secs(seconds), LONGEST).as_millis();
            (of(Jitter::SHORTEST), of(Jitter::LONGEST))
        };
        assert_eq!(spread(0), (0, 0));
        assert_eq!(spread(10), (8_500, 11_500));
        assert_eq!(spread(56), (43_200, 60_000));
        assert_eq!(spread(60), (42_000, 60_000));
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_bounds(at: u16, millis in 0_u64..60_000) {
            let delay = Duration::from_millis(millis);
            let spread = Jitter(at).apply(delay, LONGEST);
            prop_assert!(spread <= LONGEST && spread * 10 >= delay * 7);
        }
    }
}
