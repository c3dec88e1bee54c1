//! Names and marks on links: what a link may be called, what ours are called, and how ours are told from others'.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use vm_model::{MacAddress, VmId};

use crate::uplink::VlanId;

/// The longest name the kernel gives a link, in bytes (`IFNAMSIZ` less the terminator).
pub const LINK_NAME_LIMIT: usize = 15;

/// What every alias that this crate sets begins with.
pub(crate) const ALIAS_PREFIX: &str = "procurator:";
/// What every TAP name that this crate derives begins with.
const TAP_PREFIX: &str = "pw-";
/// The alias of a bridge that this crate created.
pub(crate) const BRIDGE_ALIAS: &str = "procurator:bridge";
/// What the alias of the link of an uplink's VLAN begins with; its bridge's name follows.
const UPLINK_ALIAS: &str = "procurator:uplink:";

/// The name of a network link: 1 to 15 of `A-Z a-z 0-9 . _ -`.
///
/// Narrower than the kernel's rule: the name also stands in sysctl paths and in nftables rules, where other
/// characters have a meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkName(String);

/// Why a text is no [`LinkName`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "invalid link name {text:?}: {problem}; 1 to {LINK_NAME_LIMIT} bytes of A-Z, a-z, 0-9, '.', '_' and '-' are accepted"
)]
pub struct InvalidLinkName {
    text: String,
    problem: String,
}

