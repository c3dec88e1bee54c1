//! Findings for people: aligned columns, lines of at most 80 characters, commands that can be pasted.

use std::fmt::Write as _;

use super::finding::{Finding, Remedy, Verdict};
use crate::colours::Colours;
use crate::printable::printable;

/// The longest line.
const WIDTH: usize = 80;
/// A verdict and the blanks behind it.
const VERDICT: usize = 6;

/// All of it.
pub(super) fn text(findings: &[Finding], colours: Colours) -> String {
    let checks = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    let indent = VERDICT + checks + 2;
    let mut text = String::new();
    for finding in findings {
        let verdict = coloured(finding.verdict, colours);
        let lines = wrapped(&printable(&finding.found), WIDTH.saturating_sub(indent));
        for (index, line) in lines.iter().enumerate() {
            let _ = match index {
                0 => writeln!(text, "{verdict}{:checks$}  {line}", finding.check),
                _ => writeln!(text, "{:indent$}{line}", ""),
            };
        }
        for line in remedy_lines(finding.remedy.as_ref(), WIDTH.saturating_sub(VERDICT)) {
            let _ = writeln!(text, "{:VERDICT$}{line}", "");
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (failed, warned) = (count(Verdict::Fail), count(Verdict::Warn));
    let _ = writeln!(text, "\nchecks: {}, failed: {failed}, warnings: {warned}", findings.len());
    text
}

/// The verdict, padded.
fn coloured(verdict: Verdict, colours: Colours) -> String {
    let (word, colour) = match verdict {
        Verdict::Ok => ("ok", 32),
        Verdict::Warn => ("warn", 33),
        Verdict::Fail => ("FAIL", 31),
    };
    match colours {
        Colours::Used => format!("\x1b[{colour}m{word}\x1b[0m{:1$}", "", VERDICT.saturating_sub(word.len())),
        Colours::Unused => format!("{word:VERDICT$}"),
    }
}

fn remedy_lines(remedy: Option<&Remedy>, width: usize) -> Vec<String> {
    const LEAD: &str = "  # ";
    match remedy {
        None => Vec::new(),
        Some(Remedy::Commands(commands)) => commands
            .iter()
            .flat_map(|command| {
                let lines = pasteable(&printable(command), width.saturating_sub(LEAD.len() + 2));
                let leads = std::iter::once(LEAD).chain(std::iter::repeat("    "));
                leads.zip(lines).map(|(lead, line)| format!("{lead}{line}")).collect::<Vec<_>>()
            })
            .collect(),
        Some(Remedy::Advice(words)) => {
            let lines = wrapped(&printable(words), width.saturating_sub(LEAD.len()));
            let leads = std::iter::once("  → ").chain(std::iter::repeat("    "));
            leads.zip(lines).map(|(lead, line)| format!("{lead}{line}")).collect()
        }
    }
}

/// `text` in lines of at most `width` characters, broken at blanks; a word that is longer is broken where the line ends.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        for (index, part) in chunks(word, width).into_iter().enumerate() {
            let line = lines.last_mut().filter(|line| {
                let used = line.chars().count();
                index == 0 && (used == 0 || used + 1 + part.chars().count() <= width)
            });
            match line {
                Some(line) if line.is_empty() => line.push_str(&part),
                Some(line) => {
                    line.push(' ');
                    line.push_str(&part);
                }
                None => lines.push(part),
            }
        }
    }
    lines
}

fn chunks(word: &str, width: usize) -> Vec<String> {
    let characters: Vec<char> = word.chars().collect();
    characters.chunks(width).map(|chunk| chunk.iter().collect()).collect()
}

/// A command in lines that a shell reads as one: broken at blanks outside quotation marks, with `\` at each end.
fn pasteable(command: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in shell_words(command) {
        let fits = lines
            .last()
            .is_none_or(|line| line.is_empty() || line.chars().count() + 1 + word.chars().count() <= width);
        match lines.last_mut().filter(|_| fits) {
            Some(line) => {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    let last = lines.len().saturating_sub(1);
    lines
        .iter()
        .enumerate()
        .map(|(index, line)| if index < last { format!("{line} \\") } else { line.clone() })
        .collect()
}

/// The words of a command; blanks between quotation marks belong to a word.
fn shell_words(command: &str) -> Vec<&str> {
    let (mut words, mut start, mut quote) = (Vec::new(), 0, None);
    for (index, character) in command.char_indices() {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), close) if open == close => quote = None,
            (None, ' ') => {
                words.push(&command[start..index]);
                start = index + 1;
            }
            (None | Some(_), _) => {}
        }
    }
    words.push(&command[start..]);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::super::finding::{advice, command};
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("KVM", "/dev/kvm can be used"),
            Finding::warn(
                "link manager",
                "NetworkManager is not told to leave br-procurator alone: it may take the bridge's address",
                command(
                    "printf '[keyfile]\\nunmanaged-devices=interface-name:br-procurator\\n' \
                     >/etc/NetworkManager/conf.d/procurator.conf",
                ),
            ),
            Finding::fail("subnet", "it\x1b[2J overlaps", advice("take another one")),
        ]
    }

    #[test]
    fn a_report_is_aligned_and_fits_a_terminal() {
        let shown = text(&findings(), Colours::Unused);
        let expected = "\
ok    KVM           /dev/kvm can be used
warn  link manager  NetworkManager is not told to leave br-procurator alone: it
                    may take the bridge's address
        # printf '[keyfile]\\nunmanaged-devices=interface-name:br-procurator\\n' \\
          >/etc/NetworkManager/conf.d/procurator.conf
FAIL  subnet        it\\u{1b}[2J overlaps
        → take another one

checks: 3, failed: 1, warnings: 1
";
        assert_eq!(shown, expected);
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "{shown}");
    }

    #[test]
    fn colours_change_no_column() {
        let coloured = text(&findings(), Colours::Used);
        let plain: String = ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"]
            .iter()
            .fold(coloured.clone(), |text, code| text.replace(code, ""));
        assert_ne!(plain, coloured);
        assert_eq!(plain, text(&findings(), Colours::Unused));
    }

    #[test]
    fn words_without_blanks_are_broken_too() {
        let lines = wrapped(&format!("a {} b", "x".repeat(25)), 10);
        assert!(lines.iter().all(|line| line.chars().count() <= 10), "{lines:?}");
        assert_eq!(lines.concat().replace(' ', ""), format!("a{}b", "x".repeat(25)));
    }

    #[test]
    fn a_broken_command_is_one_for_a_shell() {
        let lines = pasteable("echo 'a b  c' \"d e\" f", 12);
        let script = lines.join("\n");
        let output = std::process::Command::new("sh").arg("-c").arg(&script).output().expect("a shell");
        assert!(lines.len() > 1, "{lines:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a b  c d e f\n");
    }
}
