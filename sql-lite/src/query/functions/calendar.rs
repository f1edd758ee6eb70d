//! Calendar arithmetic and MySQL's date formats, on microseconds since 1970. Pure functions; an
//! impossible moment is `None`.

use crate::convert::calendar::{DAY, Parts, SECOND, civil_from_days, days_from_civil, parts};
use crate::query::value::day;

/// Years that a moment may have.
const YEARS: std::ops::RangeInclusive<i64> = 0..=9999;

/// Full names, Monday first.
pub(super) const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
/// Full names.
pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// 0 = Monday.
pub(super) fn weekday(days: i64) -> i64 {
    (days + 3).rem_euclid(7)
}

/// 1..=366.
pub(super) fn day_of_year(days: i64) -> i64 {
    days - days_from_civil(civil_from_days(days).0, 1, 1) + 1
}

/// Year and week of WEEK's modes 0..=7; week 0 belongs to the year before in the modes that count
/// from 1.
pub(super) fn week(days: i64, mode: i64) -> (i64, i64) {
    let mode = mode & 7;
    let monday_first = mode & 1 != 0;
    let from_one = mode & 2 != 0;
    // Does the first week need four days of the year (else: hold the first such weekday)?
    let four_days = monday_first != (mode & 4 != 0);
    let year = civil_from_days(days).0;
    let first = |year: i64| {
        let january = days_from_civil(year, 1, 1);
        let at = match monday_first {
            true => weekday(january),
            false => (weekday(january) + 1) % 7,
        };
        let starts_before = if four_days { at <= 3 } else { at == 0 };
        january - at + if starts_before { 0 } else { 7 }
    };
    if days >= first(year) {
        if from_one && days >= first(year + 1) {
            return (year + 1, 1);
        }
        return (year, (days - first(year)) / 7 + 1);
    }
    match from_one {
        true => (year - 1, (days - first(year - 1)) / 7 + 1),
        false => (year, 0),
    }
}

/// What INTERVAL adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Months(i64),
    Micros(i64),
}

/// A unit and an amount, e.g. `DAY` and `'3'`, `DAY_HOUR` and `'1 2'`.
pub(super) fn step(unit: &str, amount: &str) -> Option<Step> {
    let single = match unit {
        "MICROSECOND" => Some(1),
        "SECOND" => Some(SECOND),
        "MINUTE" => Some(60 * SECOND),
        "HOUR" => Some(3600 * SECOND),
        "DAY" => Some(DAY),
        "WEEK" => Some(7 * DAY),
        _ => None,
    };
    let negative = amount.trim_start().starts_with('-');
    if let Some(size) = single {
        let prefix = crate::query::value::numeric_prefix(amount);
        let micros = match unit {
            "SECOND" => (prefix.parse::<f64>().unwrap_or(0.0) * 1e6).round() as i64,
            _ => (prefix.parse::<f64>().unwrap_or(0.0).round() as i64).checked_mul(size)?,
        };
        return Some(Step::Micros(micros));
    }
    let fields = amount.split(|c: char| !c.is_ascii_digit()).filter(|f| !f.is_empty());
    let fields: Vec<i64> = fields.map(|f| f.parse().unwrap_or(0)).collect();
    let last = *fields.last().unwrap_or(&0);
    let back = |n: usize| fields.len().checked_sub(n + 1).map_or(0, |i| fields[i]);
    let sign = |v: i64| if negative { -v } else { v };
    let clock = [SECOND, 60 * SECOND, 3600 * SECOND, DAY];
    let micros_of = |last_unit: usize, count: usize| -> Option<i64> {
        let parts = (0..count).map(|i| back(i).checked_mul(clock[last_unit + i]));
        parts.sum::<Option<i64>>().map(sign)
    };
    let fractional = |count: usize| -> Option<i64> {
        let digits = amount.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
        let micros = format!("{digits:0<6}")[..6].parse::<i64>().ok()?;
        let parts = (0..count).map(|i| back(i + 1).checked_mul(clock[i]));
        Some(sign(micros + parts.sum::<Option<i64>>()?))
    };
    let whole = |scale: i64| {
        let v = crate::query::value::numeric_prefix(amount).parse::<f64>().unwrap_or(0.0);
        (v.round() as i64).checked_mul(scale).map(Step::Months)
    };
    match unit {
        "MONTH" => whole(1),
        "QUARTER" => whole(3),
        "YEAR" => whole(12),
        "YEAR_MONTH" => Some(Step::Months(sign(back(1).checked_mul(12)?.checked_add(last)?))),
        "DAY_HOUR" => micros_of(2, 2).map(Step::Micros),
        "DAY_MINUTE" => micros_of(1, 3).map(Step::Micros),
        "DAY_SECOND" => micros_of(0, 4).map(Step::Micros),
        "HOUR_MINUTE" => micros_of(1, 2).map(Step::Micros),
        "HOUR_SECOND" => micros_of(0, 3).map(Step::Micros),
        "MINUTE_SECOND" => micros_of(0, 2).map(Step::Micros),
        "SECOND_MICROSECOND" => fractional(1).map(Step::Micros),
        "MINUTE_MICROSECOND" => fractional(2).map(Step::Micros),
        "HOUR_MICROSECOND" => fractional(3).map(Step::Micros),
        "DAY_MICROSECOND" => fractional(4).map(Step::Micros),
        _ => None,
    }
}

