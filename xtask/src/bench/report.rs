//! The figures as one table for people or one JSON document for programs, and what they are held against.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::Serialize;

use super::statistics::Spread;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    Microseconds,
    Milliseconds,
    Mebibytes,
    PerSecond,
    Count,
    Percent,
}

/// One figure over its runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    /// For programs; stays the same.
    id: String,
    /// For people.
    name: String,
    unit: Unit,
    #[serde(flatten)]
    spread: Spread,
}

impl Row {
    pub(super) fn new(id: impl Into<String>, name: impl Into<String>, unit: Unit, values: &[f64]) -> Self {
        Self { id: id.into(), name: name.into(), unit, spread: Spread::of(values) }
    }
}

/// A figure held against what it is to reach.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Comparison {
    name: String,
    value: f64,
    /// At most this is wanted.
    goal: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    host: Host,
    rows: Vec<Row>,
    comparisons: Vec<Comparison>,
}

impl Results {
    /// `rows`, measured on `host`.
    pub(super) fn new(host: Host, rows: Vec<Row>) -> Self {
        let comparisons = compare(&rows);
        Self { host, rows, comparisons }
    }
}

/// How the measured program was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Build {
    /// As it ships.
    Release,
    /// With assertions.
    Development,
}

/// The host in general terms.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Host {
    description: String,
    processors: usize,
    /// Of the last minute before anything was measured.
    load_average: f64,
}

impl Host {
    /// The host as it is before anything of `build` is measured.
    pub(super) fn observe(build: Build) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let kernel = read("/proc/sys/kernel/osrelease");
        let has_hardware = read("/proc/cpuinfo").split_whitespace().any(|word| matches!(word, "vmx" | "svm"));
        let virtualisation = if has_hardware { "hardware" } else { "no hardware" };
        let load = read("/proc/loadavg");
        Self {
            description: format!(
                "{processors} processors, Linux {}, {virtualisation} virtualisation{}",
                kernel.trim(),
                match build {
                    Build::Release => "",
                    Build::Development => ", development build",
                }
            ),
            processors,
            load_average: load.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0),
        }
    }

    /// A machine's creation hands over between threads of ours and of the kernel several times. Where each of them
    /// first waits for a processor, that is what is measured.
    fn is_busy(&self) -> bool {
        let processors = u32::try_from(self.processors).unwrap_or(u32::MAX);
        self.load_average > f64::from(processors) / 2.0
    }
}

