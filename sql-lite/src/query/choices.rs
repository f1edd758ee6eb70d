//! The rule that runs before DataFusion's type coercion: choices (CASE) get MySQL's common type,
//! lists and patterns are compared as MySQL does, aggregates of texts add numbers. It must run on
//! plans as the SQL planner made them, before any other rule.

use super::functions::{DATETIME, TIME, call, unified};
use super::operators::{Class, class, in_list};
use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::{AggregateFunction, Case, Cast, Like};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, lit};
use datafusion::optimizer::AnalyzerRule;

/// See the module.
#[derive(Debug)]
pub(crate) struct Choices;

impl AnalyzerRule for Choices {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewrite)?.data)
    }

    fn name(&self) -> &str {
        "mysql_choices"
    }
}

fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(
            scan.table_name.clone(),
            &scan.source.schema(),
        )?);
    }
    let names = NamePreserver::new(&plan);
    let changed = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let expr = expr.transform_up(|expr| one(expr, &schema))?;
        Ok(expr.update_data(|expr| name.restore(expr)))
    })?;
    changed.map_data(|plan| plan.recompute_schema())
}

fn one(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Case(case) => self::case(case, schema),
        Expr::InList(list) => {
            let ty = list.expr.get_type(schema)?;
            let same = |item: &Expr| item.get_type(schema).is_ok_and(|t| t == ty);
            match list.list.iter().all(same) {
                true => Ok(Transformed::no(Expr::InList(list))),
                false => Ok(Transformed::yes(in_list(list, schema)?)),
            }
        }
        Expr::Like(like) => self::like(like, schema),
        Expr::AggregateFunction(f) if matches!(f.func.name(), "sum" | "avg") => {
            aggregate(f, schema)
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Converts an expression to a choice's type.
fn chosen(expr: Expr, from: &DataType, to: &DataType) -> Expr {
    if from == to {
        return expr;
    }
    let native = |expr: Expr| Expr::Cast(Cast::new(Box::new(expr), to.clone()));
    match (class(from), class(to)) {
        (Class::Null, _) => native(expr),
        (_, Class::Text) => call("__cast_char", vec![expr]),
        (_, Class::Binary) => call("__cast_binary", vec![expr]),
        (Class::Text, Class::Double) => call("__cast_double", vec![expr]),
        _ => native(expr),
    }
}

fn case(mut case: Case, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let branches = case.when_then_expr.iter().map(|(_, then)| then);
    let branches = branches.chain(&case.else_expr);
    let types = branches.map(|b| b.get_type(schema)).collect::<Result<Vec<_>>>()?;
    let plain = |ty: &DataType| !matches!(ty, DataType::Timestamp(..) | DataType::Duration(_));
    let to = unified(&types);
    let uniform = types.iter().all(|ty| *ty == to);
    let known = plain(&to) || to == DATETIME || to == TIME;
    if uniform || !known || to == DataType::Null {
        return Ok(Transformed::no(Expr::Case(case)));
    }
    let mut types = types.into_iter();
    for (_, then) in &mut case.when_then_expr {
        let from = types.next().expect("one type for each branch");
        **then = chosen(std::mem::replace(&mut **then, lit(0)), &from, &to);
    }
    if let (Some(other), Some(from)) = (&mut case.else_expr, types.next()) {
        **other = chosen(std::mem::replace(&mut **other, lit(0)), &from, &to);
    }
    Ok(Transformed::yes(Expr::Case(case)))
}

fn like(mut like: Like, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let mut changed = false;
    for side in [&mut like.expr, &mut like.pattern] {
        let ty = side.get_type(schema)?;
        if !matches!(class(&ty), Class::Text | Class::Null) {
            let expr = std::mem::replace(&mut **side, lit(0));
            **side = call("__cast_char", vec![expr]);
            changed = true;
        }
    }
    Ok(Transformed::new_transformed(Expr::Like(like), changed))
}

/// Texts and moments are added as numbers; a distinct whole number as DECIMAL.
fn aggregate(mut f: AggregateFunction, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Some(arg) = f.params.args.first_mut() else {
        return Ok(Transformed::no(Expr::AggregateFunction(f)));
    };
    let ty = arg.get_type(schema)?;
    let take = |arg: &mut Expr| std::mem::replace(arg, lit(0));
    match class(&ty) {
        Class::Text | Class::Binary => *arg = call("__cast_double", vec![take(arg)]),
        Class::Date | Class::DateTime | Class::Time => *arg = call("__number", vec![take(arg)]),
        Class::Int | Class::UInt | Class::Bool if f.params.distinct => {
            let inner = match class(&ty) {
                Class::Bool => Expr::Cast(Cast::new(Box::new(take(arg)), DataType::Int64)),
                _ => take(arg),
            };
            *arg = Expr::Cast(Cast::new(Box::new(inner), DataType::Decimal128(20, 0)));
        }
        _ => return Ok(Transformed::no(Expr::AggregateFunction(f))),
    }
    Ok(Transformed::yes(Expr::AggregateFunction(f)))
}
