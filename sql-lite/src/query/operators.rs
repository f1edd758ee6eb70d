//! Operators by the types of their operands: like types stay DataFusion's own vectorised operators,
//! unlike ones are converted as MySQL does. Literals are brought to the other side's type, so that
//! a column is never cast and an index can be used. It must never leave unlike types to
//! DataFusion's own coercion.

use super::functions::{DATETIME, TIME, call, decimal, digits_of};
use super::value::{SCALE_MAX, numeric_prefix, parse_moment, parse_time};
use crate::convert::calendar::DAY;
use arrow::datatypes::{DataType, TimeUnit};
use damask_types::Decimal;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{BinaryExpr, Cast, InList};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};
use sqlparser::ast::BinaryOperator;

/// Plans MySQL's binary operators.
#[derive(Debug)]
pub(crate) struct Operators;

/// How a type takes part in operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Null,
    Bool,
    Int,
    UInt,
    Decimal,
    Double,
    Text,
    Binary,
    Date,
    DateTime,
    Time,
    Other,
}

pub(crate) fn class(ty: &DataType) -> Class {
    use DataType as D;
    match ty {
        D::Null => Class::Null,
        D::Boolean => Class::Bool,
        D::Int8 | D::Int16 | D::Int32 | D::Int64 => Class::Int,
        D::UInt8 | D::UInt16 | D::UInt32 | D::UInt64 => Class::UInt,
        D::Decimal128(..) | D::Decimal256(..) => Class::Decimal,
        D::Float16 | D::Float32 | D::Float64 => Class::Double,
        D::Utf8 | D::LargeUtf8 | D::Utf8View => Class::Text,
        D::Binary | D::LargeBinary | D::BinaryView => Class::Binary,
        D::Date32 | D::Date64 => Class::Date,
        D::Timestamp(..) => Class::DateTime,
        D::Duration(TimeUnit::Microsecond) => Class::Time,
        _ => Class::Other,
    }
}

impl Class {
    fn is_number(self) -> bool {
        use Class::*;
        matches!(self, Bool | Int | UInt | Decimal | Double)
    }

    fn is_whole(self) -> bool {
        matches!(self, Class::Bool | Class::Int | Class::UInt)
    }

    fn is_string(self) -> bool {
        matches!(self, Class::Text | Class::Binary)
    }

    fn is_moment(self) -> bool {
        matches!(self, Class::Date | Class::DateTime)
    }
}

/// An operand and its type.
pub(crate) struct Operand {
    pub expr: Expr,
    pub ty: DataType,
}

impl Operand {
    pub fn new(expr: Expr, schema: &DFSchema) -> Result<Operand> {
        let ty = expr.get_type(schema)?;
        Ok(Operand { expr, ty })
    }

    fn class(&self) -> Class {
        class(&self.ty)
    }

    fn cast(self, ty: DataType) -> Operand {
        if self.ty == ty {
            return self;
        }
        Operand { expr: Expr::Cast(Cast::new(Box::new(self.expr), ty.clone())), ty }
    }

    /// A DECIMAL rounded to so many digits after the point.
    fn cut(self, scale: u8) -> Operand {
        match digits_of(&self.ty) {
            Some((whole, own)) if own > scale => self.cast(decimal(whole, scale)),
            _ => self,
        }
    }

    fn call(self, name: &str, ty: DataType) -> Operand {
        Operand { expr: call(name, vec![self.expr]), ty }
    }

    fn double(self) -> Operand {
        match self.class() {
            Class::Double => self,
            Class::Null => self.cast(DataType::Float64),
            class if class.is_number() => self.cast(DataType::Float64),
            // Not the function of CAST: what was asked for stays apart from what was needed.
            _ => self.call("__double", DataType::Float64),
        }
    }

    /// `0x41` where a number is wanted: 65.
    fn of_bytes(&self) -> Option<Operand> {
        let Some(ScalarValue::Binary(Some(bytes))) = self.literal() else { return None };
        if bytes.len() > size_of::<u64>() {
            return None;
        }
        let value = bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let value = match i64::try_from(value) {
            Ok(value) => ScalarValue::Int64(Some(value)),
            Err(_) => ScalarValue::UInt64(Some(value)),
        };
        let ty = value.data_type();
        Some(Operand { expr: Expr::Literal(value, None), ty })
    }

