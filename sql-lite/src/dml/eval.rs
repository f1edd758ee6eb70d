//! Expressions over one row: what simple statements need, without the query engine. It must never
//! guess: what it does not know it leaves to others (`None`).

use crate::statement::params::literal;
use damask_types::{Datum, Decimal};
use sqlparser::ast::{BinaryOperator, Expr, Ident, UnaryOperator};
use std::cmp::Ordering;

/// A value of a column by its name (and qualifier, if any).
pub trait Columns {
    /// `None`: there is no such column here.
    fn column(&self, qualifier: Option<&str>, name: &str) -> Option<Datum>;
}

/// The qualifier and name of a column reference.
pub fn column_ref(expr: &Expr) -> Option<(Option<&str>, &str)> {
    let plain = |ident: &Ident| !ident.value.starts_with('@') || ident.quote_style.is_some();
    match expr {
        Expr::Identifier(ident) if plain(ident) => Some((None, &ident.value)),
        Expr::CompoundIdentifier(parts) if plain(&parts[0]) => match parts.as_slice() {
            [table, column] => Some((Some(&table.value), &column.value)),
            [_, table, column] => Some((Some(&table.value), &column.value)),
            _ => None,
        },
        Expr::Nested(expr) => column_ref(expr),
        _ => None,
    }
}

/// The value of an expression; `None` if it is not simple.
pub fn eval(expr: &Expr, row: &dyn Columns) -> Option<Datum> {
    if let Some(value) = literal(expr) {
        return Some(value);
    }
    if let Some((qualifier, name)) = column_ref(expr) {
        return row.column(qualifier, name);
    }
    match expr {
        Expr::Nested(expr) => eval(expr, row),
        Expr::BinaryOp { left, op, right } => {
            let (left, right) = (eval(left, row)?, eval(right, row)?);
            match op {
                BinaryOperator::Plus | BinaryOperator::Minus | BinaryOperator::Multiply => {
                    arithmetic(op, &left, &right)
                }
                _ => None,
            }
        }
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
            arithmetic(&BinaryOperator::Minus, &Datum::Int(0), &eval(expr, row)?)
        }
        _ => None,
    }
}

/// Integers stay integers while nothing overflows; decimals stay exact.
fn arithmetic(op: &BinaryOperator, left: &Datum, right: &Datum) -> Option<Datum> {
    if left.is_null() || right.is_null() {
        return Some(Datum::Null);
    }
    if matches!(left, Datum::Double(_)) || matches!(right, Datum::Double(_)) {
        let (a, b) = (double(left)?, double(right)?);
        let v = match op {
            BinaryOperator::Plus => a + b,
            BinaryOperator::Minus => a - b,
            _ => a * b,
        };
        return v.is_finite().then_some(Datum::Double(v));
    }
    let (a, b) = (exact(left)?, exact(right)?);
    let result = match op {
        BinaryOperator::Multiply => Decimal {
            unscaled: a.unscaled.checked_mul(b.unscaled)?,
            scale: a.scale.checked_add(b.scale).filter(|s| *s <= 30)?,
        },
        _ => {
            let scale = a.scale.max(b.scale);
            let (a, b) = (a.rescale(scale)?.unscaled, b.rescale(scale)?.unscaled);
            let plus = matches!(op, BinaryOperator::Plus);
            let unscaled = if plus { a.checked_add(b)? } else { a.checked_sub(b)? };
            Decimal { unscaled, scale }
        }
    };
    let decimal = matches!(left, Datum::Decimal(_)) || matches!(right, Datum::Decimal(_));
    if decimal {
        return (result.unscaled.unsigned_abs() < 10u128.pow(38)).then_some(Datum::Decimal(result));
    }
    // With an unsigned operand the result is unsigned, and out of range below 0 (1690).
    if matches!(left, Datum::UInt(_)) || matches!(right, Datum::UInt(_)) {
        return u64::try_from(result.unscaled).ok().map(Datum::UInt);
    }
    i64::try_from(result.unscaled).ok().map(Datum::Int)
}

fn exact(value: &Datum) -> Option<Decimal> {
    match value {
        Datum::Int(v) => Some(Decimal { unscaled: i128::from(*v), scale: 0 }),
        Datum::UInt(v) => Some(Decimal { unscaled: i128::from(*v), scale: 0 }),
        Datum::Decimal(d) => Some(*d),
        _ => None,
    }
}

fn double(value: &Datum) -> Option<f64> {
    match value {
        Datum::Double(v) => Some(*v),
        other => exact(other).map(Decimal::to_f64),
    }
}

