//! Dates and times from text and numbers, in MySQL's many spellings. It must never return a day
//! that the calendar has not: zero dates do not exist here.

use crate::convert::calendar::{DAY, SECOND, days_from_civil, is_date, parts};
use damask_types::Datum;

/// 838:59:59.
pub const TIME_MAX: i64 = (838 * 3600 + 59 * 60 + 59) * SECOND;
/// 1970-01-01 00:00:01 UTC.
pub const TIMESTAMP_MIN: i64 = SECOND;
/// 2038-01-19 03:14:07.999999 UTC.
pub const TIMESTAMP_MAX: i64 = (i32::MAX as i64 + 1) * SECOND - 1;

/// Within years 0..=9999?
pub fn in_range(us: i64) -> bool {
    let (min, max) = (days_from_civil(0, 1, 1) * DAY, days_from_civil(10_000, 1, 1) * DAY);
    (min..max).contains(&us)
}

/// Rounds to `fsp` digits of the second, half up (away from zero for a TIME).
pub fn round_us(us: i64, fsp: u8) -> i64 {
    let unit = 10i64.pow(u32::from(6 - fsp.min(6)));
    let half = if us < 0 { -(unit / 2) } else { unit / 2 };
    if unit == 1 { us } else { (us + half) / unit * unit }
}

/// `YYYYMMDDhhmmss` or `hhmmss` as a number, as MySQL's `x + 0`.
pub fn as_number(value: &Datum) -> f64 {
    let date = |p: crate::convert::calendar::Parts| {
        (p.year * 10_000 + i64::from(p.month) * 100 + i64::from(p.day)) as f64
    };
    match value {
        Datum::Date(days) => date(parts(i64::from(*days) * DAY)),
        Datum::DateTime(us) => {
            let p = parts(*us);
            let clock = f64::from(p.hour * 10_000 + p.minute * 100 + p.second);
            date(p) * 1e6 + clock + f64::from(p.micros) / 1e6
        }
        Datum::Time(us) => {
            let all = us.unsigned_abs();
            let seconds = all / SECOND as u64;
            let clock = seconds / 3600 * 10_000 + seconds / 60 % 60 * 100 + seconds % 60;
            let number = clock as f64 + (all % SECOND as u64) as f64 / 1e6;
            if *us < 0 { -number } else { number }
        }
        _ => 0.0,
    }
}

/// Two digits of a year: 70..=99 are 19xx.
fn full_year(year: i64, digits: usize) -> i64 {
    match (digits, year) {
        (2, 70..) => 1900 + year,
        (2, _) => 2000 + year,
        _ => year,
    }
}

