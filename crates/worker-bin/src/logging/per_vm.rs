//! How many lines one VM may cause: a guest, or whatever goes wrong with it again and again, neither fills the log nor drowns
//! what is said of others.
//!
//! This is the one limit for lines about a VM, wherever they are logged: a line is about the VM that its field `vm_id`
//! names, or that of a span it is logged in, and every thread of a machine has such a span. What operators order
//! (target `audit`) is always told, and so is what only somebody who debugs has asked for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

use super::span_fields::vm_of;

/// Lines about a VM that may come at once.
const BURST: u32 = 60;
/// How long it takes until there may be one more.
const REFILL: Duration = Duration::from_secs(2);
/// So many VMs are counted at a time before those that say nothing are forgotten.
const COUNTED: usize = 1024;

/// What VMs may still cause.
#[derive(Debug, Default)]
pub(super) struct VmLimit {
    /// By VM. Held for moments; replaced figure by figure, so a poisoned lock is used on.
    budgets: Mutex<BTreeMap<String, Budget>>,
}

#[derive(Debug)]
struct Budget {
    lines: u32,
    /// When the last line was added to it.
    refilled: Instant,
    left_out: u64,
}

impl Budget {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).as_secs() / REFILL.as_secs();
        let more = u32::try_from(passed).unwrap_or(u32::MAX);
        if more > 0 {
            self.lines = self.lines.saturating_add(more).min(BURST);
            self.refilled = now;
        }
    }
}

impl VmLimit {
    /// Whether one more line about `vm` may be logged at `now`; it is counted either way.
    fn admit(&self, vm: &str, now: Instant) -> bool {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if budgets.len() >= COUNTED && !budgets.contains_key(vm) {
            budgets.retain(|_, budget| {
                budget.refill(now);
                budget.lines < BURST || budget.left_out > 0
            });
        }
        let full = Budget { lines: BURST, refilled: now, left_out: 0 };
        let budget = budgets.entry(vm.to_owned()).or_insert(full);
        budget.refill(now);
        if budget.lines == 0 {
            budget.left_out = budget.left_out.saturating_add(1);
            return false;
        }
        budget.lines -= 1;
        true
    }

    /// How many lines about which VMs were left out that nobody was told of, as far as there may be lines about them again.
    pub(super) fn take_left_out(&self, now: Instant) -> Vec<(String, u64)> {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = Vec::new();
        for (vm, budget) in budgets.iter_mut().filter(|(_, budget)| budget.left_out > 0) {
            budget.refill(now);
            if budget.lines > 0 {
                told.push((vm.clone(), std::mem::take(&mut budget.left_out)));
            }
        }
        told
    }
}

/// Leaves out what is beyond a VM's limit.
pub(super) struct WithinLimit(pub(super) &'static VmLimit);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for WithinLimit {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == "audit" {
            return true;
        }
        match vm_of(event, context) {
            Some(vm) => self.0.admit(&vm, Instant::now()),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::LazyLock;

    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, Registry, fmt};

    use super::super::span_fields::KeepFields;
    use super::*;

    #[test]
    fn a_vm_that_says_too_much_is_told_of_once_there_is_room_and_others_are_heard() {
        let (limit, start) = (VmLimit::default(), Instant::now());
        let admitted = (0..1000).filter(|_| limit.admit("loud", start)).count();
        assert_eq!(admitted, 60);
        assert!(limit.admit("quiet", start));
        assert!(limit.take_left_out(start).is_empty(), "there is no room to tell it");
        let later = start + REFILL;
        assert_eq!(limit.take_left_out(later), [("loud".to_owned(), 940)]);
        assert!(limit.take_left_out(later).is_empty(), "once");
        assert!(limit.admit("loud", later) && !limit.admit("loud", later));
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| limit.admit("loud", much_later)).count(), 60);
    }

    /// What a subscriber with the limit writes while `logging` runs.
    fn written(logging: impl FnOnce()) -> String {
        static LIMIT: LazyLock<VmLimit> = LazyLock::new(VmLimit::default);
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let layer = fmt::layer().with_ansi(false).with_writer(Mutex::new(writer));
        let subscriber = Registry::default().with(KeepFields).with(layer.with_filter(WithinLimit(&LIMIT)));
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        tracing::subscriber::with_default(subscriber, logging);
        reading.join().expect("it ends").expect("text")
    }

    #[test]
    fn a_line_is_about_the_vm_that_it_or_a_span_around_it_names() {
        let text = written(|| {
            let machine = tracing::info_span!("machine", vm_id = %"loud").entered();
            for _ in 0..200 {
                tracing::warn!("a device is broken");
                tracing::warn!(vm_id = "named", "an interface is down");
            }
            tracing::info!(target: "audit", "stopped");
            tracing::warn!(vm_id = "", "about none");
            drop(machine);
            tracing::warn!("something else");
        });
        let count = |what: &str| text.matches(what).count();
        assert_eq!((count("a device is broken"), count("an interface is down")), (60, 60));
        assert_eq!((count("stopped"), count("about none"), count("something else")), (1, 0, 1), "{text}");
    }

    #[test]
    fn vms_that_say_nothing_are_forgotten() {
        let (limit, start) = (VmLimit::default(), Instant::now());
        for vm in 0..COUNTED {
            limit.admit(&vm.to_string(), start);
        }
        limit.admit("one more", start + Duration::from_secs(60));
        assert_eq!(limit.budgets.lock().expect("whole").len(), 1);
    }
}
