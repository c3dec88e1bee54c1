//! `procurator.disks`: what becomes of what a guest writes, how large a disk is at least, and disks that are described
//! by their size alone.

use vm_model::{Bytes, DiskAccess, DiskFormat, DiskOptions, DiskSpec, OnIoError, VolumePolicy, shown_text};

use super::devices::DEFAULT_DISK_QUEUE;
use super::extract::{NicRequest, WantedFile};
use super::keys::PAGE_SIZE;
use super::machine::contradiction;
use super::nearest::nearest;
use super::refusal::Refusal;
use super::section::Section;

/// What is said of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    /// Which one.
    pub id: String,
    /// When what the guest wrote to it is given up.
    pub policy: VolumePolicy,
    /// The least size of its volume; a multiple of 512.
    pub size: Option<Bytes>,
}

/// Reads the entries, which are about `disks`. A disk given by its size is appended to those.
pub(super) fn read_disk_settings(
    entries: &[Section],
    disks: &mut Vec<DiskSpec<WantedFile>>,
    nics: &[NicRequest],
) -> Result<Vec<DiskSettings>, Box<Refusal>> {
    let mut settings: Vec<DiskSettings> = Vec::new();
    for entry in entries {
        let id = id_of(entry, &settings)?;
        let size = entry.integer("size").map(Bytes::new);
        let on_io_error = match entry.text("on_io_error") {
            Some("report") => OnIoError::Report,
            Some(_) | None => OnIoError::Pause,
        };
        let policy = match (disks.iter_mut().find(|disk| disk.id == id), size) {
            (Some(disk), size) => {
                if disk.access == DiskAccess::ReadOnly && size.is_some() {
                    return Err(refuse_size(
                        entry,
                        "a disk that is readonly has its image's size",
                        "leaving it out",
                    ));
                }
                disk.options.on_io_error = on_io_error;
                policy(entry).unwrap_or(VolumePolicy::FromImage)
            }
            (None, Some(size)) => {
                let policy = check_blank(entry, &id, size, nics)?;
                let options = DiskOptions { on_io_error, ..DiskOptions::default() };
                disks.push(blank_disk(id.clone(), options));
                policy
            }
            (None, None) => return Err(unknown_disk(entry, &id, disks)),
        };
        settings.push(DiskSettings { id, policy, size });
    }
    Ok(settings)
}

fn policy(entry: &Section) -> Option<VolumePolicy> {
    entry.text("persistence").map(|name| match name {
        "persistent" => VolumePolicy::Persistent,
        "ephemeral" => VolumePolicy::Ephemeral,
        _ => VolumePolicy::FromImage,
    })
}

fn blank_disk(id: String, options: DiskOptions) -> DiskSpec<WantedFile> {
    DiskSpec {
        direct_file: None,
        id,
        file: WantedFile::Blank,
        format: DiskFormat::Raw,
        access: DiskAccess::ReadWrite,
        serial: None,
        queue_size: DEFAULT_DISK_QUEUE,
        options,
    }
}

/// The id that an entry speaks of, no earlier entry's.
fn id_of(entry: &Section, earlier: &[DiskSettings]) -> Result<String, Box<Refusal>> {
    let refuse = |value: String, rule: &str, accepted: &str| {
        contradiction(entry.path_of("id"), value, rule.to_owned(), accepted.to_owned())
    };
    let Some(id) = entry.text("id") else {
        return Err(refuse("missing".to_owned(), "every entry speaks of one disk", "the id of a disk"));
    };
    if earlier.iter().any(|known| known.id == id) {
        return Err(refuse(
            shown_text(id),
            "an earlier entry speaks of this disk",
            "one entry for each disk",
        ));
    }
    Ok(id.to_owned())
}

fn unknown_disk(entry: &Section, id: &str, disks: &[DiskSpec<WantedFile>]) -> Box<Refusal> {
    let accepted = match nearest(id, disks.iter().map(|disk| disk.id.as_str())) {
        Some(near) => {
            format!(
                "the id of a disk (the nearest is {}), or a size that makes it a further disk",
                shown_text(near)
            )
        }
        None => "a size that makes it a disk, as the machine has none".to_owned(),
    };
    contradiction(entry.path_of("id"), shown_text(id), "no disk has this id".to_owned(), accepted)
}

/// Checks a disk that is given by its size; when what is written to it is given up.
fn check_blank(
    entry: &Section,
    id: &str,
    size: Bytes,
    nics: &[NicRequest],
) -> Result<VolumePolicy, Box<Refusal>> {
    if let Some(index) = nics.iter().position(|nic| nic.id == id) {
        return Err(contradiction(
            entry.path_of("id"),
            shown_text(id),
            format!("$.net[{index}].id is the same"),
            "an id that no other device has".to_owned(),
        ));
    }
    if !size.get().is_multiple_of(PAGE_SIZE) {
        let accepted = format!("a multiple of {PAGE_SIZE}");
        return Err(refuse_size(entry, "the disk has no image and is made of this size", &accepted));
    }
    match policy(entry) {
        Some(VolumePolicy::FromImage) => Err(contradiction(
            entry.path_of("persistence"),
            format!("{:?}", VolumePolicy::FromImage.name()),
            format!("none of disks has the id {}, so that this is a disk without an image", shown_text(id)),
            format!("{:?} or {:?}", VolumePolicy::Persistent.name(), VolumePolicy::Ephemeral.name()),
        )),
        Some(policy @ (VolumePolicy::Persistent | VolumePolicy::Ephemeral)) => Ok(policy),
        None => Ok(VolumePolicy::Persistent),
    }
}

fn refuse_size(entry: &Section, rule: &str, accepted: &str) -> Box<Refusal> {
    let size: u64 = entry.integer("size").unwrap_or(0);
    contradiction(entry.path_of("size"), size, rule.to_owned(), accepted.to_owned())
}
