//! Which VM a word on the command line means: a name, or the beginning of exactly one.

use std::str::FromStr;

use admin::{ApiError, no_such_vm};
use thiserror::Error;
use vm_model::VmId;

/// A VM's name as it was typed: whole, or its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VmName(String);

/// Why a word names no VM.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum NamingError {
    /// No VM can have such a name.
    #[error("invalid VM name {0:?}: a DNS label like web-1, or the beginning of one, is accepted")]
    Invalid(String),
    /// Several VMs begin so.
    #[error("{word:?} is the beginning of {}: type more of it", .matches.join(", "))]
    Ambiguous { word: String, matches: Vec<String> },
    /// No VM begins so.
    #[error("{0}")]
    Unknown(ApiError),
}

impl FromStr for VmName {
    type Err = NamingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // What a label may begin with may end in a hyphen.
        match VmId::parse(text.strip_suffix('-').unwrap_or(text)) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(NamingError::Invalid(text.to_owned())),
        }
    }
}

impl VmName {
    /// The word as it was typed.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The one of `vms` that is meant.
    pub(crate) fn among(&self, vms: &[VmId]) -> Result<VmId, NamingError> {
        let word = &self.0;
        if let Some(vm) = vms.iter().find(|vm| vm.as_str() == word) {
            return Ok(vm.clone());
        }
        let begun: Vec<&VmId> = vms.iter().filter(|vm| vm.as_str().starts_with(word.as_str())).collect();
        match begun[..] {
            [vm] => Ok(vm.clone()),
            [] => {
                let names: Vec<&str> = vms.iter().map(VmId::as_str).collect();
                Err(NamingError::Unknown(no_such_vm(word, &names)))
            }
            _ => {
                let matches = begun.iter().map(ToString::to_string).collect();
                Err(NamingError::Ambiguous { word: word.clone(), matches })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(word: &str, vms: &[&str]) -> Result<String, String> {
        let vms: Vec<VmId> = vms.iter().map(|vm| VmId::new(vm)).collect();
        let name: VmName = word.parse().map_err(|problem: NamingError| problem.to_string())?;
        name.among(&vms).map(|vm| vm.to_string()).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_whole_name_or_the_beginning_of_one_is_enough() {
        let vms = ["db-1", "web", "web-1", "web-2"];
        for (word, vm) in [("web", "web"), ("web-2", "web-2"), ("d", "db-1"), ("db-", "db-1")] {
            assert_eq!(meant(word, &vms), Ok(vm.to_owned()), "{word}");
        }
    }

    #[test]
    fn what_is_not_clear_is_told() {
        let vms = ["db-1", "web-1", "web-2"];
        let told = |word| meant(word, &vms).expect_err(word);
        assert_eq!(told("web-"), "\"web-\" is the beginning of web-1, web-2: type more of it");
        assert_eq!(told("wbe-1"), "there is no VM wbe-1; the nearest is web-1");
        assert!(told("No!").contains("DNS label"));
        assert_eq!(meant("x", &[]), Err("there is no VM x; this host has no VMs".to_owned()));
    }
}
