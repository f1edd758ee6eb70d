//! A catalog table as DataFusion scans it: columns in the catalog's order, every condition
//! evaluated beside the data, the access path chosen by hint, setting, or cost, and the open
//! transaction's own writes laid over what is stored. It must never hide a row of the open
//! transaction, nor show one that it deleted.
//!
//! ```text
//!  no own writes     RegionScan                        (or IndexLookup over RegionScan[index])
//!  own writes        Union( RegionScan where handle not in own,  own rows where filter )
//! ```

use super::access::{self, Condition, HANDLE, Ranges};
use super::cost::{self, Columns, TableSize};
use super::functions::DATETIME;
use super::rewrite::HANDLE_COLUMN;
use crate::error::{Error, Result};
use crate::statement::hints::Storage;
use crate::variables::ReadEngines;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use damask_coprocessor::{
    Dispatch, IndexLookupExec, PruneBound, RegionScanExec, RowBatchBuilder, ScanColumn, ScanPlan,
    ScanSpec, Source, arrow_type,
};
use damask_txn::Transaction;
use damask_types::key::{decode_row_key, row_range};
use damask_types::schema::IndexState;
use damask_types::{ColumnType, IndexSchema, KeyRange, TableSchema, Timestamp};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{
    Constraint, Constraints, DFSchema, DataFusionError, ScalarValue, Statistics,
};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType, col};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use std::sync::Arc;

/// Rows in a batch of a scan.
const BATCH_ROWS: usize = 8192;
/// Below so many rows one stream reads them all: starting more costs more.
const PARALLEL_ROWS_MIN: f64 = 20_000.0;
/// What one condition that no range shows keeps.
const FILTER_SHARE: f64 = 0.25;

/// What the open transaction changed in one table.
#[derive(Debug)]
pub(crate) struct Overlay {
    /// Handles written or deleted.
    handles: Vec<i64>,
    /// The rows as they now are, every field of the full schema.
    rows: RecordBatch,
}

/// Everything that a scan of a table needs to know.
pub(crate) struct CatalogTable {
    pub table: Arc<TableSchema>,
    /// What a query sees.
    pub schema: SchemaRef,
    /// What a scan works with: the columns, then the hidden handle.
    pub full: SchemaRef,
    pub dispatch: Arc<Dispatch>,
    pub ts: Timestamp,
    pub size: TableSize,
    pub columns: Columns,
    pub hint: Option<Storage>,
    pub engines: ReadEngines,
    pub overlay: Option<Overlay>,
    pub constraints: Constraints,
    /// Microseconds that the session's zone is east of UTC.
    pub offset_us: i64,
}

impl std::fmt::Debug for CatalogTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CatalogTable({})", self.table.name)
    }
}

/// The fields of a table: its columns in lower case, then (if asked for) the hidden handle.
pub(crate) fn schema_of(table: &TableSchema, with_handle: bool) -> SchemaRef {
    let fields = table
        .columns
        .iter()
        .map(|c| Field::new(c.name.to_lowercase(), arrow_type(&c.ty), c.nullable));
    let handle = Field::new(HANDLE_COLUMN, DataType::Int64, false);
    Arc::new(Schema::new(fields.chain(with_handle.then_some(handle)).collect::<Vec<_>>()))
}

/// The primary and unique keys, from which DataFusion knows what GROUP BY determines.
pub(crate) fn constraints_of(table: &TableSchema) -> Constraints {
    let mut all = Vec::new();
    if let Some(at) = table.handle_column.and_then(|id| table.position(id)) {
        all.push(Constraint::PrimaryKey(vec![at]));
    }
    for index in table.indexes.iter().filter(|i| i.primary && i.state == IndexState::Public) {
        let columns = index.columns.iter().map(|id| table.position(*id));
        all.extend(columns.collect::<Option<Vec<_>>>().map(Constraint::PrimaryKey));
    }
    Constraints::new_unverified(all)
}

