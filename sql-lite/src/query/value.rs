//! MySQL's implicit conversions of one value: to a number, a truth, a text, a moment. Text is read
//! as far as it makes sense (`'12abc'` is 12, `'abc'` is 0). It must never fail: what cannot be
//! converted is zero or `None`, as the server it follows does in a SELECT.

use crate::convert::Cell;
use crate::convert::calendar::{DAY, SECOND, days_from_civil, is_date, parts};
use damask_types::Decimal;
use std::borrow::Cow;

/// Digits after the point at most, as MySQL's DECIMAL.
pub const SCALE_MAX: u8 = 30;

/// The longest numeric prefix of a text: `[ws][sign]digits[.digits][e[sign]digits]`.
pub fn numeric_prefix(text: &str) -> &str {
    let text = text.trim_start();
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let start = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let mut end = digits(start);
    let mut any = end > start;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        any |= fraction > end + 1;
        end = if any { fraction } else { end };
    }
    if !any {
        return "";
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    &text[..end]
}

fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn moment_number(micros: i64) -> i64 {
    let p = parts(micros);
    let date = p.year * 10_000 + i64::from(p.month) * 100 + i64::from(p.day);
    let time = i64::from(p.hour) * 10_000 + i64::from(p.minute) * 100 + i64::from(p.second);
    date * 1_000_000 + time
}

fn time_number(micros: i64) -> i64 {
    let seconds = micros.abs() / SECOND;
    let number = seconds / 3600 * 10_000 + seconds / 60 % 60 * 100 + seconds % 60;
    number * micros.signum()
}

/// As DOUBLE; `None` for NULL.
pub fn f64_of(cell: Cell<'_>) -> Option<f64> {
    let parse = |text: &str| numeric_prefix(text).parse().unwrap_or(0.0);
    Some(match cell {
        Cell::Null => return None,
        Cell::Int(v) => v as f64,
        Cell::UInt(v) => v as f64,
        Cell::Double(v) => v,
        Cell::Decimal(v) => v.to_f64(),
        Cell::Wide(v, scale) => {
            v.to_string().parse::<f64>().unwrap_or(0.0) / 10f64.powi(i32::from(scale))
        }
        Cell::Text(v) => parse(v),
        Cell::Bytes(v) => parse(&text_of(v)),
        Cell::Date(v) => (moment_number(i64::from(v) * DAY) / 1_000_000) as f64,
        Cell::DateTime(v) => moment_number(v) as f64 + (v.rem_euclid(SECOND)) as f64 / 1e6,
        Cell::Time(v) => time_number(v) as f64 + (v % SECOND) as f64 / 1e6,
    })
}

/// As DECIMAL with whatever scale the value has; `None` for NULL and for what has no such form.
pub fn decimal_of(cell: Cell<'_>) -> Option<Decimal> {
    let whole = |v: i128| Some(Decimal { unscaled: v, scale: 0 });
    match cell {
        Cell::Null | Cell::Wide(..) => None,
        Cell::Int(v) => whole(v.into()),
        Cell::UInt(v) => whole(v.into()),
        Cell::Decimal(v) => Some(v),
        Cell::Double(v) => decimal_of_f64(v),
        Cell::Text(v) => decimal_of_text(v),
        Cell::Bytes(v) => decimal_of_text(&text_of(v)),
        Cell::Date(v) => whole((moment_number(i64::from(v) * DAY) / 1_000_000).into()),
        Cell::DateTime(v) => whole(moment_number(v).into()),
        Cell::Time(v) => whole(time_number(v).into()),
    }
}

fn decimal_of_text(text: &str) -> Option<Decimal> {
    let prefix = numeric_prefix(text);
    if prefix.is_empty() {
        return Some(Decimal { unscaled: 0, scale: 0 });
    }
    match prefix.contains(['e', 'E']) {
        true => decimal_of_f64(prefix.parse().ok()?),
        false => {
            let kept = prefix
                .find('.')
                .map_or(prefix.len(), |at| prefix.len().min(at + 1 + usize::from(SCALE_MAX)));
            Decimal::parse(&prefix[..kept])
        }
    }
}

fn decimal_of_f64(v: f64) -> Option<Decimal> {
    if !v.is_finite() || v.abs() >= 1e38 {
        return None;
    }
    let text = format!("{v}");
    let kept = text.find('.').map_or(text.len(), |at| text.len().min(at + 1 + 30));
    Decimal::parse(&text[..kept])
}

/// As a whole number, rounded half away from zero, within 128 bits; `None` for NULL.
pub fn i128_of(cell: Cell<'_>) -> Option<i128> {
    match cell {
        Cell::Int(v) => Some(v.into()),
        Cell::UInt(v) => Some(v.into()),
        Cell::Double(v) => Some(v.round() as i128),
        // A text is cut at the point, not rounded, unless it has an exponent.
        Cell::Text(v) => Some(i128_of_text(v)),
        Cell::Bytes(v) => Some(i128_of_text(&text_of(v))),
        _ => decimal_of(cell)?.rescale(0).map(|d| d.unscaled),
    }
}

