//! What the log says of slow turns, read by a subscriber of the test's own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};

use super::*;
use crate::mailbox::mailbox;

type Fields = BTreeMap<&'static str, String>;

/// Keeps the fields of every warning.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<Fields>>>);

impl Warnings {
    /// Those since the last look.
    fn take(&self) -> Vec<Fields> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut reader = Reader(Fields::new());
        event.record(&mut reader);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(reader.0);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

struct Reader(Fields);

impl Visit for Reader {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

fn driver() -> MachineDriver {
    let (_outbox, inbox) = mailbox(1, Arc::default()).expect("a descriptor");
    MachineDriver {
        id: VmId::new("slow"),
        inbox,
        status: watch::channel(MachineStatus::booting()).0,
        heartbeat: Arc::new(Heartbeat::new(Arc::default())),
        requested: Instant::now(),
        under_way: None,
        slow_turns: SlowTurns::default(),
        last_command: None,
        resets: ResetPolicy::EndsMachine,
        boot_files: BootFiles::default(),
        button: None,
        orders: StandingOrders::default(),
    }
}

#[test]
fn a_slow_turn_is_logged_with_the_handler_that_took_it() {
    let (warnings, mut driver) = (Warnings::default(), driver());
    let mut turn = |took, slowest: &str, command| {
        let took = Duration::from_millis(took);
        driver.turning();
        driver.last_command = command;
        driver.turned(&TurnReport { took, slowest: &slowest, slowest_took: took / 2 });
    };
    tracing::subscriber::with_default(warnings.clone(), || {
        turn(49, "queue 0 of disk0", None);
        assert_eq!(warnings.take(), [], "it was quick");

        turn(80, "queue 1 of disk0", Some(CommandKind::Pause));
        let told = warnings.take();
        let [told] = told.as_slice() else { panic!("one line was expected: {told:?}") };
        let expected = [
            ("vm_id", "slow"),
            ("took", "80ms"),
            ("handler", "queue 1 of disk0"),
            ("handler_took", "40ms"),
            ("last_command", "Some(Pause)"),
            ("suppressed", "0"),
        ];
        for (field, value) in expected {
            assert_eq!(told.get(field).map(String::as_str), Some(value), "{field} in {told:?}");
        }

        turn(90, "controller", None);
        assert_eq!(warnings.take(), [], "one was told a moment ago");
    });
}
