//! CAST and CONVERT. What cannot be read becomes zero for numbers and NULL for moments, as the
//! server it follows does in a SELECT.

use super::*;
use crate::convert::calendar::DAY;

const fn cast1(name: &'static str, ty: fn(&Types<'_>) -> Result<DataType>, eval: Eval) -> Function {
    Function { name, args: (1, 1), ty, strict: true, eval }
}

fn signed(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    match a[0] {
        // By bits, as the server does.
        Cell::UInt(v) => out.int(v as i64),
        cell => match i64_of(cell) {
            Some(v) => out.int(v),
            None => out.null(),
        },
    }
    Ok(())
}

fn to_unsigned(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    match bits_of(a[0]) {
        Some(v) => out.cell(Cell::UInt(v)),
        None => out.null(),
    }
    Ok(())
}

fn to_char(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let text = text_of_cell(a[0]).unwrap_or_default();
    match a.get(1).and_then(|n| i64_of(*n)).and_then(|n| usize::try_from(n).ok()) {
        Some(n) => match text.char_indices().nth(n) {
            Some((end, _)) => out.text(&text[..end]),
            None => out.text(&text),
        },
        None => out.text(&text),
    }
    Ok(())
}

/// The DECIMAL that `__cast_decimal(x, precision, scale)` gives.
fn decimal_type(types: &Types<'_>) -> Result<DataType> {
    let precision = types.number(1).unwrap_or(10);
    let scale = types.number(2).unwrap_or(0);
    if !(1..=38).contains(&precision) || !(0..=precision.min(30)).contains(&scale) {
        return Err(failure(1426, format!("Too-big precision {precision} or scale {scale}")));
    }
    Ok(DataType::Decimal128(precision as u8, scale as i8))
}

fn to_decimal(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let DataType::Decimal128(precision, scale) = out.ty else {
        out.null();
        return Ok(());
    };
    let (precision, scale) = (*precision, *scale as u8);
    // Out of range is clamped to the largest value.
    let most = 10i128.pow(precision.into()) - 1;
    let value = decimal_of(a[0]);
    let fitted = match value.map(|v| (v, v.rescale(scale))) {
        Some((_, Some(v))) => v.unscaled.clamp(-most, most),
        Some((v, None)) => most * v.unscaled.signum(),
        None => {
            let v = f64_of(a[0]).unwrap_or_default();
            if v > 0.0 {
                most
            } else if v < 0.0 {
                -most
            } else {
                0
            }
        }
    };
    out.cell(decimal_cell(fitted, scale));
    Ok(())
}

fn to_date(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    match moment_of(a[0]) {
        Some(m) => out.cell(Cell::Date(m.micros.div_euclid(DAY) as i32)),
        None => out.null(),
    }
    Ok(())
}

/// `(x, fsp)`.
fn to_datetime(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let fsp = a.get(1).and_then(|n| i64_of(*n)).unwrap_or(6).clamp(0, 6) as u8;
    match moment_of(a[0]) {
        Some(m) => out.cell(Cell::DateTime(round_fsp(m.micros, fsp))),
        None => out.null(),
    }
    Ok(())
}

fn to_time(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let fsp = a.get(1).and_then(|n| i64_of(*n)).unwrap_or(6).clamp(0, 6) as u8;
    match time_of(a[0]) {
        Some(v) => out.cell(Cell::Time(round_fsp(v, fsp))),
        None => out.null(),
    }
    Ok(())
}

fn pass(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    out.cell(a[0]);
    Ok(())
}

/// Any value to the type of a choice; the type's name is the second argument.
fn named(types: &Types<'_>) -> Result<DataType> {
    Ok(match types.text(1).unwrap_or_default() {
        "int" => DataType::Int64,
        "uint" => DataType::UInt64,
        "binary" => DataType::Binary,
        "datetime" => DATETIME,
        _ => DataType::Utf8,
    })
}

pub(super) const TABLE: &[Function] = &[
    cast1("__cast_signed", int, signed),
    cast1("__cast_unsigned", unsigned, to_unsigned),
    Function { args: (1, 2), ..cast1("__cast_char", text_type, to_char) },
    // A FLOAT column: six digits, not those of the DOUBLE it is kept as.
    cast1("__float_text", text_type, |a, o, _| {
        let mut text = Vec::new();
        match a[0].put_text(&mut text, Some(&damask_types::ColumnType::Float)) {
            true => o.text(&String::from_utf8_lossy(&text)),
            false => o.null(),
        }
        Ok(())
    }),
    cast1("__cast_binary", |_| Ok(DataType::Binary), pass),
    Function { args: (3, 3), ..cast1("__cast_decimal", decimal_type, to_decimal) },
    cast1("__cast_double", double, pass),
    cast1("__cast_date", date, to_date),
    Function { args: (1, 2), ..cast1("__cast_datetime", datetime, to_datetime) },
    Function { args: (1, 2), ..cast1("__cast_time", time_type, to_time) },
    Function { args: (2, 2), ..cast1("__as", named, pass) },
    // Values of the session, as constants: days, microseconds, microseconds.
    cast1("__date", date, |a, o, _| {
        o.cell(Cell::Date(i64_of(a[0]).unwrap_or_default() as i32));
        Ok(())
    }),
    Function {
        args: (1, 2),
        ..cast1("__datetime", datetime, |a, o, _| {
            o.cell(Cell::DateTime(i64_of(a[0]).unwrap_or_default()));
            Ok(())
        })
    },
    Function {
        args: (1, 2),
        ..cast1("__time", time_type, |a, o, _| {
            o.cell(Cell::Time(i64_of(a[0]).unwrap_or_default()));
            Ok(())
        })
    },
];
