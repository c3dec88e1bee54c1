//! A card's link, reachable from any thread: up or down, and whether the guest is to announce itself on it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::bindings::virtio_net::{VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP};

use vm_model::LinkState;

use crate::wake::WakeEvent;

/// The result of asking for an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// The driver is asked for one.
    Asked,
    /// There is no driver, or one that does not know how (`VIRTIO_NET_F_GUEST_ANNOUNCE`).
    NotPossible,
}

/// One card's link. The guest sees a change when the transport notifies it of a change of configuration.
#[derive(Debug)]
pub struct NetHandle {
    down: AtomicBool,
    /// The driver knows announcements.
    announces: AtomicBool,
    /// One was asked for and not acknowledged.
    announcing: AtomicBool,
    /// Has the card look at its queues and ports.
    go_on: WakeEvent,
}

impl NetHandle {
    pub(super) fn new(go_on: &WakeEvent) -> io::Result<Self> {
        Ok(Self {
            down: AtomicBool::new(false),
            announces: AtomicBool::new(false),
            announcing: AtomicBool::new(false),
            go_on: go_on.try_clone()?,
        })
    }

    /// Takes the link up or down; a reset of the device does not change it.
    pub fn set_link(&self, link: LinkState) {
        self.down.store(link == LinkState::Down, Ordering::SeqCst);
        self.go_on.ring();
    }

    /// The link's state.
    #[must_use]
    pub fn link(&self) -> LinkState {
        if self.down.load(Ordering::SeqCst) { LinkState::Down } else { LinkState::Up }
    }

    /// Asks the guest to announce its addresses on the network, as after a move of the host's side (virtio 1.2 §5.1.6.5.4).
    pub fn ask_for_announcement(&self) -> Announcement {
        if !self.announces.load(Ordering::SeqCst) {
            return Announcement::NotPossible;
        }
        self.announcing.store(true, Ordering::SeqCst);
        Announcement::Asked
    }

    /// The status field of the configuration space (§5.1.4).
    pub(super) fn status(&self) -> u32 {
        let up = if self.link() == LinkState::Up { VIRTIO_NET_S_LINK_UP } else { 0 };
        let announcing = self.announces.load(Ordering::SeqCst) && self.announcing.load(Ordering::SeqCst);
        up | if announcing { VIRTIO_NET_S_ANNOUNCE } else { 0 }
    }

    /// The driver announced the guest.
    pub(super) fn acknowledge(&self) {
        self.announcing.store(false, Ordering::SeqCst);
    }

    /// There is a new driver, which knows announcements or not, or none. It owes none of those asked of others.
    pub(super) fn begin(&self, announces: bool) {
        self.announcing.store(false, Ordering::SeqCst);
        self.announces.store(announces, Ordering::SeqCst);
    }
}
