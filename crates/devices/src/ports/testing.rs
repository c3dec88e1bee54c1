//! Ports that count and remember, for tests of devices.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Doorbells, LineInterrupt, MessageInterrupts, MsiMessage};

/// Counts edges.
#[derive(Debug, Default)]
pub struct CountingLine(AtomicU32);

impl CountingLine {
    /// How many edges there were since the last call.
    pub fn take(&self) -> u32 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl LineInterrupt for CountingLine {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Remembers programmed messages and what was delivered, in order.
#[derive(Debug)]
pub struct RecordingMessages {
    programmed: Mutex<Vec<Option<MsiMessage>>>,
    delivered: Mutex<Vec<(u16, MsiMessage)>>,
    events: Vec<EventFd>,
}

impl RecordingMessages {
    /// A port with `count` vectors.
    pub fn new(count: u16) -> Self {
        let programmed = Mutex::new(vec![None; usize::from(count)]);
        let events = (0..count).map(|_| EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
        Self { programmed, delivered: Mutex::default(), events: events.collect() }
    }

    /// What was delivered since the last call: vectors and the messages they carried.
    pub fn take(&self) -> Vec<(u16, MsiMessage)> {
        std::mem::take(&mut self.delivered.lock().unwrap())
    }

    /// The message of `vector`, if it has one.
    pub fn programmed(&self, vector: u16) -> Option<MsiMessage> {
        self.programmed.lock().unwrap()[usize::from(vector)]
    }
}

impl MessageInterrupts for RecordingMessages {
    fn count(&self) -> u16 {
        u16::try_from(self.programmed.lock().unwrap().len()).expect("made from a u16")
    }

    fn program(&self, vector: u16, message: MsiMessage) -> io::Result<()> {
        let mut programmed = self.programmed.lock().unwrap();
        *programmed.get_mut(usize::from(vector)).ok_or(io::ErrorKind::NotFound)? = Some(message);
        Ok(())
    }

    fn trigger(&self, vector: u16) -> io::Result<()> {
        let programmed = self.programmed.lock().unwrap();
        let message =
            programmed.get(usize::from(vector)).copied().flatten().ok_or(io::ErrorKind::NotFound)?;
        self.delivered.lock().unwrap().push((vector, message));
        Ok(())
    }

    fn event(&self, vector: u16) -> io::Result<&EventFd> {
        let is_programmed = self.programmed(vector).is_some();
        self.events.get(usize::from(vector)).filter(|_| is_programmed).ok_or(io::ErrorKind::NotFound.into())
    }
}

/// Remembers which doorbell is attached where; [`MapDoorbells::ring`] is the guest's write.
#[derive(Debug, Default)]
pub struct MapDoorbells(Mutex<BTreeMap<u64, EventFd>>);

impl MapDoorbells {
    /// The addresses with a doorbell.
    pub fn addresses(&self) -> Vec<u64> {
        self.0.lock().unwrap().keys().copied().collect()
    }

    /// Writes to `address` as the guest would; whether a doorbell was there.
    pub fn ring(&self, address: u64) -> bool {
        self.0.lock().unwrap().get(&address).is_some_and(|bell| bell.write(1).is_ok())
    }
}

impl Doorbells for MapDoorbells {
    fn attach(&self, address: u64, bell: &EventFd) -> io::Result<()> {
        let mut bells = self.0.lock().unwrap();
        if bells.contains_key(&address) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        bells.insert(address, bell.try_clone()?);
        Ok(())
    }

    fn detach(&self, address: u64, bell: &EventFd) -> io::Result<()> {
        assert!(bell.as_raw_fd() >= 0, "a live descriptor");
        self.0.lock().unwrap().remove(&address).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
