//! Disks, read from their list, and the ids that devices get.

use vm_model::{DiskAccess, DiskCaching, DiskFormat, DiskOptions, DiskSpec, shown_text};

use super::ValueKind;
use super::device_options::disk_options;
use super::extract::{FileRequest, StatedImage, WantedFile};
use super::machine::{Reader, contradiction};
use super::refusal::Refusal;
use super::section::Section;

/// Descriptors a disk queue where none are named.
pub(super) const DEFAULT_DISK_QUEUE: u16 = 128;
/// Bytes of a disk's serial number that a guest can read (virtio 1.2 §5.2.6.1).
const SERIAL_LENGTH: usize = 20;

impl Reader<'_> {
    pub(super) fn disks(&mut self) -> Result<Vec<DiskSpec<WantedFile>>, Box<Refusal>> {
        let entries = self.top.list("disks");
        if entries.is_empty() {
            let conventional = DiskSpec {
                direct_file: None,
                id: "disk0".to_owned(),
                file: WantedFile::InStore(FileRequest::conventional("disk.img", "$.disks")),
                format: DiskFormat::Raw,
                access: DiskAccess::ReadWrite,
                serial: None,
                queue_size: DEFAULT_DISK_QUEUE,
                options: DiskOptions::default(),
            };
            return Ok(self.present.disk_image.then_some(conventional).into_iter().collect());
        }
        let mut names = Names::new("disk", entries);
        entries.iter().enumerate().map(|(index, disk)| self.disk(disk, names.of(index, disk))).collect()
    }

    fn disk(&mut self, disk: &Section, id: String) -> Result<DiskSpec<WantedFile>, Box<Refusal>> {
        let Some(path) = disk.text("path") else {
            return Err(contradiction(
                disk.path_of("path"),
                "missing",
                "every disk has an image".to_owned(),
                ValueKind::FilePath.to_string(),
            ));
        };
        let mut file = FileRequest::named(path, disk.path_of("path"));
        file.stated = match disk.text("image_type") {
            Some("Raw" | "raw") => StatedImage::Raw,
            Some("Qcow2" | "qcow2") => StatedImage::Qcow2,
            Some(_) | None => StatedImage::Unstated,
        };
        let serial = disk.text("serial").filter(|serial| !serial.is_empty());
        if let Some(long) = serial.filter(|serial| serial.len() > SERIAL_LENGTH) {
            let consequence = "the guest reads its first 20 bytes";
            self.warn(disk.path_of("serial"), shown_text(long), consequence);
        }
        let access = match disk.boolean("readonly") {
            Some(true) => DiskAccess::ReadOnly,
            Some(false) | None => DiskAccess::ReadWrite,
        };
        let options = disk_options(disk)?;
        let format = match file.stated {
            StatedImage::Unstated | StatedImage::Raw => DiskFormat::Raw,
            StatedImage::Qcow2 => DiskFormat::Qcow2,
        };
        if format == DiskFormat::Qcow2 {
            check_qcow2(disk, access, &options)?;
        }
        Ok(DiskSpec {
            direct_file: None,
            id,
            file: WantedFile::InStore(file),
            format,
            access,
            serial: serial.map(str::to_owned),
            queue_size: disk.integer("queue_size").unwrap_or(DEFAULT_DISK_QUEUE),
            options,
        })
    }
}

/// Refuses what a qcow2 image cannot be used for.
fn check_qcow2(disk: &Section, access: DiskAccess, options: &DiskOptions) -> Result<(), Box<Refusal>> {
    if access != DiskAccess::ReadOnly {
        let rule = "a qcow2 image can be read only".to_owned();
        return Err(contradiction(disk.path_of("readonly"), "not set", rule, "true".to_owned()));
    }
    if options.caching != DiskCaching::Cached {
        let rule = "a qcow2 image is read through the page cache".to_owned();
        return Err(contradiction(disk.path_of("direct"), "true", rule, "false".to_owned()));
    }
    Ok(())
}

/// Ids for the devices of one kind: the one that an entry names, else the first number that is free.
pub(super) struct Names<'config> {
    kind: &'static str,
    taken: Vec<&'config str>,
    given: Vec<String>,
}

impl<'config> Names<'config> {
    pub(super) fn new(kind: &'static str, entries: &'config [Section]) -> Self {
        Self { kind, taken: entries.iter().filter_map(|entry| entry.text("id")).collect(), given: Vec::new() }
    }

    pub(super) fn of(&mut self, index: usize, entry: &Section) -> String {
        if let Some(id) = entry.text("id") {
            return id.to_owned();
        }
        let mut number = index;
        loop {
            let id = format!("{}{number}", self.kind);
            if !self.taken.contains(&id.as_str()) && !self.given.contains(&id) {
                self.given.push(id.clone());
                return id;
            }
            number += 1;
        }
    }
}
