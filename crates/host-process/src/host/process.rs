//! The process itself: what it does once, before it hosts machines, and how it is called.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use jail::JailReport;
use syscall_filter::{ConfineError, Mode};
use vm_model::VmId;

use crate::wire::FromHost;

/// How many descriptors there is room for from the start: more than a machine with many queues has. Room that is made later
/// is waited for by whichever machine needs the next descriptor.
const DESCRIPTORS: u32 = 512;

/// How likely the kernel ends this process when memory runs out: proc(5).
const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// Takes the connection that the process was started with from its standard input, and leaves nothing there, nor at its standard
/// output: who waits there to be told of another process has this one.
///
/// # Errors
/// There is no room for a descriptor, or no `/dev/null`.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let connection = io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    Ok(connection)
}

/// Tells whoever started this process what came of its jail, on standard output: see [`crate::probe_jail`].
///
/// # Errors
/// Nobody listens.
pub fn tell_of_jail(report: &JailReport) -> io::Result<()> {
    let text = serde_json::to_vec(report)?;
    io::stdout().write_all(&text)
}

/// Makes this process one that no terminal and no process group of its parent ends, that keeps no file system in use by its
/// working directory, that has no privilege when memory runs out, and prepares its table of descriptors.
/// Called before the first thread is started.
pub fn become_host_process() {
    name_process(std::iter::empty());
    // It fails for the leader of a group, as which a process is started that was started by hand.
    if let Err(errno) = rustix::process::setsid() {
        tracing::debug!(error = %io::Error::from(errno), "this process stays in its session");
    }
    if let Err(error) = std::env::set_current_dir("/") {
        tracing::debug!(%error, "this process stays in the directory in which it was started");
    }
    if let Err(error) = be_ordinary_victim() {
        tracing::debug!(%error, "this process keeps its worker's place when memory runs out");
    }
    if let Err(error) = vmm_host::presize_fd_table(DESCRIPTORS) {
        tracing::debug!(%error, "there is no room for many descriptors");
    }
}

/// Gives up what protects a worker from the kernel when memory runs out (`OOMScoreAdjust=` of its unit), which its children
/// inherit: guests take the memory, and one of them is to go before the worker does. Who was made a likelier victim stays one.
fn be_ordinary_victim() -> io::Result<()> {
    let score = fs::read_to_string(OOM_SCORE_ADJ)?;
    if score.trim().starts_with('-') { fs::write(OOM_SCORE_ADJ, "0") } else { Ok(()) }
}

/// Has the process say why it ends where a signal ends it, and prepares to keep its threads to the system calls that they
/// make. Called before the first thread is started.
///
/// # Errors
/// The kernel cannot do it in this `mode`; nothing is filtered then.
pub fn confine(mode: Mode) -> Result<(), ConfineError> {
    if let Err(error) = last_words::install(FromHost::LAST_WORDS_FRAME) {
        tracing::warn!(%error, "nothing will say why, should a signal end this process");
    }
    syscall_filter::prepare(mode)
}

/// Has `ps` and `top` show which of `vms` the process holds: `vm:web-1` of one, `vms:16` of several, `vm-host` of none.
///
/// Called on the process' first thread, whose name is the process'.
pub(super) fn name_process<'a>(vms: impl Iterator<Item = &'a VmId>) {
    let name = process_name(vms);
    let named = CString::new(name.as_str()).map(|name| rustix::thread::set_name(&name));
    if !matches!(named, Ok(Ok(()))) {
        tracing::debug!(name, "the process cannot be named");
    }
}

/// At most 15 bytes: the kernel cuts off what follows.
fn process_name<'a>(mut vms: impl Iterator<Item = &'a VmId>) -> String {
    match (vms.next(), vms.count()) {
        (None, _) => "vm-host".to_owned(),
        (Some(vm), 0) => vmm_host::thread_name(vm),
        (Some(_), others) => format!("vms:{}", others.saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_after_what_it_holds() {
        let [one, two] = ["web-1", "a-rather-long-name-17"].map(VmId::new);
        assert_eq!(process_name([].iter()), "vm-host");
        assert_eq!(process_name([&one].into_iter()), "vm:web-1");
        assert_eq!(process_name([&two].into_iter()), "vm:a-rath~me-17");
        assert_eq!(process_name([&one, &two].into_iter()), "vms:2");
        assert!(process_name(std::iter::repeat_n(&one, 100_000)).len() <= 15);
    }
}
