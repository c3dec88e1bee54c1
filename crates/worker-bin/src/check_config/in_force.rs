//! What every key is in the end, and who says so.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::document::Document;
use crate::settings::keys::{KEYS, Key, Kind};

/// Who says what a key is. The environment goes before the file, and the file before the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// Nobody.
    Default,
    /// The file.
    File,
    /// An environment variable.
    Environment,
    /// The command line.
    Flag,
}

/// A key with the value in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct InForce {
    /// The key with its table.
    pub(crate) key: String,
    /// Its value as the file would say it; absent where nothing is set and there is no fixed default.
    pub(crate) value: Option<String>,
    /// Who says so.
    pub(crate) origin: Origin,
    /// The environment variable that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variable: Option<&'static str>,
}

/// What every key is, by what the file says and by arguments of `run` that are `set` in the environment. Keys of tables with
/// names of the author's choice are there for each of those.
pub(super) fn all(document: &Document, set: &[(&'static str, String)]) -> Vec<InForce> {
    let fixed = KEYS.iter().filter(|key| key.named_in().is_none());
    let tables: BTreeSet<&str> = KEYS.iter().filter_map(Key::named_in).collect();
    let named = tables.into_iter().flat_map(|table| {
        document.names_in(table).into_iter().flat_map(move |name| {
            let members = KEYS.iter().filter(move |key| key.named_in() == Some(table));
            members.map(move |key| (key, format!("{table}.{name}.{}", key.parts().1)))
        })
    });
    fixed
        .map(|key| (key, key.name.to_owned()))
        .chain(named)
        .map(|(key, name)| of(key, name, document, set))
        .collect()
}

/// What `key`, called `name` here, is, by what the file says and by arguments of `run` that are `set` in the environment.
fn of(key: &Key, name: String, document: &Document, set: &[(&'static str, String)]) -> InForce {
    let from_environment = key.environment.and_then(|(variable, argument)| {
        let (_, value) = set.iter().find(|(name, _)| *name == argument)?;
        Some((variable, value))
    });
    if let Some((variable, value)) = from_environment {
        let (value, variable) = (Some(as_toml(&key.kind, value)), Some(variable));
        return InForce { key: name, value, origin: Origin::Environment, variable };
    }
    let (value, origin) = match document.value(&name) {
        Some(value) => (Some(value), Origin::File),
        None => (key.default, Origin::Default),
    };
    InForce { key: name, value: value.map(str::to_owned), origin, variable: None }
}

/// Says that the runtime directory was given on the command line.
pub(super) fn set_runtime_dir(settings: &mut [InForce], directory: &Path) {
    let is_it =
        |setting: &&mut InForce| setting.key == "runtime_dir" && setting.origin != Origin::Environment;
    if let Some(setting) = settings.iter_mut().find(is_it) {
        setting.value = Some(quoted(&directory.to_string_lossy()));
        setting.origin = Origin::Flag;
    }
}

/// The value of an environment variable as the file would say it.
fn as_toml(kind: &Kind, value: &str) -> String {
    match kind {
        Kind::Boolean => {
            // As clap's parser has it, which refuses what is neither.
            let is_on = ["y", "yes", "t", "true", "on", "1"].contains(&value.to_ascii_lowercase().as_str());
            is_on.to_string()
        }
        Kind::Paths | Kind::Caches | Kind::PublicKeys | Kind::Services | Kind::AddressRanges => {
            let paths: Vec<String> = value.split(':').map(quoted).collect();
            format!("[{}]", paths.join(", "))
        }
        Kind::Integer { .. } | Kind::Ratio | Kind::Cores => value.to_owned(),
        Kind::Choice(_)
        | Kind::AbsolutePath
        | Kind::Path
        | Kind::Text
        | Kind::UserRange
        | Kind::LinkName
        | Kind::Domain
        | Kind::Subnet
        | Kind::Ipv6Subnet
        | Kind::Ipv4Address
        | Kind::HostAndPort
        | Kind::AddressAndPort => quoted(value),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A configuration file that says all of it, with the origin of each value.
pub(super) fn document(settings: &[InForce]) -> String {
    let (mut text, mut table) = (String::new(), String::new());
    for setting in settings {
        let (of, name) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
        if of != table {
            let _ = write!(text, "\n[{of}]\n");
            table = of.to_owned();
        }
        let origin = match (setting.origin, setting.variable) {
            (Origin::Environment, Some(variable)) => format!("environment: {variable}"),
            (Origin::Environment, None) => "environment".to_owned(),
            (Origin::File, _) => "file".to_owned(),
            (Origin::Flag, _) => "command line".to_owned(),
            (Origin::Default, _) => "default".to_owned(),
        };
        let _ = match &setting.value {
            Some(value) => writeln!(text, "{name} = {value}  # {origin}"),
            None => writeln!(text, "# {name} is not set"),
        };
    }
    text
}
