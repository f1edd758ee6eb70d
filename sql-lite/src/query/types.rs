//! The MySQL type that an expression of a plan has, where its Arrow type does not say all: digits
//! of a second's fraction, FLOAT, and the digits of a DECIMAL that are shown. A quotient is kept
//! with more digits than are shown (`1/3*100` is 33.3333): what is shown follows from the way it
//! was made. It must never claim a type that not every branch of a choice has.

use super::functions::{DATETIME, DIVISION_DIGITS};
use super::table::CatalogTable;
use super::value::SCALE_MAX;
use arrow::datatypes::DataType;
use damask_types::ColumnType;
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator, TableScan};

/// Where an expression's columns come from: the inputs of the plan node that holds it.
pub(crate) type Inputs<'a> = &'a [&'a LogicalPlan];

/// The type of an expression, if something is known beyond Arrow's.
pub(crate) fn of(expr: &Expr, inputs: Inputs<'_>) -> Option<ColumnType> {
    if let Some(decimal) = shown_decimal(expr, inputs) {
        return Some(decimal);
    }
    match expr {
        Expr::Alias(alias) => of(&alias.expr, inputs),
        Expr::Column(column) => {
            let (input, at) = found(column, inputs)?;
            of_column(input, at)
        }
        Expr::AggregateFunction(f) => match f.func.name() {
            "min" | "max" | "first_value" | "last_value" => of(f.params.args.first()?, inputs),
            _ => None,
        },
        Expr::Case(case) => {
            let branches = case.when_then_expr.iter().map(|(_, then)| &**then);
            common(branches.chain(case.else_expr.as_deref()), inputs)
        }
        Expr::Cast(cast) => {
            let to = cast.field.data_type();
            let own = of(&cast.expr, inputs)?;
            match own {
                ColumnType::Date if *to == DATETIME => Some(ColumnType::DateTime { fsp: 0 }),
                own => (damask_coprocessor::arrow_type(&own) == *to).then_some(own),
            }
        }
        Expr::ScalarFunction(f) => {
            of_call(f.name(), &f.args, inputs).or_else(|| date(expr, inputs))
        }
        Expr::ScalarSubquery(query) => of_column(&query.subquery, 0),
        other => date(other, inputs),
    }
}

/// The one type that Arrow's says all of.
fn date(expr: &Expr, inputs: Inputs<'_>) -> Option<ColumnType> {
    (arrow_type(expr, inputs)? == DataType::Date32).then_some(ColumnType::Date)
}

fn of_call(name: &str, args: &[Expr], inputs: Inputs<'_>) -> Option<ColumnType> {
    let number = |expr: Option<&Expr>| match expr {
        Some(Expr::Literal(ScalarValue::Int64(Some(n)), _)) => *n as u8,
        _ => 0,
    };
    match name {
        "__datetime" | "__cast_datetime" => Some(ColumnType::DateTime { fsp: number(args.get(1)) }),
        "__time" | "__cast_time" => Some(ColumnType::Time { fsp: number(args.get(1)) }),
        "coalesce" | "greatest" | "least" => common(args.iter(), inputs),
        "__date_add" | "__date_sub" => match (of(args.first()?, inputs), args.get(2)) {
            (_, Some(Expr::Literal(unit, _))) if unit.to_string().contains("MICRO") => {
                Some(ColumnType::DateTime { fsp: 6 })
            }
            (Some(ColumnType::Timestamp { fsp }), _) => Some(ColumnType::DateTime { fsp }),
            (ty, _) => ty,
        },
        "timediff" | "addtime" | "subtime" => args.iter().find_map(|a| of(a, inputs)),
        _ => None,
    }
}

/// The type that all of these have (NULL aside); of moments the finest.
fn common<'e>(branches: impl Iterator<Item = &'e Expr>, inputs: Inputs<'_>) -> Option<ColumnType> {
    let mut all: Option<ColumnType> = None;
    for branch in branches {
        if is_null(branch) {
            continue;
        }
        let ty = of(branch, inputs)?;
        all = Some(match all {
            None => ty,
            Some(before) => either(before, ty)?,
        });
    }
    all
}

