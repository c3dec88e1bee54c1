//! Orders beside sources, in any sequence, against a model that only remembers what was followed before.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use vm_model::{Generation, SourceKind};

use super::super::commands::LocalCommand;
use super::super::intent::{Intent, Said};
use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];
const KINDS: [SourceKind; 3] = [SourceKind::Master, SourceKind::File, SourceKind::Local];
const STATES: [DesiredState; 3] = [DesiredState::Running, DesiredState::Paused, DesiredState::Stopped];

/// What happens to a node.
#[derive(Clone, Debug)]
enum Event {
    /// A source says what should run: of each VM nothing, or its content and state.
    Says(SourceKind, Vec<Option<(u8, DesiredState)>>),
    /// An operator orders something of a VM.
    Orders(&'static str, DesiredState),
    /// An administrator assigns a VM.
    Assigns(&'static str, (u8, DesiredState)),
    /// An administrator takes back an assignment.
    Removes(&'static str),
    /// A source is not listened to any more.
    Leaves(SourceKind),
    /// The worker ends and comes back.
    Restart,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let kind = prop::sample::select(KINDS.to_vec());
    let name = prop::sample::select(NAMES.to_vec());
    let state = prop::sample::select(STATES.to_vec());
    let content = (0_u8..2, state.clone());
    let event = prop_oneof![
        4 => (kind, vec(prop::option::of(content.clone()), NAMES.len()))
            .prop_map(|(kind, vms)| Event::Says(kind, vms)),
        4 => (name.clone(), state).prop_map(|(name, state)| Event::Orders(name, state)),
        1 => (name.clone(), content).prop_map(|(name, content)| Event::Assigns(name, content)),
        1 => name.prop_map(Event::Removes),
        // Orders of this host are always listened to.
        1 => prop::sample::select(KINDS[..2].to_vec()).prop_map(Event::Leaves),
        1 => Just(Event::Restart),
    ];
    vec(event, 1..24)
}

fn assignment(name: &str, (content, desired): (u8, DesiredState)) -> Assignment {
    Assignment { desired, ..Assignment::new(VmId::new(name), format!("sha256-{content}="), "/nix/store/x") }
}

/// A node's intent, and how the listening changes it.
struct Node {
    intent: Intent,
    listened_to: BTreeSet<SourceKind>,
}

impl Node {
    fn new() -> Self {
        Self { intent: Intent::default(), listened_to: KINDS.into() }
    }

    fn meet(&mut self, event: &Event) {
        let intent = std::mem::take(&mut self.intent);
        let intent = match event {
            Event::Says(kind, vms) => {
                self.listened_to.insert(*kind);
                let vms = NAMES.iter().zip(vms);
                let vms = vms.filter_map(|(name, vm)| Some(assignment(name, (*vm)?))).collect();
                let mut said = Said::default();
                said.desired.generation = Some(Generation::new(1));
                said.desired.vms = vms;
                intent.with(*kind, said)
            }
            Event::Orders(name, desired) => {
                let order = LocalCommand::Order { vm: VmId::new(name), desired: *desired, by: None };
                self.obey(intent, &order)
            }
            Event::Assigns(name, content) => {
                self.obey(intent, &LocalCommand::Assign(assignment(name, *content)))
            }
            Event::Removes(name) => self.obey(intent, &LocalCommand::Remove(VmId::new(name))),
            Event::Leaves(kind) => {
                self.listened_to.remove(kind);
                intent
            }
            Event::Restart => {
                let json = serde_json::to_string(&intent).expect("it serialises");
                serde_json::from_str(&json).expect("and parses back")
            }
        };
        self.intent = intent.settled(&self.listened_to);
    }

    fn obey(&self, intent: Intent, command: &LocalCommand) -> Intent {
        let obeyed = command.change(&intent, &self.listened_to, None, Timestamp::from_millis(1));
        obeyed.map_or(intent, |(_, changed)| changed)
    }
}

/// What a person would remember: whose word each VM follows, and what was ordered since that word changed last.
#[derive(Default)]
struct Model {
    followed: BTreeMap<VmId, (SourceKind, Assignment)>,
    ordered: BTreeMap<VmId, DesiredState>,
}

impl Model {
    /// Takes notice of `event`, after which `followed` is what the sources come to.
    fn meet(
        &mut self,
        event: &Event,
        followed: BTreeMap<VmId, (SourceKind, Assignment)>,
        listened_to: &BTreeSet<SourceKind>,
    ) {
        let is_others = |id: &VmId| {
            let owner = self.followed.get(id).map(|(kind, _)| *kind);
            owner.is_some_and(|kind| kind != SourceKind::Local && listened_to.contains(&kind))
        };
        let is_changed = |id: &VmId| {
            self.followed.get(id).map(|(_, before)| before) != followed.get(id).map(|(_, now)| now)
        };
        self.ordered.retain(|id, _| !is_changed(id));
        match event {
            Event::Orders(name, desired) => {
                self.ordered.insert(VmId::new(name), *desired);
            }
            // Whoever takes a word back ends the order over it, also where another source says the same.
            Event::Assigns(name, _) | Event::Removes(name) if !is_others(&VmId::new(name)) => {
                self.ordered.remove(&VmId::new(name));
            }
            Event::Says(..) | Event::Assigns(..) | Event::Removes(_) | Event::Leaves(_) | Event::Restart => {}
        }
        // An order of what is assigned anyhow is none.
        let is_other = |id: &VmId, desired| followed.get(id).is_some_and(|(_, now)| now.desired != desired);
        self.ordered.retain(|id, desired| is_other(id, *desired));
        self.followed = followed;
    }
}

proptest! {
    #[test]
    fn an_order_holds_until_its_vms_source_says_something_new(events in events()) {
        let (mut node, mut model) = (Node::new(), Model::default());
        for event in &events {
            node.meet(event);
            let said = node.intent.said_together(&node.listened_to).vms.into_iter();
            let followed = said.map(|(id, wanted)| (id, (wanted.source, wanted.assignment))).collect();
            model.meet(event, followed, &node.listened_to);

            let merged = node.intent.merged(&node.listened_to);
            prop_assert_eq!(merged.vms.len(), model.followed.len());
            for (id, wanted) in &merged.vms {
                let (source, assigned) = &model.followed[id];
                let desired = model.ordered.get(id).copied().unwrap_or(assigned.desired);
                prop_assert_eq!(wanted.source, *source);
                prop_assert_eq!(&wanted.assignment, &Assignment { desired, ..assigned.clone() });
                let order = wanted.order.as_ref().map(|order| (order.desired, order.assigned));
                let ordered = model.ordered.get(id).map(|ordered| (*ordered, assigned.desired));
                prop_assert_eq!(order, ordered);
            }
        }
    }
}

#[test]
fn an_order_that_is_repeated_keeps_its_time_and_one_that_changes_nothing_is_none() {
    let vm = assignment("a", (0, DesiredState::Running));
    let given = |at| Given { at: Timestamp::from_millis(at), by: Some(1000) };
    let mut orders = Orders::default();
    orders.give(&vm, DesiredState::Stopped, given(1));
    let first = orders.clone();
    orders.give(&vm, DesiredState::Stopped, given(2));
    assert_eq!(orders, first);
    orders.give(&vm, DesiredState::Paused, given(3));
    assert_ne!(orders, first);
    orders.give(&vm, DesiredState::Running, given(4));
    assert!(orders.is_empty());
}

#[test]
fn a_stop_that_is_ordered_before_or_during_a_drain_holds_after_it() {
    let running = assignment("a", (0, DesiredState::Running));
    let off = Assignment { desired: DesiredState::Stopped, ..running.clone() };
    let wanted = |assignment: &Assignment, drain| Wanted {
        assignment: assignment.clone(),
        order: None,
        source: SourceKind::Master,
        generation: Generation::default(),
        drain,
    };
    let after = |orders: &mut Orders| {
        let mut together = BTreeMap::from([(running.id.clone(), wanted(&running, DrainState::Usual))]);
        orders.settle(&together);
        orders.override_states(&mut together);
        together[&running.id].assignment.desired
    };
    let drained = BTreeMap::from([(off.id.clone(), wanted(&off, DrainState::Drained))]);
    let given = |at| Given { at: Timestamp::from_millis(at), by: None };

    let mut before = Orders::default();
    before.give(&running, DesiredState::Stopped, given(1));
    before.settle(&drained);
    let first = before.clone();
    before.stop_drained(&off, given(2));
    assert_eq!(before, first, "it is repeated");
    assert_eq!(after(&mut before), DesiredState::Stopped);

    let mut during = Orders::default();
    during.stop_drained(&off, given(1));
    during.settle(&drained);
    assert_eq!(after(&mut during), DesiredState::Stopped);
    assert_eq!(after(&mut Orders::default()), DesiredState::Running);
}

#[test]
fn an_order_of_the_state_that_is_assigned_starts_a_vm_that_is_off_and_no_other() {
    let id = VmId::new("a");
    let action = |assigned, desired, status| {
        let present = ObservedVm {
            assignment: assignment("a", (0, assigned)),
            can_retry_help: false,
            description: None,
            forwards: None,
            is_changing: false,
            promised: None,
        };
        order_action(&id, desired, &present, &status).map(|action| action.to_string())
    };
    use DesiredState::{Paused, Running, Stopped};
    assert_eq!(action(Running, Running, VmStatus::Stopped).as_deref(), Some("try a again"));
    assert_eq!(action(Paused, Paused, VmStatus::Restarting).as_deref(), Some("try a again"));
    assert_eq!(action(Running, Running, VmStatus::Running), None);
    assert_eq!(action(Stopped, Stopped, VmStatus::Stopped), None);
    assert_eq!(action(Running, Stopped, VmStatus::Running).as_deref(), Some("stop a"));
}
