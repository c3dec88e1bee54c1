//! The thread that looks at a host's machines while one of them has something to serve, and marks those whose own threads
//! stand still.
//!
//! ```text
//!            alarm raised              a look finds no work, and no turn since the look before
//!   sleeps ──────────────▶ looks ────────────────────────────────────────────────────────────▶ sleeps
//!                           ▲ │ otherwise, after an interval
//!                           └─┘
//! ```

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use syscall_filter::ThreadKind;

use super::hosted_machines::HostedMachines;
use crate::watch_alarm::WatchAlarm;

/// The thread's name.
pub(crate) const WATCH_THREAD: &str = "vm-watch";

/// The shortest and the longest time between two looks.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// A host's watch thread. Dropping it makes the thread end, soon.
pub(crate) struct WatchThread {
    alarm: Arc<WatchAlarm>,
    thread: Option<JoinHandle<()>>,
}

impl WatchThread {
    /// Starts watching `machines`, whose threads may stand still for `patience`.
    pub(crate) fn start(machines: Arc<HostedMachines>, patience: Duration) -> io::Result<Self> {
        let alarm = Arc::<WatchAlarm>::default();
        let of_thread = alarm.clone();
        let builder = thread::Builder::new().name(WATCH_THREAD.to_owned());
        let thread = builder.spawn(move || watch(&of_thread, &machines, patience))?;
        Ok(Self { alarm, thread: Some(thread) })
    }

    /// What machines raise when they have something to serve.
    pub(crate) fn alarm(&self) -> &Arc<WatchAlarm> {
        &self.alarm
    }

    /// Ends it and waits, which takes no longer than a look at each machine.
    pub(crate) fn end(mut self) {
        let thread = self.thread.take();
        drop(self);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that looks at machines panicked");
        }
    }
}

impl Drop for WatchThread {
    fn drop(&mut self) {
        self.alarm.end();
    }
}

fn watch(alarm: &WatchAlarm, machines: &HostedMachines, patience: Duration) {
    syscall_filter::enter(ThreadKind::Watch, "");
    let (most_often, least_often) = LOOK_EVERY;
    let interval = (patience / 10).clamp(most_often, least_often);
    alarm.begin_watch();
    let mut turns = 0;
    while !alarm.is_over() {
        alarm.pause(interval);
        let seen = machines.update_health(Instant::now(), patience);
        // A busy machine has a turn every moment: its thread is not to wake this one each time.
        if seen.any_work || seen.turns != turns {
            turns = seen.turns;
            continue;
        }
        alarm.lower();
        if machines.any_work() {
            alarm.raise();
        } else {
            alarm.sleep();
        }
    }
}
