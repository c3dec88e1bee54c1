//! Watches a console for texts: as it grows where it is in this process' memory, and by looking at its files now and then
//! where another process writes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use console_log::{BootSummary, ConsoleFiles, ConsoleFilesError, ConsoleRecorder};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::marker::MarkerMatcher;

/// Between two looks at files: at first, and after [`QUICK_LOOKS`].
const QUICK: Duration = Duration::from_millis(250);
const SLOW: Duration = Duration::from_secs(2);
const QUICK_LOOKS: u32 = 240;
/// The most that is read of a file at a time.
const PIECE: usize = 64 << 10;
/// The most pieces of a look.
const PIECES: usize = 64;
/// A boot that began so long before a reset was noticed is the one that was reset.
const RESET_NOTICE: Duration = Duration::from_secs(2);

/// The texts that are looked for, each with the place of its probe. Those that were found are gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Markers(Vec<(usize, MarkerMatcher)>);

impl Markers {
    pub(crate) fn add(&mut self, probe: usize, text: &str) {
        self.0.push((probe, MarkerMatcher::new(text)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes notice of the next bytes; the probes whose text is complete now.
    fn feed(&mut self, missed: bool, bytes: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        self.0.retain_mut(|(probe, matcher)| {
            if missed {
                matcher.skip();
            }
            let is_found = matcher.feed(bytes);
            if is_found {
                found.push(*probe);
            }
            !is_found
        });
        found
    }

    fn restart(&mut self) {
        self.0.iter_mut().for_each(|(_, matcher)| matcher.restart());
    }
}

/// Follows the console from `offset` on, which is where the boot begins, and sends the place of each probe whose text was
/// found. Returns when all were, or the console ended.
pub(crate) async fn follow(
    recorder: Arc<ConsoleRecorder>,
    offset: u64,
    mut markers: Markers,
    found: mpsc::Sender<usize>,
) {
    let mut follower = recorder.follow(offset);
    while !markers.is_empty()
        && let Some(chunk) = follower.next().await
    {
        for probe in markers.feed(chunk.missed > 0, &chunk.bytes) {
            if found.send(probe).await.is_err() {
                return;
            }
        }
    }
}

/// How far the files of a console were read.
#[derive(Clone, Debug)]
pub(crate) struct FileCursor {
    directory: PathBuf,
    /// Boots with this number and lower ones are of earlier guests.
    after: Option<u32>,
    boot: Option<BootSummary>,
    offset: u64,
}

impl FileCursor {
    pub(crate) fn new(directory: &Path, after: Option<u32>) -> Self {
        Self { directory: directory.to_owned(), after, boot: None, offset: 0 }
    }

    /// The cursor for the boot after a reset that was noticed at `noticed`. The files of that boot may be there already,
    /// and have been taken for those of the boot that was reset.
    pub(crate) fn after_reset(&self, noticed: SystemTime) -> Self {
        let after = self.boot.as_ref().map_or(self.after, |boot| {
            let is_new = boot.begun.is_some_and(|begun| begun + RESET_NOTICE > noticed);
            if is_new { boot.number.checked_sub(1) } else { Some(boot.number) }
        });
        Self { directory: self.directory.clone(), after, boot: None, offset: 0 }
    }

    /// Reads what is new of the newest boot. Blocks on files.
    fn look(&mut self, markers: &mut Markers) -> Result<Vec<usize>, ConsoleFilesError> {
        let files = ConsoleFiles::open(&self.directory)?;
        let newest = files.boots()?.pop();
        let newest = newest.filter(|boot| self.after.is_none_or(|after| boot.number > after));
        let Some(newest) = newest else { return Ok(Vec::new()) };
        let number = newest.number;
        if self.boot.as_ref().is_none_or(|boot| boot.number != number) {
            self.offset = 0;
            markers.restart();
        }
        self.boot = Some(newest);
        let mut found = Vec::new();
        for _ in 0..PIECES {
            let chunk = files.read_from(number, self.offset, PIECE)?;
            if chunk.bytes.is_empty() || markers.is_empty() {
                break;
            }
            self.offset = chunk.next_offset();
            found.extend(markers.feed(chunk.missed > 0, &chunk.bytes));
        }
        Ok(found)
    }
}

/// Looks at the files until all texts were found; sends the place of each probe whose text was, and after each look how far
/// was read.
pub(crate) async fn poll(
    mut cursor: FileCursor,
    mut markers: Markers,
    found: mpsc::Sender<usize>,
    progress: tokio::sync::watch::Sender<FileCursor>,
) {
    let mut looks: u32 = 0;
    while !markers.is_empty() {
        let looked = spawn_blocking(move || {
            let found = cursor.look(&mut markers);
            (cursor, markers, found)
        });
        let Ok((next, rest, result)) = looked.await else { return };
        (cursor, markers) = (next, rest);
        progress.send_replace(cursor.clone());
        match result {
            Ok(probes) => {
                for probe in probes {
                    if found.send(probe).await.is_err() {
                        return;
                    }
                }
            }
            // Files are replaced while they are read; the next look finds others.
            Err(problem) => {
                tracing::debug!(directory = %cursor.directory.display(), %problem, "cannot read the console")
            }
        }
        looks = looks.saturating_add(1);
        sleep(if looks < QUICK_LOOKS { QUICK } else { SLOW }).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn cursor(number: Option<u32>, begun: Option<u64>) -> FileCursor {
        let begun = begun.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        let summary =
            |number| BootSummary { number, total: 0, kept: 0, omitted: 0, begun, last_written: None };
        FileCursor { boot: number.map(summary), ..FileCursor::new(Path::new("/none"), Some(3)) }
    }

    #[test]
    fn the_boot_after_a_reset_is_no_earlier_one() {
        let noticed = UNIX_EPOCH + Duration::from_secs(100);
        let after = |number, begun| cursor(number, begun).after_reset(noticed).after;
        assert_eq!(after(None, None), Some(3), "nothing was read yet");
        assert_eq!(after(Some(5), Some(50)), Some(5));
        assert_eq!(after(Some(5), None), Some(5));
        assert_eq!(after(Some(5), Some(99)), Some(4), "its files were there before the reset was noticed");
        assert_eq!(after(Some(0), Some(99)), None);
    }
}
