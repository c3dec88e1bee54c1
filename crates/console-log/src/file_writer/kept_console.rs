//! One console on its way from memory to files.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_model::{VmId, error_chain};

use super::inbox::Note;
use super::pace::{Outcome, Pace};
use crate::ConsoleRecorder;
use crate::boots::{Copied, Cursor};
use crate::files::{ConsoleFilesError, FileLimits, SegmentedConsole};

/// After a warning, others of the same console are only counted for so long.
const QUIET: Duration = Duration::from_secs(60);

/// A console and its files. Only the writing thread calls it.
pub(super) struct KeptConsole {
    vm: VmId,
    recorder: Arc<ConsoleRecorder>,
    /// How far its bytes are in the files.
    cursor: Cursor,
    files: SegmentedConsole,
    /// Whether the cursor's boot has its files.
    has_begun: bool,
    pace: Pace,
    trouble: Trouble,
    leaves: bool,
}

/// What went wrong last, and what was said of it.
#[derive(Default)]
struct Trouble {
    /// Whether it goes on, and what the host's kernel said where it was asked.
    present: Option<Option<io::ErrorKind>>,
    warned_at: Option<Instant>,
    suppressed: u64,
}

impl KeptConsole {
    pub(super) fn new(
        vm: VmId,
        recorder: Arc<ConsoleRecorder>,
        directory: OwnedFd,
        limits: FileLimits,
    ) -> Self {
        Self {
            vm,
            recorder,
            cursor: Cursor::start(),
            files: SegmentedConsole::new(directory, limits),
            has_begun: false,
            pace: Pace::default(),
            trouble: Trouble::default(),
            leaves: false,
        }
    }

    /// When it is to be written; `None` where nothing is to be done.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pace.due()
    }

    /// Whether it is to be forgotten once it was written.
    pub(super) fn leaves(&self) -> bool {
        self.leaves
    }

    pub(super) fn take_note(&mut self, note: Note, now: Instant) {
        match note {
            Note::Written => self.pace.wake(now),
            Note::Flush => self.pace.hurry(now),
            Note::Leaves => {
                self.leaves = true;
                self.pace.hurry(now);
            }
        }
    }

    /// Writes what is there by now.
    pub(super) fn write(&mut self, buffer: &mut Vec<u8>) -> Outcome {
        let goal = self.recorder.total();
        let mut bytes = 0;
        let result = self.write_up_to(goal, buffer, &mut bytes);
        let now = Instant::now();
        let outcome = match result {
            Ok(outcome) => {
                self.note_success();
                outcome
            }
            Err(error) => {
                self.note_failure(&error, now);
                Outcome::Failed
            }
        };
        self.pace.written(now, bytes, outcome);
        if self.leaves {
            self.recorder.detach_copier();
            if outcome == Outcome::Failed {
                let lost = self.recorder.total().saturating_sub(self.cursor.position());
                tracing::warn!(vm_id = %self.vm, lost, "the end of the console is in no file");
            }
        }
        outcome
    }

    /// Writes at least what was written to the console before `goal`, and adds to `count` how many bytes that are. In a
    /// flood it comes to the goal after a few copies, as only so much is kept in memory.
    fn write_up_to(
        &mut self,
        goal: u64,
        buffer: &mut Vec<u8>,
        count: &mut u64,
    ) -> Result<Outcome, ConsoleFilesError> {
        loop {
            if !self.has_begun {
                self.files.begin_boot()?;
                self.has_begun = true;
            }
            match self.recorder.copy_next(&mut self.cursor, goal, buffer) {
                Copied::Bytes { mut offset } => {
                    let mut rest = buffer.as_slice();
                    while !rest.is_empty() {
                        let written = self.files.append(offset, rest)?;
                        rest = &rest[written..];
                        offset = offset.saturating_add(written as u64);
                        *count = count.saturating_add(written as u64);
                        self.cursor.move_to(offset);
                    }
                }
                Copied::NextBoot => self.has_begun = false,
                Copied::AtGoal => return Ok(Outcome::AtGoal),
                Copied::AtEnd => return Ok(Outcome::AtEnd),
            }
        }
    }

    fn note_success(&mut self) {
        if self.trouble.present.take().is_some() && self.trouble.suppressed == 0 {
            tracing::info!(vm_id = %self.vm, "the console is written to its directory again");
        }
    }

    fn note_failure(&mut self, error: &ConsoleFilesError, now: Instant) {
        let trouble = &mut self.trouble;
        let kind = error.io_kind();
        if trouble.present.replace(kind) == Some(kind) {
            return;
        }
        if trouble.warned_at.is_some_and(|warned| now.saturating_duration_since(warned) < QUIET) {
            trouble.suppressed += 1;
            return;
        }
        trouble.warned_at = Some(now);
        let suppressed = std::mem::take(&mut trouble.suppressed);
        tracing::warn!(
            vm_id = %self.vm,
            error = error_chain(error),
            suppressed,
            "the console is not written to its directory; it is tried again once a second"
        );
    }
}
