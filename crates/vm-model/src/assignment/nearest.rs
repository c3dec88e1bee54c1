//! Finding the name that somebody probably meant.

/// Longer names are compared by their first characters: nobody mistypes more than that.
const COMPARED: usize = 32;

/// The one of `candidates` that takes the fewest typing errors to get to from `name`; the first of equals. A name that
/// breaks off early is nearly right. None where more than half of the name would be typing errors: nothing like it was meant.
pub fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let errors = |candidate: &str| {
        let typed = name.chars().count().min(candidate.len());
        let begun = candidate.get(..typed).map_or(usize::MAX, |begin| distance(name, begin) + 1);
        distance(name, candidate).min(begun)
    };
    let most = (name.chars().count() / 2).max(1);
    let nearest = candidates.iter().copied().map(|candidate| (errors(candidate), candidate));
    let nearest = nearest.min_by_key(|(errors, _)| *errors);
    nearest.filter(|(errors, _)| *errors <= most).map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours between two names, ignoring case.
fn distance(one: &str, other: &str) -> usize {
    let characters = |text: &str| -> Vec<char> {
        text.chars().take(COMPARED).map(|character| character.to_ascii_lowercase()).collect()
    };
    let (one, other) = (characters(one), characters(other));
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for (row, &from) in one.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, &to) in other.iter().enumerate() {
            let last = &rows[row];
            let mut best = (last[column] + usize::from(from != to)).min(last[column + 1] + 1);
            best = best.min(current[column] + 1);
            if row > 0 && column > 0 && from == other[column - 1] && one[row - 1] == to {
                best = best.min(rows[row - 1][column - 1] + 1);
            }
            current.push(best);
        }
        rows.push(current);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_was_meant_is_found() {
        let names = ["id", "hash", "store_path", "desired", "overrides", "references", "procurator"];
        for (typed, meant) in [
            ("sotre", "store_path"),
            ("storePath", "store_path"),
            ("Hash", "hash"),
            ("reference", "references"),
            ("ID", "id"),
        ] {
            assert_eq!(nearest(typed, &names), Some(meant), "{typed}");
        }
        assert_eq!(nearest("x", &[]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("memroy", "memory"), 1);
        assert!(nearest(&"é".repeat(10_000), &names).is_some());
    }
}
