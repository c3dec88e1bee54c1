//! Following a machine's console and reading its process's clocks at the two lines that the guest writes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::guest::{BEGINS, ENDS};

/// Ticks of the kernel's accounting in a second (`sysconf(_SC_CLK_TCK)`, 100 on every x86 Linux).
const TICKS_A_SECOND: u64 = 100;

/// What a run took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    /// From the start of the process to the guest's first line.
    begin_seconds: f64,
    /// Processor time of all threads up to there, in the host and in the guest.
    begin_processor_seconds: f64,
    /// From there to the guest's last line.
    seconds: f64,
    /// Processor time between the two lines.
    processor_seconds: f64,
}

/// A machine's process and when it was started.
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) at: Instant,
}

/// Reads what the guest writes, and waits for the process's end.
pub(crate) fn follow(mut started: Started) -> Result<Cost> {
    let result = read_off(&mut started);
    if result.is_err() {
        // It may have ended.
        let _ = started.child.kill();
    }
    started.child.wait().context("cannot wait for the machine's process")?;
    result
}

fn read_off(started: &mut Started) -> Result<Cost> {
    let output = started.child.stdout.take().context("it was started with a pipe")?;
    let process = started.child.id();
    let (mut begun, mut cost) = (None, None);
    let mut said = String::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read the console")?;
        let line = String::from_utf8_lossy(&line);
        if line.contains(BEGINS) {
            begun = Some((Instant::now(), processor_time(process)?));
        } else if line.contains(ENDS) {
            let (at, processor) = begun.context("the guest ended before it began")?;
            cost = Some(Cost {
                begin_seconds: at.duration_since(started.at).as_secs_f64(),
                begin_processor_seconds: processor.as_secs_f64(),
                seconds: at.elapsed().as_secs_f64(),
                processor_seconds: (processor_time(process)? - processor).as_secs_f64(),
            });
        } else {
            said.push_str(&line);
            said.push('\n');
        }
    }
    cost.with_context(|| format!("the machine ended before its guest's work; it said:\n{said}"))
}

/// User, system and guest time of all threads of a process (proc(5), `utime` and `stime`).
fn processor_time(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = ticks(&text).with_context(|| format!("{path} has an unknown form"))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_A_SECOND))
}

/// Fields 14 and 15; the second may hold anything, and ends with the last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}
