//! Whether a desired state waits for somebody's word before it takes VMs away. Pure.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use vm_model::{Generation, HeldSet, HoldReason, Lineage, SourceKind, Timestamp, VmId};

use super::intent::Said;
use super::plan::{Action, Redefinition};
use crate::definition::Change;

/// Removals and replacements are counted over so long.
const WINDOW: Duration = Duration::from_secs(3600);

/// A state that removes all VMs that its source had is held where those are so many at least. Fewer are replaced every day.
const ALL_LEAST: usize = 3;

/// So many disks are named by a reason.
const NAMED_MOST: usize = 5;

/// How many VMs a master may have removed or replaced within an hour without further words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalLimit {
    /// So many.
    AnHour(NonZeroU32),
    /// Any number.
    Off,
}

impl Default for RemovalLimit {
    fn default() -> Self {
        Self::AnHour(NonZeroU32::MIN.saturating_add(9))
    }
}

/// Whether `action` takes a VM away, or its data: for good, or to run another image in its place. One that restarts as the
/// same image and on its disks, with more memory say, is not counted.
pub(super) fn is_disruption(action: &Action) -> bool {
    match action {
        Action::Remove(..) => true,
        Action::Redefine(_, what) => match what {
            Redefinition::Restart { changes, loses, .. } => {
                !loses.is_empty() || changes.iter().any(|change| matches!(change, Change::Artifact { .. }))
            }
            // Its artifact did not answer in time: it may be another image.
            Redefinition::Unknown => true,
            Redefinition::SameMachine | Redefinition::Live(_) | Redefinition::Refused(_) => false,
        },
        Action::Create(_) | Action::Move(..) | Action::Retry(_) => false,
    }
}

/// Whether `action` gives up a VM, or what its guest wrote to a disk.
fn is_removal(action: &Action) -> bool {
    matches!(action, Action::Remove(..)) || lost_disks(action).next().is_some()
}

/// The disks, as `<vm>/<disk>`, to which a guest wrote what an edit gives up.
fn lost_disks(action: &Action) -> impl Iterator<Item = String> {
    let lost: &[String] = match action {
        Action::Redefine(_, Redefinition::Restart { loses, .. }) => loses,
        Action::Redefine(
            _,
            Redefinition::SameMachine
            | Redefinition::Live(_)
            | Redefinition::Unknown
            | Redefinition::Refused(_),
        )
        | Action::Create(_)
        | Action::Move(..)
        | Action::Retry(_)
        | Action::Remove(..) => &[],
    };
    lost.iter().map(move |disk| format!("{}/{disk}", action.vm()))
}

/// What `actions` give up of what guests wrote, to be said after what they remove; empty where nothing is.
fn losses(actions: &[Action]) -> String {
    let mut disks = actions.iter().flat_map(lost_disks);
    let named: Vec<String> = disks.by_ref().take(NAMED_MOST).collect();
    match (named.is_empty(), disks.count()) {
        (true, _) => String::new(),
        (false, 0) => format!(", or lose what was written to {}", named.join(", ")),
        (false, more) => format!(", or lose what was written to {} and {more} more disks", named.join(", ")),
    }
}

/// The moments of `earlier` that count at `now`.
pub(super) fn recent(earlier: &[Timestamp], now: Timestamp) -> Vec<Timestamp> {
    earlier.iter().copied().filter(|at| now.since(*at) < WINDOW).collect()
}

/// Notes in `moments` that `count` VMs were taken away at `now`. Only as many are kept as can matter: once there are as many
/// as the limit, nothing more is let pass.
pub(super) fn note_disruptions(
    moments: &mut Vec<Timestamp>,
    count: usize,
    limit: RemovalLimit,
    now: Timestamp,
) {
    let most = match limit {
        RemovalLimit::AnHour(most) => usize::try_from(most.get()).unwrap_or(usize::MAX),
        RemovalLimit::Off => 0,
    };
    moments.extend(std::iter::repeat_n(now, count.min(most)));
    let beyond = moments.len().saturating_sub(most);
    moments.drain(..beyond);
}

