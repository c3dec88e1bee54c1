//! A configuration file held against the table of keys, every value with its line.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use binary_cache::{CacheUrl, TrustedKey};
use host_network::{Domain, HostService, LinkName};
use ipam::AddressRange;
use ipnetwork::Ipv4Network;
use jail::UserRange;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};
use vm_model::{Cores, Ipv6Subnet, NetworkName, nearest};

use super::Fault;
use crate::settings::keys::{KEYS, Key, Kind, NAME};

/// What a file says, key by key.
#[derive(Debug)]
pub(super) struct Document {
    entries: Vec<Entry>,
    /// Why it is no TOML.
    syntax: Option<Fault>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    line: usize,
    value: String,
    /// What is wrong with it.
    fault: Option<Fault>,
}

impl Document {
    /// Reads `text`.
    pub(super) fn parse(text: &str) -> Self {
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(problem) => {
                let line = problem.span().map(|span| line_of(text, span.start));
                let written = line.and_then(|line| text.lines().nth(line.saturating_sub(1)));
                let syntax = syntax_fault(line, written, problem.message());
                return Self { entries: Vec::new(), syntax: Some(syntax) };
            }
        };
        let mut entries = Vec::new();
        for (name, value) in table.get_ref() {
            entries.extend(entries_of(text, name.get_ref().to_string(), name, value));
        }
        entries.sort_by_key(|entry| entry.line);
        Self { entries, syntax: None }
    }

    /// Everything that is wrong with it, in the order of its lines.
    pub(super) fn faults(&self) -> Vec<Fault> {
        self.syntax
            .iter()
            .cloned()
            .chain(self.entries.iter().filter_map(|entry| entry.fault.clone()))
            .collect()
    }

    /// The names of the author's choice that the table `table` has, like `storage` of `networks`.
    pub(super) fn names_in(&self, table: &str) -> BTreeSet<&str> {
        let inside =
            self.entries.iter().filter_map(|entry| entry.name.strip_prefix(table)?.strip_prefix('.'));
        inside.filter_map(|rest| Some(rest.split_once('.')?.0)).collect()
    }

    /// What it says of the key `name`.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.value.as_str())
    }

    /// The fault of the whole that `problem` tells, on the line of the key that it speaks of.
    pub(super) fn fault_of(&self, problem: &str) -> Fault {
        let speaks_of = |entry: &&Entry| problem.contains(&entry.name);
        let line = self.entries.iter().filter(speaks_of).max_by_key(|entry| entry.name.len());
        Fault {
            line: line.map(|entry| entry.line),
            key: None,
            value: None,
            problem: problem.to_owned(),
            accepted: None,
            nearest: None,
        }
    }
}

/// What is wrong with a text that is no TOML: `message`, at the line `line`, which reads `written`.
fn syntax_fault(line: Option<usize>, written: Option<&str>, message: &str) -> Fault {
    let key = written.and_then(|written| match written.split_once('=') {
        Some((key, _)) => Some(shorten(key.trim())),
        None => written.trim_start().starts_with('[').then(|| shorten(written.trim())),
    });
    let (problem, accepted) = if message.contains("duplicate") {
        ("is there twice".to_owned(), "each key and each [table] once")
    } else {
        let accepted = "`key = value`, texts in quotation marks, below the [table] that the key is in";
        (format!("is no TOML: {}", message.replace('\n', ", ")), accepted)
    };
    Fault { line, key, value: None, problem, accepted: Some(accepted.to_owned()), nearest: None }
}

/// The tables of the file whose members have fixed names.
fn tables() -> impl Iterator<Item = &'static str> {
    KEYS.iter()
        .filter(|key| key.named_in().is_none())
        .map(|key| key.parts().0)
        .filter(|table| !table.is_empty())
}

/// What the file says of the key or table `name`.
fn entries_of(
    text: &str,
    name: String,
    written: &Spanned<toml::de::DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
) -> Vec<Entry> {
    let is_of_names = KEYS.iter().any(|key| key.named_in() == Some(name.as_str()));
    let is_named = name.split_once('.').is_some_and(|(table, name)| {
        KEYS.iter().any(|key| key.named_in() == Some(table)) && NetworkName::parse(name).is_ok()
    });
    let is_table = is_of_names || is_named || tables().any(|table| table == name);
    match value.get_ref().as_table().filter(|_| is_table) {
        Some(members) => {
            let inside = members.iter().flat_map(|(member, value)| {
                let name = format!("{name}.{}", member.get_ref());
                if is_of_names {
                    entries_of(text, name, member, value)
                } else {
                    vec![entry(text, name, member, value)]
                }
            });
            inside.collect()
        }
        None => vec![entry(text, name, written, value)],
    }
}

