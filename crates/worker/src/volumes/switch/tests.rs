//! Growing, cut short at any step and in any order: the next start always accepts what it finds.

use proptest::prelude::*;

use super::super::decide::{VolumeWish, decide};
use super::*;

/// Where a switch that grows the disk ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The worker is killed, or nothing can be recorded any more: before anything is on record, once the growth is on record,
    /// once the file has grown.
    Cut { is_recorded: bool, has_grown: bool },
    /// It fails, and is taken back: before or after the file has grown.
    TakenBack { has_grown: bool },
    /// It succeeds, and its machine starts or does not.
    Done { is_undone: bool },
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::Cut { is_recorded: false, has_grown: false }),
        any::<bool>().prop_map(|has_grown| End::Cut { is_recorded: true, has_grown }),
        any::<bool>().prop_map(|has_grown| End::TakenBack { has_grown }),
        any::<bool>().prop_map(|is_undone| End::Done { is_undone }),
    ]
}

fn volume(size: u64) -> VolumeRecord {
    let content = Content {
        size: Bytes::new(size),
        growing_from: None,
        created: Timestamp::from_millis(0),
        image: None,
        used: true,
        policy: VolumePolicy::Persistent,
        until: None,
    };
    let contents = [(0, content)].into();
    VolumeRecord { next: 1, current: Some(0), contents, ..VolumeRecord::new(VolumePolicy::Persistent) }
}

fn keep(grow: Option<Bytes>) -> Staged {
    Staged {
        disk: "data".into(),
        policy: VolumePolicy::Persistent,
        decision: Decision::Keep { grow },
        image: None,
        file: None,
        legacy: None,
        purpose: Purpose::Lasting,
    }
}

proptest! {
    #[test]
    fn a_volume_whose_growing_was_cut_short_is_accepted(
        starts in prop::collection::vec((1_u64..6, end()), 1..12)
    ) {
        let (mut record, mut file) = (volume(512), 512);
        for (size, end) in starts {
            let wish =
                VolumeWish { policy: VolumePolicy::Persistent, image: None, size: Bytes::new(size * 512) };
            let found = [(0, file)].into();
            let decided = decide(Some(&record), &found, &wish);
            let Ok(Decision::Keep { grow }) = decided else {
                return Err(TestCaseError::fail(format!("{record:?} of {file} bytes: {decided:?}")));
            };
            let switch = switch(Some(&record), &found, &keep(grow)).expect("it is as it was");
            let grown = grow.map_or(file, Bytes::get);
            prop_assert!(grown >= file, "volumes never shrink");
            let before = record.clone();
            let (is_recorded, has_grown) = match end {
                End::Cut { is_recorded, has_grown } => (is_recorded, has_grown),
                End::TakenBack { has_grown } => (true, has_grown),
                End::Done { .. } => (true, true),
            };
            if is_recorded {
                record = switch.record;
            }
            if has_grown {
                file = grown;
            }
            match end {
                End::Cut { .. } => {}
                End::TakenBack { .. } => record = restored(&before, &record, None),
                End::Done { is_undone } => {
                    record = grown_up(&record, 0);
                    prop_assert_eq!(record.contents[&0].size.get(), file);
                    if is_undone {
                        record = restored(&before, &record, None);
                    }
                }
            }
        }
    }
}
