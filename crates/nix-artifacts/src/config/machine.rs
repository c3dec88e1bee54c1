//! Processors, memory, what is booted and the serial port, read from their sections.

use vm_model::{BootSpec, Bytes, CpuSpec, MemoryBacking, MemorySpec, SerialMode};

use super::extract::{Conventional, FileOrigin, FileRequest, StatedImage};
use super::refusal::{ConfigWarning, Refusal, RefusalReason};
use super::section::Section;

/// The memory of a machine that names none.
const DEFAULT_MEMORY: Bytes = Bytes::from_mib(512);

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

    pub(super) fn cpus(&mut self) -> Result<CpuSpec, Box<Refusal>> {
        let Some(cpus) = self.top.section("cpus") else {
            return Ok(CpuSpec { boot_vcpus: 1, max_phys_bits: None });
        };
        let boot_vcpus: u8 = cpus.integer("boot_vcpus").unwrap_or(1);
        let max_vcpus: u8 = cpus.integer("max_vcpus").unwrap_or(boot_vcpus);
        if max_vcpus < boot_vcpus {
            return Err(contradiction(
                cpus.path_of("max_vcpus"),
                max_vcpus,
                format!("boot_vcpus is {boot_vcpus}"),
                format!("{boot_vcpus} or more"),
            ));
        }
        if max_vcpus > boot_vcpus {
            let consequence = "vCPUs cannot be added to a running machine";
            self.warn(cpus.path_of("max_vcpus"), max_vcpus, consequence);
        }
        if let Some(topology) = cpus.section("topology") {
            self.topology(topology, cpus.path_of("topology"), max_vcpus)?;
        }
        Ok(CpuSpec { boot_vcpus, max_phys_bits: cpus.integer("max_phys_bits") })
    }

    fn topology(&mut self, topology: &Section, json_path: String, max_vcpus: u8) -> Result<(), Box<Refusal>> {
        let [threads, cores, dies, packages] =
            ["threads_per_core", "cores_per_die", "dies_per_package", "packages"]
                .map(|level| topology.integer::<u32>(level).unwrap_or(1));
        let value = format!("{threads} × {cores} × {dies} × {packages}");
        // Each is at most 64, so the product fits.
        if threads * cores * dies * packages != u32::from(max_vcpus) {
            let rule = format!("max_vcpus is {max_vcpus}");
            let accepted = format!("a topology that multiplies to {max_vcpus}");
            return Err(contradiction(json_path, value, rule, accepted));
        }
        if (threads, dies, packages) != (1, 1, 1) {
            let consequence = "the guest sees one package with one thread a core";
            self.warn(json_path, value, consequence);
        }
        Ok(())
    }

    pub(super) fn memory(&mut self) -> MemorySpec {
        let Some(memory) = self.top.section("memory") else {
            return MemorySpec { size: DEFAULT_MEMORY, backing: MemoryBacking::default(), prefault: false };
        };
        let asks = |name| memory.boolean(name) == Some(true);
        let (shared, mergeable, thp) = (asks("shared"), asks("mergeable"), asks("thp"));
        if shared && mergeable {
            let consequence = "pages of shared memory cannot be merged";
            self.warn(memory.path_of("mergeable"), true, consequence);
        }
        if thp && mergeable && !shared {
            let consequence = "memory is offered for merging and not made of huge pages";
            self.warn(memory.path_of("thp"), true, consequence);
        }
        let backing = match (shared, mergeable, thp) {
            (true, _, _) | (false, false, false) => MemoryBacking::SharedMemfd,
            (false, true, _) => MemoryBacking::AnonymousMergeable,
            (false, false, true) => MemoryBacking::AnonymousHuge,
        };
        MemorySpec {
            size: memory.integer("size").map_or(DEFAULT_MEMORY, Bytes::new),
            backing,
            prefault: asks("prefault"),
        }
    }

    pub(super) fn boot(&self) -> Result<BootSpec<FileRequest>, Box<Refusal>> {
        let kernel = self.one_spelling("kernel", "path")?;
        let initramfs = self.one_spelling("initramfs", "path")?;
        let cmdline = self.one_spelling("cmdline", "args")?;
        let default_initrd =
            || self.present.initrd.then(|| FileRequest::conventional("initrd", "$.payload.initramfs"));
        Ok(BootSpec {
            kernel: kernel.map_or_else(
                || FileRequest::conventional("vmlinux", "$.payload.kernel"),
                |(text, json_path)| FileRequest::named(text, json_path),
            ),
            initrd: initramfs
                .map(|(text, json_path)| FileRequest::named(text, json_path))
                .or_else(default_initrd),
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
                format!("{text:?}"),
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
