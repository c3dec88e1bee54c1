//! One message of `sd_notify(3)`: lines of `NAME=VALUE`. Pure. The sender is a guest, and anything may come.

use crate::finding::printable;

/// The longest message that is read. What comes after is cut.
pub const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// The longest text that is kept of a value, in characters.
const TEXT_MAX: usize = 160;
/// The most units that are taken from one message.
const UNITS_MAX: usize = 32;

/// What a message says, as far as it is understood here. Texts are cut, their control characters escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifyMessage {
    /// `READY=1`: booting has finished.
    pub ready: bool,
    /// `STOPPING=1`: it shuts down.
    pub stopping: bool,
    /// `STATUS=`: what it does.
    pub status: Option<String>,
    /// `X_SYSTEMD_UNIT_ACTIVE=`: units that became active.
    pub active_units: Vec<String>,
    /// `X_SYSTEMD_UNIT_INACTIVE=`: units that are active no more.
    pub inactive_units: Vec<String>,
    /// `X_SYSTEMD_SHUTDOWN=`: how it shuts down.
    pub shutdown: Option<String>,
    /// `X_SYSTEMD_HOSTNAME=`.
    pub hostname: Option<String>,
    /// `X_SYSTEMD_MACHINE_ID=`.
    pub machine_id: Option<String>,
    /// `EXIT_STATUS=`: with what it ended.
    pub exit_status: Option<u8>,
}

impl NotifyMessage {
    /// What `bytes` say. Lines that are not understood are skipped; of what comes twice, the last counts.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut message = Self::default();
        let bytes = &bytes[..bytes.len().min(MESSAGE_BYTES_MAX)];
        for line in bytes.split(|byte| *byte == b'\n') {
            if let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once('='))
            {
                message.take(name, value);
            }
        }
        message
    }

    fn take(&mut self, name: &str, value: &str) {
        let text = || Some(printable(value, TEXT_MAX)).filter(|text| !text.is_empty());
        match name {
            "READY" => self.ready = value == "1",
            "STOPPING" => self.stopping = value == "1",
            "STATUS" => self.status = text(),
            "X_SYSTEMD_UNIT_ACTIVE" => push(&mut self.active_units, text()),
            "X_SYSTEMD_UNIT_INACTIVE" => push(&mut self.inactive_units, text()),
            "X_SYSTEMD_SHUTDOWN" => self.shutdown = text(),
            "X_SYSTEMD_HOSTNAME" => self.hostname = text(),
            "X_SYSTEMD_MACHINE_ID" => self.machine_id = text(),
            "EXIT_STATUS" => self.exit_status = value.parse().ok(),
            _ => {}
        }
    }
}

fn push(units: &mut Vec<String>, unit: Option<String>) {
    if units.len() < UNITS_MAX {
        units.extend(unit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_of_systemd_are_understood() {
        let booted = NotifyMessage::parse(
            b"READY=1\nSTATUS=Ready.\nX_SYSTEMD_HOSTNAME=web\nX_SYSTEMD_MACHINE_ID=0123\nMAINPID=1\n",
        );
        let expected = NotifyMessage {
            ready: true,
            status: Some("Ready.".to_owned()),
            hostname: Some("web".to_owned()),
            machine_id: Some("0123".to_owned()),
            ..NotifyMessage::default()
        };
        assert_eq!(booted, expected);
        let unit = NotifyMessage::parse(b"X_SYSTEMD_UNIT_ACTIVE=ssh-access.target");
        assert_eq!(unit.active_units, ["ssh-access.target"]);
        let ends = NotifyMessage::parse(b"STOPPING=1\nX_SYSTEMD_SHUTDOWN=poweroff\nEXIT_STATUS=3");
        assert_eq!(
            (ends.stopping, ends.shutdown.as_deref(), ends.exit_status),
            (true, Some("poweroff"), Some(3))
        );
    }

    #[test]
    fn what_is_not_understood_is_skipped() {
        let odd = b"READY\n=1\nREADY=0\nEXIT_STATUS=300\n\xff=1\nSTATUS=\n";
        assert_eq!(NotifyMessage::parse(odd), NotifyMessage::default());
        assert_eq!(NotifyMessage::parse(b"STATUS=\x1b[2J").status.as_deref(), Some("\\u{1b}[2J"));
        let late = [&[b'x'; MESSAGE_BYTES_MAX][..], b"\nREADY=1"].concat();
        assert!(!NotifyMessage::parse(&late).ready);
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_small_message(
            lines in prop::collection::vec(
                (prop::sample::select(vec!["STATUS", "X_SYSTEMD_UNIT_ACTIVE", "READY", "x"]), any::<Vec<u8>>()), 0..80,
            )
        ) {
            let bytes: Vec<u8> =
                lines.iter().flat_map(|(name, value)| [name.as_bytes(), b"=", value, b"\n"].concat()).collect();
            let message = NotifyMessage::parse(&bytes);
            prop_assert!(message.active_units.len() <= UNITS_MAX);
            let texts = message.active_units.iter().chain(&message.status);
            for text in texts {
                prop_assert!(!text.chars().any(char::is_control));
                prop_assert!(text.len() <= (TEXT_MAX + 1) * 10);
            }
        }
    }
}
