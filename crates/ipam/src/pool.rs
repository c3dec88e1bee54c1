//! The pool itself: who holds what, and each rule for a lease in one place.
//!
//! Three indexes over the same leases (by interface, by address, by hardware address) and the free addresses
//! always agree; every change goes through `enter` and `strike`.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use vm_model::{MacAddress, VmId};

use crate::change::Step;
use crate::free::FreeAddresses;
use crate::range::ReservedRanges;
use crate::subnet::LeasableSubnet;
use crate::{
    AddressRange, AllocationError, ImportError, Interface, LEASE_BOOK_VERSION, Lease, LeaseBook, PoolError,
    Wish,
};

/// First octet of a derived hardware address: unicast, locally administered (IEEE 802 §8.4).
const DERIVED_MAC_PREFIX: u8 = 0x02;
/// Second octet of a derived hardware address, unless another interface was wished onto that one.
const DERIVED_MAC_TAG: u8 = 0x50;

/// The addresses of one subnet and their holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    subnet: LeasableSubnet,
    leases: BTreeMap<Interface, (Ipv4Addr, MacAddress)>,
    by_address: HashMap<Ipv4Addr, Interface>,
    by_mac: HashMap<MacAddress, Interface>,
    free: FreeAddresses,
}

impl Pool {
    /// A pool in which nothing is leased. The first host address is the gateway.
    ///
    /// # Errors
    /// If the subnet has no room for a gateway and a VM, is wider than a /8, or is not unicast.
    pub fn new(subnet: Ipv4Network) -> Result<Self, PoolError> {
        Self::with_reserved(subnet, &[])
    }

    /// A pool in which nothing is leased, and which gives the addresses in `reserved` only to those that ask for them.
    ///
    /// # Errors
    /// As those of [`Pool::new`], and if a range is not within the subnet.
    pub fn with_reserved(subnet: Ipv4Network, reserved: &[AddressRange]) -> Result<Self, PoolError> {
        let subnet = LeasableSubnet::new(subnet)?;
        let reserved = ReservedRanges::new(subnet, reserved)?;
        Ok(Self {
            subnet,
            leases: BTreeMap::new(),
            by_address: HashMap::new(),
            by_mac: HashMap::new(),
            free: FreeAddresses::new(subnet.leasable(), reserved),
        })
    }

    /// The network that addresses are given from.
    pub fn subnet(&self) -> Ipv4Network {
        self.subnet.network()
    }

