//! What threads did, held against the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use last_words::call_name;
use syscall_filter::{Arguments, Scope, Table, ThreadKind, Verdict, allowed, entries};

use super::trace::MadeCall;

/// Numbers of calls that are looked at; there are fewer.
const NUMBERS: i64 = 1024;

/// An entry of a table: whose, which call, and which value of its argument where there are some.
type Entry = (Scope, &'static str, Option<&'static str>);

/// What was found.
pub(super) struct Findings {
    tables: BTreeMap<ThreadKind, Table>,
    numbers: BTreeMap<&'static str, i64>,
    threads: BTreeMap<ThreadKind, usize>,
    used: BTreeSet<Entry>,
    /// What tables lack, and how often it was made.
    lacking: BTreeMap<(ThreadKind, String), usize>,
}

impl Default for Findings {
    fn default() -> Self {
        Self {
            tables: ThreadKind::ALL.into_iter().map(|kind| (kind, allowed(kind))).collect(),
            numbers: (0..NUMBERS).filter_map(|number| Some((call_name(number)?, number))).collect(),
            threads: BTreeMap::new(),
            used: BTreeSet::new(),
            lacking: BTreeMap::new(),
        }
    }
}

impl Findings {
    pub(super) fn add_thread(&mut self, kind: ThreadKind) {
        *self.threads.entry(kind).or_default() += 1;
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.values().sum()
    }

    /// A thread of `kind` made `call`, with its own filter or before.
    pub(super) fn add_call(&mut self, kind: ThreadKind, has_filter: bool, call: &MadeCall<'_>) {
        if kind == ThreadKind::Main && !has_filter {
            // The process is being set up, and nothing is kept from it.
            return;
        }
        let Some(&number) = self.numbers.get(call.name) else { return };
        let starts_it = |starter: ThreadKind| !has_filter && starter.starts().contains(&kind);
        for (scope, entry) in entries().filter(|(_, entry)| entry.number() == number) {
            let is_its = match scope {
                Scope::Every => true,
                Scope::Starting => !has_filter || !kind.starts().is_empty(),
                Scope::Own(owner) => (has_filter && owner == kind) || starts_it(owner),
            };
            if is_its {
                let used = used_values(entry.arguments, &call.arguments);
                self.used.extend(used.into_iter().map(|value| (scope, entry.name(), value)));
            }
        }
        // Without a filter of its own it has that of whoever started it.
        let held = |kind: ThreadKind| {
            // That a signal goes to the process itself is what the filter sees to.
            let pid = u32::try_from(call.arguments[0]).unwrap_or_default();
            self.tables.get(&kind).map(|table| table.verdict(number, &call.arguments, pid))
        };
        let is_held = |kind| matches!(held(kind), Some(Verdict::Allowed | Verdict::Refused { .. }));
        let is_fine = if has_filter {
            is_held(kind)
        } else {
            ThreadKind::ALL.into_iter().any(|one| starts_it(one) && is_held(one))
        };
        if !is_fine {
            let shown = format!(
                "{}({:#x}, {:#x}, {:#x}, …)",
                call.name, call.arguments[0], call.arguments[1], call.arguments[2]
            );
            *self.lacking.entry((kind, shown)).or_default() += 1;
        }
    }

    /// Whether a table lacks what a thread did.
    pub(super) fn lacks_any(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// Whether tables have what threads did, and nothing else without a reason.
    pub(super) fn are_well(&self) -> bool {
        !self.lacks_any() && self.unused().next().is_none()
    }

    /// Entries without a reason that nobody used.
    fn unused(&self) -> impl Iterator<Item = Entry> {
        let wanted = entries().filter(|(_, call)| call.seldom.is_none());
        let wanted = wanted.flat_map(|(scope, call)| {
            required_values(call.arguments).into_iter().map(move |value| (scope, call.name(), value))
        });
        wanted.filter(|entry| !self.used.contains(entry))
    }
}

/// Which values of a call's argument were used; `None` for a call whose values are not told apart.
fn used_values(allowed: Arguments, arguments: &[u64; 6]) -> Vec<Option<&'static str>> {
    let lower = |index: u8| arguments[usize::from(index)] & u64::from(u32::MAX);
    match allowed {
        Arguments::Any | Arguments::Without { .. } => vec![None],
        Arguments::OneOf { index, values } => values
            .iter()
            .filter(|value| u64::from(value.number) == lower(index))
            .map(|value| Some(value.name))
            .collect(),
        Arguments::OwnSignal { values } => values
            .iter()
            .filter(|value| u64::from(value.number) == lower(2))
            .map(|value| Some(value.name))
            .collect(),
    }
}

/// Which values have to be used because they give no reason.
fn required_values(allowed: Arguments) -> Vec<Option<&'static str>> {
    match allowed {
        Arguments::Any | Arguments::Without { .. } => vec![None],
        Arguments::OneOf { values, .. } | Arguments::OwnSignal { values } => {
            values.iter().filter(|value| value.seldom.is_none()).map(|value| Some(value.name)).collect()
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, count) in &self.threads {
            writeln!(formatter, "{count:6} threads: {}", kind.name())?;
        }
        for ((kind, call), count) in &self.lacking {
            writeln!(
                formatter,
                "LACKING: {} threads made {call} {count} times, which their table does not allow",
                kind.name()
            )?;
        }
        for (scope, call, value) in self.unused() {
            let value = value.map(|value| format!(" with {value}")).unwrap_or_default();
            writeln!(
                formatter,
                "UNUSED: {call}{value} of {scope:?}: no thread made it, and no reason (`seldom`) is given"
            )?;
        }
        let entries = entries().count();
        writeln!(
            formatter,
            "{} of {entries} entries and {} values were used",
            self.used_calls(),
            self.used.len()
        )
    }
}

impl Findings {
    fn used_calls(&self) -> usize {
        self.used.iter().map(|(scope, call, _)| (scope, call)).collect::<BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &'static str, arguments: &[u64]) -> MadeCall<'static> {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        MadeCall { name, arguments: all }
    }

    #[test]
    fn what_a_table_lacks_is_found_where_it_was_done() {
        let mut findings = Findings::default();
        findings.add_call(ThreadKind::Vcpu, true, &made("ioctl", &[3, 0xae80]));
        // It starts under the filter of the machine's thread.
        findings.add_call(ThreadKind::Vcpu, false, &made("sched_setaffinity", &[0, 8]));
        findings.add_call(ThreadKind::Main, false, &made("execve", &[]));
        // Refused, which is no lack.
        findings.add_call(ThreadKind::Vcpu, true, &made("openat", &[]));
        assert!(!findings.lacks_any(), "{findings}");
        findings.add_call(ThreadKind::Vcpu, true, &made("sched_setaffinity", &[0, 8]));
        findings.add_call(ThreadKind::Vcpu, true, &made("ioctl", &[3, 0xae01]));
        let text = findings.to_string();
        assert!(
            text.contains("LACKING: vCPU threads made sched_setaffinity(")
                && text.contains("ioctl(0x3, 0xae01"),
            "{text}"
        );
    }

    #[test]
    fn what_nobody_uses_needs_a_reason() {
        let mut findings = Findings::default();
        let unused = |findings: &Findings| findings.unused().filter(|entry| entry.1 == "ioctl").count();
        let before = unused(&findings);
        findings.add_call(ThreadKind::Vcpu, true, &made("ioctl", &[3, 0xae80]));
        assert_eq!(unused(&findings), before - 1);
        assert!(!findings.are_well());
        assert!(!findings.unused().any(|(_, call, _)| call == "restart_syscall"), "it has a reason");
    }
}
