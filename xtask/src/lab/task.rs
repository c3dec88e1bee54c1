//! `cargo xtask lab`: one shell script in the outer host, for a look at what it offers and for programs of one's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::lab::Lab;
use crate::lab::host::{Afterwards, Session};
use crate::lab::programs::Program;
use crate::lab::systemd::{self, DebianRoot, SystemdInit};
use crate::workspace::Workspace;

/// Options of the task.
#[derive(Args, Debug)]
pub(crate) struct LabTask {
    /// The script, in POSIX shell. Programs are in its `PATH`, the images' list is `/lab/images.json`.
    script: String,
    /// A statically linked program to bring along. May be repeated. `procurator-worker` is installed by its package where
    /// there is systemd.
    #[arg(long = "program", value_name = "FILE")]
    programs: Vec<PathBuf>,
    /// After how many seconds everything is ended.
    #[arg(long, default_value_t = 600)]
    deadline: u64,
    /// Leaves the outer host up afterwards and says how to look around in it.
    #[arg(long)]
    keep: bool,
    /// Takes the outer host that has systemd, and the image of a stock guest; it ends with an orderly shutdown.
    #[arg(long)]
    systemd: bool,
}

impl LabTask {
    /// Runs the script and returns whether it went well.
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<bool> {
        let lab = Lab::prepare(workspace)?;
        let lab = if self.systemd { lab.with_stock_guest()? } else { lab };
        let programs = self.programs.iter().map(|path| named(path)).collect::<Result<Vec<_>>>()?;
        let session = Session {
            lab: &lab,
            programs: &programs,
            script: &format!("PATH=/lab/bin:$PATH\ncd /tmp\n{}", self.script),
            deadline: Duration::from_secs(self.deadline),
            kept: None,
            afterwards: if self.keep { Afterwards::Keep } else { Afterwards::PowerOff },
        };
        let print = |line: &str| println!("{line}");
        let status = match self.systemd {
            false => session.run(print)?,
            true => {
                let root = DebianRoot::ensure(workspace)?;
                let packages = systemd::build_packages(workspace, &programs)?;
                session.run_under(&SystemdInit::new(&root, &packages, "true"), print)?
            }
        };
        Ok(status == 0)
    }
}

fn named(path: &Path) -> Result<Program> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} has no usable name", path.display()))?.to_owned();
    Ok(Program { name, path: path.to_path_buf() })
}
