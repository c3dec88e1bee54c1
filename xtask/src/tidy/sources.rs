//! Rules on source files: an opening that says what a file is for, names that say it too, a size that can be read.

use std::path::Path;

/// From here on a file needs a reason to grow. Such files are counted.
pub(super) const LONG_FILE_LINES: usize = 300;
/// No file is longer than this.
const MOST_LINES: usize = 500;
/// Names that say nothing.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "common", "helpers", "manager", "misc"];
/// The parts of tokio that the bridge between threads and tasks is made of.
const BRIDGE_PARTS: [&str; 2] = ["tokio::sync", "tokio::time"];

/// Findings on one file. `name` is its path in the workspace.
pub(super) fn check(name: &Path, text: &str) -> Vec<String> {
    let shown = name.display();
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(format!("{shown}: opens without a line of `//!` that says what it owns"));
    }
    let stem = name.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) {
        findings.push(format!("{shown}: `{stem}` does not say what the file does"));
    }
    let lines = product_lines(name, text);
    if lines > MOST_LINES {
        findings.push(format!("{shown}: {lines} lines without tests, {MOST_LINES} are accepted"));
    }
    findings
        .extend(foreign_words(name, text).into_iter().map(|word| format!("{shown}: must not use {word}")));
    findings
}

/// Whether a file is long enough to be counted.
pub(super) fn is_long(name: &Path, text: &str) -> bool {
    product_lines(name, text) > LONG_FILE_LINES
}

/// What a crate must not use though its dependencies would allow it.
fn foreign_words(name: &Path, text: &str) -> Vec<String> {
    let product = &text[..start_of_tests(name, text)];
    let code = product.lines().filter(|line| !line.trim_start().starts_with("//"));
    let words = |line: &str, start: &str| -> Vec<String> {
        let ends_word = |character: char| !character.is_alphanumeric() && !":_".contains(character);
        line.match_indices(start)
            .map(|(at, _)| line[at..].split(ends_word).next().unwrap_or_default().to_owned())
            .collect()
    };
    if name.starts_with("crates/vmm-host/src") {
        code.flat_map(|line| words(line, "tokio::"))
            .filter(|word| !BRIDGE_PARTS.iter().any(|part| word.starts_with(part)))
            .collect()
    } else if name.starts_with("crates/vmm/src") {
        // It gets open files and numbers; who may open what is decided outside.
        code.flat_map(|line| [words(line, "std::path"), words(line, "std::fs::")].concat())
            .filter(|word| !word.starts_with("std::fs::File") || word.contains("::open"))
            .collect()
    } else {
        Vec::new()
    }
}

/// Lines that are no tests.
fn product_lines(name: &Path, text: &str) -> usize {
    text[..start_of_tests(name, text)].lines().count()
}

/// Where a file's tests begin: they come last in it, or are all there is.
fn start_of_tests(name: &Path, text: &str) -> usize {
    let is_test_file = name.file_stem().is_some_and(|stem| stem == "tests")
        || name.starts_with("tests/tests")
        || name.iter().skip(1).any(|folder| folder == "tests");
    if is_test_file {
        return 0;
    }
    text.find("\n#[cfg(test)]\nmod ").filter(|start| text[*start..].contains('{')).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(lines: usize) -> String {
        format!("//! What it owns.\n{}", "fn line() {}\n".repeat(lines - 1))
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        assert_eq!(check(Path::new("crates/vmm/src/boot.rs"), &file_of(10)), Vec::<String>::new());
        assert_eq!(check(Path::new("crates/vmm/src/boot.rs"), "fn boot() {}\n").len(), 1);
        assert_eq!(check(Path::new("crates/vmm/src/util.rs"), &file_of(10)).len(), 1);
    }

    #[test]
    fn tests_do_not_count_towards_the_size() {
        let name = Path::new("crates/vmm/src/boot.rs");
        assert!(check(name, &file_of(500)).is_empty());
        assert!(check(name, &file_of(501))[0].contains("501 lines"));
        let tests = format!("{}\n#[cfg(test)]\nmod tests {{\n{}}}\n", file_of(299), "\n".repeat(900));
        assert!(check(name, &tests).is_empty());
        assert!(!is_long(name, &tests));
        assert!(is_long(name, &file_of(301)));
        assert!(check(Path::new("crates/vmm/src/boot/tests.rs"), &file_of(900)).is_empty());
        assert!(check(Path::new("crates/vmm/tests/boot.rs"), &file_of(900)).is_empty());
        assert!(!check(Path::new("tests/src/worker.rs"), &file_of(900)).is_empty(), "a library of its own");
    }

    #[test]
    fn the_bridge_uses_its_two_parts_of_tokio() {
        let name = Path::new("crates/vmm-host/src/thread.rs");
        let text = "//! x\nuse tokio::sync::watch;\n// tokio::fs is not used\ntokio::spawn(task());\n\
                    #[cfg(test)]\nmod tests {\n    #[tokio::test]\n}\n";
        assert_eq!(check(name, text), ["crates/vmm-host/src/thread.rs: must not use tokio::spawn"]);
    }

    #[test]
    fn a_machine_opens_no_paths() {
        let name = Path::new("crates/vmm/src/boot.rs");
        let text = "//! x\nuse std::fs::File;\nuse std::path::Path;\nlet f = std::fs::File::open(p);\n";
        assert_eq!(check(name, text).len(), 2);
    }
}
