//! Correlated subqueries that cannot be made into joins, evaluated row by row as MySQL does: the
//! columns of the rows around become constants of the subquery, which is then planned and run by
//! itself. It must never run without bound, nor remember without.
//!
//! ```text
//!  Filter x > (SELECT … WHERE b.k < a.k LIMIT 2, 1)        Filter x > __apply(a.k)
//!                                   └ OuterReference              │ one row: a.k = 7
//!                                                                 ▼
//!                                    SELECT … WHERE b.k < 7 LIMIT 2, 1 ─► its own plan ─► value
//! ```
//!
//! A name belongs to the innermost query around that has it: one inside a subquery's own subquery
//! may be a name of the rows around, or of the subquery's rows.

use super::run::{Runner, wait};
use super::subqueries;
use crate::error::Error;
use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::Exists;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Subquery, Volatility,
};
use datafusion::physical_plan::execute_stream;
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Times that the subqueries of one query are run, theirs among them, all in all.
const RUNS_MAX: usize = 1 << 20;
/// Values of one subquery that are remembered, …
const MEMO_MAX: usize = 1 << 14;
/// … and their bytes, with those they were found for.
const MEMO_BYTES_MAX: usize = 16 << 20;

/// What a subquery gave for the values around it, and how many bytes that takes.
#[derive(Default)]
struct Memo {
    values: HashMap<Vec<ScalarValue>, ScalarValue>,
    bytes: usize,
}

impl Memo {
    /// Remembers a value; forgets all of them when there are too many.
    fn keep(&mut self, cells: Vec<ScalarValue>, value: ScalarValue) {
        let bytes: usize = cells.iter().chain([&value]).map(ScalarValue::size).sum();
        if self.values.len() >= MEMO_MAX || self.bytes + bytes > MEMO_BYTES_MAX {
            *self = Memo::default();
        }
        if bytes <= MEMO_BYTES_MAX {
            self.bytes += bytes;
            self.values.insert(cells, value);
        }
    }
}

/// The plan with its correlated subqueries as functions; `None`: it has none.
pub(super) fn rewrite(plan: &LogicalPlan, runner: &Arc<Runner>) -> Result<Option<LogicalPlan>> {
    let changed = node_by_node(plan.clone(), runner, &runner.runs)?;
    Ok(changed.transformed.then_some(changed.data))
}

fn node_by_node(
    plan: LogicalPlan,
    runner: &Arc<Runner>,
    runs: &Arc<AtomicUsize>,
) -> Result<Transformed<LogicalPlan>> {
    plan.transform_up(|plan| node(plan, runner, runs))
}

fn node(
    plan: LogicalPlan,
    runner: &Arc<Runner>,
    runs: &Arc<AtomicUsize>,
) -> Result<Transformed<LogicalPlan>> {
    let schema = scope_of(&plan)?;
    let names = NamePreserver::new(&plan);
    let changed = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let expr = expr.transform_up(|expr| applied(expr, &schema, runner, runs))?;
        Ok(expr.update_data(|expr| name.restore(expr)))
    })?;
    if !changed.transformed {
        return Ok(changed);
    }
    changed.map_data(LogicalPlan::recompute_schema)
}

/// What the expressions of a plan's node may name.
fn scope_of(plan: &LogicalPlan) -> Result<DFSchema> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = plan {
        schema.merge(&DFSchema::try_from_qualified_schema(
            scan.table_name.clone(),
            &scan.source.schema(),
        )?);
    }
    Ok(schema)
}