fn is_null(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(value, _) => value.is_null(),
        Expr::Cast(cast) => is_null(&cast.expr),
        _ => false,
    }
}

/// Is a column of the plan written as NULL?
fn is_null_column(plan: &LogicalPlan, at: usize) -> bool {
    match plan {
        LogicalPlan::Projection(p) => match p.expr.get(at) {
            Some(Expr::Alias(alias)) => is_null(&alias.expr) || is_null_behind(&alias.expr, p),
            Some(expr) => is_null(expr) || is_null_behind(expr, p),
            None => false,
        },
        _ => false,
    }
}

/// Does an expression only convert a column that is written as NULL below?
fn is_null_behind(expr: &Expr, p: &datafusion::logical_expr::Projection) -> bool {
    match expr {
        Expr::Cast(cast) => is_null_behind(&cast.expr, p),
        Expr::Column(column) => {
            let at = p.input.schema().index_of_column(column);
            at.is_ok_and(|at| is_null_column(&p.input, at))
        }
        _ => false,
    }
}

fn either(a: ColumnType, b: ColumnType) -> Option<ColumnType> {
    use ColumnType as T;
    match (a, b) {
        (a, b) if a == b => Some(a),
        (
            T::DateTime { fsp: a } | T::Timestamp { fsp: a },
            T::DateTime { fsp: b } | T::Timestamp { fsp: b },
        ) => Some(T::DateTime { fsp: a.max(b) }),
        (T::DateTime { fsp } | T::Timestamp { fsp }, T::Date)
        | (T::Date, T::DateTime { fsp } | T::Timestamp { fsp }) => Some(T::DateTime { fsp }),
        (T::Time { fsp: a }, T::Time { fsp: b }) => Some(T::Time { fsp: a.max(b) }),
        _ => None,
    }
}

/// The type of a plan's column, if something is known beyond Arrow's.
pub(crate) fn of_column(plan: &LogicalPlan, at: usize) -> Option<ColumnType> {
    match plan {
        LogicalPlan::TableScan(scan) => of_table(scan, at),
        LogicalPlan::Projection(p) => of(p.expr.get(at)?, &[&p.input]),
        LogicalPlan::Aggregate(a) => {
            let groups = a.group_expr.len();
            let expr = match at < groups {
                true => a.group_expr.get(at)?,
                false => a.aggr_expr.get(at - groups)?,
            };
            of(expr, &[&a.input])
        }
        LogicalPlan::Window(w) => {
            let own = w.input.schema().fields().len();
            match at < own {
                true => of_column(&w.input, at),
                false => of(w.window_expr.get(at - own)?, &[&w.input]),
            }
        }
        LogicalPlan::Union(u) => {
            let told = u.inputs.iter().filter(|input| !is_null_column(input, at));
            let mut types = told.map(|input| of_column(input, at));
            let first = types.next()??;
            types.try_fold(first, |all, ty| either(all, ty?))
        }
        plan => {
            let (input, at) = super::meta::input_position(plan, at)?;
            of_column(input, at)
        }
    }
}

fn of_table(scan: &TableScan, at: usize) -> Option<ColumnType> {
    let provider = source_as_provider(&scan.source).ok()?;
    let table = provider.downcast_ref::<CatalogTable>()?;
    let at = scan.projection.as_ref().map_or(Some(at), |p| p.get(at).copied())?;
    let ty = table.table.columns.get(at)?.ty.clone();
    Some(match ty {
        ColumnType::Timestamp { fsp } if table.offset_us != 0 => ColumnType::DateTime { fsp },
        ty => ty,
    })
}

fn found<'a>(column: &Column, inputs: Inputs<'a>) -> Option<(&'a LogicalPlan, usize)> {
    inputs.iter().find_map(|input| Some((*input, input.schema().index_of_column(column).ok()?)))
}

fn arrow_type(expr: &Expr, inputs: Inputs<'_>) -> Option<DataType> {
    match inputs {
        [input] => expr.get_type(input.schema()).ok(),
        _ => {
            let schema = datafusion::logical_expr::utils::merge_schema(inputs);
            expr.get_type(&schema).ok()
        }
    }
}

