//! The directories that the worker uses: there, usable, private enough, with room.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use admin::DirectoriesView;
use rustix::fs::{Access, OFlags, access, ioctl_ficlone, statvfs};

use super::finding::{Finding, Remedy, advice, command};
use crate::settings::Settings;

const STATE: &str = "state directory";
const RUNTIME: &str = "runtime directory";
const STORE: &str = "store root";
/// Less room than this is worth a word: a VM's disk has gigabytes.
const LITTLE_BYTES: u64 = 2 << 30;
/// Fewer files than this, too.
const FEW_FILES: u64 = 1000;
/// Everybody may write (inode(7)).
const WORLD_WRITABLE: u32 = 0o002;

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    state: Place,
    runtime: Place,
    stores: Vec<(PathBuf, Result<(), String>)>,
}

/// A directory that the worker writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    /// What is there, or why it could not be looked at. `None` where there is nothing: the worker makes it.
    seen: Option<Result<Directory, String>>,
    /// The nearest directory above that is there can be written to.
    is_writable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Directory {
    is_directory: bool,
    mode: u32,
    free_bytes: u64,
    /// `None` where the file system does not count files.
    free_files: Option<u64>,
    /// Whether files can share blocks; `None` where it could not be tried.
    shares_blocks: Option<bool>,
}

/// The directories that the worker which runs says it works with, else those of `settings`.
pub(super) fn used(worker: Option<&DirectoriesView>, settings: Option<&Settings>) -> Option<DirectoriesView> {
    let configured = settings.map(|settings| {
        let vms = &settings.manager.vm_artifacts_dir;
        DirectoriesView {
            state: vms.parent().unwrap_or(vms).to_owned(),
            runtime: settings.runtime_dir.clone(),
            store_roots: settings.manager.store_roots.clone(),
        }
    });
    worker.cloned().or(configured)
}

pub(super) fn look(directories: &DirectoriesView) -> Facts {
    Facts {
        state: place(&directories.state),
        runtime: place(&directories.runtime),
        stores: directories
            .store_roots
            .iter()
            .map(|root| (root.clone(), fs::read_dir(root).map(drop).map_err(|error| error.to_string())))
            .collect(),
    }
}

fn place(path: &Path) -> Place {
    let seen = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error.to_string())),
        Ok(metadata) => Some(directory(path, &metadata).map_err(|error| error.to_string())),
    };
    let nearest = path.ancestors().find(|part| part.exists());
    let is_writable = nearest.is_some_and(|part| access(part, Access::WRITE_OK | Access::EXEC_OK).is_ok());
    Place { path: path.to_owned(), seen, is_writable }
}

fn directory(path: &Path, metadata: &fs::Metadata) -> io::Result<Directory> {
    let file_system = statvfs(path)?;
    Ok(Directory {
        is_directory: metadata.is_dir(),
        mode: metadata.mode() & 0o7777,
        free_bytes: file_system.f_bavail.saturating_mul(file_system.f_frsize),
        // btrfs makes inodes as they are needed, and says 0 of 0.
        free_files: (file_system.f_files > 0).then_some(file_system.f_favail),
        shares_blocks: shares_blocks(path),
    })
}

/// Tried with two files without a name, which leave nothing.
fn shares_blocks(path: &Path) -> Option<bool> {
    let nameless = || -> io::Result<File> {
        let flags = i32::try_from(OFlags::TMPFILE.bits()).unwrap_or_default();
        OpenOptions::new().read(true).write(true).custom_flags(flags).mode(0o600).open(path)
    };
    let (source, target) = (nameless().ok()?, nameless().ok()?);
    Some(ioctl_ficlone(&target, &source).is_ok())
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = judge_place(STATE, &facts.state);
    findings.extend(judge_place(RUNTIME, &facts.runtime));
    if let Some(Ok(directory)) = &facts.state.seen {
        findings.extend(room(directory, &facts.state.path));
    }
    if facts.stores.is_empty() {
        let found =
            "there is no /nix/store, and store_roots names no other place: no VM can be created".to_owned();
        let advice = advice(
            "install Nix, or name the directory of your images in store_roots; then restart the worker",
        );
        findings.push(Finding::warn(STORE, found, advice));
    }
    findings.extend(facts.stores.iter().map(|(root, seen)| match seen {
        Ok(()) => Finding::ok(STORE, format!("{} can be read", root.display())),
        Err(why) => {
            let found = format!("{}: {why}: the worker does not start", root.display());
            Finding::fail(STORE, found, advice("install Nix, or name the right directories in store_roots"))
        }
    }));
    findings
}