impl LinkName {
    /// The name that `text` spells.
    ///
    /// # Errors
    /// Says which rule `text` breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidLinkName> {
        let problem = if text.is_empty() {
            "it is empty".to_owned()
        } else if text.len() > LINK_NAME_LIMIT {
            format!("it has {} bytes, over the limit of {LINK_NAME_LIMIT}", text.len())
        } else if let Some(odd) = text.chars().find(|character| !is_accepted(*character)) {
            format!("it has the character {odd:?}")
        } else if matches!(text, "." | ".." | "all" | "default") {
            "it has a meaning of its own in the kernel".to_owned()
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(InvalidLinkName { text: text.chars().take(80).collect(), problem })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_accepted(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

impl FromStr for LinkName {
    type Err = InvalidLinkName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The `attempt`-th name for the TAP of interface `nic` of `vm`: `pw-`, a readable piece of the id, and a hash
/// that tells interfaces and attempts apart. Who it is for in full stands in the link's alias.
///
/// The prefix must match no file that systemd ships for interface names: see [`crate::claimed_names`].
pub(crate) fn tap_name(vm: &VmId, nic: &str, attempt: u8) -> LinkName {
    let hash = hash(&[vm.as_str().as_bytes(), nic.as_bytes(), &[attempt]]);
    let readable: String = vm.as_str().chars().take(6).collect();
    LinkName(format!("{TAP_PREFIX}{}-{}", readable.trim_end_matches('-'), digits(hash)))
}

/// Five digits of a hash.
fn digits(hash: u64) -> String {
    const DIGITS: [u8; 32] = *b"abcdefghijklmnopqrstuvwxyz234567";
    // The high bits of this hash are its better mixed ones.
    let shifts = [59_u32, 54, 49, 44, 39];
    let digit = |shift: u32| {
        let place = usize::try_from(hash >> shift & 31).expect("five bits fit an index");
        char::from(DIGITS[place])
    };
    shifts.into_iter().map(digit).collect()
}

/// The alias that says whose TAP a link is.
pub(crate) fn tap_alias(vm: &VmId, nic: &str) -> String {
    format!("{ALIAS_PREFIX}{vm}/{nic}")
}

/// Whose TAP a link with this alias is; `None` for a link that is not ours.
pub(crate) fn tap_owner(alias: &str) -> Option<(VmId, &str)> {
    let (vm, nic) = alias.strip_prefix(ALIAS_PREFIX)?.split_once('/')?;
    Some((VmId::parse(vm).ok()?, nic))
}

/// The alias of the link that we make for the VLAN of the uplink of `bridge`.
pub(crate) fn uplink_vlan_alias(bridge: &LinkName) -> String {
    format!("{UPLINK_ALIAS}{bridge}")
}

/// The name of the link that we make for a VLAN of the interface `parent`: as usual, `eth1.100`, where the kernel takes names of
/// that length.
pub(crate) fn uplink_vlan_name(parent: &LinkName, vlan: VlanId) -> LinkName {
    let vlan = vlan.get();
    let usual = format!("{parent}.{vlan}");
    if usual.len() <= LINK_NAME_LIMIT {
        return LinkName(usual);
    }
    LinkName(format!("vlan{vlan}-{}", digits(hash(&[parent.as_str().as_bytes()]))))
}

/// The hardware address of the bridge `name`: unicast, locally administered, the same at every start. Without an
/// address of its own a bridge takes its ports' lowest one and changes it as they come and go.
pub(crate) fn bridge_mac(name: &LinkName) -> MacAddress {
    let [a, b, c, d, ..] = hash(&[name.as_str().as_bytes()]).to_be_bytes();
    MacAddress::new([0x06, 0x50, a, b, c, d])
}

/// FNV-1a, 64 bits, over length-separated parts. Not against anybody: only to spread names.
fn hash(parts: &[&[u8]]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = OFFSET;
    for part in parts {
        for byte in part.iter().copied().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }
    // FNV leaves the high bits of short inputs alike; one multiplication by the golden ratio mixes them.
    (hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::claimed_names::claim_on;

    #[test]
    fn a_long_bridge_name_is_refused_with_the_limit() {
        assert_eq!(
            LinkName::parse("br-procurator-too-long").unwrap_err().to_string(),
            "invalid link name \"br-procurator-too-long\": it has 22 bytes, over the limit of 15; 1 to 15 bytes of \
             A-Z, a-z, 0-9, '.', '_' and '-' are accepted"
        );
    }

    #[test]
    fn names_with_a_meaning_elsewhere_are_refused() {
        for text in ["", ".", "..", "all", "default", "a/b", "br%d", "br*", "a b", "a:1", "brücke"] {
            assert!(LinkName::parse(text).is_err(), "{text:?} must be refused");
        }
    }

    #[test]
    fn the_link_of_a_vlan_is_called_as_usual_where_that_fits() {
        let name = |parent: &str, vlan| {
            uplink_vlan_name(&LinkName::parse(parent).unwrap(), VlanId::new(vlan).unwrap())
        };
        assert_eq!(name("eth1", 100).as_str(), "eth1.100");
        let long = name("enp65s0f1np1", 4094);
        assert!(long.as_str().starts_with("vlan4094-"), "{long}");
        assert_eq!(LinkName::parse(long.as_str()), Ok(long.clone()));
        assert_ne!(long, name("enp65s0f0np0", 4094));
        assert_eq!(tap_owner(&uplink_vlan_alias(&long)), None);
    }

    #[test]
    fn tap_names_seldom_collide() {
        let names: HashSet<_> =
            (0..1000).map(|index| tap_name(&VmId::new(&format!("web-{index}")), "net0", 0)).collect();
        assert!(names.len() >= 998, "{} of 1000 names are distinct", names.len());
        let vm = VmId::new("web-1");
        assert_ne!(tap_name(&vm, "net0", 0), tap_name(&vm, "net0", 1));
        assert_ne!(tap_name(&vm, "net0", 0), tap_name(&vm, "net1", 0));
    }

    proptest! {
        #[test]
        fn tap_names_are_valid_and_aliases_name_their_owner(
            vm in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", nic in ".{0,20}", attempt: u8,
        ) {
            let vm = VmId::parse(&vm)?;
            let name = tap_name(&vm, &nic, attempt);
            prop_assert_eq!(claim_on(&name), None);
            prop_assert_eq!(LinkName::parse(name.as_str()), Ok(name));
            let alias = tap_alias(&vm, &nic);
            prop_assert_eq!(tap_owner(&alias), Some((vm, nic.as_str())));
        }

        #[test]
        fn any_alias_is_read_without_panic(alias in ".{0,40}") {
            let _ = tap_owner(&alias);
        }
    }
}
