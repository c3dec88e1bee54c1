//! `procurator.ports` and `procurator.egress`: what passes between a VM and what lies beyond its network.

use vm_model::{EgressRule, InvalidEgressRule, InvalidPortForward, PortForward, shown_text};

use super::extract::NicRequest;
use super::machine::contradiction;
use super::refusal::{Refusal, RefusalReason};
use super::section::Section;

/// Reads the ports of the host that lead to the VM, to its first interface, and what it may open connections to by each.
pub(super) fn read_access(procurator: Option<&Section>, nics: &mut [NicRequest]) -> Result<(), Box<Refusal>> {
    let Some(procurator) = procurator else { return Ok(()) };
    let egress = read_egress(procurator)?;
    for nic in nics.iter_mut() {
        nic.access.egress.clone_from(&egress);
    }
    let forwards = read_forwards(procurator)?;
    if forwards.is_empty() {
        return Ok(());
    }
    match nics.first_mut() {
        Some(first) => first.access.forwards = forwards,
        None => {
            let rule = "the machine has no interface".to_owned();
            let accepted = "ports of a machine with an interface in $.net".to_owned();
            return Err(contradiction(procurator.path_of("ports"), "a list", rule, accepted));
        }
    }
    Ok(())
}

fn read_forwards(procurator: &Section) -> Result<Vec<PortForward>, Box<Refusal>> {
    let place = |index: usize| format!("{}[{index}]", procurator.path_of("ports"));
    let mut forwards: Vec<PortForward> = Vec::new();
    for (index, text) in procurator.texts("ports").iter().enumerate() {
        let forward: PortForward =
            text.parse().map_err(|it: InvalidPortForward| wrong(place(index), text, &it.accepted()))?;
        if let Some(earlier) = forwards.iter().position(|earlier| earlier.conflicts_with(&forward)) {
            let rule = format!("{} has that port of the host", place(earlier));
            let accepted = "each port of the host once".to_owned();
            return Err(contradiction(place(index), shown_text(text), rule, accepted));
        }
        forwards.push(forward);
    }
    Ok(forwards)
}

fn read_egress(procurator: &Section) -> Result<Option<Vec<EgressRule>>, Box<Refusal>> {
    if !procurator.has("egress") {
        return Ok(None);
    }
    let texts = procurator.texts("egress").iter().enumerate();
    let rules = texts.map(|(index, text)| {
        let place = || format!("{}[{index}]", procurator.path_of("egress"));
        text.parse().map_err(|it: InvalidEgressRule| wrong(place(), text, &it.accepted()))
    });
    rules.collect::<Result<_, _>>().map(Some)
}

fn wrong(json_path: String, text: &str, accepted: &str) -> Box<Refusal> {
    let value = shown_text(text);
    Box::new(Refusal { json_path, value, reason: RefusalReason::WrongValue, accepted: accepted.to_owned() })
}
