//! The clock's registers against known moments.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

fn chip_at(seconds: u64) -> Cmos {
    Cmos::with_clock(Box::new(move || UNIX_EPOCH + Duration::from_secs(seconds)))
}

fn read(chip: &Cmos, register: u8) -> u8 {
    chip.write(INDEX_PORT, &[register]);
    let mut byte = [0];
    chip.read(DATA_PORT, &mut byte);
    byte[0]
}

fn write(chip: &Cmos, register: u8, value: u8) {
    chip.write(INDEX_PORT, &[register]);
    chip.write(DATA_PORT, &[value]);
}

/// 2024-02-29 13:07:09 UTC, a Thursday.
const LEAP_DAY: u64 = 1_709_212_029;

#[test]
fn leap_day_in_bcd() {
    let chip = chip_at(LEAP_DAY);
    let registers = [CENTURY_REGISTER, YEAR, MONTH, DAY_OF_MONTH, DAY_OF_WEEK, HOURS, MINUTES, SECONDS];
    let values = registers.map(|register| read(&chip, register));
    assert_eq!(values, [0x20, 0x24, 0x02, 0x29, 0x05, 0x13, 0x07, 0x09]);
}

#[test]
fn leap_day_in_binary_on_a_dial() {
    let chip = chip_at(LEAP_DAY);
    write(&chip, STATUS_B, STATUS_B_BINARY);
    assert_eq!(read(&chip, YEAR), 24);
    assert_eq!(read(&chip, HOURS), 1 | HOURS_AFTERNOON);
    let midnight = chip_at(0);
    write(&midnight, STATUS_B, STATUS_B_BINARY);
    assert_eq!(read(&midnight, HOURS), 12);
}

#[test]
fn known_dates() {
    let date = |seconds| {
        let time = CalendarTime::of(UNIX_EPOCH + Duration::from_secs(seconds));
        (time.year, time.month, time.day)
    };
    assert_eq!(date(0), (1970, 1, 1));
    assert_eq!(date(951_782_399), (2000, 2, 28));
    assert_eq!(date(951_782_400), (2000, 2, 29));
    assert_eq!(date(4_107_542_399), (2100, 2, 28));
    assert_eq!(date(4_107_542_400), (2100, 3, 1));
}

#[test]
fn an_update_is_never_in_progress_and_the_battery_is_good() {
    let chip = chip_at(LEAP_DAY);
    assert_eq!(read(&chip, STATUS_A) & 0x80, 0);
    assert_eq!(read(&chip, STATUS_D), 0x80);
}

#[test]
fn the_nmi_bit_is_no_part_of_the_index() {
    let chip = chip_at(LEAP_DAY);
    write(&chip, 0x80 | 0x40, 0x5a);
    assert_eq!(read(&chip, 0x40), 0x5a);
}

proptest! {
    #[test]
    fn no_access_panics(accesses in proptest::collection::vec(any::<(u64, u8, bool)>(), 0..64), now in any::<u32>()) {
        let chip = chip_at(u64::from(now) * 1000);
        for (offset, value, is_write) in accesses {
            if is_write {
                chip.write(offset % 4, &[value, value]);
            } else {
                chip.read(offset % 4, &mut [0; 3]);
            }
        }
    }

    #[test]
    fn a_day_later_is_the_next_day(days in 0u64..200_000) {
        let date = |day| CalendarTime::of(UNIX_EPOCH + Duration::from_secs(day * 86_400));
        let (today, tomorrow) = (date(days), date(days + 1));
        prop_assert_eq!(tomorrow.day_of_week, today.day_of_week % 7 + 1);
        prop_assert!(tomorrow.day == today.day + 1 || (tomorrow.day == 1 && today.day >= 28));
    }
}