    /// A truth as 0 or 1; a moment as its digits; a text as DOUBLE.
    fn number(self) -> Operand {
        if let Some(number) = self.of_bytes() {
            return number;
        }
        match self.class() {
            Class::Bool => self.cast(DataType::Int64),
            Class::Date | Class::DateTime | Class::Time => self.call("__number", DataType::Int64),
            Class::Text | Class::Binary | Class::Other => self.double(),
            _ => self,
        }
    }

    fn literal(&self) -> Option<&ScalarValue> {
        match &self.expr {
            Expr::Literal(value, _) if !value.is_null() => Some(value),
            _ => None,
        }
    }

    /// A literal in another type; `None` unless it is exactly that value there.
    fn fitted(&self, ty: &DataType) -> Option<Operand> {
        let value = fit(self.literal()?, ty)?;
        Some(Operand { expr: Expr::Literal(value, None), ty: ty.clone() })
    }
}

fn decimal_of(value: &ScalarValue) -> Option<Decimal> {
    match value {
        ScalarValue::Int64(Some(v)) => Some(Decimal { unscaled: (*v).into(), scale: 0 }),
        ScalarValue::UInt64(Some(v)) => Some(Decimal { unscaled: (*v).into(), scale: 0 }),
        ScalarValue::Boolean(Some(v)) => Some(Decimal { unscaled: (*v).into(), scale: 0 }),
        ScalarValue::Decimal128(Some(v), _, s @ 0..) => {
            Some(Decimal { unscaled: *v, scale: *s as u8 })
        }
        ScalarValue::Utf8(Some(text)) => {
            let text = text.trim();
            let plain = !text.is_empty() && numeric_prefix(text) == text;
            (plain && !text.contains(['e', 'E'])).then(|| Decimal::parse(text)).flatten()
        }
        _ => None,
    }
}

