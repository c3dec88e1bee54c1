//! What `dpkg` is told of the package: its control file, which file is configuration, and the scripts around installation.

use std::path::Path;

use super::NAME;
use super::layout::{PackedFile, Source};

/// Whom a package names that was built by nobody in particular.
pub(crate) const MAINTAINER: &str = "Procurator worker <procurator-worker@packages.invalid>";

/// What differs from one package to the next.
#[derive(Clone, Debug)]
pub(super) struct Control<'a> {
    pub(super) version: &'a str,
    pub(super) maintainer: &'a str,
    /// How many bytes its files have.
    pub(super) installed_bytes: u64,
}

impl Control<'_> {
    /// The files below `DEBIAN`, with the scripts of the sources at `root`.
    pub(super) fn files(&self, root: &Path) -> Vec<PackedFile> {
        let scripts = ["postinst", "prerm", "postrm"];
        let scripts = scripts.map(|name| PackedFile::program(name, root.join("packaging/debian").join(name)));
        let mut files = vec![
            PackedFile::data("control", Source::Text(self.text())),
            PackedFile::data("conffiles", Source::Text("/etc/procurator/worker.toml\n".to_owned())),
        ];
        files.extend(scripts);
        files
    }

    fn text(&self) -> String {
        let Self { version, maintainer, installed_bytes } = self;
        let kibibytes = installed_bytes.div_ceil(1024);
        format!(
            "Package: {NAME}\n\
             Version: {version}\n\
             Architecture: amd64\n\
             Maintainer: {maintainer}\n\
             Installed-Size: {kibibytes}\n\
             Depends: init-system-helpers (>= 1.54~), nftables, systemd (>= 247)\n\
             Recommends: openssh-client\n\
             Section: admin\n\
             Priority: optional\n\
             Description: runs the virtual machines of this host\n \
             Turns a list of desired virtual machines into running ones and keeps them so.\n \
             Each VM is a kernel, a disk image and a machine description; it runs on KVM in a\n \
             process of its own, which goes on when this program is restarted or upgraded.\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_is_a_paragraph_of_fields() {
        let control = Control { version: "1.2~rc1", maintainer: "A <a@b.c>", installed_bytes: 2049 };
        let text = control.text();
        assert!(text.contains("\nVersion: 1.2~rc1\n") && text.contains("\nInstalled-Size: 3\n"), "{text}");
        for line in text.lines() {
            let is_field = line.split_once(": ").is_some_and(|(name, _)| !name.contains(' '));
            assert!(is_field || line.starts_with(' '), "{line:?}");
        }
        assert!(text.ends_with(".\n"), "{text}");
    }
}
