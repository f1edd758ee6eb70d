//! Which conditions a column store can check by itself. It must never hand over one that the store
//! would decide in another way than the expression does: floats stay (zeros with a sign, NaN), and
//! so does whatever is not one column beside literals of its type.

use crate::spec::{ScanColumn, ScanSpec};
use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, TimeUnit};
use damask_deltatree::{Predicate, Test};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, Literal,
};
use datafusion::physical_expr::{PhysicalExpr, conjunction_opt, split_conjunction};
use std::sync::Arc;

/// An expression over the columns of a scan.
pub(crate) type Expr = Arc<dyn PhysicalExpr>;

/// What a store checks, and what is left to be checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Split {
    /// Columns are those of the spec, with its types.
    pub tests: Vec<Predicate>,
    /// `None`: nothing.
    pub rest: Option<Expr>,
}

/// Splits a condition over the columns of a spec.
pub(crate) fn split(filter: Option<&Expr>, spec: &ScanSpec) -> Split {
    let Some(filter) = filter else { return Split::default() };
    let (mut tests, mut rest) = (Vec::new(), Vec::new());
    for part in split_conjunction(filter) {
        match predicate(part, spec) {
            Some(test) => tests.push(test),
            None => rest.push(part.clone()),
        }
    }
    Split { tests, rest: conjunction_opt(rest) }
}

/// Do the store's values of the column look like the spec's, digits of a DECIMAL aside? The handle
/// of an unsigned column does not.
pub(crate) fn is_as_stored(spec: &ScanSpec, column: usize) -> bool {
    !holds_handle(spec, column) || is_handle(spec, column)
}

fn holds_handle(spec: &ScanSpec, column: usize) -> bool {
    match spec.columns[column] {
        ScanColumn::Handle => true,
        ScanColumn::Column(id) => spec.table.handle_column == Some(id),
    }
}

/// Are the column's values the handles, in their order?
pub(crate) fn is_handle(spec: &ScanSpec, column: usize) -> bool {
    holds_handle(spec, column) && *spec.schema.field(column).data_type() == DataType::Int64
}

/// Types whose values compare alike here and in the store.
pub(crate) fn is_exact(ty: &DataType) -> bool {
    matches!(
        ty,
        DataType::Int64
            | DataType::UInt64
            | DataType::Decimal128(..)
            | DataType::Utf8
            | DataType::Binary
            | DataType::Date32
            | DataType::Timestamp(TimeUnit::Microsecond, None)
            | DataType::Duration(TimeUnit::Microsecond)
    )
}

/// The position of a column of the spec that a store can test.
fn column(expr: &Expr, spec: &ScanSpec) -> Option<usize> {
    let at = expr.downcast_ref::<Column>()?.index();
    let field = spec.schema.fields().get(at)?;
    (is_exact(field.data_type()) && is_as_stored(spec, at)).then_some(at)
}

/// A literal of the column's type that is not NULL.
fn literal(expr: &Expr, ty: &DataType) -> Option<ScalarValue> {
    let value = expr.downcast_ref::<Literal>()?.value();
    let fits = match (value, ty) {
        (ScalarValue::Decimal128(Some(_), _, own), DataType::Decimal128(_, scale)) => own == scale,
        (value, ty) => !value.is_null() && value.data_type() == *ty,
    };
    fits.then(|| value.clone())
}

fn array(values: Vec<ScalarValue>, ty: &DataType) -> Option<ArrayRef> {
    let typed = values.into_iter().map(|value| match (value, ty) {
        (ScalarValue::Decimal128(v, ..), DataType::Decimal128(precision, scale)) => {
            ScalarValue::Decimal128(v, *precision, *scale)
        }
        (value, _) => value,
    });
    ScalarValue::iter_to_array(typed).ok()
}

/// A condition as a predicate over the spec's columns.
fn predicate(expr: &Expr, spec: &ScanSpec) -> Option<Predicate> {
    if let Some(is_null) = expr.downcast_ref::<IsNullExpr>() {
        return Some(Predicate { column: column(is_null.arg(), spec)?, test: Test::Null });
    }
    if let Some(not_null) = expr.downcast_ref::<IsNotNullExpr>() {
        return Some(Predicate { column: column(not_null.arg(), spec)?, test: Test::NotNull });
    }
    if let Some(list) = expr.downcast_ref::<InListExpr>() {
        let at = column(list.expr(), spec)?;
        if list.negated() || list.is_empty() {
            return None;
        }
        let ty = spec.schema.field(at).data_type();
        let values = list.list().iter().map(|value| literal(value, ty));
        let values = array(values.collect::<Option<Vec<_>>>()?, ty)?;
        return Some(Predicate { column: at, test: Test::In(values) });
    }
    let binary = expr.downcast_ref::<BinaryExpr>()?;
    let (at, value, op) = match (column(binary.left(), spec), column(binary.right(), spec)) {
        (Some(at), None) => (at, binary.right(), *binary.op()),
        (None, Some(at)) => (at, binary.left(), binary.op().swap()?),
        _ => return None,
    };
    let ty = spec.schema.field(at).data_type();
    let value = array(vec![literal(value, ty)?], ty)?;
    let test = match op {
        Operator::Eq => Test::Equal(value),
        Operator::NotEq => Test::NotEqual(value),
        Operator::Lt => Test::Less(value),
        Operator::LtEq => Test::LessEqual(value),
        Operator::Gt => Test::Greater(value),
        Operator::GtEq => Test::GreaterEqual(value),
        _ => return None,
    };
    Some(Predicate { column: at, test })
}