/// A moment plus a step; a day that the month lacks becomes its last.
pub(crate) fn add(micros: i64, step: Step) -> Option<i64> {
    let moved = match step {
        Step::Micros(by) => micros.checked_add(by)?,
        Step::Months(by) => {
            let (year, month, of_month) = civil_from_days(micros.div_euclid(DAY));
            let months =
                year.checked_mul(12)?.checked_add(i64::from(month) - 1)?.checked_add(by)?;
            let (year, month) = (months.div_euclid(12), months.rem_euclid(12) as u32 + 1);
            YEARS.contains(&year).then_some(())?;
            let last = last_of_month(year, month);
            let days = days_from_civil(year, month, of_month.min(last));
            days * DAY + micros.rem_euclid(DAY)
        }
    };
    YEARS.contains(&civil_from_days(moved.div_euclid(DAY)).0).then_some(moved)
}

/// 28..=31.
pub(super) fn last_of_month(year: i64, month: u32) -> u32 {
    let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    (days_from_civil(next_year, next, 1) - days_from_civil(year, month, 1)) as u32
}

fn ordinal(day: u32) -> &'static str {
    match (day % 10, day % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    }
}

/// DATE_FORMAT. `hours` replaces the hour of `%H` and `%k`, which in TIME_FORMAT may exceed 23.
pub(super) fn format(micros: i64, pattern: &str, hours: Option<i64>) -> String {
    let p: Parts = parts(micros);
    let days = micros.div_euclid(DAY);
    let twelve = match p.hour % 12 {
        0 => 12,
        h => h,
    };
    let half = if p.hour < 12 { "AM" } else { "PM" };
    let mut out = String::with_capacity(pattern.len() * 2);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let hour = hours.unwrap_or(p.hour.into());
        match chars.next() {
            Some('Y') => out.push_str(&format!("{:04}", p.year)),
            Some('y') => out.push_str(&format!("{:02}", p.year % 100)),
            Some('m') => out.push_str(&format!("{:02}", p.month)),
            Some('c') => out.push_str(&p.month.to_string()),
            Some('M') => out.push_str(MONTHS[p.month as usize - 1]),
            Some('b') => out.push_str(&MONTHS[p.month as usize - 1][..3]),
            Some('d') => out.push_str(&format!("{:02}", p.day)),
            Some('e') => out.push_str(&p.day.to_string()),
            Some('D') => out.push_str(&format!("{}{}", p.day, ordinal(p.day))),
            Some('H') => out.push_str(&format!("{hour:02}")),
            Some('k') => out.push_str(&hour.to_string()),
            Some('h' | 'I') => out.push_str(&format!("{twelve:02}")),
            Some('l') => out.push_str(&twelve.to_string()),
            Some('i') => out.push_str(&format!("{:02}", p.minute)),
            Some('s' | 'S') => out.push_str(&format!("{:02}", p.second)),
            Some('f') => out.push_str(&format!("{:06}", p.micros)),
            Some('p') => out.push_str(half),
            Some('r') => {
                out.push_str(&format!("{twelve:02}:{:02}:{:02} {half}", p.minute, p.second));
            }
            Some('T') => out.push_str(&format!("{hour:02}:{:02}:{:02}", p.minute, p.second)),
            Some('j') => out.push_str(&format!("{:03}", day_of_year(days))),
            Some('W') => out.push_str(DAYS[weekday(days) as usize]),
            Some('a') => out.push_str(&DAYS[weekday(days) as usize][..3]),
            Some('w') => out.push_str(&((weekday(days) + 1) % 7).to_string()),
            Some('U') => out.push_str(&format!("{:02}", week(days, 0).1)),
            Some('u') => out.push_str(&format!("{:02}", week(days, 1).1)),
            Some('V') => out.push_str(&format!("{:02}", week(days, 2).1)),
            Some('v') => out.push_str(&format!("{:02}", week(days, 3).1)),
            Some('X') => out.push_str(&format!("{:04}", week(days, 2).0)),
            Some('x') => out.push_str(&format!("{:04}", week(days, 3).0)),
            Some(other) => out.push(other),
            None => out.push('%'),
        }
    }
    out
}

