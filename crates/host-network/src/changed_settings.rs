//! Kernel settings of links, and others' bridges, that are changed for the VMs' sake and given back.
//!
//! What a setting was is written down before it is changed, so that a worker that is killed and started again still
//! knows what to give back. The note is of one boot and one network namespace: of another, it says nothing. A setting
//! that somebody else has changed meanwhile is theirs, and stays as they set it.

mod adopted_bridge;
mod given_uplink;
mod note;
mod switch;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use thiserror::Error;
use tracing::warn;

pub(crate) use self::adopted_bridge::AdoptedBridge;
pub(crate) use self::given_uplink::GivenUplink;
use self::note::Noted;
pub(crate) use self::switch::{ALL_LINKS, Switch};

/// Why a setting could not be changed.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The kernel's file could not be read or written.
    #[error("cannot {operation} {}", path.display())]
    Switch {
        /// What was tried.
        operation: String,
        /// The kernel's file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        cause: io::Error,
    },
    /// What is about to be changed could not be written down, so it was not changed.
    #[error("cannot note in {} what is changed on the host", path.display())]
    Note {
        /// The note.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// One setting of one link, as it was and as we set it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    link: u32,
    name: String,
    switch: Switch,
    before: String,
    set: String,
}

/// Every setting that is changed at present, what was done to others' bridges, and what is an uplink.
#[derive(Debug, Default)]
pub(crate) struct ChangedSettings {
    /// Where they are written down; `None` where they are only remembered.
    note: Option<PathBuf>,
    noted: Noted,
}

impl ChangedSettings {
    /// What an earlier run in this boot and network namespace left changed, noted at `note`. A note that cannot be
    /// read is kept aside with a warning. Blocks.
    pub(crate) fn open(note: Option<PathBuf>) -> Self {
        let noted = note.as_deref().map(note::read).unwrap_or_default();
        Self { note, noted }
    }

    /// Notes what is about to be done to another's bridge, beside what an earlier run did to it. Nothing for `None` and
    /// for one that is left as it is. Blocks.
    ///
    /// # Errors
    /// If it cannot be noted.
    pub(crate) fn note_bridge(&mut self, adopted: Option<AdoptedBridge>) -> Result<(), SettingsError> {
        let Some(adopted) = adopted else {
            return Ok(());
        };
        let before = self.noted.clone();
        let bridges = &mut self.noted.bridges;
        match bridges.iter_mut().find(|known| known.index == adopted.index) {
            Some(known) => known.add(adopted),
            None if adopted.is_untouched() => {}
            None => bridges.push(adopted),
        }
        if self.noted == before { Ok(()) } else { self.write() }
    }

    /// What bridges were given: what others' get back, and of ours which addresses are.
    pub(crate) fn bridges(&self) -> &[AdoptedBridge] {
        &self.noted.bridges
    }

    /// Forgets that the bridge with this index was given `address`. Blocks.
    pub(crate) fn forget_address(&mut self, index: u32, address: IpNetwork) {
        for bridge in self.noted.bridges.iter_mut().filter(|bridge| bridge.index == index) {
            bridge.addresses.retain(|given| *given != address);
        }
        self.write_if_possible();
    }

    /// Forgets the bridge with this index, which is as it was before. Blocks.
    pub(crate) fn forget_bridge(&mut self, index: u32) {
        self.noted.bridges.retain(|bridge| bridge.index != index);
        self.write_if_possible();
    }

    /// Notes what an interface of the host is like that is about to be made an uplink. What was noted of it before is what it
    /// was before us. Blocks.
    ///
    /// # Errors
    /// If it cannot be noted.
    pub(crate) fn note_uplink(&mut self, uplink: Option<GivenUplink>) -> Result<(), SettingsError> {
        let Some(uplink) = uplink else { return Ok(()) };
        let is_known = |known: &GivenUplink| known.index == uplink.index && known.name == uplink.name;
        if self.noted.uplinks.iter().any(is_known) {
            return Ok(());
        }
        // An interface of this name that is gone needs nothing back.
        self.noted.uplinks.retain(|known| known.name != uplink.name);
        self.noted.uplinks.push(uplink);
        self.write()
    }

    /// The interfaces that were made uplinks.
    pub(crate) fn uplinks(&self) -> &[GivenUplink] {
        &self.noted.uplinks
    }

    /// Forgets the uplink with this index, which is as it was before. Blocks.
    pub(crate) fn forget_uplink(&mut self, index: u32) {
        self.noted.uplinks.retain(|uplink| uplink.index != index);
        self.write_if_possible();
    }

