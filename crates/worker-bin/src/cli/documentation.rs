//! The documentation's commands against the parser that users meet.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use super::Cli;

/// What a command in the documentation begins with, at a prompt.
const PROMPTS: [&str; 3] = ["# procurator-worker ", "# ./procurator-worker ", "$ procurator-worker "];
/// What stands for something of the reader's, and an example of it. The longer ones come first.
const PLACEHOLDERS: [(&str, &str); 4] =
    [("VM/DISK", "web-1/disk0"), ("STORE_PATH", "/nix/store/x-image"), ("FILE", "vms.json"), ("VM", "web-1")];
/// Keys of an assignment that stand beside verbs.
const KEYS: [&str; 2] = ["overrides", "rollout"];
/// A verb that changes something takes what.
const CHANGE: &str = "--memory 512M";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `docs/coming-from.md`.
fn coming_from() -> String {
    fs::read_to_string(root().join("docs/coming-from.md")).expect("the page is there")
}

/// The README and every page of `docs`, with their names.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(root().join("docs")).expect("there are docs");
    let docs = docs.map(|entry| entry.expect("an entry").path());
    let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
        .chain([root().join("README.md")])
        .map(|path| (path.display().to_string(), fs::read_to_string(&path).expect("a page")))
        .collect()
}

/// Rows of the tables of `docs/coming-from.md`: the cells for this program.
fn cells(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| row.trim_end_matches('|').rsplit_once(" | ").map(|(_, cell)| cell)).collect()
}

/// What stands as code in `cell` and is a command.
fn commands(cell: &str) -> Vec<&str> {
    let codes = cell.split('`').skip(1).step_by(2);
    codes.filter(|code| !code.starts_with("--") && !KEYS.contains(code)).collect()
}

/// Whether the parser takes `command`, or what it says.
fn parse(command: &str) -> Result<(), String> {
    let words = ["procurator-worker"].into_iter().chain(command.split_whitespace());
    Cli::try_parse_from(words).map(drop).map_err(|refused| refused.to_string())
}

/// `command` with examples in place of what stands for them.
fn filled_in(command: &str) -> String {
    let example = |word: &str| {
        let known = PLACEHOLDERS.iter().find(|(placeholder, _)| *placeholder == word);
        known.map_or(word, |(_, example)| example).to_owned()
    };
    let command = command.split_whitespace().map(example).collect::<Vec<_>>().join(" ");
    if command.starts_with("set ") { format!("{command} {CHANGE}") } else { command }
}

#[test]
fn every_verb_that_people_are_told_of_is_there_and_takes_what_is_written() {
    let page = coming_from();
    let command = Cli::command();
    let there: Vec<&str> =
        command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(clap::Command::get_name).collect();
    let cells = cells(&page);
    assert!(cells.len() > 50, "{}", cells.len());
    for cell in cells {
        for command in commands(cell) {
            let verb = command.split_whitespace().next().unwrap_or_default();
            assert!(there.contains(&verb), "{verb:?} of {cell:?} is not in --help");
            parse(&filled_in(command)).unwrap_or_else(|refused| panic!("{command:?} of {cell:?}: {refused}"));
        }
    }
}

#[test]
fn every_command_at_a_prompt_of_the_documentation_is_understood() {
    let mut count = 0;
    for (name, page) in pages() {
        let at_prompts =
            page.lines().filter_map(|line| PROMPTS.iter().find_map(|prompt| line.strip_prefix(prompt)));
        for line in at_prompts {
            // What follows is the shell's.
            let command = line.split([';', '|', '>', '#']).next().unwrap_or_default();
            parse(command).unwrap_or_else(|refused| panic!("{line:?} in {name}: {refused}"));
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn a_command_that_is_none_is_found() {
    for wrong in ["lst", "ls --all-of-them", "inspect", "console web-1 web-2"] {
        parse(wrong).expect_err(wrong);
    }
}
