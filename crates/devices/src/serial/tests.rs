//! Both directions through the registers, as a driver uses them.

use std::sync::atomic::AtomicU32;

use proptest::prelude::*;

use super::*;

const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const INTERRUPT_IDENTIFICATION: u64 = 2;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;
const LOOPBACK: u8 = 0x10;

#[derive(Default)]
struct Edges {
    count: AtomicU32,
    refused: bool,
}

impl LineInterrupt for Edges {
    fn trigger(&self) -> io::Result<()> {
        self.count.fetch_add(1, Ordering::SeqCst);
        if self.refused {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        Ok(())
    }
}

#[derive(Clone, Default)]
struct KeptOutput(Arc<Mutex<Vec<u8>>>);

impl ConsoleSink for KeptOutput {
    fn write(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

struct Bench {
    port: SerialPort,
    edges: Arc<Edges>,
    output: KeptOutput,
}

fn bench(edges: Edges) -> Bench {
    let (edges, output) = (Arc::new(edges), KeptOutput::default());
    let port = SerialPort::new(edges.clone(), Box::new(output.clone())).unwrap();
    Bench { port, edges, output }
}

fn read(port: &SerialPort, register: u64) -> u8 {
    let mut byte = [0];
    port.read(register, &mut byte);
    byte[0]
}

fn has_room_event(port: &SerialPort) -> bool {
    port.room.take()
}

#[test]
fn every_byte_reaches_the_sink_at_once() {
    let bench = bench(Edges::default());
    for byte in b"boot" {
        bench.port.write(DATA, &[*byte]);
    }
    assert_eq!(*bench.output.0.lock().unwrap(), b"boot");
    assert_eq!(read(&bench.port, LINE_STATUS) & 0x60, 0x60);
}

#[test]
fn a_wide_write_goes_to_consecutive_registers() {
    let bench = bench(Edges::default());
    bench.port.write(DATA, &[b'x', 0x05]);
    assert_eq!(*bench.output.0.lock().unwrap(), b"x");
    assert_eq!(read(&bench.port, INTERRUPT_ENABLE), 0x05);
    let mut data = [0; 4];
    bench.port.read(6, &mut data);
    assert_eq!(data[2..], [0xff, 0xff]);
}

#[test]
fn input_interrupts_and_is_read_in_order() {
    let bench = bench(Edges::default());
    bench.port.write(INTERRUPT_ENABLE, &[1]);
    assert_eq!(bench.port.enqueue(b"ls\n"), 3);
    assert_eq!(bench.edges.count.load(Ordering::SeqCst), 1);
    assert_eq!(read(&bench.port, INTERRUPT_IDENTIFICATION) & 0x0f, 0x04);
    let typed: Vec<u8> = (0..3).map(|_| read(&bench.port, DATA)).collect();
    assert_eq!(typed, b"ls\n");
    assert_eq!(read(&bench.port, LINE_STATUS) & 1, 0);
}

#[test]
fn input_waits_for_room_and_is_told_of_it() {
    let bench = bench(Edges::default());
    let input: Vec<u8> = (0..100).collect();
    let first = bench.port.enqueue(&input);
    assert_eq!(first, 64);
    assert_eq!(bench.port.enqueue(&input[first..]), 0);
    assert!(!has_room_event(&bench.port));
    let mut seen: Vec<u8> = (0..32).map(|_| read(&bench.port, DATA)).collect();
    assert!(has_room_event(&bench.port));
    assert_eq!(bench.port.enqueue(&input[first..]), 32);
    seen.extend((0..64).map(|_| read(&bench.port, DATA)));
    assert_eq!(seen, input[..96]);
}

#[test]
fn loopback_refuses_input_until_it_ends() {
    let bench = bench(Edges::default());
    bench.port.write(MODEM_CONTROL, &[LOOPBACK]);
    assert_eq!(bench.port.enqueue(b"a"), 0);
    bench.port.write(MODEM_CONTROL, &[0]);
    assert!(has_room_event(&bench.port));
    assert_eq!(bench.port.enqueue(b"a"), 1);
    assert_eq!(read(&bench.port, DATA), b'a');
}

#[test]
fn a_refused_interrupt_loses_no_input_and_is_counted() {
    let bench = bench(Edges { refused: true, ..Edges::default() });
    bench.port.write(INTERRUPT_ENABLE, &[1]);
    assert_eq!(bench.port.enqueue(b"ab"), 2);
    assert_eq!(bench.port.missed_interrupts(), 1);
    assert_eq!([read(&bench.port, DATA), read(&bench.port, DATA)], *b"ab");
}

proptest! {
    #[test]
    fn no_access_panics(
        accesses in proptest::collection::vec((any::<u64>(), proptest::collection::vec(any::<u8>(), 0..9), 0u8..3), 0..64)
    ) {
        let bench = bench(Edges::default());
        for (offset, mut data, kind) in accesses {
            match kind {
                0 => bench.port.write(offset % 10, &data),
                1 => bench.port.read(offset % 10, &mut data),
                _ => {
                    prop_assert!(bench.port.enqueue(&data) <= data.len());
                }
            }
        }
    }
}
