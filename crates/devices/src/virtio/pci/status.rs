//! Device status (virtio 1.2 §2.1) as a state machine without effects.
//!
//! ```text
//!        ACKNOWLEDGE      DRIVER        FEATURES_OK*       DRIVER_OK
//! Reset ────────→ Acknowledged ──→ Driver ────→ FeaturesOk ────→ Running
//!   ↑                                                               │
//!   └───────────────── write of 0, from anywhere ───────────────────┘
//! * only with acceptable features
//! ```
//!
//! `FAILED` (by the driver) stops all progress, `DEVICE_NEEDS_RESET` (by the device) says that queues are dead;
//! both stand beside the stage until reset. A reset is over, and all of it reads as zero, only when the device's I/O
//! has ended (§2.4.1): until then the driver sees what was there before, and cannot change it.

#[cfg(test)]
mod tests;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const DEVICE_NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;

/// How far a driver got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing known to the driver yet, or reset.
    #[default]
    Reset,
    /// A guest noticed the device.
    Acknowledged,
    /// A guest has a driver for it.
    Driver,
    /// Features are agreed on and frozen.
    FeaturesOk,
    /// The driver is set up; queues are frozen and served.
    Running,
}

impl Stage {
    /// The bits of this stage and all before it.
    fn bits(self) -> u8 {
        match self {
            Self::Reset => 0,
            Self::Acknowledged => ACKNOWLEDGE,
            Self::Driver => ACKNOWLEDGE | DRIVER,
            Self::FeaturesOk => ACKNOWLEDGE | DRIVER | FEATURES_OK,
            Self::Running => ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
        }
    }

    fn next(self) -> Option<Self> {
        match self {
            Self::Reset => Some(Self::Acknowledged),
            Self::Acknowledged => Some(Self::Driver),
            Self::Driver => Some(Self::FeaturesOk),
            Self::FeaturesOk => Some(Self::Running),
            Self::Running => None,
        }
    }
}

/// Whether the features that the driver chose can be agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Features {
    Acceptable,
    Unacceptable,
}

/// What a write to the status asks the transport to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusEffect {
    Nothing,
    Reset,
    Activate,
}

/// The status register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatus {
    /// How far the driver got.
    pub stage: Stage,
    /// The device cannot go on until it is reset (§2.1.2).
    pub needs_reset: bool,
    /// The driver gave up on the device.
    pub failed: bool,
    /// The driver reset the device, whose I/O has yet to end.
    pub resetting: bool,
}

impl DeviceStatus {
    /// What the driver reads.
    #[must_use]
    pub fn bits(self) -> u8 {
        let needs_reset = if self.needs_reset { DEVICE_NEEDS_RESET } else { 0 };
        let failed = if self.failed { FAILED } else { 0 };
        self.stage.bits() | needs_reset | failed
    }

    /// Takes a driver's write. Clearing a bit (§2.1.1 forbids it) and skipping a stage are ignored; setting the
    /// bits of several stages at once goes through them in order, as far as it can.
    #[must_use]
    pub(super) fn write(self, value: u8, features: Features) -> (Self, StatusEffect) {
        if self.resetting {
            return (self, StatusEffect::Nothing);
        }
        if value == 0 {
            return (Self::default(), StatusEffect::Reset);
        }
        if self.failed || self.stage.bits() & !value != 0 {
            return (self, StatusEffect::Nothing);
        }
        if value & FAILED != 0 {
            return (Self { failed: true, ..self }, StatusEffect::Nothing);
        }
        let mut stage = self.stage;
        while let Some(next) = stage.next().filter(|next| next.bits() & !value == 0) {
            // The driver reads the status back to learn of a refusal (§3.1.1 step 6).
            if next == Stage::FeaturesOk && features == Features::Unacceptable {
                break;
            }
            stage = next;
        }
        let activates = stage == Stage::Running && self.stage != Stage::Running;
        let effect = if activates { StatusEffect::Activate } else { StatusEffect::Nothing };
        (Self { stage, ..self }, effect)
    }
}
