//! What a host network costs: interfaces that are made and removed, and neighbours beside a guest that floods.

use anyhow::{Result, bail};

use super::plan::{exact, milliseconds};
use super::report::{Row, Unit};
use super::subject::Subject;

/// Interfaces that are made and removed.
const TAPS: usize = 500;
/// Turns in one order, each of two quarters of a second.
const TURNS: usize = 10;

/// All of it, in this order.
pub(super) fn measure(subject: &mut Subject, runs: u32) -> Result<Vec<Row>> {
    eprintln!("bench: {TAPS} interfaces");
    let mut rows = taps(subject)?;
    eprintln!("bench: two neighbours and a flood");
    rows.extend(neighbours(subject, runs)?);
    Ok(rows)
}

fn taps(subject: &mut Subject) -> Result<Vec<Row>> {
    let mut times = subject.times(&format!("taps {TAPS}"))?;
    let together = times.pop().map_or(f64::INFINITY, milliseconds);
    let times: Vec<f64> = times.into_iter().map(milliseconds).collect();
    let Some((made, removed)) = times.split_at_checked(TAPS) else {
        bail!("not {TAPS} interfaces were made")
    };
    let row = |id: &str, name: &str, unit, values: &[f64]| Row::new(format!("taps/{id}"), name, unit, values);
    Ok(vec![
        row("made", "an interface made, bound and on the bridge", Unit::Milliseconds, made),
        row("removed", "an interface removed", Unit::Milliseconds, removed),
        row(
            "rate",
            "interfaces a second, 8 at once",
            Unit::PerSecond,
            &[exact(u64::try_from(TAPS)?) * 1e3 / together],
        ),
    ])
}

fn neighbours(subject: &mut Subject, runs: u32) -> Result<Vec<Row>> {
    let (mut alone, mut beside, mut shares, mut floods) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs.div_ceil(10) {
        let figures = subject.amounts(&format!("neighbours {TURNS}"))?;
        for turn in figures.chunks_exact(3) {
            let [quiet, flooded, sent] = [0, 1, 2].map(|place| exact(turn[place]));
            // Of a quarter of a second each.
            let (quiet, flooded) = (quiet * 4.0, flooded * 4.0);
            alone.push(quiet);
            beside.push(flooded);
            floods.push(sent);
            shares.push(flooded * 100.0 / quiet);
        }
    }
    let row =
        |id: &str, name: &str, unit, values: &[f64]| Row::new(format!("neighbours/{id}"), name, unit, values);
    Ok(vec![
        row("alone", "frames a processor second, neighbour to neighbour", Unit::PerSecond, &alone),
        row("beside", "… while a third guest floods", Unit::PerSecond, &beside),
        row("share", "… of those without a flood, turn by turn", Unit::Percent, &shares),
        row("flood", "… frames a second of the flood", Unit::PerSecond, &floods),
    ])
}
