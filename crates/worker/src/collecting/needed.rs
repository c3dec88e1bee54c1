//! Which paths of a store are needed, beside those of VMs on record: what links among the roots of garbage collection lead to,
//! and what processes have open.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vm_model::StoreName;

use crate::gc_roots::root_directories;

/// Where a store lies, whatever the name that leads there: by a link or a mount it is the same store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StorePlace {
    spelled: PathBuf,
    real: PathBuf,
    identity: Identity,
}

/// The device and the inode of a directory.
pub(super) type Identity = (u64, u64);

fn identity(directory: &Path) -> io::Result<Identity> {
    fs::metadata(directory).map(|found| (found.dev(), found.ino()))
}

impl StorePlace {
    /// The place of the store that is configured as `root`.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn of(root: &Path) -> io::Result<Self> {
        Ok(Self { spelled: root.to_owned(), real: root.canonicalize()?, identity: identity(root)? })
    }

    /// What tells it from other stores.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    fn is(&self, directory: &Path) -> bool {
        directory == self.spelled
            || directory == self.real
            || identity(directory).is_ok_and(|found| found == self.identity)
    }

    /// The name of the path of this store that `path` is or lies in.
    pub(super) fn name_of(&self, path: &Path) -> Option<StoreName> {
        path.ancestors().find_map(|ancestor| {
            let name = ancestor.file_name()?.to_str()?.parse().ok()?;
            self.is(ancestor.parent()?).then_some(name)
        })
    }
}

/// What links among the roots of `store` lead to, those of other workers and of other programs included.
pub(super) fn rooted(store: &StorePlace) -> io::Result<BTreeSet<StoreName>> {
    let mut names = BTreeSet::new();
    let mut pending = root_directories(&store.spelled);
    if store.real != store.spelled {
        pending.extend(root_directories(&store.real));
    }
    while let Some(directory) = pending.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_symlink() {
                names.extend(led_to(store, &entry.path()));
            }
        }
    }
    Ok(names)
}

/// Where a link leads, directly or by another one outside the store, as `nix-build` makes them.
fn led_to(store: &StorePlace, link: &Path) -> Option<StoreName> {
    let absolute = |link: &Path| -> Option<PathBuf> {
        let target = fs::read_link(link).ok()?;
        Some(link.parent()?.join(target))
    };
    let first = absolute(link)?;
    store.name_of(&first).or_else(|| store.name_of(&absolute(&first)?))
}