/// What a pattern of STR_TO_DATE gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Date,
    Time,
    Both,
}

/// Does a pattern name parts of a date, of a time, or both?
pub(super) fn shape(pattern: &str) -> Shape {
    let (mut date, mut time) = (false, false);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c == '%' {
            match chars.next() {
                Some('H' | 'k' | 'h' | 'I' | 'l' | 'i' | 's' | 'S' | 'f' | 'p' | 'r' | 'T') => {
                    time = true;
                }
                Some('%') | None => {}
                Some(_) => date = true,
            }
        }
    }
    match (date, time) {
        (true, true) => Shape::Both,
        (false, true) => Shape::Time,
        _ => Shape::Date,
    }
}

/// Reads digits at the front.
fn digits(text: &mut &str, most: usize) -> Option<i64> {
    let n = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    let (head, tail) = text.split_at(n);
    *text = tail;
    head.parse().ok()
}

fn named(text: &mut &str, names: &[&str], short: bool) -> Option<i64> {
    let at = names.iter().position(|name| {
        let name = if short { &name[..3] } else { name };
        text.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name))
    })?;
    *text = &text[if short { 3 } else { names[at].len() }..];
    Some(at as i64)
}

/// STR_TO_DATE: microseconds of the date (0000-00-00 if none) and of the time of day.
pub(super) fn parse(text: &str, pattern: &str) -> Option<i64> {
    let mut text = text.trim_start();
    let (mut year, mut month, mut of_month) = (None, None, None);
    let (mut hour, mut minute, mut second, mut micros) = (0, 0, 0, 0);
    let (mut pm, mut of_year) = (None, None);
    let mut pattern = pattern.chars();
    while let Some(c) = pattern.next() {
        if c.is_whitespace() {
            text = text.trim_start();
            continue;
        }
        if c != '%' {
            text = text.strip_prefix(c)?;
            continue;
        }
        match pattern.next()? {
            'Y' => year = Some(digits(&mut text, 4)?),
            'y' => {
                let short = digits(&mut text, 2)?;
                year = Some(if short < 70 { 2000 + short } else { 1900 + short });
            }
            'm' | 'c' => month = Some(digits(&mut text, 2)?),
            'M' => month = Some(named(&mut text, &MONTHS, false)? + 1),
            'b' => month = Some(named(&mut text, &MONTHS, true)? + 1),
            'd' | 'e' => of_month = Some(digits(&mut text, 2)?),
            'D' => {
                of_month = Some(digits(&mut text, 2)?);
                text = text.get(2..)?;
            }
            'j' => of_year = Some(digits(&mut text, 3)?),
            'H' | 'k' | 'h' | 'I' | 'l' => hour = digits(&mut text, 2)?,
            'i' => minute = digits(&mut text, 2)?,
            's' | 'S' => second = digits(&mut text, 2)?,
            'f' => {
                let before = text.len();
                let value = digits(&mut text, 6)?;
                micros = value * 10i64.pow(6 - (before - text.len()) as u32);
            }
            'p' => {
                pm = Some(text.get(..2)?.eq_ignore_ascii_case("pm"));
                text = &text[2..];
            }
            'T' | 'r' => {
                hour = digits(&mut text, 2)?;
                text = text.strip_prefix(':')?;
                minute = digits(&mut text, 2)?;
                text = text.strip_prefix(':')?;
                second = digits(&mut text, 2)?;
            }
            'W' => drop(named(&mut text, &DAYS, false)?),
            'a' => drop(named(&mut text, &DAYS, true)?),
            other => text = text.strip_prefix(other)?,
        }
    }
    if let Some(pm) = pm {
        (1..=12).contains(&hour).then_some(())?;
        hour = hour % 12 + if pm { 12 } else { 0 };
    }
    (hour < 24 && minute < 60 && second < 60).then_some(())?;
    let time = ((hour * 60 + minute) * 60 + second) * SECOND + micros;
    let days = match (year, month, of_month, of_year) {
        (None, None, None, None) => return Some(time),
        (Some(y), None, None, Some(n)) => days_from_civil(y, 1, 1) + n - 1,
        (y, m, d, _) => day(y?, u32::try_from(m?).ok()?, u32::try_from(d?).ok()?)?.into(),
    };
    Some(days * DAY + time)
}
