//! From a document to a desired state. What concerns one VM alone costs that VM's entry and no other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::keys::{Keys, text, twice, whole_number};
use super::problem::{AssignmentsError, EXAMPLE};
use super::{Assignment, AssignmentSet, DesiredState, Overrides, RefusedEntry};
use crate::document::{Content, Node, Place, into_map, read, text_in_words};
use crate::nar_hash::forms::{self, HashFormat};
use crate::{
    Bytes, Generation, NarHash, VCPUS_MOST, VMS_MOST, VmId, is_possible_memory, shown_key, shown_path,
    shown_text,
};

const SET_KEYS: [&str; 3] = ["generation", "vms", "allow_removals"];
const ENTRY_KEYS: [&str; 7] =
    ["id", "hash", "store_path", "desired", "overrides", "references", "procurator"];
const OVERRIDE_KEYS: [&str; 3] = ["vcpus", "memory_bytes", "cmdline_append"];
const HASH_KEYS: [&str; 3] = ["algorithm", "format", "hash"];

const ENTRY: &str =
    r#"an object like {"id": "web-1", "hash": "sha256-…=", "store_path": "/nix/store/…-vm-image"}"#;
const STORE_PATH: &str = r#"an absolute path like "/nix/store/…-vm-image""#;
/// What a size of memory can be; see [`is_possible_memory`].
const MEMORY: &str = "a number of bytes from 16777216 (16 MiB) to 17592186044416 (16 TiB) that is a multiple of 4096, like 536870912";

/// Reads a whole document. See [`AssignmentSet::parse`].
pub(super) fn read_set(document: &str) -> Result<AssignmentSet, AssignmentsError> {
    let accepted = format!("an object like {EXAMPLE}");
    let mut keys = Keys::of(read(document)?, "", &SET_KEYS, &accepted)?;
    let generation = keys.take("generation").map(|node| {
        let accepted = "a whole number from 0 on, like 7";
        whole_number(&node, "generation", 0..=u64::MAX, accepted).map(Generation::new)
    });
    let allow_removals = keys.take("allow_removals").map_or(Ok(false), |node| match node.content {
        Content::Bool(value) => Ok(value),
        Content::Null | Content::Number(_) | Content::Text(_) | Content::List(_) | Content::Object(_) => {
            Err(AssignmentsError::new(node.place, "allow_removals", node.description(), "true or false"))
        }
    });
    let list = keys.take_required("vms", &format!("a list of VMs, which may be empty, as in {EXAMPLE}"))?;
    let (place, met) = (list.place, list.outline());
    let Content::List(entries) = list.content else {
        return Err(AssignmentsError::new(place, "vms", met, format!("a list as in {EXAMPLE}")));
    };
    let (vms, refused) = read_entries(entries)?;
    let (generation, allow_removals) = (generation.transpose()?, allow_removals?);
    Ok(AssignmentSet { generation, vms, allow_removals, drained: false, refused })
}

/// The entries that can be used, and the others by their ids.
fn read_entries(entries: Vec<Node>) -> Result<(Vec<Assignment>, Vec<RefusedEntry>), AssignmentsError> {
    if let Some(beyond) = entries.get(VMS_MOST) {
        let path = format!("vms[{VMS_MOST}]");
        let whose = id_of(beyond, &path)?;
        let met = format!("{} VMs are listed, of which {whose} is the first too many", entries.len());
        return Err(AssignmentsError::new(
            beyond.place,
            path,
            met,
            format!("a list of at most {VMS_MOST} VMs"),
        ));
    }
    let (mut vms, mut refused) = (Vec::new(), Vec::new());
    let mut first_places: BTreeMap<VmId, (Place, String)> = BTreeMap::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let (path, place) = (format!("vms[{index}]"), entry.place);
        let id = id_of(&entry, &path)?;
        if let Some((first, at)) = first_places.insert(id.clone(), (place, path.clone())) {
            let met = format!("VM {id} is listed more than once: here and at {first}, {at}");
            return Err(AssignmentsError::new(place, path, met, "each VM once"));
        }
        match read_entry(id.clone(), entry, &path) {
            Ok(assignment) => vms.push(assignment),
            Err(problem) => refused.push(RefusedEntry { id, problem: problem.to_string() }),
        }
    }
    Ok((vms, refused))
}

