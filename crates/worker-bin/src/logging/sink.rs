//! The end of the log: a descriptor that need not take anything, and is given up for no failure.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, write};

use super::queue::Outcome;

/// Writes lines to a descriptor.
#[derive(Debug)]
pub(super) struct Sink<F> {
    descriptor: F,
    /// Whether the last line broke off in its midst.
    is_mid_line: bool,
}

impl<F: AsFd> Sink<F> {
    pub(super) fn new(descriptor: F) -> Self {
        Self { descriptor, is_mid_line: false }
    }

    /// Writes `line`, waiting as long as the descriptor lets it wait. After a failure the next line is tried all the same:
    /// a disk has room again, and a terminal comes back.
    pub(super) fn write_line(&mut self, line: &[u8]) -> Outcome {
        if self.is_mid_line && self.write_all(b"\n").is_err() {
            return Outcome::Failed;
        }
        self.is_mid_line = false;
        match self.write_all(line) {
            Ok(()) => Outcome::Written,
            Err(written) => {
                self.is_mid_line = written > 0;
                Outcome::Failed
            }
        }
    }

    /// Writes all of `bytes`, or tells how many were written.
    fn write_all(&self, bytes: &[u8]) -> Result<(), usize> {
        let mut written = 0;
        while written < bytes.len() {
            match write(&self.descriptor, &bytes[written..]) {
                Ok(0) => return Err(written),
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                // Whoever shares the descriptor may have made it non-blocking.
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&self.descriptor, PollFlags::OUT)], None);
                }
                Err(_) => return Err(written),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{Read, pipe};

    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    use super::*;

    #[test]
    fn a_descriptor_that_takes_nothing_is_tried_again_each_time() {
        let mut full = Sink::new(File::options().write(true).open("/dev/full").expect("opened"));
        assert_eq!([full.write_line(b"a\n"), full.write_line(b"b\n")], [Outcome::Failed; 2]);
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        assert_eq!(Sink::new(writer).write_line(b"a\n"), Outcome::Failed);
    }

    #[test]
    fn a_line_after_one_that_broke_off_begins_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let mut sink = Sink::new(File::create(&path).expect("created"));
        sink.is_mid_line = true;
        assert_eq!(sink.write_line(b"whole\n"), Outcome::Written);
        assert_eq!(sink.write_line(b"next\n"), Outcome::Written);
        assert_eq!(fs::read_to_string(&path).expect("read"), "\nwhole\nnext\n");
    }

    #[test]
    fn a_pipe_that_does_not_block_gets_everything_all_the_same() {
        let (mut reader, writer) = pipe().expect("a pipe");
        let flags = fcntl_getfl(&writer).expect("flags");
        fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("set");
        let line = vec![b'x'; 1 << 20];
        let writing = std::thread::spawn(move || Sink::new(writer).write_line(&line));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        assert_eq!((read.len(), writing.join().expect("whole")), (1 << 20, Outcome::Written));
    }
}