/// The same value in another type; `None` if there is none.
pub(crate) fn fit(value: &ScalarValue, ty: &DataType) -> Option<ScalarValue> {
    if value.data_type() == *ty {
        return Some(value.clone());
    }
    let exact = |d: Decimal, scale: u8| {
        let moved = d.rescale(scale)?;
        (moved.rescale(d.scale.max(scale)) == d.rescale(d.scale.max(scale))).then_some(moved)
    };
    let text = || match value {
        ScalarValue::Utf8(Some(text)) => Some(text.as_str()),
        _ => None,
    };
    match ty {
        DataType::Int64 => {
            let whole = exact(decimal_of(value)?, 0)?.unscaled;
            Some(ScalarValue::Int64(Some(i64::try_from(whole).ok()?)))
        }
        DataType::UInt64 => {
            let whole = exact(decimal_of(value)?, 0)?.unscaled;
            Some(ScalarValue::UInt64(Some(u64::try_from(whole).ok()?)))
        }
        DataType::Decimal128(precision, scale) => {
            let moved = exact(decimal_of(value)?, u8::try_from(*scale).ok()?)?;
            let fits = moved.unscaled.unsigned_abs() < 10u128.pow((*precision).into());
            fits.then_some(ScalarValue::Decimal128(Some(moved.unscaled), *precision, *scale))
        }
        DataType::Float64 => match value {
            ScalarValue::Utf8(_) => None,
            value => decimal_of(value).map(|d| ScalarValue::Float64(Some(d.to_f64()))),
        },
        DataType::Date32 => match value {
            ScalarValue::TimestampMicrosecond(Some(v), _) if v.rem_euclid(DAY) == 0 => {
                Some(ScalarValue::Date32(Some((v / DAY) as i32)))
            }
            _ => {
                let moment = parse_moment(text()?)?;
                let whole = moment.micros.rem_euclid(DAY) == 0;
                let days = moment.micros.div_euclid(DAY) as i32;
                whole.then_some(ScalarValue::Date32(Some(days)))
            }
        },
        ty if *ty == DATETIME => {
            let micros = match value {
                ScalarValue::Date32(Some(days)) => i64::from(*days) * DAY,
                _ => parse_moment(text()?)?.micros,
            };
            Some(ScalarValue::TimestampMicrosecond(Some(micros), None))
        }
        ty if *ty == TIME => Some(ScalarValue::DurationMicrosecond(Some(parse_time(text()?)?))),
        _ => None,
    }
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// Brings two values to types that compare as MySQL compares them.
fn comparable(left: Operand, right: Operand) -> Result<(Operand, Operand)> {
    use Class as C;
    if left.ty == right.ty || left.class() == C::Null || right.class() == C::Null {
        return Ok((left, right));
    }
    if let Some(right) = right.of_bytes().filter(|_| left.class().is_number()) {
        return comparable(left, right);
    }
    if let Some(left) = left.of_bytes().filter(|_| right.class().is_number()) {
        return comparable(left, right);
    }
    // A literal in the other side's type.
    if let Some(right) = right.fitted(&left.ty) {
        return Ok((left, right));
    }
    if let Some(left) = left.fitted(&right.ty) {
        return Ok((left, right));
    }
    let (l, r) = (left.class(), right.class());
    let moment = |o: Operand| -> Result<Operand> {
        if let (Class::Text, Some(ScalarValue::Utf8(Some(text)))) = (o.class(), o.literal())
            && parse_moment(text).is_none()
        {
            let message = format!("Incorrect DATETIME value: '{text}'");
            return Err(super::functions::failure(1525, message));
        }
        Ok(match o.class() {
            C::DateTime => o,
            C::Date => o.cast(DATETIME),
            _ => o.call("__cast_datetime", DATETIME),
        })
    };
    Ok(match (l, r) {
        (C::Bool, C::Bool) => (left, right),
        _ if l.is_number() && r.is_number() => (left.number(), right.number()),
        _ if l.is_string() && r.is_string() => {
            let binary = |o: Operand| match o.class() {
                C::Binary => o,
                _ => o.call("__cast_binary", DataType::Binary),
            };
            match l == r {
                true => (left, right),
                false => (binary(left), binary(right)),
            }
        }
        _ if l.is_moment() && (r.is_moment() || r.is_string()) => (moment(left)?, moment(right)?),
        _ if r.is_moment() && l.is_string() => (moment(left)?, moment(right)?),
        (C::Time, _) if r.is_string() => (left, right.call("__cast_time", TIME)),
        (_, C::Time) if l.is_string() => (left.call("__cast_time", TIME), right),
        (C::Time, C::Time) => (left, right),
        _ if l.is_string() || r.is_string() => (left.double(), right.double()),
        _ => {
            let (left, right) = (left.number(), right.number());
            match left.class() == Class::Double || right.class() == Class::Double {
                true => (left.double(), right.double()),
                false => (left, right),
            }
        }
    })
}

/// A comparison.
pub(crate) fn compare(left: Operand, op: Operator, right: Operand) -> Result<Expr> {
    let (left, right) = comparable(left, right)?;
    Ok(binary(left.expr, op, right.expr))
}

/// `x IN (…)`: kept as a list when every item fits x's type, else a chain of comparisons.
pub(crate) fn in_list(list: InList, schema: &DFSchema) -> Result<Expr> {
    let ty = list.expr.get_type(schema)?;
    let mut items = Vec::with_capacity(list.list.len());
    for item in &list.list {
        let operand = Operand::new(item.clone(), schema)?;
        if operand.class() == Class::Null || operand.ty == ty {
            items.push(operand.expr);
        } else if let Some(operand) = operand.fitted(&ty) {
            items.push(operand.expr);
        } else {
            return chain(list, schema);
        }
    }
    Ok(Expr::InList(InList { list: items, ..list }))
}

fn chain(list: InList, schema: &DFSchema) -> Result<Expr> {
    let mut any: Option<Expr> = None;
    for item in list.list {
        let left = Operand::new((*list.expr).clone(), schema)?;
        let equal = compare(left, Operator::Eq, Operand::new(item, schema)?)?;
        any = Some(match any {
            Some(any) => binary(any, Operator::Or, equal),
            None => equal,
        });
    }
    let any = any.unwrap_or_else(|| Expr::Literal(ScalarValue::Boolean(Some(false)), None));
    Ok(if list.negated { Expr::Not(Box::new(any)) } else { any })
}

/// A whole literal as the smallest DECIMAL, so that results do not grow more digits than needed.
fn small_decimal(operand: Operand) -> Operand {
    let Some(value) = operand.literal().and_then(decimal_of) else { return operand };
    let digits = value.unscaled.unsigned_abs().checked_ilog10().unwrap_or(0) as u8 + 1;
    let precision = digits.max(value.scale).min(38);
    let ty = DataType::Decimal128(precision, value.scale as i8);
    let scalar = ScalarValue::Decimal128(Some(value.unscaled), precision, value.scale as i8);
    Operand { expr: Expr::Literal(scalar, None), ty }
}

/// A DOUBLE without the look whether it is finite: what is made of one that is not is not either.
fn unchecked(expr: Expr) -> Expr {
    match expr {
        Expr::ScalarFunction(mut f) if f.name() == "__finite" && f.args.len() == 1 => {
            f.args.remove(0)
        }
        expr => expr,
    }
}

/// `+`, `-`, `*`.
pub(crate) fn arithmetic(left: Operand, op: Operator, right: Operand) -> Expr {
    use Class as C;
    let (left, right) = (left.number(), right.number());
    let (l, r) = (left.class(), right.class());
    if l == C::Double || r == C::Double {
        let (left, right) = (unchecked(left.double().expr), unchecked(right.double().expr));
        return call("__finite", vec![binary(left, op, right)]);
    }
    if (l.is_whole() || l == C::Null) && (r.is_whole() || r == C::Null) {
        let name = match op {
            Operator::Plus => "__add",
            Operator::Minus => "__subtract",
            _ => "__multiply",
        };
        return call(name, vec![left.expr, right.expr]);
    }
    let (left, right) = match (l, r) {
        (C::Decimal, _) if r.is_whole() => (left, small_decimal(right)),
        (_, C::Decimal) if l.is_whole() => (small_decimal(left), right),
        (C::Null, _) => {
            let ty = right.ty.clone();
            (left.cast(ty), right)
        }
        (_, C::Null) => {
            let ty = left.ty.clone();
            (left, right.cast(ty))
        }
        _ => (left, right),
    };
    let scales = digits_of(&left.ty).zip(digits_of(&right.ty));
    let (left, right) = match scales {
        Some(((_, a), (_, b))) if op == Operator::Multiply && a + b > SCALE_MAX => {
            // The one with more digits after the point gives some up.
            let (most, least) = (SCALE_MAX / 2, a.min(b));
            let rest = if least < most { SCALE_MAX - least } else { most };
            (left.cut(rest.min(a)), right.cut(rest.min(b)))
        }
        _ => (left, right),
    };
    binary(left.expr, op, right.expr)
}

impl ExprPlanner for Operators {
    fn plan_binary_op(
        &self,
        raw: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator as B;
        let comparison = match raw.op {
            B::Eq => Some(Operator::Eq),
            B::NotEq => Some(Operator::NotEq),
            B::Lt => Some(Operator::Lt),
            B::LtEq => Some(Operator::LtEq),
            B::Gt => Some(Operator::Gt),
            B::GtEq => Some(Operator::GtEq),
            B::Spaceship => Some(Operator::IsNotDistinctFrom),
            _ => None,
        };
        let operation = match raw.op {
            B::Plus => Some(Operator::Plus),
            B::Minus => Some(Operator::Minus),
            B::Multiply => Some(Operator::Multiply),
            _ => None,
        };
        let function = match raw.op {
            B::Divide => Some("__divide"),
            B::MyIntegerDivide => Some("__int_divide"),
            B::Modulo => Some("mod"),
            _ => None,
        };
        if comparison.is_none() && operation.is_none() && function.is_none() {
            return Ok(PlannerResult::Original(raw));
        }
        let left = Operand::new(raw.left, schema)?;
        let right = Operand::new(raw.right, schema)?;
        let planned = match (comparison, operation, function) {
            (Some(op), _, _) => compare(left, op, right)?,
            (_, Some(op), _) => arithmetic(left, op, right),
            (_, _, Some(name)) => {
                let (left, right) = (left.number(), right.number());
                // Fewer digits: a literal's own, not its type's.
                let shrink = |o: Operand| match o.class().is_whole() && o.literal().is_some() {
                    true if name == "__divide" => small_decimal(o),
                    _ => o,
                };
                call(name, vec![shrink(left).expr, shrink(right).expr])
            }
            _ => unreachable!("one of them is set"),
        };
        Ok(PlannerResult::Planned(planned))
    }
}
