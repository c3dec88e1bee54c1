//! Whether an artifact is what it was assigned as: hashes, and what is remembered of them. Blocks as long as the
//! disks let it, unless it is given up.

use std::path::{Path, PathBuf};

use nix_artifacts::{Artifact, PathIdentity, verify_hash};
use tracing::warn;
use vm_model::{Assignment, FailureKind, FailureReason, NarHash};

use super::context::HostContext;
use super::given_up::GivenUp;
use crate::failure::{chain, reason};
use crate::vms::HashVerification;

/// Makes sure that the artifact is what it was assigned as.
pub(super) fn verify(
    context: &HostContext,
    assignment: &Assignment,
    given_up: &GivenUp,
) -> Result<(), FailureReason> {
    // A hash that is none can never match, whatever is verified when.
    let expected = parse_hash(&assignment.hash)?;
    match context.lifecycle.hash_verification {
        HashVerification::Never => Ok(()),
        HashVerification::Once => verify_path(context, &assignment.store_path, &expected, given_up),
        HashVerification::Always => hash(context, &assignment.store_path, &expected, given_up).map(drop),
    }
}

fn verify_path(
    context: &HostContext,
    path: &Path,
    expected: &NarHash,
    given_up: &GivenUp,
) -> Result<(), FailureReason> {
    let identity = context.roots.identify(path).map_err(|problem| FailureReason {
        // It may come back.
        transient: problem.is_missing(),
        ..reason(problem.kind(), &problem)
    })?;
    // In one form, in whichever it was assigned.
    let text = expected.to_string();
    if context.verified.knows(path, &text, &identity) {
        return Ok(());
    }
    let identity = hash(context, path, expected, given_up)?;
    if let Err(problem) = context.verified.remember(path, &text, identity) {
        warn!(path = %path.display(), error = chain(&problem), "the verdict was not kept; the path is hashed again");
    }
    Ok(())
}

fn hash(
    context: &HostContext,
    path: &Path,
    expected: &NarHash,
    given_up: &GivenUp,
) -> Result<PathIdentity, FailureReason> {
    verify_hash(&context.roots, path, expected, &mut |_| given_up.flow())
        .map(|verified| verified.identity)
        .map_err(|problem| FailureReason {
            transient: problem.is_missing(),
            ..reason(problem.kind(), &problem)
        })
}

fn parse_hash(text: &str) -> Result<NarHash, FailureReason> {
    text.parse::<NarHash>().map_err(|problem| reason(FailureKind::HashMismatch, &problem))
}

/// Verifies the other store paths of an artifact for which a hash was assigned, and names the rest.
pub(super) fn unverified_references(
    context: &HostContext,
    assignment: &Assignment,
    artifact: &Artifact,
    given_up: &GivenUp,
) -> Result<Vec<PathBuf>, FailureReason> {
    let mut unverified = match context.lifecycle.hash_verification {
        HashVerification::Never => vec![assignment.store_path.clone()],
        HashVerification::Once | HashVerification::Always => Vec::new(),
    };
    for path in &artifact.references {
        match (context.lifecycle.hash_verification, assignment.references.get(path)) {
            (HashVerification::Never, _) | (_, None) => unverified.push(path.clone()),
            (HashVerification::Once | HashVerification::Always, Some(text)) => {
                let expected = parse_hash(text)?;
                verify_path(context, path, &expected, given_up)?;
            }
        }
    }
    Ok(unverified)
}
