//! What is measured, in which order. What is to be compared is interleaved, so that whatever else the host does in
//! the meantime meets all of it.

use std::path::Path;

use anyhow::{Result, bail};

use super::assignments;
use super::peers::Peer;
use super::processes;
use super::report::{Row, Unit};
use super::subject::Subject;

/// Each comparison is made in so many turns.
const TURNS: u32 = 5;
/// Machines that are running while another is created.
const BESIDE: [u64; 4] = [0, 1, 16, 64];
/// Machines that are created at once.
const AT_ONCE: [u64; 3] = [1, 16, 64];
/// Machines between which the memory of a further one is measured.
const MEMORY_STEPS: [u64; 3] = [1, 64, 512];

/// Images that are verified and copied: how large in MiB, and how often.
const FIRST_STARTS: [(u64, u32); 2] = [(1024, 5), (4096, 1)];

/// All there is to do.
pub(super) struct Plan {
    pub(super) subject: Subject,
    pub(super) peers: Vec<Peer>,
    pub(super) runs: u32,
    pub(super) machines: u64,
}

/// Runs of one peer.
#[derive(Default)]
struct PeerRuns {
    times: Vec<f64>,
    memory: Vec<f64>,
    threads: Vec<f64>,
}

impl Plan {
    /// Does it.
    pub(super) fn carry_out(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        self.warm_up()?;
        eprintln!("bench: from the request to the first guest byte");
        rows.extend(self.creation()?);
        eprintln!("bench: many at once");
        rows.extend(self.bursts()?);
        eprintln!("bench: memory");
        rows.extend(self.memory()?);
        eprintln!("bench: host processes");
        rows.extend(processes::creation(&mut self.subject, self.runs)?);
        rows.extend(processes::memory(&mut self.subject)?);
        rows.extend(processes::faults(&mut self.subject, self.runs)?);
        eprintln!("bench: ending");
        rows.extend(self.ending()?);
        eprintln!("bench: files");
        rows.extend(self.storage()?);
        Ok(rows)
    }

    /// The first machine of a process finds nothing in any cache.
    fn warm_up(&mut self) -> Result<()> {
        for _ in 0..3 {
            self.subject.times("boot 1")?;
        }
        let kernel = self.subject.guest()?;
        self.peers.iter().try_for_each(|peer| peer.run(&kernel).map(drop))
    }

    fn creation(&mut self) -> Result<Vec<Row>> {
        let kernel = self.subject.guest()?;
        let mut own = BESIDE.map(|_| Vec::new());
        let mut resets = Vec::new();
        let mut peers: Vec<PeerRuns> = self.peers.iter().map(|_| PeerRuns::default()).collect();
        let turn = self.runs.div_ceil(TURNS);
        for _ in 0..TURNS {
            for (beside, times) in BESIDE.iter().zip(&mut own) {
                self.subject.times(&format!("hold {beside}"))?;
                for _ in 0..turn {
                    times.push(milliseconds(self.subject.times("boot 1")?[0]));
                    if *beside == 0 {
                        resets.push(milliseconds(self.subject.times("reset")?[0]));
                        self.run_peers(&kernel, &mut peers)?;
                    }
                }
            }
            self.subject.times("hold 0")?;
        }
        let mut rows = Vec::new();
        for (beside, times) in BESIDE.iter().zip(own) {
            let name = format!("create → first guest byte, {beside} running");
            rows.push(Row::new(format!("first-byte/{beside}"), name, Unit::Milliseconds, &times));
        }
        rows.push(Row::new("reset", "reset in place → first guest byte", Unit::Milliseconds, &resets));
        for (peer, runs) in self.peers.iter().zip(peers) {
            let row = |what: &str, shown: &str, unit, values: &[f64]| {
                Row::new(
                    format!("peer/{}/{what}", peer.name),
                    format!("{}: {shown}", peer.name),
                    unit,
                    values,
                )
            };
            rows.push(row("first-byte", "exec → first guest byte", Unit::Milliseconds, &runs.times));
            rows.push(row("memory", "PSS of its process", Unit::Mebibytes, &runs.memory));
            rows.push(row("threads", "threads of its process", Unit::Count, &runs.threads));
        }
        Ok(rows)
    }

    fn run_peers(&self, kernel: &Path, peers: &mut [PeerRuns]) -> Result<()> {
        for (peer, runs) in self.peers.iter().zip(peers) {
            let run = peer.run(kernel)?;
            runs.times.push(run.first_byte.as_secs_f64() * 1e3);
            runs.memory.push(mebibytes(run.footprint.memory));
            runs.threads.push(exact(run.footprint.threads));
        }
        Ok(())
    }

