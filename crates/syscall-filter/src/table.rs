//! What a kind of thread may do: its own calls, and those of every kind that it starts.

use std::collections::BTreeMap;

use crate::call::{Arguments, Call, Refusal};
use crate::kind::ThreadKind;
use crate::tables;

/// The calls of one kind of thread: by number, what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(BTreeMap<i64, Rule>);

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// It is made where one of these holds.
    Allowed(Vec<Condition>),
    /// It fails.
    Refused {
        /// With which error.
        error: u32,
    },
}

/// What the arguments of a call may be. Of several, one has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Anything.
    Always,
    /// The argument is this.
    Is {
        /// Which argument.
        index: u8,
        /// What it is.
        number: u32,
    },
    /// The argument has none of these bits.
    Without {
        /// Which argument.
        index: u8,
        /// What it does not have.
        bits: u32,
    },
    /// Argument 0 is this process, and argument 2 this signal.
    OwnSignal {
        /// Which signal.
        number: u32,
    },
}

/// What becomes of one call with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Allowed,
    /// It fails with an error.
    Refused {
        /// Which one.
        error: u32,
    },
    /// It is one that the thread may not make.
    Forbidden,
}

impl Condition {
    /// Whether it holds of arguments in the process `pid`.
    #[expect(clippy::cast_possible_truncation, reason = "filters look at the lower half of an argument")]
    fn holds(self, arguments: &[u64; 6], pid: u32) -> bool {
        // The lower half of an argument; there are six, and tables name no other.
        let lower = |index: u8| arguments.get(usize::from(index)).map_or(0, |argument| *argument as u32);
        match self {
            Self::Always => true,
            Self::Is { index, number } => lower(index) == number,
            Self::Without { index, bits } => lower(index) & bits == 0,
            Self::OwnSignal { number } => lower(0) == pid && lower(2) == number,
        }
    }
}

/// What threads of `kind` may do.
#[must_use]
pub fn allowed(kind: ThreadKind) -> Table {
    let mut table = Table::default();
    // What is asked most often comes first among the conditions of a call: the entries of a guest, which are a vCPU's.
    table.add_started(kind);
    table.add(tables::EVERY_THREAD);
    table.add(tables::own(kind));
    if !kind.starts().is_empty() {
        table.add(tables::STARTING);
    }
    table.refuse(tables::REFUSED);
    table
}

impl Table {
    fn add_started(&mut self, kind: ThreadKind) {
        for &started in kind.starts() {
            // One kind starts its own kind.
            if started != kind {
                self.add_started(started);
                self.add(tables::own(started));
            }
        }
    }

    fn add(&mut self, calls: &[Call]) {
        for call in calls {
            let rule = self.0.entry(call.number).or_insert_with(|| Rule::Allowed(Vec::new()));
            let Rule::Allowed(conditions) = rule else { continue };
            for condition in conditions_of(call.arguments) {
                if !conditions.contains(&condition) {
                    conditions.push(condition);
                }
            }
        }
    }

    /// Has calls fail that are not allowed.
    fn refuse(&mut self, refusals: &[Refusal]) {
        for refusal in refusals {
            self.0.entry(refusal.number).or_insert(Rule::Refused { error: refusal.error });
        }
    }

    /// What becomes of each call that something is said of, in the order of their numbers.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (i64, &Rule)> {
        self.0.iter().map(|(number, rule)| (*number, rule))
    }

    /// The calls that are allowed, and of each the conditions of which one has to hold.
    pub fn calls(&self) -> impl Iterator<Item = (i64, &[Condition])> {
        self.0.iter().filter_map(|(number, rule)| match rule {
            Rule::Allowed(conditions) => Some((*number, conditions.as_slice())),
            Rule::Refused { .. } => None,
        })
    }

    /// The conditions of a call; none where it is not allowed.
    fn conditions(&self, number: i64) -> &[Condition] {
        match self.0.get(&number) {
            Some(Rule::Allowed(conditions)) => conditions,
            Some(Rule::Refused { .. }) | None => &[],
        }
    }

    /// What becomes of the call `number` with these arguments, made by the process `pid`.
    #[must_use]
    pub fn verdict(&self, number: i64, arguments: &[u64; 6], pid: u32) -> Verdict {
        match self.0.get(&number) {
            Some(Rule::Refused { error }) => Verdict::Refused { error: *error },
            Some(Rule::Allowed(conditions)) if conditions.iter().any(|one| one.holds(arguments, pid)) => {
                Verdict::Allowed
            }
            Some(Rule::Allowed(_)) | None => Verdict::Forbidden,
        }
    }

    /// How many calls are allowed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.calls().count()
    }

    /// Whether all that `other` allows is allowed.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.calls().all(|(number, conditions)| {
            let own = self.conditions(number);
            own.contains(&Condition::Always) || conditions.iter().all(|condition| own.contains(condition))
        })
    }
}

