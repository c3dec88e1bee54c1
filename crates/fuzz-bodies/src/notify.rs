//! What the systemd of a guest reports.

use health::NotifyMessage;

/// The longest text that is kept of a value, each character escaped.
const TEXT_MAX: usize = 2048;

/// Reads a message; what is kept of it is small and can be shown.
pub(crate) fn messages(bytes: &[u8]) {
    let NotifyMessage {
        ready: _,
        stopping: _,
        status,
        active_units,
        inactive_units,
        shutdown,
        hostname,
        machine_id,
        exit_status: _,
    } = NotifyMessage::parse(bytes);
    assert!(active_units.len() + inactive_units.len() <= 64);
    let units = active_units.iter().chain(&inactive_units);
    for text in units.chain(&status).chain(&shutdown).chain(&hostname).chain(&machine_id) {
        assert!(text.len() <= TEXT_MAX && !text.chars().any(char::is_control), "{text:?}");
    }
}
