//! The clock: certificates are judged by it, and guests begin with it.

use std::process::{Command, Stdio};

use super::finding::{Finding, advice, command};
use super::host::Host;

const CHECK: &str = "clock";

/// Whether the clock follows a time server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Facts {
    /// It does.
    Synchronised,
    /// The kernel says that it does not.
    Adrift,
    /// Nobody who would know could be asked.
    Unknown,
}

pub(super) fn look(host: &Host) -> Facts {
    if host.has("/run/systemd/timesync/synchronized") {
        return Facts::Synchronised;
    }
    // systemd asks the kernel by adjtimex(2), whoever keeps the time.
    let asked = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).as_deref() {
        Ok("yes") => Facts::Synchronised,
        Ok("no") => Facts::Adrift,
        Ok(_) | Err(_) => Facts::Unknown,
    }
}

pub(super) fn judge(facts: Facts) -> Vec<Finding> {
    vec![match facts {
        Facts::Synchronised => Finding::ok(CHECK, "synchronised"),
        Facts::Adrift => Finding::warn(
            CHECK,
            "not synchronised with a time server: certificates may be refused, and guests begin with a wrong date",
            command("timedatectl set-ntp true"),
        ),
        Facts::Unknown => Finding::warn(
            CHECK,
            "whether it is synchronised could not be learned",
            advice("see that a time service (systemd-timesyncd, chrony) runs on this host"),
        ),
    }]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::host::testing::host;
    use super::*;

    #[test]
    fn a_clock_that_follows_nobody_is_warned_of() {
        let (_folder, host) = host(&[("run/systemd/timesync/synchronized", "")]);
        assert_eq!(judge(look(&host))[0].verdict, Verdict::Ok);
        assert_eq!(judge(Facts::Adrift)[0].verdict, Verdict::Warn);
        assert_eq!(judge(Facts::Unknown)[0].verdict, Verdict::Warn);
    }
}
