//! The control queue (virtio 1.2 §5.1.6.5): commands of the driver, each answered in the last byte of its buffers.
//!
//! Every length is checked before a command means anything. What is unknown, of a feature that was not accepted, or of
//! another length than the standard's is answered with an error and changes nothing; a chain without room for an answer
//! is given back as it came.

use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR,
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MQ, VIRTIO_NET_OK,
};

use crate::memory::GuestMemory;
use crate::virtio::queue::{Chain, Queue, QueueFault};
use crate::virtio::work_left::WorkLeft;

/// Commands a turn.
const TURN_COMMANDS: u32 = 16;
/// Bytes of class and command.
const HEADER_BYTES: usize = 2;

/// What a driver can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// To use so many pairs of queues; the number is the driver's and may be anything.
    UsePairs(u16),
    /// To leave to the driver just the work that these features name; they may be any.
    AcceptOffloads(u64),
    /// The announcement that was asked for was made.
    Announced,
}

/// What a driver gets for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Refused,
}

impl Answer {
    fn byte(self) -> u8 {
        let number = match self {
            Self::Done => VIRTIO_NET_OK,
            Self::Refused => VIRTIO_NET_ERR,
        };
        number.to_le_bytes()[0]
    }
}

impl Command {
    /// The command in `chain`, if it is one that a driver with `features` may give.
    fn parse(chain: &Chain, memory: &GuestMemory, features: u64) -> Option<Self> {
        let mut header = [0; HEADER_BYTES];
        chain.read_at(memory, 0, &mut header).ok()?;
        let [class, command] = header.map(u32::from);
        let negotiated = |feature: u32| features & 1 << feature != 0;
        match (class, command) {
            (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) if negotiated(VIRTIO_NET_F_MQ) => {
                data(chain, memory).map(|pairs| Self::UsePairs(u16::from_le_bytes(pairs)))
            }
            (VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET)
                if negotiated(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) =>
            {
                data(chain, memory).map(|features| Self::AcceptOffloads(u64::from_le_bytes(features)))
            }
            (VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK)
                if negotiated(VIRTIO_NET_F_GUEST_ANNOUNCE) =>
            {
                data(chain, memory).map(|[]: [u8; 0]| Self::Announced)
            }
            _ => None,
        }
    }
}

/// What follows the header, if it has this length.
fn data<const LENGTH: usize>(chain: &Chain, memory: &GuestMemory) -> Option<[u8; LENGTH]> {
    let mut data = [0; LENGTH];
    if chain.readable_len() != (HEADER_BYTES + LENGTH) as u64 {
        return None;
    }
    chain.read_at(memory, HEADER_BYTES as u64, &mut data).ok()?;
    Some(data)
}

/// Has commands obeyed until there are none, or too many for one turn.
pub(super) fn turn(
    queue: &mut Queue,
    features: u64,
    mut obey: impl FnMut(Command) -> Answer,
) -> Result<WorkLeft, QueueFault> {
    let mut budget = TURN_COMMANDS;
    let turn = loop {
        queue.suppress_doorbells();
        while budget > 0
            && let Some(chain) = queue.pop()?
        {
            budget -= 1;
            let written = answer(queue, &chain, features, &mut obey);
            queue.complete(chain.head(), written)?;
        }
        if budget == 0 {
            break WorkLeft::Maybe;
        }
        if !queue.enable_doorbells()? {
            break WorkLeft::Nothing;
        }
    };
    queue.notify()?;
    Ok(turn)
}

/// Answers the command in `chain`; how many bytes that took.
fn answer(queue: &Queue, chain: &Chain, features: u64, obey: &mut impl FnMut(Command) -> Answer) -> u32 {
    if chain.writable_len() == 0 {
        return 0;
    }
    let command = Command::parse(chain, queue.memory(), features);
    let answer = command.map_or(Answer::Refused, obey);
    // The place is in the chain, and the chain in memory: both were checked when it was taken.
    chain.write_at(queue.memory(), 0, &[answer.byte()]).map_or(0, |()| 1)
}