/// The open transaction's writes in a table; `None` if there are none.
pub(crate) fn overlay(
    txn: &Transaction,
    table: &TableSchema,
    schema: &SchemaRef,
) -> Result<Option<Overlay>> {
    let range = row_range(table.id);
    let mut writes = txn.buffered(&range).peekable();
    if writes.peek().is_none() {
        return Ok(None);
    }
    let corrupt = |e: &dyn std::fmt::Display| Error::unknown(format!("an own row: {e}"));
    let columns = scan_columns(table, schema);
    let mut builder =
        RowBatchBuilder::new(table, &columns, schema.clone(), 64).map_err(|e| corrupt(&e))?;
    let mut handles = Vec::new();
    for (key, value) in writes {
        let Some((_, handle)) = decode_row_key(key) else { continue };
        handles.push(handle);
        if let Some(value) = value {
            builder.push(handle, value).map_err(|e| corrupt(&e))?;
        }
    }
    let rows = builder.finish().map_err(|e| corrupt(&e))?;
    Ok(Some(Overlay { handles, rows }))
}

/// What each field of a provider's schema reads.
fn scan_columns(table: &TableSchema, schema: &Schema) -> Vec<ScanColumn> {
    let handle = schema.fields().len() - table.columns.len();
    let columns = table.columns.iter().map(|c| ScanColumn::Column(c.id));
    columns.chain((0..handle).map(|_| ScanColumn::Handle)).collect()
}

/// A scan of every column and the handle, in the table's order.
pub(crate) fn whole_table(table: &Arc<TableSchema>, source: Source, ts: Timestamp) -> ScanSpec {
    let schema = schema_of(table, true);
    ScanSpec {
        table: table.clone(),
        source,
        columns: scan_columns(table, &schema),
        schema,
        ts,
        prune: Vec::new(),
        limit: None,
        batch_rows: BATCH_ROWS,
        parts: 1,
    }
}

/// Bytes of a value of this type, about.
fn width(ty: &ColumnType) -> f64 {
    match ty {
        ColumnType::Decimal { .. } => 16.0,
        ColumnType::Date => 4.0,
        ColumnType::Char { len } | ColumnType::VarChar { len } => (f64::from(*len) / 2.0).min(40.0),
        ColumnType::Binary { len } | ColumnType::VarBinary { len } => f64::from(*len).min(40.0),
        ColumnType::Text { .. } | ColumnType::Blob { .. } => 60.0,
        _ => 8.0,
    }
}

/// A chosen path.
struct Path<'a> {
    kind: Kind<'a>,
    ranges: Vec<KeyRange>,
    /// Rows read, about.
    rows: f64,
    reason: String,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Row,
    Column,
    Index(&'a IndexSchema, bool),
}

/// One scan while it is planned.
struct Request<'a> {
    /// Fields read, as positions in the full schema.
    needed: Vec<usize>,
    /// Positions in `needed` given out.
    projection: Vec<usize>,
    filters: &'a [Expr],
    fetch: Option<usize>,
    conditions: Vec<Condition>,
    partitions: usize,
}

impl CatalogTable {
    /// With another zone a TIMESTAMP is not stored as it is seen.
    fn shifts(&self, at: usize) -> bool {
        let is_timestamp =
            |c: &damask_types::ColumnSchema| matches!(c.ty, ColumnType::Timestamp { .. });
        self.offset_us != 0 && self.table.columns.get(at).is_some_and(is_timestamp)
    }

    fn estimate(&self, ranges: &Ranges) -> f64 {
        let rows = self.size.rows * ranges.share;
        rows.min(ranges.rows_max.unwrap_or(f64::MAX)).max(0.0)
    }

