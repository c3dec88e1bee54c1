//! Interface names that other software on a host takes for its own.
//!
//! systemd-networkd configures every link whose name matches one of its `.network` files. A TAP under such a name is
//! taken out of the bridge and given addresses, a DHCP server and masquerading that nobody asked for. Other programs
//! (udev, container engines, libvirt) look for the names they give themselves. So no TAP of ours has such a name.

use crate::LinkName;

/// A kind of names, and who looks for them.
struct Claim {
    /// A name, or the beginning of names followed by `*`.
    glob: &'static str,
    owner: &'static str,
}

const fn claim(glob: &'static str, owner: &'static str) -> Claim {
    Claim { glob, owner }
}

const SYSTEMD: &str = "systemd-networkd";
const UDEV: &str = "the names that udev gives to hardware";

/// What systemd, up to version 258, ships in `/usr/lib/systemd/network`, and what other programs call links.
const CLAIMS: [Claim; 27] = [
    claim("vt-*", SYSTEMD),
    claim("ve-*", SYSTEMD),
    claim("vb-*", SYSTEMD),
    claim("vz-*", SYSTEMD),
    claim("host0", SYSTEMD),
    claim("6rd-*", SYSTEMD),
    claim("ns-*", SYSTEMD),
    claim("mv-*", SYSTEMD),
    claim("iv-*", SYSTEMD),
    claim("en*", UDEV),
    claim("eth*", UDEV),
    claim("wl*", UDEV),
    claim("ww*", UDEV),
    claim("sl*", UDEV),
    claim("ib*", UDEV),
    claim("macvlan*", "tools that make such links"),
    claim("macvtap*", "tools that make such links"),
    claim("ipvlan*", "tools that make such links"),
    claim("veth*", "container engines"),
    claim("docker*", "Docker"),
    claim("podman*", "Podman"),
    claim("cni*", "Kubernetes"),
    claim("cali*", "Calico"),
    claim("lxc*", "LXC"),
    claim("lxd*", "LXD"),
    claim("virbr*", "libvirt"),
    claim("vnet*", "libvirt"),
];

/// The glob that `name` matches and whose it is; `None` for a name that is free for us.
pub(crate) fn claim_on(name: &LinkName) -> Option<(&'static str, &'static str)> {
    CLAIMS.iter().find(|claim| matches(claim.glob, name.as_str())).map(|claim| (claim.glob, claim.owner))
}

fn matches(glob: &str, name: &str) -> bool {
    match glob.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == glob,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claimed_names_are_known_with_their_owner_and_others_are_free() {
        let claim = |name: &str| claim_on(&LinkName::parse(name).unwrap());
        assert_eq!(claim("vt-web-1"), Some(("vt-*", "systemd-networkd")));
        assert_eq!(claim("host0").map(|(glob, _)| glob), Some("host0"));
        assert_eq!(claim("wlp3s0").map(|(glob, _)| glob), Some("wl*"));
        assert_eq!(claim("vnet7").map(|(_, owner)| owner), Some("libvirt"));
        for free in ["pw-web-1-abcde", "tap0", "host01", "vt0", "br-procurator", "web"] {
            assert_eq!(claim(free), None, "{free}");
        }
    }
}
