//! The documentation's verbs against those that there are.

use std::path::PathBuf;

use clap::CommandFactory;

use super::Cli;

/// Rows of the tables of `docs/coming-from.md`: the cells for this program.
fn cells(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| row.trim_end_matches('|').rsplit_once(" | ").map(|(_, cell)| cell)).collect()
}

/// The first words of what stands as code in `cell`.
fn verbs(cell: &str) -> Vec<&str> {
    let codes = cell.split('`').skip(1).step_by(2);
    let words = codes.filter_map(|code| code.split_whitespace().next());
    words.filter(|word| !word.starts_with("--") && *word != "overrides" && *word != "rollout").collect()
}

#[test]
fn every_verb_that_people_are_told_of_is_there_or_marked() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/coming-from.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let command = Cli::command();
    let there: Vec<&str> =
        command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(clap::Command::get_name).collect();
    let cells = cells(&page);
    assert!(cells.len() > 50, "{}", cells.len());
    for cell in cells {
        let missing: Vec<&str> = verbs(cell).into_iter().filter(|verb| !there.contains(verb)).collect();
        assert!(missing.is_empty() || cell.contains("not yet"), "{missing:?} of {cell:?} are not in --help");
    }
}
