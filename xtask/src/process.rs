//! Running other programs, with errors that say which one and what it printed.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program that shares this one's output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a program and returns what it printed. Its error output appears only in the error.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}:\n{}", shown(command), output.status, errors.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// The command line, for people.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell reads it back unchanged.
pub(crate) fn shell_quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_complained_of() {
        let error = output_of(Command::new("sh").args(["-c", "echo broken >&2; exit 3"]))
            .expect_err("the shell was told to fail");
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("broken") && text.contains('3'), "{text}");
    }

    #[test]
    fn quoted_words_survive_a_shell() {
        let word = "it's $HOME \"quoted\" \\ ; done";
        let script = format!("printf %s {}", shell_quote(word));
        assert_eq!(output_of(Command::new("sh").args(["-c", &script])).expect("printf runs"), word);
    }
}
