//! Tables to programs that the kernel runs.
//!
//! ```text
//!   is it this architecture? ──▶ which call? ── binary search ──▶ its arguments ──▶ allowed
//!          │ no                        │ none of the table               │ none that it may have
//!          ▼                           ▼                                 ▼
//!     the process ends           `otherwise`                        `otherwise`
//! ```
//!
//! A program is run at each call whose arguments count, by every filter of the thread: entering a guest is such a call. So
//! it is a tree and no chain, and what vCPUs do most comes first among the values of an argument.

use seccompiler::{BpfProgram, sock_filter};

use crate::table::{Condition, Rule, Table};

/// `struct seccomp_data`: where the kernel shows a program the call's number, the architecture and the lower half of each
/// argument (seccomp(2)).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;
/// `AUDIT_ARCH_X86_64`. Calls by the numbers of other architectures are nobody's here.
const X86_64: u32 = 0xc000_003e;

/// The program that answers what is in `table` as that says, to the process `pid`, and every other call by `otherwise`, a
/// `SECCOMP_RET_*`.
pub(crate) fn compile(table: &Table, pid: u32, otherwise: u32) -> BpfProgram {
    let cases: Vec<Case> = table
        .rules()
        .filter_map(|(number, rule)| {
            // Numbers of calls are small; one that is not can be made by nobody.
            let number = u32::try_from(number).ok()?;
            Some(Case { number, body: body(rule, pid, otherwise) })
        })
        .collect();
    let mut program = vec![
        load(ARCHITECTURE),
        jump(libc::BPF_JEQ, X86_64, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    program.extend(search(&cases, otherwise));
    program
}

/// A call, and what is done about it; the body ends in an answer whatever happens.
struct Case {
    number: u32,
    body: BpfProgram,
}

/// Finds the call whose number was loaded among `cases`, which are in the order of their numbers.
fn search(cases: &[Case], otherwise: u32) -> BpfProgram {
    match cases {
        [] => vec![answer(otherwise)],
        [case] => {
            let mut program = vec![jump(libc::BPF_JEQ, case.number, 1, 0), answer(otherwise)];
            program.extend(case.body.iter().cloned());
            program
        }
        _ => {
            let (below, from) = cases.split_at(cases.len() / 2);
            let first = from.first().map_or(u32::MAX, |case| case.number);
            let below = search(below, otherwise);
            let mut program = match u8::try_from(below.len()) {
                Ok(over) => vec![jump(libc::BPF_JGE, first, over, 0)],
                Err(_) => vec![jump(libc::BPF_JGE, first, 0, 1), skip(below.len())],
            };
            program.extend(below);
            program.extend(search(from, otherwise));
            program
        }
    }
}

/// What is done about a call that `rule` is about.
fn body(rule: &Rule, pid: u32, otherwise: u32) -> BpfProgram {
    let conditions = match rule {
        Rule::Refused { error } => return vec![answer(libc::SECCOMP_RET_ERRNO | *error)],
        Rule::Allowed(conditions) if conditions.contains(&Condition::Always) => return vec![answer(ALLOW)],
        Rule::Allowed(conditions) => conditions,
    };
    let (mut program, mut loaded) = (BpfProgram::new(), None);
    for condition in conditions {
        let (index, test) = match *condition {
            // Answered above.
            Condition::Always => continue,
            Condition::Is { index, number } => {
                (index, vec![jump(libc::BPF_JEQ, number, 0, 1), answer(ALLOW)])
            }
            Condition::Without { index, bits } => {
                (index, vec![jump(libc::BPF_JSET, bits, 1, 0), answer(ALLOW)])
            }
            Condition::OwnSignal { number } => {
                let own = jump(libc::BPF_JEQ, pid, 0, 3);
                (0, vec![own, load(argument(2)), jump(libc::BPF_JEQ, number, 0, 1), answer(ALLOW)])
            }
        };
        if loaded != Some(index) {
            program.push(load(argument(index)));
        }
        program.extend(test);
        // This one loads another on its way.
        loaded = Some(index).filter(|_| !matches!(condition, Condition::OwnSignal { .. }));
    }
    program.push(answer(otherwise));
    program
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

/// Where the lower half of an argument is.
fn argument(index: u8) -> u32 {
    ARGUMENTS + ARGUMENT_BYTES * u32::from(index)
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, (0, 0))
}

/// Skips `yes` instructions where the comparison of what was loaded with `number` holds, and `no` where not.
fn jump(comparison: u32, number: u32, yes: u8, no: u8) -> sock_filter {
    instruction(libc::BPF_JMP | comparison | libc::BPF_K, number, (yes, no))
}

fn skip(instructions: usize) -> sock_filter {
    // A program that the kernel takes has 4096 instructions at most.
    let instructions = u32::try_from(instructions).unwrap_or(u32::MAX);
    instruction(libc::BPF_JMP | libc::BPF_JA, instructions, (0, 0))
}

fn answer(with: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, with, (0, 0))
}

#[expect(clippy::cast_possible_truncation, reason = "operations are 16-bit numbers")]
fn instruction(code: u32, k: u32, (jt, jf): (u8, u8)) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests;
