//! Running `nft`: a script in, or a listing out.
//!
//! Scripts are in nft's own language, and go to its standard input, which it then reads as such. For a script in JSON
//! nft would open `/dev/stdin` by its path, which is not there under every root directory.

use std::io::{self, Write};
use std::process::{Command, ExitStatus, Output, Stdio};

use thiserror::Error;

const PROGRAM: &str = "nft";
/// How much of a complaint is told.
const COMPLAINT_CHARACTERS: usize = 400;

/// Why `nft` did not do what it was told.
#[derive(Debug, Error)]
pub enum NftError {
    /// There is no `nft`.
    #[error("nft is not on PATH: install nftables")]
    Missing(#[source] io::Error),
    /// `nft` could not be run.
    #[error("cannot run nft")]
    Run(#[source] io::Error),
    /// `nft` or the kernel refused.
    #[error("nft ended with {status}: {said}")]
    Refused {
        /// How it ended.
        status: ExitStatus,
        /// Its complaint, on one line.
        said: String,
    },
}

/// Has the script carried out as one transaction. Blocks.
///
/// # Errors
/// If `nft` cannot be run or refuses; nothing has changed then.
pub(crate) fn run_script(script: &str) -> Result<(), NftError> {
    let mut child = Command::new(PROGRAM)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(from_spawn)?;
    // A script is shorter than a pipe holds, so this waits for nobody. Where nft has ended already, its complaint
    // says why.
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(script.as_bytes()));
    let output = child.wait_with_output().map_err(NftError::Run)?;
    succeeded(&output)?;
    written.map_err(NftError::Run)
}

/// What `nft` prints for `arguments`. Blocks.
///
/// # Errors
/// If `nft` cannot be run or refuses.
pub(crate) fn list(arguments: &[&str]) -> Result<String, NftError> {
    let output = Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().map_err(from_spawn)?;
    succeeded(&output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn from_spawn(error: io::Error) -> NftError {
    if error.kind() == io::ErrorKind::NotFound { NftError::Missing(error) } else { NftError::Run(error) }
}

fn succeeded(output: &Output) -> Result<(), NftError> {
    if output.status.success() {
        return Ok(());
    }
    Err(NftError::Refused {
        status: output.status,
        said: complaint(&String::from_utf8_lossy(&output.stderr)),
    })
}

/// The lines of a complaint as one, without those that only point at a place in the line before.
fn complaint(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.trim_matches(['^', '~', ' ']).is_empty());
    let said = lines.collect::<Vec<_>>().join(" | ");
    if said.is_empty() {
        "it said nothing".to_owned()
    } else {
        said.chars().take(COMPLAINT_CHARACTERS).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_told_without_its_pointing_lines() {
        let text = "/dev/stdin:1:5-9: Error: syntax error, unexpected string\nadd tabel ip p\n    ^^^^^\n";
        assert_eq!(
            complaint(text),
            "/dev/stdin:1:5-9: Error: syntax error, unexpected string | add tabel ip p"
        );
        assert_eq!(complaint(""), "it said nothing");
    }
}
