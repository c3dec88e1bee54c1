//! Reading the file, whatever is in its place.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::OFlags;

/// Larger files are refused.
const MAX_BYTES: u64 = 16 << 20;

/// What a look at the file has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// There is none; says what is missing.
    Missing(String),
    /// It cannot be read.
    Unusable(String),
    /// Its content.
    Text(String),
}

/// Looks at `file`. Blocks as long as its disk lets it.
pub(crate) fn look(file: &Path) -> Seen {
    match read(file) {
        Ok(Some(text)) => Seen::Text(text),
        Ok(None) => Seen::Missing(what_is_missing(file)),
        Err(problem) => Seen::Unusable(format!("{problem:#}")),
    }
}

/// The file's content; `None` where there is no file.
fn read(file: &Path) -> Result<Option<String>> {
    let opened = match open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", file.display())),
    };
    let failed = || format!("cannot read {}", file.display());
    if !opened.metadata().with_context(failed)?.is_file() {
        bail!("cannot read {}: it is no regular file", file.display());
    }
    let mut bytes = Vec::new();
    opened.take(MAX_BYTES + 1).read_to_end(&mut bytes).with_context(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{} has more than {MAX_BYTES} bytes", file.display());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(problem) => bail!(
            "{} is no UTF-8 text: byte {} begins no character; JSON in UTF-8 is accepted",
            file.display(),
            problem.utf8_error().valid_up_to() + 1
        ),
    }
}

/// Opens without waiting for the other end of what turns out to be a pipe.
fn open(file: &Path) -> std::io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(file)
}

/// Says which part of the path is not there.
fn what_is_missing(file: &Path) -> String {
    let missing = file.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).last();
    match missing {
        Some(part) if part != file => {
            format!("there is no directory {}: is the path right?", part.display())
        }
        // It may be a link to nowhere, or have come meanwhile.
        Some(_) | None => format!("there is no file {}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_missing_is_said_exactly() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let said = |file: &Path| match look(file) {
            Seen::Missing(said) | Seen::Unusable(said) => said,
            Seen::Text(text) => panic!("it has read {text}"),
        };
        assert_eq!(said(&path("x.json")), format!("there is no file {}", path("x.json").display()));
        let expected = format!("there is no directory {}: is the path right?", path("a").display());
        assert_eq!(said(&path("a/b/x.json")), expected);
        assert!(said(directory.path()).ends_with("it is no regular file"));
        fs::write(path("latin"), b"{\"vms\": [\"\xe9\"]}").expect("written");
        assert!(said(&path("latin")).contains("no UTF-8 text: byte 11"), "{}", said(&path("latin")));
        fs::write(path("latin/x"), "").expect_err("no directory");
        assert!(said(&path("latin/x")).starts_with("cannot open"), "{}", said(&path("latin/x")));
    }

    #[test]
    fn a_pipe_in_the_place_of_the_file_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("vms.json");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("made");
        assert!(matches!(look(&pipe), Seen::Unusable(problem) if problem.contains("no regular file")));
    }
}