/// The key `name` as the table of keys has it: with [`NAME`] for a name of the author's choice.
fn in_table(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        [table, _, member] => format!("{table}.{NAME}.{member}"),
        _ => name.to_owned(),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn entry(
    text: &str,
    name: String,
    written: &Spanned<toml::de::DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
) -> Entry {
    let line = line_of(text, written.span().start);
    let shown = text.get(value.span()).unwrap_or_default().to_owned();
    let rule = KEYS.iter().find(|key| key.name == in_table(&name));
    let fault = |problem: &str, accepted: Option<String>, nearest: Option<String>| Fault {
        line: Some(line),
        key: Some(name.clone()),
        value: (!value.get_ref().is_table()).then(|| shorten(&shown)),
        problem: problem.to_owned(),
        accepted,
        nearest,
    };
    let fault = match rule {
        None if name.strip_prefix("networks.").is_some_and(|rest| !rest.contains('.')) => {
            let accepted = format!("a table whose name is {}", NetworkName::ACCEPTED);
            Some(fault("is no network", Some(accepted), None))
        }
        None => Some(fault("is no known key", None, nearest_key(&name))),
        Some(rule) if !accepts(rule, value.get_ref()) => {
            Some(fault("is not accepted", Some(rule.kind.accepted()), None))
        }
        Some(_) => None,
    };
    Entry { name, line, value: shown, fault }
}

/// The known key that was meant by `name`: one of the same table, else of any, else a table.
fn nearest_key(name: &str) -> Option<String> {
    let in_table = in_table(name);
    let (table, member) = in_table.rsplit_once('.').unwrap_or(("", &in_table));
    let parts = Key::parts;
    let misplaced = KEYS.iter().find(|key| parts(key).1 == member);
    if let Some(key) = misplaced {
        return Some(key.name.to_owned());
    }
    let is_candidate = |key: &&'static Key| table.is_empty() || parts(key).0 == table;
    let mut candidates: Vec<(&str, &str)> =
        KEYS.iter().filter(is_candidate).map(|key| (parts(key).1, key.name)).collect();
    if table.is_empty() {
        candidates.extend(tables().map(|table| (table, table)));
    }
    let written: Vec<&str> = candidates.iter().map(|(written, _)| *written).collect();
    let meant = nearest(member, &written)?;
    let chosen = name.split('.').nth(1).unwrap_or(NAME);
    candidates.iter().find(|(written, _)| *written == meant).map(|(_, name)| name.replace(NAME, chosen))
}

fn shorten(value: &str) -> String {
    const MOST: usize = 60;
    let line = value.lines().next().unwrap_or_default();
    if line.len() == value.len() && line.chars().count() <= MOST {
        return value.to_owned();
    }
    format!("{}…", line.chars().take(MOST).collect::<String>())
}

/// Whether `value` is one that the key takes.
fn accepts(key: &Key, value: &DeValue<'_>) -> bool {
    let text = value.as_str();
    match &key.kind {
        Kind::Boolean => value.is_bool(),
        Kind::Integer { least, most } => {
            value.as_integer().and_then(whole).is_some_and(|value| (*least..=*most).contains(&value))
        }
        Kind::Choice(choices) => text.is_some_and(|text| choices.contains(&text)),
        Kind::Cores => ratio(value).is_some_and(|cores| Cores::try_from(cores).is_ok()),
        Kind::Ratio => text == Some("off") || ratio(value).is_some_and(is_ratio),
        Kind::AbsolutePath => text.is_some_and(|text| text.starts_with('/')),
        Kind::Path | Kind::Text => text.is_some(),
        Kind::Paths => value.as_array().is_some_and(|paths| paths.iter().all(|path| path.get_ref().is_str())),
        Kind::Caches => is_list_of::<CacheUrl>(value),
        Kind::PublicKeys => is_list_of::<TrustedKey>(value),
        Kind::Services => is_list_of::<HostService>(value),
        Kind::AddressRanges => is_list_of::<AddressRange>(value),
        Kind::UserRange => text.is_some_and(|text| text.parse::<UserRange>().is_ok()),
        Kind::LinkName => text.is_some_and(|text| LinkName::parse(text).is_ok()),
        Kind::Domain => text.is_some_and(|text| text.parse::<Domain>().is_ok()),
        Kind::Subnet => text.is_some_and(is_subnet),
        Kind::Ipv6Subnet => text.is_some_and(|text| text.parse::<Ipv6Subnet>().is_ok()),
        Kind::Ipv4Address => text.is_some_and(|text| text.parse::<Ipv4Addr>().is_ok()),
        Kind::AddressAndPort => text.is_some_and(|text| text.parse::<SocketAddr>().is_ok()),
        Kind::HostAndPort => {
            text.and_then(|text| text.rsplit_once(':')).is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        }
    }
}

fn is_list_of<T: FromStr>(value: &DeValue<'_>) -> bool {
    let is_one = |text: &str| text.parse::<T>().is_ok();
    value.as_array().is_some_and(|items| items.iter().all(|item| item.get_ref().as_str().is_some_and(is_one)))
}

fn whole(integer: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn ratio(value: &DeValue<'_>) -> Option<f64> {
    let float = value.as_float().and_then(|float| float.as_str().parse::<f64>().ok());
    float.or_else(|| {
        value.as_integer().and_then(whole).and_then(|whole| i32::try_from(whole).ok()).map(f64::from)
    })
}

/// Whether its hundredths are from 1 to 10,000, as the reader rounds them.
fn is_ratio(ratio: f64) -> bool {
    (1.0..=10_000.0).contains(&(ratio * 100.0).round())
}

fn is_subnet(text: &str) -> bool {
    text.parse::<Ipv4Network>().is_ok_and(|subnet| (8..=30).contains(&subnet.prefix()))
}
