//! What becomes of a volume when its VM starts. Pure.
//!
//! | policy | first start | later starts | the image's content changed |
//! |---|---|---|---|
//! | `from_image` | seeded | kept | seeded anew, the old content stays; or an old content of that image comes back |
//! | `persistent` | seeded, or blank | kept | kept |
//! | `ephemeral` | seeded, or blank | seeded, or blank | seeded |
//!
//! Another policy applies to the content in use as if it had been made under it, with one exception: an `ephemeral` disk that
//! becomes `persistent` again goes back to the content that it had as a `persistent` one, while that is kept.

use std::collections::BTreeMap;

use thiserror::Error;
use vm_model::{Bytes, VolumePolicy};

use super::record::{Content, VolumeRecord};

/// What a definition wants of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeWish {
    /// When its content is given up.
    pub(crate) policy: VolumePolicy,
    /// The digest of its image's content; absent for a disk given by size.
    pub(crate) image: Option<String>,
    /// How large it is at least: the image's size, or what was asked for if that is more.
    pub(crate) size: Bytes,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The disk goes on with its content.
    Keep {
        /// The size it is to have, if it is to grow.
        grow: Option<Bytes>,
    },
    /// The disk goes back to an earlier content.
    Restore {
        /// That content.
        number: u64,
        /// The size it is to have, if it is to grow.
        grow: Option<Bytes>,
    },
    /// The disk gets a new content.
    Seed {
        /// Its number.
        number: u64,
    },
}

/// Why a disk is not given to its VM: its content is not as it was left.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum VolumeProblem {
    #[error("it is missing: put it back where it was")]
    Missing,
    #[error("its file has {found} bytes and was left with {recorded}: put the whole file back")]
    Resized { recorded: u64, found: u64 },
}

/// Decides for the volume `record`, whose files have the sizes `found` by number, what a start by `wish` does.
///
/// # Errors
/// The content that the disk is to go on with is not as it was left.
pub(crate) fn decide(
    record: Option<&VolumeRecord>,
    found: &BTreeMap<u64, u64>,
    wish: &VolumeWish,
) -> Result<Decision, VolumeProblem> {
    let Some(record) = record else { return Ok(Decision::Seed { number: 0 }) };
    // A file that the record does not speak of is left alone, and what its name says is never taken for another.
    let free = found.keys().next_back().map_or(0, |last| last.saturating_add(1));
    let seed = Decision::Seed { number: record.next.max(free) };
    let Some(number) = record.current else { return Ok(seed) };
    let current = record.current().ok_or(VolumeProblem::Missing)?;
    // A start that came to no end has emptied it, to make room for the one that was to follow.
    let is_emptied = current.policy == VolumePolicy::Ephemeral && found.get(&number) == Some(&0);
    let is_kept = match wish.policy {
        VolumePolicy::Persistent => {
            if current.policy == VolumePolicy::Ephemeral
                && let Some(back) = last_persistent(record, found, wish)?
            {
                return Ok(back);
            }
            !is_emptied
        }
        VolumePolicy::FromImage => !is_emptied && is_of(current, wish.image.as_deref()),
        VolumePolicy::Ephemeral => false,
    };
    if is_kept {
        let found = check(current, found.get(&number).copied())?;
        return Ok(Decision::Keep { grow: growth(current, found, wish) });
    }
    let earlier = match wish.policy {
        VolumePolicy::Ephemeral | VolumePolicy::Persistent => None,
        VolumePolicy::FromImage => newest_of_image(record, found, wish),
    };
    Ok(earlier.unwrap_or(seed))
}

