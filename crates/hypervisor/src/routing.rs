//! Typed interrupt routes: which pin or message a GSI (global system interrupt) leads to.

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1,
};

/// An interrupt controller of the full in-kernel irqchip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Irqchip {
    /// The first 8259, pins 0–7.
    PicMaster,
    /// The second 8259, pins 0–7.
    PicSlave,
    /// The I/O APIC, pins 0–23.
    Ioapic,
}

/// Where an interrupt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteTarget {
    /// A pin of an in-kernel interrupt controller.
    Irqchip {
        /// The controller.
        chip: Irqchip,
        /// The pin on it.
        pin: u32,
    },
    /// A message-signalled interrupt, as a device's MSI-X table holds it.
    Msi {
        /// The message address.
        address: u64,
        /// The message data.
        data: u32,
    },
}

/// One line of the routing table. A GSI may have several lines: it then reaches each target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The global system interrupt, as `irqfd`s name it.
    pub gsi: u32,
    /// Where it ends.
    pub target: RouteTarget,
}

/// The routes that the kernel sets up with the irqchip: each of GSIs 0–23 to the I/O APIC pin of its number, and
/// 0–15 also to the PICs. A table handed to [`Vm::set_routing`](crate::Vm::set_routing) replaces them, so it
/// usually begins with these.
pub fn default_routes() -> impl Iterator<Item = Route> {
    (0..24).flat_map(|gsi| {
        let pic = match gsi {
            0..8 => Some((Irqchip::PicMaster, gsi)),
            8..16 => Some((Irqchip::PicSlave, gsi - 8)),
            _ => None,
        };
        let targets = pic.into_iter().chain([(Irqchip::Ioapic, gsi)]);
        targets.map(move |(chip, pin)| Route { gsi, target: RouteTarget::Irqchip { chip, pin } })
    })
}

impl From<&Route> for kvm_irq_routing_entry {
    fn from(route: &Route) -> Self {
        let (type_, u) = match route.target {
            RouteTarget::Irqchip { chip, pin } => {
                let irqchip = match chip {
                    Irqchip::PicMaster => KVM_IRQCHIP_PIC_MASTER,
                    Irqchip::PicSlave => KVM_IRQCHIP_PIC_SLAVE,
                    Irqchip::Ioapic => KVM_IRQCHIP_IOAPIC,
                };
                let irqchip = kvm_irq_routing_irqchip { irqchip, pin };
                (KVM_IRQ_ROUTING_IRQCHIP, kvm_irq_routing_entry__bindgen_ty_1 { irqchip })
            }
            RouteTarget::Msi { address, data } => {
                let [address_lo, address_hi] = halves(address);
                let __bindgen_anon_1 = kvm_irq_routing_msi__bindgen_ty_1::default();
                let msi = kvm_irq_routing_msi { address_lo, address_hi, data, __bindgen_anon_1 };
                (KVM_IRQ_ROUTING_MSI, kvm_irq_routing_entry__bindgen_ty_1 { msi })
            }
        };
        kvm_irq_routing_entry { gsi: route.gsi, type_, u, ..Default::default() }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "splitting a register into its halves")]
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// The kernel's form of a table; `None` when it has more entries than the kernel takes.
pub(crate) fn table(routes: &[Route]) -> Option<KvmIrqRouting> {
    let entries: Vec<kvm_irq_routing_entry> = routes.iter().map(kvm_irq_routing_entry::from).collect();
    KvmIrqRouting::from_entries(&entries).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_table_is_the_kernels() {
        let routes: Vec<_> = default_routes().collect();
        let pic = routes.iter().filter(|route| {
            matches!(route.target, RouteTarget::Irqchip { chip: Irqchip::PicMaster | Irqchip::PicSlave, .. })
        });
        assert_eq!(pic.count(), 16);
        assert_eq!(routes.len(), 40);
        let serial: Vec<_> = routes.iter().filter(|route| route.gsi == 4).map(|route| route.target).collect();
        assert_eq!(
            serial,
            [
                RouteTarget::Irqchip { chip: Irqchip::PicMaster, pin: 4 },
                RouteTarget::Irqchip { chip: Irqchip::Ioapic, pin: 4 }
            ]
        );
        assert!(routes.iter().all(|route| route.gsi < 24));
    }

    #[test]
    fn too_many_routes_have_no_table() {
        let route = Route { gsi: 24, target: RouteTarget::Msi { address: 0xfee0_0000, data: 0x30 } };
        assert!(table(&vec![route; 4096]).is_some());
        assert!(table(&vec![route; 4097]).is_none());
    }
}