    /// Chooses among rows, indexes and columns.
    fn choose<'a>(&'a self, request: &Request<'_>) -> Result<Path<'a>> {
        let table = &*self.table;
        let tuple: f64 = table.columns.iter().map(|c| width(&c.ty)).sum::<f64>() + 30.0;
        let rows = access::row_ranges(table, &request.conditions);
        let row_count = self.estimate(&rows);
        let row_cost = cost::row(self.size, tuple, row_count);
        let mut costs = vec![format!("row {row_cost:.0}")];
        let mut best: Option<(f64, Kind<'a>, Vec<KeyRange>, f64)> = None;
        let mut offer = |cost: f64, kind: Kind<'a>, ranges: &Ranges, rows: f64| {
            if best.as_ref().is_none_or(|b| cost < b.0) {
                best = Some((cost, kind, ranges.ranges.clone(), rows));
            }
        };
        let (row_allowed, column_allowed, why) = self.allowed()?;
        if row_allowed {
            offer(row_cost, Kind::Row, &rows, row_count);
            for index in table.indexes.iter().filter(|i| i.state == IndexState::Public) {
                let Some(found) = access::index_ranges(table, index, &request.conditions) else {
                    continue;
                };
                let covers = self.covers(index, request);
                let count = self.estimate(&found);
                let entry = 30.0 + index.columns.len() as f64 * 12.0;
                let cost = cost::index(entry, count, (!covers).then_some(tuple));
                costs.push(format!("index {} {cost:.0}", index.name));
                offer(cost, Kind::Index(index, covers), &found, count);
            }
        }
        let widths: Vec<f64> = request
            .needed
            .iter()
            .map(|i| table.columns.get(*i).map_or(8.0, |c| width(&c.ty)))
            .collect();
        let column_cost = cost::column(self.size, &widths, row_count);
        costs.push(match self.columns {
            Columns::Ready => format!("column {column_cost:.0}"),
            Columns::Building => "column: replica being built".to_owned(),
            Columns::Stopped => "column: replica not reachable".to_owned(),
            Columns::None => "column: no replica".to_owned(),
        });
        if column_allowed {
            offer(column_cost, Kind::Column, &rows, row_count);
        }
        let Some((_, kind, ranges, count)) = best else {
            return Err(Error::unknown(format!("No access path for table '{}'", table.name)));
        };
        let reason = format!("{why}; cost: {}", costs.join(", "));
        Ok(Path { kind, ranges, rows: count, reason })
    }

    /// May rows be read, may columns, and why.
    fn allowed(&self) -> Result<(bool, bool, &'static str)> {
        let is_ready = self.columns == Columns::Ready;
        let ready = is_ready && self.engines.column;
        match self.hint {
            Some(Storage::Column) if ready => return Ok((false, true, "by hint")),
            Some(Storage::Row) if self.engines.row => return Ok((true, false, "by hint")),
            _ => {}
        }
        let why = if self.hint.is_some() { "hint ignored: not available" } else { "by cost" };
        match (self.engines.row, ready) {
            (true, true) => Ok((true, true, why)),
            (true, false) => Ok((true, false, if is_ready { "by setting" } else { why })),
            (false, true) => Ok((false, true, "by setting")),
            (false, false) => Err(Error {
                code: 1815,
                state: "HY000",
                message: format!(
                    "Internal : No access path for table '{}' is found with \
                     'damask_isolation_read_engines' = 'column': {}",
                    self.table.name,
                    match self.columns {
                        Columns::None => "it has no column replica",
                        Columns::Stopped => {
                            "its column store is not reachable; rows can be read with \
                             'row' among the engines"
                        }
                        _ => "its column replica is still being built, try again later",
                    }
                ),
            }),
        }
    }

    /// Does the index hold every column that is read?
    fn covers(&self, index: &IndexSchema, request: &Request<'_>) -> bool {
        let mut columns = request.needed.iter().filter_map(|i| self.table.columns.get(*i));
        columns.all(|c| index.columns.contains(&c.id) || self.table.handle_column == Some(c.id))
    }

    fn prune(&self, request: &Request<'_>) -> Vec<PruneBound> {
        let conditions = request.conditions.iter().filter(|c| c.column != HANDLE);
        let bounds = conditions.filter_map(|condition| {
            let at = self.table.position(condition.column)?;
            let column = request.needed.iter().position(|i| *i == at)?;
            let (min, max) = condition.bounds();
            (!self.shifts(at)).then_some(PruneBound { column, min, max })
        });
        bounds.collect()
    }

    fn spec(
        &self,
        source: Source,
        fields: &[usize],
        request: &Request<'_>,
        units: usize,
    ) -> datafusion::common::Result<ScanSpec> {
        let columns = scan_columns(&self.table, &self.full);
        let wide = request.partitions > 1;
        Ok(ScanSpec {
            table: self.table.clone(),
            source,
            columns: fields.iter().map(|i| columns[*i]).collect(),
            schema: Arc::new(self.full.project(fields)?),
            ts: self.ts,
            prune: if source == Source::Columns { self.prune(request) } else { Vec::new() },
            limit: if request.filters.is_empty() { request.fetch } else { None },
            batch_rows: BATCH_ROWS,
            // About two parts for each core.
            parts: if wide { (2 * request.partitions).div_ceil(units.max(1)) } else { 1 },
        })
    }

