//! An object that was held against the table: only supported keys, each of the type that its rule states.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use vm_model::{Cores, MacAddress, shown_path};

/// An object all of whose members are known, supported and well-typed.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) path: String,
    pub(super) members: Vec<(&'static str, Value)>,
}

/// A well-typed value.
#[derive(Debug)]
pub(super) enum Value {
    Section(Section),
    List(Vec<Section>),
    Boolean(bool),
    Integer(u64),
    Cores(Cores),
    Integers(Vec<u64>),
    Text(String),
    Texts(Vec<String>),
    /// Texts by names of the author's choice.
    NamedTexts(BTreeMap<String, String>),
    /// Objects by names of the author's choice.
    Named(Vec<(String, Section)>),
    Mac(MacAddress),
    Address(Ipv4Addr),
}

impl Section {
    /// The JSON path of member `name`.
    pub(super) fn path_of(&self, name: &str) -> String {
        shown_path(&self.path, name)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.members.iter().find_map(|(known, value)| (*known == name).then_some(value))
    }

    /// The object `name`.
    pub(super) fn section(&self, name: &str) -> Option<&Self> {
        match self.value(name) {
            Some(Value::Section(section)) => Some(section),
            _ => None,
        }
    }

    /// The objects of the list `name`.
    pub(super) fn list(&self, name: &str) -> &[Self] {
        match self.value(name) {
            Some(Value::List(entries)) => entries,
            _ => &[],
        }
    }

    /// The boolean `name`.
    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        match self.value(name) {
            Some(Value::Boolean(value)) => Some(*value),
            _ => None,
        }
    }

    /// The integer `name`, where it fits the type that the caller needs; the table's bounds see to that.
    pub(super) fn integer<T: TryFrom<u64>>(&self, name: &str) -> Option<T> {
        match self.value(name) {
            Some(Value::Integer(value)) => T::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The number of cores `name`.
    pub(super) fn cores(&self, name: &str) -> Option<Cores> {
        match self.value(name) {
            Some(Value::Cores(cores)) => Some(*cores),
            _ => None,
        }
    }

    /// The integers of the list `name`, each where it fits the type that the caller needs.
    pub(super) fn integers<T: TryFrom<u64>>(&self, name: &str) -> Vec<T> {
        match self.value(name) {
            Some(Value::Integers(values)) => {
                values.iter().filter_map(|value| T::try_from(*value).ok()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The text `name`.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Some(Value::Text(value)) => Some(value),
            _ => None,
        }
    }

    /// The texts of the list `name`.
    pub(super) fn texts(&self, name: &str) -> &[String] {
        match self.value(name) {
            Some(Value::Texts(values)) => values,
            _ => &[],
        }
    }

    /// The objects under `name`, with their names.
    pub(super) fn named(&self, name: &str) -> &[(String, Self)] {
        match self.value(name) {
            Some(Value::Named(entries)) => entries,
            _ => &[],
        }
    }

    /// The texts under `name`, by their names.
    pub(super) fn named_texts(&self, name: &str) -> BTreeMap<String, String> {
        match self.value(name) {
            Some(Value::NamedTexts(texts)) => texts.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// Whether anything is said of `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// The hardware address `name`.
    pub(super) fn mac(&self, name: &str) -> Option<MacAddress> {
        match self.value(name) {
            Some(Value::Mac(address)) => Some(*address),
            _ => None,
        }
    }

    /// The IPv4 address `name`.
    pub(super) fn address(&self, name: &str) -> Option<Ipv4Addr> {
        match self.value(name) {
            Some(Value::Address(address)) => Some(*address),
            _ => None,
        }
    }
}
