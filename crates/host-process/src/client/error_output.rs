//! Where jailed processes write what they say, while standard error of this process is a file.
//!
//! Whoever may write to a file may also empty it, by any descriptor of it. So a jailed process gets the writing end of a named
//! pipe in place of the file, and a thread of this process copies whole lines from there. The pipe outlives this process, and the next
//! one reads on: a process that runs VMs needs no other standard error for that. What is said while nobody reads is lost here, as a
//! pipe without a reader takes nothing; lines about a VM are in the VM's own log all the same.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags, fcntl_setfl, fstat, mkfifoat, openat};
use rustix::io::Errno;

/// The most of a line that is copied at once.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// How long the line that is being copied is waited for in the end.
const LAST_LINE: Duration = Duration::from_secs(1);
/// The pipe's name in the directory of sockets, none of which ends like it.
pub(super) const NAME: &str = "standard-error";

/// A pipe and the thread that empties it, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct ErrorOutput {
    writer: OwnedFd,
    /// Another writing end, which does not wait.
    bell: File,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ErrorOutput {
    /// A pipe in `directory` whose lines are copied to `output`, if that is a file; else nothing.
    pub(super) fn instead_of<F>(output: F, directory: &OwnedFd) -> io::Result<Option<Self>>
    where
        F: AsFd + Write + Send + 'static,
    {
        if FileType::from_raw_mode(fstat(&output)?.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        match mkfifoat(directory, NAME, Mode::RUSR | Mode::WUSR) {
            // That of a process before.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        // The reading end first, which does not wait for a writer in this mode; the writing end waits for no reader then.
        let open =
            |access| openat(directory, NAME, access | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let reader = open(OFlags::RDONLY | OFlags::NONBLOCK)?;
        let (writer, bell) = (open(OFlags::WRONLY)?, open(OFlags::WRONLY | OFlags::NONBLOCK)?);
        fcntl_setfl(&reader, OFlags::empty())?;
        let is_ending = Arc::new(AtomicBool::new(false));
        let until = is_ending.clone();
        let thread = Builder::new()
            .name("vm-stderr".to_owned())
            .spawn(move || copy_lines(BufReader::new(File::from(reader)), output, &until))?;
        Ok(Some(Self { writer, bell: bell.into(), is_ending, thread: Some(thread) }))
    }

    /// The writing end, for another process.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        self.writer.try_clone()
    }
}

impl Drop for ErrorOutput {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Release);
        // The thread wakes for an empty line; where that does not fit, it has much to read and looks up all the same.
        let _ = self.bell.write(b"\n");
        let Some(thread) = self.thread.take() else { return };
        let begun = Instant::now();
        while !thread.is_finished() && begun.elapsed() < LAST_LINE {
            std::thread::sleep(Duration::from_millis(1));
        }
        // One that a disk holds up ends when that lets go of it.
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

/// Copies lines whole, so that none comes to stand in the midst of another. Ends where nobody wants more, or nobody can say more.
fn copy_lines(mut lines: impl BufRead, mut output: impl Write, is_ending: &AtomicBool) {
    let mut line = Vec::new();
    while !is_ending.load(Ordering::Acquire) {
        line.clear();
        match lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if line == b"\n" {
            continue;
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        // A disk that is full has room again some time.
        let _ = output.write_all(&line);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::{TempDir, tempdir};

    use super::*;

    fn output(place: &TempDir) -> ErrorOutput {
        let log = File::options().create(true).append(true).open(place.path().join("log")).expect("opened");
        let directory = File::open(place.path()).expect("opened").into();
        ErrorOutput::instead_of(log, &directory).expect("a pipe").expect("the log is a file")
    }

    /// Waits until the log says `text`.
    fn says(place: &TempDir, text: &str) {
        let begun = Instant::now();
        let read = || fs::read_to_string(place.path().join("log")).expect("read");
        while read() != text {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}, not {text:?}", read());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn lines_come_to_the_file_by_a_pipe_that_the_next_process_reads_on() {
        let place = tempdir().expect("a directory");
        let first = output(&place);
        let mut others: File = first.share().expect("shared").into();
        others.write_all(b"one\ntwo\n").expect("taken");
        says(&place, "one\ntwo\n");
        drop(first);
        let broken = others.write_all(b"nobody reads\n").expect_err("no reader");
        assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
        let _second = output(&place);
        others.write_all(b"three\n").expect("taken again");
        says(&place, "one\ntwo\nthree\n");
    }

    #[test]
    fn the_file_cannot_be_emptied_by_what_others_get() {
        let place = tempdir().expect("a directory");
        let output = output(&place);
        let others = output.share().expect("shared");
        let emptied = rustix::fs::ftruncate(&others, 0).expect_err("a pipe");
        assert_eq!(emptied, Errno::INVAL);
    }

    #[test]
    fn what_is_no_file_is_left_as_it_is() {
        let place = tempdir().expect("a directory");
        let directory = File::open(place.path()).expect("opened").into();
        let (_reader, writer) = io::pipe().expect("a pipe");
        assert!(ErrorOutput::instead_of(writer, &directory).expect("looked at").is_none());
        assert_eq!(fs::read_dir(place.path()).expect("listed").count(), 0);
    }

    #[test]
    fn a_line_without_an_end_gets_one() {
        let mut copied = Vec::new();
        copy_lines(&b"a\n\nb"[..], &mut copied, &AtomicBool::new(false));
        assert_eq!(copied, b"a\nb\n");
    }
}