    fn filter(
        &self,
        state: &dyn Session,
        schema: &SchemaRef,
        filters: &[Expr],
    ) -> datafusion::common::Result<Option<Arc<dyn PhysicalExpr>>> {
        let Some(all) = conjunction(filters.iter().map(|f| unqualified(f.clone()))) else {
            return Ok(None);
        };
        let schema = DFSchema::try_from(schema.clone())?;
        Ok(Some(state.create_physical_expr(all, &schema)?))
    }

    fn statistics_of(&self, request: &Request<'_>, rows: f64, schema: &Schema) -> Statistics {
        // What ranges show is in `rows`; the other conditions each keep a share.
        let hidden = request.filters.len().saturating_sub(request.conditions.len());
        let kept = rows * FILTER_SHARE.powi(hidden.min(3) as i32);
        let mut statistics = Statistics::new_unknown(schema);
        let kept = kept.min(request.fetch.map_or(f64::MAX, |n| n as f64));
        statistics.num_rows = Precision::Inexact(kept.max(1.0) as usize);
        let bytes = kept * 12.0 * schema.fields().len() as f64;
        statistics.total_byte_size = Precision::Inexact(bytes as usize);
        statistics
    }

    /// The plan of one path, without own writes.
    fn plan(
        &self,
        state: &dyn Session,
        path: &Path<'_>,
        mut request: Request<'_>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        if path.rows < PARALLEL_ROWS_MIN {
            request.partitions = 1;
        }
        let out: Vec<usize> = request.projection.iter().map(|i| request.needed[*i]).collect();
        let schema = self.full.project(&out)?;
        if path.ranges.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(schema))));
        }
        let units = self.dispatch.units(&path.ranges).map_or(1, |units| units.len());
        let source = match path.kind {
            Kind::Row | Kind::Index(_, false) => Source::Rows,
            Kind::Column => Source::Columns,
            Kind::Index(index, true) => Source::Index(index.id),
        };
        let spec = Arc::new(self.spec(source, &request.needed, &request, units)?);
        let plan = ScanPlan {
            dispatch: self.dispatch.clone(),
            filter: self.filter(state, &spec.schema, request.filters)?,
            ranges: path.ranges.clone(),
            projection: Some(request.projection.clone()),
            fetch: request.fetch,
            statistics: self.statistics_of(&request, path.rows, &schema),
            reason: path.reason.clone(),
            spec,
        };
        let Kind::Index(index, false) = path.kind else {
            return Ok(Arc::new(RegionScanExec::new(plan, request.partitions)?));
        };
        let handle = Field::new(HANDLE_COLUMN, DataType::Int64, false);
        let entries = ScanSpec {
            source: Source::Index(index.id),
            columns: vec![ScanColumn::Handle],
            schema: Arc::new(Schema::new(vec![handle])),
            prune: Vec::new(),
            limit: plan.spec.limit,
            batch_rows: BATCH_ROWS.min(request.fetch.unwrap_or(BATCH_ROWS)).max(64),
            ..(*plan.spec).clone()
        };
        let entries = ScanPlan {
            spec: Arc::new(entries),
            filter: None,
            projection: None,
            fetch: plan.spec.limit,
            ..plan.clone()
        };
        let input = Arc::new(RegionScanExec::new(entries, request.partitions)?);
        Ok(Arc::new(IndexLookupExec::new(input, plan)?))
    }

    /// Own rows that pass the filters.
    fn own_rows(
        &self,
        state: &dyn Session,
        overlay: &Overlay,
        out: &[usize],
        filters: &[Expr],
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let mut rows = overlay.rows.clone();
        if let Some(filter) = self.filter(state, &self.full, filters)? {
            let mask = filter.evaluate(&rows)?.into_array(rows.num_rows())?;
            let mask = datafusion::common::cast::as_boolean_array(&mask)?;
            rows = arrow::compute::filter_record_batch(&rows, mask)?;
        }
        let rows = rows.project(out)?;
        let schema = rows.schema();
        Ok(MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None)?)
    }
}

