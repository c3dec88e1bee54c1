//! Carries commands to a machine's thread: a bounded channel, in which tasks wait for room, and an eventfd that wakes the
//! machine's event loop.
//!
//! The console of the machine rings the same bell when it tells something of its guest.
//!
//! A kill does not queue: it is a flag, seen before any command. It is also raised when the sending end
//! is dropped, so that a machine ends whose last handle is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use console_log::{Alarm, ConsoleNews};
use machine_host::{CommandPort, PortClosed, ReplyFuture};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{mpsc, oneshot};
use vm_model::{BootTrouble, Command, Reply};

use crate::watch_alarm::WatchAlarm;

/// A command and the channel for its reply.
pub(crate) struct Envelope {
    pub(crate) command: Command,
    reply: oneshot::Sender<Reply>,
}

impl Envelope {
    /// Whether its caller still waits for the reply.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.reply.is_closed()
    }

    pub(crate) fn answer(self, reply: Reply) {
        // A caller that gave up meanwhile has its own error already.
        let _ = self.reply.send(reply);
    }
}

/// Ends one machine from anywhere.
#[derive(Clone)]
pub(crate) struct KillSwitch(Arc<Bell>);

struct Bell {
    killed: AtomicBool,
    /// The guest's kernel panicked and stands still, as its console says.
    panic_heard: AtomicBool,
    /// What the console told of a boot that went wrong, until the machine's thread takes it. Held for a move: a poisoned
    /// lock is used on.
    boot_trouble: Mutex<Option<BootTrouble>>,
    /// Whether it was rung and not silenced since.
    rings: AtomicBool,
    eventfd: OwnedFd,
    /// Wakes who sees to it that the machine's thread gets on.
    alarm: Arc<WatchAlarm>,
}

impl KillSwitch {
    pub(crate) fn pull(&self) {
        self.0.killed.store(true, Ordering::Release);
        self.0.ring();
    }

    /// Whether something waits for the machine's thread to look at it.
    pub(crate) fn rings(&self) -> bool {
        self.0.rings.load(Ordering::SeqCst)
    }
}

impl Bell {
    /// Leaves `trouble` for the machine's thread in place of what was there, which is answered.
    fn put_trouble(&self, trouble: Option<BootTrouble>) -> Option<BootTrouble> {
        std::mem::replace(&mut *self.boot_trouble.lock().unwrap_or_else(PoisonError::into_inner), trouble)
    }

    fn ring(&self) {
        // In one order with the alarm's own accesses: see there.
        self.rings.store(true, Ordering::SeqCst);
        self.alarm.raise();
        // It can only fail for a counter at its maximum, which is as loud as it gets.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }
}

/// The sending end.
pub(crate) struct Outbox {
    commands: mpsc::Sender<Envelope>,
    kill_switch: KillSwitch,
}

/// The machine's end.
pub(crate) struct Inbox {
    commands: mpsc::Receiver<Envelope>,
    bell: Arc<Bell>,
}

/// A mailbox that holds at most `capacity` commands, and whose bell raises `alarm` too.
pub(crate) fn mailbox(capacity: usize, alarm: Arc<WatchAlarm>) -> io::Result<(Outbox, Inbox)> {
    let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let bell = Arc::new(Bell {
        killed: AtomicBool::new(false),
        panic_heard: AtomicBool::new(false),
        boot_trouble: Mutex::default(),
        rings: AtomicBool::new(false),
        eventfd,
        alarm,
    });
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let outbox = Outbox { commands: sender, kill_switch: KillSwitch(bell.clone()) };
    let inbox = Inbox { commands: receiver, bell };
    Ok((outbox, inbox))
}

impl Outbox {
    pub(crate) fn kill_switch(&self) -> KillSwitch {
        self.kill_switch.clone()
    }

    /// To be called on any thread when the console tells something of its guest; it does not wait.
    pub(crate) fn console_alarm(&self) -> Alarm {
        let bell = Arc::clone(&self.kill_switch.0);
        Box::new(move |news| {
            match news {
                ConsoleNews::StandsStill => bell.panic_heard.store(true, Ordering::Release),
                ConsoleNews::BootTrouble(trouble) => drop(bell.put_trouble(Some(trouble))),
            }
            bell.ring();
        })
    }

