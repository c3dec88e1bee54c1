//! Flags of the verbs that tell VMs what to do, and of `events`.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::client::naming::VmName;

/// Which VMs are told, and how long that is waited for.
#[derive(Clone, Debug, Args)]
pub(crate) struct PowerFlags {
    /// The VMs: names, or beginnings of names that no other VM has
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "VM")]
    pub(crate) vms: Vec<VmName>,
    /// All VMs of this host
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not wait until it is done
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) no_wait: bool,
    /// Fail where it is not done within so many seconds; it goes on all the same
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) timeout: Option<u64>,
    /// Print the operations as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The same, of what a guest may be forced to.
#[derive(Clone, Debug, Args)]
pub(crate) struct ForcibleFlags {
    #[command(flatten)]
    pub(crate) power: PowerFlags,
    /// Do not ask the guest first: as if its power were cut
    #[arg(long)]
    pub(crate) force: bool,
}

/// Which events are shown.
#[derive(Clone, Debug, Args)]
pub(crate) struct EventFlags {
    /// Those of one VM
    #[arg(value_name = "VM")]
    pub(crate) vm: Option<VmName>,
    /// Go on with what happens
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Those of the last so many seconds, or minutes, hours or days with m, h or d behind the number
    #[arg(long, value_name = "SPAN")]
    pub(crate) since: Option<Span>,
    /// Print a JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// A span of time back from now, like `90`, `90s`, `10m`, `2h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, unit) = match text.char_indices().last() {
            Some((end, 's')) => (&text[..end], 1),
            Some((end, 'm')) => (&text[..end], 60),
            Some((end, 'h')) => (&text[..end], 3600),
            Some((end, 'd')) => (&text[..end], 86_400),
            Some(_) | None => (text, 1),
        };
        let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        seconds
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or("a span like 90s, 10m, 2h or 7d is accepted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604_800)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_secs(seconds))), "{text}");
        }
        for text in ["", "m", "-1s", "1.5h", "1w", "99999999999999999999d"] {
            text.parse::<Span>().expect_err(text);
        }
    }
}
