//! Images that cannot run: each says why, none touches another VM, none leaves anything.

use anyhow::{Context, Result};
use end_to_end::{Assignment, HostState, Worker};

use crate::environment;

/// An image, the kind of failure, and what its message must name.
const REFUSED: [(&str, &str, &[&str]); 5] = [
    ("missing-kernel", "artifact", &["no-such-kernel"]),
    ("damaged-kernel", "artifact", &["kernel", "bzImage"]),
    ("directory-kernel", "artifact", &["vmlinux", "directory"]),
    ("outside-kernel", "artifact", &["vmlinux", "/etc/passwd"]),
    ("unknown-key", "artifact", &["memroy", "memory"]),
];
const WRONG_HASH: &str = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[test]
fn bad_images_fail_alone_with_a_reason() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start(&environment)?;
    let mut assignments =
        vec![Assignment::of(&guest, "good"), Assignment::of(&guest, "wrong-hash").with_hash(WRONG_HASH)];
    for (name, _, _) in REFUSED {
        assignments.push(Assignment::of(&environment.image(name)?, name));
    }
    worker.assign(&assignments)?;

    for (name, kind, words) in REFUSED {
        let vm = worker.wait_for_phase(name, "failed")?;
        let reason = vm.reason.with_context(|| format!("{name} failed without a reason"))?;
        assert_eq!(reason.kind, kind, "{name}: {}", reason.message);
        for word in words {
            assert!(reason.message.contains(word), "{name}: {:?} is not in {:?}", word, reason.message);
        }
    }
    let vm = worker.wait_for_phase("wrong-hash", "failed")?;
    let reason = vm.reason.context("a wrong hash fails with a reason")?;
    assert_eq!(reason.kind, "hash_mismatch", "{}", reason.message);
    assert!(
        reason.message.contains(WRONG_HASH) && reason.message.contains(&guest.hash),
        "{}",
        reason.message
    );

    let good = worker.wait_until_answering("good")?;
    assert_eq!(HostState::taps()?, good.tap.into_iter().collect(), "only the good one has a TAP");
    assert_eq!(good.restarts, 0);
    assert!(worker.terminate()?.status.success());
    Ok(())
}
