//! Subqueries that DataFusion does not plan, or not as SQL's logic of three values has them, by
//! those that it does. It must never lose an unknown (NULL) where it differs from false.
//!
//! ```text
//!  as a condition
//!    x IN (S)         as it is: unknown counts as false
//!    x NOT IN (S)     NOT EXISTS (S where y = x) AND no NULL in S AND (x not NULL OR S empty)
//!  as a value
//!    x IN (S)         CASE WHEN S has x THEN 1 WHEN S has a NULL, or x is one and S has rows
//!                     THEN NULL ELSE 0 END
//!    x > ALL (S), …   the same with the least and the greatest of S
//!  (S … ORDER BY o LIMIT 1), correlated      first_value(… ORDER BY o) over S
//! ```

use super::functions::call;
use super::operators::{Operand, compare};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue};
use datafusion::functions_aggregate::expr_fn::{count, first_value, max, min};
use datafusion::logical_expr::expr::{BinaryExpr, Case, Exists, InSubquery, SetComparison};
use datafusion::logical_expr::expr::{SetQuantifier, Sort};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::{FetchType, SkipType};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, Projection,
    Subquery, lit,
};
use std::sync::Arc;

/// Rewrites every subquery of a plan whose types are known.
pub(crate) fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(node)?.data)
}

fn node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut any = false;
    plan.apply_expressions(|expr| {
        any = any || expr.exists(|e| Ok(is_subquery(e)))?;
        Ok(if any { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if !any {
        return Ok(Transformed::no(plan));
    }
    let schema = merge_schema(&plan.inputs());
    let filter = matches!(plan, LogicalPlan::Filter(_));
    let names = NamePreserver::new(&plan);
    let changed = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let expr = if filter { condition(expr, &schema)? } else { value(expr, &schema)? };
        Ok(expr.update_data(|expr| name.restore(expr)))
    })?;
    changed.map_data(|plan| match plan.recompute_schema()? {
        LogicalPlan::Aggregate(aggregate) => below(aggregate),
        plan => Ok(plan),
    })
}

/// Subqueries are planned in projections and filters: those of an aggregate move below it.
fn below(aggregate: Aggregate) -> Result<LogicalPlan> {
    let mut columns: Vec<Expr> =
        aggregate.input.schema().columns().into_iter().map(Expr::Column).collect();
    let own = columns.len();
    let plan = LogicalPlan::Aggregate(aggregate);
    let names = NamePreserver::new(&plan);
    let mut moved = |expr: Expr| -> Result<Transformed<Expr>> {
        let is_argument = !expr.exists(|e| Ok(matches!(e, Expr::AggregateFunction(_))))?;
        if !is_argument || !expr.exists(|e| Ok(is_subquery(e)))? {
            return Ok(Transformed::no(expr));
        }
        let name = format!("__subquery_{}", columns.len());
        columns.push(expr.alias(&name));
        let column = Expr::Column(Column::new_unqualified(name));
        Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
    };
    let plan = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let expr = expr.transform_down(&mut moved)?;
        Ok(expr.update_data(|expr| name.restore(expr)))
    })?;
    let LogicalPlan::Aggregate(aggregate) = plan.data else { return Ok(plan.data) };
    if columns.len() == own {
        return Ok(LogicalPlan::Aggregate(aggregate));
    }
    let input = LogicalPlan::Projection(Projection::try_new(columns, aggregate.input)?);
    let whole = Aggregate::try_new(Arc::new(input), aggregate.group_expr, aggregate.aggr_expr)?;
    Ok(LogicalPlan::Aggregate(whole))
}

fn is_subquery(expr: &Expr) -> bool {
    match expr {
        Expr::InSubquery(_) | Expr::SetComparison(_) | Expr::ScalarSubquery(_) => true,
        Expr::Exists(exists) => limits_rows(&exists.subquery),
        _ => false,
    }
}

/// Has it a LIMIT that decides whether there is a row? DataFusion lets one go where it makes a join
/// of a correlated EXISTS.
fn limits_rows(query: &Subquery) -> bool {
    let mut plan = query.subquery.as_ref();
    if let LogicalPlan::Limit(limit) = plan
        && matches!(limit.get_skip_type(), Ok(SkipType::Literal(0)))
        && matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(1..) | None)))
    {
        plan = &limit.input;
    }
    !plan.all_out_ref_exprs().is_empty()
        && plan.exists(|plan| Ok(matches!(plan, LogicalPlan::Limit(_)))).unwrap_or(true)
}