/// Going back to the content that `record` keeps longest of those that were `persistent`: the one in use last. Nothing where
/// there is none.
///
/// # Errors
/// That content is not as it was left. Neither an older nor a new one takes its place: it may still be put back.
fn last_persistent(
    record: &VolumeRecord,
    found: &BTreeMap<u64, u64>,
    wish: &VolumeWish,
) -> Result<Option<Decision>, VolumeProblem> {
    let kept = record
        .contents
        .iter()
        .filter(|(_, content)| content.holds_data() && content.policy == VolumePolicy::Persistent);
    // One without an end was replaced by a start that has not been put in order yet.
    let last = kept.max_by_key(|(number, content)| (content.until.is_none(), content.until, **number));
    let Some((number, content)) = last else { return Ok(None) };
    let found = check(content, found.get(number).copied())?;
    Ok(Some(Decision::Restore { number: *number, grow: growth(content, found, wish) }))
}

/// Going back to the newest content of `record` that was seeded from the image of `wish` and is whole; nothing where there
/// is none.
fn newest_of_image(record: &VolumeRecord, found: &BTreeMap<u64, u64>, wish: &VolumeWish) -> Option<Decision> {
    record.contents.iter().rev().find_map(|(number, content)| {
        let found = check(content, found.get(number).copied()).ok()?;
        is_of(content, wish.image.as_deref())
            .then(|| Decision::Restore { number: *number, grow: growth(content, found, wish) })
    })
}

/// Whether `content` was seeded from an image with this digest.
fn is_of(content: &Content, digest: Option<&str>) -> bool {
    content.image.as_ref().map(|image| image.digest.as_str()) == digest
}

/// Holds `content` against what was `found` of its file; answers the file's size.
///
/// # Errors
/// It is not as it was left.
pub(super) fn check(content: &Content, found: Option<u64>) -> Result<Bytes, VolumeProblem> {
    let recorded = content.size.get();
    match found {
        None => Err(VolumeProblem::Missing),
        Some(found) if found == recorded || content.growing_from == Some(Bytes::new(found)) => {
            Ok(Bytes::new(found))
        }
        Some(found) => Err(VolumeProblem::Resized { recorded, found }),
    }
}

/// The size that `content`, whose file has the size `found`, is to be given. Where it was being given another one and that
/// was cut short, it may as well keep the one that it has.
fn growth(content: &Content, found: Bytes, wish: &VolumeWish) -> Option<Bytes> {
    (wish.size > content.size || content.growing_from.is_some()).then_some(wish.size.max(found))
}

#[cfg(test)]
mod tests {
    use vm_model::Timestamp;

    use super::super::content::{ImageContent, SeenFile};
    use super::*;

    fn content(image: Option<&str>, size: u64) -> Content {
        let seen_in = SeenFile::of(&std::fs::File::open("/proc/self/exe").expect("there")).expect("told");
        let image = image.map(|digest| ImageContent { digest: digest.into(), seen_in });
        let created = Timestamp::from_millis(0);
        Content {
            size: Bytes::new(size),
            growing_from: None,
            created,
            image,
            used: true,
            policy: VolumePolicy::FromImage,
            until: None,
        }
    }

    fn volume(policy: VolumePolicy, contents: &[(u64, Content)], current: u64) -> VolumeRecord {
        let next = contents.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        VolumeRecord {
            policy,
            next,
            current: Some(current),
            contents: contents.iter().cloned().collect(),
            unused: None,
            trial: None,
        }
    }

    fn wish(policy: VolumePolicy, image: Option<&str>, size: u64) -> VolumeWish {
        VolumeWish { policy, image: image.map(str::to_owned), size: Bytes::new(size) }
    }

    const KEEP: Decision = Decision::Keep { grow: None };

    #[test]
    fn an_image_of_the_same_content_keeps_the_volume_and_another_one_seeds_it() {
        let record = volume(VolumePolicy::FromImage, &[(0, content(Some("a"), 512))], 0);
        let found = [(0, 512)].into();
        let decided = |wish: &VolumeWish| decide(Some(&record), &found, wish).expect("whole");
        assert_eq!(decided(&wish(VolumePolicy::FromImage, Some("a"), 512)), KEEP);
        assert_eq!(decided(&wish(VolumePolicy::FromImage, Some("b"), 512)), Decision::Seed { number: 1 });
        assert_eq!(decided(&wish(VolumePolicy::Persistent, Some("b"), 512)), KEEP);
        assert_eq!(decided(&wish(VolumePolicy::Ephemeral, Some("a"), 512)), Decision::Seed { number: 1 });
    }

