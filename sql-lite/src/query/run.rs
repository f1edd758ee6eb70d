//! Runs a plan and hands its batches out as they are asked for, until its statement is told to end.
//! It must never read ahead of the client by more than the operators' own buffers.

use super::QueryContext;
use super::failure::error;
use crate::convert::datum_at;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::outcome::{ColumnMeta, RowBatch, RowSource, Rows};
use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use damask_types::Datum;
use datafusion::common::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::StreamExt;
use sqlparser::ast;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

/// What the plans of one query run with.
pub(super) struct Runner {
    state: Arc<SessionState>,
    depth_max: u64,
    /// Its memory.
    pub task: Arc<TaskContext>,
    /// Where it runs.
    pub runtime: tokio::runtime::Handle,
    /// Tells it to end.
    pub interrupt: Arc<Interrupt>,
    /// How often its subqueries were run row by row.
    pub runs: Arc<AtomicUsize>,
}

impl Runner {
    /// For one query.
    pub fn new(ctx: &QueryContext<'_>) -> Arc<Runner> {
        Arc::new(Runner {
            state: ctx.services.state.clone(),
            depth_max: ctx.variables.number("cte_max_recursion_depth"),
            task: super::memory::task(ctx),
            runtime: ctx.services.runtime.clone(),
            interrupt: ctx.session.interrupt.clone(),
            runs: Arc::default(),
        })
    }

    /// Optimizes a logical plan into one that runs. What DataFusion cannot make a join of is
    /// evaluated row by row.
    pub async fn physical(
        self: &Arc<Runner>,
        plan: &LogicalPlan,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let planned = match super::nesting::flattened(plan, self.state.as_ref()) {
            Ok(flat) => self.state.create_physical_plan(flat.as_ref().unwrap_or(plan)).await,
            Err(error) => Err(error),
        };
        let plan = match planned {
            Err(error) if !matches!(error.find_root(), DataFusionError::External(_)) => {
                match super::apply::rewrite(plan, self)? {
                    Some(plan) => self.state.create_physical_plan(&plan).await?,
                    None => return Err(error),
                }
            }
            planned => planned?,
        };
        let plan = super::bounds::bounded(plan, self.depth_max)?;
        super::stop::stoppable(plan, &self.interrupt)
    }
}

/// Optimizes a logical plan into one that runs.
pub(super) fn physical(runner: &Arc<Runner>, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    wait(&runner.runtime, &runner.interrupt, runner.physical(plan))?.map_err(error)
}

/// Starts a plan.
pub(super) fn rows(
    ctx: &QueryContext<'_>,
    plan: LogicalPlan,
    columns: Vec<ColumnMeta>,
) -> Result<Rows> {
    let runner = Runner::new(ctx);
    let plan = physical(&runner, &plan)?;
    // Operators start tasks while the stream is made.
    let _entered = ctx.services.runtime.enter();
    let stream = execute_stream(plan, runner.task.clone()).map_err(error)?;
    let (runtime, interrupt) = (ctx.services.runtime.clone(), ctx.session.interrupt.clone());
    let source = Stream { stream: Some(stream), runtime, interrupt };
    Ok(Rows { columns, source: Box::new(source) })
}

/// Waits for a part of a query's work, or for the sign to end it.
pub(super) fn wait<T>(
    runtime: &tokio::runtime::Handle,
    interrupt: &Interrupt,
    work: impl Future<Output = T>,
) -> Result<T> {
    runtime.block_on(async {
        tokio::select! {
            biased;
            stopped = interrupt.raised() => Err(stopped),
            done = work => Ok(done),
        }
    })
}

/// Batches of a running plan.
struct Stream {
    /// `None` after an error: its operators end with it.
    stream: Option<SendableRecordBatchStream>,
    runtime: tokio::runtime::Handle,
    interrupt: Arc<Interrupt>,
}

impl RowSource for Stream {
    fn next(&mut self) -> Result<Option<RowBatch>> {
        // Ends: each turn takes a batch.
        loop {
            let Some(stream) = &mut self.stream else { return Ok(None) };
            let batch = wait(&self.runtime, &self.interrupt, stream.next());
            let batch = batch.and_then(|batch| batch.transpose().map_err(error));
            match batch {
                Ok(None) => return Ok(None),
                Ok(Some(batch)) if batch.num_rows() == 0 => {}
                Ok(Some(batch)) => return Ok(Some(RowBatch::Columns(shown(batch)?))),
                Err(error) => {
                    self.stream = None;
                    return Err(error);
                }
            }
        }
    }
}

/// The batch in types that columns may have.
fn shown(batch: RecordBatch) -> Result<RecordBatch> {
    let as_is = |ty: &DataType| !matches!(ty, DataType::Boolean | DataType::Null);
    if batch.schema().fields().iter().all(|f| as_is(f.data_type())) {
        return Ok(batch);
    }
    let convert = |column: &ArrayRef| match column.data_type() {
        DataType::Boolean => cast(column, &DataType::Int64),
        DataType::Null => Ok(new_null_array(&DataType::Utf8, column.len())),
        _ => Ok(column.clone()),
    };
    let broken = |e: arrow::error::ArrowError| Error::unknown(e.to_string());
    let columns = batch.columns().iter().map(convert).collect::<std::result::Result<Vec<_>, _>>();
    let columns = columns.map_err(broken)?;
    let schema = batch.schema();
    let fields = schema.fields().iter().zip(&columns);
    let fields = fields.map(|(f, c)| Field::new(f.name(), c.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options).map_err(broken)
}

/// Every row as datums of the columns' types.
pub(super) fn collect(rows: &mut Rows) -> Result<Vec<Vec<Datum>>> {
    let mut all = Vec::new();
    while let Some(batch) = rows.source.next()? {
        match batch {
            RowBatch::Datums(rows) => all.extend(rows),
            RowBatch::Columns(batch) => {
                for row in 0..batch.num_rows() {
                    let cells = batch.columns().iter().zip(&rows.columns);
                    let cells = cells.map(|(c, meta)| datum_at(c.as_ref(), row, meta.ty.as_ref()));
                    all.push(cells.collect::<Result<_>>()?);
                }
            }
        }
    }
    Ok(all)
}

/// `SELECT NULL`, to put a projection into.
pub(super) fn empty_query() -> Result<ast::Query> {
    let dialect = sqlparser::dialect::MySqlDialect {};
    let parsed = sqlparser::parser::Parser::new(&dialect).try_with_sql("SELECT NULL");
    let query = parsed.and_then(|mut parser| parser.parse_query());
    query.map(|query| *query).map_err(|e| Error::parse(e.to_string()))
}
