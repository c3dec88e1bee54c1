//! Who is to be told what.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use vm_model::{MacAddress, VmId};

/// What one interface is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The VM; also the host name it is told.
    pub vm: VmId,
    /// Its interface.
    pub nic: String,
    /// The interface's address.
    pub address: Ipv4Addr,
    /// The netmask it is told, when that is another than the network's.
    pub mask: Option<Ipv4Addr>,
    /// The interface's MTU, when it is told one.
    pub mtu: Option<u16>,
}

/// Every binding, by hardware address. No two share an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    by_mac: HashMap<MacAddress, Binding>,
    by_address: HashMap<Ipv4Addr, MacAddress>,
    by_vm: HashMap<VmId, Vec<MacAddress>>,
}

impl Bindings {
    /// Binds `mac`. A refusal returns the binding in the way, and changes nothing.
    ///
    /// # Errors
    /// If the hardware address or the address is bound already.
    pub fn insert(&mut self, mac: MacAddress, binding: Binding) -> Result<(), Binding> {
        let rival = self.by_address.get(&binding.address).unwrap_or(&mac);
        if let Some(holder) = self.by_mac.get(rival).or_else(|| self.by_mac.get(&mac)) {
            return Err(holder.clone());
        }
        self.by_address.insert(binding.address, mac);
        self.by_vm.entry(binding.vm.clone()).or_default().push(mac);
        self.by_mac.insert(mac, binding);
        Ok(())
    }

    /// Forgets `mac`.
    pub fn remove(&mut self, mac: MacAddress) -> Option<Binding> {
        let binding = self.by_mac.remove(&mac)?;
        self.by_address.remove(&binding.address);
        if let Some(macs) = self.by_vm.get_mut(&binding.vm) {
            macs.retain(|other| *other != mac);
            if macs.is_empty() {
                self.by_vm.remove(&binding.vm);
            }
        }
        Some(binding)
    }

    /// The interfaces of the VM with this name, by their hardware addresses.
    pub fn of_vm(&self, vm: &str) -> impl Iterator<Item = (MacAddress, &Binding)> {
        let macs = VmId::parse(vm).ok().and_then(|vm| self.by_vm.get(&vm));
        macs.into_iter().flatten().filter_map(|mac| Some((*mac, self.by_mac.get(mac)?)))
    }

    /// Who has `address`.
    pub fn of_address(&self, address: Ipv4Addr) -> Option<&Binding> {
        self.by_mac.get(self.by_address.get(&address)?)
    }

    /// What `mac` is to be told.
    pub fn get(&self, mac: MacAddress) -> Option<&Binding> {
        self.by_mac.get(&mac)
    }
}