    #[test]
    fn going_back_to_an_image_brings_back_what_was_written_under_it() {
        let contents = [(0, content(Some("a"), 512)), (1, content(Some("b"), 512))];
        let record = volume(VolumePolicy::FromImage, &contents, 1);
        let back = wish(VolumePolicy::FromImage, Some("a"), 512);
        let both = [(0, 512), (1, 512)].into();
        assert_eq!(decide(Some(&record), &both, &back), Ok(Decision::Restore { number: 0, grow: None }));
        let damaged = [(0, 0), (1, 512)].into();
        assert_eq!(decide(Some(&record), &damaged, &back), Ok(Decision::Seed { number: 2 }));
    }

    #[test]
    fn what_an_unfinished_start_has_emptied_is_no_content_to_go_on_with() {
        use VolumePolicy::{Ephemeral, FromImage, Persistent};
        let emptied = || Content { policy: Ephemeral, ..content(Some("a"), 512) };
        let alone = volume(Ephemeral, &[(0, emptied())], 0);
        for policy in [Ephemeral, FromImage, Persistent] {
            let decided = decide(Some(&alone), &[(0, 0)].into(), &wish(policy, Some("a"), 512));
            assert_eq!(decided, Ok(Decision::Seed { number: 1 }), "{policy:?}");
        }
        for policy in [FromImage, Persistent] {
            let before = Content { policy, ..content(Some("a"), 512) };
            let record = volume(Ephemeral, &[(0, before), (1, emptied())], 1);
            let found = [(0, 512), (1, 0)].into();
            let decided = decide(Some(&record), &found, &wish(policy, Some("a"), 512));
            assert_eq!(decided, Ok(Decision::Restore { number: 0, grow: None }), "{policy:?}");
        }
    }

    #[test]
    fn a_content_that_is_not_as_it_was_left_is_never_remade_in_silence() {
        for policy in [VolumePolicy::FromImage, VolumePolicy::Persistent] {
            let record = volume(policy, &[(0, content(Some("a"), 1024))], 0);
            let wish = wish(policy, Some("a"), 1024);
            let decided = |found: BTreeMap<u64, u64>| decide(Some(&record), &found, &wish);
            assert_eq!(decided(BTreeMap::new()), Err(VolumeProblem::Missing));
            let resized = |found| Err(VolumeProblem::Resized { recorded: 1024, found });
            assert_eq!(decided([(0, 512)].into()), resized(512));
            assert_eq!(decided([(0, 2048)].into()), resized(2048));
        }
    }

    #[test]
    fn volumes_grow_and_never_shrink() {
        let record = volume(VolumePolicy::Persistent, &[(0, content(None, 1024))], 0);
        let sized =
            |size| decide(Some(&record), &[(0, 1024)].into(), &wish(VolumePolicy::Persistent, None, size));
        assert_eq!(sized(4096), Ok(Decision::Keep { grow: Some(Bytes::new(4096)) }));
        assert_eq!(sized(512), Ok(KEEP));
        let cut_short = Content { growing_from: Some(Bytes::new(512)), ..content(None, 1024) };
        let record = volume(VolumePolicy::Persistent, &[(0, cut_short)], 0);
        let gone = VolumeRecord { current: Some(7), ..record.clone() };
        let decided = decide(Some(&gone), &[(0, 512)].into(), &wish(VolumePolicy::Persistent, None, 512));
        assert_eq!(
            decided,
            Err(VolumeProblem::Missing),
            "a content that is no longer known is no reason for another"
        );
        let smaller = decide(Some(&record), &[(0, 512)].into(), &wish(VolumePolicy::Persistent, None, 512));
        assert_eq!(smaller, Ok(Decision::Keep { grow: Some(Bytes::new(512)) }), "it need not grow after all");
        for found in [512, 1024] {
            let decided =
                decide(Some(&record), &[(0, found)].into(), &wish(VolumePolicy::Persistent, None, 1024));
            assert_eq!(decided, Ok(Decision::Keep { grow: Some(Bytes::new(1024)) }));
        }
    }

