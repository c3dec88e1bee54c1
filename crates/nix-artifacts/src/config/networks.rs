//! `procurator.net`: which of the worker's networks an interface is in.

use vm_model::NetworkName;

use super::extract::NicRequest;
use super::machine::contradiction;
use super::nearest::nearest;
use super::refusal::Refusal;
use super::section::Section;

/// Reads which network each of `nics` is in; those of which nothing is said stay in the default one.
pub(super) fn read_networks(
    procurator: Option<&Section>,
    nics: &mut [NicRequest],
) -> Result<(), Box<Refusal>> {
    let entries = procurator.map_or(&[][..], |procurator| procurator.list("net"));
    let mut seen: Vec<&str> = Vec::new();
    for entry in entries {
        let refuse = |value: String, rule: &str, accepted: String| {
            contradiction(entry.path_of("id"), value, rule.to_owned(), accepted)
        };
        let Some(id) = entry.text("id") else {
            let rule = "every entry speaks of one interface";
            return Err(refuse("missing".to_owned(), rule, "the id of an interface".to_owned()));
        };
        if seen.contains(&id) {
            let rule = "an earlier entry speaks of this interface";
            return Err(refuse(format!("{id:?}"), rule, "one entry for each interface".to_owned()));
        }
        seen.push(id);
        let Some(place) = nics.iter().position(|nic| nic.id == id) else {
            let accepted = match nearest(id, nics.iter().map(|nic| nic.id.as_str())) {
                Some(near) => format!("the id of an interface (the nearest is {near:?})"),
                None => "leaving it out: the machine has no interface".to_owned(),
            };
            return Err(refuse(format!("{id:?}"), "no interface has this id", accepted));
        };
        // What is no name was refused before.
        if let Some(network) = entry.text("network").and_then(|name| NetworkName::parse(name).ok()) {
            nics[place].network = network;
        }
    }
    Ok(())
}
