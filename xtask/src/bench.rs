//! `cargo xtask bench`: how fast machines come and go and what they cost, with spread, beside other virtual machine
//! monitors where these are on `PATH`.
//!
//! The order of what is measured is `plan`'s, each figure's making is the measured program's (`subject`, `peers`),
//! what many runs amount to is `statistics`', and how that is shown is `report`'s. Nothing here fails because a figure
//! is bad.

mod peers;
mod plan;
mod report;
mod statistics;
mod stock;
mod subject;

use anyhow::Result;
use clap::Args;

use crate::lab::programs;
use crate::workspace::Workspace;

/// Options of the task.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// Prints one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// Runs of each measurement; fewer than 30 show little of the spread.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// Measures a stock Linux guest in the lab instead: boots and work for a second of processor time.
    #[arg(long)]
    stock: bool,
    /// The most machines to have running at once, for their memory.
    #[arg(long, default_value_t = 512)]
    machines: u64,
}

impl Bench {
    /// Measures and shows; an error is a measurement that could not be made.
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<bool> {
        let host = report::Host::observe();
        let rows =
            if self.stock { stock::measure(workspace, self.runs)? } else { self.tiny_guests(workspace)? };
        let results = report::Results::new(host, rows);
        println!("{}", if self.json { report::json(&results)? } else { report::table(&results) });
        Ok(true)
    }

    /// Machines whose guest says one byte.
    fn tiny_guests(&self, workspace: &Workspace) -> Result<Vec<report::Row>> {
        let build = ["build", "--release", "--package", "benchmarks", "--bin", "measure"];
        let [program] = &programs::build(workspace, &build)?[..] else {
            anyhow::bail!("cargo built more than one program of the benchmarks");
        };
        let mut plan = plan::Plan {
            subject: subject::Subject::start(&program.path)?,
            peers: peers::find(),
            runs: self.runs,
            machines: self.machines,
        };
        plan.carry_out()
    }
}
