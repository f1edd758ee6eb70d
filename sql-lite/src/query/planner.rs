//! From a rewritten query to plans: where names of tables and functions lead, and the DataFusion
//! state that is built once. It must never plan a change of data.

use super::cost::Columns;
use super::rewrite::Found;
use super::table::{CatalogTable, constraints_of, overlay, schema_of};
use super::{QueryContext, aggregates, functions, operators::Operators};
use crate::catalog::is_system;
use crate::error::{Error, Result};
use crate::outcome::ColumnMeta;
use crate::session::Level;
use crate::statement::Storage;
use crate::variables::ReadEngines;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use damask_coprocessor::{ColumnBuilder, CutFragments, arrow_type};
use damask_types::{Datum, TableSchema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, TableReference};
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::functions_aggregate::planner::AggregateFunctionPlanner;
use datafusion::functions_window::planner::WindowFunctionPlanner;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::{
    AggregateUDF, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF,
};
use datafusion::prelude::SessionConfig;
use datafusion::sql::planner::{NullOrdering, ParserOptions, SqlToRel};
use sqlparser::ast;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The state that plans and runs queries; cheap to copy, for it holds no functions.
pub(crate) fn state(target_partitions: usize) -> SessionState {
    let mut config = SessionConfig::new()
        .with_target_partitions(target_partitions.max(1))
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(false);
    let options = config.options_mut();
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.default_null_ordering = "nulls_min".to_owned();
    options.optimizer.max_passes = 2;
    // Scans make as many streams as their rows are worth; more would only move rows about.
    options.optimizer.enable_round_robin_repartition = false;
    // DataFusion 54.1 filters a scan by the bound of one aggregate where others need the rows:
    // `SELECT max(d + 1), min(id)` lost some.
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    options.explain.show_statistics = false;
    SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(super::memory::surroundings())
        .with_optimizer_rules(super::conditions::rules())
        .with_physical_optimizer_rules(super::pushdown::rules())
        .with_physical_optimizer_rule(Arc::new(CutFragments))
        .build()
}

static WINDOWS: LazyLock<HashMap<String, Arc<WindowUDF>>> = LazyLock::new(|| {
    let all = datafusion::functions_window::all_default_window_functions();
    all.into_iter().map(|f| (f.name().to_owned(), f)).collect()
});

static PLANNERS: LazyLock<Vec<Arc<dyn ExprPlanner>>> = LazyLock::new(|| {
    vec![Arc::new(Operators), Arc::new(AggregateFunctionPlanner), Arc::new(WindowFunctionPlanner)]
});

/// Looks at columns that are to be read and not there yet, at most: 3 s.
const COLUMN_LOOKS: u32 = 120;
/// Between two of them.
const COLUMN_PAUSE: Duration = Duration::from_millis(25);

/// Can a table be read where a hint says?
fn may_obey(hint: Storage, engines: ReadEngines, columns: Columns) -> bool {
    match hint {
        Storage::Row => engines.row,
        Storage::Column => engines.column && columns == Columns::Ready,
    }
}

