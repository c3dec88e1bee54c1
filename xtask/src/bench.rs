//! `cargo xtask bench`: how fast machines come and go and what they cost, with spread, beside other virtual machine
//! monitors where these are on `PATH`.
//!
//! The order of what is measured is `plan`'s, each figure's making is the measured program's (`subject`, `peers`),
//! what many runs amount to is `statistics`', and how that is shown is `report`'s. Nothing here fails because a figure
//! is bad.

mod assignments;
mod confinement;
mod network;
mod peers;
mod plan;
mod processes;
mod report;
mod statistics;
mod stock;
mod subject;

use anyhow::{Context, Result};
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
    /// Measures 500 VMs under a whole worker instead, which takes minutes: in host processes of one VM and of sixteen.
    #[arg(long, conflicts_with = "stock")]
    many: bool,
    /// Measures 1,000 VMs that are assigned to a whole worker at once instead, which takes a minute or two: how long
    /// planning, applying and removing them takes.
    #[arg(long, conflicts_with_all = ["stock", "many"])]
    assignments: bool,
    /// Measures planning alone instead.
    #[arg(long, conflicts_with_all = ["stock", "many", "assignments"])]
    planning: bool,
    /// Measures the host network alone instead, as root: 500 interfaces, and two neighbours beside a guest that floods.
    #[arg(long, conflicts_with_all = ["stock", "many", "assignments", "planning"])]
    network: bool,
    /// Measures what jail and filters of system calls cost instead, as root: creations, memory, and work for a guest.
    #[arg(long, conflicts_with_all = ["stock", "many", "assignments", "planning", "network"])]
    confinement: bool,
    /// Measures the development build, which is there sooner: it is optimised as well, and checks more.
    #[arg(long, conflicts_with = "stock")]
    development: bool,
    /// The most machines to have running at once, for their memory.
    #[arg(long, default_value_t = 512)]
    machines: u64,
}

/// One of the things that can be measured.
#[derive(Clone, Copy)]
enum Part {
    TinyGuests,
    Stock,
    Many,
    Assignments,
    Planning,
    Network,
    Confinement,
}

impl Bench {
    /// Measures and shows; an error is a measurement that could not be made.
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<bool> {
        let host = report::Host::observe(self.build());
        let rows = match self.part() {
            Part::Stock => stock::measure(workspace, self.runs)?,
            Part::Many => processes::many(&mut self.subject(workspace)?)?,
            Part::Assignments => assignments::assigned(&mut self.subject(workspace)?)?,
            Part::Network => network::measure(&mut self.subject(workspace)?, self.runs)?,
            Part::Confinement => confinement::measure(&mut self.subject(workspace)?, self.runs)?,
            Part::Planning => {
                let mut subject = self.subject(workspace)?;
                let plan = assignments::planning(&mut subject, self.runs)?;
                [vec![plan], assignments::leases(&mut subject, self.runs)?].concat()
            }
            Part::TinyGuests => self.tiny_guests(workspace)?,
        };
        let results = report::Results::new(host, rows);
        println!("{}", if self.json { report::json(&results)? } else { report::table(&results) });
        Ok(true)
    }

    /// What the options ask for.
    fn part(&self) -> Part {
        let asked = [
            (self.stock, Part::Stock),
            (self.many, Part::Many),
            (self.assignments, Part::Assignments),
            (self.planning, Part::Planning),
            (self.network, Part::Network),
            (self.confinement, Part::Confinement),
        ];
        asked.into_iter().find_map(|(asked, part)| asked.then_some(part)).unwrap_or(Part::TinyGuests)
    }

    /// Machines whose guest says one byte.
    fn tiny_guests(&self, workspace: &Workspace) -> Result<Vec<report::Row>> {
        let mut plan = plan::Plan {
            subject: self.subject(workspace)?,
            peers: peers::find(),
            runs: self.runs,
            machines: self.machines,
        };
        plan.carry_out()
    }

    /// Which build is measured.
    fn build(&self) -> report::Build {
        if self.development { report::Build::Development } else { report::Build::Release }
    }

    /// Builds the measured program and starts it. Its host processes are those of the worker's own program.
    fn subject(&self, workspace: &Workspace) -> Result<subject::Subject> {
        let profile: &[&str] = match self.build() {
            report::Build::Release => &["--release"],
            report::Build::Development => &[],
        };
        let measured = ["--package", "benchmarks", "--bin", "measure"];
        let worker = ["--package", "worker-bin", "--bin", "procurator-worker"];
        let built = programs::build(workspace, &[&["build"], profile, &measured[..], &worker[..]].concat())?;
        let path_of = |name: &str| {
            let program = built.iter().find(|program| program.name == name);
            program.map(|program| program.path.as_path()).with_context(|| format!("cargo built no {name}"))
        };
        subject::Subject::start(path_of("measure")?, path_of("procurator-worker")?)
    }
}