/// Whose entry this is. What does not tell belongs to nobody, and nobody knows who must stay as he is.
fn id_of(entry: &Node, path: &str) -> Result<VmId, AssignmentsError> {
    let Content::Object(members) = &entry.content else {
        return Err(AssignmentsError::new(entry.place, path, entry.outline(), ENTRY));
    };
    let mut ids = members.iter().filter(|member| member.name == "id");
    let Some(first) = ids.next().filter(|member| member.value.content != Content::Null) else {
        let met = "the key \"id\" is missing, so that nobody knows which VM this is";
        return Err(AssignmentsError::new(entry.place, path, met, ENTRY));
    };
    if let Some(second) = ids.next() {
        return Err(twice(second, first.place, path));
    }
    let (path, accepted) = (shown_path(path, "id"), "a DNS label like \"web-1\"");
    let id = text(first.value.clone(), &path, accepted)?;
    VmId::parse(&id)
        .map_err(|problem| AssignmentsError::new(first.value.place, path, problem.to_string(), accepted))
}

fn read_entry(id: VmId, entry: Node, path: &str) -> Result<Assignment, AssignmentsError> {
    let mut keys = Keys::of(entry, path, &ENTRY_KEYS, ENTRY)?;
    keys.take("id");
    let hash = keys.take_required("hash", &format!("\"hash\" with {}", forms::ACCEPTED))?;
    let hash = read_hash(hash, &keys.path_of("hash"))?;
    let store_path = keys.take_required("store_path", &format!("\"store_path\" with {STORE_PATH}"))?;
    let store_path = read_path(store_path, &keys.path_of("store_path"))?;
    let path_of = |key| shown_path(path, key);
    let desired = keys.take("desired").map(|node| read_desired(node, &path_of("desired"))).transpose()?;
    let overrides =
        keys.take("overrides").map(|node| read_overrides(node, &path_of("overrides"))).transpose()?;
    let references =
        keys.take("references").map(|node| read_references(node, &path_of("references"))).transpose()?;
    let procurator =
        keys.take("procurator").map(|node| read_procurator(node, &path_of("procurator"))).transpose()?;
    Ok(Assignment {
        id,
        hash,
        store_path,
        desired: desired.unwrap_or_default(),
        overrides: overrides.unwrap_or_default(),
        references: references.unwrap_or_default(),
        procurator: procurator.unwrap_or_default(),
    })
}

/// A hash in SRI form, however it is written.
fn read_hash(node: Node, path: &str) -> Result<String, AssignmentsError> {
    if matches!(node.content, Content::Object(_)) {
        return read_hash_object(node, path);
    }
    let place = node.place;
    let hash = text(node, path, forms::ACCEPTED)?;
    match forms::from_text(&hash) {
        Ok(digest) => Ok(NarHash::new(digest).to_string()),
        Err(problem) => Err(no_hash(place, path, &hash, problem)),
    }
}

fn no_hash(place: Place, path: &str, hash: &str, problem: &str) -> AssignmentsError {
    let met = format!("{} is no hash of a store path: {problem}", shown_text(hash));
    AssignmentsError::new(place, path, met, forms::ACCEPTED)
}

/// The form that newer versions of Nix print.
fn read_hash_object(node: Node, path: &str) -> Result<String, AssignmentsError> {
    let mut keys = Keys::of(node, path, &HASH_KEYS, forms::ACCEPTED)?;
    if let Some(algorithm) = keys.take("algorithm") {
        let (place, path) = (algorithm.place, keys.path_of("algorithm"));
        let name = text(algorithm, &path, "\"sha256\"")?;
        if name != "sha256" {
            return Err(AssignmentsError::new(place, path, shown_text(&name), "\"sha256\""));
        }
    }
    let format = keys.take("format").map(|format| {
        let accepted = "\"base64\", \"nix32\", \"base16\" or \"sri\"";
        let (place, path) = (format.place, keys.path_of("format"));
        let name = text(format, &path, accepted)?;
        HashFormat::named(&name)
            .ok_or_else(|| AssignmentsError::new(place, path, shown_text(&name), accepted))
    });
    let hash = keys.take_required("hash", forms::ACCEPTED)?;
    let (place, path) = (hash.place, keys.path_of("hash"));
    let hash = text(hash, &path, forms::ACCEPTED)?;
    let read = match format.transpose()? {
        Some(format) => forms::from_encoded(&hash, format),
        None => forms::from_text(&hash),
    };
    match read {
        Ok(digest) => Ok(NarHash::new(digest).to_string()),
        Err(problem) => Err(no_hash(place, &path, &hash, problem)),
    }
}