fn judge_place(check: &'static str, place: &Place) -> Vec<Finding> {
    let path = place.path.display();
    let unwritable = || {
        let found = format!("{path} cannot be written to by the caller");
        Finding::fail(check, found, advice("run the worker as root, or give its user the directory"))
    };
    let make_private = || command(format!("chmod go-w {path}"));
    vec![match &place.seen {
        None if place.is_writable => Finding::ok(check, format!("{path} is made when the worker starts")),
        Some(Err(why)) => {
            Finding::fail(check, format!("{path}: {why}"), advice("see why it cannot be looked at"))
        }
        Some(Ok(directory)) if !directory.is_directory => {
            Finding::fail(check, format!("{path} is no directory"), command(format!("mv {path} {path}.old")))
        }
        None | Some(Ok(_)) if !place.is_writable => unwritable(),
        Some(Ok(directory)) if directory.mode & WORLD_WRITABLE != 0 => {
            let found = format!("{path} has mode {:04o}: everybody may write there", directory.mode);
            Finding::fail(check, found, make_private())
        }
        Some(Ok(directory)) => Finding::ok(check, format!("{path}, mode {:04o}", directory.mode)),
        None => Finding::ok(check, format!("{path} is made when the worker starts")),
    }]
}

/// Whether volumes have room, and how they are copied.
fn room(directory: &Directory, path: &Path) -> Vec<Finding> {
    const CHECK: &str = "disk space";
    const COPIES: &str = "disk copies";
    let gibibytes = directory.free_bytes >> 30;
    let delete_kept = || Remedy::Commands(vec!["procurator-worker gc --all".to_owned()]);
    let space = match directory.free_files {
        _ if directory.free_bytes < LITTLE_BYTES => {
            let mebibytes = directory.free_bytes >> 20;
            Finding::warn(CHECK, format!("{mebibytes} MiB are free at {}", path.display()), delete_kept())
        }
        Some(files) if files < FEW_FILES => {
            Finding::warn(CHECK, format!("{files} more files fit at {}", path.display()), delete_kept())
        }
        Some(_) | None => Finding::ok(CHECK, format!("{gibibytes} GiB are free at {}", path.display())),
    };
    let copies = match directory.shares_blocks {
        Some(true) => Finding::ok(COPIES, "the file system shares blocks (reflink): copies are made at once"),
        Some(false) => {
            Finding::ok(COPIES, "the file system shares no blocks: images are copied (XFS and btrfs share)")
        }
        None => return vec![space],
    };
    vec![space, copies]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn directories_are_looked_at_and_left_as_they_are() {
        let folder = tempfile::tempdir().expect("a directory");
        let seen = place(folder.path());
        let directory = seen.seen.clone().expect("there").expect("looked at");
        assert!(directory.is_directory && directory.shares_blocks.is_some(), "{directory:?}");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
        assert_eq!(judge_place(STATE, &seen)[0].verdict, Verdict::Ok);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("opened");
        assert!(judge_place(STATE, &place(folder.path()))[0].found.contains("mode 0777"));
        assert_eq!(judge_place(STATE, &place(&folder.path().join("a/b")))[0].verdict, Verdict::Ok);
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        assert_eq!(judge_place(STATE, &place(&file))[0].verdict, Verdict::Fail);
    }

    #[test]
    fn the_directories_of_the_worker_that_runs_go_before_those_of_the_configuration() {
        let of = |state: &str| DirectoriesView {
            state: state.into(),
            runtime: "/run/x".into(),
            store_roots: vec!["/store".into()],
        };
        let settings = crate::settings::testing::settings("state_dir = '/configured'\n");
        let used = |worker: Option<&DirectoriesView>| used(worker, Some(&settings)).expect("known").state;
        assert_eq!(used(None), Path::new("/configured"));
        assert_eq!(used(Some(&of("/other"))), Path::new("/other"));
    }

    #[test]
    fn little_room_is_warned_of() {
        let plenty = Directory {
            is_directory: true,
            mode: 0o700,
            free_bytes: 1 << 40,
            free_files: None,
            shares_blocks: Some(true),
        };
        let judged = |directory: Directory| room(&directory, Path::new("/x")).remove(0).verdict;
        assert_eq!(judged(plenty), Verdict::Ok);
        assert_eq!(judged(Directory { free_bytes: 1 << 20, ..plenty }), Verdict::Warn);
        assert_eq!(judged(Directory { free_files: Some(3), ..plenty }), Verdict::Warn);
    }
}
