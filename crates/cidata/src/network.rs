//! `network-config`: the interfaces of a guest in version 2 of cloud-init's form, written as JSON, which is YAML too.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Serialize;
use vm_model::MacAddress;

/// The version of cloud-init's form.
const VERSION: u8 = 2;
/// Every destination. Older releases of cloud-init do not know the word `default`.
const EVERYTHING: &str = "0.0.0.0/0";

/// What a guest's network is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its interfaces, in order: the first one with a router has the default route.
    pub interfaces: Vec<Interface>,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its hardware address, by which the guest finds it.
    pub mac: MacAddress,
    /// Its address.
    pub address: Ipv4Addr,
    /// How many leading bits of the address name its network, at most 32.
    pub prefix: u32,
    /// Its MTU, where it is told one.
    pub mtu: Option<u16>,
    /// The router of its network; `None` where its network leads nowhere.
    pub router: Option<Ipv4Addr>,
    /// The name servers that are asked by it.
    pub name_servers: Vec<Ipv4Addr>,
    /// The domain that names are looked up in by it.
    pub domain: Option<String>,
}

#[derive(Serialize)]
struct Document {
    version: u8,
    ethernets: BTreeMap<String, Ethernet>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Ethernet {
    r#match: Match,
    set_name: String,
    addresses: [String; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "NameServers::is_empty")]
    nameservers: NameServers,
}

#[derive(Serialize)]
struct Match {
    macaddress: String,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Route {
    to: &'static str,
    via: Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_link: Option<bool>,
}

#[derive(Serialize)]
struct NameServers {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<Ipv4Addr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    search: Vec<String>,
}

impl NameServers {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.search.is_empty()
    }
}

impl Network {
    /// The text of `network-config`.
    ///
    /// Interfaces are named `eth0`, `eth1`, … in order. Those of cloud-init's back ends that know nothing of hardware
    /// addresses go by the name in the document, so each interface is given the name that it has there.
    pub(crate) fn to_text(&self) -> Result<String, serde_json::Error> {
        // Several default routes are refused by some back ends.
        let way_out = self.interfaces.iter().position(|interface| interface.router.is_some());
        let ethernets = self.interfaces.iter().enumerate().map(|(index, interface)| {
            let name = format!("eth{index}");
            (name.clone(), interface.ethernet(name, way_out == Some(index)))
        });
        serde_json::to_string_pretty(&Document { version: VERSION, ethernets: ethernets.collect() })
    }
}

impl Interface {
    /// Its part of the document, where it is called `name`; with the default route where it is the guest's way out.
    fn ethernet(&self, name: String, is_way_out: bool) -> Ethernet {
        let Self { mac, address, prefix, mtu, .. } = *self;
        let default_route = self.router.filter(|_| is_way_out).map(|router| Route {
            to: EVERYTHING,
            via: router,
            on_link: (!is_on_link(address, prefix, router)).then_some(true),
        });
        Ethernet {
            r#match: Match { macaddress: mac.to_string() },
            set_name: name,
            addresses: [format!("{address}/{prefix}")],
            mtu,
            routes: default_route.into_iter().collect(),
            nameservers: NameServers {
                addresses: self.name_servers.clone(),
                search: self.domain.iter().cloned().collect(),
            },
        }
    }
}

/// Whether `other` is in the network of `address`.
fn is_on_link(address: Ipv4Addr, prefix: u32, other: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0);
    address.to_bits() & mask == other.to_bits() & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(last: u8, prefix: u32, mtu: Option<u16>) -> Interface {
        let mac = MacAddress::new([2, 0x50, 10, 100, 0, last]);
        Interface {
            mac,
            address: Ipv4Addr::new(10, 100, 0, last),
            prefix,
            mtu,
            router: Some(Ipv4Addr::new(10, 100, 0, 1)),
            name_servers: vec![Ipv4Addr::new(10, 100, 0, 1), Ipv4Addr::new(192, 0, 2, 53)],
            domain: Some("vm.internal".to_owned()),
        }
    }

    fn network(interfaces: Vec<Interface>) -> Network {
        Network { interfaces }
    }

    #[test]
    fn the_first_interface_has_the_default_route_and_each_its_own_address() {
        let text = network(vec![interface(2, 16, Some(1400)), interface(3, 16, None)]).to_text();
        insta::assert_snapshot!(text.expect("text"), @r#"
        {
          "version": 2,
          "ethernets": {
            "eth0": {
              "match": {
                "macaddress": "02:50:0a:64:00:02"
              },
              "set-name": "eth0",
              "addresses": [
                "10.100.0.2/16"
              ],
              "mtu": 1400,
              "routes": [
                {
                  "to": "0.0.0.0/0",
                  "via": "10.100.0.1"
                }
              ],
              "nameservers": {
                "addresses": [
                  "10.100.0.1",
                  "192.0.2.53"
                ],
                "search": [
                  "vm.internal"
                ]
              }
            },
            "eth1": {
              "match": {
                "macaddress": "02:50:0a:64:00:03"
              },
              "set-name": "eth1",
              "addresses": [
                "10.100.0.3/16"
              ],
              "nameservers": {
                "addresses": [
                  "10.100.0.1",
                  "192.0.2.53"
                ],
                "search": [
                  "vm.internal"
                ]
              }
            }
          }
        }
        "#);
    }

    #[test]
    fn a_router_outside_the_mask_is_said_to_be_on_the_link() {
        let text = network(vec![interface(2, 32, None)]).to_text().expect("text");
        assert!(text.contains(r#""on-link": true"#), "{text}");
        let bare = Interface { name_servers: Vec::new(), domain: None, ..interface(2, 24, None) };
        let text = network(vec![bare]).to_text().expect("text");
        assert!(!text.contains("on-link") && !text.contains("nameservers"), "{text}");
    }

    #[test]
    fn the_way_out_is_by_the_first_interface_whose_network_has_one() {
        let closed = Interface { router: None, ..interface(2, 16, None) };
        let text = network(vec![closed.clone(), interface(3, 16, None)]).to_text().expect("text");
        let (eth0, eth1) = text.split_once("eth1").expect("two interfaces");
        assert!(!eth0.contains("routes") && eth1.contains("routes"), "{text}");
        assert!(!network(vec![closed]).to_text().expect("text").contains("routes"));
    }

    #[test]
    fn every_prefix_says_who_is_on_the_link() {
        let (address, near) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3));
        let on_link = |prefix| is_on_link(address, prefix, near);
        assert_eq!((on_link(0), on_link(31), on_link(32)), (true, true, false));
    }
}
