//! Tables to programs that the kernel runs.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::table::{Condition, Table};

/// The program that allows what is in `table` to the process `pid`, and answers every other call by `otherwise`.
pub(crate) fn compile(table: &Table, pid: u32, otherwise: SeccompAction) -> Result<BpfProgram, BackendError> {
    let rules = table.calls().map(|(number, conditions)| Ok((number, rules(conditions, pid)?)));
    let rules = rules.collect::<Result<_, BackendError>>()?;
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

/// The program that has the kernel seem too old for `clone3`, whose flags lie in memory, where no program sees them: the C
/// library then makes its threads by `clone`.
pub(crate) fn without_clone3() -> Result<BpfProgram, BackendError> {
    let rules = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    let refused = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, refused, TargetArch::x86_64)?.try_into()
}

/// No rules where the call is allowed whatever its arguments are.
fn rules(conditions: &[Condition], pid: u32) -> Result<Vec<SeccompRule>, BackendError> {
    if conditions.contains(&Condition::Always) {
        return Ok(Vec::new());
    }
    conditions.iter().map(|condition| rule(*condition, pid)).collect()
}

fn rule(condition: Condition, pid: u32) -> Result<SeccompRule, BackendError> {
    let of = |index, operator, number: u32| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, u64::from(number))
    };
    SeccompRule::new(match condition {
        // Left out before; a rule without conditions is none.
        Condition::Always => Vec::new(),
        Condition::Is { index, number } => vec![of(index, SeccompCmpOp::Eq, number)?],
        Condition::Without { index, bits } => vec![of(index, SeccompCmpOp::MaskedEq(u64::from(bits)), 0)?],
        Condition::OwnSignal { number } => {
            vec![of(0, SeccompCmpOp::Eq, pid)?, of(2, SeccompCmpOp::Eq, number)?]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::ThreadKind;
    use crate::table::allowed;

    /// `BPF_MAXINSNS` of the kernel.
    const INSTRUCTIONS_MAX: usize = 4096;

    #[test]
    fn every_table_is_a_program_that_the_kernel_takes() {
        for kind in ThreadKind::ALL {
            let program = compile(&allowed(kind), 1, SeccompAction::Trap).expect("it compiles");
            assert!(!program.is_empty() && program.len() <= INSTRUCTIONS_MAX, "{kind:?}: {}", program.len());
        }
        assert!(!without_clone3().expect("it compiles").is_empty());
    }
}
