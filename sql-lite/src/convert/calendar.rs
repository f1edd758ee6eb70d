//! Days and microseconds to and from the proleptic Gregorian calendar, and their MySQL text.
//! It must never know a time zone.

use super::number::put_u64;

/// Microseconds of a second.
pub const SECOND: i64 = 1_000_000;
/// Microseconds of a day.
pub const DAY: i64 = 86_400 * SECOND;

/// A moment's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Year.
    pub year: i64,
    /// 1..=12.
    pub month: u32,
    /// 1..=31.
    pub day: u32,
    /// 0..=23.
    pub hour: u32,
    /// 0..=59.
    pub minute: u32,
    /// 0..=59.
    pub second: u32,
    /// 0..=999999.
    pub micros: u32,
}

/// Days since 1970-01-01 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms"). The day may
/// exceed its month's: it then counts into the next.
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let from_march = i64::from((month + 9) % 12);
    let of_year = (153 * from_march + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month, day of days since 1970-01-01.
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = (of_year - (153 * from_march + 2) / 5 + 1) as u32;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 } as u32;
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// Is this a day of the calendar?
pub fn is_date(year: i64, month: u32, day: u32) -> bool {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day)
}

/// The parts of microseconds since 1970-01-01 00:00:00.
pub fn parts(micros: i64) -> Parts {
    let (year, month, day) = civil_from_days(micros.div_euclid(DAY));
    let of_day = micros.rem_euclid(DAY);
    let seconds = (of_day / SECOND) as u32;
    Parts {
        year,
        month,
        day,
        hour: seconds / 3600,
        minute: seconds / 60 % 60,
        second: seconds % 60,
        micros: (of_day % SECOND) as u32,
    }
}

/// `YYYY-MM-DD`.
pub fn put_date(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil_from_days(days);
    put_civil(out, year, month, day);
}

/// `YYYY-MM-DD hh:mm:ss[.f]`, the fraction cut to `fsp` digits.
pub fn put_datetime(out: &mut Vec<u8>, micros: i64, fsp: u8) {
    let p = parts(micros);
    put_civil(out, p.year, p.month, p.day);
    out.push(b' ');
    put_clock(out, u64::from(p.hour), p.minute, p.second);
    put_fraction(out, p.micros, fsp);
}

/// `[-]hh:mm:ss[.f]`, the fraction cut to `fsp` digits; hours may have three digits.
pub fn put_time(out: &mut Vec<u8>, micros: i64, fsp: u8) {
    if micros < 0 {
        out.push(b'-');
    }
    let all = micros.unsigned_abs();
    let seconds = all / SECOND as u64;
    put_clock(out, seconds / 3600, (seconds / 60 % 60) as u32, (seconds % 60) as u32);
    put_fraction(out, (all % SECOND as u64) as u32, fsp);
}

/// Digits of the fraction worth showing when no type says: 6, or none.
pub fn natural_fsp(micros: i64) -> u8 {
    if micros % SECOND == 0 { 0 } else { 6 }
}

fn put_civil(out: &mut Vec<u8>, year: i64, month: u32, day: u32) {
    if year < 0 {
        out.push(b'-');
    }
    let year = year.unsigned_abs();
    match year {
        0..=9999 => {
            put_two(out, (year / 100) as u32);
            put_two(out, (year % 100) as u32);
        }
        _ => put_u64(out, year),
    }
    out.push(b'-');
    put_two(out, month);
    out.push(b'-');
    put_two(out, day);
}

fn put_clock(out: &mut Vec<u8>, hour: u64, minute: u32, second: u32) {
    match hour {
        0..=99 => put_two(out, hour as u32),
        _ => put_u64(out, hour),
    }
    out.push(b':');
    put_two(out, minute);
    out.push(b':');
    put_two(out, second);
}

fn put_fraction(out: &mut Vec<u8>, micros: u32, fsp: u8) {
    if fsp == 0 {
        return;
    }
    out.push(b'.');
    let mut unit = 100_000;
    for _ in 0..fsp.min(6) {
        out.push(b'0' + (micros / unit % 10) as u8);
        unit /= 10;
    }
}

fn put_two(out: &mut Vec<u8>, value: u32) {
    out.push(b'0' + (value / 10 % 10) as u8);
    out.push(b'0' + (value % 10) as u8);
}
