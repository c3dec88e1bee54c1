//! Which processes VMs run in, and how these are started.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use syscall_filter::Mode;
use worker::vms::{HostProcessSettings, JailDemand, JailSettings, Placement, UserRange};

use crate::cli::LogFormat;

/// More would slow each other's page faults down without end.
const MOST_VMS_A_PROCESS: usize = 1024;
/// Each costs a few hundred KiB of memory.
const MOST_SPARE: usize = 16;

/// More are no limit.
const MOST_PARALLEL_STARTS: usize = 1024;

/// What becomes of system calls that host processes should not make.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Seccomp {
    Trap,
    Log,
    Off,
}

impl From<Seccomp> for Mode {
    fn from(seccomp: Seccomp) -> Self {
        match seccomp {
            Seccomp::Trap => Self::Trap,
            Seccomp::Log => Self::Log,
            Seccomp::Off => Self::Off,
        }
    }
}

/// Where the sockets of host processes lie.
pub(crate) fn host_processes_in(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("hosts")
}

/// Which processes the VMs run in, whose directories lie in `vms_dir`.
pub(super) fn placement(
    (runtime_dir, vms_dir): (&Path, &Path),
    log_format: LogFormat,
    stop_timeout: Duration,
    (vms, spare): (Option<usize>, Option<usize>),
    (jail, seccomp): (Option<JailSettings>, Mode),
) -> Result<Placement> {
    let (vms, spare) = (vms.unwrap_or(1), spare.unwrap_or(2));
    if vms > MOST_VMS_A_PROCESS {
        bail!(
            "invalid setting vms_per_host_process = {vms}: 0 (all in the worker) to {MOST_VMS_A_PROCESS} is accepted"
        );
    }
    if spare > MOST_SPARE {
        bail!("invalid setting spare_host_processes = {spare}: 0 to {MOST_SPARE} is accepted");
    }
    let program = vec![
        this_program()?,
        "vm-host".into(),
        "--log-format".into(),
        log_format.as_str().into(),
        "--stop-timeout-seconds".into(),
        stop_timeout.as_secs().to_string().into(),
        "--vms-dir".into(),
        vms_dir.into(),
        format!("--seccomp={seccomp}").into(),
    ];
    let directory = host_processes_in(runtime_dir);
    Ok(match NonZeroUsize::new(vms) {
        Some(vms_per_process) => {
            Placement::HostProcesses(HostProcessSettings { program, directory, vms_per_process, spare, jail })
        }
        // Few VMs are isolated strictly where most share the worker: their processes are started as they are needed.
        None => Placement::StrictApart(HostProcessSettings {
            program,
            directory,
            vms_per_process: NonZeroUsize::MIN,
            spare: 0,
            jail,
        }),
    })
}

/// Whether processes of VMs are jailed.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Jail {
    /// As far as the host goes along.
    #[default]
    Auto,
    /// Whole, or no VM is started.
    Required,
    /// Not at all.
    Off,
}

/// How processes of VMs are jailed.
pub(super) fn jail(mode: Option<Jail>, users: Option<&str>) -> Result<Option<JailSettings>> {
    let users = match users {
        None => UserRange::default(),
        Some(text) => {
            text.parse().map_err(|problem| anyhow!("invalid setting jail_users = {text:?}: {problem}"))?
        }
    };
    Ok(match mode.unwrap_or_default() {
        Jail::Auto => Some(JailSettings { users, demand: JailDemand::WhatTheHostHas }),
        Jail::Required => Some(JailSettings { users, demand: JailDemand::Whole }),
        Jail::Off => None,
    })
}

/// How many machines are started at the same time.
pub(super) fn parallel_starts(value: Option<usize>, default: NonZeroUsize) -> Result<NonZeroUsize> {
    let Some(value) = value else { return Ok(default) };
    match NonZeroUsize::new(value).filter(|most| most.get() <= MOST_PARALLEL_STARTS) {
        Some(most) => Ok(most),
        None => bail!("invalid max_parallel_starts = {value}: 1 to {MOST_PARALLEL_STARTS} is accepted"),
    }
}

/// The file that runs; after an upgrade, what was put in its place.
fn this_program() -> Result<OsString> {
    let path = std::env::current_exe().context("cannot find this program's own file")?;
    // What the kernel appends where the file is gone (proc_pid_exe(5)).
    let kept = path.as_os_str().as_encoded_bytes().strip_suffix(b" (deleted)").map(<[u8]>::to_vec);
    Ok(kept.map_or_else(|| path.clone().into_os_string(), OsString::from_vec))
}
