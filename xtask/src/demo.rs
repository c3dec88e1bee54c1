//! `cargo xtask demo`: sets everything up and runs the demonstration, on this machine's KVM or in the lab's outer host.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::host::{Afterwards, Session};
use crate::lab::loss::with_second_try;
use crate::lab::programs::{self, Program};
use crate::lab::virtualisation::Virtualisation;
use crate::lab::{Lab, SCRIPT_VARIABLES};
use crate::workspace::Workspace;
use crate::{packages, process, terminal};

const DEADLINE: Duration = Duration::from_secs(6 * 60);

/// Runs the demonstration and returns whether it went well.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let start = Instant::now();
    packages::ensure()?;
    terminal::ensure(workspace)?;
    println!("Building the worker, the master and the demonstration");
    let mut programs = programs::build_shipped(workspace)?;
    programs.extend(programs::build(workspace, &["build", "--package", "end-to-end", "--bin", "demo"])?);
    println!("Programs built ({:.1?})", start.elapsed());
    let lab = Lab::prepare(workspace)?;
    let well = match can_run_here() {
        true => run_here(&lab, &programs)?,
        false => run_in_outer_host(&lab, &programs)?,
    };
    println!("demo: {} ({:.1?} in all)", if well { "done" } else { "FAILED" }, start.elapsed());
    Ok(well)
}

/// The worker needs root, and KVM that runs a stock kernel at a usable speed.
fn can_run_here() -> bool {
    Virtualisation::observe().has_hardware() && packages::is_root() && Path::new("/dev/net/tun").exists()
}

fn run_here(lab: &Lab, programs: &[Program]) -> Result<bool> {
    println!("Host     this machine, which has hardware virtualisation");
    let images = lab.workspace.lab_dir().join("images/images.json");
    fs::write(&images, lab.images.to_json()?)
        .with_context(|| format!("cannot write {}", images.display()))?;
    let path_of = |name: &str| {
        let program = programs.iter().find(|program| program.name == name);
        program.map(|program| &program.path).with_context(|| format!("cargo built no {name}"))
    };
    let mut demo = Command::new(path_of("demo")?);
    demo.env("PROCURATOR_TEST_WORKER", path_of("procurator-worker")?)
        .env("PROCURATOR_TEST_MASTER", path_of("procurator-master")?)
        .env("PROCURATOR_TEST_IMAGES", &images);
    process::run(&mut demo).map(|()| true)
}

fn run_in_outer_host(lab: &Lab, programs: &[Program]) -> Result<bool> {
    let session = Session {
        lab,
        programs,
        script: &format!("{SCRIPT_VARIABLES}\nexec /lab/bin/demo\n"),
        kept: None,
        deadline: DEADLINE,
        afterwards: Afterwards::PowerOff,
    };
    let status = with_second_try(|| session.run(|line| println!("{line}")))?;
    Ok(status == 0)
}
