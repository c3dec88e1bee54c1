//! Whether the outer host lives: its init writes something every few seconds, to a file that therefore grows.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So long without a beat is death. A busy host beats late.
const SILENCE: Duration = Duration::from_secs(90);
/// So long it may take to the first beat: a host with systemd boots for a while.
const BOOT: Duration = Duration::from_secs(240);

/// The pulse in one file.
pub(crate) struct Pulse {
    file: PathBuf,
    length: u64,
    last_beat: Instant,
}

impl Pulse {
    pub(crate) fn of(file: &Path) -> Self {
        Self { file: file.to_path_buf(), length: 0, last_beat: Instant::now() }
    }

    /// Whether there was no beat for too long, now. To be asked often.
    pub(crate) fn has_stopped(&mut self) -> bool {
        let length = fs::metadata(&self.file).map_or(0, |metadata| metadata.len());
        self.takes_as_beat(length, Instant::now());
        let patience = if self.length == 0 { BOOT } else { SILENCE };
        self.last_beat.elapsed() > patience
    }

    fn takes_as_beat(&mut self, length: u64, now: Instant) {
        if length != self.length {
            self.length = length;
            self.last_beat = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_a_beat_and_nothing_else_is() {
        let mut pulse = Pulse::of(Path::new("/nonexistent"));
        let start = pulse.last_beat;
        pulse.takes_as_beat(0, start + SILENCE);
        assert_eq!(pulse.last_beat, start);
        pulse.takes_as_beat(3, start + SILENCE);
        assert_eq!(pulse.last_beat, start + SILENCE);
        assert!(!pulse.has_stopped());
    }
}
