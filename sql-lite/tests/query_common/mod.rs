//! A query engine over in-memory doubles, and rows as text. Nothing here decides what is right.

#![allow(dead_code, reason = "each test binary uses its part")]

use damask_coprocessor::testing::{
    COLUMN_STORE, Fixed, FixedRegions, MemoryEndpoint, ROW_STORE, Resolved,
};
use damask_coprocessor::{Dispatch, Endpoint, RowEndpoint};
use damask_env::RealClock;
use damask_kv::MemoryEngine;
use damask_sql_lite::catalog::CatalogView;
use damask_sql_lite::outcome::{RowBatch, Rows};
use damask_sql_lite::query::{self, NoSystemTables, QueryContext, QueryServices};
use damask_sql_lite::query::{TableFacts, TableSize};
use damask_sql_lite::session::SessionFacts;
use damask_sql_lite::statement::{Hints, Stmt, parse};
use damask_sql_lite::variables::{Globals, Variables};
use damask_sql_lite::{Error, convert};
use damask_txn::{LocalCluster, Replica, Transaction};
use damask_types::{ColumnSchema, ColumnType, Datum, TableSchema, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;

/// 2020-01-02 03:04:05.678901.
pub const NOW_US: i64 = 1_577_934_245_678_901;

/// Stack of threads that plan or run statements, in builds without optimization.
pub const STACK_BYTES: usize = 8 * damask_sql_lite::statement::STACK_BYTES;

/// Table sizes as told.
pub struct Facts(pub HashMap<String, f64>);

impl TableFacts for Facts {
    fn size(&self, table: &TableSchema) -> TableSize {
        TableSize { rows: self.0.get(&table.name).copied().unwrap_or(10.0), regions: 1.0 }
    }

    fn columns_ready(&self, table: &TableSchema) -> bool {
        table.column_replicas > 0
    }

    fn columns_stopped(&self, _: &TableSchema) -> bool {
        false
    }
}

/// Everything that a query needs.
pub struct Engine {
    pub runtime: tokio::runtime::Runtime,
    pub cluster: Arc<LocalCluster>,
    pub services: QueryServices,
    pub catalog: Arc<CatalogView>,
    pub variables: Variables,
    pub facts: SessionFacts,
}

fn runtime() -> tokio::runtime::Runtime {
    let builder = &mut tokio::runtime::Builder::new_multi_thread();
    // Builds without optimization need more stack than a server has.
    builder.worker_threads(2).thread_stack_size(STACK_BYTES).build().expect("a runtime")
}

impl Engine {
    fn new(
        cluster: Arc<LocalCluster>,
        dispatch: Dispatch,
        tables: Vec<TableSchema>,
        sizes: HashMap<String, f64>,
    ) -> Engine {
        let runtime = runtime();
        let services = QueryServices::new(
            Arc::new(cluster.client()),
            Arc::new(dispatch),
            Arc::new(Facts(sizes)),
            runtime.handle().clone(),
            2,
        );
        let facts = SessionFacts {
            user: "root".into(),
            host: "localhost".into(),
            connection_id: 7,
            last_insert_id: 42,
            row_count: -1,
            found_rows: 3,
            now_us: NOW_US,
            user_variables: HashMap::from([
                ("x".to_owned(), Datum::Int(5)),
                ("s".to_owned(), Datum::Text("it's".into())),
            ]),
            ..SessionFacts::default()
        };
        Engine {
            runtime,
            cluster,
            services,
            catalog: Arc::new(CatalogView::new(1, vec!["test".into()], tables)),
            variables: Variables::new(Arc::new(Globals::default())),
            facts,
        }
    }

    /// Over a real row engine without replication: what transactions write is what is read.
    pub fn over_rows(tables: Vec<TableSchema>) -> Engine {
        let engine = Arc::new(MemoryEngine::new());
        let cluster = LocalCluster::new(engine.clone());
        let replica = cluster.replica().clone();
        let read_index = Box::new(move |region, epoch, done| {
            replica.read_index(region, epoch, done);
        });
        let rows: Arc<dyn Endpoint> = Arc::new(RowEndpoint::new(engine, read_index));
        let endpoints = Fixed(HashMap::from([(ROW_STORE, rows)]));
        let dispatch = Dispatch::new(
            cluster.clone(),
            Arc::new(endpoints),
            Arc::new(Resolved::default()),
            Arc::new(RealClock::default()),
        );
        Engine::new(cluster, dispatch, tables, HashMap::new())
    }

    /// Over tables in memory, read as rows and as columns, cut into regions at these keys.
    pub fn over_memory(
        memory: Arc<MemoryEndpoint>,
        tables: Vec<TableSchema>,
        cuts: &[Vec<u8>],
        sizes: HashMap<String, f64>,
    ) -> Engine {
        let cluster = LocalCluster::new(Arc::new(MemoryEngine::new()));
        let endpoints = HashMap::from([
            (ROW_STORE, memory.clone() as Arc<dyn Endpoint>),
            (COLUMN_STORE, memory as Arc<dyn Endpoint>),
        ]);
        let dispatch = Dispatch::new(
            FixedRegions::cut_at(cuts),
            Arc::new(Fixed(endpoints)),
            Arc::new(Resolved::default()),
            Arc::new(RealClock::default()),
        );
        Engine::new(cluster, dispatch, tables, sizes)
    }

    /// Calls `f` with the parsed query and its context.
    pub fn with<T>(
        &self,
        sql: &str,
        txn: Option<&Transaction>,
        f: impl FnOnce(&QueryContext<'_>, &sqlparser::ast::Query) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let parsed = parse(sql, 0, self.variables.sql_mode())?;
        let Stmt::Query(query) = &parsed.stmt else {
            panic!("not a query: {sql}");
        };
        let hints: &Hints = &parsed.hints;
        let read_ts = match txn {
            Some(txn) => txn.start_ts(),
            None => self.services.client.timestamp().unwrap_or(Timestamp::MAX),
        };
        let context = QueryContext {
            catalog: self.catalog.clone(),
            database: Some("test"),
            variables: &self.variables,
            session: &self.facts,
            txn,
            read_ts,
            hints,
            services: &self.services,
            system: &NoSystemTables,
        };
        f(&context, query)
    }

    /// The rows of a query as text, NULL as `NULL`.
    pub fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, Error> {
        self.rows_in(sql, None)
    }

    /// The same in a transaction.
    pub fn rows_in(&self, sql: &str, txn: Option<&Transaction>) -> Result<Vec<Vec<String>>, Error> {
        self.with(sql, txn, |context, query| text(query::select(context, query)?))
    }

    /// The lines of EXPLAIN.
    pub fn explain(&self, sql: &str) -> String {
        let lines =
            self.with(sql, None, |context, query| text(query::explain(context, query, false)?));
        let lines = lines.expect("explains");
        lines.into_iter().map(|l| l.join(" ")).collect::<Vec<_>>().join("\n")
    }
}

/// Runs a script: a case is a query after `> ` and its rows, cells separated by ` | `; `!` and a
/// number stand for an error. How many cases, and those that failed.
pub fn script(engine: &Engine, script: &str) -> (usize, Vec<String>) {
    let mut failed = Vec::new();
    let mut cases = 0;
    let mut lines = script.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(sql) = line.strip_prefix("> ") else { continue };
        let mut want = Vec::new();
        while let Some(row) = lines.next_if(|l| !l.starts_with("> ") && !l.starts_with('#')) {
            if !row.is_empty() {
                want.push(row.to_owned());
            }
        }
        let got = match engine.rows(sql) {
            Ok(rows) => rows.into_iter().map(|row| row.join(" | ")).collect(),
            Err(e) => vec![format!("!{} {}", e.code, e.message)],
        };
        let is_error = want.len() == 1 && want[0].starts_with('!');
        let same = match is_error {
            true => got.len() == 1 && got[0].split(' ').next() == Some(&want[0]),
            false => got == want,
        };
        cases += 1;
        if !same {
            failed.push(format!("> {sql}\n  want {want:?}\n  got  {got:?}"));
        }
    }
    (cases, failed)
}

/// Rows as a client would see them.
pub fn text(mut rows: Rows) -> Result<Vec<Vec<String>>, Error> {
    let types: Vec<_> = rows.columns.iter().map(|c| c.ty.clone()).collect();
    let shown = |datum: &Datum, ty: &Option<ColumnType>| {
        convert::text(datum, ty.as_ref()).unwrap_or_else(|| "NULL".into())
    };
    let mut all = Vec::new();
    while let Some(batch) = rows.source.next()? {
        match batch {
            RowBatch::Datums(rows) => {
                let row = |r: Vec<Datum>| r.iter().zip(&types).map(|(d, t)| shown(d, t)).collect();
                all.extend(rows.into_iter().map(row));
            }
            RowBatch::Columns(batch) => {
                for row in 0..batch.num_rows() {
                    let cells = batch.columns().iter().zip(&types).map(|(column, ty)| {
                        let datum = convert::datum_at(column.as_ref(), row, ty.as_ref())?;
                        Ok(shown(&datum, ty))
                    });
                    all.push(cells.collect::<Result<_, Error>>()?);
                }
            }
        }
    }
    Ok(all)
}

/// A column of the catalog.
pub fn column(id: i64, name: &str, ty: ColumnType, nullable: bool) -> ColumnSchema {
    ColumnSchema {
        id: damask_types::ColumnId(id),
        name: name.into(),
        ty,
        nullable,
        default: None,
        origin_default: None,
        auto_increment: false,
        on_update_now: false,
        comment: String::new(),
    }
}
