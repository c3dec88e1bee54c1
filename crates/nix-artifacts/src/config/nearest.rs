//! Finding the name that somebody probably meant.

/// Longer names are compared by their first characters: nobody mistypes more than that.
const COMPARED: usize = 64;

/// The one of `candidates` that takes the fewest typing errors to get to from `name`; the first of equals.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates.into_iter().min_by_key(|candidate| distance(name, candidate))
}

/// Insertions, deletions, substitutions and swaps of neighbours between two names, ignoring case.
fn distance(one: &str, other: &str) -> usize {
    let characters = |text: &str| -> Vec<char> {
        text.chars().take(COMPARED).map(|character| character.to_ascii_lowercase()).collect()
    };
    let (one, other) = (characters(one), characters(other));
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, &from) in one.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, &to) in other.iter().enumerate() {
            let substituted = last[column] + usize::from(from != to);
            let mut best = substituted.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped = row > 0 && column > 0 && from == other[column - 1] && one[row - 1] == to;
            if swapped {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_typing_errors() {
        for (one, other, expected) in [
            ("memory", "memory", 0),
            ("memroy", "memory", 1),
            ("Memory", "memory", 0),
            ("memor", "memory", 1),
            ("disk", "disks", 1),
            ("nett", "net", 1),
            ("", "net", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), expected, "{one:?} to {other:?}");
        }
    }

    #[test]
    fn the_first_of_equals_is_nearest() {
        assert_eq!(nearest("xet", ["net", "set"]), Some("net"));
        assert_eq!(nearest("x", []), None);
    }

    proptest! {
        #[test]
        fn is_symmetric_bounded_and_zero_for_equals(one in "\\PC{0,12}", other in "\\PC{0,12}") {
            let forth = distance(&one, &other);
            prop_assert_eq!(forth, distance(&other, &one));
            prop_assert!(forth <= one.chars().count().max(other.chars().count()));
            prop_assert_eq!(distance(&one, &one), 0);
        }
    }
}
