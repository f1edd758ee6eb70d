//! LIKE and WHERE of a SHOW, over rows at hand. Text compares without regard to case, as MySQL's
//! own tables do. It must never answer what it cannot evaluate: that is error 1235.

use super::Context;
use super::result::Answer;
use crate::convert;
use crate::error::{Error, Result};
use crate::outcome::ColumnMeta;
use damask_types::{Datum, Decimal};
use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value};
use std::cmp::Ordering;

/// Keeps the rows whose first column is LIKE the pattern.
pub(super) fn like_first(answer: &mut Answer, pattern: &str) {
    answer.rows.retain(|row| {
        let first = row.first().and_then(|value| convert::text(value, None));
        first.is_some_and(|text| like(&text, pattern, Some('\\')))
    });
}

/// Keeps the rows for which a condition is true.
///
/// # Errors
/// 1054 for an unknown column, 1235 for what cannot be evaluated here.
pub(super) fn matching(ctx: &Context<'_>, answer: &mut Answer, condition: &Expr) -> Result<()> {
    let rows = std::mem::take(&mut answer.rows);
    // Without rows a wrong condition must fail all the same.
    if rows.is_empty() {
        let row = vec![Datum::Null; answer.columns.len()];
        Evaluation { ctx, columns: &answer.columns, row: &row }.value(condition)?;
    }
    for row in rows {
        let evaluation = Evaluation { ctx, columns: &answer.columns, row: &row };
        if truth(&evaluation.value(condition)?) == Some(true) {
            answer.rows.push(row);
        }
    }
    Ok(())
}

struct Evaluation<'a> {
    ctx: &'a Context<'a>,
    columns: &'a [ColumnMeta],
    row: &'a [Datum],
}

impl Evaluation<'_> {
    fn value(&self, expr: &Expr) -> Result<Datum> {
        match expr {
            Expr::Nested(inner) => self.value(inner),
            Expr::Identifier(name) => self.column(&name.value),
            Expr::CompoundIdentifier(parts) => match parts.last() {
                Some(name) => self.column(&name.value),
                None => Err(unsupported(expr)),
            },
            Expr::Value(value) => literal(&value.value).ok_or_else(|| unsupported(expr)),
            Expr::UnaryOp { op, expr: inner } => self.unary(op, inner, expr),
            Expr::BinaryOp { left, op, right } => self.binary(left, op, right, expr),
            Expr::Like { negated, any: false, expr: text, pattern, escape_char } => {
                let escape = match escape_char.as_ref().map(|escape| &escape.value) {
                    None => Some('\\'),
                    Some(Value::SingleQuotedString(text)) => text.chars().next(),
                    Some(_) => return Err(unsupported(expr)),
                };
                self.like(text, pattern, escape, *negated)
            }
            Expr::InList { expr, list, negated } => self.in_list(expr, list, *negated),
            Expr::Between { expr, negated, low, high } => {
                let value = self.value(expr)?;
                let above = compare(&value, &self.value(low)?).map(|o| o != Ordering::Less);
                let below = compare(&value, &self.value(high)?).map(|o| o != Ordering::Greater);
                Ok(boolean(and(above, below).map(|found| found != *negated)))
            }
            Expr::IsNull(inner) => Ok(boolean(Some(self.value(inner)?.is_null()))),
            Expr::IsNotNull(inner) => Ok(boolean(Some(!self.value(inner)?.is_null()))),
            Expr::IsTrue(inner) => self.is(inner, Some(true), true),
            Expr::IsNotTrue(inner) => self.is(inner, Some(true), false),
            Expr::IsFalse(inner) => self.is(inner, Some(false), true),
            Expr::IsNotFalse(inner) => self.is(inner, Some(false), false),
            Expr::Function(function) => match function.to_string().to_ascii_uppercase().as_str() {
                "DATABASE()" | "SCHEMA()" => {
                    let name = self.ctx.database;
                    Ok(name.map_or(Datum::Null, |name| Datum::Text(name.to_owned())))
                }
                _ => Err(unsupported(expr)),
            },
            _ => Err(unsupported(expr)),
        }
    }

    fn column(&self, name: &str) -> Result<Datum> {
        let at = self.columns.iter().position(|column| {
            // A LIKE would have added its pattern to the name; there is none beside a WHERE.
            column.name.eq_ignore_ascii_case(name)
        });
        match at.and_then(|at| self.row.get(at)) {
            Some(value) => Ok(value.clone()),
            None => {
                Err(Error::unknown_column(format!("Unknown column '{name}' in 'where clause'")))
            }
        }
    }

    fn unary(&self, op: &UnaryOperator, inner: &Expr, whole: &Expr) -> Result<Datum> {
        let value = self.value(inner)?;
        match (op, value) {
            (UnaryOperator::Not, value) => Ok(boolean(truth(&value).map(|t| !t))),
            (UnaryOperator::Plus, value) => Ok(value),
            (UnaryOperator::Minus, Datum::Null) => Ok(Datum::Null),
            (UnaryOperator::Minus, Datum::Int(v)) if v != i64::MIN => Ok(Datum::Int(-v)),
            (UnaryOperator::Minus, value) => {
                number(&value).map(|v| Datum::Double(-v)).ok_or_else(|| unsupported(whole))
            }
            _ => Err(unsupported(whole)),
        }
    }

    fn binary(
        &self,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
        whole: &Expr,
    ) -> Result<Datum> {
        let (a, b) = (self.value(left)?, self.value(right)?);
        let ordered = |wanted: &[Ordering]| compare(&a, &b).map(|o| wanted.contains(&o));
        use Ordering::{Equal, Greater, Less};
        Ok(boolean(match op {
            BinaryOperator::And => and(truth(&a), truth(&b)),
            BinaryOperator::Or => match (truth(&a), truth(&b)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            BinaryOperator::Xor => truth(&a).zip(truth(&b)).map(|(a, b)| a != b),
            BinaryOperator::Eq => ordered(&[Equal]),
            BinaryOperator::NotEq => ordered(&[Less, Greater]),
            BinaryOperator::Lt => ordered(&[Less]),
            BinaryOperator::LtEq => ordered(&[Less, Equal]),
            BinaryOperator::Gt => ordered(&[Greater]),
            BinaryOperator::GtEq => ordered(&[Greater, Equal]),
            BinaryOperator::Spaceship => match (a.is_null(), b.is_null()) {
                (false, false) => ordered(&[Equal]),
                (a, b) => Some(a && b),
            },
            _ => return Err(unsupported(whole)),
        }))
    }

    fn like(
        &self,
        value: &Expr,
        pattern: &Expr,
        escape: Option<char>,
        negated: bool,
    ) -> Result<Datum> {
        let value = convert::text(&self.value(value)?, None);
        let pattern = convert::text(&self.value(pattern)?, None);
        let found = value.zip(pattern).map(|(value, pattern)| like(&value, &pattern, escape));
        Ok(boolean(found.map(|found| found != negated)))
    }

    fn in_list(&self, value: &Expr, list: &[Expr], negated: bool) -> Result<Datum> {
        let value = self.value(value)?;
        let mut found = Some(false);
        for item in list {
            match compare(&value, &self.value(item)?) {
                Some(Ordering::Equal) => found = Some(true),
                None if found == Some(false) => found = None,
                _ => {}
            }
        }
        Ok(boolean(found.map(|found| found != negated)))
    }

    fn is(&self, inner: &Expr, wanted: Option<bool>, positive: bool) -> Result<Datum> {
        let is = truth(&self.value(inner)?) == wanted;
        Ok(boolean(Some(is == positive)))
    }
}

