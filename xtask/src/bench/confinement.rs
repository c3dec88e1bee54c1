//! What jail and filters cost a machine in a process of its own: its creation and memory, and its work for a guest.

use anyhow::{Result, bail};

use super::plan::{exact, mebibytes, milliseconds};
use super::report::{Row, Unit};
use super::subject::Subject;

/// What keeps a process to what it needs, by the number of the order.
const LAYERS: [(u64, &str); 4] =
    [(0, "neither jail nor filters"), (1, "a jail"), (2, "filters"), (3, "both")];

/// What is measured of a process with one set of layers.
#[derive(Default)]
struct Runs {
    created: Vec<f64>,
    ahead: Vec<f64>,
    ended: Vec<f64>,
    memory: Vec<f64>,
    requests: Vec<f64>,
    frames: Vec<f64>,
}

/// All of it in turns, so that whatever else the host does meets all of them.
pub(super) fn measure(subject: &mut Subject, runs: u32) -> Result<Vec<Row>> {
    let mut all = LAYERS.map(|_| Runs::default());
    for run in 0..runs {
        eprintln!("bench: turn {} of {runs}", run + 1);
        for ((layers, _), of) in LAYERS.iter().zip(&mut all) {
            let [created, ended, memory] = subject.amounts(&format!("confined-create {layers}"))?[..] else {
                bail!("a creation has three figures");
            };
            of.created.push(milliseconds(created));
            of.ended.push(milliseconds(ended));
            of.memory.push(mebibytes(memory));
            let [ahead] = subject.amounts(&format!("confined-ahead {layers}"))?[..] else {
                bail!("a creation ahead has one figure");
            };
            of.ahead.push(milliseconds(ahead));
            of.requests.push(rate(&subject.amounts(&format!("confined-disk {layers}"))?)?);
            of.frames.push(rate(&subject.amounts(&format!("confined-network {layers}"))?)?);
        }
    }
    let rows = LAYERS.iter().zip(&all).flat_map(|((layers, name), of)| {
        let row = |what: &str, shown: &str, unit, values: &[f64]| {
            Row::new(format!("confined/{layers}/{what}"), format!("{name}: {shown}"), unit, values)
        };
        [
            row(
                "created",
                "create → first guest byte, a process started for it",
                Unit::Milliseconds,
                &of.created,
            ),
            row("ahead", "… in a process started ahead", Unit::Milliseconds, &of.ahead),
            row("ended", "kill → all is given back", Unit::Milliseconds, &of.ended),
            row("memory", "PSS of the process", Unit::Mebibytes, &of.memory),
            row("requests", "requests of a disk a processor second", Unit::PerSecond, &of.requests),
            row("frames", "frames a processor second, echoed", Unit::PerSecond, &of.frames),
        ]
    });
    Ok(rows.collect())
}

/// What was done in a second of processor time.
fn rate(figures: &[u64]) -> Result<f64> {
    let [done, nanoseconds] = *figures else { bail!("work has two figures, not {figures:?}") };
    Ok(exact(done) * 1e3 / milliseconds(nanoseconds))
}
