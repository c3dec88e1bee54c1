//! What tells this host from others to its master: a random text, drawn once and kept beside what the worker keeps. Two
//! hosts with the certificate of one worker are found by it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tokio::task::spawn_blocking;
use uuid::Uuid;

const FILE: &str = "host-id";

/// This host's, drawn and kept in `state_dir` if there is none yet. `None` where it cannot be kept: a host with another one
/// at each start would be several to its master.
pub(super) async fn of(state_dir: &Path) -> Option<String> {
    let directory = state_dir.to_owned();
    let found = spawn_blocking(move || load_or_draw(&directory)).await;
    match found.unwrap_or_else(|lost| Err(lost.into())) {
        Ok(id) => Some(id),
        Err(problem) => {
            tracing::warn!(%problem, "the master is not told which host this is: its id cannot be kept");
            None
        }
    }
}

fn load_or_draw(directory: &Path) -> io::Result<String> {
    let path = directory.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) if Uuid::try_parse(text.trim()).is_ok() => Ok(text.trim().to_owned()),
        // What is no id was cut off by a crash.
        Ok(_) => draw(directory, &path),
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => draw(directory, &path),
        Err(problem) => Err(problem),
    }
}

fn draw(directory: &Path, path: &Path) -> io::Result<String> {
    let id = Uuid::new_v4().to_string();
    let temporary = directory.join(format!("{FILE}.new"));
    let mut file = File::create(&temporary)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()?;
    Ok(id)
}

#[cfg(test)]
mod tests {
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
}
