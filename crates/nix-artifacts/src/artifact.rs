//! Loading: read the description, open what it names, judge what was opened.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;
use uuid::Uuid;
use vm_model::{FileRole, MachineSpec, Overrides};

use crate::config::{
    ConfigError, ConfigWarning, Conventional, FileOrigin, FileRequest, MAX_CONFIG_SIZE, NicRequest,
    OverrideError, ProcuratorSettings, VsockRequest, WantedFile, apply_overrides, parse_config,
};
use crate::image::{ImageError, check_disk_image, check_not_empty};
use crate::store::{OpenedFile, ResolveError, Resolver, StorePathError, StoreRoots, Trail};

/// The description's name in its store path.
pub const CONFIG_NAME: &str = "vm-config.json";

/// What to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadRequest {
    /// The artifact: a directory directly below a store root.
    pub store_path: PathBuf,
    /// What differs from its description.
    pub overrides: Overrides,
    /// What takes precedence over the settings under its description's key `procurator`, member by member: objects
    /// merge, lists of objects with an `id` merge by that, `null` removes.
    pub procurator: Map<String, Value>,
    /// The identity of the machine.
    pub uuid: Uuid,
}

/// What a part of an artifact's machine lies on.
#[derive(Debug)]
pub enum ArtifactFile {
    /// A file of the store.
    Opened(OpenedFile),
    /// Nothing yet: a disk that is given by its size ([`ProcuratorSettings::size`]) and begins blank. Only writable
    /// disks are.
    Blank,
}

impl ArtifactFile {
    /// The file of the store, if it is one.
    pub fn opened(&self) -> Option<&OpenedFile> {
        match self {
            Self::Opened(file) => Some(file),
            Self::Blank => None,
        }
    }
}

/// A machine description with its files open.
#[derive(Debug)]
pub struct Artifact {
    /// The machine, overrides applied, without network interfaces: those need a TAP.
    ///
    /// Every file is open for reading alone. For a disk that the guest may write to, that is the image to copy
    /// from.
    pub machine: MachineSpec<ArtifactFile>,
    /// The network interfaces that it wants.
    pub nics: Vec<NicRequest>,
    /// The socket device that it wants; the machine has none before it has a directory for the host's sockets.
    pub vsock: Option<VsockRequest>,
    /// What it asks of the worker.
    pub settings: ProcuratorSettings,
    /// What of the description was left aside.
    pub warnings: Vec<ConfigWarning>,
    /// Other store paths that its files lie in or were reached through: the hash of the own one does not
    /// cover them.
    pub references: BTreeSet<PathBuf>,
    /// What its files were reached through, and what that was: for [`crate::verify_loaded`].
    pub trail: Trail,
}

/// Why an artifact could not be loaded.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// The path is no usable store path.
    #[error(transparent)]
    StorePath(#[from] StorePathError),
    /// The description cannot be opened.
    #[error("cannot open the machine description {file:?}")]
    OpenConfig {
        /// The description.
        file: PathBuf,
        /// What was in the way.
        #[source]
        source: Box<ResolveError>,
    },
    /// It cannot be told whether a file is there that is used although no key names it.
    #[error("cannot look for the files beside the machine description {file:?}")]
    Look {
        /// The description.
        file: PathBuf,
        /// What was in the way.
        #[source]
        source: Box<ResolveError>,
    },
    /// The description cannot be read.
    #[error("cannot read the machine description {file:?}")]
    ReadConfig {
        /// The description.
        file: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The description describes no machine that is supported.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An override is out of range.
    #[error("cannot apply the overrides of {store_path:?}")]
    Override {
        /// The artifact.
        store_path: PathBuf,
        /// Which one, and what is accepted.
        #[source]
        source: OverrideError,
    },
    /// A file that the description needs cannot be opened.
    #[error(
        "{file:?}: cannot open {wanted}; accepted is a regular file, its path relative to the store path or absolute inside a store root"
    )]
    OpenFile {
        /// The description.
        file: PathBuf,
        /// What was to be opened: its role, JSON path and path.
        wanted: String,
        /// What was in the way.
        #[source]
        source: Box<ResolveError>,
    },
    /// A file that the description needs is open, but cannot be what it should be.
    #[error("{file:?}: cannot use {wanted}")]
    UnusableFile {
        /// The description.
        file: PathBuf,
        /// What was opened: its role, JSON path and path.
        wanted: String,
        /// What is wrong with it.
        #[source]
        source: Box<ImageError>,
    },
}

