//! LIKE and WHERE over the rows of a SHOW. It must never drop a row because it does not understand
//! the condition: that is an error.

use crate::convert;
use crate::error::{Error, Result};
use crate::outcome::ColumnMeta;
use crate::statement::Filter;
use crate::statement::params::literal;
use damask_types::Datum;
use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator};

/// Is the text like the pattern? `%`, `_` and `\`, without regard to case.
pub fn like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
    let pattern: Vec<char> = pattern.chars().flat_map(char::to_lowercase).collect();
    let (mut t, mut p) = (0, 0);
    // Where to go on after the last `%` when a later part does not fit.
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        let (matched, step) = match pattern.get(p) {
            Some('%') => {
                back = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some('_') => (true, 1),
            Some('\\') if p + 1 < pattern.len() => (pattern[p + 1] == text[t], 2),
            Some(c) => (*c == text[t], 1),
            None => (false, 0),
        };
        if matched {
            (t, p) = (t + 1, p + step);
        } else if let Some((after, from)) = back {
            (p, t) = (after, from + 1);
            back = Some((after, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '%')
}

/// Keeps the rows that a filter lets through.
pub fn apply(
    filter: Option<&Filter>,
    columns: &[ColumnMeta],
    rows: &mut Vec<Vec<Datum>>,
) -> Result<()> {
    match filter {
        None => Ok(()),
        Some(Filter::Like(pattern)) => {
            rows.retain(|row| row.first().is_some_and(|d| like(&text(d), pattern)));
            Ok(())
        }
        Some(Filter::Where(expr)) => {
            let mut kept = Vec::with_capacity(rows.len());
            for row in rows.drain(..) {
                if truth(expr, columns, &row)? == Some(true) {
                    kept.push(row);
                }
            }
            *rows = kept;
            Ok(())
        }
    }
}

fn text(datum: &Datum) -> String {
    convert::text(datum, None).unwrap_or_default()
}

fn value(expr: &Expr, columns: &[ColumnMeta], row: &[Datum]) -> Result<Datum> {
    if let Some(value) = literal(expr) {
        return Ok(value);
    }
    let name = match expr {
        Expr::Identifier(ident) => &ident.value,
        Expr::CompoundIdentifier(parts) => &parts[parts.len() - 1].value,
        Expr::Nested(expr) => return value(expr, columns, row),
        _ => return Err(unsupported(expr)),
    };
    let at = columns.iter().position(|c| c.name.eq_ignore_ascii_case(name));
    match at {
        Some(at) => Ok(row[at].clone()),
        None => Err(crate::dml::unknown_column(name, "where clause")),
    }
}

fn unsupported(expr: &Expr) -> Error {
    Error::not_supported(format!("SHOW … WHERE with '{expr}'"))
}

/// Names compare without regard to case, as MySQL's own tables do.
fn same(a: &Datum, b: &Datum) -> Option<bool> {
    if a.is_null() || b.is_null() {
        return None;
    }
    Some(text(a).eq_ignore_ascii_case(&text(b)))
}

fn truth(expr: &Expr, columns: &[ColumnMeta], row: &[Datum]) -> Result<Option<bool>> {
    let of = |expr: &Expr| truth(expr, columns, row);
    let value = |expr: &Expr| value(expr, columns, row);
    Ok(match expr {
        Expr::Nested(expr) => of(expr)?,
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => of(expr)?.map(|t| !t),
        Expr::IsNull(expr) => Some(value(expr)?.is_null()),
        Expr::IsNotNull(expr) => Some(!value(expr)?.is_null()),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => match (of(left)?, of(right)?) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        },
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } => match (of(left)?, of(right)?) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        },
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            same(&value(left)?, &value(right)?)
        }
        Expr::BinaryOp { left, op: BinaryOperator::NotEq, right } => {
            same(&value(left)?, &value(right)?).map(|t| !t)
        }
        Expr::Like { negated, expr, pattern, .. } => {
            let (value, pattern) = (value(expr)?, value(pattern)?);
            (!value.is_null() && !pattern.is_null())
                .then(|| like(&text(&value), &text(&pattern)) != *negated)
        }
        Expr::InList { expr, list, negated } => {
            let wanted = value(expr)?;
            let mut found = false;
            for item in list {
                found |= same(&wanted, &value(item)?) == Some(true);
            }
            Some(found != *negated)
        }
        other => return Err(unsupported(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::like;

    #[test]
    fn patterns() {
        for (text, pattern, expected) in [
            ("sql_mode", "sql_mode", true),
            ("sqlxmode", "sql\\_mode", false),
            ("SQL_MODE", "%mode", true),
            ("abcabd", "a%d", true),
            ("abc", "a_d", false),
            ("", "%", true),
            ("", "_", false),
            ("aab", "%ab", true),
        ] {
            assert_eq!(like(text, pattern), expected, "{text} {pattern}");
        }
    }
}
