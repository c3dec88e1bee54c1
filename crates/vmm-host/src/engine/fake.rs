//! Machines that behave, or misbehave, as a test says. No KVM, real threads.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use vm_model::{
    Bytes, FailureKind, LinkState, MachineCounters, MachineExit, MachineSpec, VcpuCounters, VcpuDump,
    VcpuReport,
};

use super::{BuildFailure, Cause, Controls, Driver, Engine, Event, Flow, Machine, Surroundings, Turn};
use crate::console::ConsoleWriter;
use crate::counters::CountersSource;
use crate::host::InitialState;

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
}

#[derive(Default)]
pub(crate) struct FakeEngine {
    behaviours: Mutex<HashMap<String, (Behaviour, Gate)>>,
    /// Machines built and not yet dropped.
    pub(crate) alive: Arc<AtomicU64>,
}

/// What waiting behaviours wait for: the other end of the channel to be dropped.
type Gate = Option<Receiver<()>>;

impl FakeEngine {
    /// Makes the next machine called `name` behave so. It waits, if it is one that waits, until the answer is
    /// dropped.
    pub(crate) fn will(&self, name: &str, behaviour: Behaviour) -> SyncSender<()> {
        let (sender, receiver) = sync_channel(0);
        let mut behaviours = self.behaviours.lock().expect("no test panics here");
        behaviours.insert(name.to_owned(), (behaviour, Some(receiver)));
        sender
    }
}

struct FakeMachine {
    behaviour: Behaviour,
    gate: Gate,
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
            .remove(&surroundings.name)
            .unwrap_or_default();
        match behaviour {
            Behaviour::FailsToBuild => {
                return Err(BuildFailure {
                    kind: FailureKind::Artifact,
                    cause: "the kernel is no kernel".into(),
                });
            }
            Behaviour::PanicsInBuild => panic!("no plan for {}", surroundings.name),
            Behaviour::WaitsInBuild => wait(&mut gate),
            Behaviour::Obedient
            | Behaviour::Deaf
            | Behaviour::EndsBeforeEntry
            | Behaviour::PowersOffAtOnce
            | Behaviour::PanicsOnPause
            | Behaviour::RefusesPause
            | Behaviour::PanicsInDrop
            | Behaviour::WaitsOnPause
            | Behaviour::WaitsInDrop => {}
        }
        self.alive.fetch_add(1, Ordering::SeqCst);
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

fn wait(gate: &mut Gate) {
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
            if self.behaviour == Behaviour::PowersOffAtOnce
                || (self.button_pressed && self.behaviour != Behaviour::Deaf)
            {
                return MachineExit::PoweredOff;
            }
            let fd = driver.wake_fd();
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).expect("eventfds can be polled");
            self.turns.fetch_add(1, Ordering::SeqCst);
            driver.turning();
            let begun = Instant::now();
            let flow = driver.woken(self);
            let took = begun.elapsed();
            driver.turned(&Turn { took, slowest: &"controller", slowest_took: took });
            if flow == Flow::Kill {
                return MachineExit::Killed;
            }
        }
    }

    fn into_remains(self: Box<Self>) -> Box<dyn Send> {
        self
    }
}

impl Controls for FakeMachine {
    fn pause(&mut self, _within: Duration) -> Result<(), Cause> {
        match self.behaviour {
            Behaviour::PanicsOnPause => panic!("cannot bear to pause"),
            Behaviour::RefusesPause => return Err("vCPU 0 does not park".into()),
            Behaviour::WaitsOnPause => wait(&mut self.gate),
            Behaviour::Obedient
            | Behaviour::Deaf
            | Behaviour::FailsToBuild
            | Behaviour::PanicsInBuild
            | Behaviour::EndsBeforeEntry
            | Behaviour::PowersOffAtOnce
            | Behaviour::PanicsInDrop
            | Behaviour::WaitsInBuild
            | Behaviour::WaitsInDrop => {}
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

    fn set_link(&mut self, nic: &str, _link: LinkState) -> Result<(), Cause> {
        Err(format!("there is no interface {nic}").into())
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
            vcpus: vec![VcpuCounters { cpu_time: Duration::ZERO, exits: self.0.load(Ordering::SeqCst) }],
            ..MachineCounters::default()
        }
    }
}
