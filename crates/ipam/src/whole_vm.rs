//! The leases of all interfaces of one VM at once.
//!
//! One by one they could stand in each other's way: an interface that wishes for nothing might keep, or be given, what
//! another one of the same VM wishes for.

use vm_model::VmId;

use crate::{AllocationError, Lease, Pool, PoolChange, Wish, Wished};

impl Pool {
    /// As [`PoolChange::allocate_all`], kept where it is granted.
    ///
    /// # Errors
    /// As those of [`PoolChange::allocate_all`]. Nothing has changed then.
    pub fn allocate_all(
        &mut self,
        vm: &VmId,
        wishes: &[(&str, Wish)],
    ) -> Result<Vec<Lease>, AllocationError> {
        let mut change = self.change();
        let leases = change.allocate_all(vm, wishes)?;
        change.keep();
        Ok(leases)
    }
}

impl PoolChange<'_> {
    /// Gives each interface of `vm` the lease that grants its wish, in the order of `wishes`: the one it holds where that
    /// will do, else a new one; its address stays as long as nothing else is wished for. Leases of interfaces that are not among
    /// `wishes` end.
    ///
    /// # Errors
    /// If two of the wishes are for the same, or one cannot be granted. Leases of this VM may have ended by then: do not keep
    /// the change.
    pub fn allocate_all(
        &mut self,
        vm: &VmId,
        wishes: &[(&str, Wish)],
    ) -> Result<Vec<Lease>, AllocationError> {
        if let Some(contradiction) = find_contradiction(vm, wishes) {
            return Err(contradiction);
        }
        let held: Vec<Lease> = self.leases_of(vm).collect();
        for lease in held.iter().filter(|lease| !may_stay(lease, wishes)) {
            self.release_interface(vm, &lease.nic);
        }
        let wishes: Vec<(&str, Wish)> =
            wishes.iter().map(|(nic, wish)| (*nic, with_address_of(&held, nic, *wish, wishes))).collect();
        // Those that leave more to the pool come after those that leave less.
        let mut order: Vec<usize> = (0..wishes.len()).collect();
        order.sort_by_key(|place| {
            let (_, wish) = wishes[*place];
            (wish.ip.is_none(), wish.mac.is_none())
        });
        let mut leases = Vec::with_capacity(wishes.len());
        for place in order {
            let (nic, wish) = wishes[place];
            leases.push((place, self.allocate(vm, nic, wish)?));
        }
        leases.sort_by_key(|(place, _)| *place);
        Ok(leases.into_iter().map(|(_, lease)| lease).collect())
    }
}

/// Whether the interface that holds `lease` may keep it: it has no other wish, and no other interface of the VM wishes
/// for any of it.
fn may_stay(lease: &Lease, wishes: &[(&str, Wish)]) -> bool {
    let is_described = wishes.iter().any(|(nic, _)| *nic == lease.nic);
    is_described
        && wishes.iter().all(|(nic, wish)| {
            if *nic == lease.nic {
                wish.ip.is_none_or(|ip| ip == lease.address) && wish.mac.is_none_or(|mac| mac == lease.mac)
            } else {
                wish.ip != Some(lease.address) && wish.mac != Some(lease.mac)
            }
        })
}

/// The `wish` of interface `nic`, which names its present address where it names none and nobody else's does: another hardware
/// address is no reason to move.
fn with_address_of(held: &[Lease], nic: &str, wish: Wish, wishes: &[(&str, Wish)]) -> Wish {
    let present = held.iter().find(|lease| lease.nic == nic).map(|lease| lease.address);
    let is_free = |address: &_| wishes.iter().all(|(_, wish)| wish.ip != Some(*address));
    Wish { ip: wish.ip.or_else(|| present.filter(is_free)), ..wish }
}

