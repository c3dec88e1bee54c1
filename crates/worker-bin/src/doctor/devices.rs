//! Device nodes that VMs' networks need.

use std::fs::File;
use std::io;

use worker::vms::VhostNet;

use super::finding::{Finding, advice, command};
use super::host::Host;
use crate::settings::Settings;

const TUN: &str = "TAPs";
const VHOST: &str = "vhost-net";

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    tun: Node,
    /// `None` where the configuration does not want it.
    vhost_net: Option<Node>,
}

/// What came of opening a device node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Works,
    Absent,
    Refused(String),
}

pub(super) fn look(host: &Host, settings: &Settings) -> Facts {
    let vhost_net = match settings.manager.vhost_net {
        VhostNet::WherePossible => Some(open(host, "/dev/vhost-net")),
        VhostNet::Off => None,
    };
    Facts { tun: open(host, "/dev/net/tun"), vhost_net }
}

fn open(host: &Host, path: &str) -> Node {
    match File::options().read(true).write(true).open(host.path(path)) {
        Ok(_) => Node::Works,
        // The node is there, and no driver behind it.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ENODEV) => {
            Node::Absent
        }
        Err(error) => Node::Refused(error.to_string()),
    }
}

/// No such device (errno(3)).
const ENODEV: i32 = 19;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![match &facts.tun {
        Node::Works => Finding::ok(TUN, "/dev/net/tun can be used"),
        Node::Absent => Finding::fail(TUN, "there is no /dev/net/tun", command("modprobe tun")),
        Node::Refused(why) => Finding::fail(
            TUN,
            format!("/dev/net/tun cannot be opened: {why}"),
            advice("run the worker as root, or let its user read and write the device"),
        ),
    }];
    findings.extend(facts.vhost_net.as_ref().map(|node| match node {
        Node::Works => Finding::ok(VHOST, "/dev/vhost-net can be used"),
        Node::Absent => Finding::warn(
            VHOST,
            "there is no /dev/vhost-net, which network.vhost_net asks for: VMs' own threads move frames",
            command("modprobe vhost_net"),
        ),
        Node::Refused(why) => Finding::warn(
            VHOST,
            format!("/dev/vhost-net cannot be opened: {why}"),
            advice("run the worker as root, or let its user read and write the device"),
        ),
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::host::testing::host;
    use super::*;

    #[test]
    fn only_what_is_wanted_is_judged() {
        let (_folder, host) = host(&[("dev/net/tun", "")]);
        let seen = Facts { tun: open(&host, "/dev/net/tun"), vhost_net: None };
        assert_eq!(judge(&seen), [Finding::ok(TUN, "/dev/net/tun can be used")]);
        let wanted =
            Facts { tun: Node::Refused("no".to_owned()), vhost_net: Some(open(&host, "/dev/vhost-net")) };
        let verdicts: Vec<Verdict> = judge(&wanted).iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Fail, Verdict::Warn]);
    }
}
