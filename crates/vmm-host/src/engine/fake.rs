//! Machines that behave, or misbehave, as a test says. No KVM, real threads.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use vm_model::{
    Bytes, FailureKind, GuestPanic, InitialState, LinkState, MachineCounters, MachineExit, MachineSpec,
    ResetSource, VcpuCounters, VcpuDump, VcpuReport,
};

use super::{
    BuildFailure, Controls, Driver, Engine, Event, Flow, Machine, Remains, Surroundings, TurnReport,
    Unsettled,
};
use crate::error::Cause;
use console_log::ConsoleWriter;
use machine_host::CountersSource;

/// What a machine of a given name does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Everything right: ends when its button is pressed.
    #[default]
    Obedient,
    /// Ignores its power button.
    Deaf,
    FailsToBuild,
    PanicsInBuild,
    /// Ends as soon as it runs, before its first vCPU is entered.
    EndsBeforeEntry,
    /// Switches itself off as soon as its first vCPU is entered.
    PowersOffAtOnce,
    /// Panics when asked to pause.
    PanicsOnPause,
    /// Cannot be paused.
    RefusesPause,
    /// Panics when what remains of it is dropped.
    PanicsInDrop,
    /// Waits for the gate while it is built.
    WaitsInBuild,
    /// Waits for the gate when asked to pause.
    WaitsOnPause,
    /// Waits for the gate when what remains of it is dropped.
    WaitsInDrop,
    /// Its disk has I/O in flight until the gate opens.
    NeverSettles,
    /// Resets itself as soon as its first vCPU is entered.
    Resets,
    /// As `Resets`, after its kernel reported a panic.
    ResetsAfterReport,
    /// As `Resets`, after its kernel's last words.
    ResetsAfterLastWords,
    /// As `Resets`, with I/O that never ends.
    ResetsUnsettled,
}

#[derive(Default)]
pub(crate) struct FakeEngine {
    behaviours: Mutex<HashMap<String, VecDeque<(Behaviour, Hold)>>>,
    /// Machines built and not yet dropped.
    pub(crate) alive: Arc<AtomicU64>,
    /// The most that were ever alive.
    pub(crate) most_alive: AtomicU64,
}

/// What waiting behaviours wait for: the other end of the channel to be dropped.
type Hold = Option<Receiver<()>>;

impl FakeEngine {
    /// Makes the next machine called `name` behave so, or the one after those that were told something before. It waits,
    /// if it is one that waits, until the answer is dropped.
    pub(crate) fn will(&self, name: &str, behaviour: Behaviour) -> SyncSender<()> {
        let (sender, receiver) = sync_channel(0);
        let mut behaviours = self.behaviours.lock().expect("no test panics here");
        behaviours.entry(name.to_owned()).or_default().push_back((behaviour, Some(receiver)));
        sender
    }
}

struct FakeMachine {
    behaviour: Behaviour,
    gate: Hold,
    console: ConsoleWriter,
    button_pressed: bool,
    paused: bool,
    entered: bool,
    turns: Arc<AtomicU64>,
    alive: Arc<AtomicU64>,
}

impl Engine for FakeEngine {
    fn build(
        &self,
        _spec: MachineSpec<OwnedFd>,
        surroundings: Surroundings,
    ) -> Result<Box<dyn Machine>, BuildFailure> {
        let (behaviour, mut gate) = self
            .behaviours
            .lock()
            .expect("no test panics here")
            .get_mut(&surroundings.name)
            .and_then(VecDeque::pop_front)
            .unwrap_or_default();
        if behaviour == Behaviour::FailsToBuild {
            let cause = "the kernel is no kernel".into();
            return Err(BuildFailure { kind: FailureKind::Artifact, cause });
        }
        assert!(behaviour != Behaviour::PanicsInBuild, "no plan for {}", surroundings.name);
        if behaviour == Behaviour::WaitsInBuild {
            wait(&mut gate);
        }
        let alive = self.alive.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_alive.fetch_max(alive, Ordering::SeqCst);
        Ok(Box::new(FakeMachine {
            behaviour,
            gate,
            console: surroundings.console,
            button_pressed: false,
            paused: false,
            entered: false,
            turns: Arc::default(),
            alive: self.alive.clone(),
        }))
    }
}

fn wait(gate: &mut Hold) {
    if let Some(gate) = gate.take() {
        let _ = gate.recv();
    }
}

impl FakeMachine {
    fn enter(&mut self, driver: &mut dyn Driver) {
        if !self.entered && !self.paused {
            self.entered = true;
            driver.event(Event::FirstEntry { at: Instant::now() });
            self.console.write(b"hello\n");
            driver.event(Event::FirstConsoleByte { at: Instant::now() });
            if self.behaviour == Behaviour::ResetsAfterReport {
                driver.event(Event::GuestPanicked(GuestPanic::Panicked));
            }
            if self.behaviour == Behaviour::ResetsAfterLastWords {
                self.console.write(b"Kernel panic - not syncing: no init\n");
            }
        }
    }

