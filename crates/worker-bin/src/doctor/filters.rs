//! Whether the system calls of processes of VMs are filtered.

use syscall_filter::Mode;

use super::finding::{Finding, advice};
use crate::filtering::shortcoming;
use crate::settings::Settings;

const CHECK: &str = "system calls";

/// What the configuration asks for, and what this host makes of it; `None` where all is well.
pub(super) type Facts = (Mode, Option<&'static str>);

pub(super) fn look(settings: &Settings) -> Facts {
    (settings.seccomp, shortcoming(settings.seccomp))
}

pub(super) fn judge((mode, shortcoming): Facts) -> Vec<Finding> {
    vec![match shortcoming {
        None => Finding::ok(CHECK, "the processes of VMs are kept to the system calls that they need"),
        Some(problem) if mode == Mode::Trap => {
            Finding::warn(CHECK, problem, advice("run a kernel with CONFIG_SECCOMP_FILTER"))
        }
        Some(problem) => Finding::warn(
            CHECK,
            problem,
            advice("remove `seccomp` from the configuration once it is no longer needed"),
        ),
    }]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn what_falls_short_is_a_warning() {
        assert_eq!(judge((Mode::Trap, None))[0].verdict, Verdict::Ok);
        assert_eq!(judge((Mode::Trap, Some("x")))[0].verdict, Verdict::Warn);
        let off = &judge((Mode::Off, Some("x")))[0];
        assert_eq!((off.verdict, off.found.as_str()), (Verdict::Warn, "x"));
    }
}
