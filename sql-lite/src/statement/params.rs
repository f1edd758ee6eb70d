//! Literals as datums and back, and the values of `?` put into a statement. It must never change
//! a statement with a wrong number of values.

use super::control::{SetItem, SetValue};
use super::data::{InsertSource, Value};
use super::{Assign, Filter, Stmt};
use crate::error::{Error, Result};
use damask_types::{Datum, Decimal};
use sqlparser::ast::{Expr, UnaryOperator, Value as Ast, VisitMut, VisitorMut};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::Token;
use std::ops::ControlFlow;

/// A number as written: integer, decimal or (with an exponent) double.
pub fn number(digits: &str, negative: bool) -> Option<Datum> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        if digits.bytes().any(|b| matches!(b, b'e' | b'E')) {
            let v: f64 = digits.parse().ok()?;
            return Some(Datum::Double(if negative { -v } else { v }));
        }
        return decimal(digits, negative);
    }
    match digits.parse::<u64>() {
        Ok(v) if negative => Some(match i64::try_from(v) {
            Ok(v) => Datum::Int(-v),
            Err(_) if v == 1 << 63 => Datum::Int(i64::MIN),
            Err(_) => return decimal(digits, true),
        }),
        Ok(v) => Some(i64::try_from(v).map_or(Datum::UInt(v), Datum::Int)),
        Err(_) => decimal(digits, negative),
    }
}

fn decimal(digits: &str, negative: bool) -> Option<Datum> {
    match Decimal::parse(digits.trim_end_matches('.')) {
        Some(d) => {
            let unscaled = if negative { -d.unscaled } else { d.unscaled };
            Some(Datum::Decimal(Decimal { unscaled, scale: d.scale }))
        }
        None => {
            let v: f64 = digits.parse().ok()?;
            Some(Datum::Double(if negative { -v } else { v }))
        }
    }
}

fn hex(digits: &str) -> Option<Datum> {
    let padded =
        if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("0{digits}") };
    let byte = |at| u8::from_str_radix(&padded[at..at + 2], 16).ok();
    (0..padded.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>().map(Datum::Bytes)
}

/// A token that is a literal by itself.
pub(super) fn literal_token(token: &Token, negative: bool) -> Option<Datum> {
    match token {
        Token::Number(digits, _) => number(digits, negative),
        _ if negative => None,
        Token::SingleQuotedString(text) => Some(Datum::Text(text.clone())),
        Token::HexStringLiteral(digits) => hex(digits),
        Token::Word(w) if w.quote_style.is_none() => match w.keyword {
            Keyword::NULL => Some(Datum::Null),
            Keyword::TRUE => Some(Datum::Int(1)),
            Keyword::FALSE => Some(Datum::Int(0)),
            _ => None,
        },
        _ => None,
    }
}

/// The value of an expression that is a literal, perhaps with a sign or in parentheses.
pub fn literal(expr: &Expr) -> Option<Datum> {
    match expr {
        Expr::Value(v) => match &v.value {
            Ast::Number(digits, _) => match digits.strip_prefix('-') {
                Some(digits) => number(digits, true),
                None => number(digits, false),
            },
            Ast::SingleQuotedString(text) | Ast::DoubleQuotedString(text) => {
                Some(Datum::Text(text.clone()))
            }
            Ast::HexStringLiteral(digits) => hex(digits),
            Ast::Boolean(v) => Some(Datum::Int(i64::from(*v))),
            Ast::Null => Some(Datum::Null),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match expr.as_ref() {
            Expr::Value(v) => match &v.value {
                Ast::Number(digits, _) if !digits.starts_with('-') => number(digits, true),
                _ => None,
            },
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } | Expr::Nested(expr) => literal(expr),
        _ => None,
    }
}

/// A datum as a literal expression. Dates and times become strings, as MySQL reads them.
pub fn expression(datum: &Datum) -> Expr {
    let value = |value: Ast| Expr::Value(value.with_empty_span());
    let number = |text: String| match text.strip_prefix('-') {
        Some(digits) => Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr: Box::new(Expr::Value(Ast::Number(digits.to_owned(), false).with_empty_span())),
        },
        None => Expr::Value(Ast::Number(text, false).with_empty_span()),
    };
    match datum {
        Datum::Null => value(Ast::Null),
        Datum::Int(v) => number(v.to_string()),
        Datum::UInt(v) => number(v.to_string()),
        Datum::Double(v) => number(format!("{v:e}")),
        Datum::Decimal(v) => number(v.to_string()),
        Datum::Text(text) => value(Ast::SingleQuotedString(text.clone())),
        Datum::Bytes(bytes) => {
            let digits = bytes.iter().map(|b| format!("{b:02X}")).collect();
            value(Ast::HexStringLiteral(digits))
        }
        Datum::Date(_) | Datum::DateTime(_) | Datum::Time(_) => {
            value(Ast::SingleQuotedString(crate::convert::text(datum, None).unwrap_or_default()))
        }
    }
}