    /// `content` of `size` bytes that was in use under `policy`, and is kept until `until` if another one took its place.
    fn kept(policy: VolumePolicy, size: u64, until: Option<u64>) -> Content {
        Content { policy, until: until.map(Timestamp::from_millis), ..content(None, size) }
    }

    #[test]
    fn a_disk_that_becomes_persistent_again_goes_back_to_what_it_had() {
        use VolumePolicy::{Ephemeral, FromImage, Persistent};
        let decided = |contents: &[(u64, Content)], current: u64, size: u64| {
            let found = contents.iter().map(|(number, content)| (*number, content.size.get())).collect();
            let record = volume(contents[contents.len() - 1].1.policy, contents, current);
            decide(Some(&record), &found, &wish(Persistent, None, size)).expect("whole")
        };
        let back = |number| Decision::Restore { number, grow: None };
        let (old, fresh) = (kept(Persistent, 1024, Some(9)), kept(Ephemeral, 512, None));
        let there_and_back = [(0, old.clone()), (1, fresh.clone())];
        assert_eq!(decided(&there_and_back, 1, 1024), back(0));
        assert_eq!(decided(&there_and_back, 1, 512), back(0), "it does not shrink");
        let grown = Decision::Restore { number: 0, grow: Some(Bytes::new(2048)) };
        assert_eq!(decided(&there_and_back, 1, 2048), grown);
        assert_eq!(decided(&[(0, fresh.clone())], 0, 512), KEEP, "there is none to go back to");
        let from_image = [(0, kept(FromImage, 512, Some(9))), (1, fresh.clone())];
        assert_eq!(decided(&from_image, 1, 512), KEEP, "its image decides of that one");
        let other_image = [(0, old.clone()), (1, kept(FromImage, 512, None))];
        assert_eq!(
            decided(&other_image, 1, 512),
            KEEP,
            "what a guest wrote under another policy is data too"
        );
        // The one that was in use last, whichever was made first.
        let earlier = kept(Persistent, 1024, Some(5));
        let two = [(0, old.clone()), (1, earlier.clone()), (2, fresh.clone())];
        assert_eq!(decided(&two, 2, 512), back(0));
        let unsettled = [(0, kept(Persistent, 512, None)), (1, old), (2, earlier), (3, fresh)];
        assert_eq!(decided(&unsettled, 3, 512), back(0));
    }

    #[test]
    fn a_kept_persistent_content_that_is_not_as_it_was_left_is_not_passed_over() {
        let contents = [
            (0, kept(VolumePolicy::Persistent, 512, Some(5))),
            (1, kept(VolumePolicy::Persistent, 512, Some(9))),
            (2, kept(VolumePolicy::Ephemeral, 512, None)),
        ];
        let record = volume(VolumePolicy::Ephemeral, &contents, 2);
        let again = wish(VolumePolicy::Persistent, None, 512);
        let decided = |found: BTreeMap<u64, u64>| decide(Some(&record), &found, &again);
        assert_eq!(decided([(0, 512), (2, 512)].into()), Err(VolumeProblem::Missing));
        let resized = VolumeProblem::Resized { recorded: 512, found: 7 };
        assert_eq!(decided([(0, 512), (1, 7), (2, 512)].into()), Err(resized));
        // What the ephemeral disk is on does not matter.
        assert_eq!(decided([(0, 512), (1, 512)].into()), Ok(Decision::Restore { number: 1, grow: None }));
    }
}
