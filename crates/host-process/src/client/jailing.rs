//! The jails of host processes: what each is told of its own, and what a machine's files become for it.

use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;

use jail::{Gap, JailOrder, JailReport, TakenUser, UserPool, UserRange, users_of_processes};
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, fcntl_getfl, open};
use thiserror::Error;
use vm_model::{DiskCaching, MachineSpec};

use super::own_process::{OwnProcess, Succession, succession_in};

/// The most that is read of what a process says of its jail.
const REPORT_BYTES_MAX: u64 = 64 << 10;
/// Descriptors that a process has for itself, and that each machine may have: a disk or an interface with many queues has
/// some for each.
const DESCRIPTORS: (u64, u64) = (1024, 2048);
/// Threads likewise: a machine has one a vCPU, and some for its disks.
const THREADS: (u64, u64) = (1024, 512);
/// Bytes of memory that may be locked, likewise. No machine locks any, but kernels before Linux 5.12 and from 6.14 on count the rings
/// of disks as that: an entry takes 96 bytes, and a disk has 255 queues of 1024 at most. One that gets no ring does without.
const LOCKED: (u64, u64) = (0, 32 << 20);

/// How host processes are jailed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JailSettings {
    /// Whose users they become, where this process may give them some.
    pub users: UserRange,
    /// What a layer that is missing leads to.
    pub demand: JailDemand,
}

/// What a missing layer of a jail leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JailDemand {
    /// The process does without it.
    WhatTheHostHas,
    /// No machine is launched.
    Whole,
}