/// What the rows are held against, as far as they are there.
fn compare(rows: &[Row]) -> Vec<Comparison> {
    let spread = |id: &str| rows.iter().find(|row| row.id == id).map(|row| row.spread);
    let mut comparisons = Vec::new();
    let mut hold = |name: String, value: Option<f64>, goal| {
        comparisons.extend(value.map(|value| Comparison { name, value, goal }));
    };
    let alone = spread("first-byte/0");
    let ratio = |of: Option<f64>, to: Option<f64>| Some(of? / to?);
    let peers = rows.iter().filter(|row| row.id.starts_with("peer/") && row.id.ends_with("/first-byte"));
    for peer in peers {
        let name = format!("first guest byte, alone : {}", peer.name);
        hold(name, ratio(alone.map(|own| own.median), Some(peer.spread.median)), 1.0 / 3.0);
    }
    let crowded = spread("first-byte/64").map(|own| own.median);
    hold("first guest byte, 64 running : alone".into(), ratio(crowded, alone.map(|own| own.median)), 2.0);
    let burst = spread("at-once/64");
    let fairness = ratio(burst.map(|burst| burst.p99), burst.map(|burst| burst.median));
    hold("64 at once, p99 : median".into(), fairness, 5.0);
    hold("PSS of a further machine, in MiB".into(), spread("memory/64").map(|memory| memory.median), 1.0);
    let (within, ahead) = (spread("process/within"), spread("process/ahead"));
    let process = ratio(ahead.map(|ahead| ahead.median), within.map(|within| within.median));
    hold("first guest byte, host process ahead : no process of its own".into(), process, 2.5);
    let own = spread("process-memory/1").map(|memory| memory.median);
    hold("PSS of a further machine in a host process of its own, in MiB".into(), own, 2.5);
    let records = spread("records").map(|records| records.median / 1e3);
    hold("records of 500 VMs loaded, median in s".into(), records, 1.0);
    hold("plan for 10,000 VMs, median in ms".into(), spread("plan").map(|plan| plan.median), 50.0);
    for each in [1, 16] {
        let adopted = spread(&format!("many/{each}/adopted")).map(|adopted| adopted.median / 1e3);
        hold(format!("500 VMs adopted, {each} to a host process, in s"), adopted, 2.0);
        let sampling = spread(&format!("many/{each}/sampling")).map(|sampling| sampling.median);
        hold(format!("500 VMs sampled, {each} to a host process, in hundredths of a core"), sampling, 2.0);
        for what in ["ls", "inspect", "top", "scrape"] {
            let answered = spread(&format!("many/{each}/{what}")).map(|answered| answered.median);
            hold(format!("500 VMs, {each} to a host process: {what} answered, in ms"), answered, 100.0);
        }
    }
    for size in [1024, 4096] {
        let median = |what: &str| spread(&format!("first-start/{size}/{what}")).map(|spread| spread.median);
        let slower = median("sha256sum").zip(median("cp")).map(|(hash, copy)| hash.max(copy));
        let name = format!("{size} MiB verified and copied : the slower of sha256sum and cp --sparse=always");
        hold(name, ratio(median("own"), slower), 1.3);
    }
    for (name, value, goal) in confined(&spread) {
        hold(name, value, goal);
    }
    hold("stop answered, median in ms".into(), spread("stop/answered").map(|stop| stop.median), 5.0);
    for figure in ["boot", "read", "write", "send", "receive"] {
        let median = |monitor: &str| spread(&format!("stock/{monitor}/{figure}")).map(|spread| spread.median);
        for own in ["procurator", "procurator-shmem-advise", "procurator-thp"] {
            for peer in ["cloud-hypervisor", "firecracker"] {
                let (ours, theirs) = (median(own), median(peer));
                // Of time, less is better, and of work more: the ratio is turned so that less is better.
                let value = if figure == "boot" { ratio(ours, theirs) } else { ratio(theirs, ours) };
                hold(format!("stock guest, {figure}, {own} against {peer}"), value, 1.0);
            }
        }
    }
    comparisons
}

/// What jail and filters cost, with goals: more than without is more.
fn confined(spread: &impl Fn(&str) -> Option<Spread>) -> Vec<(String, Option<f64>, f64)> {
    let median = |layers: u8, what: &str| Some(spread(&format!("confined/{layers}/{what}"))?.median);
    let ratio = |of: Option<f64>, to: Option<f64>| Some(of? / to?);
    let mut found = Vec::new();
    for (layers, name) in [(1, "a jail"), (2, "filters"), (3, "both")] {
        for (what, shown) in [
            ("created", "creation, a process started for it"),
            ("ahead", "creation, a process started ahead"),
            ("memory", "PSS of the process"),
        ] {
            let value = ratio(median(layers, what), median(0, what));
            found.push((format!("{shown}, {name} : neither"), value, 1.3));
        }
        // Of work in a second more is better: the ratio is turned.
        for (what, shown) in
            [("requests", "processor time of a disk's request"), ("frames", "processor time of a frame")]
        {
            let value = ratio(median(0, what), median(layers, what));
            found.push((format!("{shown}, {name} : neither"), value, 1.1));
        }
    }
    found
}

/// The document for programs.
pub(super) fn json(results: &Results) -> Result<String> {
    serde_json::to_string_pretty(results).context("the results are no JSON")
}