/// Where an unknown counts as false.
fn condition(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let left = condition(*left, schema)?.data;
            let right = condition(*right, schema)?.data;
            Ok(Transformed::yes(binary(left, op, right)))
        }
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(query) => {
                let negated = !query.negated;
                membership(InSubquery { negated, ..query }, schema)
            }
            inner => value(Expr::Not(Box::new(inner)), schema),
        },
        Expr::InSubquery(query) => membership(query, schema),
        Expr::SetComparison(query) => match as_membership(query) {
            Ok(query) => membership(query, schema),
            Err(query) => value(Expr::SetComparison(query), schema),
        },
        other => value(other, schema),
    }
}

/// `= ANY` is IN, `<> ALL` is NOT IN.
fn as_membership(query: SetComparison) -> std::result::Result<InSubquery, SetComparison> {
    let negated = match (query.op, &query.quantifier) {
        (Operator::Eq, SetQuantifier::Any) => false,
        (Operator::NotEq, SetQuantifier::All) => true,
        _ => return Err(query),
    };
    Ok(InSubquery { expr: query.expr, subquery: query.subquery, negated })
}

fn membership(query: InSubquery, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let tested = value(*query.expr, schema)?.data;
    let set = Set::new(&query.subquery, &tested, schema)?;
    let same = tested.get_type(schema)? == set.ty();
    if same && (!query.negated || !(set.nullable || set.tested_nullable)) {
        let expr = Box::new(tested);
        return Ok(Transformed::yes(Expr::InSubquery(InSubquery { expr, ..query })));
    }
    let found = value(set.exists(query.negated)?, schema)?.data;
    if !query.negated {
        return Ok(Transformed::yes(found));
    }
    let mut all = found;
    if set.nullable {
        all = binary(all, Operator::And, binary(set.nulls()?, Operator::Eq, lit(0i64)));
    }
    if set.tested_nullable {
        let empty = binary(set.rows()?, Operator::Eq, lit(0i64));
        let known = Expr::IsNotNull(Box::new(tested));
        all = binary(all, Operator::And, binary(known, Operator::Or, empty));
    }
    Ok(Transformed::yes(all))
}

/// `x IN (S)` where it is as good as EXISTS: as a condition.
pub(super) fn as_exists(query: &InSubquery, schema: &DFSchema) -> Result<Expr> {
    Set::new(&query.subquery, &query.expr, schema)?.exists(query.negated)
}

/// Where an unknown is one.
fn value(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| match expr {
        Expr::InSubquery(query) => {
            let set = Set::new(&query.subquery, &query.expr, schema)?;
            set.as_value(query.negated).map(Transformed::yes)
        }
        Expr::SetComparison(query) => match as_membership(query) {
            Ok(query) => {
                let set = Set::new(&query.subquery, &query.expr, schema)?;
                set.as_value(query.negated).map(Transformed::yes)
            }
            Err(query) => {
                let set = Set::new(&query.subquery, &query.expr, schema)?;
                let tested = Operand::new(*query.expr, schema)?;
                set.compared(tested, query.op, &query.quantifier).map(Transformed::yes)
            }
        },
        Expr::Exists(exists) if limits_rows(&exists.subquery) => {
            let op = if exists.negated { Operator::Eq } else { Operator::Gt };
            let rows = LogicalPlanBuilder::from(exists.subquery.subquery.as_ref().clone());
            let rows = rows.aggregate(Vec::<Expr>::new(), vec![count(lit(1i64))])?.build()?;
            let rows = Expr::ScalarSubquery(subquery(rows, &exists.subquery));
            Ok(Transformed::yes(binary(rows, op, lit(0i64))))
        }
        Expr::ScalarSubquery(query) => {
            let query = match first_of(&query)? {
                Some(plan) => subquery(plan, &query),
                None => query,
            };
            maybe_null(query).map(Transformed::yes)
        }
        other => Ok(Transformed::no(other)),
    })
}

