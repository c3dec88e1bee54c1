//! The processor time of a thread, read by other threads while it runs and after it ended.
#![expect(unsafe_code, reason = "reading another thread's clock takes two libc calls")]

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

/// `clockid` before the thread started and after it ended: no clock has this number.
const NO_CLOCK: i32 = i32::MAX;

/// One thread's processor time.
#[derive(Debug)]
pub(super) struct ThreadClock {
    clockid: AtomicI32,
    /// Nanoseconds of threads that ended.
    ended: AtomicU64,
}

impl Default for ThreadClock {
    fn default() -> Self {
        Self { clockid: AtomicI32::new(NO_CLOCK), ended: AtomicU64::new(0) }
    }
}

/// Measures the calling thread until dropped.
pub(super) struct Measuring<'a> {
    clock: &'a ThreadClock,
}

impl ThreadClock {
    /// Starts measuring the calling thread. Without its clock, which only a broken host lacks, it reads as zero.
    pub(super) fn measure_this_thread(&self) -> Measuring<'_> {
        let mut clockid = 0;
        // SAFETY: takes nothing and cannot fail.
        let thread = unsafe { libc::pthread_self() };
        // SAFETY: the thread is the caller and so alive; the result goes to a live variable.
        if unsafe { libc::pthread_getcpuclockid(thread, &raw mut clockid) } == 0 {
            self.clockid.store(clockid, Ordering::Release);
        }
        Measuring { clock: self }
    }

    /// The time used until now.
    pub(super) fn read(&self) -> Duration {
        let clockid = self.clockid.load(Ordering::Acquire);
        let running = if clockid == NO_CLOCK { None } else { read(clockid) };
        // A thread that ends between the two reads is counted by the second: its clock is gone by then.
        running.unwrap_or_else(|| Duration::from_nanos(self.ended.load(Ordering::Acquire)))
    }
}

impl Drop for Measuring<'_> {
    fn drop(&mut self) {
        let clockid = self.clock.clockid.load(Ordering::Acquire);
        if let Some(used) = read(clockid) {
            let nanoseconds = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
            self.clock.ended.store(nanoseconds, Ordering::Release);
        }
        self.clock.clockid.store(NO_CLOCK, Ordering::Release);
    }
}

fn read(clockid: i32) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a live structure; the kernel refuses the clock of a thread that is gone.
    if unsafe { libc::clock_gettime(clockid, &raw mut time) } != 0 {
        return None;
    }
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanoseconds = u32::try_from(time.tv_nsec).ok()?;
    Some(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    #[test]
    fn a_threads_time_is_seen_while_it_works_and_after() {
        let clock = Arc::new(ThreadClock::default());
        assert_eq!(clock.read(), Duration::ZERO);
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn({
            let clock = clock.clone();
            move || {
                let _measuring = clock.measure_this_thread();
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    std::hint::spin_loop();
                }
            }
        });
        while clock.read() < Duration::from_millis(5) {
            std::thread::yield_now();
        }
        stop.send(()).unwrap();
        thread.join().unwrap();
        let used = clock.read();
        assert!(used >= Duration::from_millis(5));
        assert_eq!(clock.read(), used, "an ended thread uses no more");
    }
}
