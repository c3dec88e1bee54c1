//! What connects a machine's devices to its guest without leaving the kernel: doorbells (`ioeventfd`), interrupts
//! (`irqfd`) and the routes between interrupts and their controllers.
//!
//! All of it may be called at any time from any thread. On kernels before 6.18 each doorbell and each routing
//! table may wait for a grace period.

use std::io;

use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::EventFd;

use super::{Registration, Vm, VmError};
use crate::cause;
use crate::routing::{self, Route};

/// Where a guest's write rings a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorbellAddress {
    /// A guest-physical address.
    Mmio(u64),
    /// An I/O port.
    Pio(u16),
}

impl From<DoorbellAddress> for IoEventAddress {
    fn from(address: DoorbellAddress) -> Self {
        match address {
            DoorbellAddress::Mmio(address) => Self::Mmio(address),
            DoorbellAddress::Pio(port) => Self::Pio(u64::from(port)),
        }
    }
}

/// Which writes to the address ring the doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorbellValue {
    /// A write of any width and value; the quickest kind.
    Any,
    /// A two-byte write of exactly this value.
    U16(u16),
    /// A four-byte write of exactly this value.
    U32(u32),
}

impl Vm {
    /// Lets the guest's matching writes to `address` signal `event` without leaving the kernel.
    ///
    /// # Errors
    /// [`VmError::Doorbell`], for one when the same address and value are taken.
    pub fn register_ioeventfd(
        &self,
        address: DoorbellAddress,
        value: DoorbellValue,
        event: &EventFd,
    ) -> Result<(), VmError> {
        let at = IoEventAddress::from(address);
        match value {
            DoorbellValue::Any => self.shared.fd.register_ioevent(event, &at, NoDatamatch),
            DoorbellValue::U16(value) => self.shared.fd.register_ioevent(event, &at, value),
            DoorbellValue::U32(value) => self.shared.fd.register_ioevent(event, &at, value),
        }
        .map_err(|errno| VmError::Doorbell {
            registration: Registration::Add,
            address,
            value,
            source: cause(errno),
        })
    }

    /// Undoes [`register_ioeventfd`](Self::register_ioeventfd) with the same arguments.
    ///
    /// # Errors
    /// [`VmError::Doorbell`] when there is no such doorbell.
    pub fn unregister_ioeventfd(
        &self,
        address: DoorbellAddress,
        value: DoorbellValue,
        event: &EventFd,
    ) -> Result<(), VmError> {
        let at = IoEventAddress::from(address);
        match value {
            DoorbellValue::Any => self.shared.fd.unregister_ioevent(event, &at, NoDatamatch),
            DoorbellValue::U16(value) => self.shared.fd.unregister_ioevent(event, &at, value),
            DoorbellValue::U32(value) => self.shared.fd.unregister_ioevent(event, &at, value),
        }
        .map_err(|errno| VmError::Doorbell {
            registration: Registration::Remove,
            address,
            value,
            source: cause(errno),
        })
    }

    /// Raises interrupt `gsi` in the guest whenever `event` is signalled. Needs the irqchip.
    ///
    /// # Errors
    /// [`VmError::Irqfd`], for one when `event` serves this machine already.
    pub fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), VmError> {
        self.shared.fd.register_irqfd(event, gsi).map_err(|errno| VmError::Irqfd {
            registration: Registration::Add,
            gsi,
            source: cause(errno),
        })
    }

    /// Undoes [`register_irqfd`](Self::register_irqfd).
    ///
    /// # Errors
    /// [`VmError::Irqfd`] when the kernel refuses; detaching what is not attached is no error to it.
    pub fn unregister_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), VmError> {
        self.shared.fd.unregister_irqfd(event, gsi).map_err(|errno| VmError::Irqfd {
            registration: Registration::Remove,
            gsi,
            source: cause(errno),
        })
    }

    /// Replaces the whole interrupt routing table. Interrupts already raised keep their old route.
    ///
    /// # Errors
    /// [`VmError::Routing`]; the old table then stays.
    pub fn set_routing(&self, routes: &[Route]) -> Result<(), VmError> {
        let limit = kvm_bindings::KVM_MAX_IRQ_ROUTES;
        routing::table(routes)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))
            .and_then(|table| self.shared.fd.set_gsi_routing(&table).map_err(cause))
            .map_err(|source| VmError::Routing { routes: routes.len(), limit, source })
    }
}