/// A subquery's value is NULL if it has no row, whatever its column is.
fn maybe_null(query: Subquery) -> Result<Expr> {
    let rows = query.subquery.schema();
    if rows.fields().len() != 1 || rows.field(0).is_nullable() || has_one_row(&query.subquery) {
        return Ok(Expr::ScalarSubquery(query));
    }
    if !query.outer_ref_columns.is_empty() {
        return Ok(call("__nullable", vec![Expr::ScalarSubquery(query)]));
    }
    let (relation, field) = rows.qualified_field(0);
    let column = Expr::Column(Column::from((relation, field)));
    let column = call("__nullable", vec![column]);
    let column = column.alias_qualified(relation.cloned(), field.name());
    let plan = Projection::try_new(vec![column], query.subquery.clone())?;
    Ok(Expr::ScalarSubquery(subquery(LogicalPlan::Projection(plan), &query)))
}

/// An aggregate without groups.
fn has_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Projection(projection) => has_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_one_row(&alias.input),
        _ => false,
    }
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

fn subquery(plan: LogicalPlan, like: &Subquery) -> Subquery {
    let outer_ref_columns = plan.all_out_ref_exprs();
    Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: like.spans.clone() }
}

/// The rows of a subquery of one column, and what is looked for in them.
struct Set<'a> {
    query: &'a Subquery,
    column: Expr,
    /// What is looked for, as the subquery sees it.
    outer: Operand,
    tested: Expr,
    nullable: bool,
    tested_nullable: bool,
}

