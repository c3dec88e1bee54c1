//! Taking the members of an object by their names: none twice, none unknown, `null` as if it were left out.

use super::nearest::nearest;
use super::problem::AssignmentsError;
use crate::document::{Content, Member, Node, Place};
use crate::{shown_key, shown_path};

/// The members of one object that are still to be taken.
#[derive(Debug)]
pub(super) struct Keys {
    path: String,
    place: Place,
    members: Vec<Member>,
    known: &'static [&'static str],
}

impl Keys {
    /// The members of `node`, which stands at `path` and has keys of `known` only.
    ///
    /// # Errors
    /// It is no object (`accepted` says what is), or has a key that is unknown or there twice.
    pub(super) fn of(
        node: Node,
        path: &str,
        known: &'static [&'static str],
        accepted: &str,
    ) -> Result<Self, AssignmentsError> {
        let met = node.outline();
        let Content::Object(members) = node.content else {
            return Err(AssignmentsError::new(node.place, path, met, accepted));
        };
        for (index, member) in members.iter().enumerate() {
            let names = || format!("one of {}", known.join(", "));
            if !known.contains(&member.name.as_str()) {
                let meant = nearest(&member.name, known).map(|near| format!("; the nearest is {near:?}"));
                let met = format!("{} is no known key{}", shown_key(&member.name), meant.unwrap_or_default());
                return Err(AssignmentsError::new(
                    member.place,
                    shown_path(path, &member.name),
                    met,
                    names(),
                ));
            }
            if let Some(first) = members[..index].iter().find(|earlier| earlier.name == member.name) {
                return Err(twice(member, first.place, path));
            }
        }
        Ok(Self { path: path.to_owned(), place: node.place, members, known })
    }

    /// The path of `key`.
    pub(super) fn path_of(&self, key: &str) -> String {
        shown_path(&self.path, key)
    }

    /// The value of `key`; `None` where it is left out or `null`.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Node> {
        debug_assert!(self.known.contains(&key), "{key} would have been refused");
        let index = self.members.iter().position(|member| member.name == key)?;
        let value = self.members.swap_remove(index).value;
        (value.content != Content::Null).then_some(value)
    }

    /// The value of `key`, which must be there.
    ///
    /// # Errors
    /// It is not; `accepted` says what would be.
    pub(super) fn take_required(
        &mut self,
        key: &'static str,
        accepted: &str,
    ) -> Result<Node, AssignmentsError> {
        self.take(key).ok_or_else(|| {
            let met = format!("the key {key:?} is missing");
            AssignmentsError::new(self.place, &self.path, met, accepted)
        })
    }
}

/// The refusal of a key that is there twice.
pub(super) fn twice(second: &Member, first: Place, path: &str) -> AssignmentsError {
    let met = format!("the key {} is there twice: here and at {first}", shown_key(&second.name));
    AssignmentsError::new(second.place, shown_path(path, &second.name), met, "each key once")
}

/// The text that `node` is.
///
/// # Errors
/// It is none; `accepted` says what is.
pub(super) fn text(node: Node, path: &str, accepted: &str) -> Result<String, AssignmentsError> {
    let met = node.description();
    match node.content {
        Content::Text(text) => Ok(text),
        Content::Null | Content::Bool(_) | Content::Number(_) | Content::List(_) | Content::Object(_) => {
            Err(AssignmentsError::new(node.place, path, met, accepted))
        }
    }
}

/// The whole number that `node` is, also where it is written as 5.12e2.
///
/// # Errors
/// It is none, or not in `range`; `accepted` says what is.
pub(super) fn whole_number(
    node: &Node,
    path: &str,
    range: std::ops::RangeInclusive<u64>,
    accepted: &str,
) -> Result<u64, AssignmentsError> {
    let value = match &node.content {
        Content::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(exact)),
        Content::Null | Content::Bool(_) | Content::Text(_) | Content::List(_) | Content::Object(_) => None,
    };
    value
        .filter(|value| range.contains(value))
        .ok_or_else(|| AssignmentsError::new(node.place, path, node.description(), accepted))
}

/// The whole number that `value` is, where it is exact.
fn exact(value: f64) -> Option<u64> {
    // Above that, not every whole number has a floating-point form of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole, and in range")]
    (value.fract() == 0.0 && (0.0..=EXACT).contains(&value)).then_some(value as u64)
}
