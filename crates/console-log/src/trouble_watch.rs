//! Notices, while a guest boots, that it gave up and waits for a person. Pure.

use vm_model::BootTrouble;

use crate::diagnosis::{Diagnosis, waits_for_a_person, without_timestamp};
use crate::lines::last_lines;

/// What a guest writes after so many bytes of a boot is no longer about its boot.
const BOOT_BYTES: usize = 1 << 20;
/// As much of a line is looked at.
const LINE_BYTES: usize = 400;
/// As many bytes before the line are looked through for the cause.
pub(crate) const CAUSE_WINDOW: usize = 16 << 10;
/// As many lines before it.
const CAUSE_LINES: usize = 60;

/// Looks at the lines of one boot, however the bytes are cut into pieces.
#[derive(Debug, Default)]
pub(crate) struct TroubleWatch {
    /// The beginning of the line that is not ended yet.
    line: Vec<u8>,
    /// Bytes of this boot so far; no longer counted when the watch is over.
    written: usize,
    is_over: bool,
}

impl TroubleWatch {
    /// Takes notice of the next bytes. Answers once a boot, when a line says that the guest waits for a person: how many
    /// bytes of the boot there are up to the end of `bytes`.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.is_over {
            return None;
        }
        self.written = self.written.saturating_add(bytes.len());
        let mut found = false;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_BYTES.saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                found |= waits_for_a_person(&String::from_utf8_lossy(&self.line));
                self.line.clear();
            }
        }
        if found || self.written > BOOT_BYTES {
            self.is_over = true;
            self.line = Vec::new();
        }
        found.then_some(self.written)
    }
}

/// What the trouble is, where `latest` ends with the line that tells of it.
pub(crate) fn trouble(latest: &[u8]) -> Option<BootTrouble> {
    let lines = last_lines(latest, CAUSE_LINES);
    let Diagnosis { class, hint, line } = Diagnosis::of(&lines)?;
    let line = without_timestamp(&lines[line]).to_owned();
    Some(BootTrouble { class, line, hint: hint.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use vm_model::FailureClass;

    use super::*;

    const ALERT: &[u8] = b"[   31.2] ALERT!  /dev/vda7 does not exist.  Dropping to a shell!\r\n";

    #[test]
    fn trouble_is_told_once_with_its_cause() {
        let mut watch = TroubleWatch::default();
        let before = b"Timed out waiting for device dev-vda9.device\n";
        assert_eq!(watch.feed(before), None);
        let line = b"You are in emergency mode. After logging in\n";
        assert_eq!(watch.feed(line), Some(before.len() + line.len()));
        assert_eq!(watch.feed(ALERT), None, "once a boot");
        let told = trouble(&[&before[..], line].concat()).expect("recognised");
        assert_eq!(told.class, FailureClass::NoRootDevice);
        assert_eq!(told.line, "Timed out waiting for device dev-vda9.device");
        assert_eq!(trouble(b"login:"), None);
    }

    #[test]
    fn what_comes_long_after_the_boot_is_not_about_it() {
        let mut watch = TroubleWatch::default();
        assert_eq!(watch.feed(&vec![b'x'; BOOT_BYTES]), None);
        assert_eq!(watch.feed(b"\n"), None);
        assert_eq!(watch.feed(ALERT), None);
        let mut endless = TroubleWatch::default();
        assert_eq!(endless.feed(&vec![b'x'; BOOT_BYTES]), None);
        assert!(endless.line.len() <= LINE_BYTES, "a line without an end takes little memory");
    }

    proptest! {
        #[test]
        fn lines_are_found_wherever_pieces_end(
            before in vec(any::<u8>(), 0..40), piece in 1..80usize, after in vec(any::<u8>(), 0..9),
        ) {
            let text = [&before[..], b"\n", ALERT, &after].concat();
            let mut watch = TroubleWatch::default();
            let found: Vec<usize> = text.chunks(piece).filter_map(|piece| watch.feed(piece)).collect();
            let end = before.len() + 1 + ALERT.len();
            let expected = (end.div_ceil(piece) * piece).min(text.len());
            prop_assert_eq!(found, [expected]);
            prop_assert!(trouble(&text[..expected]).is_some());
        }
    }
}