fn applied(
    expr: Expr,
    schema: &DFSchema,
    runner: &Arc<Runner>,
    runs: &Arc<AtomicUsize>,
) -> Result<Transformed<Expr>> {
    let (kind, query, negated) = match expr {
        Expr::ScalarSubquery(query) => (Kind::Value, query, false),
        Expr::Exists(Exists { subquery, negated }) => (Kind::Exists, subquery, negated),
        Expr::InSubquery(query) => match subqueries::as_exists(&query, schema)? {
            Expr::Exists(Exists { subquery, negated }) if !free(&query.subquery)?.is_empty() => {
                (Kind::Exists, subquery, negated)
            }
            _ => return Ok(Transformed::no(Expr::InSubquery(query))),
        },
        other => return Ok(Transformed::no(other)),
    };
    let columns = free(&query)?;
    if columns.is_empty() {
        // Its own subqueries may name its rows.
        let inner = node_by_node(query.subquery.as_ref().clone(), runner, runs)?;
        let subquery = Subquery { subquery: Arc::new(inner.data), ..query };
        let expr = match kind {
            Kind::Value => Expr::ScalarSubquery(subquery),
            Kind::Exists => Expr::Exists(Exists { subquery, negated }),
        };
        return Ok(Transformed::new_transformed(expr, inner.transformed));
    }
    let ty = match kind {
        Kind::Value => query.subquery.schema().field(0).data_type().clone(),
        Kind::Exists => DataType::Boolean,
    };
    let signature = Signature::any(columns.len(), Volatility::Volatile);
    let args = columns.iter().cloned().map(Expr::Column).collect();
    let apply = Apply {
        kind,
        plan: query.subquery,
        columns,
        ty,
        runner: runner.clone(),
        runs: runs.clone(),
        known: Mutex::default(),
        signature,
    };
    let call = Arc::new(ScalarUDF::new_from_impl(apply)).call(args);
    Ok(Transformed::yes(if negated { Expr::Not(Box::new(call)) } else { call }))
}

fn subquery_of(expr: &mut Expr) -> Option<&mut Subquery> {
    match expr {
        Expr::ScalarSubquery(query) => Some(query),
        Expr::Exists(exists) => Some(&mut exists.subquery),
        Expr::InSubquery(query) => Some(&mut query.subquery),
        Expr::SetComparison(query) => Some(&mut query.subquery),
        _ => None,
    }
}

fn subquery_in(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::ScalarSubquery(query) => Some(query),
        Expr::Exists(exists) => Some(&exists.subquery),
        Expr::InSubquery(query) => Some(&query.subquery),
        Expr::SetComparison(query) => Some(&query.subquery),
        _ => None,
    }
}

/// The columns of the rows around that a subquery names, each once.
fn free(query: &Subquery) -> Result<Vec<Column>> {
    let mut found = Vec::new();
    walk(&query.subquery, &mut found)?;
    Ok(found)
}

fn walk(plan: &LogicalPlan, found: &mut Vec<Column>) -> Result<()> {
    plan.apply(|node| {
        let own = scope_of(node)?;
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::OuterReferenceColumn(_, column) = expr
                    && !found.contains(column)
                {
                    found.push(column.clone());
                }
                if let Some(inner) = subquery_in(expr) {
                    let mut beyond = Vec::new();
                    walk(&inner.subquery, &mut beyond)?;
                    let ours = |column: &Column| own.has_column(column);
                    beyond.retain(|column| !ours(column) && !found.contains(column));
                    found.append(&mut beyond);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

/// The plan with constants in the place of columns of the rows around.
fn substitute(plan: LogicalPlan, values: &[(Column, ScalarValue)]) -> Result<LogicalPlan> {
    let changed = plan.transform_up(|node| {
        let own = scope_of(&node)?;
        let names = NamePreserver::new(&node);
        let changed = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = expr.transform_up(|expr| constant(expr, &own, values))?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })?;
        match changed.transformed {
            true => changed.map_data(LogicalPlan::recompute_schema),
            false => Ok(changed),
        }
    })?;
    Ok(changed.data)
}

fn constant(
    mut expr: Expr,
    own: &DFSchema,
    values: &[(Column, ScalarValue)],
) -> Result<Transformed<Expr>> {
    if let Expr::OuterReferenceColumn(_, column) = &expr {
        let value = values.iter().find(|(name, _)| name == column);
        return Ok(match value {
            Some((_, value)) => Transformed::yes(Expr::Literal(value.clone(), None)),
            None => Transformed::no(expr),
        });
    }
    let Some(query) = subquery_of(&mut expr) else { return Ok(Transformed::no(expr)) };
    // Names that the rows here have too are theirs.
    let beyond: Vec<_> = values.iter().filter(|(name, _)| !own.has_column(name)).cloned().collect();
    let inner = substitute(query.subquery.as_ref().clone(), &beyond)?;
    query.outer_ref_columns = inner.all_out_ref_exprs();
    query.subquery = Arc::new(inner);
    Ok(Transformed::yes(expr))
}

/// What is asked of a subquery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// Its one value; NULL without a row.
    Value,
    /// Has it a row?
    Exists,
}

/// One subquery.
struct Apply {
    kind: Kind,
    plan: Arc<LogicalPlan>,
    /// What the arguments are in it.
    columns: Vec<Column>,
    ty: DataType,
    runner: Arc<Runner>,
    /// Runs of all subqueries of the query so far.
    runs: Arc<AtomicUsize>,
    known: Mutex<Memo>,
    signature: Signature,
}

impl std::fmt::Debug for Apply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Apply({:?})", self.columns)
    }
}

