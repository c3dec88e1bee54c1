//! Where a client of a console asks for the pen, when it attaches and later; what comes of it is audited.

use std::sync::Arc;

use tracing::field::display;
use tracing::info;
use vm_model::{Caller, EventKind, VmId};
use worker::vms::VmManager;

use super::pens::{Pen, Pens, Taken};
use crate::access::{Access, Peer};
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
            let Caller { uid, gid, pid, address } = self.peer.caller;
            let address = address.map(display);
            info!(target: "audit", uid, gid, pid, address, verb = "console", vm_id = %self.vm, "audit: attached to read");
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
                let (Caller { uid, gid, pid, address }, stolen_from) = (caller, from.map(|from| from.uid));
                let address = address.map(display);
                info!(target: "audit", uid, gid, pid, address, verb = "console", vm_id = %self.vm, stolen_from, "audit: attached to type");
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
