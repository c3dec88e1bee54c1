//! Every body over its committed seeds and a bounded number of generated inputs, always the same ones.
//!
//! `PROCURATOR_FUZZ_INPUTS` sets how many inputs are generated a body, for a longer run where there is no nightly
//! compiler.

use std::fs;
use std::path::{Path, PathBuf};

use fuzz_bodies::{BODIES, Body};

/// Generated inputs a body, unless the environment says otherwise.
const INPUTS: u64 = 500;
/// The longest generated input. Most decisions take a byte or two.
const LONGEST: usize = 600;

fn seeds_of(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a seed").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a readable seed"))).collect()
}

/// Marsaglia's xorshift generator with 64 bits of state.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        // The middle of the word is its most random part.
        self.next().to_le_bytes()[3]
    }

    /// New bytes, or a seed with some of them changed, left out or repeated.
    fn input(&mut self, seeds: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
        if seeds.is_empty() || self.below(3) == 0 {
            let length = self.below(LONGEST);
            return (0..length).map(|_| self.byte()).collect();
        }
        let mut bytes = seeds[self.below(seeds.len())].1.clone();
        for _ in 0..1 + self.below(8) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.byte()),
                2 => bytes.extend_from_within(at..),
                _ => {
                    let byte = self.byte();
                    if let Some(place) = bytes.get_mut(at) {
                        *place = byte;
                    }
                }
            }
            bytes.truncate(64 << 10);
        }
        bytes
    }
}

/// Runs `body` and, if it panics, says over which input.
fn run(body: Body, name: &str, what: &str, input: &[u8]) {
    let outcome = std::panic::catch_unwind(|| body(input));
    assert!(outcome.is_ok(), "{name} failed over {what}: {input:?}");
}

fn replay(name: &str) {
    let body = fuzz_bodies::body(name).expect("there is one of that name");
    let seeds = seeds_of(name);
    for (path, seed) in &seeds {
        run(body, name, &path.display().to_string(), seed);
    }
    let inputs = std::env::var("PROCURATOR_FUZZ_INPUTS")
        .map_or(INPUTS, |text| text.parse().expect("PROCURATOR_FUZZ_INPUTS is a number"));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for number in 0..inputs {
        run(body, name, &format!("generated input {number}"), &random.input(&seeds));
    }
}

macro_rules! replays {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        #[test]
        fn every_body_is_replayed_and_has_a_fuzz_target() {
            let replayed = [$(stringify!($name)),*];
            assert_eq!(BODIES.map(|(name, _)| name), replayed);
            let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets");
            for name in replayed {
                assert!(targets.join(name).with_extension("rs").exists(), "{name} has no fuzz target");
            }
        }
    };
}

replays! {
    assignments,
    balloon_queues,
    block_requests,
    certificate_names,
    console_queues,
    dhcp_packets,
    dns_messages,
    host_process_messages,
    ipv6_packets,
    kernel_images,
    lease_book,
    machine_description,
    master_messages,
    nar_hash_text,
    net_frames,
    notify_messages,
    pci_configuration,
    platform_registers,
    qcow2_images,
    serial_port,
    virtio_transport,
    virtqueue,
    vsock_packets,
}