fn unsupported(expr: &Expr) -> Error {
    let message = format!("This version of Damask doesn't yet support 'SHOW … WHERE {expr}'");
    Error::not_supported(message)
}

fn literal(value: &Value) -> Option<Datum> {
    Some(match value {
        Value::SingleQuotedString(text)
        | Value::DoubleQuotedString(text)
        | Value::NationalStringLiteral(text) => Datum::Text(text.clone()),
        Value::Number(digits, _) => match (digits.parse(), Decimal::parse(digits)) {
            (Ok(value), _) => Datum::Int(value),
            (_, Some(value)) => Datum::Decimal(value),
            _ => Datum::Double(digits.parse().ok()?),
        },
        Value::Boolean(value) => boolean(Some(*value)),
        Value::Null => Datum::Null,
        _ => return None,
    })
}

fn boolean(value: Option<bool>) -> Datum {
    value.map_or(Datum::Null, |value| Datum::Int(value.into()))
}

fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn truth(value: &Datum) -> Option<bool> {
    match value {
        Datum::Null => None,
        value => Some(number(value).unwrap_or(0.0) != 0.0),
    }
}

fn number(value: &Datum) -> Option<f64> {
    match value {
        Datum::Int(v) => Some(*v as f64),
        Datum::UInt(v) => Some(*v as f64),
        Datum::Double(v) => Some(*v),
        Datum::Decimal(v) => Some(v.to_f64()),
        Datum::Text(text) => Some(crate::value::leading_number(text).0),
        _ => None,
    }
}

/// `None` if either is NULL.
fn compare(a: &Datum, b: &Datum) -> Option<Ordering> {
    let is_number = |v: &Datum| {
        matches!(v, Datum::Int(_) | Datum::UInt(_) | Datum::Double(_) | Datum::Decimal(_))
    };
    if is_number(a) || is_number(b) {
        return number(a)?.partial_cmp(&number(b)?);
    }
    let (a, b) = (convert::text(a, None)?, convert::text(b, None)?);
    Some(a.to_lowercase().cmp(&b.to_lowercase()))
}

/// MySQL's LIKE without regard to case: `%` any text, `_` any character.
pub(super) fn like(text: &str, pattern: &str, escape: Option<char>) -> bool {
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let pattern = parse_pattern(&pattern.to_lowercase(), escape);
    let (mut t, mut p) = (0, 0);
    // After the last `%`: where to go on in the pattern, and where its text may end.
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Piece::Any) => {
                back = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(Piece::One) => {}
            Some(Piece::Char(c)) if *c == text[t] => {}
            _ => {
                let Some((after, end)) = back else { return false };
                back = Some((after, end + 1));
                (p, t) = (after, end + 1);
                continue;
            }
        }
        p += 1;
        t += 1;
    }
    pattern[p..].iter().all(|piece| *piece == Piece::Any)
}

#[derive(Clone, Copy, PartialEq)]
enum Piece {
    Any,
    One,
    Char(char),
}

fn parse_pattern(pattern: &str, escape: Option<char>) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            c if Some(c) == escape => Piece::Char(chars.next().unwrap_or(c)),
            '%' => Piece::Any,
            '_' => Piece::One,
            c => Piece::Char(c),
        });
    }
    pieces
}
