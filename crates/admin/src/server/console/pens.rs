//! Who may type at which VM: one client at a time has the VM's pen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use vm_model::{Caller, VmId};

/// The pens of all VMs. Bounded by the number of clients.
#[derive(Debug, Default)]
pub(super) struct Pens {
    /// Protects the list. Held for moments.
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    holders: BTreeMap<VmId, Holder>,
    next_number: u64,
}

#[derive(Debug)]
struct Holder {
    number: u64,
    who: Caller,
    /// Told who takes the pen away.
    thief: watch::Sender<Option<Caller>>,
}

/// What becomes of a wish for the pen.
#[derive(Debug)]
pub(super) enum Taken {
    /// The client has it now; and from whom it was taken, where it was.
    Yours(Pen, Option<Caller>),
    /// Somebody else has it.
    Held(Caller),
}

/// The right to type at a VM, until it is dropped or taken away.
#[derive(Debug)]
pub(super) struct Pen {
    pens: Arc<Pens>,
    vm: VmId,
    number: u64,
    thief: watch::Receiver<Option<Caller>>,
}

impl Pens {
    /// Gives `who` the pen of `vm` if nobody has it, or takes it away from whoever has it.
    pub(super) fn take(self: &Arc<Self>, vm: &VmId, who: Caller, steal: bool) -> Taken {
        let mut held = self.lock();
        if let Some(holder) = held.holders.get(vm)
            && !steal
        {
            return Taken::Held(holder.who);
        }
        let number = held.next_number;
        held.next_number += 1;
        let (thief, stolen) = watch::channel(None);
        let before = held.holders.insert(vm.clone(), Holder { number, who, thief });
        let from = before.map(|holder| {
            holder.thief.send_replace(Some(who));
            holder.who
        });
        Taken::Yours(Pen { pens: Arc::clone(self), vm: vm.clone(), number, thief: stolen }, from)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pen {
    /// Whether nobody has taken it away.
    pub(super) fn is_held(&self) -> bool {
        self.thief.borrow().is_none()
    }

    /// Tells when somebody takes it away, and who.
    pub(super) fn thief(&self) -> watch::Receiver<Option<Caller>> {
        self.thief.clone()
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        let mut held = self.pens.lock();
        if held.holders.get(&self.vm).is_some_and(|holder| holder.number == self.number) {
            held.holders.remove(&self.vm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32) -> Caller {
        Caller::process(uid, 0, None)
    }

    fn yours(taken: Taken) -> (Pen, Option<u32>) {
        match taken {
            Taken::Yours(pen, from) => (pen, from.map(|from| from.uid)),
            Taken::Held(by) => panic!("held by {by:?}"),
        }
    }

    #[test]
    fn one_has_the_pen_until_it_leaves_or_is_robbed() {
        let pens = Arc::new(Pens::default());
        let (web, db) = (VmId::new("web"), VmId::new("db"));
        let (first, from) = yours(pens.take(&web, caller(1), false));
        assert_eq!(from, None);
        yours(pens.take(&db, caller(2), false));
        assert!(matches!(pens.take(&web, caller(2), false), Taken::Held(Caller { uid: 1, .. })));
        let (second, from) = yours(pens.take(&web, caller(2), true));
        assert_eq!((from, first.is_held(), second.is_held()), (Some(1), false, true));
        assert_eq!(first.thief().borrow().map(|thief| thief.uid), Some(2));
        drop(first);
        assert!(matches!(pens.take(&web, caller(3), false), Taken::Held(Caller { uid: 2, .. })));
        drop(second);
        yours(pens.take(&web, caller(3), false));
    }
}
