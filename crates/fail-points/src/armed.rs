//! What passing a point does where points are compiled in.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::{FailPoint, Trigger, VARIABLE};

/// What the environment says, and how often its point was passed.
struct Armed {
    trigger: Trigger,
    passed: AtomicU32,
}

/// How often a thread that waits looks whether it still has to.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Ends the process or waits, if this is where that is to be.
pub(crate) fn pass(point: FailPoint, subject: &str) {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let Some(armed) = ARMED.get_or_init(from_environment) else { return };
    if armed.trigger.concerns(point, subject)
        && armed.passed.fetch_add(1, Ordering::Relaxed).saturating_add(1) == armed.trigger.nth()
    {
        match armed.trigger.file() {
            None => die(),
            Some(file) => wait_while_there(file),
        }
    }
}

fn wait_while_there(file: &Path) {
    while file.exists() {
        sleep(LOOK_EVERY);
    }
}

fn from_environment() -> Option<Armed> {
    let text = std::env::var(VARIABLE).ok()?;
    match text.parse() {
        Ok(trigger) => Some(Armed { trigger, passed: AtomicU32::new(0) }),
        Err(problem) => {
            // A test that names no point would otherwise wait for an end that never comes.
            eprintln!("{VARIABLE}={text}: {problem}");
            die();
        }
    }
}

/// What a process exits with for which `kill -9` stands: what shells say of one that it has ended.
const KILLED: libc::c_int = 128 + libc::SIGKILL;

/// Ends the process as `kill -9` does: nothing is tidied up.
#[expect(unsafe_code, reason = "the standard library knows no end at which nothing is tidied up")]
fn die() -> ! {
    // A process may always kill itself, unless it is the first of its PID namespace; the signal arrives before the call
    // returns to this thread.
    if !getpid().is_init() {
        let _ = kill_process(getpid(), Signal::KILL);
    }
    // SAFETY: takes no memory and does not return.
    unsafe { libc::_exit(KILLED) }
}