impl<'a> Set<'a> {
    fn new(query: &'a Subquery, tested: &Expr, schema: &DFSchema) -> Result<Set<'a>> {
        let rows = query.subquery.schema();
        let outer = tested.clone().transform_up(|expr| match expr {
            Expr::Column(column) => {
                let field = schema.field_from_column(&column)?.clone();
                Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        let ty = tested.get_type(schema)?;
        Ok(Set {
            query,
            column: Expr::Column(Column::from(rows.qualified_field(0))),
            outer: Operand { expr: outer.data, ty },
            tested: tested.clone(),
            nullable: rows.field(0).is_nullable(),
            tested_nullable: tested.nullable(schema)?,
        })
    }

    fn ty(&self) -> arrow::datatypes::DataType {
        self.query.subquery.schema().field(0).data_type().clone()
    }

    fn builder(&self) -> LogicalPlanBuilder {
        LogicalPlanBuilder::from(self.query.subquery.as_ref().clone())
    }

    fn equal(&self) -> Result<Expr> {
        let column = Operand { expr: self.column.clone(), ty: self.ty() };
        let outer = Operand { expr: self.outer.expr.clone(), ty: self.outer.ty.clone() };
        compare(column, Operator::Eq, outer)
    }

    /// Does a row equal what is looked for?
    fn exists(&self, negated: bool) -> Result<Expr> {
        let plan = self.builder().filter(self.equal()?)?.build()?;
        Ok(Expr::Exists(Exists { subquery: subquery(plan, self.query), negated }))
    }

    fn gathered(&self, rows: LogicalPlanBuilder, gather: Expr) -> Result<Expr> {
        let plan = rows.aggregate(Vec::<Expr>::new(), vec![gather])?.build()?;
        Ok(Expr::ScalarSubquery(subquery(plan, self.query)))
    }

    /// How many rows there are.
    fn rows(&self) -> Result<Expr> {
        self.gathered(self.builder(), count(lit(1i64)))
    }

    /// How many of them are NULL.
    fn nulls(&self) -> Result<Expr> {
        let nulls = self.builder().filter(Expr::IsNull(Box::new(self.column.clone())))?;
        self.gathered(nulls, count(lit(1i64)))
    }

    fn equals(&self) -> Result<Expr> {
        self.gathered(self.builder().filter(self.equal()?)?, count(lit(1i64)))
    }

    /// When a comparison with a row may be unknown.
    fn unknown(&self) -> Result<Vec<Expr>> {
        let some = |n: Expr| binary(n, Operator::Gt, lit(0i64));
        let mut when = Vec::new();
        if self.nullable {
            when.push(some(self.nulls()?));
        }
        if self.tested_nullable {
            let null = Expr::IsNull(Box::new(self.tested.clone()));
            when.push(binary(null, Operator::And, some(self.rows()?)));
        }
        Ok(when)
    }

    fn as_value(&self, negated: bool) -> Result<Expr> {
        let found = binary(self.equals()?, Operator::Gt, lit(0i64));
        self.decided(vec![(found, !negated)], negated)
    }

    /// What holds first decides, then what is unknown, else it is so.
    fn decided(&self, first: Vec<(Expr, bool)>, otherwise: bool) -> Result<Expr> {
        let truth = |value| Box::new(lit(value));
        let mut when: Vec<_> =
            first.into_iter().map(|(when, then)| (Box::new(when), truth(then))).collect();
        for unknown in self.unknown()? {
            let null = Expr::Literal(ScalarValue::Boolean(None), None);
            when.push((Box::new(unknown), Box::new(null)));
        }
        let else_expr = Some(truth(otherwise));
        Ok(Expr::Case(Case { expr: None, when_then_expr: when, else_expr }))
    }

    /// `x > ANY (S)` and its like by the ends of S.
    fn compared(&self, tested: Operand, op: Operator, quantifier: &SetQuantifier) -> Result<Expr> {
        let any = matches!(quantifier, SetQuantifier::Any);
        let side = |least: bool, op: Operator| -> Result<Expr> {
            let end = if least { min(self.column.clone()) } else { max(self.column.clone()) };
            let end = Operand { expr: self.gathered(self.builder(), end)?, ty: self.ty() };
            let tested = Operand { expr: tested.expr.clone(), ty: tested.ty.clone() };
            compare(tested, op, end)
        };
        // What one row shows: that ANY is true, that ALL is false.
        let (opposite, low) = match op {
            Operator::Lt => (Operator::GtEq, false),
            Operator::LtEq => (Operator::Gt, false),
            Operator::Gt => (Operator::LtEq, true),
            Operator::GtEq => (Operator::Lt, true),
            // `= ALL`: not the least, or not the greatest; `<> ANY` likewise.
            _ => {
                let differs = binary(
                    side(true, Operator::NotEq)?,
                    Operator::Or,
                    side(false, Operator::NotEq)?,
                );
                return self.decided(vec![(differs, any)], !any);
            }
        };
        match any {
            true => self.decided(vec![(side(low, op)?, true)], false),
            false => self.decided(vec![(side(!low, opposite)?, false)], true),
        }
    }
}

/// A correlated subquery that takes the first of its rows, as an aggregate; `None`: it is no such.
fn first_of(query: &Subquery) -> Result<Option<LogicalPlan>> {
    if query.outer_ref_columns.is_empty() {
        return Ok(None);
    }
    let LogicalPlan::Limit(limit) = query.subquery.as_ref() else { return Ok(None) };
    let (SkipType::Literal(0), FetchType::Literal(Some(1))) =
        (limit.get_skip_type()?, limit.get_fetch_type()?)
    else {
        return Ok(None);
    };
    let (shown, below) = match limit.input.as_ref() {
        LogicalPlan::Projection(p) => match p.expr.as_slice() {
            [expr] => (Some(expr.clone()), p.input.clone()),
            _ => return Ok(None),
        },
        _ => (None, limit.input.clone()),
    };
    let (order, rows): (Vec<Sort>, _) = match below.as_ref() {
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => (sort.expr.clone(), sort.input.clone()),
        _ => (Vec::new(), below),
    };
    if let LogicalPlan::Aggregate(_) | LogicalPlan::Limit(_) = rows.as_ref() {
        return Ok(None);
    }
    let field = query.subquery.schema().qualified_field(0);
    let shown =
        shown.unwrap_or_else(|| Expr::Column(Column::from(rows.schema().qualified_field(0))));
    let (relation, name) = (field.0.cloned(), field.1.name().clone());
    let first = first_value(shown.unalias(), order);
    let gathered = Aggregate::try_new(rows, Vec::new(), vec![first])?;
    let column = Expr::Column(Column::from(gathered.schema.qualified_field(0)));
    let column = column.alias_qualified(relation, name);
    let plan = Projection::try_new(vec![column], Arc::new(LogicalPlan::Aggregate(gathered)))?;
    Ok(Some(LogicalPlan::Projection(plan)))
}
