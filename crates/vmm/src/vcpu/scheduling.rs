//! What the host's kernel says of a thread in `/proc`: how long it waited for a processor, and its page faults.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use vm_model::ThreadCounters;

/// The most that is read of a file: a line. The kernel gives it in one reading.
const LINE: usize = 1024;

/// Where one thread's figures are read. Both files are kept open: a thread that runs a guest may not open any.
#[derive(Debug)]
pub(super) struct ThreadFiles {
    schedstat: Option<File>,
    stat: Option<File>,
}

impl ThreadFiles {
    pub(super) fn of_this_thread() -> Self {
        // Whose numbers `/proc` has, the host's or this process' own, does not matter so.
        let open = |file| File::open(format!("/proc/thread-self/{file}")).ok();
        Self { schedstat: open("schedstat"), stat: open("stat") }
    }

    /// The figures now; `None` where `/proc` does not have them, or the thread is gone.
    pub(super) fn read(&self) -> Option<ThreadCounters> {
        let run_delay = line(self.schedstat.as_ref()?, run_delay)?;
        let (minor_faults, major_faults) = line(self.stat.as_ref()?, faults)?;
        Some(ThreadCounters { run_delay, minor_faults, major_faults })
    }
}

/// What `parse` finds in the line of `file`, as it is now.
fn line<T>(file: &File, parse: fn(&str) -> Option<T>) -> Option<T> {
    let mut line = [0; LINE];
    let length = file.read_at(&mut line, 0).ok()?;
    // A thread's name may be anything, also cut within a character: what is looked for comes after it.
    parse(&String::from_utf8_lossy(line.get(..length)?))
}

/// From `schedstat` (proc_pid_schedstat(5)): nanoseconds on a processor, nanoseconds of waiting for one, slices.
fn run_delay(line: &str) -> Option<Duration> {
    line.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// From `stat` (proc_pid_stat(5)): fields 10 and 12. The name before them may have any characters, also `)`.
fn faults(line: &str) -> Option<(u64, u64)> {
    let (_, after_name) = line.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(7);
    let minor = fields.next()?.parse().ok()?;
    let major = fields.nth(1)?.parse().ok()?;
    Some((minor, major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whatever_a_thread_is_called() {
        assert_eq!(run_delay("12 3000 4\n"), Some(Duration::from_micros(3)));
        assert_eq!(run_delay("12"), None);
        assert_eq!(faults("7 (vcpu0:) 1 2) R 1 7 7 0 -1 4194560 130 9 5 0 1 2"), Some((130, 5)));
        assert_eq!(faults("7 (x) R 1"), None);
    }

    #[test]
    fn this_thread_has_figures_and_one_that_is_gone_has_none() {
        let files = std::thread::spawn(ThreadFiles::of_this_thread).join().expect("it ends well");
        assert!(ThreadFiles::of_this_thread().read().is_some_and(|counters| counters.minor_faults > 0));
        assert_eq!(files.read(), None);
    }
}