fn find_contradiction(vm: &VmId, wishes: &[(&str, Wish)]) -> Option<AllocationError> {
    let pairs = wishes.iter().enumerate().flat_map(|(second, later)| {
        wishes[..second].iter().enumerate().map(move |(first, earlier)| ((first, earlier), (second, later)))
    });
    pairs.into_iter().find_map(|((first, (first_nic, earlier)), (second, (second_nic, later)))| {
        let address = earlier.ip.filter(|ip| later.ip == Some(*ip)).map(Wished::Address);
        let mac = earlier.mac.filter(|mac| later.mac == Some(*mac)).map(Wished::Mac);
        address.or(mac).map(|wished| AllocationError::WishedTwice {
            vm: vm.clone(),
            first: (*first_nic).to_owned(),
            second: (*second_nic).to_owned(),
            places: (first, second),
            wished,
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool() -> Pool {
        Pool::new("10.100.0.0/16".parse().unwrap()).unwrap()
    }

    fn ip(text: &str) -> Wish {
        Wish { ip: Some(text.parse().unwrap()), mac: None }
    }

    fn mac(text: &str) -> Wish {
        Wish { ip: None, mac: Some(text.parse().unwrap()) }
    }

    #[test]
    fn a_wish_of_two_interfaces_is_a_contradiction() {
        let vm = VmId::new("web");
        let error =
            pool().allocate_all(&vm, &[("a", ip("10.100.4.4")), ("b", ip("10.100.4.4"))]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "web wishes for the address 10.100.4.4 twice: for interface a, number 0, and for b, number 1"
        );
        let twice = mac("52:54:00:00:00:01");
        let error =
            pool().allocate_all(&vm, &[("a", twice), ("b", Wish::default()), ("c", twice)]).unwrap_err();
        assert!(matches!(error, AllocationError::WishedTwice { places: (0, 2), .. }), "{error}");
    }

    #[test]
    fn interfaces_of_one_vm_are_not_in_each_others_way() {
        let (mut pool, vm) = (pool(), VmId::new("web"));
        let first = pool.allocate_all(&vm, &[("a", Wish::default()), ("b", ip("10.100.0.9"))]).unwrap();
        let given = first[0].address.to_string();

        // `b` wishes for what `a` holds without having wished for it.
        let moved = pool.allocate_all(&vm, &[("a", Wish::default()), ("b", ip(&given))]).unwrap();
        assert_eq!(moved[1].address.to_string(), given);
        assert_ne!(moved[0].address, moved[1].address);

        // They change places.
        let (a, b) = (moved[1].address.to_string(), moved[0].address.to_string());
        let swapped = pool.allocate_all(&vm, &[("a", ip(&a)), ("b", ip(&b))]).unwrap();
        assert_eq!([&swapped[0].address, &swapped[1].address], [&moved[1].address, &moved[0].address]);

        // One that is no longer described holds nothing.
        let only = pool.allocate_all(&vm, &[("c", ip(&a))]).unwrap();
        assert_eq!(pool.leases().collect::<Vec<_>>(), only);
    }

    #[test]
    fn an_address_stays_when_the_hardware_address_changes() {
        let (mut pool, vm) = (pool(), VmId::new("web"));
        let first = pool.allocate_all(&vm, &[("a", Wish::default())]).unwrap();
        for wished in ["52:54:00:00:00:01", "52:54:00:00:00:02"] {
            let changed = pool.allocate_all(&vm, &[("a", mac(wished))]).unwrap();
            assert_eq!(
                (changed[0].address, changed[0].mac.to_string()),
                (first[0].address, wished.to_owned())
            );
        }
        // Another of its interfaces wishes for it.
        let taken = ip(&first[0].address.to_string());
        let moved = pool.allocate_all(&vm, &[("a", mac("52:54:00:00:00:03")), ("b", taken)]).unwrap();
        assert_eq!(moved[1].address, first[0].address);
        assert_ne!(moved[0].address, first[0].address);
    }

    #[test]
    fn another_vm_that_holds_it_is_no_contradiction() {
        let mut pool = pool();
        pool.allocate(&VmId::new("db"), "net0", ip("10.100.0.9")).unwrap();
        let error = pool.allocate_all(&VmId::new("web"), &[("a", ip("10.100.0.9"))]).unwrap_err();
        assert!(matches!(error, AllocationError::AddressInUse { .. }), "{error}");
    }

    fn any_wishes() -> impl Strategy<Value = Vec<Wish>> {
        let ips = prop::option::of((2_u8..8).prop_map(|last| [10, 100, 0, last].into()));
        let macs =
            prop::option::of((1_u8..5).prop_map(|last| vm_model::MacAddress::new([82, 84, 0, 0, 0, last])));
        prop::collection::vec((ips, macs).prop_map(|(ip, mac)| Wish { ip, mac }), 0..4)
    }

    proptest! {
        /// In a pool of its own, a VM gets whatever it describes without contradiction, after any earlier description.
        #[test]
        fn every_description_without_contradiction_is_granted(earlier in any_wishes(), later in any_wishes()) {
            let (mut pool, vm) = (pool(), VmId::new("web"));
            let names = ["a", "b", "c", "d"];
            for description in [earlier, later] {
                let wishes: Vec<(&str, Wish)> = names.into_iter().zip(description).collect();
                let mut offered = pool.clone();
                match offered.allocate_all(&vm, &wishes) {
                    Ok(leases) => {
                        for ((nic, wish), lease) in wishes.iter().zip(&leases) {
                            prop_assert_eq!(nic, &lease.nic);
                            prop_assert!(wish.ip.is_none_or(|ip| ip == lease.address));
                            prop_assert!(wish.mac.is_none_or(|mac| mac == lease.mac));
                        }
                        prop_assert_eq!(offered.leases().count(), leases.len());
                        pool = offered;
                    }
                    Err(error) => prop_assert!(
                        matches!(error, AllocationError::WishedTwice { .. }), "{}", error
                    ),
                }
            }
        }
    }
}
