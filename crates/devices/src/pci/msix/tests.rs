//! Tests of MSI-X against a small model, and of what the guest reads.

use std::sync::Arc;

use proptest::prelude::*;

use vmm_sys_util::eventfd::EventFd;

use super::{InterruptSource, MSIX_VECTORS_MAX, Msix, MsixError, MsixState};
use crate::ports::testing::RecordingMessages;
use crate::ports::{MessageInterrupts, MsiMessage};

const COUNT: u16 = 10;

fn msix() -> (Msix, Arc<RecordingMessages>) {
    let port = Arc::new(RecordingMessages::new(COUNT));
    let delivers: Arc<dyn MessageInterrupts> = port.clone();
    (Msix::new(delivers).unwrap(), port)
}

fn message(data: u32) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000, data }
}

fn write_message(msix: &Msix, vector: u16, message: MsiMessage) {
    let entry = u64::from(vector) * 16;
    msix.write_table(entry, &message.address.to_le_bytes());
    msix.write_table(entry + 8, &message.data.to_le_bytes());
}

fn mask(msix: &Msix, vector: u16, masked: bool) {
    msix.write_table(u64::from(vector) * 16 + 12, &u32::from(masked).to_le_bytes());
}

fn pending_bits(msix: &Msix) -> u64 {
    let mut data = [0; 8];
    msix.read_pending(0, &mut data);
    u64::from_le_bytes(data)
}

#[test]
fn a_vector_is_programmed_when_unmasked_and_delivered_when_raised() {
    let (msix, port) = msix();
    write_message(&msix, 3, message(0x41));
    msix.set_control(true, false);
    assert_eq!(port.programmed(3), None, "masked after reset");
    mask(&msix, 3, false);
    assert_eq!(port.programmed(3), Some(message(0x41)));
    msix.raise(3);
    assert_eq!(port.take(), [(3, message(0x41))]);
    write_message(&msix, 3, message(0x42));
    msix.raise(3);
    assert_eq!(port.take(), [(3, message(0x42))], "an open vector follows its table entry");
}

#[test]
fn masked_vectors_are_pending_once_and_delivered_on_unmask() {
    let (msix, port) = msix();
    write_message(&msix, 9, message(9));
    msix.set_control(true, true);
    mask(&msix, 9, false);
    msix.raise(9);
    msix.raise(9);
    assert_eq!((port.take(), pending_bits(&msix)), (vec![], 1 << 9));
    msix.set_control(true, false);
    assert_eq!((port.take(), pending_bits(&msix)), (vec![(9, message(9))], 0));
}

#[test]
fn vectors_that_do_not_exist_and_msix_turned_off_are_ignored() {
    let (msix, port) = msix();
    msix.raise(0);
    msix.set_control(true, false);
    msix.raise(COUNT);
    msix.raise(u16::MAX);
    assert_eq!((port.take(), msix.failures(), pending_bits(&msix)), (vec![], 0, 0));
}

#[test]
fn refusals_of_the_host_are_counted() {
    struct Refusing;
    impl MessageInterrupts for Refusing {
        fn count(&self) -> u16 {
            1
        }
        fn program(&self, _vector: u16, _message: MsiMessage) -> std::io::Result<()> {
            Err(std::io::ErrorKind::OutOfMemory.into())
        }
        fn trigger(&self, _vector: u16) -> std::io::Result<()> {
            Err(std::io::ErrorKind::NotFound.into())
        }
        fn event(&self, _vector: u16) -> std::io::Result<&EventFd> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }
    let msix = Msix::new(Arc::new(Refusing)).unwrap();
    msix.set_control(true, false);
    mask(&msix, 0, false);
    msix.raise(0);
    assert_eq!(msix.failures(), 2);
}

#[test]
fn the_number_of_vectors_is_bounded() {
    let with = |count| Msix::new(Arc::new(RecordingMessages::new(count))).map(|msix| msix.count());
    assert_eq!(with(0), Err(MsixError { count: 0 }));
    assert_eq!(with(MSIX_VECTORS_MAX), Ok(MSIX_VECTORS_MAX));
    assert_eq!(with(MSIX_VECTORS_MAX + 1), Err(MsixError { count: MSIX_VECTORS_MAX + 1 }));
}

#[derive(Clone, Debug)]
enum Step {
    Raise(u16),
    Mask(u16, bool),
    Message(u16, u32),
    Control(bool, bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..COUNT + 1).prop_map(Step::Raise),
        3 => (0..COUNT, any::<bool>()).prop_map(|(vector, masked)| Step::Mask(vector, masked)),
        2 => (0..COUNT, any::<u32>()).prop_map(|(vector, data)| Step::Message(vector, data)),
        2 => (prop::bool::weighted(0.8), prop::bool::weighted(0.3)).prop_map(|(on, masked)| Step::Control(on, masked)),
    ]
}

/// What a function with MSI-X does, told as simply as possible.
#[derive(Default)]
struct Model {
    on: bool,
    function_masked: bool,
    masked: Vec<bool>,
    pending: Vec<bool>,
    data: Vec<u32>,
}

impl Model {
    fn step(&mut self, step: &Step) -> Vec<(u16, MsiMessage)> {
        match *step {
            Step::Raise(vector) if self.on && vector < COUNT => self.pending[usize::from(vector)] = true,
            Step::Raise(_) => {}
            Step::Mask(vector, masked) => self.masked[usize::from(vector)] = masked,
            Step::Message(vector, data) => self.data[usize::from(vector)] = data,
            Step::Control(on, masked) => (self.on, self.function_masked) = (on, masked),
        }
        let mut delivered = Vec::new();
        for vector in 0..COUNT {
            let index = usize::from(vector);
            let open = self.on && !self.function_masked && !self.masked[index];
            if open && std::mem::take(&mut self.pending[index]) {
                delivered.push((vector, message(self.data[index])));
            }
        }
        delivered
    }
}

