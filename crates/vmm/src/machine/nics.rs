//! An interface of the description as the network card that serves it, and its link while the machine runs.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use devices::virtio::QueueSize;
use devices::virtio::net::{
    Announcement, FrameBackend, FramePort, InterfaceStatistics, KernelBackends, NetDevice, NetDeviceConfig,
    NetHandle, Tap, VhostError, VhostNet,
};
use thiserror::Error;
use tracing::warn;
use vm_model::{LinkState, NicSpec, VhostSpec};

use super::disks::rate_limits;
use super::{BuildError, LinkChangeError};

/// Makes the device of `nic`.
pub(super) fn net_device(nic: NicSpec<OwnedFd>) -> Result<NetDevice, BuildError> {
    let id = nic.id;
    let port = |fd| Tap::new(fd).map(|tap| Box::new(tap) as Box<dyn FramePort>);
    let ports = nic.taps.into_iter().map(port).collect::<Result<_, _>>();
    let kernel = nic.vhost.and_then(|vhost| {
        let refused = |error: &KernelBackendsError| {
            warn!(
                nic = id,
                error = error as &dyn std::error::Error,
                "the kernel does not move the interface's frames, this process does"
            );
        };
        kernel_backends(vhost).inspect_err(refused).ok()
    });
    let config = NetDeviceConfig {
        ports: ports.map_err(|error| failed(&id, error))?,
        kernel,
        mac: nic.mac,
        mtu: nic.mtu,
        queue_size: QueueSize::new(nic.queue_size).map_err(|error| failed(&id, error))?,
        rate_limits: rate_limits(&nic.options.rate_limits).map_err(|error| failed(&id, error))?,
        offloads: nic.options.offloads,
    };
    NetDevice::new(config).map_err(|error| failed(&id, error))
}

/// The back ends by which the host's kernel moves the frames.
fn kernel_backends(vhost: VhostSpec<OwnedFd>) -> Result<KernelBackends, KernelBackendsError> {
    let backend = |fd| VhostNet::new(fd).map(|backend| Arc::new(backend) as Arc<dyn FrameBackend>);
    let backends = vhost.devices.into_iter().map(backend).collect::<Result<_, _>>()?;
    let statistics = InterfaceStatistics::new(vhost.statistics).map_err(KernelBackendsError::Statistics)?;
    Ok(KernelBackends { backends, statistics })
}

/// Why the kernel does not move an interface's frames.
#[derive(Debug, Error)]
enum KernelBackendsError {
    #[error(transparent)]
    Vhost(#[from] VhostError),
    #[error("the interface's counters could not be read")]
    Statistics(#[source] std::io::Error),
}

/// The links of a machine's cards.
#[derive(Default)]
pub(super) struct Links(Vec<Link>);

struct Link {
    nic: String,
    /// Its card's place among the functions.
    function: usize,
    handle: Arc<NetHandle>,
}

impl Links {
    pub(super) fn add(&mut self, nic: String, function: usize, handle: Arc<NetHandle>) {
        self.0.push(Link { nic, function, handle });
    }

    fn find(&self, nic: &str) -> Result<&Link, LinkChangeError> {
        let missing = || LinkChangeError::Missing { nic: nic.to_owned() };
        self.0.iter().find(|link| link.nic == nic).ok_or_else(missing)
    }

    /// Takes a link up or down. Returns the function whose driver is to be notified of the change of configuration.
    pub(super) fn set(&self, nic: &str, state: LinkState) -> Result<usize, LinkChangeError> {
        let link = self.find(nic)?;
        link.handle.set_link(state);
        Ok(link.function)
    }

    /// Asks for an announcement; returns the same as [`Links::set`].
    pub(super) fn announce(&self, nic: &str) -> Result<usize, LinkChangeError> {
        let link = self.find(nic)?;
        match link.handle.ask_for_announcement() {
            Announcement::Asked => Ok(link.function),
            Announcement::NotPossible => Err(LinkChangeError::NoAnnouncements { nic: nic.to_owned() }),
        }
    }
}

fn failed(nic: &str, error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    BuildError::Device { device: nic.to_owned(), source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd};

    use devices::virtio::net::{Offloads, PortUse, UdpSegmentation};
    use devices::virtio::{RateLimits, VirtioDevice};
    use vm_model::{MacAddress, NicOffloads, Offload};

    use super::*;

    /// A port that nothing comes from.
    struct Silence(OwnedFd);

    impl FramePort for Silence {
        fn fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }

        fn set_offloads(&self, _offloads: Offloads) -> io::Result<()> {
            Ok(())
        }

        fn set_use(&self, _port_use: PortUse) -> io::Result<()> {
            Ok(())
        }

        fn set_carrier(&self, _link: LinkState) -> io::Result<()> {
            Ok(())
        }

        fn udp_segmentation(&self) -> UdpSegmentation {
            UdpSegmentation::Supported
        }
    }

    fn card(offloads: NicOffloads) -> NetDevice {
        let (ours, _theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let config = NetDeviceConfig {
            ports: vec![Box::new(Silence(ours.into()))],
            mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
            mtu: None,
            queue_size: QueueSize::default(),
            rate_limits: RateLimits::default(),
            offloads,
            kernel: None,
        };
        NetDevice::new(config).unwrap()
    }

    #[test]
    fn links_are_found_by_the_name_of_their_interface() {
        let cards = [card(NicOffloads::default()), card(NicOffloads::default())];
        let mut links = Links::default();
        links.add("net0".to_owned(), 3, cards[0].handle());
        links.add("net1".to_owned(), 4, cards[1].handle());
        assert_eq!(links.set("net1", LinkState::Down), Ok(4));
        assert_eq!(cards.each_ref().map(|card| card.handle().link()), [LinkState::Up, LinkState::Down]);
        assert_eq!(links.set("net1", LinkState::Up), Ok(4));
        assert_eq!(cards[1].handle().link(), LinkState::Up);
        let missing = links.set("net2", LinkState::Up).unwrap_err();
        assert_eq!(missing.to_string(), "the machine has no interface net2");
        let nobody = links.announce("net0").unwrap_err();
        assert_eq!(nobody, LinkChangeError::NoAnnouncements { nic: "net0".to_owned() });
    }

    #[test]
    fn withheld_offloads_are_not_offered() {
        let withheld = NicOffloads { checksums: Offload::Withheld, ..NicOffloads::default() };
        let offloads = 0x3b80 | 3 | 7 << 54;
        assert_eq!(card(withheld).offered_features() & offloads, 0);
        assert_eq!(card(NicOffloads::default()).offered_features() & offloads, offloads);
    }
}
