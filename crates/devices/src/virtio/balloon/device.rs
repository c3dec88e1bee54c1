//! The balloon as a virtio device: its queues, its configuration space and the timer that asks for statistics.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use thiserror::Error;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::handle::{BalloonHandle, BalloonTargetError};
use super::statistics::{STATISTICS_BYTES_MAX, Statistics};
use super::work::PageQueue;
use crate::virtio::configuration::read_configuration;
use crate::virtio::queue::{Chain, Queue, QueueFault};
use crate::virtio::work_left::WorkLeft;
use crate::virtio::{ActivateError, Activation, DeviceEvent, VirtioDevice, VirtioDeviceType};
use crate::wake::WakeEvent;

/// Feature bits (virtio 1.2 §5.5.3).
const STATS_VQ: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const PAGE_REPORTING: u64 = 1 << 5;

/// Tokens.
const GO_ON: u16 = 0;
const ASK: u16 = 1;

/// Most chains of the statistics queue a turn; an honest driver has one.
const TURN_CHAINS: u32 = 16;
/// How often statistics are asked for.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(2);

/// Where `actual` lies in the configuration space, after `num_pages` (§5.5.4).
const ACTUAL_OFFSET: u64 = 4;

/// What a balloon is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonDeviceConfig {
    /// The guest's memory in bytes: the most it can be asked for.
    pub memory: u64,
    /// What it is asked for from the start on, in bytes.
    pub target: u64,
    /// Whether the guest may take pages back when it runs out of memory.
    pub deflate_on_oom: bool,
    /// Whether the guest may tell of free pages.
    pub free_page_reporting: bool,
}

/// Why there is no balloon.
#[derive(Debug, Error)]
pub enum BalloonError {
    /// The target is impossible.
    #[error(transparent)]
    Target(#[from] BalloonTargetError),
    /// The process or the host has no file descriptor left.
    #[error("a descriptor for {what} could not be created")]
    Descriptor {
        /// What the descriptor was for.
        what: &'static str,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
}

/// A memory balloon.
pub struct BalloonDevice {
    handle: Arc<BalloonHandle>,
    offered: u64,
    queue_sizes: &'static [u16],
    state: State,
    go_on: WakeEvent,
    /// Runs while the statistics queue does.
    timer: OwnedFd,
}

enum State {
    Reset,
    Active(Box<Queues>),
    /// The queues are ignored until reset (virtio 1.2 §2.1.2).
    Broken,
}

struct Queues {
    inflate: PageQueue,
    deflate: PageQueue,
    statistics: Option<StatisticsQueue>,
    /// With its number, which depends on what else was negotiated.
    reporting: Option<(u16, PageQueue)>,
}

/// The driver's last figures, kept until new ones are wanted (§5.5.6.3).
struct StatisticsQueue {
    queue: Queue,
    in_hand: Option<Chain>,
}

/// Numbers of queues.
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS: u16 = 2;

impl BalloonDevice {
    /// A balloon in reset.
    ///
    /// # Errors
    /// See [`BalloonError`].
    pub fn new(config: BalloonDeviceConfig) -> Result<Self, BalloonError> {
        let failed = |what| move |source: io::Error| BalloonError::Descriptor { what, source };
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK);
        let mut offered = STATS_VQ | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;
        if config.deflate_on_oom {
            offered |= DEFLATE_ON_OOM;
        }
        let mut queue_sizes: &[u16] = &[128, 128, 16];
        if config.free_page_reporting {
            offered |= PAGE_REPORTING;
            queue_sizes = &[128, 128, 16, 64];
        }
        Ok(Self {
            handle: Arc::new(BalloonHandle::new(config.memory, config.target)?),
            offered,
            queue_sizes,
            state: State::Reset,
            go_on: WakeEvent::new().map_err(failed("waking the balloon"))?,
            timer: timer.map_err(|error| failed("the balloon's timer")(error.into()))?,
        })
    }

    /// Its target and figures.
    #[must_use]
    pub fn handle(&self) -> Arc<BalloonHandle> {
        Arc::clone(&self.handle)
    }

    /// Does `work` on the queues of an active balloon.
    fn turn(&mut self, work: impl FnOnce(&mut Queues, &BalloonHandle) -> Result<WorkLeft, QueueFault>) {
        let State::Active(queues) = &mut self.state else { return };
        match work(queues, &self.handle) {
            Ok(WorkLeft::Maybe) => self.go_on.ring(),
            Ok(WorkLeft::Nothing) => {}
            Err(fault) => {
                tracing::debug!(error = %fault, "a balloon's queue is broken");
                self.stop();
                self.state = State::Broken;
            }
        }
    }

    fn stop(&mut self) {
        self.state = State::Reset;
        set_timer(&self.timer, Duration::ZERO);
        self.handle.forget();
    }
}

/// Lets `timer` expire every `interval`, or never if that is zero.
fn set_timer(timer: &OwnedFd, interval: Duration) {
    let time = Timespec {
        tv_sec: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: interval.subsec_nanos().into(),
    };
    let setting = Itimerspec { it_interval: time, it_value: time };
    // Refused are only nonsensical times; without its timer the balloon shows the first figures for good.
    if let Err(error) = timerfd_settime(timer, TimerfdTimerFlags::empty(), &setting) {
        tracing::warn!(%error, "a balloon's timer could not be set");
    }
}

impl Queues {
    /// Assigns the queues to their tasks. Those of features that were not negotiated do not exist (§5.5.2), and
    /// drivers differ in whether they leave a gap: Linux numbers the others without one.
    fn new(activation: Activation) -> Result<Self, ActivateError> {
        let Activation { features, mut queues, .. } = activation;
        let mut take = |index: u16| queues.get_mut(usize::from(index)).and_then(Option::take);
        let required = |index: u16, queue: Option<Queue>| queue.ok_or(ActivateError::QueueDisabled { index });
        let inflate = PageQueue::new(required(INFLATE, take(INFLATE))?);
        let deflate = PageQueue::new(required(DEFLATE, take(DEFLATE))?);
        let mut next = STATISTICS;
        let mut statistics = None;
        if features & STATS_VQ != 0 {
            let queue = required(STATISTICS, take(STATISTICS))?;
            statistics = Some(StatisticsQueue { queue, in_hand: None });
            next += 1;
        }
        let mut reporting = None;
        if features & PAGE_REPORTING != 0 {
            let found = (next..=STATISTICS + 1).find_map(|index| Some((index, take(index)?)));
            let (index, queue) = found.ok_or(ActivateError::QueueDisabled { index: next })?;
            reporting = Some((index, PageQueue::new(queue)));
        }
        Ok(Self { inflate, deflate, statistics, reporting })
    }

