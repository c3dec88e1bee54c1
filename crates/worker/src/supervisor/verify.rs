//! Whether an artifact that is loaded is what it was assigned as: what is remembered of its store paths, and what has to be
//! hashed. Blocks as long as hashing takes, unless it is given up.

use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use nix_artifacts::{Artifact, FileIdentities, Piece};
use tracing::warn;
use vm_model::{Assignment, FailureKind, FailureReason, NarHash, Verifying};

use super::context::HostContext;
use super::given_up::GivenUp;
use super::stage::{legacy_file, volume_requests};
use super::stage_work::{LongWork, StageWork};
use crate::failure::{chain, reason};
use crate::verification::Request;
use crate::vms::HashVerification;
use crate::volumes::{Seeded, Seeding, StageRequest};

/// What is remembered of a path with more files is about those alone that a machine uses.
const MANY_FILES: usize = 64;

/// An artifact that is what it was assigned as.
#[derive(Debug, Default)]
pub(super) struct VerifiedArtifact {
    /// Store paths that it needs and for which no hash was assigned.
    pub(super) unverified: Vec<PathBuf>,
    /// Contents of volumes that were made while their images were hashed.
    pub(super) seeded: Vec<Seeded>,
}

/// Makes sure that what `artifact` has open is what it was assigned as, and so are the other store paths of it for which a
/// hash was assigned. Disks that need a copy of their image get it of the same read.
pub(super) fn verify(
    context: &HostContext,
    assignment: &Assignment,
    artifact: &Artifact,
    work: &StageWork,
) -> Result<VerifiedArtifact, FailureReason> {
    let mut verifier = Verifier { context, assignment, artifact, work, seeds: true, seedings: Vec::new() };
    let unverified = verifier.all()?;
    work.show(None);
    let seeded = verifier.seedings.into_iter().filter_map(Seeding::finish).collect();
    Ok(VerifiedArtifact { unverified, seeded })
}

/// Makes sure that what `artifact` has open is what it was assigned as, where nothing is to be made of what is read. Blocks; what is not
/// as it is remembered is hashed.
pub(crate) fn check_content(
    context: &HostContext,
    assignment: &Assignment,
    artifact: &Artifact,
    given_up: &GivenUp,
) -> Result<(), FailureReason> {
    let (work, _news) = StageWork::new(given_up.clone());
    let mut verifier =
        Verifier { context, assignment, artifact, work: &work, seeds: false, seedings: Vec::new() };
    verifier.all().map(drop)
}

/// Why an artifact cannot be used that could not be loaded: where its content is not what was assigned, that is the reason,
/// else `problem` is.
pub(super) fn unloadable(
    context: &HostContext,
    assignment: &Assignment,
    problem: FailureReason,
    work: &StageWork,
) -> FailureReason {
    let is_wrong = problem.kind == FailureKind::Artifact && !problem.can_retry_help();
    let expected = match (context.lifecycle.hash_verification, parse_hash(&assignment.hash)) {
        (_, Err(problem)) => return problem,
        (HashVerification::Never, Ok(_)) => return problem,
        (HashVerification::Once | HashVerification::Always, Ok(_)) if !is_wrong => return problem,
        (HashVerification::Once | HashVerification::Always, Ok(expected)) => expected,
    };
    let met = FileIdentities::default();
    let request = Request { path: &assignment.store_path, expected, met: &met, feeds: Vec::new() };
    match context.verifications.verify(request, work.given_up(), &|_| {}) {
        Err(mismatch) if mismatch.kind == FailureKind::HashMismatch => mismatch,
        Ok(_) | Err(_) => problem,
    }
}

fn parse_hash(text: &str) -> Result<NarHash, FailureReason> {
    text.parse::<NarHash>().map_err(|problem| reason(FailureKind::HashMismatch, &problem))
}

struct Verifier<'a> {
    context: &'a HostContext,
    assignment: &'a Assignment,
    artifact: &'a Artifact,
    work: &'a StageWork,
    /// Whether disks that need a copy of their image get it.
    seeds: bool,
    seedings: Vec<Seeding>,
}

impl Verifier<'_> {
    /// Makes sure that every store path is what was assigned; answers those for which nothing was assigned.
    fn all(&mut self) -> Result<Vec<PathBuf>, FailureReason> {
        let Self { context, assignment, artifact, .. } = *self;
        // A hash that is none can never match, whatever is verified when.
        let expected = parse_hash(&assignment.hash)?;
        let mut unverified = match context.lifecycle.hash_verification {
            HashVerification::Never => vec![assignment.store_path.clone()],
            HashVerification::Once | HashVerification::Always => Vec::new(),
        };
        self.path(&assignment.store_path, expected)?;
        for path in &artifact.references {
            match (context.lifecycle.hash_verification, assignment.references.get(path)) {
                (HashVerification::Never, _) | (_, None) => unverified.push(path.clone()),
                (HashVerification::Once | HashVerification::Always, Some(text)) => {
                    self.path(path, parse_hash(text)?)?;
                }
            }
        }
        Ok(unverified)
    }

    /// Makes sure that `path` has the hash `expected`, by what is remembered or by hashing, as is configured.
    fn path(&mut self, path: &Path, expected: NarHash) -> Result<(), FailureReason> {
        let none = FileIdentities::default();
        let met = self.artifact.trail.in_path(path).unwrap_or(&none);
        // In one form, in whichever it was assigned.
        let text = expected.to_string();
        let is_remembered = match self.context.lifecycle.hash_verification {
            HashVerification::Never => return Ok(()),
            HashVerification::Once => true,
            HashVerification::Always => false,
        };
        if is_remembered && self.context.verified.knows(path, &text, met) {
            return Ok(());
        }
        let feeds = if self.seeds { self.feeds(path) } else { Vec::new() };
        let request = Request { path, expected, met, feeds };
        let verifying = |hashed| LongWork::Verifying(Verifying { store_path: path.to_owned(), hashed });
        let show = |hashed| self.work.show(Some(verifying(hashed)));
        let files = self.context.verifications.verify(request, self.work.given_up(), &show)?;
        if !is_remembered {
            return Ok(());
        }
        let files = if files.len() <= MANY_FILES { files } else { met.clone() };
        if let Err(problem) = self.context.verified.remember(path, &text, files) {
            let problem = chain(&problem);
            warn!(path = %path.display(), error = problem, "the verdict was not kept; the path is hashed again");
        }
        Ok(())
    }

    /// The images in `store_path` that volumes are to be made of, and where their pieces go.
    fn feeds(&mut self, store_path: &Path) -> Vec<(PathBuf, SyncSender<Piece>)> {
        let mut feeds: Vec<(PathBuf, SyncSender<Piece>)> = Vec::new();
        for (image, request) in volume_requests(self.artifact) {
            let image = image.and_then(|image| image.path().strip_prefix(store_path).ok());
            // Two disks of one image: the second is copied.
            let Some(image) = image.filter(|image| feeds.iter().all(|(fed, _)| fed != image)) else {
                continue;
            };
            let vm = &self.assignment.id;
            let legacy = legacy_file(self.context, vm, self.artifact, request.disk);
            let request = StageRequest { legacy: legacy.as_deref(), ..request };
            if let Some((seeding, pieces)) = self.context.volumes.begin_seeding(vm, &request) {
                self.seedings.push(seeding);
                feeds.push((image.to_owned(), pieces));
            }
        }
        feeds
    }
}
