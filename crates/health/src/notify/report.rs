//! What all messages of one boot amount to. Pure.

use vm_model::SystemdReport;

use super::message::NotifyMessage;
use crate::finding::Finding;

/// The most active units that are kept.
const UNITS_MAX: usize = 64;

/// Units in which a guest waits for somebody to mend it.
const RESCUE_UNITS: [&str; 2] = ["emergency.target", "rescue.target"];

/// Brings `report` up to date with `message`.
pub(crate) fn absorb(report: &mut SystemdReport, message: NotifyMessage) {
    let NotifyMessage {
        ready,
        stopping,
        status,
        active_units,
        inactive_units,
        shutdown,
        hostname,
        machine_id,
        exit_status,
    } = message;
    report.active_units.retain(|unit| !inactive_units.contains(unit));
    for unit in active_units {
        if report.active_units.len() < UNITS_MAX && !report.active_units.contains(&unit) {
            report.active_units.push(unit);
        }
    }
    // One that restarts in place (soft-reboot) is ready again after it had said that it stops.
    if ready {
        (report.ready, report.shutdown) = (true, None);
    }
    if stopping || shutdown.is_some() {
        report.ready = false;
        let before = report.shutdown.take();
        report.shutdown = shutdown.or(before).or_else(|| Some("stopping".to_owned()));
    }
    replace(&mut report.status, status);
    replace(&mut report.hostname, hostname);
    replace(&mut report.machine_id, machine_id);
    report.exit_status = exit_status.or(report.exit_status);
}

fn replace(kept: &mut Option<String>, new: Option<String>) {
    if new.is_some() {
        *kept = new;
    }
}

/// What a probe of kind `systemd` finds: whether `unit` was reported as active, or without one that booting has finished.
pub(crate) fn finding(report: &SystemdReport, unit: Option<&str>) -> Finding {
    if let Some(how) = &report.shutdown {
        return Finding::Failure(format!("the guest shuts down ({how})"));
    }
    let is_active = |wanted: &str| report.active_units.iter().any(|active| active == wanted);
    let Some(unit) = unit else {
        return booted(report, RESCUE_UNITS.into_iter().find(|unit| is_active(unit)));
    };
    if is_active(unit) {
        Finding::Success
    } else {
        Finding::Failure(format!("systemd has not reported {unit:?} as active"))
    }
}

/// Whether booting has finished, and not in the unit `rescue`: systemd reports that it is ready there as well.
fn booted(report: &SystemdReport, rescue: Option<&str>) -> Finding {
    match (rescue, &report.status) {
        (Some(rescue), _) => Finding::Failure(format!("the guest has booted to {rescue}")),
        (None, _) if report.ready => Finding::Success,
        (None, Some(status)) => {
            Finding::Failure(format!("systemd has not reported that it is ready; it says: {status}"))
        }
        (None, None) => Finding::Failure("systemd has not reported that it is ready".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(messages: &[&str]) -> SystemdReport {
        let mut report = SystemdReport::default();
        messages.iter().for_each(|text| absorb(&mut report, NotifyMessage::parse(text.as_bytes())));
        report
    }

    #[test]
    fn a_guest_is_ready_from_its_message_until_it_shuts_down() {
        let is_ready = |messages: &[&str]| finding(&report(messages), None) == Finding::Success;
        assert!(!is_ready(&[]));
        assert!(!is_ready(&["STATUS=Starting up"]));
        assert!(is_ready(&["READY=1\nSTATUS=Ready.", "X_SYSTEMD_HOSTNAME=web"]));
        assert!(!is_ready(&["READY=1", "STOPPING=1"]));
        assert!(!is_ready(&["X_SYSTEMD_UNIT_ACTIVE=emergency.target", "READY=1"]));
        assert!(!is_ready(&["READY=1", "X_SYSTEMD_SHUTDOWN=reboot"]));
        assert!(is_ready(&["READY=1", "X_SYSTEMD_SHUTDOWN=soft-reboot", "READY=1"]));
        let ended = report(&["READY=1", "X_SYSTEMD_SHUTDOWN=poweroff", "STOPPING=1", "EXIT_STATUS=3"]);
        assert_eq!((ended.shutdown.as_deref(), ended.exit_status), (Some("poweroff"), Some(3)));
    }

    #[test]
    fn a_unit_counts_while_it_is_active() {
        let finds = |messages: &[&str]| finding(&report(messages), Some("a.target"));
        assert_eq!(
            finds(&["READY=1"]),
            Finding::Failure("systemd has not reported \"a.target\" as active".to_owned())
        );
        assert_eq!(finds(&["X_SYSTEMD_UNIT_ACTIVE=a.target"]), Finding::Success);
        assert_ne!(
            finds(&["X_SYSTEMD_UNIT_ACTIVE=a.target", "X_SYSTEMD_UNIT_INACTIVE=a.target"]),
            Finding::Success
        );
        let many: Vec<String> = (0..200).map(|number| format!("X_SYSTEMD_UNIT_ACTIVE=u{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(report(&many).active_units.len(), UNITS_MAX);
    }

    #[test]
    fn what_it_says_that_it_does_is_told() {
        let told = finding(&report(&["STATUS=Mounting"]), None);
        assert_eq!(
            told,
            Finding::Failure("systemd has not reported that it is ready; it says: Mounting".to_owned())
        );
    }
}
