//! Functions of dates and times. A moment that cannot be read is NULL. They must never read a
//! clock: the session's NOW and zone come in as arguments.

use super::calendar::{self, Shape, Step};
use super::*;
use crate::convert::calendar::{DAY, SECOND, civil_from_days, parts};

/// Days from year 0 to 1970-01-01, as TO_DAYS counts.
const EPOCH_DAYS: i64 = 719_528;
/// 9999-12-31 in days since 1970.
const LAST_DAY: i64 = 2_932_896;

const fn part(name: &'static str, eval: Eval) -> Function {
    Function { name, args: (1, 1), ty: int, strict: true, eval }
}

const fn of(
    name: &'static str,
    args: (usize, usize),
    ty: fn(&Types<'_>) -> Result<DataType>,
    eval: Eval,
) -> Function {
    Function { name, args, ty, strict: true, eval }
}

fn n(cell: &Cell<'_>) -> i64 {
    i64_of(*cell).unwrap_or_default()
}

fn s<'a>(cell: &Cell<'a>) -> std::borrow::Cow<'a, str> {
    text_of_cell(*cell).unwrap_or_default()
}

/// Gives out a number of the argument's moment.
fn of_moment(a: &[Cell<'_>], out: &mut Out<'_>, f: impl Fn(i64) -> i64) -> Result<()> {
    match moment_of(a[0]) {
        Some(m) => out.int(f(m.micros)),
        None => out.null(),
    }
    Ok(())
}

/// Gives out a number of the argument's time of day (or TIME).
fn of_clock(a: &[Cell<'_>], out: &mut Out<'_>, f: impl Fn(i64) -> i64) -> Result<()> {
    match time_of(a[0]) {
        Some(v) => out.int(f(v.abs())),
        None => out.null(),
    }
    Ok(())
}

fn days(micros: i64) -> i64 {
    micros.div_euclid(DAY)
}

fn whole_days(unit: &str) -> bool {
    matches!(unit, "DAY" | "WEEK" | "MONTH" | "QUARTER" | "YEAR" | "YEAR_MONTH")
}

/// `(x, amount, unit)`: a DATE stays one under whole days, a text stays text.
fn shifted_type(types: &Types<'_>) -> Result<DataType> {
    let unit = types.text(2).unwrap_or_default();
    Ok(match &types.types[0] {
        DataType::Date32 if whole_days(unit) => DataType::Date32,
        DataType::Date32 => DATETIME,
        ty if *ty == DATETIME => DATETIME,
        ty if *ty == TIME => TIME,
        _ => DataType::Utf8,
    })
}

fn shift(a: &[Cell<'_>], out: &mut Out<'_>, back: bool) -> Result<()> {
    let unit = s(&a[2]);
    let step = match calendar::step(&unit, &s(&a[1])) {
        Some(Step::Months(v)) if back => Step::Months(-v),
        Some(Step::Micros(v)) if back => Step::Micros(-v),
        Some(step) => step,
        None => {
            out.null();
            return Ok(());
        }
    };
    if let (Cell::Time(v), Step::Micros(by)) = (a[0], step) {
        out.cell(Cell::Time((v + by).clamp(-TIME_MAX, TIME_MAX)));
        return Ok(());
    }
    let Some(moment) = moment_of(a[0]) else {
        out.null();
        return Ok(());
    };
    let Some(moved) = calendar::add(moment.micros, step) else {
        out.null();
        return Ok(());
    };
    let date_only = *out.ty == DataType::Utf8 && !moment.with_time && whole_days(&unit);
    match date_only {
        true => out.cell(Cell::Date(days(moved) as i32)),
        false => out.cell(Cell::DateTime(moved)),
    }
    Ok(())
}

/// ADDTIME and SUBTIME.
fn add_time(a: &[Cell<'_>], out: &mut Out<'_>, sign: i64) -> Result<()> {
    let Some(by) = time_of(a[1]) else {
        out.null();
        return Ok(());
    };
    let is_time = match a[0] {
        Cell::Time(_) => true,
        Cell::Text(t) => !t.trim_start_matches('-').contains('-'),
        _ => false,
    };
    match is_time {
        true => match time_of(a[0]) {
            Some(v) => out.cell(Cell::Time((v + sign * by).clamp(-TIME_MAX, TIME_MAX))),
            None => out.null(),
        },
        false => match moment_of(a[0]) {
            Some(m) => out.cell(Cell::DateTime(m.micros + sign * by)),
            None => out.null(),
        },
    }
    Ok(())
}

fn add_time_type(types: &Types<'_>) -> Result<DataType> {
    Ok(match &types.types[0] {
        ty if *ty == TIME => TIME,
        DataType::Utf8 => DataType::Utf8,
        _ => DATETIME,
    })
}

/// `(unit, from, to)`.
fn difference(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let (Some(from), Some(to)) = (moment_of(a[1]), moment_of(a[2])) else {
        out.null();
        return Ok(());
    };
    let (from, to) = (from.micros, to.micros);
    let months = || {
        let count = |m: i64| {
            let (year, month, _) = civil_from_days(days(m));
            year * 12 + i64::from(month)
        };
        let rest = |m: i64| i64::from(parts(m).day - 1) * DAY + m.rem_euclid(DAY);
        let (low, high, sign) = if from <= to { (from, to, 1) } else { (to, from, -1) };
        let full = count(high) - count(low) - i64::from(rest(high) < rest(low));
        full * sign
    };
    out.int(match &*s(&a[0]) {
        "MICROSECOND" => to - from,
        "SECOND" => (to - from) / SECOND,
        "MINUTE" => (to - from) / (60 * SECOND),
        "HOUR" => (to - from) / (3600 * SECOND),
        "DAY" => (to - from) / DAY,
        "WEEK" => (to - from) / (7 * DAY),
        "MONTH" => months(),
        "QUARTER" => months() / 3,
        "YEAR" => months() / 12,
        _ => {
            out.null();
            return Ok(());
        }
    });
    Ok(())
}

/// `(unit, x)`.
fn extract(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let unit = s(&a[0]);
    let clock_only = matches!(
        &*unit,
        "HOUR"
            | "MINUTE"
            | "SECOND"
            | "MICROSECOND"
            | "HOUR_MINUTE"
            | "HOUR_SECOND"
            | "MINUTE_SECOND"
            | "SECOND_MICROSECOND"
            | "MINUTE_MICROSECOND"
            | "HOUR_MICROSECOND"
    );
    let (micros, hours) = match (clock_only, a[1]) {
        (true, cell) => match time_of(cell) {
            Some(v) => (v.abs(), v.abs() / (3600 * SECOND)),
            None => {
                out.null();
                return Ok(());
            }
        },
        (false, cell) => match moment_of(cell) {
            Some(m) => (m.micros, parts(m.micros).hour.into()),
            None => {
                out.null();
                return Ok(());
            }
        },
    };
    let p = parts(micros);
    let (month, day, minute) = (i64::from(p.month), i64::from(p.day), i64::from(p.minute));
    let (second, micro) = (i64::from(p.second), i64::from(p.micros));
    let hour_minute = hours * 100 + minute;
    let hour_second = hour_minute * 100 + second;
    out.int(match &*unit {
        "YEAR" => p.year,
        "QUARTER" => (month + 2) / 3,
        "MONTH" => month,
        "WEEK" => calendar::week(days(micros), 0).1,
        "DAY" => day,
        "HOUR" => hours,
        "MINUTE" => minute,
        "SECOND" => second,
        "MICROSECOND" => micro,
        "YEAR_MONTH" => p.year * 100 + month,
        "DAY_HOUR" => day * 100 + hours,
        "DAY_MINUTE" => day * 10_000 + hour_minute,
        "DAY_SECOND" => day * 1_000_000 + hour_second,
        "DAY_MICROSECOND" => (day * 1_000_000 + hour_second) * 1_000_000 + micro,
        "HOUR_MINUTE" => hour_minute,
        "HOUR_SECOND" => hour_second,
        "HOUR_MICROSECOND" => hour_second * 1_000_000 + micro,
        "MINUTE_SECOND" => minute * 100 + second,
        "MINUTE_MICROSECOND" => (minute * 100 + second) * 1_000_000 + micro,
        "SECOND_MICROSECOND" => second * 1_000_000 + micro,
        _ => {
            out.null();
            return Ok(());
        }
    });
    Ok(())
}

fn parsed_type(types: &Types<'_>) -> Result<DataType> {
    Ok(match types.text(1).map(calendar::shape) {
        Some(Shape::Date) => DataType::Date32,
        Some(Shape::Time) => TIME,
        _ => DATETIME,
    })
}

fn parsed(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    match calendar::parse(&s(&a[0]), &s(&a[1])) {
        Some(v) if *out.ty == TIME => out.cell(Cell::Time(v)),
        Some(v) => out.cell(Cell::DateTime(v)),
        None => out.null(),
    }
    Ok(())
}

/// `(x, zone offset in µs)`.
fn unix_timestamp(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let Some(moment) = moment_of(a[0]) else {
        out.null();
        return Ok(());
    };
    let utc = (moment.micros - n(&a[1])).max(0);
    match out.ty {
        DataType::Int64 => out.int(utc.div_euclid(SECOND)),
        _ => out.cell(decimal_cell(utc.into(), 6)),
    }
    Ok(())
}

/// `(seconds, zone offset in µs[, format])`.
fn from_unixtime(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let seconds = decimal_of(a[0]).and_then(|d| d.rescale(6)).map(|d| d.unscaled);
    let utc = seconds.and_then(|v| i64::try_from(v).ok()).filter(|v| *v >= 0);
    match (utc, a.get(2)) {
        (None, _) => out.null(),
        (Some(v), None) => out.cell(Cell::DateTime(v + n(&a[1]))),
        (Some(v), Some(pattern)) => {
            out.text(&calendar::format(v + n(&a[1]), &s(pattern), None));
        }
    }
    Ok(())
}

fn zone(text: &str) -> Option<i64> {
    if matches!(text, "SYSTEM" | "UTC" | "GMT") {
        return Some(0);
    }
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
    Some(sign * minutes * 60 * SECOND)
}

fn convert_tz(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    match (moment_of(a[0]), zone(&s(&a[1])), zone(&s(&a[2]))) {
        (Some(m), Some(from), Some(to)) => out.cell(Cell::DateTime(m.micros - from + to)),
        _ => out.null(),
    }
    Ok(())
}

fn make_date(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let (year, of_year) = (n(&a[0]), n(&a[1]));
    let year = if (0..70).contains(&year) { year + 2000 } else { year };
    match day(year, 1, 1).filter(|_| of_year > 0) {
        // Past the year 9999 is no date.
        Some(first) => match i64::from(first).checked_add(of_year - 1) {
            Some(days) if days <= LAST_DAY => out.cell(Cell::Date(days as i32)),
            _ => out.null(),
        },
        None => out.null(),
    }
    Ok(())
}

fn last_day(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let Some(moment) = moment_of(a[0]) else {
        out.null();
        return Ok(());
    };
    let (year, month, _) = civil_from_days(days(moment.micros));
    match day(year, month, calendar::last_of_month(year, month)) {
        Some(v) => out.cell(Cell::Date(v)),
        None => out.null(),
    }
    Ok(())
}

fn time_difference(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let has_date = |c: &Cell<'_>| match c {
        Cell::Text(t) => t.trim_start_matches('-').contains('-'),
        Cell::Date(_) | Cell::DateTime(_) => true,
        _ => false,
    };
    let difference = match (has_date(&a[0]), has_date(&a[1])) {
        (true, true) => moment_of(a[0]).zip(moment_of(a[1])).map(|(x, y)| x.micros - y.micros),
        (false, false) => time_of(a[0]).zip(time_of(a[1])).map(|(x, y)| x - y),
        _ => None,
    };
    match difference {
        Some(v) => out.cell(Cell::Time(v.clamp(-TIME_MAX, TIME_MAX))),
        None => out.null(),
    }
    Ok(())
}

fn name_of(a: &[Cell<'_>], out: &mut Out<'_>, name: fn(i64) -> &'static str) -> Result<()> {
    match moment_of(a[0]) {
        Some(m) => out.text(name(m.micros)),
        None => out.null(),
    }
    Ok(())
}

fn formatted(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    match moment_of(a[0]) {
        Some(m) => out.text(&calendar::format(m.micros, &s(&a[1]), None)),
        None => out.null(),
    }
    Ok(())
}

fn time_formatted(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    match time_of(a[0]) {
        Some(v) => {
            let hours = v.abs() / (3600 * SECOND);
            let text = calendar::format(v.abs(), &s(&a[1]), Some(hours));
            out.text(&if v < 0 { format!("-{text}") } else { text });
        }
        None => out.null(),
    }
    Ok(())
}

pub(super) const TABLE: &[Function] = &[
    part("year", |a, o, _| of_moment(a, o, |m| parts(m).year)),
    part("quarter", |a, o, _| of_moment(a, o, |m| i64::from(parts(m).month + 2) / 3)),
    part("month", |a, o, _| of_moment(a, o, |m| parts(m).month.into())),
    part("dayofmonth", |a, o, _| of_moment(a, o, |m| parts(m).day.into())),
    part("dayofyear", |a, o, _| of_moment(a, o, |m| calendar::day_of_year(days(m)))),
    part("dayofweek", |a, o, _| of_moment(a, o, |m| (calendar::weekday(days(m)) + 1) % 7 + 1)),
    part("weekday", |a, o, _| of_moment(a, o, |m| calendar::weekday(days(m)))),
    part("weekofyear", |a, o, _| of_moment(a, o, |m| calendar::week(days(m), 3).1)),
    part("to_days", |a, o, _| of_moment(a, o, |m| days(m) + EPOCH_DAYS)),
    part("to_seconds", |a, o, _| of_moment(a, o, |m| m.div_euclid(SECOND) + EPOCH_DAYS * 86_400)),
    part("hour", |a, o, _| of_clock(a, o, |v| v / (3600 * SECOND))),
    part("minute", |a, o, _| of_clock(a, o, |v| v / (60 * SECOND) % 60)),
    part("second", |a, o, _| of_clock(a, o, |v| v / SECOND % 60)),
    part("microsecond", |a, o, _| of_clock(a, o, |v| v % SECOND)),
    part("time_to_sec", |a, o, _| {
        match time_of(a[0]) {
            Some(v) => o.int(v / SECOND),
            None => o.null(),
        }
        Ok(())
    }),
    of("week", (1, 2), int, |a, o, _| {
        of_moment(a, o, |m| calendar::week(days(m), a.get(1).map_or(0, n)).1)
    }),
    of("yearweek", (1, 2), int, |a, o, _| {
        of_moment(a, o, |m| {
            let (year, week) = calendar::week(days(m), a.get(1).map_or(0, n) | 2);
            year * 100 + week
        })
    }),
    of("dayname", (1, 1), text_type, |a, o, _| {
        name_of(a, o, |m| calendar::DAYS[calendar::weekday(days(m)) as usize])
    }),
    of("monthname", (1, 1), text_type, |a, o, _| {
        name_of(a, o, |m| calendar::MONTHS[parts(m).month as usize - 1])
    }),
    of("last_day", (1, 1), date, last_day),
    of("makedate", (2, 2), date, make_date),
    of("from_days", (1, 1), date, |a, o, _| {
        match n(&a[0]).checked_sub(EPOCH_DAYS) {
            Some(days) if days <= LAST_DAY && days > -EPOCH_DAYS => o.cell(Cell::Date(days as i32)),
            _ => o.null(),
        }
        Ok(())
    }),
    of("maketime", (3, 3), time_type, |a, o, _| {
        let (hour, minute, second) = (n(&a[0]), n(&a[1]), n(&a[2]));
        match (0..60).contains(&minute) && (0..60).contains(&second) {
            true => {
                let v =
                    (hour.unsigned_abs().min(839) as i64 * 3600 + minute * 60 + second) * SECOND;
                o.cell(Cell::Time(v.min(TIME_MAX) * if hour < 0 { -1 } else { 1 }));
            }
            false => o.null(),
        }
        Ok(())
    }),
    of("sec_to_time", (1, 1), time_type, |a, o, _| {
        let v = (f64_of(a[0]).unwrap_or_default() * 1e6).round() as i64;
        o.cell(Cell::Time(v.clamp(-TIME_MAX, TIME_MAX)));
        Ok(())
    }),
    of("__date_add", (3, 3), shifted_type, |a, o, _| shift(a, o, false)),
    of("__date_sub", (3, 3), shifted_type, |a, o, _| shift(a, o, true)),
    of("addtime", (2, 2), add_time_type, |a, o, _| add_time(a, o, 1)),
    of("subtime", (2, 2), add_time_type, |a, o, _| add_time(a, o, -1)),
    of("timediff", (2, 2), time_type, time_difference),
    of("datediff", (2, 2), int, |a, o, _| {
        match moment_of(a[0]).zip(moment_of(a[1])) {
            Some((x, y)) => o.int(days(x.micros) - days(y.micros)),
            None => o.null(),
        }
        Ok(())
    }),
    of("timestampdiff", (3, 3), int, difference),
    of("__extract", (2, 2), int, extract),
    of("date_format", (2, 3), text_type, formatted),
    of("time_format", (2, 2), text_type, time_formatted),
    of("str_to_date", (2, 2), parsed_type, parsed),
    of(
        "unix_timestamp",
        (2, 2),
        |types| {
            Ok(match types.types[0] {
                DataType::Utf8 | DataType::Date32 | DATETIME | DataType::Int64 => DataType::Int64,
                _ => DataType::Decimal128(20, 6),
            })
        },
        unix_timestamp,
    ),
    of(
        "from_unixtime",
        (2, 3),
        |types| Ok(if types.types.len() > 2 { DataType::Utf8 } else { DATETIME }),
        from_unixtime,
    ),
    of("convert_tz", (3, 3), datetime, convert_tz),
    of("timestamp", (1, 2), datetime, |a, o, _| {
        let by = a.get(1).map_or(Some(0), |t| time_of(*t));
        match moment_of(a[0]).zip(by) {
            Some((m, by)) => o.cell(Cell::DateTime(m.micros + by)),
            None => o.null(),
        }
        Ok(())
    }),
];