impl PartialEq for Apply {
    fn eq(&self, other: &Apply) -> bool {
        self.kind == other.kind && Arc::ptr_eq(&self.plan, &other.plan)
    }
}

impl Eq for Apply {}

impl Hash for Apply {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.kind, Arc::as_ptr(&self.plan)).hash(state);
    }
}

impl ScalarUDFImpl for Apply {
    fn name(&self) -> &'static str {
        "__apply"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.ty.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.into_iter().map(|arg| arg.into_array(rows));
        let arrays = arrays.collect::<Result<Vec<ArrayRef>>>()?;
        let mut values = Vec::with_capacity(rows);
        for row in 0..rows {
            let cells = arrays.iter().map(|array| ScalarValue::try_from_array(array, row));
            values.push(self.value(cells.collect::<Result<_>>()?)?);
        }
        match values.is_empty() {
            true => Ok(ColumnarValue::Array(arrow::array::new_empty_array(&self.ty))),
            false => Ok(ColumnarValue::Array(ScalarValue::iter_to_array(values)?)),
        }
    }
}

impl Apply {
    fn value(&self, cells: Vec<ScalarValue>) -> Result<ScalarValue> {
        if let Some(known) = self.known.lock().values.get(&cells) {
            return Ok(known.clone());
        }
        if self.runs.fetch_add(1, Ordering::Relaxed) >= RUNS_MAX {
            let message = format!(
                "The query would run its correlated subqueries more than {RUNS_MAX} times; make \
                 them joins"
            );
            return Err(super::functions::failure(1104, message));
        }
        let values: Vec<_> = self.columns.iter().cloned().zip(cells.iter().cloned()).collect();
        let mut plan = substitute(self.plan.as_ref().clone(), &values)?;
        if self.kind == Kind::Exists {
            plan = LogicalPlanBuilder::from(plan).limit(0, Some(1))?.build()?;
        }
        let runner = &self.runner;
        let run = || wait(&runner.runtime, &runner.interrupt, self.run(&plan));
        let external = |e: Error| DataFusionError::External(Box::new(e));
        let value = tokio::task::block_in_place(run).map_err(external)??;
        self.known.lock().keep(cells, value.clone());
        Ok(value)
    }

    async fn run(&self, plan: &LogicalPlan) -> Result<ScalarValue> {
        let plan = self.runner.physical(plan).await?;
        let mut batches = execute_stream(plan, self.runner.task.clone())?;
        let mut found: Option<ScalarValue> = None;
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            if self.kind == Kind::Exists {
                return Ok(ScalarValue::Boolean(Some(true)));
            }
            if found.is_some() || batch.num_rows() > 1 {
                return Err(super::functions::failure(1242, "Subquery returns more than 1 row"));
            }
            found = Some(ScalarValue::try_from_array(batch.column(0), 0)?.cast_to(&self.ty)?);
        }
        match (self.kind, found) {
            (Kind::Exists, _) => Ok(ScalarValue::Boolean(Some(false))),
            (Kind::Value, Some(value)) => Ok(value),
            (Kind::Value, None) => ScalarValue::try_from(&self.ty),
        }
    }
}
