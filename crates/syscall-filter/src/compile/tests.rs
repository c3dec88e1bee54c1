//! Programs are run here as the kernel runs them, and answer as their tables say.
#![expect(clippy::cast_possible_truncation, reason = "filters look at the lower half of an argument")]

use super::*;
use crate::kind::ThreadKind;
use crate::table::{Verdict, allowed};

/// `BPF_MAXINSNS` of the kernel.
const INSTRUCTIONS_MAX: usize = 4096;
const PID: u32 = 4711;
const TRAP: u32 = libc::SECCOMP_RET_TRAP;
/// More than any architecture has calls.
const NUMBERS: u32 = 700;

/// What a program answers to a call: the kernel's interpreter, as far as these programs go.
fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let (mut at, mut loaded) = (0, 0);
    loop {
        let step = &program[at];
        at += 1;
        let code = u32::from(step.code);
        if code == libc::BPF_RET | libc::BPF_K {
            return step.k;
        } else if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
            loaded = match step.k {
                NUMBER => number,
                ARCHITECTURE => architecture,
                offset => {
                    assert_eq!(offset % ARGUMENT_BYTES, 0, "the lower half");
                    arguments[((offset - ARGUMENTS) / ARGUMENT_BYTES) as usize] as u32
                }
            };
        } else if code == libc::BPF_JMP | libc::BPF_JA {
            at += step.k as usize;
        } else {
            let holds = match code & 0xf0 {
                libc::BPF_JEQ => loaded == step.k,
                libc::BPF_JGE => loaded >= step.k,
                libc::BPF_JSET => loaded & step.k != 0,
                other => panic!("no instruction of these programs: {other:#x}"),
            };
            at += usize::from(if holds { step.jt } else { step.jf });
        }
    }
}

/// What a table says of a call.
fn expected(table: &Table, number: u32, arguments: [u64; 6]) -> u32 {
    match table.verdict(number.into(), &arguments, PID) {
        Verdict::Allowed => ALLOW,
        Verdict::Refused { error } => libc::SECCOMP_RET_ERRNO | error,
        Verdict::Forbidden => TRAP,
    }
}

/// Arguments at which the answer to a call may change.
fn telling_arguments(rule: Option<&Rule>) -> Vec<[u64; 6]> {
    let mut all = vec![[0; 6], [u64::MAX; 6], [1; 6]];
    let Some(Rule::Allowed(conditions)) = rule else { return all };
    for condition in conditions {
        let mut put = |index: u8, value: u32| {
            let mut arguments = [u64::MAX << 32; 6];
            arguments[usize::from(index)] |= u64::from(value);
            all.push(arguments);
        };
        match *condition {
            Condition::Always => {}
            Condition::Is { index, number } => {
                (number.saturating_sub(1)..=number.saturating_add(1)).for_each(|value| put(index, value));
            }
            Condition::Without { index, bits } => {
                [0, bits, !bits].into_iter().for_each(|value| put(index, value))
            }
            Condition::OwnSignal { number } => {
                for (process, signal) in [(PID, number), (PID, number + 1), (PID + 1, number), (0, number)] {
                    all.push([process.into(), 0, signal.into(), 0, 0, 0]);
                }
            }
        }
    }
    all
}

#[test]
fn every_table_is_a_program_that_answers_as_the_table_says() {
    for kind in ThreadKind::ALL {
        let table = allowed(kind);
        let program = compile(&table, PID, TRAP);
        assert!(program.len() <= INSTRUCTIONS_MAX, "{kind:?}: {}", program.len());
        for number in 0..NUMBERS {
            let rule = table.rules().find(|(known, _)| *known == i64::from(number)).map(|(_, rule)| rule);
            for arguments in telling_arguments(rule) {
                assert_eq!(
                    run(&program, X86_64, number, arguments),
                    expected(&table, number, arguments),
                    "{kind:?}: {:?} ({number}) with {arguments:x?}",
                    last_words::call_name(number.into())
                );
            }
        }
    }
}

#[test]
fn calls_by_other_numbers_than_this_architectures_are_nobodys() {
    let program = compile(&allowed(ThreadKind::Main), PID, TRAP);
    // Those of 32 bits, which the kernel takes from programs of 64 as well.
    assert_eq!(run(&program, 0x4000_0003, 3, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    // `write` of x32.
    assert_eq!(run(&program, X86_64, 0x4000_0001, [0; 6]), TRAP);
    assert_eq!(run(&program, X86_64, u32::MAX, [0; 6]), TRAP);
}

#[test]
fn entering_a_guest_takes_few_steps() {
    let program = compile(&allowed(ThreadKind::Vcpu), PID, TRAP);
    let first = program.iter().position(|step| step.k == 0xae80).expect("KVM_RUN");
    let load = &program[first - 1];
    assert_eq!(load.k, argument(1), "it is the first value that the argument is compared with");
}
