//! What is booted and the serial port, read from their sections.

use vm_model::{BootSpec, SerialMode, shown_text};

use super::extract::{Conventional, FileOrigin, FileRequest, StatedImage, WantedFile};
use super::refusal::{ConfigWarning, Refusal, RefusalReason};
use super::section::Section;

/// Reads the parts of one machine.
pub(super) struct Reader<'config> {
    pub(super) top: &'config Section,
    pub(super) present: Conventional,
    warnings: &'config mut Vec<ConfigWarning>,
}

impl<'config> Reader<'config> {
    pub(super) fn new(
        top: &'config Section,
        present: Conventional,
        warnings: &'config mut Vec<ConfigWarning>,
    ) -> Self {
        Self { top, present, warnings }
    }

    /// Notes something that is left aside.
    pub(super) fn warn(&mut self, json_path: String, value: impl ToString, consequence: &str) {
        self.warnings.push(ConfigWarning {
            json_path,
            value: value.to_string(),
            consequence: consequence.to_owned(),
        });
    }

    pub(super) fn boot(&self) -> Result<BootSpec<WantedFile>, Box<Refusal>> {
        let kernel = self.one_spelling("kernel", "path")?;
        let initramfs = self.one_spelling("initramfs", "path")?;
        let cmdline = self.one_spelling("cmdline", "args")?;
        let default_initrd = || {
            let initrd = || WantedFile::InStore(FileRequest::conventional("initrd", "$.payload.initramfs"));
            self.present.initrd.then(initrd)
        };
        let named =
            |(text, json_path): (&str, String)| WantedFile::InStore(FileRequest::named(text, json_path));
        Ok(BootSpec {
            kernel: kernel.map_or_else(
                || WantedFile::InStore(FileRequest::conventional("vmlinux", "$.payload.kernel")),
                named,
            ),
            initrd: initramfs.map(named).or_else(default_initrd),
            cmdline: cmdline.map_or_else(String::new, |(text, _)| text.to_owned()),
        })
    }

    /// The text of `payload.<name>`, or of its older spelling `<name>.<member>`, with its JSON path.
    fn one_spelling(&self, name: &str, member: &str) -> Result<Option<(&'config str, String)>, Box<Refusal>> {
        let today = self
            .top
            .section("payload")
            .and_then(|payload| Some((payload.text(name)?, payload.path_of(name))));
        let older =
            self.top.section(name).and_then(|section| Some((section.text(member)?, section.path_of(member))));
        match (today, older) {
            (Some((_, today)), Some((text, older))) => Err(contradiction(
                older,
                shown_text(text),
                format!("{today} is set as well"),
                "one of the two".to_owned(),
            )),
            (today, older) => Ok(today.or(older)),
        }
    }

    pub(super) fn serial(&self) -> SerialMode {
        match self.top.section("serial").and_then(|serial| serial.text("mode")) {
            Some("Null" | "Off") => SerialMode::Null,
            Some(_) | None => SerialMode::Console,
        }
    }
}

impl FileRequest {
    /// A file that a key names.
    pub(super) fn named(path: &str, json_path: String) -> Self {
        Self { path: path.into(), origin: FileOrigin::Key(json_path), stated: StatedImage::Unstated }
    }

    /// A file that is used although no key names it.
    pub(super) fn conventional(path: &str, json_path: &str) -> Self {
        Self {
            path: path.into(),
            origin: FileOrigin::Default(json_path.to_owned()),
            stated: StatedImage::Unstated,
        }
    }
}

/// The refusal of a value that breaks a rule over several keys.
pub(super) fn contradiction(
    json_path: String,
    value: impl ToString,
    rule: String,
    accepted: String,
) -> Box<Refusal> {
    Box::new(Refusal {
        json_path,
        value: value.to_string(),
        reason: RefusalReason::Contradiction(rule),
        accepted,
    })
}
