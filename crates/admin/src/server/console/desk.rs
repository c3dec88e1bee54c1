//! Where a client of a console asks for the pen, when it attaches and later; what comes of it is audited.

use std::sync::Arc;

use tracing::{debug, info};
use vm_model::{Caller, EventKind, VmId};
use worker::vms::VmManager;

use super::pens::{Pen, Pens, Taken};
use crate::access::{Access, CallerFields, Peer};
use crate::console::{PenRequest, PenState};

/// What one client may have of one VM's pen.
pub(super) struct PenDesk {
    pub(super) pens: Arc<Pens>,
    pub(super) vm_manager: Arc<VmManager>,
    pub(super) vm: VmId,
    pub(super) peer: Peer,
}

impl PenDesk {
    /// What becomes of the wish with which the client attaches.
    pub(super) fn attach(&self, wanted: PenRequest) -> (Option<Pen>, PenState) {
        let (pen, state) = match wanted {
            PenRequest::None => (None, PenState::ReadOnly),
            PenRequest::Ask => self.take(false),
            PenRequest::Steal => self.take(true),
        };
        if pen.is_none() {
            // No order, and as often as anybody likes: at a level that is written, it would push out of the VM's own log what
            // happened to it.
            let CallerFields { uid, gid, pid, address } = self.peer.caller.into();
            debug!(target: "audit", uid, gid, pid, address, verb = "console", vm_id = %self.vm, "audit: attached to read");
        }
        (pen, state)
    }

    /// The pen, where nobody has it and the client may have it at all.
    pub(super) fn ask(&self) -> (Option<Pen>, PenState) {
        match self.peer.access {
            Access::Full => self.take(false),
            Access::ReadOnly => (None, PenState::ReadOnly),
        }
    }

    fn take(&self, steal: bool) -> (Option<Pen>, PenState) {
        let caller = self.peer.caller;
        match self.pens.take(&self.vm, caller, steal) {
            Taken::Held(by) => (None, PenState::Held(named(by))),
            Taken::Yours(pen, from) => {
                let CallerFields { uid, gid, pid, address } = caller.into();
                let stolen = from.map(CallerFields::from);
                let stolen_from = stolen.as_ref().and_then(|from| from.uid);
                let stolen_from_address = stolen.as_ref().and_then(|from| from.address.as_ref());
                info!(target: "audit", uid, gid, pid, address, verb = "console", vm_id = %self.vm, stolen_from, stolen_from_address, "audit: attached to type");
                let verb = if from.is_some() { "console --steal" } else { "console" };
                let kind = EventKind::Ordered { verb: verb.to_owned(), by: caller, status: 101 };
                self.vm_manager.events().record(Some(&self.vm), kind);
                (Some(pen), PenState::Yours)
            }
        }
    }
}

/// Who has the pen, as others are told.
pub(super) fn named(Caller { uid, pid, address, .. }: Caller) -> String {
    match (address, pid) {
        (Some(address), _) => format!("somebody at {address}"),
        (None, Some(pid)) => format!("user {uid} (process {pid})"),
        (None, None) => format!("user {uid}"),
    }
}
