//! Our tables as `nft` shows them: rules, and apart from them the elements of sets, which change with every VM.

use std::collections::BTreeSet;

use super::GUARD;
use crate::port_filter::Identities;

/// What stands before the elements of a set in a listing, and after them.
const ELEMENTS: (&str, &str) = ("elements = {", "}");

/// A listing, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    rules: String,
    elements: String,
}

impl Listing {
    pub(crate) fn new(text: &str) -> Self {
        let (start, end) = ELEMENTS;
        let (mut rules, mut elements) = (String::new(), String::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(start) {
            let (inside, after) = after.split_once(end).unwrap_or((after, ""));
            rules.push_str(before.trim_end());
            elements.push_str(inside);
            elements.push(',');
            rest = after;
        }
        rules.push_str(rest);
        Self { rules, elements }
    }

    /// Everything but elements.
    pub(crate) fn rules(&self) -> &str {
        &self.rules
    }

    /// The links that rules guard, by name, or by index where the link was gone when they were listed.
    pub(crate) fn guarded(&self) -> BTreeSet<&str> {
        let guards = self.rules.lines().filter(|rule| rule.contains(GUARD));
        let links = guards.filter_map(|rule| rule.trim().strip_prefix("iif ")?.split_whitespace().next());
        links.map(|link| link.trim_matches('"')).collect()
    }

    /// The values that stand behind a port of this name.
    pub(crate) fn of_port<'a>(&'a self, name: &str) -> BTreeSet<&'a str> {
        let values = self.elements.split(',').filter_map(|element| {
            let (port, value) = element.trim().split_once(" . ")?;
            (port.trim_matches('"') == name).then_some(value)
        });
        values.collect()
    }

    /// Whether every port has its addresses there. `nft` shows a port by the name of its link, so only the addresses are
    /// looked at: no two ports have the same.
    pub(crate) fn shows_every_port(&self, identities: &Identities) -> bool {
        let values: BTreeSet<&str> = self
            .elements
            .split(',')
            .filter_map(|element| Some(element.trim().split_once(" . ")?.1))
            .collect();
        identities.values().all(|identity| {
            values.contains(identity.mac.to_string().as_str())
                && values.contains(identity.address.to_string().as_str())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port_filter::PortIdentity;

    const LISTING: &str = "table bridge p {\n\tset macs {\n\t\ttypeof iif . ether saddr\n\t\telements = { \"pw-web\" . \
        02:50:0a:64:00:02,\n\t\t\t     9 . 02:50:0a:64:00:03 }\n\t}\n\tset ipv4 {\n\t\telements = { \"pw-web\" . \
        10.100.0.2 }\n\t}\n\tchain c {\n\t\tdrop\n\t}\n}\n";

    #[test]
    fn guarded_links_are_read_from_the_rules_that_guard_them() {
        let listing = Listing::new(
            "chain forward {\n\t\tiifname \"br-p\" drop comment \"other\"\n\t\tiif \"lan1\" oifname != \"br-p\" ct state \
             != { established, related } drop comment \"this host forwards for VMs only\"\n\t\tiif 9 oifname != \
             \"br-p\" drop comment \"this host forwards for VMs only\"\n\t}\n",
        );
        assert_eq!(listing.guarded(), BTreeSet::from(["lan1", "9"]));
    }

    #[test]
    fn rules_and_elements_are_told_apart() {
        let listing = Listing::new(LISTING);
        assert!(listing.rules().contains("drop") && listing.rules().contains("set ipv4"));
        assert!(!listing.rules().contains("pw-web"), "{}", listing.rules());
        assert_eq!(listing.of_port("pw-web"), BTreeSet::from(["02:50:0a:64:00:02", "10.100.0.2"]));
        let identity = |last: u8| PortIdentity {
            mac: format!("02:50:0a:64:00:0{last}").parse().unwrap(),
            address: [10, 100, 0, last].into(),
        };
        assert!(listing.shows_every_port(&Identities::from([(7, identity(2))])));
        assert!(!listing.shows_every_port(&Identities::from([(7, identity(2)), (9, identity(3))])));
    }
}
