//! An interface of the description as the network card that serves it.

use std::os::fd::OwnedFd;

use devices::virtio::QueueSize;
use devices::virtio::net::{FramePort, MacAddress, NetDevice, NetDeviceConfig, Offer, OffloadOffers, Tap};
use vm_model::{NicOffloads, NicSpec, Offload};

use super::BuildError;
use super::disks::rate_limits;

/// Makes the device of `nic`.
pub(super) fn net_device(nic: NicSpec<OwnedFd>) -> Result<NetDevice, BuildError> {
    let id = nic.id;
    let port = |fd| Tap::new(fd).map(|tap| Box::new(tap) as Box<dyn FramePort>);
    let ports = nic.taps.into_iter().map(port).collect::<Result<_, _>>();
    let config = NetDeviceConfig {
        ports: ports.map_err(|error| failed(&id, error))?,
        mac: MacAddress(nic.mac.octets()),
        mtu: nic.mtu,
        queue_size: QueueSize::new(nic.queue_size).map_err(|error| failed(&id, error))?,
        rate_limits: rate_limits(&nic.options.rate_limits).map_err(|error| failed(&id, error))?,
        offloads: offers(nic.options.offloads),
    };
    NetDevice::new(config).map_err(|error| failed(&id, error))
}

fn offers(offloads: NicOffloads) -> OffloadOffers {
    let offer = |offload| match offload {
        Offload::Offered => Offer::Offered,
        Offload::Withheld => Offer::Withheld,
    };
    OffloadOffers {
        checksums: offer(offloads.checksums),
        tcp_segmentation: offer(offloads.tcp_segmentation),
        udp_segmentation: offer(offloads.udp_segmentation),
    }
}

fn failed(nic: &str, error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    BuildError::Device { device: nic.to_owned(), source: Box::new(error) }
}
