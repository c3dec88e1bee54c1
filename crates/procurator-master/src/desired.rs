//! What should run where: the files `<worker>.json` of one directory, looked at again and again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use master_protocol::wire::WorkerId;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use vm_model::{AssignmentSet, AssignmentsError};

/// How often the directory is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A file is not longer: with its envelope, what it says has to fit in a frame.
const FILE_MOST_BYTES: u64 = 3 << 20;
/// More files are not looked at.
const FILES_MOST: usize = 4096;

/// Why a file says nothing.
#[derive(Debug, Error)]
pub enum DesiredError {
    /// The host refuses.
    #[error("cannot read {}: {problem}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// It is named for no worker.
    #[error("{} is named for no worker: accepted is a worker's name and .json, like worker-1.json", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// It says nothing that can be used.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, where.
        problem: AssignmentsError,
    },
}

/// What the directory says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// What each worker should run. A worker without a usable file stays as it is.
    pub workers: BTreeMap<WorkerId, AssignmentSet>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// What is wrong with a file, or the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whose it is; absent where it is of all, or of nobody.
    pub worker: Option<WorkerId>,
    /// How much it costs.
    pub extent: Extent,
    /// What it is, with the file.
    pub text: String,
}

/// How much is not used because of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// One VM's entry. The others are.
    Entry,
    /// A file.
    File,
    /// All of them.
    Directory,
}

impl Problem {
    fn concerns(&self, worker: &WorkerId) -> bool {
        match self.extent {
            Extent::Directory => true,
            Extent::Entry | Extent::File => self.worker.as_ref() == Some(worker),
        }
    }
}

impl Desired {
    /// Whether there is no file of `worker`, as far as files can be seen.
    pub fn is_without(&self, worker: &WorkerId) -> bool {
        !self.workers.contains_key(worker) && !self.problems.iter().any(|problem| problem.concerns(worker))
    }

    /// What is wrong with what is said of `worker`.
    pub fn problems_of(&self, worker: &WorkerId) -> Vec<String> {
        if self.is_without(worker) {
            return vec![format!("there is no file {worker}.json; what it was told stays")];
        }
        let problems = self.problems.iter().filter(|problem| problem.concerns(worker));
        problems.map(|problem| problem.text.clone()).collect()
    }
}

/// Reads `directory`. Blocks as long as its disk lets it.
pub fn look(directory: &Path) -> Desired {
    let mut desired = Desired::default();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(problem) => {
            let (path, problem) = (directory.to_owned(), problem.to_string());
            let text = DesiredError::Read { path, problem }.to_string();
            desired.problems.push(Problem { worker: None, extent: Extent::Directory, text });
            return desired;
        }
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = paths.filter(|path| is_candidate(path)).take(FILES_MOST).collect();
    paths.sort();
    for path in paths {
        match read(&path) {
            Ok((worker, set)) => {
                desired.problems.extend(set.refused.iter().map(|entry| Problem {
                    worker: Some(worker.clone()),
                    extent: Extent::Entry,
                    text: format!("{}: VM {}: {}", path.display(), entry.id, entry.problem),
                }));
                desired.workers.insert(worker, set);
            }
            Err(problem) => {
                let (worker, text) = (named(&path), problem.to_string());
                desired.problems.push(Problem { worker, extent: Extent::File, text });
            }
        }
    }
    desired
}

/// The worker that a file is named for.
fn named(path: &Path) -> Option<WorkerId> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// Whether a file is meant: editors leave others beside it.
fn is_candidate(path: &Path) -> bool {
    let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !is_hidden && path.extension().is_some_and(|end| end == "json")
}

fn read(path: &Path) -> Result<(WorkerId, AssignmentSet), DesiredError> {
    let worker = named(path).ok_or_else(|| DesiredError::Name { path: path.to_owned() })?;
    let unreadable = |problem: String| DesiredError::Read { path: path.to_owned(), problem };
    // What is no regular file could keep the reader waiting.
    let metadata = fs::metadata(path).map_err(|problem| unreadable(problem.to_string()))?;
    if !metadata.is_file() || metadata.len() > FILE_MOST_BYTES {
        return Err(unreadable(format!("a regular file of at most {FILE_MOST_BYTES} bytes is accepted")));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(|problem| unreadable(problem.to_string()))?;
    let read = file.take(FILE_MOST_BYTES).read_to_string(&mut text);
    read.map_err(|problem| unreadable(problem.to_string()))?;
    let content = |problem| DesiredError::Content { path: path.to_owned(), problem };
    Ok((worker, AssignmentSet::parse(&text).map_err(content)?))
}

/// Sends what `directory` says, now and whenever that is something else, until nobody receives.
pub async fn watch(directory: PathBuf, changes: mpsc::Sender<Desired>) {
    let mut last = None;
    loop {
        let looked = directory.clone();
        if let Ok(desired) = spawn_blocking(move || look(&looked)).await
            && last.as_ref() != Some(&desired)
        {
            if changes.send(desired.clone()).await.is_err() {
                return;
            }
            last = Some(desired);
        }
        // Both arms are cancel-safe.
        tokio::select! {
            () = sleep(LOOK) => {}
            () = changes.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_a_worker_and_what_is_wrong_with_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("written");
        write("worker-1.json", r#"{"vms": []}"#);
        write("worker-2.json", r#"{"vms": {}}"#);
        write("Worker_3.json", r#"{"vms": []}"#);
        write("worker-4.json", r#"{"vms": [{"id": "a"}]}"#);
        for ignored in [".worker-5.json.swp", ".worker-6.json", "worker-7.json~", "README"] {
            write(ignored, "");
        }
        fs::create_dir(directory.path().join("worker-8.json")).expect("a directory");
        let desired = look(directory.path());
        let names: Vec<&str> = desired.workers.keys().map(WorkerId::as_str).collect();
        assert_eq!(names, ["worker-1", "worker-4"]);
        let said: Vec<&str> = desired.problems.iter().map(|problem| problem.text.as_str()).collect();
        let said = said.join("\n");
        for words in [
            "Worker_3.json is named for no worker",
            "worker-2.json: line 1, column 9, vms: an object",
            "worker-4.json: VM a: line 1",
            "worker-8.json: a regular file",
        ] {
            assert!(said.contains(words), "{words} in: {said}");
        }
        assert_eq!(desired.problems.len(), 4, "{said}");
        let of = |worker: &str| desired.problems_of(&worker.parse().expect("valid")).join("\n");
        assert_eq!(of("worker-1"), "");
        assert!(of("worker-2").contains("vms: an object"));
        assert!(of("worker-4").contains("VM a"), "one entry: the others are used");
        assert_eq!(of("worker-9"), "there is no file worker-9.json; what it was told stays");
        let nowhere = look(Path::new("/nowhere"));
        let said = nowhere.problems_of(&"worker-1".parse().expect("valid"));
        assert!(said.len() == 1 && said[0].starts_with("cannot read /nowhere"), "{said:?}");
    }
}
