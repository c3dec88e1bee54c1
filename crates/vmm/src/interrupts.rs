//! The devices' interrupt and doorbell ports over KVM: irqfds, one routing table a machine, ioeventfds.
//!
//! Message-signalled vectors get a global interrupt number each when they are reserved, and a descriptor and a
//! route when a guest first programs them: a guest that uses none costs nothing. The table is handed to KVM only when a
//! route in it changed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use devices::ports::{Doorbells, LineInterrupt, MessageInterrupts, MsiMessage};
use hypervisor::{DoorbellAddress, DoorbellValue, Route, RouteTarget, Vm, VmError, default_routes};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::layout::FIRST_MESSAGE_GSI;

fn new_event() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

fn refused(error: VmError) -> io::Error {
    io::Error::other(error)
}

/// A wired interrupt of the I/O APIC.
#[derive(Debug)]
pub(crate) struct WiredInterrupt {
    event: EventFd,
}

impl WiredInterrupt {
    /// Connects pin `gsi`.
    ///
    /// # Errors
    /// The host has no descriptor left or KVM refuses the pin.
    pub(crate) fn connect(vm: &Vm, gsi: u32) -> io::Result<Self> {
        let event = new_event()?;
        vm.register_irqfd(&event, gsi).map_err(refused)?;
        Ok(Self { event })
    }
}

impl LineInterrupt for WiredInterrupt {
    fn trigger(&self) -> io::Result<()> {
        self.event.write(1)
    }
}

/// Where the routing table goes. A port, so that the router is tested without KVM.
pub(crate) trait RouteSink: Send + Sync {
    /// Replaces the whole table.
    fn set_routing(&self, routes: &[Route]) -> io::Result<()>;
    /// Connects `event` to `gsi`.
    fn connect(&self, event: &EventFd, gsi: u32) -> io::Result<()>;
}

impl RouteSink for Vm {
    fn set_routing(&self, routes: &[Route]) -> io::Result<()> {
        Vm::set_routing(self, routes).map_err(refused)
    }

    fn connect(&self, event: &EventFd, gsi: u32) -> io::Result<()> {
        self.register_irqfd(event, gsi).map_err(refused)
    }
}

/// One machine's routing table.
pub(crate) struct InterruptRouter {
    sink: Arc<dyn RouteSink>,
    /// Held across the host's calls, so that tables reach it in the order they were made. Taken with a device's
    /// lock held; takes none itself.
    table: Mutex<Table>,
}

struct Table {
    messages: BTreeMap<u32, MsiMessage>,
    next_gsi: u32,
}

impl InterruptRouter {
    pub(crate) fn new(sink: Arc<dyn RouteSink>) -> Arc<Self> {
        Arc::new(Self {
            sink,
            table: Mutex::new(Table { messages: BTreeMap::new(), next_gsi: FIRST_MESSAGE_GSI }),
        })
    }

    /// Numbers for the `count` vectors of one function.
    pub(crate) fn reserve(self: &Arc<Self>, count: u16) -> MessageVectors {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let first_gsi = table.next_gsi;
        table.next_gsi += u32::from(count);
        MessageVectors {
            router: self.clone(),
            first_gsi,
            events: (0..count).map(|_| OnceLock::new()).collect(),
        }
    }

    fn program(&self, gsi: u32, event: &OnceLock<EventFd>, message: MsiMessage) -> io::Result<()> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let before = table.messages.insert(gsi, message);
        if before != Some(message)
            && let Err(error) = self.sink.set_routing(&table.routes())
        {
            match before {
                Some(before) => table.messages.insert(gsi, before),
                None => table.messages.remove(&gsi),
            };
            return Err(error);
        }
        if event.get().is_none() {
            let fresh = new_event()?;
            self.sink.connect(&fresh, gsi)?;
            // Only this function sets it, under the table's lock.
            let _ = event.set(fresh);
        }
        Ok(())
    }
}

impl Table {
    fn routes(&self) -> Vec<Route> {
        let messages = self.messages.iter().map(|(gsi, message)| Route {
            gsi: *gsi,
            target: RouteTarget::Msi { address: message.address, data: message.data },
        });
        default_routes().chain(messages).collect()
    }
}

/// The message-signalled vectors of one function.
pub(crate) struct MessageVectors {
    router: Arc<InterruptRouter>,
    first_gsi: u32,
    events: Vec<OnceLock<EventFd>>,
}

