//! The queues of a running card, by what they are for (virtio 1.2 §5.1.2).

use virtio_bindings::bindings::virtio_net::{VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF};

use super::offloads::Offloads;
use super::receive::{Buffers, Receiver};
use super::transmit::Transmitter;
use crate::virtio::ActivateError;
use crate::virtio::queue::Queue;

/// The MTU of a link where none is told.
const DEFAULT_MTU: u16 = 1500;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Frames to the guest, of this pair.
    Receive(usize),
    /// Frames from the guest, of this pair.
    Transmit(usize),
    Control,
}

/// A card between activation and reset.
pub(super) struct Active {
    pub(super) features: u64,
    /// `None` where the driver enabled but one queue of a pair, or none. The first is there.
    pairs: Vec<Option<Pair>>,
    pub(super) control: Option<Queue>,
}

/// A receive queue and a transmit queue.
pub(super) struct Pair {
    pub(super) receive_queue: Queue,
    pub(super) transmit_queue: Queue,
    pub(super) receiver: Receiver,
    pub(super) transmitter: Transmitter,
}

impl Active {
    /// Sorts `queues`: pairs first, and the control queue after the pairs that the driver knows of, which is one without
    /// `VIRTIO_NET_F_MQ`.
    pub(super) fn new(
        features: u64,
        mtu: Option<u16>,
        queues: Vec<Option<Queue>>,
    ) -> Result<Self, ActivateError> {
        let offloads = Offloads::accepted_by(features);
        let buffers = if features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0 {
            Buffers::mergeable(offloads, mtu.unwrap_or(DEFAULT_MTU))
        } else {
            Buffers::Whole
        };
        let places = queues.len() / 2;
        let known = if features & 1 << VIRTIO_NET_F_MQ != 0 { places } else { 1 };
        let mut queues = queues.into_iter();
        let mut next = || queues.next().flatten();
        let mut pairs = Vec::with_capacity(known);
        for place in 0..known {
            let pair = match (next(), next()) {
                (Some(receive_queue), Some(transmit_queue)) => Pair {
                    receive_queue,
                    transmit_queue,
                    receiver: Receiver::new(buffers),
                    transmitter: Transmitter::default(),
                },
                (receive_queue, _) if place == 0 => {
                    let index = u16::from(receive_queue.is_some());
                    return Err(ActivateError::QueueDisabled { index });
                }
                _ => {
                    pairs.push(None);
                    continue;
                }
            };
            pairs.push(Some(pair));
        }
        let control = if features & 1 << VIRTIO_NET_F_CTRL_VQ != 0 { next() } else { None };
        Ok(Self { features, pairs, control })
    }

    /// What queue `index` is for.
    pub(super) fn role(&self, index: u16) -> Option<Role> {
        let pair = usize::from(index / 2);
        match (pair.cmp(&self.pairs.len()), index % 2) {
            (std::cmp::Ordering::Less, 0) => Some(Role::Receive(pair)),
            (std::cmp::Ordering::Less, _) => Some(Role::Transmit(pair)),
            (std::cmp::Ordering::Equal, 0) => Some(Role::Control),
            (std::cmp::Ordering::Equal | std::cmp::Ordering::Greater, _) => None,
        }
    }

    /// Pair `index`, if the driver enabled it.
    pub(super) fn pair(&mut self, index: usize) -> Option<&mut Pair> {
        self.pairs.get_mut(index)?.as_mut()
    }

    /// Every pair that the driver enabled.
    pub(super) fn pairs(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.pairs.iter_mut().flatten()
    }

    /// Whether the first `count` pairs can be used: they are one or more, and enabled.
    pub(super) fn has_pairs(&self, count: usize) -> bool {
        count > 0 && self.pairs.get(..count).is_some_and(|pairs| pairs.iter().all(Option::is_some))
    }
}
