//! The test images: built by Nix from `tests/image/` into true store paths, with the hashes Nix has for them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::lab::dynamic;
use crate::lab::kernel::Kernel;
use crate::workspace::Workspace;
use crate::{packages, process};

/// What the guest's initial root file system loads before it looks for its disk.
const GUEST_MODULES: [&str; 9] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "button",
    "evdev",
];

/// What names of images begin with in the store.
pub(crate) const NAME_PREFIX: &str = "procurator-test-";

/// The images by name. `guest`, `next-edition`, `everything`, `huge-pages`, `direct` and `shared` run; the others are to be refused.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Images(BTreeMap<String, Image>);

/// One store path and its NAR hash in SRI form.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Image {
    pub(crate) store_path: PathBuf,
    pub(crate) hash: String,
}

impl Images {
    /// Builds what Nix has not built already. Nix works offline here: no substituters, no build users, no sandbox.
    pub(crate) fn build(workspace: &Workspace, kernel: &Kernel) -> Result<Self> {
        let nix = Nix::configure(&workspace.lab_dir().join("nix"))?;
        let modules = kernel.module_index()?.load_order(&GUEST_MODULES)?;
        let modules: Vec<PathBuf> = modules.iter().map(|path| kernel.modules_dir.join(path)).collect();
        let busybox = packages::find_program("busybox").context("busybox is not there")?;
        let mut build = nix.command("nix-build");
        build.arg(workspace.root().join("tests/image/default.nix"));
        build.arg("--argstr").arg("kernel").arg(&kernel.image);
        build.arg("--argstr").arg("busybox").arg(busybox);
        build.args(["--argstr", "modules", &serde_json::to_string(&modules)?]);
        // Busybox knows nothing of a machine's sockets.
        let programs = dynamic::with_libraries("socat", "/usr/bin/socat")?;
        build.args(["--argstr", "programs", &serde_json::to_string(&programs)?]);
        let sessions = dynamic::with_libraries("dropbear", "/usr/sbin/dropbear")?;
        build.args(["--argstr", "sessions", &serde_json::to_string(&sessions)?]);
        build.args(["--argstr", "toolPath", packages::TOOL_PATH]);
        build.arg("--out-link").arg(workspace.lab_dir().join("images/result"));
        let built = process::output_of(&mut build).context("Nix could not build the test images")?;
        let mut images = Self(BTreeMap::new());
        for store_path in built.lines().map(Path::new) {
            images.insert(&nix, store_path)?;
        }
        Ok(images)
    }

    /// Adds an image that is in `folder`, whose name is that of an image with [`NAME_PREFIX`], as a store path.
    pub(crate) fn add(&mut self, workspace: &Workspace, folder: &Path) -> Result<()> {
        let nix = Nix::configure(&workspace.lab_dir().join("nix"))?;
        let added = process::output_of(nix.command("nix-store").arg("--add").arg(folder))?;
        self.insert(&nix, Path::new(added.trim()))
    }

    fn insert(&mut self, nix: &Nix, store_path: &Path) -> Result<()> {
        let name = image_name(store_path)
            .with_context(|| format!("{} is no name of a test image", store_path.display()))?;
        let hash = nix.nar_hash(store_path)?;
        self.0.insert(name, Image { store_path: store_path.to_path_buf(), hash });
        Ok(())
    }

    /// The image that runs.
    pub(crate) fn guest(&self) -> Result<&Image> {
        self.0.get("guest").context("tests/image/default.nix has no image `guest`")
    }

    pub(crate) fn store_paths(&self) -> impl Iterator<Item = &Path> {
        self.0.values().map(|image| image.store_path.as_path())
    }

    /// The images as the test programs read them.
    pub(crate) fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("cannot write the list of images")
    }
}

/// `/nix/store/<hash>-procurator-test-guest` is `guest`.
fn image_name(store_path: &Path) -> Option<String> {
    let (_, name) = store_path.file_name()?.to_str()?.split_once('-')?;
    name.strip_prefix(NAME_PREFIX).map(str::to_owned)
}

/// Nix with a configuration of its own.
struct Nix {
    configuration: PathBuf,
}

impl Nix {
    fn configure(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let images = folder.with_file_name("images");
        fs::create_dir_all(&images).with_context(|| format!("cannot create {}", images.display()))?;
        let file = folder.join("nix.conf");
        fs::write(&file, "build-users-group =\nsandbox = false\nsubstituters =\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { configuration: folder.to_path_buf() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("NIX_CONF_DIR", &self.configuration).env_remove("NIX_PATH");
        command
    }

    /// The hash in Nix's database.
    fn nar_hash(&self, store_path: &Path) -> Result<String> {
        let mut query = self.command("nix");
        query.args(["--extra-experimental-features", "nix-command", "path-info", "--json"]).arg(store_path);
        let answer = process::output_of(&mut query)?;
        read_nar_hash(&answer).with_context(|| format!("nix path-info says: {answer}"))
    }
}

/// What `nix path-info --json` says: a list up to Nix 2.18, a map from paths since.
#[derive(Deserialize)]
#[serde(untagged)]
enum PathInfo {
    List([PathFacts; 1]),
    Map(BTreeMap<String, PathFacts>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PathFacts {
    nar_hash: String,
}

fn read_nar_hash(json: &str) -> Result<String> {
    let facts = match serde_json::from_str(json)? {
        PathInfo::List([facts]) => facts,
        PathInfo::Map(map) => map.into_values().next().context("the path is unknown")?,
    };
    Ok(facts.nar_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_path_info_are_read() {
        let list = r#"[{"path":"/nix/store/x","narHash":"sha256-A=","narSize":1}]"#;
        let map = r#"{"/nix/store/x":{"narHash":"sha256-A=","narSize":1}}"#;
        assert_eq!(read_nar_hash(list).expect("the older form"), "sha256-A=");
        assert_eq!(read_nar_hash(map).expect("the newer form"), "sha256-A=");
    }

    #[test]
    fn an_images_name_is_the_end_of_its_path() {
        let path = Path::new("/nix/store/0mw6pwjdfhjbdb18j7xaf00r8pgi5b0q-procurator-test-missing-kernel");
        assert_eq!(image_name(path).as_deref(), Some("missing-kernel"));
        assert_eq!(image_name(Path::new("/nix/store/abc-something")), None);
    }
}