/// Holds what `source` says if it takes too much away by `actions`. It is let go where it says so itself. `admitted` has
/// the moments at which the same source took something away before, `before` what it said until now.
pub(super) fn hold_removals(
    source: SourceKind,
    before: Option<&Said>,
    admitted: &Said,
    actions: &[Action],
    limit: RemovalLimit,
    now: Timestamp,
) -> Option<HeldSet> {
    if admitted.desired.allow_removals || source == SourceKind::Local {
        return None;
    }
    let removals = actions.iter().filter(|action| is_removal(action)).count();
    let disruptions = actions.iter().filter(|action| is_disruption(action)).count();
    let word = source.name();
    let allow = format!(
        "say \"allow_removals\": true in it, or `procurator-worker allow-removals {word}` on this host"
    );
    let held = |removals, reason| HeldSet {
        generation: admitted.generation(),
        since: now,
        removals,
        waits_for: HoldReason::Removals,
        reason,
    };
    // A truncated save looks like that. What of entries that cannot be used is in force is among the VMs already.
    if admitted.desired.vms.is_empty() && removals > 0 {
        let what = if removals == 1 { "the only VM".to_owned() } else { format!("all {removals} VMs") };
        let reason = format!("an empty desired state would remove {what}: {allow}");
        return Some(held(removals, reason));
    }
    // A file that is another host's, or a master that mistakes this host for another one, looks like that.
    let had = before.map(|said| said.desired.vms.as_slice()).unwrap_or_default();
    if had.len() >= ALL_LEAST {
        let removed: BTreeSet<&VmId> =
            actions.iter().filter(|action| is_removal(action)).map(Action::vm).collect();
        if had.iter().all(|vm| removed.contains(&vm.id)) {
            let (count, losses) = (had.len(), losses(actions));
            let for_others = if losses.is_empty() { ", for others" } else { "" };
            let reason = format!("all {count} VMs that it had would be removed{losses}{for_others}: {allow}");
            return Some(held(removals, reason));
        }
    }
    let RemovalLimit::AnHour(most) = limit else { return None };
    if !source.is_remote() || disruptions == 0 {
        return None;
    }
    let before = recent(&admitted.disruptions, now).len();
    let is_too_many = before.saturating_add(disruptions) > usize::try_from(most.get()).unwrap_or(usize::MAX);
    is_too_many.then(|| {
        let vms = if disruptions == 1 { "1 VM" } else { &format!("{disruptions} VMs") };
        let reason = format!(
            "{vms} would be removed, or replaced by another image{losses}, after {before} within the last hour; {most} an \
             hour are allowed: {allow}",
            losses = losses(actions)
        );
        held(disruptions, reason)
    })
}

/// Holds what a master says, in the state `offered` of that lineage and number, in another counting than the one in force,
/// of which `said` is the newest. The first one is taken at its word.
pub(super) fn hold_lineage(
    said: Option<&Said>,
    (offered, generation): (Option<&Lineage>, Generation),
    now: Timestamp,
) -> Option<HeldSet> {
    let (Some(in_force), Some(offered)) = (said?.lineage.as_ref(), offered) else { return None };
    (in_force != offered).then(|| HeldSet {
        generation,
        since: now,
        removals: 0,
        waits_for: HoldReason::Lineage,
        reason: format!(
            "master {offered} speaks, and {in_force} is in force: `procurator-worker accept-master` if it was rebuilt or \
             another takes its place"
        ),
    })
}

#[cfg(test)]
mod tests {
    use vm_model::{Assignment, AssignmentSet, Bytes};

    use super::super::plan::Disks;
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(10_000_000);

    fn said(names: &[&str]) -> Said {
        let vms = names.iter().map(|name| Assignment::new(VmId::new(name), "", "/x")).collect();
        Said { desired: AssignmentSet { vms, ..AssignmentSet::default() }, ..Said::default() }
    }

