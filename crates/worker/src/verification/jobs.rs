//! Finding the job that verifies a path, or beginning one.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix_artifacts::{Feed, FileIdentities, LoadedPath, Piece, StoreRoots, verify_loaded};
use thiserror::Error;
use vm_model::{Bytes, FailureKind, FailureReason, NarHash};

use super::job::{Job, Outcome};
use super::lanes::{Lanes, Slot};
use crate::failure::reason;
use crate::supervisor::GivenUp;

/// The least number of paths of one file system that are hashed at the same time.
const NARROWEST_LANE: usize = 2;

/// What a VM waits for.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// The store path.
    pub(crate) path: &'a Path,
    /// What it was assigned as.
    pub(crate) expected: NarHash,
    /// What the VM's files in it were when they were opened, and still have to be.
    pub(crate) met: &'a FileIdentities,
    /// Files that are copied meanwhile, where this request is the one that the path is hashed for.
    pub(crate) feeds: Vec<(PathBuf, std::sync::mpsc::SyncSender<Piece>)>,
}

/// All hashings of this worker.
pub(crate) struct Verifications {
    roots: Arc<StoreRoots>,
    lanes: Arc<Lanes>,
    /// Those that can be joined. Held for moments.
    jobs: Arc<Mutex<Jobs>>,
}

type Jobs = BTreeMap<(PathBuf, NarHash), Arc<Job>>;

impl fmt::Debug for Verifications {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Verifications").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

/// No thread was to be had.
#[derive(Debug, Error)]
#[error("no thread can be had to hash {}", path.display())]
struct NoThread {
    path: PathBuf,
    source: io::Error,
}

/// The start does not wait for the verdict any more.
#[derive(Debug, Error)]
#[error("verifying {} was given up", path.display())]
struct GaveUp {
    path: PathBuf,
}

impl Verifications {
    /// Hashes paths below `roots`.
    pub(crate) fn new(roots: Arc<StoreRoots>) -> Self {
        let width = thread::available_parallelism().map_or(NARROWEST_LANE, NonZeroUsize::get);
        let width = NonZeroUsize::new(width.max(NARROWEST_LANE)).unwrap_or(NonZeroUsize::MIN);
        Self { roots, lanes: Lanes::new(width), jobs: Arc::default() }
    }

    /// Makes sure that the path has the hash and that what the VM has open is what was hashed. Answers what the path's files
    /// were. `show` is told now and then how many bytes have been hashed. Blocks until the verdict, or until `given_up`.
    pub(crate) fn verify(
        &self,
        mut request: Request<'_>,
        given_up: &GivenUp,
        show: &dyn Fn(Bytes),
    ) -> Result<FileIdentities, FailureReason> {
        let gave_up = || reason(FailureKind::Host, &GaveUp { path: request.path.to_owned() });
        let key = (request.path.to_owned(), request.expected);
        loop {
            let (job, is_own) = self.find_or_make(&key);
            let waiter = job.join();
            if is_own {
                let feeds = std::mem::take(&mut request.feeds);
                if let Err(problem) = self.begin(&job, &key, &request, feeds, given_up) {
                    self.retire(&key, &job, Outcome::Abandoned);
                    return Err(problem.unwrap_or_else(gave_up));
                }
            }
            let outcome = waiter.wait(given_up, show);
            drop(waiter);
            match outcome {
                Some(Outcome::Right(files)) if files.cover(request.met) => return Ok(files),
                Some(Outcome::Wrong(problem)) if is_own || !problem.can_retry_help() => return Err(problem),
                Some(Outcome::Abandoned) if is_own => {
                    return Err(crate::failure::plain(
                        FailureKind::Machine,
                        format!("the thread that hashed {} was lost", request.path.display()),
                    ));
                }
                // It was about other files than those that this VM has open, or the one who began it left.
                Some(Outcome::Right(_) | Outcome::Wrong(_) | Outcome::Abandoned) => {}
                None => {
                    if job.waiting() == 0 {
                        // It may be stuck: nobody is to join it.
                        self.retire(&key, &job, Outcome::Abandoned);
                    }
                    return Err(gave_up());
                }
            }
        }
    }

