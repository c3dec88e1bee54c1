//! Plans, and what became of them, as lines.

use admin::{ActionView, PlanView, VerdictView};

use super::notes::lines;
use crate::printable::printable;

/// What a desired state would change.
pub(super) fn plan(plan: &PlanView) -> String {
    let mut text = match &plan.held {
        Some(held) => format!("held: {}\nif it is allowed:\n", printable(&held.reason)),
        None => String::new(),
    };
    text.push_str(&actions(&plan.actions));
    let refused = plan.refused_entries.iter().map(|entry| {
        format!("the entry of {} cannot be used, and its VM stays as it is: {}", entry.id, entry.problem)
    });
    let notes: Vec<String> = refused.chain(plan.notes.iter().cloned()).collect();
    text.push_str(&lines(&notes));
    text
}

/// What became of a desired state or a command.
pub(super) fn verdict(verdict: &VerdictView) -> String {
    match &verdict.held {
        Some(held) => format!("held: {}\n", printable(&held.reason)),
        None => {
            let whose = verdict.source.map(|source| {
                format!("what {source} says (generation {}) is in force now:\n", verdict.generation)
            });
            whose.unwrap_or_default() + &actions(&verdict.actions) + &lines(&verdict.notes)
        }
    }
}

/// What a change of one VM does, and what that means for its guest.
pub(super) fn change(verdict: &VerdictView) -> String {
    let meaning = verdict.actions.iter().filter(|action| action.problem.is_none()).map(|action| match action
        .restarts
    {
        Some(true) => format!("{} restarts for it\n", action.vm),
        Some(false) => format!("{} does not restart for it\n", action.vm),
        None => format!("whether {} restarts for it is found out when it is made ready\n", action.vm),
    });
    format!("{}{}", self::verdict(verdict), meaning.collect::<String>())
}

/// The same of a VM that is off.
pub(super) fn change_of_idle(verdict: &VerdictView) -> String {
    let changed = verdict.actions.iter().filter(|action| action.problem.is_none());
    let meaning = changed.map(|action| format!("{} is off: this holds from its next start on\n", action.vm));
    meaning.fold(self::verdict(verdict), |text, line| text + &line)
}

/// Actions, one a line.
fn actions(actions: &[ActionView]) -> String {
    if actions.is_empty() {
        return "nothing to change\n".to_owned();
    }
    let line = |action: &ActionView| match &action.problem {
        Some(problem) => format!("{}: not done: {}\n", printable(&action.action), printable(problem)),
        None => format!("{}\n", printable(&action.action)),
    };
    actions.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use vm_model::{Generation, HeldSet, HoldReason, RefusedEntry, Timestamp, VmId};

    use super::*;

    #[test]
    fn a_held_plan_says_what_lets_it_go_before_what_it_does() {
        let action =
            ActionView { vm: VmId::new("a"), action: "remove a".into(), problem: None, restarts: None };
        let held = HeldSet {
            generation: Generation::new(2),
            since: Timestamp::from_millis(0),
            removals: 1,
            waits_for: HoldReason::default(),
            reason: "say the word".into(),
        };
        let entry = RefusedEntry { id: VmId::new("b"), problem: "no hash".into() };
        let view = PlanView {
            source: None,
            actions: vec![action],
            held: Some(held),
            refused_entries: vec![entry],
            notes: vec!["c comes back".into()],
        };
        assert_eq!(
            plan(&view),
            "held: say the word\nif it is allowed:\nremove a\n\
             note: the entry of b cannot be used, and its VM stays as it is: no hash\nnote: c comes back\n"
        );
        let nothing =
            PlanView { source: None, actions: vec![], held: None, refused_entries: vec![], notes: vec![] };
        assert_eq!(plan(&nothing), "nothing to change\n");
    }
}