/// Why a jail is not as it was demanded, or not known.
#[derive(Debug, Error)]
pub enum JailError {
    /// A layer is missing.
    #[error("a whole jail is required, and this host lacks: {}", list(gaps))]
    Gaps {
        /// What is missing.
        gaps: Vec<Gap>,
    },
    /// Every user is taken.
    #[error("all users from {users} are taken by host processes: set a wider range")]
    NoUser {
        /// The range.
        users: UserRange,
    },
    /// The process does not say what came of it.
    #[error("cannot {operation} the program that tells of its jail")]
    Probe {
        /// What was tried.
        operation: &'static str,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
}

fn list(gaps: &[Gap]) -> String {
    gaps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What jails are made of.
#[derive(Debug)]
pub(super) struct Jails {
    demand: JailDemand,
    /// `None` where this process may not give away files, and so no user could do anything.
    users: Option<Arc<UserPool>>,
    limits: JailOrder,
}

/// The jail of one process.
#[derive(Debug)]
pub(super) struct ProcessJail {
    pub(super) order: JailOrder,
    pub(super) user: Option<TakenUser>,
}

impl Jails {
    /// Users of processes that run already are left alone, whoever started these.
    pub(super) fn new(settings: JailSettings, machines: u64) -> Self {
        let users = rustix::process::geteuid().is_root().then(|| {
            let in_use = users_of_processes().unwrap_or_else(|error| {
                tracing::warn!(%error, "users of other processes are not known");
                Default::default()
            });
            // What the standard library begins its hashes with is random.
            let start = RandomState::new().hash_one(());
            UserPool::new(settings.users, in_use, u32::try_from(start >> 32).unwrap_or_default())
        });
        Self { demand: settings.demand, users, limits: limits(machines) }
    }

    /// The jail of a process that is about to be started.
    pub(super) fn next(&self) -> Result<ProcessJail, JailError> {
        let user = match &self.users {
            None => None,
            Some(pool) => Some(pool.take().ok_or(JailError::NoUser { users: pool.range() })?),
        };
        // Threads and locked memory are counted by user: what one has that others are, too, is not this process' to bound.
        let own = |most: Option<u64>| most.filter(|_| user.is_some());
        let order = JailOrder {
            pid_namespace: true,
            user: user.as_ref().map(TakenUser::number),
            threads: own(self.limits.threads),
            locked: own(self.limits.locked),
            ..self.limits
        };
        Ok(ProcessJail { order, user })
    }

    /// Whether `report` will do.
    pub(super) fn judge(&self, report: &JailReport) -> Result<(), JailError> {
        judge(self.demand, report)
    }
}

fn limits(machines: u64) -> JailOrder {
    let sum = |(own, each): (u64, u64)| Some(own.saturating_add(each.saturating_mul(machines)));
    let (descriptors, threads, locked) = (sum(DESCRIPTORS), sum(THREADS), sum(LOCKED));
    JailOrder { descriptors, threads, locked, ..JailOrder::default() }
}

fn judge(demand: JailDemand, report: &JailReport) -> Result<(), JailError> {
    match demand {
        JailDemand::Whole if report.holes().next().is_some() => {
            Err(JailError::Gaps { gaps: report.holes().cloned().collect() })
        }
        JailDemand::Whole | JailDemand::WhatTheHostHas => Ok(()),
    }
}

/// The arguments that tell the program of its jail.
pub(super) fn arguments(order: &JailOrder) -> [OsString; 1] {
    [format!("--jail={order}").into()]
}

/// What the jail of host processes that are started as `program` lacks on this host: one is started for that, and ends.
/// Blocks for some milliseconds.
///
/// # Errors
/// The program cannot be started or does not tell, or the jail is not as `settings` demand.
pub fn probe_jail(program: &[OsString], settings: JailSettings) -> Result<JailReport, JailError> {
    let failed = |operation| move |source| JailError::Probe { operation, source };
    let (name, arguments) =
        program.split_first().ok_or_else(|| failed("find")(io::ErrorKind::InvalidInput.into()))?;
    let ProcessJail { order, user } = Jails::new(settings, 1).next()?;
    let mut child = Command::new(name)
        .args(arguments)
        .args(self::arguments(&order))
        .arg("--probe-jail")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed("start"))?;
    let mut text = String::new();
    let told = child.stdout.take();
    let program = OwnProcess::of(child);
    told.map_or(Ok(0), |told| told.take(REPORT_BYTES_MAX).read_to_string(&mut text))
        .map_err(failed("hear"))?;
    let (Succession { process, predecessor }, text) =
        succession_in(program, &text).map_err(failed("hear"))?;
    for process in predecessor.into_iter().chain([process]) {
        let status = process.wait().map_err(failed("wait for"))?;
        if !status.success() {
            return Err(failed("run")(io::Error::other(status.to_string())));
        }
    }
    drop(user);
    let report: JailReport =
        serde_json::from_str(text).map_err(|error| failed("understand")(error.into()))?;
    judge(settings.demand, &report)?;
    Ok(report)
}

/// Has what the process of `user` makes or opens later be its own: the directories of the console and of the sockets, and a
/// second description of each disk that is read past the page cache.
pub(super) fn hand_over(
    user: u32,
    spec: &mut MachineSpec<OwnedFd>,
    console: Option<&OwnedFd>,
) -> io::Result<()> {
    let sockets = spec.services.vsock.as_ref().map(|vsock| &vsock.directory);
    for directory in console.into_iter().chain(sockets) {
        fchown(directory, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))?;
    }
    for disk in &mut spec.disks {
        if disk.options.caching == DiskCaching::Direct && disk.direct_file.is_none() {
            // Where this is refused, so it is to the process, which says why.
            disk.direct_file = open_direct(&disk.file).ok();
        }
    }
    Ok(())
}

fn open_direct(file: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let access = fcntl_getfl(file)? & OFlags::ACCMODE;
    Ok(open(path, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use jail::{Extent, Layer};

    use super::*;

    #[test]
    fn a_gap_is_refused_where_a_whole_jail_is_required() {
        let gap = |extent| Gap {
            layer: Layer::Landlock,
            problem: format!("{extent:?} of it is not there"),
            extent,
        };
        let report = JailReport { user: None, gaps: vec![gap(Extent::Whole), gap(Extent::Additions)] };
        let older_kernel = JailReport { user: None, gaps: vec![gap(Extent::Additions)] };
        judge(JailDemand::Whole, &older_kernel).expect("other layers keep it from what is missing");
        judge(JailDemand::WhatTheHostHas, &report).expect("it will do");
        judge(JailDemand::Whole, &JailReport::default()).expect("nothing is missing");
        let refusal = judge(JailDemand::Whole, &report).expect_err("refused").to_string();
        assert_eq!(
            refusal,
            "a whole jail is required, and this host lacks: Landlock: Whole of it is not there"
        );
    }

    #[test]
    fn what_is_allowed_grows_with_the_machines() {
        let JailOrder { descriptors, threads, locked, .. } = limits(16);
        assert_eq!((descriptors, threads), (Some(1024 + 16 * 2048), Some(1024 + 16 * 512)));
        assert_eq!(locked, Some(512 << 20));
    }
}
