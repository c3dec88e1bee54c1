//! Plans, and what became of them, as lines.

use admin::{ActionView, PlanView};

use crate::printable::printable;

/// What a desired state would change.
pub(super) fn plan(plan: &PlanView) -> String {
    let mut text = match &plan.held {
        Some(held) => format!("held: {}\nif it is allowed:\n", printable(&held.reason)),
        None => String::new(),
    };
    text.push_str(&actions(&plan.actions));
    text
}

/// Actions, one a line.
pub(super) fn actions(actions: &[ActionView]) -> String {
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
    use vm_model::{Generation, HeldSet, Timestamp, VmId};

    use super::*;

    #[test]
    fn a_held_plan_says_what_lets_it_go_before_what_it_does() {
        let action = ActionView { vm: VmId::new("a"), action: "remove a".into(), problem: None };
        let held = HeldSet {
            generation: Generation::new(2),
            since: Timestamp::from_millis(0),
            removals: 1,
            reason: "say the word".into(),
        };
        let text = plan(&PlanView { actions: vec![action], held: Some(held) });
        assert_eq!(text, "held: say the word\nif it is allowed:\nremove a\n");
        assert_eq!(plan(&PlanView { actions: vec![], held: None }), "nothing to change\n");
    }
}
