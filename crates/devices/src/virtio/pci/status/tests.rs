//! Tests of the status machine.

use proptest::prelude::*;

use super::{DeviceStatus, Features, Stage, StatusEffect};

fn write_all(values: &[u8], features: Features) -> (DeviceStatus, Vec<StatusEffect>) {
    let mut status = DeviceStatus::default();
    let effects = values.iter().map(|value| {
        let (next, effect) = status.write(*value, features);
        status = next;
        effect
    });
    let effects = effects.collect();
    (status, effects)
}

#[test]
fn a_driver_goes_through_the_stages_in_order() {
    use StatusEffect::{Activate, Nothing, Reset};
    let (status, effects) = write_all(&[0, 1, 3, 11, 15], Features::Acceptable);
    assert_eq!((status.bits(), status.stage), (15, Stage::Running));
    assert_eq!(effects, [Reset, Nothing, Nothing, Nothing, Activate]);
    let (again, effect) = status.write(15, Features::Acceptable);
    assert_eq!((again, effect), (status, Nothing), "activated once");
}

#[test]
fn unacceptable_features_are_refused_until_they_change() {
    let (status, _effects) = write_all(&[1, 3, 11, 15], Features::Unacceptable);
    assert_eq!(status.bits(), 3);
    let (status, effect) = status.write(15, Features::Acceptable);
    assert_eq!((status.bits(), effect), (15, StatusEffect::Activate));
}

#[test]
fn failing_and_clearing_bits_lead_nowhere() {
    let (status, _effects) = write_all(&[1, 2, 4, 8, 12], Features::Acceptable);
    assert_eq!(status.bits(), 1, "stages cannot be skipped nor bits cleared");
    let (status, _effects) = write_all(&[1, 0x83, 0x8f], Features::Acceptable);
    assert_eq!(status.bits(), 0x81);
    assert_eq!(status.write(0, Features::Unacceptable), (DeviceStatus::default(), StatusEffect::Reset));
}

proptest! {
    #[test]
    fn stages_only_grow_until_reset_and_activation_happens_once(
        writes in proptest::collection::vec((any::<u8>(), any::<bool>()), 0..50),
    ) {
        let mut status = DeviceStatus::default();
        let mut activations = 0;
        for (value, acceptable) in writes {
            let features = if acceptable { Features::Acceptable } else { Features::Unacceptable };
            let (next, effect) = status.write(value, features);
            match effect {
                StatusEffect::Reset => {
                    prop_assert_eq!((value, next.bits()), (0, 0));
                    activations = 0;
                }
                StatusEffect::Activate | StatusEffect::Nothing => {
                    prop_assert!(next.stage >= status.stage);
                    prop_assert!(!next.needs_reset, "only a device can say so");
                    activations += u32::from(effect == StatusEffect::Activate);
                }
            }
            prop_assert_eq!(activations, u32::from(next.stage == Stage::Running));
            status = next;
        }
    }
}
