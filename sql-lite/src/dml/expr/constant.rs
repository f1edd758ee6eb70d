//! Values that are written in the statement: literals with their prefixes and types, and the time
//! of the statement. It must never read a column.

use super::{Scope, is_call, only_argument};
use crate::convert::calendar::DAY;
use crate::dml::default_of;
use crate::statement::params;
use crate::value::{Rules, temporal};
use damask_types::schema::DefaultValue;
use damask_types::{ColumnType, Datum};
use sqlparser::ast::{DataType, Expr, Function, FunctionArguments, Value as Ast};

/// The value of an expression without columns.
pub(super) fn constant(expr: &Expr, scope: &Scope<'_>) -> Option<Datum> {
    if let Some(datum) = params::literal(expr) {
        return Some(datum);
    }
    match expr {
        Expr::Nested(expr) => constant(expr, scope),
        Expr::Value(v) => match &v.value {
            Ast::SingleQuotedByteStringLiteral(bits) => bit_literal(bits),
            _ => None,
        },
        Expr::Prefixed { prefix, value } => match constant(value, scope)? {
            Datum::Text(text) if prefix.value.eq_ignore_ascii_case("_binary") => {
                Some(Datum::Bytes(text.into_bytes()))
            }
            datum @ Datum::Text(_) if prefix.value.to_ascii_lowercase().starts_with("_utf8") => {
                Some(datum)
            }
            datum @ Datum::Bytes(_) if prefix.value.eq_ignore_ascii_case("_binary") => Some(datum),
            _ => None,
        },
        Expr::TypedString(typed) => {
            let text = typed.value.value.clone().into_string()?;
            let us = temporal::parse_datetime(&text, scope.rules.offset_us);
            match typed.data_type {
                DataType::Date => us.map(|us| Datum::Date(us.div_euclid(DAY) as i32)),
                DataType::Datetime(_) | DataType::Timestamp(..) => us.map(Datum::DateTime),
                _ => None,
            }
        }
        Expr::Function(function) if is_call(function, "DEFAULT") => default(function, scope),
        Expr::Function(function) => now(function, &scope.rules),
        _ => None,
    }
}

/// DEFAULT(column). What has no default is an error of the query engine's.
fn default(function: &Function, scope: &Scope<'_>) -> Option<Datum> {
    let name = match only_argument(function)? {
        Expr::Identifier(ident) => ident,
        Expr::CompoundIdentifier(idents) => idents.last()?,
        _ => return None,
    };
    let column = &scope.table.columns[scope.column(&name.value)?];
    match column.default {
        // The session's zone and the statement's time are not known here.
        Some(DefaultValue::CurrentTimestamp) => None,
        _ if matches!(column.ty, ColumnType::Timestamp { .. }) => None,
        _ => default_of(column, 0, 0).ok(),
    }
}

fn bit_literal(bits: &str) -> Option<Datum> {
    if bits.is_empty() || !bits.bytes().all(|b| matches!(b, b'0' | b'1')) {
        return None;
    }
    let byte = |bits: &[u8]| bits.iter().fold(0u8, |v, b| v << 1 | (b - b'0'));
    let bytes = bits.as_bytes().rchunks(8).rev().map(byte);
    Some(Datum::Bytes(bytes.collect()))
}

/// NOW() and its like.
fn now(function: &Function, rules: &Rules) -> Option<Datum> {
    let no_arguments = match &function.args {
        FunctionArguments::None => true,
        FunctionArguments::List(list) => list.args.is_empty(),
        FunctionArguments::Subquery(_) => false,
    };
    // No time is known where constants alone are compiled.
    if !no_arguments || rules.now_us == i64::MIN {
        return None;
    }
    let is = |names: &[&str]| names.iter().any(|name| is_call(function, name));
    let local = rules.now_us + rules.offset_us;
    if is(&["NOW", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP"]) {
        return Some(Datum::DateTime(local.div_euclid(1_000_000) * 1_000_000));
    }
    if is(&["CURDATE", "CURRENT_DATE"]) {
        return Some(Datum::Date(local.div_euclid(DAY) as i32));
    }
    None
}
