//! The secret that lets a client in: a line of a file that only its owner reads.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ring::error::Unspecified;
use ring::hmac::{HMAC_SHA256, Key, Tag, sign, verify};
use ring::rand::SystemRandom;
use thiserror::Error;

/// A token has at least so many characters: one that people think up is guessed.
const LEAST: usize = 32;
/// A file with a token is not longer.
const FILE_MOST_BYTES: u64 = 4096;
/// Others than the owner and the group may read or write (inode(7)).
const OF_OTHERS: u32 = 0o006;

/// Knows the token and does not hold it.
#[derive(Clone, Debug)]
pub struct Token {
    key: Key,
    tag: Tag,
}

/// Why there is no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Everybody on the host may read or change the file.
    #[error("{} has mode {mode:04o}: everybody on this host can use it; chmod 0600 is accepted", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file does not hold one.
    #[error(
        "{} holds no token: one line of {LEAST} or more printable characters without spaces is accepted; `openssl rand -hex 32` makes one",
        path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// The host has no random numbers.
    #[error("the host has no random numbers")]
    Random,
}

impl Token {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
        if mode & OF_OTHERS != 0 {
            return Err(TokenError::Mode { path: path.to_owned(), mode });
        }
        let mut bytes = Vec::new();
        file.take(FILE_MOST_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
        let token = bytes.trim_ascii();
        if token.len() < LEAST || !token.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Content { path: path.to_owned() });
        }
        Self::of(token).map_err(|Unspecified| TokenError::Random)
    }

    fn of(token: &[u8]) -> Result<Self, Unspecified> {
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new())?;
        let tag = sign(&key, token);
        Ok(Self { key, tag })
    }

    /// Whether `shown` is the token. Takes the same time however much of it is right.
    pub fn is(&self, shown: &str) -> bool {
        verify(&self.key, shown.as_bytes(), self.tag.as_ref()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(text: &str, mode: u32) -> Result<Token, TokenError> {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("token");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        Token::read(&path)
    }

    #[test]
    fn the_token_is_the_line_of_its_file() {
        let text = "0123456789abcdef0123456789abcdef";
        for file in [text.to_owned(), format!("{text}\n"), format!("  {text}\r\n\n")] {
            let token = read(&file, 0o640).expect("a token");
            assert!(token.is(text));
            for wrong in ["", "0", &text[1..], &format!("{text}0"), &text.to_uppercase()] {
                assert!(!token.is(wrong), "{wrong}");
            }
        }
    }

    #[test]
    fn a_file_that_is_no_secret_is_refused_with_what_mends_it() {
        let text = "0123456789abcdef0123456789abcdef";
        for (file, mode, words) in [
            (text, 0o644, "mode 0644: everybody"),
            (text, 0o602, "mode 0602"),
            ("", 0o600, "openssl rand -hex 32"),
            ("hunter2", 0o600, "32 or more"),
            ("0123456789abcdef 0123456789abcdef", 0o600, "without spaces"),
            ("0123456789abcdef\n0123456789abcdef", 0o600, "one line"),
        ] {
            let problem = read(file, mode).expect_err(words).to_string();
            assert!(problem.contains(words), "{problem}");
        }
        let missing = Token::read(Path::new("/nonexistent/token")).expect_err("it is missing");
        assert!(missing.to_string().contains("/nonexistent/token"), "{missing}");
    }
}