fn read_path(node: Node, path: &str) -> Result<PathBuf, AssignmentsError> {
    let (place, met) = (node.place, node.description());
    let value = text(node, path, STORE_PATH)?;
    if !value.starts_with('/') || value.contains('\0') {
        return Err(AssignmentsError::new(place, path, met, STORE_PATH));
    }
    Ok(value.into())
}

fn read_desired(node: Node, path: &str) -> Result<DesiredState, AssignmentsError> {
    let accepted = "\"running\", \"paused\" or \"stopped\"";
    let place = node.place;
    let name = text(node, path, accepted)?;
    match name.as_str() {
        "running" => Ok(DesiredState::Running),
        "paused" => Ok(DesiredState::Paused),
        "stopped" => Ok(DesiredState::Stopped),
        other => {
            let met = text_in_words(other);
            Err(AssignmentsError::new(place, path, met, accepted))
        }
    }
}

fn read_overrides(node: Node, path: &str) -> Result<Overrides, AssignmentsError> {
    let mut keys = Keys::of(node, path, &OVERRIDE_KEYS, r#"an object like {"vcpus": 2}"#)?;
    let vcpus = keys.take("vcpus").map(|node| {
        let accepted = format!("a number of vCPUs from 1 to {VCPUS_MOST}, like 2");
        whole_number(&node, &keys.path_of("vcpus"), 1..=VCPUS_MOST.into(), &accepted)
    });
    let memory = keys.take("memory_bytes").map(|node| read_memory(&node, &keys.path_of("memory_bytes")));
    let cmdline = keys
        .take("cmdline_append")
        .map(|node| text(node, &keys.path_of("cmdline_append"), "text like \"quiet\""));
    Ok(Overrides {
        vcpus: vcpus.transpose()?.and_then(|vcpus| u8::try_from(vcpus).ok()),
        memory_bytes: memory.transpose()?,
        // Nothing put after the command line is the command line.
        cmdline_append: cmdline.transpose()?.filter(|text| !text.is_empty()),
    })
}

fn read_memory(node: &Node, path: &str) -> Result<Bytes, AssignmentsError> {
    let meant = bytes_meant(node).map(Bytes::new).filter(|bytes| is_possible_memory(*bytes));
    let accepted =
        meant.map_or_else(|| MEMORY.to_owned(), |bytes| format!("a number of bytes: {}", bytes.get()));
    let bytes = whole_number(node, path, 0..=u64::MAX, &accepted).map(Bytes::new)?;
    if is_possible_memory(bytes) {
        Ok(bytes)
    } else {
        Err(AssignmentsError::new(node.place, path, node.description(), accepted))
    }
}

/// What a size with a unit means, to be told to whoever wrote it.
fn bytes_meant(node: &Node) -> Option<u64> {
    let Content::Text(text) = &node.content else { return None };
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let shift = match text.get(digits.len()..)?.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn read_references(node: Node, path: &str) -> Result<BTreeMap<PathBuf, String>, AssignmentsError> {
    let accepted = r#"an object of store paths and their hashes, like {"/nix/store/…": "sha256-…="}"#;
    let (place, met) = (node.place, node.outline());
    let Content::Object(members) = node.content else {
        return Err(AssignmentsError::new(place, path, met, accepted));
    };
    let mut references = BTreeMap::new();
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for member in members {
        if let Some(&first) = places.get(&member.name) {
            return Err(twice(&member, first, path));
        }
        places.insert(member.name.clone(), member.place);
        let at = shown_path(path, &member.name);
        if !member.name.starts_with('/') {
            return Err(AssignmentsError::new(member.place, at, "a key that is no absolute path", accepted));
        }
        if member.value.content != Content::Null {
            references.insert(member.name.into(), read_hash(member.value, &at)?);
        }
    }
    Ok(references)
}

/// Passed on as it is: those who use it say what they accept.
fn read_procurator(node: Node, path: &str) -> Result<Map<String, Value>, AssignmentsError> {
    let (place, met) = (node.place, node.outline());
    let Content::Object(members) = node.content else {
        return Err(AssignmentsError::new(place, path, met, r#"an object like {"restart": …}"#));
    };
    into_map(members).map_err(|second| {
        let met = format!("the key {} is there twice", shown_key(&second.name));
        AssignmentsError::new(second.place, path, met, "each key once")
    })
}