proptest! {
    #[test]
    fn deliveries_agree_with_the_model(steps in proptest::collection::vec(any_step(), 0..60)) {
        let (msix, port) = msix();
        let count = usize::from(COUNT);
        let mut model =
            Model { masked: vec![true; count], pending: vec![false; count], data: vec![0; count], ..Model::default() };
        for vector in 0..COUNT {
            write_message(&msix, vector, message(0));
        }
        for step in steps {
            match step {
                Step::Raise(vector) => prop_assert_eq!(msix.raise(vector), model.on),
                Step::Mask(vector, masked) => mask(&msix, vector, masked),
                Step::Message(vector, data) => {
                    msix.write_table(u64::from(vector) * 16 + 8, &data.to_le_bytes());
                }
                Step::Control(on, masked) => msix.set_control(on, masked),
            }
            prop_assert_eq!(port.take(), model.step(&step));
            let expected = (0..COUNT).fold(0, |bits, vector| {
                bits | u64::from(model.pending[usize::from(vector)]) << vector
            });
            prop_assert_eq!(pending_bits(&msix), expected);
        }
        prop_assert_eq!(msix.failures(), 0);
    }

    /// Any width at any offset: no panic, and what was written reads back but for reserved bits.
    #[test]
    fn odd_table_accesses_are_harmless(
        writes in proptest::collection::vec(
            (prop_oneof![0..200u64, Just(u64::MAX - 3)], proptest::collection::vec(any::<u8>(), 0..12)), 0..20),
    ) {
        let mut state = MsixState::new(COUNT);
        for (offset, data) in writes {
            let end = offset.saturating_add(data.len() as u64);
            state.write_table(offset, &data);
            let mut read = vec![0xaa; data.len()];
            state.read_table(offset, &mut read);
            for ((at, wrote), reads) in (offset..end).zip(&data).zip(&read) {
                let kept = match at % 16 {
                    _ if at >= u64::from(COUNT) * 16 => 0,
                    0 => 0xfc,
                    12 => 1,
                    13..=15 => 0,
                    _ => 0xff,
                };
                prop_assert_eq!(*reads, wrote & kept);
            }
            state.read_pending(offset, &mut read);
        }
    }
}

/// A source of interrupts that signals as it was last told.
#[derive(Clone, Default)]
struct Source(Arc<std::sync::Mutex<Option<EventFd>>>);

impl InterruptSource for Source {
    fn signal(&self, event: &EventFd) -> std::io::Result<()> {
        *self.0.lock().unwrap() = Some(event.try_clone()?);
        Ok(())
    }
}

impl Source {
    fn raise(&self) {
        self.0.lock().unwrap().as_ref().unwrap().write(1).unwrap();
    }
}

/// How often the vector's own descriptor was written to since the last call.
fn signalled(port: &RecordingMessages, vector: u16) -> u64 {
    port.event(vector).map_or(0, |event| event.read().unwrap_or(0))
}

#[test]
fn a_source_signals_the_guest_itself_while_its_vector_is_open() {
    let (msix, port) = msix();
    let source = Source::default();
    write_message(&msix, 3, message(3));
    write_message(&msix, 4, message(4));
    msix.delegate(7, 3, Box::new(source.clone())).unwrap();
    source.raise();
    assert!(msix.take_missed() && !msix.take_missed(), "for drivers without MSI-X");
    msix.set_control(true, false);
    source.raise();
    assert_eq!((pending_bits(&msix), msix.take_missed()), (1 << 3, false));
    mask(&msix, 3, false);
    assert_eq!((port.take(), pending_bits(&msix)), (vec![(3, message(3))], 0));
    source.raise();
    source.raise();
    assert_eq!((port.take(), signalled(&port, 3)), (vec![], 2), "past this process");
    msix.assign(7, 4);
    source.raise();
    assert_eq!((signalled(&port, 3), pending_bits(&msix)), (0, 1 << 4));
    msix.assign(8, 3);
    msix.end_delegations();
    source.raise();
    mask(&msix, 4, false);
    assert_eq!(port.take(), [(4, message(4))], "what was pending before");
    assert_eq!(msix.failures(), 0);
}

proptest! {
    /// Whatever the driver does to masks meanwhile, it hears of every signal that came while MSI-X was on.
    #[test]
    fn no_signal_of_a_source_is_lost(
        steps in proptest::collection::vec((any::<bool>(), any_step()), 0..60),
    ) {
        let (msix, port) = msix();
        let source = Source::default();
        msix.delegate(0, 2, Box::new(source.clone())).unwrap();
        let mut owed = false;
        let heard = || port.take().iter().any(|(vector, _)| *vector == 2) || signalled(&port, 2) > 0;
        for (signals, step) in steps {
            if signals {
                source.raise();
                owed |= msix.is_enabled();
            }
            match step {
                Step::Mask(vector, masked) => mask(&msix, vector, masked),
                Step::Message(vector, data) => write_message(&msix, vector, message(data)),
                Step::Control(on, masked) => msix.set_control(on, masked),
                Step::Raise(_) => {}
            }
            owed &= !heard();
        }
        msix.set_control(true, false);
        mask(&msix, 2, false);
        prop_assert!(!owed || heard());
        source.raise();
        prop_assert_eq!(signalled(&port, 2), 1);
    }
}
