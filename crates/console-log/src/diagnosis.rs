//! What the last lines of a console tell about why a boot went wrong. Pure.
//!
//! `signs` is the table of lines that Linux, its usual initrds and systemd write; `kernel_root` reads what a kernel without
//! an initrd writes about its root device, which takes several lines together.

mod kernel_root;
mod signs;

use vm_model::FailureClass;

use crate::panic::KernelPanic;
pub(crate) use signs::waits_for_a_person;

/// What went wrong, and the line that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What it was.
    pub class: FailureClass,
    /// What usually helps.
    pub hint: &'static str,
    /// The line that says so, counted from 0.
    pub line: usize,
}

impl Diagnosis {
    /// What `lines` of one boot's console, oldest first, tell. Where the kernel panicked, what it wrote after that is left
    /// out: it is a trace.
    ///
    /// Call it for a boot that went wrong: lines of a boot that went well mean nothing.
    pub fn of(lines: &[String]) -> Option<Self> {
        let panic = KernelPanic::find(lines);
        let relevant = panic.map_or(lines, |panic| &lines[..=panic.line]);
        let found = kernel_root::diagnose(relevant).or_else(|| signs::diagnose(relevant));
        found.or_else(|| panic.map(|panic| Self::new(FailureClass::KernelPanic, panic.line)))
    }

    /// A line of `class` with the hint that goes with the class.
    fn new(class: FailureClass, line: usize) -> Self {
        Self { class, hint: class.hint(), line }
    }
}

/// `line` without what Linux puts before it: `[    1.234567] `, and the caller in `[    T1] ` where it is told.
pub fn without_timestamp(line: &str) -> &str {
    let Some((stamp, mut text)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
        return line;
    };
    if stamp.trim().parse::<f64>().is_err() {
        return line;
    }
    if let Some((caller, after)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && caller.trim_start().starts_with(['T', 'C'])
    {
        text = after;
    }
    text.strip_prefix(' ').unwrap_or(text)
}

#[cfg(test)]
mod tests;