struct Binder<'a> {
    values: &'a [Datum],
}

impl VisitorMut for Binder<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(v) = expr
            && let Ast::Placeholder(name) = &v.value
        {
            let found = name[1..].parse().ok().and_then(|n: usize| self.values.get(n));
            match found {
                Some(datum) => *expr = expression(datum),
                None => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }
}

/// The statement with its `?` replaced, in order of appearance. `count` = how many it has.
pub fn bind(stmt: &Stmt, count: usize, values: &[Datum]) -> Result<Stmt> {
    let wrong = || Error {
        code: 1210,
        state: "HY000",
        message: "Incorrect arguments to EXECUTE".to_owned(),
    };
    if count != values.len() {
        return Err(wrong());
    }
    let mut stmt = stmt.clone();
    if count > 0 {
        let mut binder = Binder { values };
        if bind_stmt(&mut stmt, &mut binder).is_break() {
            return Err(wrong());
        }
    }
    Ok(stmt)
}

fn bind_stmt(stmt: &mut Stmt, b: &mut Binder<'_>) -> ControlFlow<()> {
    match stmt {
        Stmt::Query(query) | Stmt::SelectInto { query, .. } => query.visit(b),
        Stmt::AsOf { query, at } => {
            at.visit(b)?;
            query.visit(b)
        }
        Stmt::Begin { as_of: Some(at), .. } => at.visit(b),
        Stmt::Explain { statement, .. } => bind_stmt(statement, b),
        Stmt::Insert(insert) => {
            match &mut insert.source {
                InsertSource::Query(query) => query.visit(b)?,
                InsertSource::Values(rows) => {
                    rows.iter_mut().flatten().try_for_each(|v| bind_value(v, b))?;
                }
            }
            bind_assigns(&mut insert.on_duplicate, b)
        }
        Stmt::Update(update) => {
            update.from.visit(b)?;
            bind_assigns(&mut update.assignments, b)?;
            update.selection.visit(b)?;
            update.order_by.visit(b)?;
            update.limit.visit(b)
        }
        Stmt::Delete(delete) => {
            delete.from.visit(b)?;
            delete.selection.visit(b)?;
            delete.order_by.visit(b)?;
            delete.limit.visit(b)
        }
        Stmt::Do(exprs) => exprs.visit(b),
        Stmt::Set(items) => items.iter_mut().try_for_each(|item| match item {
            SetItem::System { value: SetValue::Expr(value), .. } | SetItem::User { value, .. } => {
                value.visit(b)
            }
            _ => ControlFlow::Continue(()),
        }),
        Stmt::Show(show) => match &mut show.filter {
            Some(Filter::Where(expr)) => expr.visit(b),
            _ => ControlFlow::Continue(()),
        },
        Stmt::CreateTable(create) => match &mut create.query {
            Some(query) => query.visit(b),
            None => ControlFlow::Continue(()),
        },
        _ => ControlFlow::Continue(()),
    }
}

fn bind_assigns(assigns: &mut [Assign], b: &mut Binder<'_>) -> ControlFlow<()> {
    assigns.iter_mut().try_for_each(|a| a.value.visit(b))
}

fn bind_value(value: &mut Value, b: &mut Binder<'_>) -> ControlFlow<()> {
    match value {
        Value::Param(n) => match b.values.get(*n) {
            Some(datum) => {
                *value = Value::Literal(datum.clone());
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        },
        Value::Expr(expr) => expr.visit(b),
        Value::Literal(_) | Value::Default => ControlFlow::Continue(()),
    }
}