fn i128_of_text(text: &str) -> i128 {
    let prefix = numeric_prefix(text);
    let whole = prefix.split('.').next().unwrap_or("");
    match prefix.contains(['e', 'E']) {
        true => prefix.parse::<f64>().unwrap_or(0.0).round() as i128,
        false => whole.parse().unwrap_or(0),
    }
}

/// As BIGINT, clamped; `None` for NULL.
pub fn i64_of(cell: Cell<'_>) -> Option<i64> {
    i128_of(cell).map(|v| v.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
}

/// As BIGINT UNSIGNED by bits, as the bit operators read it; `None` for NULL.
pub fn bits_of(cell: Cell<'_>) -> Option<u64> {
    i128_of(cell).map(|v| match v {
        v if v < 0 => v.max(i64::MIN.into()) as i64 as u64,
        v => u64::try_from(v).unwrap_or(u64::MAX),
    })
}

/// Is it true? `None` for NULL.
pub fn truth_of(cell: Cell<'_>) -> Option<bool> {
    match cell {
        Cell::Null => None,
        Cell::Int(v) => Some(v != 0),
        Cell::UInt(v) => Some(v != 0),
        Cell::Decimal(v) => Some(v.unscaled != 0),
        _ => f64_of(cell).map(|v| v != 0.0),
    }
}

/// As text; `None` for NULL.
pub fn text_of_cell(cell: Cell<'_>) -> Option<Cow<'_, str>> {
    match cell {
        Cell::Null => None,
        Cell::Text(v) => Some(Cow::Borrowed(v)),
        Cell::Bytes(v) => Some(text_of(v)),
        _ => {
            let mut out = Vec::new();
            cell.put_text(&mut out, None).then_some(())?;
            Some(Cow::Owned(String::from_utf8_lossy(&out).into_owned()))
        }
    }
}

/// Days since 1970 of a year, month and day; `None` if there is no such day.
pub fn day(year: i64, month: u32, day: u32) -> Option<i32> {
    let ok = (0..=9999).contains(&year) && is_date(year, month, day);
    ok.then(|| days_from_civil(year, month, day) as i32)
}

/// A parsed moment: microseconds since 1970, and whether a time of day was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Microseconds since 1970-01-01 00:00:00.
    pub micros: i64,
    /// There was a time of day.
    pub with_time: bool,
}

/// Reads `2020-1-2`, `2020/01/02 03:04:05.678`, `20200102`, `20200102030405`, `200102`; an offset
/// such as `+02:00` is taken off. `None` if malformed or no such moment exists.
pub fn parse_moment(text: &str) -> Option<Moment> {
    let text = text.trim();
    if !text.as_bytes().first()?.is_ascii_digit() {
        return None;
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits >= 5 {
        return parse_compact(text, digits);
    }
    let (date, time) = match text.find(['T', ' ']) {
        Some(at) => (&text[..at], text[at + 1..].trim()),
        None => (text, ""),
    };
    let separator = |c: char| c.is_ascii_punctuation();
    let mut fields = date.split(separator);
    let year = fields.next()?;
    let month = fields.next()?.parse().ok()?;
    let of_month = fields.next()?.parse().ok()?;
    if fields.next().is_some() {
        return None;
    }
    let days = day(full_year(year)?, month, of_month)?;
    let midnight = i64::from(days) * DAY;
    match time {
        "" => Some(Moment { micros: midnight, with_time: false }),
        time => {
            let (time, offset) = split_offset(time)?;
            let micros = parse_clock(time)?;
            (0..DAY + SECOND).contains(&micros).then_some(())?;
            Some(Moment { micros: midnight + micros - offset, with_time: true })
        }
    }
}

fn full_year(text: &str) -> Option<i64> {
    let year: i64 = text.parse().ok()?;
    Some(match (text.len(), year) {
        (2, 0..=69) => 2000 + year,
        (2, _) => 1900 + year,
        _ => year,
    })
}

fn parse_compact(text: &str, digits: usize) -> Option<Moment> {
    let (year_len, with_time) = match digits {
        6 => (2, false),
        8 => (4, false),
        12 => (2, true),
        14 => (4, true),
        _ => return None,
    };
    let rest = &text[digits..];
    if !(rest.is_empty() || (with_time && rest.starts_with('.'))) {
        return None;
    }
    let two = |at: usize| text[at..at + 2].parse::<u32>().ok();
    let days = day(full_year(&text[..year_len])?, two(year_len)?, two(year_len + 2)?)?;
    let midnight = i64::from(days) * DAY;
    if !with_time {
        return Some(Moment { micros: midnight, with_time });
    }
    let at = year_len + 4;
    let (hour, minute, second) = (two(at)?, two(at + 2)?, two(at + 4)?);
    (hour < 24 && minute < 60 && second < 60).then_some(())?;
    let seconds = i64::from(hour * 3600 + minute * 60 + second);
    let fraction = rest.strip_prefix('.').map_or(Some(0), fraction)?;
    Some(Moment { micros: midnight + seconds * SECOND + fraction, with_time })
}

/// Takes `+hh:mm` or `Z` off the end of a time; microseconds east of UTC.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix('Z') {
        return Some((time, 0));
    }
    let Some(at) = time.rfind(['+', '-']).filter(|at| *at > 0) else { return Some((time, 0)) };
    let (hours, minutes) = time[at + 1..].split_once(':')?;
    let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
    let sign = if time.as_bytes()[at] == b'-' { -1 } else { 1 };
    Some((time[..at].trim_end(), sign * minutes * 60 * SECOND))
}