fn conditions_of(arguments: Arguments) -> Vec<Condition> {
    match arguments {
        Arguments::Any => vec![Condition::Always],
        Arguments::OneOf { index, values } => {
            values.iter().map(|value| Condition::Is { index, number: value.number }).collect()
        }
        Arguments::Without { index, bits } => vec![Condition::Without { index, bits }],
        Arguments::OwnSignal { values } => {
            values.iter().map(|value| Condition::OwnSignal { number: value.number }).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Calls by which a process becomes another, reaches into others, or changes what it may do.
    const NEVER: [i64; 16] = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_kill,
        libc::SYS_bpf,
        libc::SYS_mount,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_setuid,
        libc::SYS_init_module,
        libc::SYS_open_by_handle_at,
    ];

    #[test]
    fn a_thread_may_do_what_those_may_that_it_starts() {
        for kind in ThreadKind::ALL {
            let table = allowed(kind);
            for &started in kind.starts() {
                assert!(table.contains(&allowed(started)), "{kind:?} starts {started:?}, which may do more");
            }
        }
        let all: BTreeSet<_> = ThreadKind::ALL.into_iter().collect();
        let mut reached = BTreeSet::from([ThreadKind::Main]);
        while let Some(next) =
            reached.iter().flat_map(|kind| kind.starts()).find(|kind| !reached.contains(kind)).copied()
        {
            reached.insert(next);
        }
        assert_eq!(reached, all, "every kind is started by somebody");
    }

    #[test]
    fn no_thread_may_become_or_reach_another_program() {
        for kind in ThreadKind::ALL {
            let calls: BTreeSet<i64> = allowed(kind).calls().map(|(number, _)| number).collect();
            for number in NEVER {
                assert!(!calls.contains(&number), "{kind:?} may make {:?}", last_words::call_name(number));
            }
        }
    }

    #[test]
    fn what_must_be_checked_is_checked_everywhere() {
        let checked = [
            libc::SYS_ioctl,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_clone,
            libc::SYS_socket,
            libc::SYS_prctl,
            libc::SYS_fcntl,
            libc::SYS_madvise,
            libc::SYS_tgkill,
            libc::SYS_seccomp,
            libc::SYS_sched_setaffinity,
        ];
        for kind in ThreadKind::ALL {
            for (number, conditions) in allowed(kind).calls() {
                let is_open = conditions.contains(&Condition::Always);
                assert!(
                    !(checked.contains(&number) && is_open),
                    "{kind:?}: {:?}",
                    last_words::call_name(number)
                );
            }
        }
    }

    #[test]
    fn a_thread_keeps_nobody_but_itself_to_processors() {
        let machine = allowed(ThreadKind::Machine);
        let verdict = |who| machine.verdict(libc::SYS_sched_setaffinity, &[who, 8, 0, 0, 0, 0], 4711);
        assert_eq!(verdict(0), Verdict::Allowed);
        assert_eq!((verdict(4711), verdict(1)), (Verdict::Forbidden, Verdict::Forbidden));
    }

    #[test]
    fn a_table_tells_more_from_less() {
        let (vcpu, machine) = (allowed(ThreadKind::Vcpu), allowed(ThreadKind::Machine));
        assert!(machine.contains(&vcpu) && !vcpu.contains(&machine));
        assert!(vcpu.count() < machine.count() && machine.count() < allowed(ThreadKind::Main).count());
    }

    #[test]
    fn the_documentation_has_the_figures_of_the_tables() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/security.md");
        let page = std::fs::read_to_string(page).expect("the page is there");
        let missing = ThreadKind::ALL.into_iter().filter_map(|kind| {
            let calls = tables::EVERY_THREAD.iter().chain(tables::own(kind));
            let own: BTreeSet<i64> = calls.map(|call| call.number).collect();
            let (row, figures) =
                (format!("| {} | ", kind.name()), format!(" | {} | {} |", own.len(), allowed(kind).count()));
            let is_row = |line: &&str| line.starts_with(&row) && line.ends_with(&figures);
            (!page.lines().any(|line| is_row(&line))).then(|| format!("{row}…{figures}"))
        });
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<String>::new());
    }
}