impl MessageVectors {
    fn place(&self, vector: u16) -> io::Result<&OnceLock<EventFd>> {
        self.events.get(usize::from(vector)).ok_or_else(|| {
            let count = self.events.len();
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("vector {vector} of a function that has {count}"),
            )
        })
    }
}

impl MessageInterrupts for MessageVectors {
    fn count(&self) -> u16 {
        u16::try_from(self.events.len()).expect("made of a u16")
    }

    fn program(&self, vector: u16, message: MsiMessage) -> io::Result<()> {
        let event = self.place(vector)?;
        self.router.program(self.first_gsi + u32::from(vector), event, message)
    }

    fn trigger(&self, vector: u16) -> io::Result<()> {
        self.event(vector)?.write(1)
    }

    fn event(&self, vector: u16) -> io::Result<&EventFd> {
        self.place(vector)?.get().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotConnected, format!("vector {vector} was never programmed"))
        })
    }
}

/// Doorbells at guest-physical addresses.
pub(crate) struct KvmDoorbells {
    vm: Arc<Vm>,
}

impl KvmDoorbells {
    pub(crate) fn new(vm: Arc<Vm>) -> Self {
        Self { vm }
    }
}

impl Doorbells for KvmDoorbells {
    fn attach(&self, address: u64, bell: &EventFd) -> io::Result<()> {
        self.vm.register_ioeventfd(DoorbellAddress::Mmio(address), DoorbellValue::Any, bell).map_err(refused)
    }

    fn detach(&self, address: u64, bell: &EventFd) -> io::Result<()> {
        self.vm
            .unregister_ioeventfd(DoorbellAddress::Mmio(address), DoorbellValue::Any, bell)
            .map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder {
        tables: Mutex<Vec<Vec<Route>>>,
        connected: Mutex<Vec<u32>>,
        refuse: std::sync::atomic::AtomicBool,
    }

    impl RouteSink for Recorder {
        fn set_routing(&self, routes: &[Route]) -> io::Result<()> {
            if self.refuse.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(io::Error::from(io::ErrorKind::OutOfMemory));
            }
            self.tables.lock().unwrap().push(routes.to_vec());
            Ok(())
        }

        fn connect(&self, _event: &EventFd, gsi: u32) -> io::Result<()> {
            self.connected.lock().unwrap().push(gsi);
            Ok(())
        }
    }

    fn message(data: u32) -> MsiMessage {
        MsiMessage { address: 0xfee0_0000, data }
    }

    #[test]
    fn routes_are_set_when_they_change_and_only_then() {
        let recorder = Arc::new(Recorder::default());
        let router = InterruptRouter::new(recorder.clone());
        let (first, second) = (router.reserve(2), router.reserve(3));
        assert_eq!(recorder.tables.lock().unwrap().len(), 0, "reserving costs nothing");
        first.program(1, message(5)).unwrap();
        first.program(1, message(5)).unwrap();
        second.program(0, message(6)).unwrap();
        first.program(1, message(7)).unwrap();
        let tables = recorder.tables.lock().unwrap();
        assert_eq!(tables.len(), 3);
        assert_eq!(*recorder.connected.lock().unwrap(), [25, 26]);
        let messages: Vec<_> = tables[2]
            .iter()
            .filter_map(|route| match route.target {
                RouteTarget::Msi { data, .. } => Some((route.gsi, data)),
                RouteTarget::Irqchip { .. } => None,
            })
            .collect();
        assert_eq!(messages, [(25, 7), (26, 6)]);
        assert!(tables[2].len() > 24, "the I/O APIC's own routes stay");
    }

    #[test]
    fn what_cannot_be_triggered_is_an_error() {
        let router = InterruptRouter::new(Arc::new(Recorder::default()));
        let vectors = router.reserve(1);
        assert_eq!(vectors.trigger(0).unwrap_err().kind(), io::ErrorKind::NotConnected);
        assert_eq!(vectors.trigger(1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(vectors.program(1, message(0)).is_err());
        vectors.program(0, message(0)).unwrap();
        vectors.trigger(0).unwrap();
    }

    #[test]
    fn a_refused_route_is_tried_again() {
        let recorder = Arc::new(Recorder::default());
        let router = InterruptRouter::new(recorder.clone());
        let vectors = router.reserve(1);
        recorder.refuse.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(vectors.program(0, message(1)).is_err());
        recorder.refuse.store(false, std::sync::atomic::Ordering::Relaxed);
        vectors.program(0, message(1)).unwrap();
        assert_eq!(recorder.tables.lock().unwrap().len(), 1);
    }
}