/// The table for people.
pub(super) fn table(results: &Results) -> String {
    let host = &results.host;
    let mut text = format!("{}, load average {:.2} before\n", host.description, host.load_average);
    if host.is_busy() {
        text.push_str(
            "BUSY: this host had other work; medians and tails say more about that than about machines\n",
        );
    }
    text.push('\n');
    let width = results.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "{:width$}  {:>6}  {:>9}  {:>9}  {:>9}  {:>9}",
        "", "runs", "min", "median", "p90", "p99"
    );
    for Row { name, unit, spread, .. } in &results.rows {
        let unit = match unit {
            Unit::Microseconds => "µs",
            Unit::Milliseconds => "ms",
            Unit::Mebibytes => "MiB",
            Unit::PerSecond => "/s",
            Unit::Count => "",
            Unit::Percent => "%",
        };
        let Spread { runs, min, median, p90, p99 } = spread;
        let _ = write!(text, "{name:width$}  {runs:>6}");
        for value in [min, median, p90, p99] {
            let _ = write!(text, "  {value:>9.2}");
        }
        let _ = writeln!(text, "  {unit}");
    }
    let _ = writeln!(text);
    for Comparison { name, value, goal } in &results.comparisons {
        let verdict = if value <= goal { "reached" } else { "MISSED" };
        let _ = writeln!(text, "{name}: {value:.2} (at most {goal:.2} wanted: {verdict})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        vec![
            Row::new("first-byte/0", "alone", Unit::Milliseconds, &[1.0]),
            Row::new("first-byte/64", "crowded", Unit::Milliseconds, &[3.0]),
            Row::new("peer/x/first-byte", "x: exec", Unit::Milliseconds, &[4.0]),
            Row::new("peer/x/memory", "x: PSS", Unit::Mebibytes, &[9.0]),
        ]
    }

    fn host() -> Host {
        Host { description: "a host".into(), processors: 2, load_average: 0.5 }
    }

    #[test]
    fn a_busy_host_is_called_so() {
        let results = |load_average| Results::new(Host { load_average, ..host() }, rows());
        assert!(!table(&results(0.9)).contains("BUSY"));
        assert!(table(&results(1.1)).contains("BUSY"));
    }

    #[test]
    fn ratios_are_of_medians_and_only_where_both_are_there() {
        let comparisons = compare(&rows());
        let values: Vec<_> = comparisons.iter().map(|comparison| comparison.value).collect();
        assert_eq!(values, [0.25, 3.0]);
    }

    #[test]
    fn a_stock_guest_is_held_against_each_peer_that_ran_it() {
        let row = |monitor: &str, figure: &str, value| {
            Row::new(format!("stock/{monitor}/{figure}"), figure, Unit::Count, &[value])
        };
        let comparisons = compare(&[
            row("procurator", "boot", 2.0),
            row("procurator", "read", 8.0),
            row("firecracker", "boot", 4.0),
            row("firecracker", "read", 2.0),
            row("cloud-hypervisor", "read", 4.0),
        ]);
        let found: Vec<_> = comparisons.iter().map(|found| (found.name.as_str(), found.value)).collect();
        assert_eq!(
            found,
            [
                ("stock guest, boot, procurator against firecracker", 0.5),
                ("stock guest, read, procurator against cloud-hypervisor", 0.5),
                ("stock guest, read, procurator against firecracker", 0.25),
            ]
        );
    }

    #[test]
    fn the_table_says_what_is_reached_and_what_is_missed() {
        let comparisons = compare(&rows());
        let text = table(&Results { host: host(), rows: rows(), comparisons });
        assert!(
            text.contains("first guest byte, alone : x: exec: 0.25 (at most 0.33 wanted: reached)"),
            "{text}"
        );
        assert!(text.contains("64 running : alone: 3.00 (at most 2.00 wanted: MISSED)"), "{text}");
        assert!(text.contains("1       4.00       4.00       4.00       4.00  ms"), "{text}");
    }
}
