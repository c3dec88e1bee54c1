//! What is said of a VM's networks, ports, destinations and disks in place of its artifact.

use std::str::FromStr;

use clap::Args;
use serde_json::{Map, Value, json};
use vm_model::{EgressRule, NetworkName, PortForward};

use super::amounts::amount;
use super::changing::DEFAULT;

/// The first interface of a machine whose description names none (docs/vm-config.md).
const FIRST_INTERFACE: &str = "net0";
/// The word for an empty list.
const NONE: &str = "none";

/// Lists: what is given of one takes the place of all that was given of it before.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DeviceFlags {
    /// The network that an interface is in, as NETWORK or INTERFACE=NETWORK: the first interface, where it is called net0, or the one
    /// of that name. For several interfaces the flag is repeated
    #[arg(long, value_name = "[INTERFACE=]NETWORK", value_parser = network)]
    pub(crate) network: Vec<Interface>,
    /// A port of the host that leads to the VM, like 8080:80, 127.0.0.1:8080:80 or 5353:53/udp; repeated for several. `none`
    /// for none, `default` for those of the artifact
    #[arg(long, value_name = "HOST:GUEST", value_parser = listed::<PortForward>)]
    pub(crate) port: Vec<Listed<PortForward>>,
    /// What the VM may open connections to beyond its network, like 10.0.0.0/8 or 1.1.1.1:443; repeated for several. `none`
    /// for nothing, `default` for what the artifact says
    #[arg(long, value_name = "DESTINATION", value_parser = listed::<EgressRule>)]
    pub(crate) egress: Vec<Listed<EgressRule>>,
    /// A further disk, blank at first, like name=data,size=10G; or, of a disk that the artifact has, its size at least. Also
    /// persistence=from_image, persistent or ephemeral, and on_io_error=pause or report. Repeated for several; `default` for
    /// those of the artifact alone
    #[arg(long, value_name = "name=NAME,size=SIZE", value_parser = disk)]
    pub(crate) disk: Vec<Listed<Disk>>,
}

impl DeviceFlags {
    /// Members of `procurator`: what the flags say. What they take back is `null`.
    pub(crate) fn members(&self) -> Map<String, Value> {
        let networks =
            self.network.iter().map(|Interface { id, network }| json!({ "id": id, "network": network }));
        let networks: Vec<Value> = networks.collect();
        let members = [
            ("net", (!networks.is_empty()).then(|| networks.into())),
            ("ports", list(&self.port, |port| port.to_string().into())),
            ("egress", list(&self.egress, |rule| rule.to_string().into())),
            ("disks", list(&self.disk, |disk| disk.0.clone().into())),
        ];
        members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// An entry of a list, or a word for the whole of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listed<T> {
    /// What the artifact says.
    Default,
    /// An empty list.
    Nothing,
    /// This.
    Entry(T),
}

/// The network of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    id: String,
    network: String,
}

/// An entry of `procurator.disks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk(Map<String, Value>);

/// The list that was given; `None` where none was.
fn list<T>(given: &[Listed<T>], value: impl Fn(&T) -> Value) -> Option<Value> {
    if given.is_empty() {
        return None;
    }
    let mut entries = Vec::new();
    for entry in given {
        match entry {
            Listed::Default => return Some(Value::Null),
            Listed::Nothing => {}
            Listed::Entry(entry) => entries.push(value(entry)),
        }
    }
    Some(entries.into())
}

fn listed<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Listed<T>, String> {
    match text {
        DEFAULT => Ok(Listed::Default),
        NONE => Ok(Listed::Nothing),
        text => {
            text.parse().map(Listed::Entry).map_err(|problem| format!("{problem}, or {NONE}, or {DEFAULT}"))
        }
    }
}

fn network(text: &str) -> Result<Interface, String> {
    let (id, network) = text.split_once('=').unwrap_or((FIRST_INTERFACE, text));
    let is_sound = !id.is_empty() && NetworkName::parse(network).is_ok();
    let interface = is_sound.then(|| Interface { id: id.to_owned(), network: network.to_owned() });
    interface.ok_or_else(|| "the name of a network is accepted, or INTERFACE=NETWORK".to_owned())
}

fn disk(text: &str) -> Result<Listed<Disk>, String> {
    const ACCEPTED: &str = "name=NAME,size=SIZE[,persistence=…][,on_io_error=…] is accepted, or default";
    if text == DEFAULT {
        return Ok(Listed::Default);
    }
    let mut members = Map::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(|| ACCEPTED.to_owned())?;
        let one_of = |accepted: &[&str]| {
            let known = accepted.iter().find(|known| **known == value).map(|known| Value::from(*known));
            known.ok_or_else(|| format!("{key}={value}: {} is accepted", accepted.join(" or ")))
        };
        let (member, value) = match key {
            "name" => ("id", value.into()),
            "size" => ("size", amount(value).map_err(|accepted| format!("size={value}: {accepted}"))?.into()),
            "persistence" => ("persistence", one_of(&["from_image", "persistent", "ephemeral"])?),
            "on_io_error" => ("on_io_error", one_of(&["pause", "report"])?),
            _ => return Err(format!("{key} is not known: {ACCEPTED}")),
        };
        if members.insert(member.to_owned(), value).is_some() {
            return Err(format!("{key} is said twice: {ACCEPTED}"));
        }
    }
    if members.contains_key("id") { Ok(Listed::Entry(Disk(members))) } else { Err(ACCEPTED.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_what_was_given_and_words_take_them_back() {
        let flags = DeviceFlags {
            network: vec![network("storage").expect("valid"), network("lan1=default").expect("valid")],
            port: vec![listed("8080:80").expect("valid"), listed("127.0.0.1:53:53/udp").expect("valid")],
            egress: vec![listed("none").expect("valid")],
            disk: vec![disk("name=data,size=10G,persistence=ephemeral").expect("valid")],
        };
        let expected = json!({
            "net": [{ "id": "net0", "network": "storage" }, { "id": "lan1", "network": "default" }],
            "ports": ["8080:80/tcp", "127.0.0.1:53:53/udp"],
            "egress": [],
            "disks": [{ "id": "data", "size": 10_u64 << 30, "persistence": "ephemeral" }],
        });
        assert_eq!(Value::from(flags.members()), expected);
        let back = DeviceFlags {
            port: vec![listed("default").expect("valid")],
            disk: vec![disk("default").expect("valid")],
            ..DeviceFlags::default()
        };
        assert_eq!(Value::from(back.members()), json!({ "ports": null, "disks": null }));
        assert!(DeviceFlags::default().members().is_empty());
    }

    #[test]
    fn a_refusal_says_what_is_accepted() {
        assert!(listed::<PortForward>("80").expect_err("one").contains("8080:80"));
        assert!(listed::<EgressRule>("host").expect_err("no address").contains("or none, or default"));
        assert!(network("=x").expect_err("nameless").contains("INTERFACE=NETWORK"));
        for (text, words) in [
            ("data", "name=NAME,size=SIZE"),
            ("size=10G", "name=NAME,size=SIZE"),
            ("name=data,size=much", "size=much: a size like"),
            ("name=data,size=1G,size=2G", "size is said twice"),
            ("name=data,persistence=for-ever", "from_image or persistent or ephemeral"),
            ("name=data,bus=ide", "bus is not known"),
        ] {
            let refused = disk(text).expect_err(text);
            assert!(refused.contains(words), "{refused}");
        }
    }
}
