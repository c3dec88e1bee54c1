//! Stops of machines that are a status and a list of the commands that came, on a clock that only waiting moves.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use vm_model::{MachineCounters, MachinePhase, MachineStatus, Reply, ThreadHealth};

use super::*;
use crate::handle::HandleParts;
use crate::{CommandPort, CountersSource, ReplyFuture};

struct NoCounters;

impl CountersSource for NoCounters {
    fn read(&self) -> MachineCounters {
        MachineCounters::default()
    }
}

/// Notes commands with the seconds at which they came, and does with the status what a guest would.
#[derive(Clone)]
struct Guest {
    begun: Instant,
    status: Arc<watch::Sender<MachineStatus>>,
    asked: Arc<Mutex<Vec<u64>>>,
    /// After how many requests it reads its button, and after how many it powers off.
    reads_at: usize,
    obeys_at: usize,
}

impl Guest {
    fn new(reads_at: usize, obeys_at: usize) -> Self {
        let status = Arc::new(watch::Sender::new(MachineStatus::booting()));
        Self { begun: Instant::now(), status, asked: Arc::default(), reads_at, obeys_at }
    }

    fn asked(&self) -> Vec<u64> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn handle(&self) -> MachineHandle {
        MachineHandle::from_parts(HandleParts {
            id: VmId::new("vm"),
            port: Box::new(self.clone()),
            status: self.status.subscribe(),
            health: watch::channel(ThreadHealth::default()).1,
            released: watch::channel(true).1,
            counters: Arc::new(NoCounters),
            console: console_log::ConsoleRecorder::new(console_log::ConsoleLimits::default()).0,
            command_deadline: Duration::from_secs(5),
        })
    }
}

impl CommandPort for Guest {
    fn call(&self, command: Command) -> ReplyFuture<'_> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.status.send_modify(|status| match command {
            Command::Kill => status.phase = MachinePhase::Exited(MachineExit::Killed),
            _ => {
                asked.push(self.begun.elapsed().as_secs());
                status.phase = MachinePhase::Stopping;
                status.power_button =
                    if asked.len() >= self.reads_at { PowerButton::Seen } else { PowerButton::Pressed };
                if asked.len() >= self.obeys_at {
                    status.phase = MachinePhase::Exited(MachineExit::PoweredOff);
                }
            }
        });
        Box::pin(std::future::ready(Ok(Reply::Done)))
    }
}

const NEVER: usize = usize::MAX;

#[tokio::test(start_paused = true)]
async fn a_guest_that_obeys_is_asked_once() {
    let guest = Guest::new(1, 1);
    let report = guest.handle().stop(StopPolicy::default()).await.expect("it stops");
    assert_eq!((report.method, guest.asked()), (StopMethod::PowerButton, vec![0]));
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_read_its_button_yet_is_reminded_until_it_does() {
    let guest = Guest::new(4, 4);
    let report = guest.handle().stop(StopPolicy::default()).await.expect("it stops");
    assert_eq!((report.method, report.exit), (StopMethod::PowerButton, MachineExit::PoweredOff));
    assert_eq!(guest.asked(), [0, 1, 3, 7]);
    assert_eq!(report.took.as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn one_that_reads_it_and_goes_on_is_asked_again_more_seldom() {
    let guest = Guest::new(3, 5);
    let report = guest.handle().stop(StopPolicy::default()).await.expect("it stops");
    assert_eq!(report.method, StopMethod::PowerButton);
    assert_eq!(guest.asked(), [0, 1, 3, 8, 18], "it read at the third");
}

#[tokio::test(start_paused = true)]
async fn one_that_never_listens_is_killed_when_its_time_is_over() {
    let guest = Guest::new(NEVER, NEVER);
    let report = guest.handle().stop(StopPolicy::default()).await.expect("it stops");
    assert_eq!((report.method, report.took.as_secs()), (StopMethod::Kill, 30));
    assert_eq!(guest.asked(), [0, 1, 3, 7, 11, 15, 19, 23, 27]);
}

#[tokio::test(start_paused = true)]
async fn one_that_says_that_it_goes_is_waited_for() {
    let guest = Guest::new(1, NEVER);
    let begun = Instant::now();
    let is_going = || begun.elapsed() > Duration::from_secs(6);
    let report = guest.handle().stop_unless_going(StopPolicy::default(), is_going).await.expect("it stops");
    assert_eq!((report.method, report.took.as_secs()), (StopMethod::Kill, 30));
    assert_eq!(guest.asked(), [0, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_short_patience_is_kept() {
    let guest = Guest::new(NEVER, NEVER);
    let policy = StopPolicy { power_button: Duration::from_millis(1500), ..StopPolicy::default() };
    let report = guest.handle().stop(policy).await.expect("it stops");
    assert_eq!((report.method, report.took.as_millis()), (StopMethod::Kill, 1500));
    assert_eq!(guest.asked(), [0, 1]);
    let guest = Guest::new(NEVER, NEVER);
    let report = guest.handle().stop(StopPolicy::KILL).await.expect("it stops");
    assert_eq!((report.method, guest.asked()), (StopMethod::Kill, vec![]));
}