/// A DECIMAL with fewer digits shown than kept; `None`: all are.
pub(crate) fn shown_decimal(expr: &Expr, inputs: Inputs<'_>) -> Option<ColumnType> {
    let Some(DataType::Decimal128(precision, scale)) = arrow_type(expr, inputs) else {
        return None;
    };
    let kept = u8::try_from(scale).ok()?;
    let shown = shown_scale(expr, inputs)?;
    let dropped = kept.checked_sub(shown).filter(|dropped| *dropped > 0)?;
    let precision = precision.saturating_sub(dropped).max(shown).max(1);
    Some(ColumnType::Decimal { precision, scale: shown })
}

/// Digits after the point that MySQL shows of a number; `None`: it is none that is exact.
fn shown_scale(expr: &Expr, inputs: Inputs<'_>) -> Option<u8> {
    let most = |args: &mut dyn Iterator<Item = &Expr>| {
        let mut most = 0;
        for arg in args.filter(|arg| !is_null(arg)) {
            most = most.max(shown_scale(arg, inputs)?);
        }
        Some(most)
    };
    let more = |scale: u8, by: u8| scale.saturating_add(by).min(SCALE_MAX);
    match expr {
        Expr::Alias(alias) => shown_scale(&alias.expr, inputs),
        Expr::Column(column) => {
            let (input, at) = found(column, inputs)?;
            match of_column(input, at) {
                Some(ColumnType::Decimal { scale, .. }) => Some(scale),
                _ => own_scale(expr, inputs),
            }
        }
        Expr::Negative(inner) => shown_scale(inner, inputs),
        Expr::Cast(cast) => {
            let DataType::Decimal128(_, scale) = cast.field.data_type() else {
                return own_scale(expr, inputs);
            };
            let own = u8::try_from(*scale).ok()?;
            Some(shown_scale(&cast.expr, inputs).map_or(own, |inner| inner.min(own)))
        }
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::Plus | Operator::Minus => {
                most(&mut [&*binary.left, &*binary.right].into_iter())
            }
            Operator::Multiply => {
                let left = shown_scale(&binary.left, inputs)?;
                Some(more(left, shown_scale(&binary.right, inputs)?))
            }
            _ => own_scale(expr, inputs),
        },
        Expr::Case(case) => {
            let branches = case.when_then_expr.iter().map(|(_, then)| &**then);
            most(&mut branches.chain(case.else_expr.as_deref()))
        }
        Expr::ScalarFunction(f) => match f.name() {
            "__divide" => Some(more(shown_scale(f.args.first()?, inputs)?, DIVISION_DIGITS)),
            "abs" => shown_scale(f.args.first()?, inputs),
            "mod" | "coalesce" | "greatest" | "least" => most(&mut f.args.iter()),
            _ => own_scale(expr, inputs),
        },
        Expr::AggregateFunction(f) => of_aggregate(f.func.name(), &f.params.args, expr, inputs),
        Expr::WindowFunction(f) => of_aggregate(f.fun.name(), &f.params.args, expr, inputs),
        Expr::ScalarSubquery(query) => match of_column(&query.subquery, 0) {
            Some(ColumnType::Decimal { scale, .. }) => Some(scale),
            _ => own_scale(expr, inputs),
        },
        _ => own_scale(expr, inputs),
    }
}

fn of_aggregate(name: &str, args: &[Expr], expr: &Expr, inputs: Inputs<'_>) -> Option<u8> {
    match name {
        "sum" | "min" | "max" | "first_value" | "last_value" | "lag" | "lead" | "nth_value" => {
            shown_scale(args.first()?, inputs)
        }
        "avg" => {
            let scale = shown_scale(args.first()?, inputs)?;
            Some(scale.saturating_add(DIVISION_DIGITS).min(SCALE_MAX))
        }
        _ => own_scale(expr, inputs),
    }
}

/// The scale of the expression's Arrow type.
fn own_scale(expr: &Expr, inputs: Inputs<'_>) -> Option<u8> {
    match arrow_type(expr, inputs)? {
        DataType::Decimal128(_, scale) => u8::try_from(scale).ok(),
        ty => super::functions::digits_of(&ty).map(|(_, scale)| scale),
    }
}