    async fn exchange(&self, command: Command) -> Result<Reply, PortClosed> {
        if command == Command::Kill {
            self.kill_switch.pull();
            return Ok(Reply::Done);
        }
        let (reply, answer) = oneshot::channel();
        let envelope = Envelope { command, reply };
        self.commands.send(envelope).await.map_err(|_| PortClosed)?;
        self.kill_switch.0.ring();
        answer.await.map_err(|_| PortClosed)
    }
}

impl CommandPort for Outbox {
    fn call(&self, command: Command) -> ReplyFuture<'_> {
        Box::pin(self.exchange(command))
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.kill_switch.pull();
    }
}

impl Inbox {
    /// Readable when there is something to look at.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.bell.eventfd.as_fd()
    }

    /// Silences the bell. Done before looking, so that what arrives while looking rings again.
    pub(crate) fn silence(&self) {
        let mut count = [0; 8];
        // Not readable: woken for nothing, which is no fault.
        let _ = rustix::io::read(&self.bell.eventfd, &mut count);
        // After it: whoever rings in between makes the descriptor readable, and the next silence comes of that.
        self.bell.rings.store(false, Ordering::Release);
    }

    /// Rings the bell, to be woken once more.
    pub(crate) fn ring(&self) {
        self.bell.ring();
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.bell.killed.load(Ordering::Acquire)
    }

    /// Whether the alarm was raised since this was forgotten last.
    pub(crate) fn heard_panic(&self) -> bool {
        self.bell.panic_heard.load(Ordering::Acquire)
    }

    /// What the console told of a boot that went wrong, if it did since this was asked last.
    pub(crate) fn take_boot_trouble(&self) -> Option<BootTrouble> {
        self.bell.put_trouble(None)
    }

    /// Forgets what the console told: it was another guest's.
    pub(crate) fn forget_console_news(&self) {
        self.bell.panic_heard.store(false, Ordering::Release);
        drop(self.bell.put_trouble(None));
    }

    /// The next command whose caller still waits for the reply.
    pub(crate) fn take(&mut self) -> Option<Envelope> {
        loop {
            let envelope = self.commands.try_recv().ok()?;
            if envelope.is_awaited() {
                return Some(envelope);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use tokio::time::timeout;

    use super::*;

    fn rings(inbox: &Inbox) -> bool {
        let fd = inbox.wake_fd();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&at_once)).expect("eventfds can be polled") == 1
    }

    #[tokio::test]
    async fn a_command_rings_and_its_answer_comes_back() {
        let (outbox, mut inbox) = mailbox(1, Arc::default()).expect("an eventfd");
        let call = tokio::spawn(async move { outbox.call(Command::Resume).await });
        let envelope = loop {
            tokio::task::yield_now().await;
            if let Some(envelope) = inbox.take() {
                break envelope;
            }
        };
        assert_eq!(envelope.command, Command::Resume);
        envelope.answer(Reply::Done);
        assert_eq!(call.await.expect("no panic"), Ok(Reply::Done));
        assert!(rings(&inbox) && inbox.bell.rings.load(Ordering::Acquire));
        inbox.silence();
        assert!(!rings(&inbox) && !inbox.bell.rings.load(Ordering::Acquire));
    }

    #[tokio::test]
    async fn a_command_that_was_given_up_is_never_carried_out() {
        let (outbox, mut inbox) = mailbox(4, Arc::default()).expect("an eventfd");
        let call = outbox.call(Command::Resume);
        assert!(timeout(Duration::from_millis(1), call).await.is_err());
        assert!(inbox.take().is_none());
        assert!(!inbox.is_killed());
    }

    #[tokio::test]
    async fn a_kill_overtakes_a_full_queue() {
        let (outbox, inbox) = mailbox(1, Arc::default()).expect("an eventfd");
        let (first, second) = (outbox.call(Command::Resume), outbox.call(Command::Resume));
        let both = async { tokio::join!(first, second) };
        assert!(timeout(Duration::from_millis(1), both).await.is_err());
        assert_eq!(outbox.call(Command::Kill).await, Ok(Reply::Done));
        assert!(inbox.is_killed());
    }

    #[tokio::test]
    async fn losing_either_end_is_noticed_at_the_other() {
        let (outbox, inbox) = mailbox(1, Arc::default()).expect("an eventfd");
        drop(outbox);
        assert!(rings(&inbox) && inbox.is_killed());

        let (outbox, inbox) = mailbox(1, Arc::default()).expect("an eventfd");
        drop(inbox);
        assert_eq!(outbox.call(Command::Resume).await, Err(PortClosed));
    }
}