/// Microseconds of digits after a point, rounded to six.
fn fraction(digits: &str) -> Option<i64> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut micros = 0;
    for i in 0..6 {
        micros = micros * 10 + digits.as_bytes().get(i).map_or(0, |b| i64::from(b - b'0'));
    }
    Some(micros + i64::from(digits.as_bytes().get(6).is_some_and(|b| *b >= b'5')))
}

/// `hh:mm[:ss[.f]]` as microseconds, hours unlimited.
fn parse_clock(text: &str) -> Option<i64> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let mut fields = whole.split(':').map(|f| f.trim().parse::<i64>().ok());
    let hour = fields.next()??;
    let minute = fields.next().unwrap_or(Some(0))?;
    let second = fields.next().unwrap_or(Some(0))?;
    let sane = (0..60).contains(&minute) && (0..60).contains(&second) && fields.next().is_none();
    sane.then_some(())?;
    Some((hour * 3600 + minute * 60 + second) * SECOND + fraction(rest)?)
}

/// Largest TIME: 838:59:59.
pub const TIME_MAX: i64 = (838 * 3600 + 59 * 60 + 59) * SECOND;

/// Reads `[-][d ]hh:mm[:ss[.f]]`, `hhmmss`, or a moment's time of day, clamped to TIME's range.
pub fn parse_time(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, body) = text.strip_prefix('-').map_or((1, text), |body| (-1, body));
    if body.contains('-') || body.contains('/') {
        return parse_moment(text).map(|m| m.micros.rem_euclid(DAY));
    }
    let (days, clock) = match body.split_once(' ') {
        Some((days, clock)) => (days.parse::<i64>().ok()?, clock.trim()),
        None => (0, body),
    };
    let micros = match clock.contains(':') {
        true => parse_clock(clock)?,
        false => {
            let (whole, rest) = clock.split_once('.').unwrap_or((clock, ""));
            let number: i64 = whole.parse().ok()?;
            let (hour, minute, second) = (number / 10_000, number / 100 % 100, number % 100);
            (minute < 60 && second < 60).then_some(())?;
            (hour * 3600 + minute * 60 + second) * SECOND + fraction(rest)?
        }
    };
    Some(sign * (micros + days * DAY).min(TIME_MAX))
}

/// As a moment; `None` for NULL and for what is none. `today` (days) gives a TIME its date.
pub fn moment_of(cell: Cell<'_>) -> Option<Moment> {
    let digits = |v: i128| parse_moment(&format!("{v:0>6}"));
    match cell {
        Cell::Date(v) => Some(Moment { micros: i64::from(v) * DAY, with_time: false }),
        Cell::DateTime(v) => Some(Moment { micros: v, with_time: true }),
        Cell::Text(v) => parse_moment(v),
        Cell::Bytes(v) => parse_moment(&text_of(v)),
        Cell::Null | Cell::Time(_) | Cell::Wide(..) => None,
        _ => i128_of(cell).and_then(digits),
    }
}

/// As TIME in microseconds; `None` for NULL and for what is none.
pub fn time_of(cell: Cell<'_>) -> Option<i64> {
    match cell {
        Cell::Time(v) => Some(v),
        Cell::DateTime(v) => Some(v.rem_euclid(DAY)),
        Cell::Date(_) => Some(0),
        Cell::Text(v) => parse_time(v),
        Cell::Bytes(v) => parse_time(&text_of(v)),
        Cell::Null | Cell::Wide(..) => None,
        Cell::Double(_) | Cell::Decimal(_) => parse_time(&text_of_cell(cell)?),
        _ => parse_time(&i128_of(cell)?.to_string()),
    }
}

/// Rounds microseconds to `fsp` digits of a second.
pub fn round_fsp(micros: i64, fsp: u8) -> i64 {
    let unit = 10i64.pow(u32::from(6 - fsp.min(6)));
    micros.saturating_add(unit / 2).div_euclid(unit) * unit
}