/// Compares two values of kinds that compare without a conversion.
pub fn compare(left: &Datum, right: &Datum) -> Option<Ordering> {
    match (left, right) {
        (Datum::Text(a), Datum::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        (Datum::Bytes(a), Datum::Bytes(b)) => Some(a.cmp(b)),
        (Datum::Date(a), Datum::Date(b)) => Some(a.cmp(b)),
        (Datum::DateTime(a), Datum::DateTime(b)) | (Datum::Time(a), Datum::Time(b)) => {
            Some(a.cmp(b))
        }
        (Datum::Double(_), _) | (_, Datum::Double(_)) => {
            double(left)?.partial_cmp(&double(right)?)
        }
        _ => {
            let (a, b) = (exact(left)?, exact(right)?);
            let scale = a.scale.max(b.scale);
            Some(a.rescale(scale)?.unscaled.cmp(&b.rescale(scale)?.unscaled))
        }
    }
}

/// The truth of a condition: `None` = not simple; `Some(None)` = NULL.
pub fn truth(expr: &Expr, row: &dyn Columns) -> Option<Option<bool>> {
    match expr {
        Expr::Nested(expr) => truth(expr, row),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => Some(truth(expr, row)?.map(|t| !t)),
        Expr::IsNull(expr) => Some(Some(eval(expr, row)?.is_null())),
        Expr::IsNotNull(expr) => Some(Some(!eval(expr, row)?.is_null())),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            Some(match (truth(left, row)?, truth(right, row)?) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            })
        }
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
            Some(match (truth(left, row)?, truth(right, row)?) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            })
        }
        Expr::BinaryOp { left, op, right } => {
            let wanted: fn(Ordering) -> bool = match op {
                BinaryOperator::Eq => Ordering::is_eq,
                BinaryOperator::NotEq => Ordering::is_ne,
                BinaryOperator::Lt => Ordering::is_lt,
                BinaryOperator::LtEq => Ordering::is_le,
                BinaryOperator::Gt => Ordering::is_gt,
                BinaryOperator::GtEq => Ordering::is_ge,
                _ => return None,
            };
            let (left, right) = (eval(left, row)?, eval(right, row)?);
            if left.is_null() || right.is_null() {
                return Some(None);
            }
            Some(Some(wanted(compare(&left, &right)?)))
        }
        Expr::Between { expr, negated, low, high } => {
            let (value, low, high) = (eval(expr, row)?, eval(low, row)?, eval(high, row)?);
            if value.is_null() || low.is_null() || high.is_null() {
                return None;
            }
            let inside = compare(&value, &low)?.is_ge() && compare(&value, &high)?.is_le();
            Some(Some(inside != *negated))
        }
        Expr::InList { expr, list, negated } => {
            let value = eval(expr, row)?;
            let mut found = false;
            let mut null = value.is_null();
            for item in list {
                let item = eval(item, row)?;
                if item.is_null() {
                    null = true;
                } else if !value.is_null() {
                    found |= compare(&value, &item)?.is_eq();
                }
            }
            Some(if found { Some(!negated) } else if null { None } else { Some(*negated) })
        }
        _ => match eval(expr, row)? {
            Datum::Null => Some(None),
            Datum::Int(v) => Some(Some(v != 0)),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Stmt, parse};
    use crate::variables::SqlMode;

    struct One(Datum);

    impl Columns for One {
        fn column(&self, _: Option<&str>, name: &str) -> Option<Datum> {
            (name == "a").then(|| self.0.clone())
        }
    }

    fn expr(text: &str) -> Expr {
        let parsed = parse(&format!("do {text}"), 0, SqlMode::default()).expect(text);
        let Stmt::Do(mut exprs) = parsed.stmt else { panic!("{text}") };
        exprs.remove(0)
    }

    #[test]
    fn arithmetic_keeps_kinds() {
        let on = |text: &str, a: Datum| eval(&expr(text), &One(a));
        assert_eq!(on("a + 1", Datum::Int(2)), Some(Datum::Int(3)));
        assert_eq!(on("a - 5", Datum::UInt(2)), None, "unsigned below 0 is for the query engine");
        assert_eq!(on("a + 1", Datum::Int(i64::MAX)), None);
        assert_eq!(on("a + 1", Datum::Null), Some(Datum::Null));
        let decimal = |unscaled, scale| Datum::Decimal(Decimal { unscaled, scale });
        assert_eq!(on("a * 1.5", Datum::Int(3)), Some(decimal(45, 1)));
        assert_eq!(on("a + 0.25", decimal(15, 1)), Some(decimal(175, 2)));
        assert_eq!(on("a + 1", Datum::Text("1".into())), None);
        assert_eq!(on("b", Datum::Int(1)), None);
        assert_eq!(on("abs(a)", Datum::Int(1)), None);
    }

    #[test]
    fn three_valued_logic() {
        let on = |text: &str, a: Datum| truth(&expr(text), &One(a));
        assert_eq!(on("a = 1 and a < 2", Datum::Int(1)), Some(Some(true)));
        assert_eq!(on("a = 1 or null", Datum::Int(2)), Some(None));
        assert_eq!(on("a in (1, null)", Datum::Int(2)), Some(None));
        assert_eq!(on("a not in (1, 3)", Datum::Int(2)), Some(Some(true)));
        assert_eq!(on("not a between 1 and 3", Datum::Int(2)), Some(Some(false)));
        assert_eq!(on("a is null", Datum::Null), Some(Some(true)));
        assert_eq!(on("a = 'x'", Datum::Int(1)), None, "text against a number is not simple");
        assert_eq!(on("a like 'x'", Datum::Text("x".into())), None);
    }
}