    fn doorbell(&mut self, index: u16, handle: &BalloonHandle) -> Result<WorkLeft, QueueFault> {
        match index {
            INFLATE => self.inflate.inflate(handle),
            DEFLATE => self.deflate.deflate(),
            _ if self.reporting.as_ref().is_some_and(|(number, _)| *number == index) => self.report(handle),
            STATISTICS => self.learn(handle),
            _ => Ok(WorkLeft::Nothing),
        }
    }

    fn report(&mut self, handle: &BalloonHandle) -> Result<WorkLeft, QueueFault> {
        self.reporting.as_mut().map_or(Ok(WorkLeft::Nothing), |(_, queue)| queue.report(handle))
    }

    fn learn(&mut self, handle: &BalloonHandle) -> Result<WorkLeft, QueueFault> {
        self.statistics.as_mut().map_or(Ok(WorkLeft::Nothing), |queue| queue.learn(handle))
    }

    /// Serves all queues for one turn.
    fn all(&mut self, handle: &BalloonHandle) -> Result<WorkLeft, QueueFault> {
        let turns = [
            self.inflate.inflate(handle)?,
            self.deflate.deflate()?,
            self.report(handle)?,
            self.learn(handle)?,
        ];
        Ok(if turns.contains(&WorkLeft::Maybe) { WorkLeft::Maybe } else { WorkLeft::Nothing })
    }
}

impl StatisticsQueue {
    /// Reads what the driver sent and keeps the last chain, to be given back when more is wanted.
    fn learn(&mut self, handle: &BalloonHandle) -> Result<WorkLeft, QueueFault> {
        for _ in 0..TURN_CHAINS {
            let Some(chain) = self.queue.pop()? else {
                if self.queue.enable_doorbells()? {
                    continue;
                }
                self.queue.notify()?;
                return Ok(WorkLeft::Nothing);
            };
            let mut buffer = [0; STATISTICS_BYTES_MAX];
            let length =
                usize::try_from(chain.readable_len()).map_or(buffer.len(), |all| all.min(buffer.len()));
            if chain.read_at(self.queue.memory(), 0, &mut buffer[..length]).is_ok() {
                handle.learn(&Statistics::parse(&buffer[..length]));
            }
            if let Some(earlier) = self.in_hand.replace(chain) {
                self.queue.complete(earlier.head(), 0)?;
            }
        }
        self.queue.notify()?;
        Ok(WorkLeft::Maybe)
    }

    /// Gives the kept chain back, which asks the driver for new figures.
    fn ask(&mut self) -> Result<WorkLeft, QueueFault> {
        if let Some(chain) = self.in_hand.take() {
            self.queue.complete(chain.head(), 0)?;
            self.queue.notify()?;
        }
        Ok(WorkLeft::Nothing)
    }
}

impl VirtioDevice for BalloonDevice {
    fn device_type(&self) -> VirtioDeviceType {
        VirtioDeviceType::Balloon
    }

    fn queue_sizes(&self) -> &[u16] {
        self.queue_sizes
    }

    fn offered_features(&self) -> u64 {
        self.offered
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let fields = [self.handle.target_pages().to_le_bytes(), self.handle.actual_pages().to_le_bytes()];
        read_configuration(fields.as_flattened(), offset, data);
    }

    /// `actual` is the driver's.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut actual = self.handle.actual_pages().to_le_bytes();
        for (position, byte) in (offset..).zip(data) {
            let field = position.checked_sub(ACTUAL_OFFSET).and_then(|index| usize::try_from(index).ok());
            if let Some(place) = field.and_then(|index| actual.get_mut(index)) {
                *place = *byte;
            }
        }
        self.handle.set_actual_pages(u32::from_le_bytes(actual));
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queues = Queues::new(activation)?;
        if queues.statistics.is_some() {
            set_timer(&self.timer, STATISTICS_INTERVAL);
        }
        self.state = State::Active(Box::new(queues));
        Ok(())
    }

    fn events(&self) -> Vec<DeviceEvent<'_>> {
        vec![
            DeviceEvent { fd: self.go_on.as_fd(), token: GO_ON },
            DeviceEvent { fd: self.timer.as_fd(), token: ASK },
        ]
    }

    fn doorbell(&mut self, index: u16) {
        self.turn(|queues, handle| queues.doorbell(index, handle));
    }

    fn event(&mut self, token: u16) {
        match token {
            ASK => self.turn(|queues, _handle| match &mut queues.statistics {
                Some(statistics) => statistics.ask(),
                None => Ok(WorkLeft::Nothing),
            }),
            _ => self.turn(Queues::all),
        }
    }

    /// Nothing is ever in flight between calls.
    fn drain(&mut self, _deadline: Instant) -> bool {
        true
    }

    fn reset(&mut self) {
        self.stop();
    }

    fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }
}

#[cfg(test)]
mod tests;
