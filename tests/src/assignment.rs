//! Assignments as a user writes them into the file.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::Image;

/// One VM that should exist.
#[derive(Clone, Debug)]
pub struct Assignment {
    id: String,
    hash: String,
    store_path: PathBuf,
    desired: &'static str,
    overrides: Map<String, Value>,
    procurator: Map<String, Value>,
    disks: Vec<Value>,
}

impl Assignment {
    /// A running VM named `id` of an image.
    pub fn of(image: &Image, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            hash: image.hash.clone(),
            store_path: image.store_path.clone(),
            desired: "running",
            overrides: Map::new(),
            procurator: Map::new(),
            disks: Vec::new(),
        }
    }

    /// Assigned with another hash than the image has.
    #[must_use]
    pub fn with_hash(self, hash: &str) -> Self {
        Self { hash: hash.to_owned(), ..self }
    }

    /// With text after the image's kernel command line.
    #[must_use]
    pub fn with_cmdline(self, text: &str) -> Self {
        self.with_override("cmdline_append", json!(text))
    }

    /// With another size of memory, in bytes.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        self.with_override("memory_bytes", json!(bytes))
    }

    /// With another number of vCPUs.
    #[must_use]
    pub fn with_vcpus(self, vcpus: u64) -> Self {
        self.with_override("vcpus", json!(vcpus))
    }

    /// With a further disk, blank at first, of that many bytes.
    #[must_use]
    pub fn with_disk(mut self, disk: &str, bytes: u64) -> Self {
        self.disks.push(json!({ "id": disk, "size": bytes }));
        self
    }

    /// The same, on which the guest is told what the host cannot do, rather than held until it can.
    #[must_use]
    pub fn with_reporting_disk(mut self, disk: &str, bytes: u64) -> Self {
        self.disks.push(json!({ "id": disk, "size": bytes, "on_io_error": "report" }));
        self
    }

    /// With `value` as the setting `key` of `procurator`, other than disks.
    #[must_use]
    pub fn with_procurator(mut self, key: &str, value: Value) -> Self {
        self.procurator.insert(key.to_owned(), value);
        self
    }

    /// To be there and to stand still.
    #[must_use]
    pub fn paused(self) -> Self {
        Self { desired: "paused", ..self }
    }

    /// To be off.
    #[must_use]
    pub fn stopped(self) -> Self {
        Self { desired: "stopped", ..self }
    }

    fn with_override(mut self, key: &str, value: Value) -> Self {
        self.overrides.insert(key.to_owned(), value);
        self
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "id": self.id,
            "hash": self.hash,
            "store_path": self.store_path,
            "desired": self.desired,
            "overrides": self.overrides,
        });
        let mut procurator = self.procurator.clone();
        if !self.disks.is_empty() {
            procurator.insert("disks".to_owned(), json!(self.disks));
        }
        if !procurator.is_empty() {
            entry["procurator"] = procurator.into();
        }
        entry
    }
}

/// The whole file. An empty one would be held, was it not said that VMs may be removed.
pub(crate) fn file_of(assignments: &[Assignment]) -> String {
    let vms: Vec<Value> = assignments.iter().map(Assignment::to_json).collect();
    match vms.is_empty() {
        true => json!({ "vms": vms, "allow_removals": true }).to_string(),
        false => json!({ "vms": vms }).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_documented_form() {
        let image = Image { store_path: "/nix/store/x-image".into(), hash: "sha256-A=".into() };
        let file = file_of(&[Assignment::of(&image, "web-1").with_cmdline("quiet").with_memory(1 << 20)]);
        assert_eq!(
            file,
            r#"{"vms":[{"desired":"running","hash":"sha256-A=","id":"web-1","overrides":{"cmdline_append":"quiet","memory_bytes":1048576},"store_path":"/nix/store/x-image"}]}"#
        );
        let data = Assignment::of(&image, "db").with_disk("data", 4096).to_json();
        assert_eq!(data["procurator"], json!({ "disks": [{ "id": "data", "size": 4096 }] }));
        let well =
            Assignment::of(&image, "web").with_procurator("health", json!({ "systemd": true })).to_json();
        assert_eq!(well["procurator"], json!({ "health": { "systemd": true } }));
        assert_eq!(file_of(&[]), r#"{"allow_removals":true,"vms":[]}"#);
    }
}