/// Resolves the names of one query.
pub(crate) struct Names<'a> {
    context: &'a QueryContext<'a>,
    found: &'a Found,
    options: Arc<ConfigOptions>,
    /// Each table once, so that its own writes are decoded once.
    tables: RefCell<HashMap<(String, String), Arc<dyn TableSource>>>,
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl<'a> Names<'a> {
    pub fn new(context: &'a QueryContext<'a>, found: &'a Found) -> Names<'a> {
        let options = context.services.state.config_options().clone();
        Names { context, found, options, tables: RefCell::default() }
    }

    fn table(&self, reference: &TableReference) -> Result<Arc<dyn TableSource>> {
        let database = reference.schema().or(self.context.database);
        let Some(database) = database else {
            return Err(Error::no_database("No database selected"));
        };
        let name = reference.table();
        let key = (database.to_lowercase(), name.to_lowercase());
        if let Some(source) = self.tables.borrow().get(&key) {
            return Ok(source.clone());
        }
        let source = self.find(database, name)?;
        self.tables.borrow_mut().insert(key, source.clone());
        Ok(source)
    }

    fn find(&self, database: &str, name: &str) -> Result<Arc<dyn TableSource>> {
        let context = self.context;
        let missing = || Error::no_such_table(format!("Table '{database}.{name}' doesn't exist"));
        if is_system(database) {
            let (columns, rows) = context.system.table(database, name).ok_or_else(missing)?;
            return Ok(provider_as_source(Arc::new(memory_table(&columns, rows)?)));
        }
        if !context.catalog.has_database(database) {
            return Err(Error::unknown_database(format!("Unknown database '{database}'")));
        }
        let table = context.catalog.table(database, name).ok_or_else(missing)?;
        let full = schema_of(&table, true);
        let own = match context.txn {
            Some(txn) => overlay(txn, &table, &full)?,
            None => None,
        };
        let hinted = |name: &str| context.hints.storage_of(name);
        let aliases = self.found.aliases.iter().filter(|(t, _)| *t == name.to_lowercase());
        let hint = aliases.filter_map(|(_, alias)| hinted(alias)).next().or_else(|| hinted(name));
        let hint = hint.or_else(|| hinted(&format!("{}.{name}", table.database)));
        let facts = &context.services.facts;
        let engines = context.variables.read_engines();
        let columns = self.columns(&table)?;
        if hint.is_some_and(|hint| !may_obey(hint, engines, columns)) {
            self.warn_of_hint(&table, hint, engines);
        }
        let provider = CatalogTable {
            constraints: constraints_of(&table),
            size: facts.size(&table),
            columns,
            dispatch: context.services.dispatch.clone(),
            ts: context.read_ts,
            hint,
            engines,
            overlay: own,
            offset_us: context.variables.time_zone_offset_us(),
            schema: if self.found.handle { full.clone() } else { schema_of(&table, false) },
            full,
            table,
        };
        Ok(provider_as_source(Arc::new(provider)))
    }

    /// How the table's columns are. Where nothing else may be read they are waited for, a while:
    /// after a restart they are soon there.
    fn columns(&self, table: &TableSchema) -> Result<Columns> {
        let (context, facts) = (self.context, &self.context.services.facts);
        if table.column_replicas == 0 {
            return Ok(Columns::None);
        }
        let engines = context.variables.read_engines();
        let mut left = if engines.row || !engines.column { 0 } else { COLUMN_LOOKS };
        // Ends: at most COLUMN_LOOKS turns after the first.
        loop {
            match () {
                () if facts.columns_ready(table) => return Ok(Columns::Ready),
                () if left > 0 => left -= 1,
                () if facts.columns_stopped(table) => return Ok(Columns::Stopped),
                () => return Ok(Columns::Building),
            }
            context.session.interrupt.pause(COLUMN_PAUSE)?;
        }
    }

    /// 1815 for hints of tables that the query does not name (TiDB's text).
    pub fn warn_of_unknown_hints(&self) {
        let tables = self.tables.borrow();
        let known = |name: &str| {
            let name = name.to_lowercase();
            self.found.aliases.iter().any(|(_, alias)| alias.to_lowercase() == name)
                || tables
                    .keys()
                    .any(|(db, table)| *table == name || format!("{db}.{table}") == name)
        };
        for (name, _) in self.context.hints.storage.iter().filter(|(name, _)| !known(name)) {
            let message = format!(
                "There are no matching table names for ({name}) in optimizer hint /*+ \
                 READ_FROM_STORAGE */. Maybe you can use the table alias name"
            );
            self.context.session.notes.push_once(Level::Warning, 1815, &message);
        }
    }

    /// 1815 for a hint that cannot be obeyed (TiDB's text).
    fn warn_of_hint(&self, table: &TableSchema, hint: Option<Storage>, engines: ReadEngines) {
        let kind = if hint == Some(Storage::Column) { "column" } else { "row" };
        let named = match (engines.row, engines.column) {
            (true, true) => "row,column",
            (true, false) => "row",
            _ => "column",
        };
        let message = format!(
            "No available path for table '{}.{}' with the store type {kind} of the hint /*+ \
             read_from_storage */, please check the status of the table replica and variable \
             value of damask_isolation_read_engines({named})",
            table.database, table.name
        );
        self.context.session.notes.push_once(Level::Warning, 1815, &message);
    }

    /// Plans a query that was rewritten; `written` is it before that.
    pub fn plan(&self, query: ast::Query, written: &ast::Query) -> Result<LogicalPlan> {
        let planner = SqlToRel::new_with_options(self, parser_options());
        let plan = planner.sql_statement_to_plan(ast::Statement::Query(Box::new(query)));
        plan.map_err(|e| super::failure::planning(self.context, written, e))
    }
}

fn parser_options() -> ParserOptions {
    ParserOptions {
        parse_float_as_decimal: true,
        enable_ident_normalization: true,
        support_varchar_with_length: true,
        enable_options_value_normalization: false,
        collect_spans: false,
        map_string_types_to_utf8view: false,
        default_null_ordering: NullOrdering::NullsMin,
    }
}

impl ContextProvider for Names<'_> {
    fn get_table_source(
        &self,
        name: TableReference,
    ) -> datafusion::common::Result<Arc<dyn TableSource>> {
        self.table(&name).map_err(external)
    }

    fn create_cte_work_table(
        &self,
        name: &str,
        schema: SchemaRef,
    ) -> datafusion::common::Result<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &PLANNERS
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        let session = self.context.session;
        match name {
            "sleep" => Some(functions::sleep(session.interrupt.clone())),
            functions::DIVISOR => Some(functions::divisor(session.notes.clone())),
            name => functions::chance(name)
                .or_else(|| functions::named(name, session))
                .or_else(|| functions::ALL.get(name).cloned()),
        }
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        aggregates::ALL.get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        WINDOWS.get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        functions::ALL.keys().map(|name| (*name).to_owned()).collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        aggregates::ALL.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        WINDOWS.keys().cloned().collect()
    }
}

/// A system table's rows as a table.
fn memory_table(columns: &[ColumnMeta], rows: Vec<Vec<Datum>>) -> Result<MemTable> {
    let broken = |e: &dyn std::fmt::Display| Error::unknown(format!("a system table: {e}"));
    let ty = |c: &ColumnMeta| c.ty.as_ref().map_or(DataType::Utf8, arrow_type);
    let fields = columns.iter().map(|c| Field::new(c.name.to_lowercase(), ty(c), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let mut arrays = Vec::with_capacity(columns.len());
    for (i, column) in columns.iter().enumerate() {
        let ty = ty(column);
        let mut builder = ColumnBuilder::new(&ty, rows.len()).map_err(|e| broken(&e))?;
        for row in &rows {
            let cell = crate::convert::Cell::of(row.get(i).unwrap_or(&Datum::Null));
            let datum = functions::converted(cell, &ty);
            builder.push_datum(&datum).map_err(|e| broken(&e))?;
        }
        arrays.push(builder.finish());
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let batch = RecordBatch::try_new_with_options(schema.clone(), arrays, &options);
    let batch = batch.map_err(|e| broken(&e))?;
    MemTable::try_new(schema, vec![vec![batch]]).map_err(|e| broken(&e))
}