    /// The host's own address: the first one of the network.
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.gateway()
    }

    /// How many addresses can be leased in all, those among them that are reserved.
    pub fn capacity(&self) -> u32 {
        self.subnet.capacity()
    }

    /// How many addresses are given only to those that ask for them.
    pub fn reserved(&self) -> u32 {
        self.free.reserved()
    }

    /// The lease that interface `nic` of `vm` holds.
    pub fn lease(&self, vm: &VmId, nic: &str) -> Option<Lease> {
        let interface = Interface { vm: vm.clone(), nic: nic.to_owned() };
        let (address, mac) = *self.leases.get(&interface)?;
        Some(lease_of(&interface, address, mac))
    }

    /// Who holds `address`.
    pub fn holder(&self, address: Ipv4Addr) -> Option<&Interface> {
        self.by_address.get(&address)
    }

    /// Every lease, ordered by VM and interface.
    pub fn leases(&self) -> impl Iterator<Item = Lease> {
        self.leases.iter().map(|(interface, (address, mac))| lease_of(interface, *address, *mac))
    }

    /// The leases of `vm`, ordered by interface. Takes logarithmic time, and a step a lease.
    pub fn leases_of<'pool>(&'pool self, vm: &VmId) -> impl Iterator<Item = Lease> + use<'pool> {
        let (first, vm) = (Interface { vm: vm.clone(), nic: String::new() }, vm.clone());
        let held = self.leases.range(first..).take_while(move |(interface, _)| interface.vm == vm);
        held.map(|(interface, (address, mac))| lease_of(interface, *address, *mac))
    }

    /// The lease of interface `nic` of `vm`: the one it holds, else a new one that grants `wish`.
    ///
    /// Without a wish the address is one that is not reserved: one that was never leased, or else the one that has been free longest,
    /// and the hardware address is `02:50:` followed by the IPv4 address; where another interface was wished
    /// onto that, the second octet counts up.
    ///
    /// # Errors
    /// If the wish is outside the network, reserved, held by another interface, or differs from the lease
    /// that this interface holds; or if everything is leased. Nothing has changed then.
    pub fn allocate(&mut self, vm: &VmId, nic: &str, wish: Wish) -> Result<Lease, AllocationError> {
        self.give(vm, nic, wish).map(|(lease, _)| lease)
    }

    /// As [`Pool::allocate`], with what undoes it where it has changed anything.
    pub(crate) fn give(
        &mut self,
        vm: &VmId,
        nic: &str,
        wish: Wish,
    ) -> Result<(Lease, Option<Step>), AllocationError> {
        let interface = Interface { vm: vm.clone(), nic: nic.to_owned() };
        if let Some(&(address, mac)) = self.leases.get(&interface) {
            return match difference(wish, address, mac) {
                None => Ok((lease_of(&interface, address, mac), None)),
                Some(wished) => Err(AllocationError::HoldsAnother { interface, wished, address, mac }),
            };
        }
        let address = match wish.ip {
            Some(address) => self.check_address(&interface, address)?,
            None => self.next_address(&interface)?,
        };
        let mac = match wish.mac {
            Some(mac) => self.check_mac(&interface, mac)?,
            None => self.derive_mac(&interface, address)?,
        };
        let place = self.free.take(address.into());
        debug_assert!(place.is_some(), "{address} is held by nobody and leasable, so it is free");
        self.enter(interface.clone(), address, mac);
        let lease = lease_of(&interface, address, mac);
        Ok((lease, place.map(|place| Step::Given { interface, place })))
    }

    /// Ends every lease of `vm` and returns them. A VM without leases is no error.
    pub fn release(&mut self, vm: &VmId) -> Vec<Lease> {
        let mut change = self.change();
        let released = change.release(vm);
        change.keep();
        released
    }

    /// Ends the lease of interface `nic` of `vm`; `None` if it holds none.
    pub fn release_interface(&mut self, vm: &VmId, nic: &str) -> Option<Lease> {
        self.remove(&Interface { vm: vm.clone(), nic: nic.to_owned() })
    }

    /// Every lease as one value to keep. The order in which free addresses are reused is not part of it.
    pub fn export(&self) -> LeaseBook {
        LeaseBook { version: LEASE_BOOK_VERSION, subnet: self.subnet(), leases: self.leases().collect() }
    }

    /// This pool, in which nothing is leased yet, with the leases of a book. Those of addresses that have been reserved since
    /// go on.
    ///
    /// # Errors
    /// If the book has another version or another subnet, or holds a lease that this pool would not have
    /// given: a duplicate, the gateway's address, one outside the network.
    pub fn import(mut self, book: &LeaseBook) -> Result<Self, ImportError> {
        if book.version != LEASE_BOOK_VERSION {
            return Err(ImportError::Version { found: book.version });
        }
        let configured = self.subnet();
        if book.subnet != configured {
            return Err(ImportError::OtherSubnet { book: book.subnet, configured });
        }
        for (index, lease) in book.leases.iter().enumerate() {
            if self.lease(&lease.vm, &lease.nic).is_some() {
                let (vm, nic) = (lease.vm.clone(), lease.nic.clone());
                return Err(ImportError::Twice { interface: Interface { vm, nic } });
            }
            let wish = Wish { ip: Some(lease.address), mac: Some(lease.mac) };
            self.allocate(&lease.vm, &lease.nic, wish)
                .map_err(|cause| ImportError::Lease { index, cause })?;
        }
        Ok(self)
    }

    fn next_address(&self, interface: &Interface) -> Result<Ipv4Addr, AllocationError> {
        self.free.next().map(Ipv4Addr::from).ok_or_else(|| AllocationError::Exhausted {
            interface: interface.clone(),
            subnet: self.subnet(),
            capacity: self.capacity() - self.reserved(),
            reserved: self.reserved(),
        })
    }

    fn check_address(&self, interface: &Interface, address: Ipv4Addr) -> Result<Ipv4Addr, AllocationError> {
        let (interface, subnet) = (interface.clone(), self.subnet());
        if !self.subnet.contains(address) {
            return Err(AllocationError::OutsideSubnet { interface, address, subnet });
        }
        if let Some(role) = self.subnet.reserved(address) {
            return Err(AllocationError::Reserved { interface, address, role, subnet });
        }
        match self.by_address.get(&address) {
            None => Ok(address),
            Some(holder) => {
                Err(AllocationError::AddressInUse { interface, address, holder: holder.clone(), subnet })
            }
        }
    }

    fn check_mac(&self, interface: &Interface, mac: MacAddress) -> Result<MacAddress, AllocationError> {
        let interface = interface.clone();
        if !mac.is_unicast() {
            return Err(AllocationError::MacNotUnicast { interface, mac });
        }
        match self.by_mac.get(&mac) {
            None => Ok(mac),
            Some(holder) => Err(AllocationError::MacInUse {
                interface,
                mac,
                holder: holder.clone(),
                subnet: self.subnet(),
            }),
        }
    }

    fn derive_mac(&self, interface: &Interface, address: Ipv4Addr) -> Result<MacAddress, AllocationError> {
        let [a, b, c, d] = address.octets();
        (0..=u8::MAX)
            .map(|step| {
                let tag = DERIVED_MAC_TAG.wrapping_add(step);
                MacAddress::new([DERIVED_MAC_PREFIX, tag, a, b, c, d])
            })
            .find(|mac| !self.by_mac.contains_key(mac))
            .ok_or_else(|| AllocationError::MacsExhausted { interface: interface.clone(), address })
    }

    /// Enters a lease of an address that is not among the free ones any more.
    fn enter(&mut self, interface: Interface, address: Ipv4Addr, mac: MacAddress) {
        self.by_address.insert(address, interface.clone());
        self.by_mac.insert(mac, interface.clone());
        self.leases.insert(interface, (address, mac));
    }

    /// Ends a lease, and leaves its address to the caller.
    fn strike(&mut self, interface: &Interface) -> Option<(Ipv4Addr, MacAddress)> {
        let (address, mac) = self.leases.remove(interface)?;
        self.by_address.remove(&address);
        self.by_mac.remove(&mac);
        Some((address, mac))
    }

    pub(crate) fn remove(&mut self, interface: &Interface) -> Option<Lease> {
        let (address, mac) = self.strike(interface)?;
        self.free.give_back(address.into());
        Some(lease_of(interface, address, mac))
    }

    /// Undoes the last step that was not undone.
    pub(crate) fn undo(&mut self, step: Step) {
        match step {
            Step::Given { interface, place } => {
                if let Some((address, _)) = self.strike(&interface) {
                    self.free.undo_take(address.into(), place);
                }
            }
            Step::Ended { interface, address, mac } => {
                self.free.undo_give_back(address.into());
                self.enter(interface, address, mac);
            }
        }
    }
}

fn lease_of(interface: &Interface, address: Ipv4Addr, mac: MacAddress) -> Lease {
    Lease { vm: interface.vm.clone(), nic: interface.nic.clone(), address, mac }
}

/// The first part of `wish` that a lease of `address` and `mac` does not grant, in words.
fn difference(wish: Wish, address: Ipv4Addr, mac: MacAddress) -> Option<String> {
    match (wish.ip, wish.mac) {
        (Some(wished), _) if wished != address => Some(format!("address {wished}")),
        (_, Some(wished)) if wished != mac => Some(format!("MAC address {wished}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