    fn bursts(&mut self) -> Result<Vec<Row>> {
        let mut each = AT_ONCE.map(|_| Vec::new());
        let mut rates = AT_ONCE.map(|_| Vec::new());
        for _ in 0..self.runs {
            for ((at_once, times), rates) in AT_ONCE.iter().zip(&mut each).zip(&mut rates) {
                let mut answer = self.subject.times(&format!("boot {at_once}"))?;
                let all = milliseconds(answer.pop().unwrap_or(u64::MAX));
                times.extend(answer.into_iter().map(milliseconds));
                rates.push(exact(*at_once) * 1e3 / all);
            }
        }
        let mut rows = Vec::new();
        for ((at_once, times), rates) in AT_ONCE.iter().zip(each).zip(rates) {
            let name = format!("{at_once} at once: each → its first guest byte");
            rows.push(Row::new(format!("at-once/{at_once}"), name, Unit::Milliseconds, &times));
            let name = format!("{at_once} at once: creations a second");
            rows.push(Row::new(format!("rate/{at_once}"), name, Unit::PerSecond, &rates));
        }
        Ok(rows)
    }

    fn memory(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        self.subject.times("hold 0")?;
        let (mut held, mut before) = (0, self.subject.footprint()?);
        for step in MEMORY_STEPS.into_iter().filter(|step| *step <= self.machines) {
            self.subject.times(&format!("hold {step}"))?;
            let now = self.subject.footprint()?;
            let further = exact(step - held);
            let memory = mebibytes(now.memory.saturating_sub(before.memory)) / further;
            let threads = exact(now.threads.saturating_sub(before.threads)) / further;
            let (id, of) = (format!("{step}"), format!("a further machine, from {held} to {step}"));
            rows.push(Row::new(format!("memory/{id}"), format!("PSS of {of}"), Unit::Mebibytes, &[memory]));
            rows.push(Row::new(format!("threads/{id}"), format!("threads of {of}"), Unit::Count, &[threads]));
            (held, before) = (step, now);
        }
        self.subject.times("hold 0")?;
        Ok(rows)
    }

    fn ending(&mut self) -> Result<Vec<Row>> {
        let (mut answered, mut released) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let times = self.subject.times("stop")?;
            answered.push(milliseconds(times[0]));
            released.push(milliseconds(times[1]));
        }
        let row = |id: &str, name: &str, values: &[f64]| Row::new(id, name, Unit::Milliseconds, values);
        Ok(vec![
            row("stop/answered", "stop of an idle machine → answered", &answered),
            row("stop/released", "stop of an idle machine → everything released", &released),
        ])
    }

    fn storage(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (order, name) in [
            ("hash", "hash a store path of 64 MiB"),
            ("copy-disk", "writable copy of a disk of 64 MiB, synced"),
            ("write-record", "atomic write of a record of 1 KiB, synced"),
        ] {
            let times = (0..self.runs).map(|_| Ok(milliseconds(self.subject.times(order)?[0])));
            let times = times.collect::<Result<Vec<_>>>()?;
            rows.push(Row::new(order, name, Unit::Milliseconds, &times));
        }
        rows.extend(self.first_start()?);
        rows.push(processes::records(&mut self.subject, self.runs)?);
        rows.push(assignments::planning(&mut self.subject, self.runs)?);
        Ok(rows)
    }

    /// A few times alone, as each takes seconds.
    fn first_start(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (mebibytes, runs) in FIRST_STARTS {
            let mut values = [const { Vec::new() }; 5];
            for _ in 0..runs {
                let times = self.subject.times(&format!("first-start {mebibytes}"))?;
                let [own, hashed, copied, image, taken, _] = times[..] else {
                    bail!("first-start answers six figures, not {times:?}");
                };
                let figures = [milliseconds(own), milliseconds(hashed), milliseconds(copied)];
                let figures = figures.into_iter().chain([mebibytes_of(image), mebibytes_of(taken)]);
                values.iter_mut().zip(figures).for_each(|(values, figure)| values.push(figure));
            }
            let names = [
                ("own", "sparse image verified and copied in one read, synced", Unit::Milliseconds),
                ("sha256sum", "… sha256sum of it", Unit::Milliseconds),
                ("cp", "… cp --sparse=always of it, synced", Unit::Milliseconds),
                ("image", "… what the image takes on disk", Unit::Mebibytes),
                ("copy", "… what the copy takes on disk", Unit::Mebibytes),
            ];
            for ((id, name, unit), values) in names.into_iter().zip(&values) {
                let name = format!("{mebibytes} MiB: {name}");
                rows.push(Row::new(format!("first-start/{mebibytes}/{id}"), name, unit, values));
            }
        }
        Ok(rows)
    }
}

fn mebibytes_of(bytes: u64) -> f64 {
    exact(bytes) / f64::from(1 << 20)
}

pub(super) fn milliseconds(nanoseconds: u64) -> f64 {
    exact(nanoseconds) / 1e6
}

pub(super) fn mebibytes(bytes: u64) -> f64 {
    exact(bytes) / f64::from(1 << 20)
}

/// Figures here are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "no figure here is as large as 2^53")]
pub(super) fn exact(number: u64) -> f64 {
    number as f64
}
