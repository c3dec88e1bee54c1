//! A guest's time beside the host's.

use std::net::Ipv4Addr;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use end_to_end::http_get;

/// How far the two may be apart, in seconds: the guest tells whole seconds only.
const TOLERANCE: f64 = 1.2;
/// And by how much of the time since the guest's start: an emulated processor's counter runs a little faster or slower than
/// the host took it to.
const DRIFT: f64 = 0.005;

/// What a guest's clocks said, between two moments of the host.
#[derive(Debug)]
pub(crate) struct GuestClock {
    asked: Moment,
    answered: Moment,
    /// Seconds since 1970, whole ones.
    wall: f64,
    /// Seconds since it started.
    uptime: f64,
}

/// The host's clocks.
#[derive(Debug)]
struct Moment {
    wall: SystemTime,
    monotonic: Instant,
}

impl Moment {
    fn now() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }

    fn unix_seconds(&self) -> Result<f64> {
        Ok(self
            .wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .context("the host's clock is unset")?
            .as_secs_f64())
    }
}

impl GuestClock {
    /// Asks the guest for the time, and checks that it reads it from a clock that costs no exit and is the host's date.
    pub(crate) fn read(address: Ipv4Addr) -> Result<Self> {
        let asked = Moment::now();
        let page = String::from_utf8_lossy(&http_get(address, "/cgi-bin/clock")?).into_owned();
        let answered = Moment::now();
        let field = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.with_context(|| format!("no {name:?} in {page:?}"))
        };
        let number = |name: &str| field(name)?.parse().with_context(|| format!("{name} in {page:?}"));
        let source = field("source")?;
        ensure!(["kvm-clock", "tsc"].contains(&source), "the guest's clock source is {source}");
        let clock = Self { wall: number("seconds")?, uptime: number("uptime")?, asked, answered };
        let (least, most) = (clock.asked.unix_seconds()?, clock.answered.unix_seconds()?);
        let tolerance = clock.tolerance();
        ensure!(
            (least - tolerance..=most + tolerance).contains(&clock.wall),
            "the guest says {} seconds since 1970, the host {least} to {most}",
            clock.wall
        );
        Ok(clock)
    }

    fn tolerance(&self) -> f64 {
        TOLERANCE + DRIFT * self.uptime
    }

    /// Checks that as much time went by in the guest since `before` as in the host, pauses included.
    pub(crate) fn ensure_went_on_like_the_hosts_since(&self, before: &Self) -> Result<()> {
        let went_by = self.uptime - before.uptime;
        let least = self.asked.monotonic.duration_since(before.answered.monotonic).as_secs_f64();
        let most = self.answered.monotonic.duration_since(before.asked.monotonic).as_secs_f64();
        let tolerance = self.tolerance();
        ensure!(
            (least - tolerance..=most + tolerance).contains(&went_by),
            "{went_by} seconds went by in the guest while {least} to {most} did in the host"
        );
        Ok(())
    }
}
