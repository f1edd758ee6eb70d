//! Choosing among values, and the type that a choice has. It must never evaluate a branch that
//! MySQL would not: IF and CASE are DataFusion's own.

use super::*;

const ANY: usize = 256;

/// The common type of a choice (CASE, IF, COALESCE, UNION): numbers widen, a text beside anything
/// else makes text, a DATE beside a DATETIME makes DATETIME.
pub(crate) fn unified(types: &[DataType]) -> DataType {
    use DataType as D;
    let mut types = types.iter().filter(|t| **t != D::Null);
    let Some(first) = types.next() else { return D::Null };
    let mut common = plain(first);
    for ty in types.map(plain) {
        if ty == common {
            continue;
        }
        let number = |t: &D| *t == D::Float64 || digits_of(t).is_some();
        common = match (&common, &ty) {
            (a, b) if number(a) && number(b) => wider(a, b),
            (a, b)
                if (*a == DATETIME && *b == D::Date32) || (*a == D::Date32 && *b == DATETIME) =>
            {
                DATETIME
            }
            (D::Binary, _) | (_, D::Binary) => D::Binary,
            _ => D::Utf8,
        };
    }
    common
}

fn wider(a: &DataType, b: &DataType) -> DataType {
    use DataType as D;
    match (a, b) {
        (D::Float64, _) | (_, D::Float64) => D::Float64,
        (D::Boolean, other) | (other, D::Boolean) => other.clone(),
        (D::Int64, D::Int64) => D::Int64,
        (D::UInt64, D::UInt64) => D::UInt64,
        _ => match (digits_of(a), digits_of(b)) {
            (Some((p1, s1)), Some((p2, s2))) => decimal(p1.max(p2), s1.max(s2)),
            _ => D::Float64,
        },
    }
}

fn common(types: &Types<'_>) -> Result<DataType> {
    let ty = unified(types.types);
    Ok(if ty == DataType::Boolean { DataType::Int64 } else { ty })
}

fn coalesce(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    out.cell(a.iter().copied().find(|c| *c != Cell::Null).unwrap_or(Cell::Null));
    Ok(())
}

/// How two values compare where GREATEST, LEAST, FIELD and INTERVAL compare them.
fn order(a: &Cell<'_>, b: &Cell<'_>) -> std::cmp::Ordering {
    use std::cmp::Ordering::Equal;
    match (a, b) {
        (Cell::Text(x), Cell::Text(y)) => x.cmp(y),
        (Cell::Bytes(x), Cell::Bytes(y)) => x.cmp(y),
        (Cell::Int(x), Cell::Int(y)) => x.cmp(y),
        (Cell::Date(_) | Cell::DateTime(_), _) | (_, Cell::Date(_) | Cell::DateTime(_)) => {
            let micros = |c: &Cell<'_>| moment_of(*c).map(|m| m.micros);
            micros(a).cmp(&micros(b))
        }
        (Cell::Double(_) | Cell::Text(_) | Cell::Bytes(_), _)
        | (_, Cell::Double(_) | Cell::Text(_) | Cell::Bytes(_)) => {
            f64_of(*a).partial_cmp(&f64_of(*b)).unwrap_or(Equal)
        }
        _ => {
            let pair = decimal_of(*a).zip(decimal_of(*b));
            let same = pair.and_then(|(x, y)| {
                let scale = x.scale.max(y.scale);
                Some((x.rescale(scale)?.unscaled, y.rescale(scale)?.unscaled))
            });
            match same {
                Some((x, y)) => x.cmp(&y),
                None => f64_of(*a).partial_cmp(&f64_of(*b)).unwrap_or(Equal),
            }
        }
    }
}

fn extreme(a: &[Cell<'_>], out: &mut Out<'_>, want: std::cmp::Ordering) {
    let mut best = a[0];
    for cell in &a[1..] {
        if order(cell, &best) == want {
            best = *cell;
        }
    }
    out.cell(best);
}

fn field(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let equal = |c: &Cell<'_>| *c != Cell::Null && order(&a[0], c).is_eq();
    let at = if a[0] == Cell::Null { None } else { a[1..].iter().position(equal) };
    out.int(at.map_or(0, |at| at as i64 + 1));
    Ok(())
}

fn elt(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let at = i64_of(a[0]).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    out.cell(at.and_then(|n| a.get(n)).copied().unwrap_or(Cell::Null));
    Ok(())
}

fn interval(a: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    if a[0] == Cell::Null {
        out.int(-1);
        return Ok(());
    }
    let at = a[1..].iter().take_while(|c| **c == Cell::Null || order(c, &a[0]).is_le()).count();
    out.int(at as i64);
    Ok(())
}

pub(super) const TABLE: &[Function] = &[
    Function { name: "coalesce", args: (1, ANY), ty: common, strict: false, eval: coalesce },
    Function {
        name: "greatest",
        args: (2, ANY),
        ty: common,
        strict: true,
        eval: |a, o, _| {
            extreme(a, o, std::cmp::Ordering::Greater);
            Ok(())
        },
    },
    Function {
        name: "least",
        args: (2, ANY),
        ty: common,
        strict: true,
        eval: |a, o, _| {
            extreme(a, o, std::cmp::Ordering::Less);
            Ok(())
        },
    },
    Function { name: "field", args: (2, ANY), ty: int, strict: false, eval: field },
    Function { name: "elt", args: (2, ANY), ty: text_type, strict: false, eval: elt },
    Function { name: "interval", args: (2, ANY), ty: int, strict: false, eval: interval },
    // The same value of a type that may be NULL: a subquery may have no row.
    Function {
        name: "__nullable",
        args: (1, 1),
        ty: |types| Ok(types.types[0].clone()),
        strict: true,
        eval: |a, o, _| {
            o.cell(a[0]);
            Ok(())
        },
    },
    Function {
        name: "__truth",
        args: (1, 1),
        ty: boolean,
        strict: true,
        eval: |a, o, _| {
            o.cell(a[0]);
            Ok(())
        },
    },
];
