//! A rule on documents that name tests in their tables: each of these tests is there.

use std::collections::BTreeSet;
use std::path::Path;

/// Names of tests are sentences; shorter names in a table are settings and the like.
const LEAST_WORDS: usize = 5;
/// What the names of figures begin with.
const FIGURES: &str = "procurator_";

/// The names of the functions in one source file.
pub(super) fn functions(text: &str) -> impl Iterator<Item = &str> {
    let after = text.match_indices("fn ").map(|(at, word)| &text[at + word.len()..]);
    after.filter_map(|rest| rest.split_once('(').map(|(name, _)| name)).filter(|name| is_name(name))
}

/// Findings on one Markdown document: tests that it names and `functions` lacks.
pub(super) fn check(name: &Path, text: &str, functions: &BTreeSet<String>) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    quoted
        .filter(|word| is_name(word) && word.split('_').count() >= LEAST_WORDS)
        .filter(|word| !word.starts_with(FIGURES) && !functions.contains(*word))
        .map(|word| format!("{}: there is no test {word}", name.display()))
        .collect()
}

fn is_name(word: &str) -> bool {
    !word.is_empty()
        && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_gone_is_named() {
        let known =
            functions("    fn a_disk_is_kept() {\nasync fn nothing_else_is(x: u8) {}\nfn odd<T>() {}");
        let known: BTreeSet<String> = known.map(str::to_owned).collect();
        let text = "`no_row_of_a_table`\n| `memory_mb` | `a_disk_is_kept` | `the_disk_was_kept_once` |\n";
        let findings = check(Path::new("docs/page.md"), text, &known);
        assert_eq!(findings, ["docs/page.md: there is no test the_disk_was_kept_once"]);
    }
}
