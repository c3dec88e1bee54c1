//! The settings of an assignment laid over those of the description: member by member, and who said what.
//!
//! Both are merged before anything is checked, so that an assignment can also take away what this worker would
//! refuse. [`Overlaid`] remembers which places came from the assignment: a refusal names the document to correct.

use serde_json::{Map, Value};
use vm_model::shown_path;

use super::document::Node;

/// The one key of the description that an assignment speaks of.
const KEY: &str = "procurator";

/// Places of the merged document whose values are the assignment's, each with its place in the assignment.
#[derive(Debug, Default)]
pub(super) struct Overlaid {
    places: Vec<(String, String)>,
}

impl Overlaid {
    /// Where the assignment says what stands at `json_path` of the merged document; `None` if the description says it.
    pub(super) fn place_in_assignment(&self, json_path: &str) -> Option<String> {
        self.places.iter().find_map(|(merged, own)| {
            let below = json_path.strip_prefix(merged.as_str())?;
            (below.is_empty() || below.starts_with(['.', '['])).then(|| format!("{own}{below}"))
        })
    }
}

/// Lays `assignment` over the key `procurator` of `document`.
///
/// Objects merge member by member, lists of objects that have an `id` by that `id`; anything else takes the place of
/// what was there, and `null` removes it.
pub(super) fn overlay(document: Node, assignment: &Map<String, Value>) -> (Node, Overlaid) {
    let mut merge = Merge::default();
    let Node::Object(mut members) = document else {
        return (document, merge.overlaid);
    };
    if assignment.is_empty() {
        return (Node::Object(members), merge.overlaid);
    }
    let path = shown_path("$", KEY);
    let laid = Node::Object(assignment.iter().map(|(name, value)| (name.clone(), node(value))).collect());
    match members.iter_mut().find(|(name, _)| name == KEY) {
        Some((_, base)) if matches!(base, Node::Object(_) | Node::Null) => {
            let own = std::mem::replace(base, Node::Null);
            *base = merge.value(own, laid, &path, &path);
        }
        // Not an object: the check says so of the description.
        Some(_) => {}
        None => members.push((KEY.to_owned(), merge.value(Node::Null, laid, &path, &path))),
    }
    (Node::Object(members), merge.overlaid)
}

/// A merge under way; paths are those in the merged document (`merged`) and in the assignment (`own`).
#[derive(Default)]
struct Merge {
    overlaid: Overlaid,
}

impl Merge {
    fn value(&mut self, base: Node, laid: Node, merged: &str, own: &str) -> Node {
        match (base, laid) {
            (Node::Object(base), Node::Object(laid)) => Node::Object(self.members(base, laid, merged, own)),
            (Node::List(base), Node::List(laid)) if laid.iter().all(|entry| id_of(entry).is_some()) => {
                Node::List(self.entries(base, laid, merged, own))
            }
            (_, laid) => {
                self.overlaid.places.push((merged.to_owned(), own.to_owned()));
                laid
            }
        }
    }

    fn members(
        &mut self,
        base: Vec<(String, Node)>,
        laid: Vec<(String, Node)>,
        merged: &str,
        own: &str,
    ) -> Vec<(String, Node)> {
        let mut members = base;
        for (name, value) in laid {
            let (merged, own) = (shown_path(merged, &name), shown_path(own, &name));
            let before = members.iter_mut().find(|(known, _)| *known == name);
            match (before, value) {
                (_, Node::Null) => members.retain(|(known, _)| *known != name),
                (Some((_, before)), value) => {
                    let base = std::mem::replace(before, Node::Null);
                    *before = self.value(base, value, &merged, &own);
                }
                (None, value) => {
                    let value = self.value(Node::Null, value, &merged, &own);
                    members.push((name, value));
                }
            }
        }
        members
    }

    /// Entries keep their places, so that the description's are found where it has them; new ones follow. Of two
    /// entries with one `id` in the assignment the second stays by itself, for the check to refuse.
    fn entries(&mut self, base: Vec<Node>, laid: Vec<Node>, merged: &str, own: &str) -> Vec<Node> {
        let mut entries = base;
        let mut taken = vec![false; entries.len()];
        for (number, entry) in laid.into_iter().enumerate() {
            let own = format!("{own}[{number}]");
            let same =
                (0..taken.len()).find(|place| !taken[*place] && id_of(&entries[*place]) == id_of(&entry));
            let place = same.unwrap_or(entries.len());
            let merged = format!("{merged}[{place}]");
            match same {
                Some(place) => {
                    taken[place] = true;
                    let base = std::mem::replace(&mut entries[place], Node::Null);
                    entries[place] = self.value(base, entry, &merged, &own);
                }
                None => entries.push(self.value(Node::Null, entry, &merged, &own)),
            }
        }
        entries
    }
}

/// The `id` of an entry of a list.
fn id_of(entry: &Node) -> Option<&str> {
    let Node::Object(members) = entry else {
        return None;
    };
    members.iter().find_map(|(name, value)| match value {
        Node::Text(id) if name == "id" => Some(id.as_str()),
        _ => None,
    })
}

fn node(value: &Value) -> Node {
    match value {
        Value::Null => Node::Null,
        Value::Bool(value) => Node::Boolean(*value),
        Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), _, _) => Node::Integer(value),
            (None, Some(value), _) => Node::Negative(value),
            (None, None, value) => Node::Fraction(value.unwrap_or(f64::NAN)),
        },
        Value::String(text) => Node::Text(text.clone()),
        Value::Array(values) => Node::List(values.iter().map(node).collect()),
        Value::Object(members) => {
            Node::Object(members.iter().map(|(name, value)| (name.clone(), node(value))).collect())
        }
    }
}
