//! Which kept things are to be deleted. Pure.

use std::fmt;
use std::time::Duration;

use vm_model::{Timestamp, VmId, VolumeInfo, VolumeKeep};

use crate::volumes::ContentRef;

/// Something that is kept until a moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kept {
    /// A VM that was removed, with all its volumes.
    Vm(VmId),
    /// A content of a volume that is not in use.
    Content(ContentRef),
}

/// What became, by word, of what was kept, or would become of it: each in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// What was deleted.
    pub deleted: Vec<String>,
    /// What cannot be used and was moved out of the way: the next start makes it anew.
    pub set_aside: Vec<String>,
}

impl Cleared {
    pub(crate) fn deleted(deleted: Vec<String>) -> Self {
        Self { deleted, set_aside: Vec::new() }
    }

    pub(crate) fn set_aside(what: String) -> Self {
        Self { deleted: Vec::new(), set_aside: vec![what] }
    }
}

impl Kept {
    /// Whose it is.
    pub(super) fn vm(&self) -> &VmId {
        match self {
            Self::Vm(id) => id,
            Self::Content(content) => &content.vm,
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm(id) => write!(formatter, "volumes of {id}, which was removed"),
            Self::Content(ContentRef { vm, disk, number }) => {
                write!(formatter, "volume {vm}/{disk}, content {number}")
            }
        }
    }
}

/// Everything that is kept until a moment, the first to go first.
pub(crate) fn kept_until(
    removed: impl IntoIterator<Item = (VmId, Timestamp)>,
    volumes: &[VolumeInfo],
) -> Vec<(Timestamp, Kept)> {
    let vms = removed.into_iter().map(|(id, until)| (until, Kept::Vm(id)));
    let contents = volumes.iter().filter_map(|volume| {
        let until = match volume.keep {
            VolumeKeep::Replaced { until } | VolumeKeep::Unused { until } => until?,
            // Those of a removed VM go together.
            VolumeKeep::Removed { .. } | VolumeKeep::InUse | VolumeKeep::Unknown => return None,
        };
        let VolumeInfo { vm, disk, number, .. } = volume.clone();
        Some((until, Kept::Content(ContentRef { vm, disk, number })))
    });
    let mut kept: Vec<_> = vms.chain(contents).collect();
    kept.sort();
    kept
}

/// What of `kept`, in order, is to be deleted at `now`, and how long it takes until the next one is.
pub(crate) fn what_is_due(kept: Vec<(Timestamp, Kept)>, now: Timestamp) -> (Vec<Kept>, Option<Duration>) {
    let (due, later): (Vec<_>, Vec<_>) = kept.into_iter().partition(|(until, _)| *until <= now);
    let next = later.first().map(|(until, _)| until.since(now));
    (due.into_iter().map(|(_, kept)| kept).collect(), next)
}

#[cfg(test)]
mod tests {
    use vm_model::{Bytes, VolumePolicy};

    use super::*;

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp::from_millis(milliseconds)
    }

    fn volume(number: u64, keep: VolumeKeep) -> VolumeInfo {
        VolumeInfo {
            vm: VmId::new("web-1"),
            disk: "disk0".into(),
            number,
            policy: Some(VolumePolicy::FromImage),
            size: Bytes::new(512),
            allocated: Bytes::new(0),
            created: at(0),
            keep,
            problem: None,
        }
    }

    #[test]
    fn what_is_kept_goes_in_the_order_of_its_time() {
        let volumes = [
            volume(0, VolumeKeep::Replaced { until: Some(at(30)) }),
            volume(1, VolumeKeep::Replaced { until: None }),
            volume(2, VolumeKeep::Unused { until: Some(at(10)) }),
            volume(3, VolumeKeep::Unused { until: None }),
            volume(4, VolumeKeep::Removed { until: at(0) }),
            volume(5, VolumeKeep::InUse),
            volume(6, VolumeKeep::Unknown),
        ];
        let kept = kept_until([(VmId::new("old"), at(20))], &volumes);
        let (due, next) = what_is_due(kept, at(20));
        let due: Vec<String> = due.iter().map(ToString::to_string).collect();
        assert_eq!(due, ["volume web-1/disk0, content 2", "volumes of old, which was removed"]);
        assert_eq!(next, Some(Duration::from_millis(10)));
    }
}
