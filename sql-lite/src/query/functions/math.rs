//! Arithmetic and mathematical functions. Integers are exact or an error (1690), DECIMAL is exact
//! at MySQL's scales, a division by zero is NULL.

use super::*;
use arrow::datatypes::i256;

/// Digits that a division adds to the scale (div_precision_increment).
pub(crate) const DIVISION_DIGITS: u8 = 4;

const fn double1(name: &'static str, eval: Eval) -> Function {
    Function { name, args: (1, 1), ty: double, strict: true, eval }
}

const fn whole2(
    name: &'static str,
    ty: fn(&Types<'_>) -> Result<DataType>,
    eval: Eval,
) -> Function {
    Function { name, args: (2, 2), ty, strict: true, eval }
}

fn f(cell: &Cell<'_>) -> f64 {
    f64_of(*cell).unwrap_or_default()
}

fn either_unsigned(types: &Types<'_>) -> Result<DataType> {
    let unsigned = types.types.contains(&DataType::UInt64);
    Ok(if unsigned { DataType::UInt64 } else { DataType::Int64 })
}

/// Gives out a DOUBLE or fails as MySQL does; what is no number is NULL.
fn ranged(v: f64, out: &mut Out<'_>) -> Result<()> {
    if v.is_infinite() {
        return Err(super::finite::out_of_range());
    }
    out.double(v);
    Ok(())
}

fn whole(cell: &Cell<'_>) -> i128 {
    i128_of(*cell).unwrap_or_default()
}

/// Gives out a whole number or fails as MySQL does.
fn give(v: i128, out: &mut Out<'_>) -> Result<()> {
    let (range, name) = match out.ty {
        DataType::UInt64 => (0..=i128::from(u64::MAX), "BIGINT UNSIGNED"),
        _ => (i64::MIN.into()..=i64::MAX.into(), "BIGINT"),
    };
    if !range.contains(&v) {
        return Err(failure(1690, format!("{name} value is out of range")));
    }
    match out.ty {
        DataType::UInt64 => out.cell(Cell::UInt(v as u64)),
        _ => out.int(v as i64),
    }
    Ok(())
}

/// Digits in a word of MySQL's DECIMAL.
const WORD: u8 = 9;
/// Digits kept of a quotient at most, unless more are shown: more leave too few for the whole.
const KEPT_MAX: u8 = 18;

/// Digits after the point that are kept of a quotient: whole words of at least those shown, as
/// `do_div_mod` of MySQL's strings/decimal.cc counts them.
fn quotient_scale(dividend: u8, divisor: u8) -> u8 {
    let words = |digits: u8| digits.div_ceil(WORD) * WORD;
    let (top, bottom) = (words(dividend), words(divisor));
    let spare = (top - dividend) + (bottom - divisor);
    let kept = words(top + bottom + DIVISION_DIGITS.saturating_sub(spare));
    let shown = dividend.saturating_add(DIVISION_DIGITS).min(SCALE_MAX);
    kept.min(KEPT_MAX).max(shown)
}

fn quotient_type(types: &Types<'_>) -> Result<DataType> {
    let (Some((p1, s1)), Some((_, s2))) = (digits_of(&types.types[0]), digits_of(&types.types[1]))
    else {
        return Ok(DataType::Float64);
    };
    Ok(decimal(p1.saturating_add(s2), quotient_scale(s1, s2)))
}

/// `a / b` cut at `scale`: it is rounded where it is shown. `None` on overflow.
fn quotient(a: Decimal, b: Decimal, scale: u8) -> Option<Decimal> {
    // a/10^sa / (b/10^sb) * 10^scale = a * 10^(scale + sb - sa) / b
    let shift = i32::from(scale) + i32::from(b.scale) - i32::from(a.scale);
    let ten = i256::from_i128(10);
    let power = |n: i32| ten.checked_pow(n.unsigned_abs());
    let mut top = i256::from_i128(a.unscaled);
    let mut bottom = i256::from_i128(b.unscaled);
    match shift >= 0 {
        true => top = top.checked_mul(power(shift)?)?,
        false => bottom = bottom.checked_mul(power(shift)?)?,
    }
    let q = top.checked_div(bottom)?;
    Some(Decimal { unscaled: q.to_i128()?, scale })
}

fn divide(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    if let DataType::Decimal128(_, scale) = out.ty {
        let scale = *scale as u8;
        let (Some(x), Some(y)) = (decimal_of(a[0]), decimal_of(a[1])) else {
            out.null();
            return Ok(());
        };
        match (y.unscaled != 0).then(|| quotient(x, y, scale)).flatten() {
            Some(v) => out.cell(Cell::Decimal(v)),
            None => out.null(),
        }
        return Ok(());
    }
    match f(&a[1]) {
        0.0 => out.null(),
        divisor => ranged(f(&a[0]) / divisor, out)?,
    }
    Ok(())
}

fn int_divide(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let exact = |c: &Cell<'_>| !matches!(c, Cell::Double(_) | Cell::Text(_) | Cell::Bytes(_));
    if exact(&a[0]) && exact(&a[1]) {
        let (Some(x), Some(y)) = (decimal_of(a[0]), decimal_of(a[1])) else {
            out.null();
            return Ok(());
        };
        let scale = x.scale.max(y.scale);
        let (Some(x), Some(y)) = (x.rescale(scale), y.rescale(scale)) else {
            out.null();
            return Ok(());
        };
        return match x.unscaled.checked_div(y.unscaled) {
            Some(v) => give(v, out),
            None => {
                out.null();
                Ok(())
            }
        };
    }
    let v = (f(&a[0]) / f(&a[1])).trunc();
    match v.is_finite() {
        true => give(v as i128, out),
        false => {
            out.null();
            Ok(())
        }
    }
}

fn remainder_type(types: &Types<'_>) -> Result<DataType> {
    let (a, b) = (&types.types[0], &types.types[1]);
    let whole = |t: &DataType| matches!(t, DataType::Int64 | DataType::UInt64 | DataType::Boolean);
    if whole(a) && whole(b) {
        return Ok(if *a == DataType::UInt64 { DataType::UInt64 } else { DataType::Int64 });
    }
    match (digits_of(a), digits_of(b)) {
        (Some((p1, s1)), Some((p2, s2))) => Ok(decimal(p1.max(p2), s1.max(s2))),
        _ => Ok(DataType::Float64),
    }
}

fn remainder(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    if *out.ty == DataType::Float64 {
        out.double(f(&a[0]) % f(&a[1]));
        return Ok(());
    }
    let (Some(x), Some(y)) = (decimal_of(a[0]), decimal_of(a[1])) else {
        out.null();
        return Ok(());
    };
    let scale = x.scale.max(y.scale);
    let pair = x.rescale(scale).zip(y.rescale(scale));
    match pair.and_then(|(x, y)| x.unscaled.checked_rem(y.unscaled)) {
        Some(unscaled) => out.cell(decimal_cell(unscaled, scale)),
        None => out.null(),
    }
    Ok(())
}

/// The type of ROUND and TRUNCATE: whole numbers stay, DECIMAL takes the new scale.
fn round_type(types: &Types<'_>) -> Result<DataType> {
    Ok(match &types.types[0] {
        ty @ (DataType::Int64 | DataType::UInt64) => ty.clone(),
        DataType::Boolean => DataType::Int64,
        DataType::Decimal128(p, s) => {
            let asked = match types.types.len() {
                1 => 0,
                _ => types.number(1).unwrap_or((*s).into()),
            };
            let scale = asked.clamp(0, (*s).into()) as u8;
            decimal(p.saturating_sub(*s as u8) + 1, scale)
        }
        _ => DataType::Float64,
    })
}

fn rounded(a: &[Cell<'_>], out: &mut Out<'_>, cut: bool) {
    let digits = a.get(1).map_or(0, |d| i64_of(*d).unwrap_or_default()).clamp(-400, 30);
    match out.ty {
        DataType::Float64 => {
            let (v, power) = (f(&a[0]), 10f64.powi(digits.unsigned_abs() as i32));
            let scaled = if digits >= 0 { v * power } else { v / power };
            let kept = if cut { scaled.trunc() } else { scaled.round_ties_even() };
            let back = if digits >= 0 { kept / power } else { kept * power };
            out.double(match scaled.is_finite() {
                // Rounded away, whatever the power is.
                true if kept == 0.0 => 0.0,
                true => back,
                false => v,
            });
        }
        _ => {
            let Some(v) = decimal_of(a[0]) else { return out.null() };
            let drop = i64::from(v.scale) - digits;
            if drop <= 0 {
                return out.cell(Cell::Decimal(v));
            }
            let Some(unit) = 10i128.checked_pow(drop as u32) else {
                return out.cell(decimal_cell(0, 0));
            };
            let half = if cut { 0 } else { unit / 2 * v.unscaled.signum() };
            let kept = (v.unscaled + half) / unit * unit;
            out.cell(decimal_cell(kept, v.scale));
        }
    }
}

fn ceiling_type(types: &Types<'_>) -> Result<DataType> {
    Ok(match &types.types[0] {
        DataType::UInt64 => DataType::UInt64,
        DataType::Int64 | DataType::Boolean => DataType::Int64,
        DataType::Decimal128(p, s) if p - *s as u8 <= 18 => DataType::Int64,
        DataType::Decimal128(p, s) => decimal(p - *s as u8 + 1, 0),
        _ => DataType::Float64,
    })
}

fn stepped(a: &[Cell<'_>], out: &mut Out<'_>, up: bool) {
    if *out.ty == DataType::Float64 {
        let v = f(&a[0]);
        return out.double(if up { v.ceil() } else { v.floor() });
    }
    let Some(v) = decimal_of(a[0]) else { return out.null() };
    let unit = 10i128.pow(v.scale.into());
    let floor = v.unscaled.div_euclid(unit);
    let more = i128::from(up && v.unscaled.rem_euclid(unit) != 0);
    out.cell(decimal_cell(floor + more, 0));
}

fn same_number(types: &Types<'_>) -> Result<DataType> {
    Ok(match &types.types[0] {
        ty @ (DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..)) => ty.clone(),
        DataType::Boolean => DataType::Int64,
        _ => DataType::Float64,
    })
}

fn absolute(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    match out.ty {
        DataType::Int64 | DataType::UInt64 => return give(whole(&a[0]).abs(), out),
        DataType::Float64 => out.double(f(&a[0]).abs()),
        _ => match decimal_of(a[0]) {
            Some(v) => out.cell(decimal_cell(v.unscaled.abs(), v.scale)),
            None => out.null(),
        },
    }
    Ok(())
}

fn logarithm(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    match a.get(1) {
        None => out.double(f(&a[0]).ln()),
        Some(v) => out.double(f(v).ln() / f(&a[0]).ln()),
    }
    Ok(())
}

fn shift(a: &[Cell<'_>], left: bool) -> u64 {
    let v = bits_of(a[0]).unwrap_or_default();
    let by = u32::try_from(bits_of(a[1]).unwrap_or_default()).unwrap_or(u32::MAX);
    let shifted = if left { v.checked_shl(by) } else { v.checked_shr(by) };
    shifted.unwrap_or(0)
}

fn bits2(a: &[Cell<'_>]) -> (u64, u64) {
    (bits_of(a[0]).unwrap_or_default(), bits_of(a[1]).unwrap_or_default())
}

macro_rules! doubles {
    ($($name:literal => $f:expr),* $(,)?) => { [$(double1($name, |a, o, _| {
        let f: fn(f64) -> f64 = $f;
        o.double(f(f64_of(a[0]).unwrap_or_default()));
        Ok(())
    })),*] };
}

const DOUBLES: [Function; 15] = doubles![
    "sqrt" => f64::sqrt, "ln" => f64::ln, "log2" => f64::log2,
    "log10" => f64::log10, "sin" => f64::sin, "cos" => f64::cos, "tan" => f64::tan,
    "asin" => f64::asin, "acos" => f64::acos, "atan" => f64::atan, "cot" => |v| 1.0 / v.tan(),
    "radians" => f64::to_radians, "degrees" => f64::to_degrees, "__double" => |v| v,
    "__negate_double" => |v| -v,
];

const OTHERS: [Function; 26] = [
    Function {
        name: "__nonzero",
        args: (1, 1),
        ty: |types| Ok(types.types[0].clone()),
        strict: true,
        eval: |a, o, _| {
            if f64_of(a[0]) == Some(0.0) {
                return Err(super::failure(1365, "Division by 0"));
            }
            o.cell(a[0]);
            Ok(())
        },
    },
    double1("exp", |a, o, _| ranged(f(&a[0]).exp(), o)),
    whole2("__add", either_unsigned, |a, o, _| give(whole(&a[0]) + whole(&a[1]), o)),
    whole2("__subtract", either_unsigned, |a, o, _| give(whole(&a[0]) - whole(&a[1]), o)),
    whole2("__multiply", either_unsigned, |a, o, _| {
        // Two 64-bit numbers: the product fits.
        give(whole(&a[0]).saturating_mul(whole(&a[1])), o)
    }),
    whole2("__divide", quotient_type, divide),
    whole2("__int_divide", either_unsigned, int_divide),
    whole2("mod", remainder_type, remainder),
    whole2("__bit_and", unsigned, |a, o, _| {
        let (x, y) = bits2(a);
        o.cell(Cell::UInt(x & y));
        Ok(())
    }),
    whole2("__bit_or", unsigned, |a, o, _| {
        let (x, y) = bits2(a);
        o.cell(Cell::UInt(x | y));
        Ok(())
    }),
    whole2("__bit_xor", unsigned, |a, o, _| {
        let (x, y) = bits2(a);
        o.cell(Cell::UInt(x ^ y));
        Ok(())
    }),
    whole2("__shift_left", unsigned, |a, o, _| {
        o.cell(Cell::UInt(shift(a, true)));
        Ok(())
    }),
    whole2("__shift_right", unsigned, |a, o, _| {
        o.cell(Cell::UInt(shift(a, false)));
        Ok(())
    }),
    Function {
        name: "__bit_not",
        args: (1, 1),
        ty: unsigned,
        strict: true,
        eval: |a, o, _| {
            o.cell(Cell::UInt(!bits_of(a[0]).unwrap_or_default()));
            Ok(())
        },
    },
    Function {
        name: "bit_count",
        args: (1, 1),
        ty: int,
        strict: true,
        eval: |a, o, _| {
            o.int(bits_of(a[0]).unwrap_or_default().count_ones().into());
            Ok(())
        },
    },
    Function {
        name: "round",
        args: (1, 2),
        ty: round_type,
        strict: true,
        eval: |a, o, _| {
            rounded(a, o, false);
            Ok(())
        },
    },
    Function {
        name: "truncate",
        args: (2, 2),
        ty: round_type,
        strict: true,
        eval: |a, o, _| {
            rounded(a, o, true);
            Ok(())
        },
    },
    Function {
        name: "ceiling",
        args: (1, 1),
        ty: ceiling_type,
        strict: true,
        eval: |a, o, _| {
            stepped(a, o, true);
            Ok(())
        },
    },
    Function {
        name: "floor",
        args: (1, 1),
        ty: ceiling_type,
        strict: true,
        eval: |a, o, _| {
            stepped(a, o, false);
            Ok(())
        },
    },
    Function { name: "abs", args: (1, 1), ty: same_number, strict: true, eval: absolute },
    Function {
        name: "sign",
        args: (1, 1),
        ty: int,
        strict: true,
        eval: |a, o, _| {
            let v = f(&a[0]);
            o.int(if v > 0.0 { 1 } else { -i64::from(v < 0.0) });
            Ok(())
        },
    },
    Function {
        name: "pow",
        args: (2, 2),
        ty: double,
        strict: true,
        eval: |a, o, _| ranged(f(&a[0]).powf(f(&a[1])), o),
    },
    Function {
        name: "atan2",
        args: (2, 2),
        ty: double,
        strict: true,
        eval: |a, o, _| {
            o.double(f(&a[0]).atan2(f(&a[1])));
            Ok(())
        },
    },
    Function { name: "log", args: (1, 2), ty: double, strict: true, eval: logarithm },
    Function {
        name: "pi",
        args: (0, 0),
        ty: double,
        strict: true,
        eval: |_, o, _| {
            o.double(std::f64::consts::PI);
            Ok(())
        },
    },
    Function {
        name: "__number",
        args: (1, 1),
        ty: |types| {
            Ok(match &types.types[0] {
                ty @ (DataType::UInt64 | DataType::Decimal128(..)) => ty.clone(),
                DataType::Utf8 | DataType::Binary | DataType::Float64 => DataType::Float64,
                _ => DataType::Int64,
            })
        },
        strict: true,
        eval: |a, o, _| {
            o.cell(a[0]);
            Ok(())
        },
    },
];

/// Two constant tables as one.
const fn joined() -> [Function; DOUBLES.len() + OTHERS.len()] {
    let mut all = [DOUBLES[0]; DOUBLES.len() + OTHERS.len()];
    let mut i = 0;
    while i < all.len() {
        all[i] = if i < DOUBLES.len() { DOUBLES[i] } else { OTHERS[i - DOUBLES.len()] };
        i += 1;
    }
    all
}

pub(super) const TABLE: &[Function] = &joined();