/// Loads the artifact at `request.store_path`.
///
/// Blocks on file I/O, though little of it: the description and the first bytes of the disks are read. Nothing
/// is hashed here; see [`crate::verify_hash`].
///
/// # Errors
/// Says which file, which key, which value, and what would be accepted.
pub fn load_artifact(roots: &StoreRoots, request: &LoadRequest) -> Result<Artifact, ArtifactError> {
    let home = roots.find_directory(&request.store_path)?;
    let home_path = home.path.clone();
    let mut resolver = Resolver::new(roots, home)?;
    let config_file = resolver.home().join(CONFIG_NAME);
    let text = read_config(&mut resolver, &config_file)?;
    let present = look(&resolver)?;
    let mut parsed = parse_config(&text, &config_file, request.uuid, present, &request.procurator)?;
    apply_overrides(&mut parsed.machine, &request.overrides)
        .map_err(|source| ArtifactError::Override { store_path: request.store_path.clone(), source })?;
    let machine = parsed.machine.try_map_files(|role, wanted| match wanted {
        WantedFile::InStore(wanted) => {
            open_file(&mut resolver, &config_file, role, &wanted).map(ArtifactFile::Opened)
        }
        WantedFile::Blank => Ok(ArtifactFile::Blank),
    })?;
    let trail = resolver.into_trail();
    let references = trail.store_paths().filter(|path| *path != home_path).map(Path::to_owned).collect();
    Ok(Artifact {
        machine,
        nics: parsed.nics,
        vsock: parsed.vsock,
        settings: parsed.settings,
        warnings: parsed.warnings,
        references,
        trail,
    })
}

/// Which of the files that are used without being named are there.
fn look(resolver: &Resolver<'_>) -> Result<Conventional, ArtifactError> {
    let contains = |name| {
        let file = resolver.home().join(CONFIG_NAME);
        resolver.contains(name).map_err(|source| ArtifactError::Look { file, source: Box::new(source) })
    };
    Ok(Conventional { initrd: contains("initrd")?, disk_image: contains("disk.img")? })
}

fn read_config(resolver: &mut Resolver<'_>, file: &Path) -> Result<Vec<u8>, ArtifactError> {
    let opened = resolver
        .open(Path::new(CONFIG_NAME))
        .map_err(|source| ArtifactError::OpenConfig { file: file.to_owned(), source: Box::new(source) })?;
    let size = opened.size();
    let mut text = Vec::new();
    opened
        .into_file()
        .take(MAX_CONFIG_SIZE + 1)
        .read_to_end(&mut text)
        .map_err(|source| ArtifactError::ReadConfig { file: file.to_owned(), source })?;
    if text.len() as u64 > MAX_CONFIG_SIZE {
        return Err(ArtifactError::Config(ConfigError::TooLarge {
            file: file.to_owned(),
            size,
            limit: MAX_CONFIG_SIZE,
        }));
    }
    Ok(text)
}

fn open_file(
    resolver: &mut Resolver<'_>,
    config_file: &Path,
    role: FileRole<'_>,
    wanted: &FileRequest,
) -> Result<OpenedFile, ArtifactError> {
    let opened = resolver.open(&wanted.path).map_err(|source| ArtifactError::OpenFile {
        file: config_file.to_owned(),
        wanted: describe_wanted(role, wanted),
        source: Box::new(source),
    })?;
    let judged = match role {
        FileRole::Disk(..) => check_disk_image(&opened, wanted.stated),
        FileRole::Kernel
        | FileRole::Initrd
        | FileRole::DirectDisk(_)
        | FileRole::Tap(_)
        | FileRole::Vhost(_)
        | FileRole::NicStatistics(_)
        | FileRole::VsockDirectory => check_not_empty(&opened),
    };
    match judged {
        Ok(()) => Ok(opened),
        Err(source) => Err(ArtifactError::UnusableFile {
            file: config_file.to_owned(),
            wanted: describe_wanted(role, wanted),
            source: Box::new(source),
        }),
    }
}

fn describe_wanted(role: FileRole<'_>, wanted: &FileRequest) -> String {
    let role = match role {
        FileRole::Kernel => "the kernel".to_owned(),
        FileRole::Initrd => "the initial RAM disk".to_owned(),
        FileRole::Disk(id, _) | FileRole::DirectDisk(id) => format!("disk {id:?}"),
        FileRole::Tap(id) => format!("the TAP of {id:?}"),
        FileRole::Vhost(id) => format!("the kernel's back end of {id:?}"),
        FileRole::NicStatistics(id) => format!("the counters of {id:?}"),
        FileRole::VsockDirectory => "the directory of host sockets".to_owned(),
    };
    let path = &wanted.path;
    match &wanted.origin {
        FileOrigin::Key(json_path) => format!("{role} ({json_path} is {path:?})"),
        FileOrigin::Default(json_path) => format!("{role} ({path:?}, as {json_path} is not set)"),
    }
}
