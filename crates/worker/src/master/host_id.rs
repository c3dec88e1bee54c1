//! What tells this host from others to its master: a random text, drawn once and kept beside what the worker keeps. Two
//! hosts with the certificate of one worker are found by it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use thiserror::Error;
use tokio::task::spawn_blocking;
use uuid::Uuid;
use vm_model::error_chain;

const FILE: &str = "host-id";
/// More than an id with white space around it has.
const FILE_MOST_BYTES: u64 = 128;

/// Why this host has no id that it can keep.
#[derive(Debug, Error)]
enum HostIdError {
    /// Something else has the file's name.
    #[error(
        "{} is {found}, and a regular file of at most {FILE_MOST_BYTES} bytes is expected: move it away, and another id is \
         drawn at the next start",
        path.display()
    )]
    NoIdFile { path: PathBuf, found: &'static str },
    /// The host refuses.
    #[error("cannot {operation} {}", path.display())]
    Host {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Nobody has said how it ended.
    #[error("the step that should read {FILE} ended without an answer")]
    Lost(#[source] tokio::task::JoinError),
}

/// This host's, drawn and kept in `state_dir` if there is none yet. `None` where it cannot be kept, which the log says: a host
/// with another one at each start would be several to its master.
pub(super) async fn of(state_dir: &Path) -> Option<String> {
    let directory = state_dir.to_owned();
    let found = spawn_blocking(move || load_or_draw(&directory)).await;
    match found.unwrap_or_else(|lost| Err(HostIdError::Lost(lost))) {
        Ok(id) => Some(id),
        Err(problem) => {
            let error = error_chain(&problem);
            tracing::error!(
                error,
                "the master is not told which host this is, and cannot tell it from another one"
            );
            None
        }
    }
}

fn load_or_draw(directory: &Path) -> Result<String, HostIdError> {
    let path = directory.join(FILE);
    match read(&path)? {
        Some(text) if Uuid::try_parse(text.trim()).is_ok() => Ok(text.trim().to_owned()),
        // What is no id was cut off by a crash.
        Some(_) | None => draw(directory, &path),
    }
}

/// What stands in the file; `None` where there is none. Waits for nobody, whatever has the file's name.
fn read(path: &Path) -> Result<Option<String>, HostIdError> {
    let foreign = |found| HostIdError::NoIdFile { path: path.to_owned(), found };
    let failed = |source| HostIdError::Host { operation: "read", path: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return Err(foreign("a symbolic link")),
        Err(rustix::io::Errno::NXIO) => return Err(foreign("a socket or a device")),
        Err(error) => return Err(failed(error.into())),
    };
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(foreign("a directory"));
    }
    if !metadata.is_file() {
        return Err(foreign("a pipe or a device"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MOST_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > usize::try_from(FILE_MOST_BYTES).unwrap_or(usize::MAX) {
        return Err(foreign("longer than that"));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn draw(directory: &Path, path: &Path) -> Result<String, HostIdError> {
    let id = Uuid::new_v4().to_string();
    let temporary = directory.join(format!("{FILE}.new"));
    if fs::symlink_metadata(&temporary).is_ok_and(|found| found.is_dir()) {
        return Err(HostIdError::NoIdFile { path: temporary, found: "a directory" });
    }
    let failed = |source| HostIdError::Host { operation: "keep a new id in", path: path.to_owned(), source };
    keep(directory, &temporary, path, &id).map_err(failed)?;
    Ok(id)
}

/// Puts `id` into `temporary` and then in the place of `path`, both in `directory`.
fn keep(directory: &Path, temporary: &Path, path: &Path, id: &str) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::create_new(temporary)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_host_draws_its_id_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let id = load_or_draw(directory.path()).expect("drawn");
        assert_eq!(load_or_draw(directory.path()).expect("read"), id);
        fs::write(directory.path().join(FILE), "").expect("written");
        let other = load_or_draw(directory.path()).expect("drawn");
        assert_ne!(other, id);
        assert_eq!(load_or_draw(directory.path()).expect("read"), other);
        assert!(load_or_draw(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn what_is_in_the_way_of_a_new_id_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let in_the_way = directory.path().join("host-id.new");
        fs::create_dir(&in_the_way).expect("created");
        let said = load_or_draw(directory.path()).expect_err("refused").to_string();
        assert!(said.starts_with(&format!("{} is a directory", in_the_way.display())), "{said}");
        fs::remove_dir(&in_the_way).expect("moved away");
        load_or_draw(directory.path()).expect("drawn");
    }

    #[test]
    fn what_is_no_regular_file_is_named_and_waited_for_by_nobody() {
        let refusal = |make: fn(&Path)| {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join(FILE);
            make(&path);
            let said = load_or_draw(directory.path()).expect_err("refused").to_string();
            assert!(said.starts_with(&path.display().to_string()), "{said}");
            said
        };
        let pipe = |path: &Path| {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        };
        assert!(refusal(pipe).contains(" is a pipe"));
        assert!(refusal(|path| fs::create_dir(path).expect("a directory")).contains(" is a directory"));
        assert!(
            refusal(|path| symlink("/etc/hostname", path).expect("a link")).contains(" is a symbolic link")
        );
        assert!(refusal(|path| fs::write(path, [b'x'; 1000]).expect("a file")).contains(" is longer than"));
        let socket = |path: &Path| drop(std::os::unix::net::UnixListener::bind(path).expect("a socket"));
        assert!(refusal(socket).contains(" is a socket"));
    }
}
