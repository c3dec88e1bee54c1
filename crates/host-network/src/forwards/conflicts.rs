//! Two VMs that want one port of the host: the first has it.

use thiserror::Error;
use tracing::warn;
use vm_model::{PortForward, VmId};

use crate::bound_port::Ports;

/// A port of the host leads to another VM already.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the port forward {wanted} of {vm} cannot be had: {held} of {holder} has that port of this host")]
pub struct ForwardConflict {
    /// Who wants it.
    pub vm: VmId,
    /// The forward that is not to be had.
    pub wanted: PortForward,
    /// Who has it.
    pub holder: VmId,
    /// By which forward.
    pub held: PortForward,
}

/// The first of `forwards` of `vm` whose port of the host leads to another VM.
pub(crate) fn find_conflict(ports: &Ports, vm: &VmId, forwards: &[PortForward]) -> Option<ForwardConflict> {
    let others = || ports.values().filter(|port| port.vm != *vm);
    forwards.iter().find_map(|wanted| {
        others().find_map(|port| {
            let held = port.access.forwards.iter().find(|held| held.conflicts_with(wanted))?;
            Some(ForwardConflict { vm: vm.clone(), wanted: *wanted, holder: port.vm.clone(), held: *held })
        })
    })
}

/// Takes every forward out of `ports` that conflicts with one before it: rules cannot be made with both.
pub(crate) fn drop_conflicts(ports: &mut Ports) {
    let mut kept: Vec<(VmId, PortForward)> = Vec::new();
    for port in ports.values_mut() {
        let vm = &port.vm;
        port.access.forwards.retain(|wanted| {
            let holder = kept.iter().find(|(_, held)| held.conflicts_with(wanted)).map(|(holder, _)| holder);
            if let Some(holder) = holder {
                warn!(vm_id = %vm, forward = %wanted, %holder, "a port forward is dropped: another has that port of this host");
                return false;
            }
            kept.push((vm.clone(), *wanted));
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use vm_model::NetworkAccess;

    use super::*;
    use crate::bound_port::BoundPort;
    use crate::port_filter::PortIdentity;

    #[test]
    fn a_conflict_names_both_and_a_vm_has_none_with_itself() {
        let forward = |text: &str| text.parse::<PortForward>().unwrap();
        let identity =
            PortIdentity { mac: "02:50:0a:64:00:02".parse().unwrap(), address: [10, 100, 0, 2].into() };
        let access = NetworkAccess { forwards: vec![forward("8080:80")], egress: None };
        let ports = Ports::from([(7, BoundPort { vm: VmId::new("web-1"), identity, access })]);
        let wanted = [forward("81:80"), forward("127.0.0.1:8080:80")];
        let conflict = find_conflict(&ports, &VmId::new("web-2"), &wanted).unwrap();
        assert_eq!(
            conflict.to_string(),
            "the port forward 127.0.0.1:8080:80/tcp of web-2 cannot be had: 8080:80/tcp of web-1 has that port of this host"
        );
        assert_eq!(find_conflict(&ports, &VmId::new("web-1"), &wanted), None);
        assert_eq!(find_conflict(&ports, &VmId::new("web-2"), &[forward("8080:80/udp")]), None);

        let other = BoundPort { vm: VmId::new("web-2"), ..ports[&7].clone() };
        let mut both = Ports::from([(7, ports[&7].clone()), (8, other)]);
        drop_conflicts(&mut both);
        assert_eq!((both[&7].access.forwards.len(), both[&8].access.forwards.len()), (1, 0));
    }
}