    /// Gives `switch` of a link the value `wanted`; true where it had another. Where the kernel has no such switch
    /// there is nothing to set. Blocks.
    ///
    /// # Errors
    /// If the change cannot be noted or made.
    pub(crate) fn set(
        &mut self,
        link: u32,
        name: &str,
        switch: Switch,
        wanted: &str,
    ) -> Result<bool, SettingsError> {
        let path = switch.path(name);
        let before = match read_switch(&path) {
            Ok(before) => before,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(cause) => {
                return Err(SettingsError::Switch { operation: "read".to_owned(), path, cause });
            }
        };
        if before == wanted {
            return Ok(false);
        }
        let known =
            self.noted.changes.iter_mut().find(|change| change.link == link && change.switch == switch);
        match known {
            // Somebody changed it back: what it was before us, we know.
            Some(change) => wanted.clone_into(&mut change.set),
            None => {
                let set = wanted.to_owned();
                self.noted.changes.push(Change { link, name: name.to_owned(), switch, before, set });
            }
        }
        self.write()?;
        write_switch(&path, wanted)?;
        Ok(true)
    }

    /// Notes that an earlier run gave `switch` of a link the value `set`, and what it was before. Blocks.
    ///
    /// # Errors
    /// If it cannot be noted.
    pub(crate) fn recall(
        &mut self,
        link: u32,
        name: &str,
        switch: Switch,
        before: &str,
        set: &str,
    ) -> Result<(), SettingsError> {
        let (name, before, set) = (name.to_owned(), before.to_owned(), set.to_owned());
        self.noted.changes.push(Change { link, name, switch, before, set });
        self.write()
    }

    /// Whether `switch` of the link is as it is because of us.
    pub(crate) fn is_ours(&self, link: u32, switch: Switch) -> bool {
        self.noted.changes.iter().any(|change| change.link == link && change.switch == switch)
    }

    /// Gives back each change that `which` chooses by link and switch: those nobody else has changed since. What
    /// cannot be given back is logged. Blocks.
    pub(crate) fn give_back(&mut self, which: impl Fn(u32, Switch) -> bool) {
        // What was changed last depends on what was changed before.
        for change in self.take(which).into_iter().rev() {
            if let Err(error) = change.undo() {
                warn!(link = change.name, %error, "a setting of a link is not as it was before");
            }
        }
    }

    /// Forgets changes that are no longer ours to give back. Blocks.
    pub(crate) fn forget(&mut self, which: impl Fn(u32, Switch) -> bool) {
        self.take(which);
    }

    fn take(&mut self, which: impl Fn(u32, Switch) -> bool) -> Vec<Change> {
        let chosen = |change: &mut Change| which(change.link, change.switch);
        let taken: Vec<Change> = self.noted.changes.extract_if(.., chosen).collect();
        if !taken.is_empty() {
            self.write_if_possible();
        }
        taken
    }

    fn write_if_possible(&self) {
        if let Err(error) = self.write() {
            warn!(%error, "the note of changed settings is out of date");
        }
    }

    fn write(&self) -> Result<(), SettingsError> {
        let Some(path) = &self.note else {
            return Ok(());
        };
        note::write(path, &self.noted).map_err(|cause| SettingsError::Note { path: path.clone(), cause })
    }
}

impl Change {
    /// Sets what was before, if this link is still there and nobody else has changed it.
    fn undo(&self) -> Result<(), SettingsError> {
        let path = self.switch.path(&self.name);
        let is_as_set = read_switch(&path).is_ok_and(|now| now == self.set);
        let is_there =
            (self.link, self.name.as_str()) == ALL_LINKS || link_index(&self.name) == Some(self.link);
        if is_as_set && is_there {
            write_switch(&path, &self.before)?;
        }
        Ok(())
    }
}

/// The value of `switch` of the link `name`; `None` where the kernel has none.
pub(crate) fn look_at(switch: Switch, name: &str) -> Option<String> {
    read_switch(&switch.path(name)).ok()
}

/// Sets `switch` of the link `name` for good. No error where the kernel has none.
pub(crate) fn write_switch_of(switch: Switch, name: &str, wanted: &str) -> Result<(), SettingsError> {
    let path = switch.path(name);
    if path.exists() { write_switch(&path, wanted) } else { Ok(()) }
}

fn read_switch(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

fn write_switch(path: &Path, wanted: &str) -> Result<(), SettingsError> {
    fs::write(path, wanted).map_err(|cause| SettingsError::Switch {
        operation: format!("write {wanted} to"),
        path: path.to_owned(),
        cause,
    })
}

/// The index of the link `name` in this thread's network namespace.
fn link_index(name: &str) -> Option<u32> {
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).ok()?;
    rustix::net::netdevice::name_to_index(&socket, name).ok()
}
