//! A moment as date and time: the proleptic Gregorian calendar in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;
/// The calendar repeats itself after this many days and 400 years, weekdays included.
const DAYS_PER_CYCLE: u64 = 146_097;
const YEARS_PER_CYCLE: u64 = 400;
/// 1970-01-01 was a Thursday; the chip counts Sunday as 1.
const EPOCH_DAY_OF_WEEK: u64 = 5;

/// Fields of a date and time, each below 100 but the year.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use vm_model::CalendarTime;
///
/// let leap_day = CalendarTime::of(UNIX_EPOCH + Duration::from_secs(1_709_212_029));
/// assert_eq!((leap_day.year, leap_day.month, leap_day.day), (2024, 2, 29));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalendarTime {
    /// 1970 to 9999.
    pub year: u16,
    /// From one.
    pub month: u8,
    /// Of the month, from one.
    pub day: u8,
    /// 1 is Sunday.
    pub day_of_week: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl CalendarTime {
    /// `moment` in UTC; the epoch for moments before it, and the year modulo 10,000 after the year 9999.
    pub fn of(moment: SystemTime) -> Self {
        let seconds = moment.duration_since(UNIX_EPOCH).map_or(0, |since_epoch| since_epoch.as_secs());
        let days = seconds / SECONDS_PER_DAY;
        let second_of_day = seconds % SECONDS_PER_DAY;
        let (year, day_of_year) = year_of(days);
        let (month, day) = month_of(year, day_of_year);
        Self {
            year: u16::try_from(year % 10_000).expect("below 10,000"),
            month: small(month),
            day: small(day),
            day_of_week: small((days + EPOCH_DAY_OF_WEEK - 1) % 7 + 1),
            hour: small(second_of_day / 3600),
            minute: small(second_of_day / 60 % 60),
            second: small(second_of_day % 60),
        }
    }

    /// 20 in 2024.
    pub fn century(self) -> u8 {
        small(u64::from(self.year / 100))
    }

    /// 24 in 2024.
    pub fn year_of_century(self) -> u8 {
        small(u64::from(self.year % 100))
    }
}

/// The year of the day `days` after the epoch, and which day of it, from zero.
fn year_of(days: u64) -> (u64, u64) {
    let mut year = 1970 + days / DAYS_PER_CYCLE * YEARS_PER_CYCLE;
    let mut rest = days % DAYS_PER_CYCLE;
    while rest >= days_in_year(year) {
        rest -= days_in_year(year);
        year += 1;
    }
    (year, rest)
}

/// The month, from one, of day `day_of_year` of `year`, and which day of it, from one.
fn month_of(year: u64, day_of_year: u64) -> (u64, u64) {
    let february = days_in_year(year) - 337;
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut rest = day_of_year;
    for (month, length) in (1..).zip(lengths) {
        if rest < length {
            return (month, rest + 1);
        }
        rest -= length;
    }
    // Not reached for a day of the year; the last day is then the least wrong.
    (12, 31)
}

fn days_in_year(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    if leap { 366 } else { 365 }
}

fn small(value: u64) -> u8 {
    u8::try_from(value).expect("fields of a date are below 100")
}