/// What processes have open, mapped, or run, as far as this one may look.
pub(super) fn of_processes(store: &StorePlace, proc: &Path) -> BTreeSet<StoreName> {
    let mut names = BTreeSet::new();
    // The kernel tells of files without links on the way to them, but by the mount by which they were opened.
    let name_of = |path: &Path| -> Option<StoreName> {
        match path.strip_prefix(&store.real) {
            Ok(inside) => inside.components().next()?.as_os_str().to_str()?.parse().ok(),
            Err(_) => store.name_of(path),
        }
    };
    let is_number = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().parse::<u32>().is_ok();
    // A process that ends meanwhile needs nothing any more.
    for process in fs::read_dir(proc).into_iter().flatten().flatten().filter(is_number) {
        let process = process.path();
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let links = ["exe", "cwd", "root"].map(|link| process.join(link)).into_iter();
        let links = links.chain(open.map(|entry| entry.path()));
        names.extend(links.filter_map(|link| name_of(&fs::read_link(link).ok()?)));
        let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
        let mapped = maps.lines().filter_map(|line| Some(Path::new(&line[line.find('/')?..])));
        names.extend(mapped.filter_map(name_of));
    }
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const NAMES: [&str; 3] = [
        "3n58xw4373jp0ljirf06d8077j15pc4j-image",
        "4n58xw4373jp0ljirf06d8077j15pc4j-kernel",
        "5n58xw4373jp0ljirf06d8077j15pc4j-other",
    ];

    fn names(of: &[&str]) -> BTreeSet<StoreName> {
        of.iter().map(|name| name.parse().expect("a name")).collect()
    }

    #[test]
    fn roots_are_followed_by_one_more_link_and_no_further() {
        let home = tempfile::tempdir().expect("a directory");
        let root = home.path().join("nix/store");
        fs::create_dir_all(&root).expect("made");
        let store = StorePlace::of(&root).expect("it is there");
        assert_eq!(rooted(&store).expect("there are none"), BTreeSet::new());
        let roots = home.path().join("nix/var/nix/gcroots");
        let ours = root.join(".procurator-fetched/roots/state/vm");
        for directory in [&roots.join("auto"), &ours, &home.path().join("work")] {
            fs::create_dir_all(directory).expect("made");
        }
        symlink(root.join(NAMES[0]).join("kernel"), ours.join("image")).expect("linked");
        symlink(root.join(NAMES[1]), home.path().join("work/result")).expect("linked");
        symlink(home.path().join("work/result"), roots.join("auto/x")).expect("linked");
        symlink("/nowhere", roots.join("dangling")).expect("linked");
        assert_eq!(rooted(&store).expect("read"), names(&NAMES[..2]));
    }

    #[test]
    fn a_store_is_the_same_by_whichever_name() {
        let home = tempfile::tempdir().expect("a directory");
        let (real, link) = (home.path().join("real/store"), home.path().join("link"));
        fs::create_dir_all(real.join(NAMES[0])).expect("made");
        symlink(home.path().join("real"), &link).expect("linked");
        let by_link = link.join("store");
        for store in [&real, &by_link].map(|root| StorePlace::of(root).expect("it is there")) {
            for path in [real.join(NAMES[0]), by_link.join(NAMES[0]).join("disk.img"), real.join(NAMES[1])] {
                assert!(store.name_of(&path).is_some(), "{path:?} of {store:?}");
            }
            assert_eq!(store.name_of(&home.path().join(NAMES[0])), None);
            let open = fs::File::open(by_link.join(NAMES[0])).expect("opened");
            assert_eq!(of_processes(&store, Path::new("/proc")), names(&NAMES[..1]));
            drop(open);
        }
    }

    #[test]
    fn a_store_is_the_same_by_another_mount() {
        test_host::isolated(|| {
            let home = tempfile::tempdir().expect("a directory");
            let (root, other) = (home.path().join("store"), home.path().join("other"));
            fs::create_dir_all(root.join(NAMES[0])).and_then(|()| fs::create_dir(&other)).expect("made");
            let bound = rustix::mount::mount_bind(&root, &other);
            bound.expect("mounted");
            let stores = [&root, &other].map(|root| StorePlace::of(root).expect("it is there"));
            assert_eq!(stores[0].identity(), stores[1].identity());
            let open = fs::File::open(other.join(NAMES[0])).expect("opened");
            for store in &stores {
                assert_eq!(store.name_of(&other.join(NAMES[0])), store.name_of(&root.join(NAMES[0])));
                assert!(store.name_of(&root.join(NAMES[0])).is_some());
                assert_eq!(of_processes(store, Path::new("/proc")), names(&NAMES[..1]));
            }
            drop(open);
            rustix::mount::unmount(&other, rustix::mount::UnmountFlags::empty()).expect("unmounted");
        });
    }

    #[test]
    fn what_a_process_has_open_is_needed_and_what_it_closed_is_not() {
        let home = tempfile::tempdir().expect("a directory");
        let root = home.path().canonicalize().expect("there").join("store");
        for name in NAMES {
            fs::create_dir_all(root.join(name)).expect("made");
            fs::write(root.join(name).join("disk.img"), "content").expect("written");
        }
        let store = StorePlace::of(&root).expect("it is there");
        let open = fs::File::open(root.join(NAMES[2]).join("disk.img")).expect("opened");
        assert_eq!(of_processes(&store, Path::new("/proc")), names(&NAMES[2..]));
        drop(open);
        assert_eq!(of_processes(&store, Path::new("/proc")), BTreeSet::new());
    }
}