fn moment(year: i64, month: u32, day: u32, clock: [u32; 3], micros: i64) -> Option<i64> {
    let [hour, minute, second] = clock;
    if !is_date(year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = i64::from(hour * 3600 + minute * 60 + second);
    Some(days_from_civil(year, month, day) * DAY + seconds * SECOND + micros)
}

/// `YYMMDD`, `YYYYMMDD`, `YYMMDDhhmmss`, `YYYYMMDDhhmmss`.
pub fn datetime_of_digits(text: &str) -> Option<i64> {
    let (digits, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let padded = match digits.len() {
        5 | 7 | 11 | 13 => format!("0{digits}"),
        _ => digits.to_owned(),
    };
    let year_digits = match padded.len() {
        6 | 12 => 2,
        8 | 14 => 4,
        _ => return None,
    };
    let n = |from: usize, len: usize| padded.get(from..from + len)?.parse::<u32>().ok();
    let year = full_year(i64::from(n(0, year_digits)?), year_digits);
    let at = year_digits;
    let clock =
        if padded.len() > at + 4 { [n(at + 4, 2)?, n(at + 6, 2)?, n(at + 8, 2)?] } else { [0; 3] };
    moment(year, n(at, 2)?, n(at + 2, 2)?, clock, micros(fraction)?)
}

/// The digits of a second's fraction; beyond six they round.
fn micros(fraction: &str) -> Option<i64> {
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut us = 0i64;
    for at in 0..6 {
        let digit = fraction.as_bytes().get(at).map_or(0, |b| i64::from(b - b'0'));
        us = us * 10 + digit;
    }
    let round = fraction.as_bytes().get(6).is_some_and(|b| *b >= b'5');
    Some(us + i64::from(round))
}

/// A date or datetime; an offset at the end (`+02:00`, `Z`) is converted to the session's zone.
pub fn parse_datetime(text: &str, offset_us: i64) -> Option<i64> {
    let text = text.trim();
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !text.contains("..") {
        let digits = text.split('.').next().map_or(0, str::len);
        if text.bytes().filter(|b| *b == b'.').count() <= 1 && digits >= 5 {
            return datetime_of_digits(text);
        }
    }
    let (text, zone) = split_zone(text)?;
    let mut numbers: [(u32, usize); 6] = [(0, 0); 6];
    let mut count = 0;
    let mut rest = text;
    let mut fraction = "";
    while !rest.is_empty() {
        let len = rest.bytes().take_while(u8::is_ascii_digit).count();
        if len == 0 || len > 4 && count != 5 || count == 6 {
            return None;
        }
        numbers[count] = (rest[..len].parse().ok()?, len);
        count += 1;
        rest = &rest[len..];
        if count == 6 {
            if let Some(f) = rest.strip_prefix('.') {
                fraction = f;
                rest = "";
            }
            if !rest.trim().is_empty() {
                return None;
            }
            break;
        }
        if rest.is_empty() {
            break;
        }
        // Any punctuation separates; between date and time also blanks or a T.
        let separator = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let between = &rest[..separator];
        let fine = match count {
            3 => {
                between == "T"
                    || between == "t"
                    || between.bytes().all(|b| b.is_ascii_whitespace())
                    || between.len() == 1 && between.bytes().all(|b| b.is_ascii_punctuation())
            }
            _ => !between.is_empty() && between.bytes().all(|b| b.is_ascii_punctuation()),
        };
        if !fine || separator == rest.len() {
            return None;
        }
        rest = &rest[separator..];
    }
    if count < 3 {
        return None;
    }
    let n = |at: usize| numbers[at].0;
    let year = full_year(i64::from(n(0)), numbers[0].1);
    let us = moment(year, n(1), n(2), [n(3), n(4), n(5)], micros(fraction)?)?;
    Some(zone.map_or(us, |zone| us - zone + offset_us))
}

/// Splits `+hh:mm` or `Z` off a datetime.
fn split_zone(text: &str) -> Option<(&str, Option<i64>)> {
    if let Some(text) = text.strip_suffix('Z') {
        return Some((text, Some(0)));
    }
    let at = text.len().checked_sub(6).filter(|at| *at >= 11 && text.is_char_boundary(*at));
    let Some(at) = at else { return Some((text, None)) };
    let tail = &text.as_bytes()[at..];
    if !matches!(tail[0], b'+' | b'-') || tail[3] != b':' || !text[..at].contains(':') {
        return Some((text, None));
    }
    let hours: i64 = text.get(at + 1..at + 3)?.parse().ok()?;
    let minutes: i64 = text.get(at + 4..)?.parse().ok()?;
    if hours > 14 || minutes > 59 {
        return None;
    }
    let us = (hours * 60 + minutes) * 60 * SECOND;
    Some((&text[..at], Some(if tail[0] == b'-' { -us } else { us })))
}

/// `[-][D ]h:mm[:ss[.f]]`, `hhmmss[.f]`, or the time of a datetime.
pub fn parse_time(text: &str) -> Option<i64> {
    let text = text.trim();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if text.contains('-') {
        return parse_datetime(text, 0).map(|us| us.rem_euclid(DAY));
    }
    let (text, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (days, clock) = match text.split_once(' ') {
        Some((days, clock)) => (days.parse::<i64>().ok().filter(|d| *d <= 34)?, clock.trim()),
        None => (0, text),
    };
    let number = |s: &str| {
        (!s.is_empty() && s.len() <= 7 && s.bytes().all(|b| b.is_ascii_digit()))
            .then(|| s.parse::<i64>().ok())?
    };
    let (hours, minutes, seconds) = if clock.contains(':') {
        let mut parts = clock.split(':');
        let hours = number(parts.next()?)?;
        let minutes = number(parts.next()?)?;
        let seconds = parts.next().map_or(Some(0), number)?;
        if parts.next().is_some() {
            return None;
        }
        (hours, minutes, seconds)
    } else if text.contains(' ') {
        (number(clock)?, 0, 0)
    } else {
        let all = number(clock)?;
        (all / 10_000, all / 100 % 100, all % 100)
    };
    if minutes > 59 || seconds > 59 {
        return None;
    }
    let seconds = (days * 24 + hours) * 3600 + minutes * 60 + seconds;
    let us = seconds * SECOND + micros(fraction)?;
    Some(if negative { -us } else { us })
}