/// Columns by name alone: a scan has one table.
fn unqualified(expr: Expr) -> Expr {
    let changed = expr.transform(|expr| {
        Ok(match expr {
            Expr::Column(c) if c.relation.is_some() => {
                datafusion::common::tree_node::Transformed::yes(Expr::Column(
                    datafusion::common::Column::new_unqualified(c.name),
                ))
            }
            other => datafusion::common::tree_node::Transformed::no(other),
        })
    });
    changed.expect("the closure never fails").data
}

fn has_subquery(expr: &Expr) -> bool {
    let subquery = |e: &Expr| {
        Ok(matches!(
            e,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::OuterReferenceColumn(..)
        ))
    };
    expr.exists(subquery).unwrap_or(true)
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[async_trait::async_trait]
impl TableProvider for CatalogTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.constraints)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::common::Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| {
            let names = filter.column_refs();
            let shifted =
                names.iter().any(|c| self.full.index_of(&c.name).is_ok_and(|at| self.shifts(at)));
            match shifted || has_subquery(filter) || filter.is_volatile() {
                true => TableProviderFilterPushDown::Unsupported,
                false => TableProviderFilterPushDown::Exact,
            }
        };
        Ok(filters.iter().map(support).collect())
    }

    fn statistics(&self) -> Option<Statistics> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = Precision::Inexact(self.size.rows as usize);
        Some(statistics)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let out = projection.unwrap_or(&all);
        let mut own_filters = filters.to_vec();
        let hidden = self.overlay.as_ref().map(|overlay| not_own(&self.table, overlay));
        own_filters.extend(hidden.clone());
        let mut needed = out.clone();
        for filter in &own_filters {
            for column in filter.column_refs() {
                let at = self.full.index_of(&column.name)?;
                if !needed.contains(&at) {
                    needed.push(at);
                }
            }
        }
        let request = Request {
            projection: (0..out.len()).collect(),
            needed,
            filters: &own_filters,
            fetch: limit,
            conditions: access::conditions(&self.table, filters),
            partitions: state.config().target_partitions(),
        };
        let path = self.choose(&request).map_err(external)?;
        let mut plan = self.plan(state, &path, request)?;
        if let Some(overlay) = &self.overlay {
            let own = self.own_rows(state, overlay, out, filters)?;
            plan = UnionExec::try_new(vec![plan, own])?;
        }
        if out.iter().any(|at| self.shifts(*at)) {
            plan = shifted(self, plan, out)?;
        }
        Ok(plan)
    }
}

/// Handles that the transaction has not written.
fn not_own(table: &TableSchema, overlay: &Overlay) -> Expr {
    let column = table.handle_column.and_then(|id| table.column_by_id(id));
    let (name, unsigned) = match column {
        Some(c) => (c.name.to_lowercase(), c.ty.is_unsigned()),
        None => (HANDLE_COLUMN.to_owned(), false),
    };
    let literal = |handle: &i64| match unsigned {
        true => Expr::Literal(ScalarValue::UInt64(Some(*handle as u64)), None),
        false => Expr::Literal(ScalarValue::Int64(Some(*handle)), None),
    };
    let list = overlay.handles.iter().map(literal).collect();
    let column = Box::new(col(datafusion::common::Column::new_unqualified(name)));
    Expr::InList(InList { expr: column, list, negated: true })
}

/// TIMESTAMP columns in the session's zone.
fn shifted(
    table: &CatalogTable,
    plan: Arc<dyn ExecutionPlan>,
    out: &[usize],
) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
    use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal};
    use datafusion::physical_plan::projection::ProjectionExec;
    let schema = plan.schema();
    let offset = ScalarValue::DurationMicrosecond(Some(table.offset_us));
    let exprs = out.iter().enumerate().map(|(i, at)| {
        let name = schema.field(i).name().clone();
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&name, i));
        let expr = match table.shifts(*at) {
            true => {
                let offset = Arc::new(Literal::new(offset.clone()));
                let sum = BinaryExpr::new(column, datafusion::logical_expr::Operator::Plus, offset);
                Arc::new(CastExpr::new(Arc::new(sum), DATETIME, None))
            }
            false => column,
        };
        (expr, name)
    });
    let exprs: Vec<(Arc<dyn PhysicalExpr>, String)> = exprs.collect();
    Ok(Arc::new(ProjectionExec::try_new(exprs, plan)?))
}
