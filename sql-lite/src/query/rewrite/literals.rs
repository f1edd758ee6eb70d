//! Literals that DataFusion reads in another way than MySQL. It must never change a value.

use super::{call, number, text, value_of};
use crate::error::{Error, Result};
use sqlparser::ast::{DataType, Expr, TypedString, Value, ValueWithSpan};

/// `DATE '…'` is DataFusion's own; the others are ours.
pub(super) fn typed_text(typed: &TypedString) -> Result<Option<Expr>> {
    let Some(value) = typed.value.value.clone().into_string() else { return Ok(None) };
    let moment = |ty: &str| match crate::query::value::parse_moment(&value) {
        Some(_) => Ok(()),
        None => {
            let message = format!("Incorrect {ty} value: '{value}'");
            Err(Error { code: 1525, state: "HY000", message })
        }
    };
    Ok(match typed.data_type {
        DataType::Datetime(_) | DataType::Timestamp(..) => {
            moment("DATETIME")?;
            let digits = value.split_once('.').map_or(0, |(_, f)| f.len().min(6));
            Some(call("__cast_datetime", vec![text(&value), number(digits as i64)]))
        }
        DataType::Time(..) => Some(call("__cast_time", vec![text(&value)])),
        DataType::Date => {
            moment("DATE")?;
            None
        }
        _ => None,
    })
}

/// Literals that DataFusion reads otherwise.
pub(super) fn literal(value: &ValueWithSpan) -> Result<Option<Expr>> {
    Ok(match &value.value {
        Value::DoubleQuotedString(s) | Value::NationalStringLiteral(s) => Some(text(s)),
        Value::Number(n, _) if n.contains(['e', 'E']) => {
            if !n.parse::<f64>().is_ok_and(f64::is_finite) {
                let message = format!("Illegal double '{n}' value found during parsing");
                return Err(Error { code: 1367, state: "22007", message });
            }
            Some(call("__cast_double", vec![text(n)]))
        }
        Value::SingleQuotedByteStringLiteral(bits) => {
            u64::from_str_radix(bits, 2).ok().map(|bits| {
                let hex = format!("{bits:x}");
                let hex = if hex.len() % 2 == 1 { format!("0{hex}") } else { hex };
                value_of(Value::HexStringLiteral(hex))
            })
        }
        _ => None,
    })
}

/// `0x41` as 65 where bits are wanted; anything else as it is.
pub(super) fn bits(expr: Expr) -> Expr {
    let Expr::Value(ValueWithSpan { value: Value::HexStringLiteral(digits), .. }) = &expr else {
        return expr;
    };
    match u64::from_str_radix(digits, 16) {
        Ok(value) => value_of(Value::Number(value.to_string(), false)),
        Err(_) => expr,
    }
}