    /// The job of `key` that others may have begun, or a new one that is the caller's to begin.
    fn find_or_make(&self, key: &(PathBuf, NarHash)) -> (Arc<Job>, bool) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        match jobs.get(key) {
            Some(job) => (Arc::clone(job), false),
            None => {
                let job = Arc::new(Job::default());
                jobs.insert(key.clone(), Arc::clone(&job));
                (job, true)
            }
        }
    }

    /// How many hashings can be joined now.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many requests wait for those.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.values().map(|job| job.waiting()).sum()
    }

    fn retire(&self, key: &(PathBuf, NarHash), job: &Arc<Job>, outcome: Outcome) {
        retire(&self.jobs, key, job, outcome);
    }

    /// Begins `job` on a thread of its own, as soon as its file system has a slot free; an error without a reason is one
    /// that was given up before.
    fn begin(
        &self,
        job: &Arc<Job>,
        key: &(PathBuf, NarHash),
        request: &Request<'_>,
        feeds: Vec<(PathBuf, std::sync::mpsc::SyncSender<Piece>)>,
        given_up: &GivenUp,
    ) -> Result<(), Option<FailureReason>> {
        let file_system = request.met.get(Path::new("")).map_or((0, 0), |identity| identity.device);
        let slot = self.lanes.take(file_system, given_up).ok_or(None)?;
        let feeds = feeds.into_iter().map(|(path, pieces)| {
            let job = Arc::clone(job);
            Feed { path, pieces, is_urgent: Box::new(move || job.waiting() > 1) }
        });
        let work = Work {
            roots: Arc::clone(&self.roots),
            jobs: Arc::clone(&self.jobs),
            job: Arc::clone(job),
            key: key.clone(),
            met: request.met.clone(),
            feeds: feeds.collect(),
            _slot: slot,
        };
        let spawned = thread::Builder::new().name(thread_name(request.path)).spawn(move || work.carry_out());
        spawned.map(drop).map_err(|source| {
            Some(reason(FailureKind::Host, &NoThread { path: request.path.to_owned(), source }))
        })
    }
}

/// What a hashing thread has.
struct Work {
    roots: Arc<StoreRoots>,
    jobs: Arc<Mutex<Jobs>>,
    job: Arc<Job>,
    key: (PathBuf, NarHash),
    met: FileIdentities,
    feeds: Vec<Feed>,
    _slot: Slot,
}

impl Work {
    fn carry_out(mut self) {
        let (path, expected) = &self.key;
        let feeds = std::mem::take(&mut self.feeds);
        let loaded = LoadedPath { store_path: path, met: &self.met, feeds };
        let mut progress = |hashed| {
            self.job.went_on(hashed);
            if self.job.waiting() == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let outcome = match verify_loaded(&self.roots, loaded, expected, &mut progress) {
            Ok(verified) => Outcome::Right(verified.files),
            Err(problem) => Outcome::Wrong(FailureReason {
                // It may come back.
                transient: problem.is_missing(),
                ..reason(problem.kind(), &problem)
            }),
        };
        retire(&self.jobs, &self.key, &self.job, outcome);
    }
}

impl Drop for Work {
    /// Also where the thread is lost: nobody waits for ever.
    fn drop(&mut self) {
        retire(&self.jobs, &self.key, &self.job, Outcome::Abandoned);
    }
}

/// Ends `job`, which nobody can join any more.
fn retire(jobs: &Mutex<Jobs>, key: &(PathBuf, NarHash), job: &Arc<Job>, outcome: Outcome) {
    let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
    if jobs.get(key).is_some_and(|found| Arc::ptr_eq(found, job)) {
        jobs.remove(key);
    }
    drop(jobs);
    job.end(outcome);
}

/// Says whose thread it is in the 15 bytes that there are.
fn thread_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("verify-{short}")
}