    /// How it ends by itself, once it was entered.
    fn own_end(&self) -> Option<MachineExit> {
        let resets = matches!(
            self.behaviour,
            Behaviour::Resets
                | Behaviour::ResetsAfterReport
                | Behaviour::ResetsAfterLastWords
                | Behaviour::ResetsUnsettled
        );
        let powers_off = self.behaviour == Behaviour::PowersOffAtOnce
            || (self.button_pressed && self.behaviour != Behaviour::Deaf);
        if resets {
            Some(MachineExit::Reset(ResetSource::Acpi))
        } else {
            powers_off.then_some(MachineExit::PoweredOff)
        }
    }
}

impl Machine for FakeMachine {
    fn counters(&self) -> Box<dyn CountersSource> {
        Box::new(FakeCounters(self.turns.clone()))
    }

    fn start(&mut self, initial: InitialState) -> Result<(), Cause> {
        self.paused = initial == InitialState::Paused;
        Ok(())
    }

    fn run(&mut self, driver: &mut dyn Driver) -> MachineExit {
        if self.behaviour == Behaviour::EndsBeforeEntry {
            return MachineExit::Failed("the vCPU cannot be entered".to_owned());
        }
        loop {
            self.enter(driver);
            if let Some(exit) = self.own_end().filter(|_| self.entered) {
                return exit;
            }
            let fd = driver.wake_fd();
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).expect("eventfds can be polled");
            self.turns.fetch_add(1, Ordering::SeqCst);
            driver.turning();
            let begun = Instant::now();
            let flow = driver.woken(self);
            let took = begun.elapsed();
            driver.turned(&TurnReport { took, slowest: &"controller", slowest_took: took });
            if flow == Flow::Kill {
                return MachineExit::Killed;
            }
        }
    }

    fn controls(&mut self) -> &mut dyn Controls {
        self
    }

    fn is_settled(&self) -> bool {
        self.behaviour != Behaviour::ResetsUnsettled
    }

    fn into_remains(self: Box<Self>) -> Box<dyn Remains> {
        self
    }
}

impl Remains for FakeMachine {
    fn settle(&mut self, deadline: Instant) -> Result<(), Unsettled> {
        if self.behaviour == Behaviour::NeverSettles
            && let Some(gate) = &self.gate
        {
            let left = deadline.saturating_duration_since(Instant::now());
            if gate.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                return Err(Unsettled { device: "root".to_owned() });
            }
        }
        Ok(())
    }
}

impl Controls for FakeMachine {
    fn pause(&mut self, _within: Duration) -> Result<(), Cause> {
        assert!(self.behaviour != Behaviour::PanicsOnPause, "cannot bear to pause");
        if self.behaviour == Behaviour::RefusesPause {
            return Err("vCPU 0 does not park".into());
        }
        if self.behaviour == Behaviour::WaitsOnPause {
            wait(&mut self.gate);
        }
        self.paused = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Cause> {
        self.paused = false;
        Ok(())
    }

    fn press_power_button(&mut self) -> Result<(), Cause> {
        assert!(!self.paused, "nobody would see the button");
        self.button_pressed = true;
        Ok(())
    }

    fn set_balloon(&mut self, _size: Bytes) -> Result<(), Cause> {
        Err("there is no balloon".into())
    }

    /// It has one, and writes its new state down.
    fn set_link(&mut self, nic: &str, link: LinkState) -> Result<(), Cause> {
        if nic != "net0" {
            return Err(format!("there is no interface {nic}").into());
        }
        self.console.write(format!("net0 {link:?}\n").as_bytes());
        Ok(())
    }

    fn announce(&mut self, nic: &str) -> Result<(), Cause> {
        Err(format!("there is no interface {nic}").into())
    }

    /// Echoes, three bytes at a time.
    fn write_console(&mut self, bytes: &[u8]) -> usize {
        let accepted = bytes.len().min(3);
        self.console.write(&bytes[..accepted]);
        accepted
    }

    fn inject_nmi(&mut self, _within: Duration) -> Result<(), Cause> {
        self.console.write(b"nmi\n");
        Ok(())
    }

    /// Its one vCPU has no registers.
    fn dump_vcpus(&mut self, _within: Duration) -> Result<Vec<VcpuDump>, Cause> {
        Ok(vec![VcpuDump { index: 0, report: VcpuReport::Silent }])
    }

    /// Writes its new size down.
    fn resize_console(&mut self, columns: u16, rows: u16) -> Result<(), Cause> {
        self.console.write(format!("{columns} by {rows}\n").as_bytes());
        Ok(())
    }
}

impl Drop for FakeMachine {
    fn drop(&mut self) {
        if self.behaviour == Behaviour::WaitsInDrop {
            wait(&mut self.gate);
        }
        self.alive.fetch_sub(1, Ordering::SeqCst);
        assert!(self.behaviour != Behaviour::PanicsInDrop, "does not go quietly");
    }
}

struct FakeCounters(Arc<AtomicU64>);

impl CountersSource for FakeCounters {
    fn read(&self) -> MachineCounters {
        MachineCounters {
            vcpus: vec![VcpuCounters { exits: self.0.load(Ordering::SeqCst), ..VcpuCounters::default() }],
            ..MachineCounters::default()
        }
    }
}
