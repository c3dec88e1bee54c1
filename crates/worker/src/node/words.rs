//! An administrator's words that let go what is held: whose it is, and why a word lets nothing go. Pure.

use thiserror::Error;
use vm_model::{HoldReason, SourceKind};

use super::admit::Refusal;

/// Which of the desired states that are held is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldChoice {
    /// The word that is said.
    pub word: HoldReason,
    /// Whose state is meant. Has to be said where the states of several wait for this word.
    pub source: Option<SourceKind>,
}

/// Why a word lets nothing go.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WordRefusal {
    /// Nothing is held.
    #[error("{}", nothing(*.word))]
    NothingHeld {
        /// The word that was said.
        word: HoldReason,
    },
    /// What is held waits for the other word.
    #[error("{}; what {of} says waits for `procurator-worker {}`", nothing(*.word), verb(*.waits_for))]
    OtherWord {
        /// The word that was said.
        word: HoldReason,
        /// Whose state is held.
        of: SourceKind,
        /// The word that it waits for.
        waits_for: HoldReason,
    },
    /// The states of several sources are held.
    #[error("{} is held: say which is meant: {}", listed(.held), commands(*.word, .held))]
    Several {
        /// The word that was said.
        word: HoldReason,
        /// Whose states are held.
        held: Vec<SourceKind>,
    },
    /// Nothing of the source that was named waits for the word.
    #[error("what {asked} says is not held for that; {} is", listed(.held))]
    NotOf {
        /// The source that was named.
        asked: SourceKind,
        /// Whose states wait for the word.
        held: Vec<SourceKind>,
    },
    /// What was held is not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Whose state is let go by the word of `choice`, of those that are `held`.
///
/// # Errors
/// None is, or it is not clear which.
pub(super) fn chosen(
    held: impl IntoIterator<Item = (SourceKind, HoldReason)>,
    HeldChoice { word, source }: HeldChoice,
) -> Result<SourceKind, WordRefusal> {
    let (waiting, others): (Vec<_>, Vec<_>) = held.into_iter().partition(|(_, waits_for)| *waits_for == word);
    let waiting: Vec<SourceKind> = waiting.into_iter().map(|(kind, _)| kind).collect();
    let other = others.into_iter().find(|(kind, _)| source.is_none_or(|asked| asked == *kind));
    match (waiting.as_slice(), source) {
        (_, Some(asked)) if waiting.contains(&asked) => Ok(asked),
        ([only], None) => Ok(*only),
        ([_, ..], None) => Err(WordRefusal::Several { word, held: waiting }),
        (waiting, asked) => Err(match (other, asked) {
            (Some((kind, waits_for)), _) => WordRefusal::OtherWord { word, of: kind, waits_for },
            (None, Some(asked)) if !waiting.is_empty() => {
                WordRefusal::NotOf { asked, held: waiting.to_vec() }
            }
            (None, _) => WordRefusal::NothingHeld { word },
        }),
    }
}

fn nothing(word: HoldReason) -> &'static str {
    match word {
        HoldReason::Removals => "no desired state is held for what it removes: there is nothing to allow",
        HoldReason::Lineage => "no master waits to be accepted",
    }
}

fn verb(word: HoldReason) -> &'static str {
    match word {
        HoldReason::Removals => "allow-removals",
        HoldReason::Lineage => "accept-master",
    }
}

fn listed(sources: &[SourceKind]) -> String {
    sources.iter().map(|source| format!("what {source} says")).collect::<Vec<_>>().join(" and ")
}

fn commands(word: HoldReason, sources: &[SourceKind]) -> String {
    let command = |source: &SourceKind| format!("`procurator-worker {} {}`", verb(word), source.name());
    sources.iter().map(command).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use HoldReason::{Lineage, Removals};
    use SourceKind::{File, Master};

    use super::*;

    #[test]
    fn a_word_lets_go_what_waits_for_it_and_nothing_that_was_not_named() {
        let choose = |held: &[(SourceKind, HoldReason)], word, source| {
            chosen(held.iter().copied(), HeldChoice { word, source }).map_err(|refusal| refusal.to_string())
        };
        let both = [(Master, Removals), (File, Removals)];
        assert_eq!(choose(&both, Removals, Some(File)), Ok(File));
        assert_eq!(choose(&both[..1], Removals, None), Ok(Master));
        assert_eq!(choose(&[(Master, Lineage), (File, Removals)], Removals, None), Ok(File));
        let said = |held: &[(SourceKind, HoldReason)], word, source| {
            choose(held, word, source).expect_err("refused")
        };
        assert_eq!(
            said(&both, Removals, None),
            "what the master says and what the assignments file says is held: say which is meant: \
             `procurator-worker allow-removals master` or `procurator-worker allow-removals file`"
        );
        let other = said(&[(Master, Lineage)], Removals, None);
        assert!(
            other.ends_with("what the master says waits for `procurator-worker accept-master`"),
            "{other}"
        );
        let other = said(&both[1..], Removals, Some(Master));
        assert!(other.starts_with("what the master says is not held for that"), "{other}");
        assert!(said(&[], Removals, None).ends_with("there is nothing to allow"));
        assert_eq!(said(&[], Lineage, None), "no master waits to be accepted");
    }
}