    fn removals(count: usize) -> Vec<Action> {
        let disks = Disks { names: None, kept: Duration::ZERO };
        (0..count).map(|n| Action::Remove(VmId::new(&format!("vm-{n}")), disks.clone())).collect()
    }

    #[test]
    fn a_state_that_is_empty_takes_nothing_away_without_a_word() {
        let hold = |source, said: &Said, count| {
            hold_removals(source, None, said, &removals(count), RemovalLimit::Off, NOW)
                .map(|held| held.removals)
        };
        assert_eq!(hold(SourceKind::File, &said(&[]), 3), Some(3));
        assert_eq!(hold(SourceKind::Master, &said(&[]), 3), Some(3));
        assert_eq!(hold(SourceKind::Local, &said(&[]), 1), None, "who removes the last one means it");
        assert_eq!(hold(SourceKind::File, &said(&[]), 0), None, "nothing is taken away");
        assert_eq!(hold(SourceKind::File, &said(&["a"]), 3), None);
        let mut allowed = said(&[]);
        allowed.desired.allow_removals = true;
        assert_eq!(hold(SourceKind::File, &allowed, 3), None);
    }

    #[test]
    fn a_state_that_replaces_all_that_its_source_had_waits_like_an_empty_one() {
        let had = |count: usize| {
            let names: Vec<String> = (0..count).map(|n| format!("vm-{n}")).collect();
            said(&names.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let hold = |source, had: &Said, admitted: &Said, removed| {
            let held = hold_removals(source, Some(had), admitted, &removals(removed), RemovalLimit::Off, NOW);
            held.map(|held| held.reason)
        };
        let other = said(&["other"]);
        let reason = hold(SourceKind::Master, &had(8), &other, 8).expect("held");
        assert!(reason.starts_with("all 8 VMs that it had would be removed, for others: say"), "{reason}");
        assert!(hold(SourceKind::File, &had(3), &other, 3).is_some());
        assert_eq!(hold(SourceKind::File, &had(2), &other, 2), None, "two are replaced every day");
        assert_eq!(hold(SourceKind::Master, &had(8), &said(&["vm-7"]), 7), None, "one stays");
        // The eighth stays on the host, because another source speaks of it.
        assert_eq!(hold(SourceKind::Master, &had(8), &other, 7), None);
        assert_eq!(hold(SourceKind::Local, &had(8), &other, 8), None, "who removes by hand means it");
        let mut allowed = other;
        allowed.desired.allow_removals = true;
        assert_eq!(hold(SourceKind::Master, &had(8), &allowed, 8), None);
    }

    #[test]
    fn no_more_moments_are_kept_than_can_matter() {
        let limit = RemovalLimit::AnHour(NonZeroU32::MIN.saturating_add(4));
        let mut moments = vec![Timestamp::from_millis(1)];
        note_disruptions(&mut moments, 2, limit, NOW);
        assert_eq!(moments, [Timestamp::from_millis(1), NOW, NOW]);
        let later = Timestamp::from_millis(NOW.as_millis() + 1);
        note_disruptions(&mut moments, usize::MAX, limit, later);
        assert_eq!(moments, [later; 5], "the newest");
        note_disruptions(&mut moments, 7, RemovalLimit::Off, NOW);
        assert_eq!(moments, []);
    }

    #[test]
    fn a_master_takes_so_many_away_within_an_hour_and_no_more() {
        let limit = RemovalLimit::AnHour(NonZeroU32::MIN.saturating_add(4));
        let ago = |minutes: u64| Timestamp::from_millis(NOW.as_millis() - minutes * 60_000);
        let mut master = said(&["a"]);
        let hold =
            |source, said: &Said, count| hold_removals(source, None, said, &removals(count), limit, NOW);
        assert_eq!(hold(SourceKind::Master, &master, 5), None);
        assert!(hold(SourceKind::Master, &master, 6).is_some());
        assert_eq!(hold(SourceKind::File, &master, 6), None, "a file is read by who wrote it");
        master.disruptions = vec![ago(61), ago(59), ago(1)];
        assert_eq!(hold(SourceKind::Master, &master, 3), None);
        let held = hold(SourceKind::Master, &master, 4).expect("held");
        assert!(
            held.reason.starts_with("4 VMs would be removed, or replaced by another image, after 2 within"),
            "{}",
            held.reason
        );
        assert_eq!(hold(SourceKind::Master, &master, 0), None, "nothing is taken away");
    }

    #[test]
    fn only_removals_and_other_images_are_counted() {
        let vm = || Assignment::new(VmId::new("a"), "", "/x");
        let restart = |changes| Redefinition::Restart { changes, disks: String::new(), loses: Vec::new() };
        let memory = Change::Memory { from: Bytes::new(1), to: Bytes::new(2) };
        let image = Change::Artifact { from: "/x".into(), to: "/y".into() };
        for (what, counts) in [
            (restart(vec![memory.clone()]), false),
            (restart(vec![memory, image]), true),
            (Redefinition::Unknown, true),
            (Redefinition::SameMachine, false),
        ] {
            assert_eq!(is_disruption(&Action::Redefine(vm(), what.clone())), counts, "{what:?}");
        }
    }

    #[test]
    fn an_edit_that_gives_up_what_guests_wrote_counts_like_a_removal() {
        let edit = |number: usize| {
            let changes = vec![Change::Volume { disk: "data".to_owned(), what: String::new() }];
            let loses = vec!["data".to_owned()];
            let what = Redefinition::Restart { changes, disks: String::new(), loses };
            Action::Redefine(Assignment::new(VmId::new(&format!("vm-{number}")), "", "/x"), what)
        };
        let had = said(&["vm-0", "vm-1", "vm-2"]);
        let edits: Vec<Action> = (0..3).map(edit).collect();
        let hold = |source, limit, actions: &[Action]| {
            hold_removals(source, Some(&had), &had, actions, limit, NOW).map(|held| held.reason)
        };
        let reason = hold(SourceKind::File, RemovalLimit::Off, &edits).expect("all of them");
        let lost = "vm-0/data, vm-1/data, vm-2/data";
        let start =
            format!("all 3 VMs that it had would be removed, or lose what was written to {lost}: say");
        assert!(reason.starts_with(&start), "{reason}");
        assert_eq!(hold(SourceKind::File, RemovalLimit::Off, &edits[..2]), None, "one is as it was");
        assert_eq!(hold(SourceKind::Local, RemovalLimit::Off, &edits), None, "who edits by hand means it");
        let limit = RemovalLimit::AnHour(NonZeroU32::MIN);
        let reason = hold(SourceKind::Master, limit, &edits[..2]).expect("too many");
        let start = "2 VMs would be removed, or replaced by another image, or lose what was written to vm-0/data, vm-1/data";
        assert!(reason.starts_with(start), "{reason}");
        let many: Vec<Action> = (0..9).map(edit).collect();
        assert!(losses(&many).ends_with("vm-4/data and 4 more disks"), "{}", losses(&many));
    }

    #[test]
    fn another_master_or_another_epoch_waits_to_be_accepted() {
        let lineage = |master, epoch| Lineage::new(master, epoch).expect("fine");
        let known = Said { lineage: Some(lineage("m", "1")), ..said(&["a"]) };
        let number = Generation::new(4);
        let hold = |said, offered: &Lineage| {
            let held = hold_lineage(said, (Some(offered), number), NOW)?;
            assert_eq!(held.generation, number, "the number of what waits");
            Some(held.waits_for)
        };
        assert_eq!(hold(None, &lineage("m", "1")), None, "the first one");
        assert_eq!(hold(Some(&known), &lineage("m", "1")), None);
        assert_eq!(hold(Some(&known), &lineage("m", "2")), Some(HoldReason::Lineage));
        assert_eq!(hold(Some(&known), &lineage("n", "1")), Some(HoldReason::Lineage));
        assert_eq!(hold_lineage(Some(&said(&["a"])), (None, number), NOW), None, "a file has none");
    }
}
