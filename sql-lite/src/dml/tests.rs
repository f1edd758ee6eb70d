//! Statements over an in-memory cluster with a real query engine: results, messages, counts, and
//! after each change that rows and index entries agree.

mod changes;
mod inserts;
mod loads;
mod points;

use super::rows::Layout;
use super::{Context, Reads, execute, explain, lock_rows, locking, point_select};
use crate::catalog::Catalog;
use crate::convert;
use crate::error::Result;
use crate::outcome::{Done, RowBatch, Rows};
use crate::query::{self, NoSystemTables, QueryContext, QueryServices, TableFacts, TableSize};
use crate::session::{SessionFacts, Warnings};
use crate::statement::{Hints, Stmt, parse};
use crate::variables::{Globals, Variables};
use damask_coprocessor::testing::{Fixed, ROW_STORE, Resolved};
use damask_coprocessor::{Dispatch, Endpoint, RowEndpoint};
use damask_env::RealClock;
use damask_kv::MemoryEngine;
use damask_txn::{Client, LocalCluster, Replica, Transaction};
use damask_types::key::{decode_row_key, row_range, table_prefix};
use damask_types::row::encode_value;
use damask_types::schema::{DefaultValue, IndexState, IntWidth};
use damask_types::{
    ColumnId, ColumnSchema, ColumnType, Datum, IndexId, IndexSchema, KeyRange, TableId, TableSchema,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// 2020-01-02 03:04:05.678901.
const NOW_US: i64 = 1_577_934_245_678_901;

struct Facts;

impl TableFacts for Facts {
    fn size(&self, _: &TableSchema) -> TableSize {
        TableSize { rows: 100.0, regions: 1.0 }
    }

    fn columns_ready(&self, _: &TableSchema) -> bool {
        false
    }

    fn columns_stopped(&self, _: &TableSchema) -> bool {
        false
    }
}

/// One session over a cluster of its own.
struct Server {
    client: Client,
    catalog: Arc<Catalog>,
    services: QueryServices,
    variables: Variables,
    facts: SessionFacts,
    warnings: Warnings,
    found_rows: bool,
    open: Option<Transaction>,
    _runtime: tokio::runtime::Runtime,
}

fn int() -> ColumnType {
    ColumnType::Int { width: IntWidth::Normal, unsigned: false }
}

fn varchar(len: u32) -> ColumnType {
    ColumnType::VarChar { len }
}

/// A table built column by column.
struct Table(TableSchema);

impl Table {
    fn new(name: &str) -> Table {
        Table(TableSchema {
            id: TableId(0),
            database: "test".to_owned(),
            name: name.to_owned(),
            version: 1,
            columns: Vec::new(),
            handle_column: None,
            indexes: Vec::new(),
            column_replicas: 0,
            max_column_id: ColumnId(0),
            max_index_id: IndexId(0),
            comment: String::new(),
        })
    }

    fn column(mut self, name: &str, ty: ColumnType, nullable: bool) -> Table {
        let id = ColumnId(self.0.columns.len() as i64 + 1);
        self.0.max_column_id = id;
        self.0.columns.push(ColumnSchema {
            id,
            name: name.to_owned(),
            ty,
            nullable,
            default: nullable.then_some(DefaultValue::Constant(None)),
            origin_default: None,
            auto_increment: false,
            on_update_now: false,
            comment: String::new(),
        });
        self
    }

    fn default(mut self, value: Datum) -> Table {
        let column = self.0.columns.last_mut().expect("a column");
        column.default = Some(DefaultValue::Constant(encode_value(&value)));
        self
    }

    fn with(mut self, change: impl FnOnce(&mut ColumnSchema)) -> Table {
        change(self.0.columns.last_mut().expect("a column"));
        self
    }

    /// The last column is the handle.
    fn handle(mut self) -> Table {
        self.0.handle_column = Some(self.0.max_column_id);
        self
    }

    fn index(mut self, name: &str, columns: &[&str], unique: bool) -> Table {
        let id = IndexId(self.0.indexes.len() as i64 + 1);
        let column = |name: &&str| self.0.column(name).expect("a column").id;
        let columns = columns.iter().map(column).collect();
        self.0.max_index_id = id;
        self.0.indexes.push(IndexSchema {
            readable_from: damask_types::Timestamp::ZERO,
            id,
            name: name.to_owned(),
            columns,
            unique,
            primary: name == "PRIMARY",
            state: IndexState::Public,
        });
        self
    }
}

/// `t`: an integer key, a unique text, an indexed number, a decimal, a time that is touched.
fn table_t() -> Table {
    Table::new("t")
        .column("id", int(), false)
        .handle()
        .with(|c| c.auto_increment = true)
        .column("u", varchar(10), true)
        .column("k", int(), false)
        .default(Datum::Int(7))
        .column("d", ColumnType::Decimal { precision: 6, scale: 2 }, true)
        .column("ts", ColumnType::Timestamp { fsp: 0 }, true)
        .with(|c| {
            c.default = Some(DefaultValue::CurrentTimestamp);
            c.on_update_now = true;
        })
        .index("u", &["u"], true)
        .index("k", &["k", "u"], false)
}

/// `h`: a hidden row id, a primary key of two columns.
fn table_h() -> Table {
    Table::new("h")
        .column("a", int(), false)
        .column("b", varchar(8), false)
        .column("c", ColumnType::Double, true)
        .index("PRIMARY", &["a", "b"], true)
        .index("c", &["c"], false)
}

impl Server {
    fn new(tables: Vec<Table>) -> Server {
        let engine = Arc::new(MemoryEngine::new());
        let cluster = LocalCluster::new(engine.clone());
        let replica = cluster.replica().clone();
        let read_index = Box::new(move |region, epoch, done| {
            replica.read_index(region, epoch, done);
        });
        let rows: Arc<dyn Endpoint> = Arc::new(RowEndpoint::new(engine, read_index));
        let dispatch = Dispatch::new(
            cluster.clone(),
            Arc::new(Fixed(HashMap::from([(ROW_STORE, rows)]))),
            Arc::new(Resolved::default()),
            Arc::new(RealClock::default()),
        );
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
        let runtime = runtime.expect("a runtime");
        let client = cluster.client();
        let services = QueryServices::new(
            Arc::new(client.clone()),
            Arc::new(dispatch),
            Arc::new(Facts),
            runtime.handle().clone(),
            2,
        );
        let catalog = Arc::new(Catalog::open(client.clone()).expect("a catalog"));
        let put = |change: &mut crate::catalog::Change| {
            for table in &tables {
                let mut schema = table.0.clone();
                schema.id = change.table_id();
                change.put(schema);
            }
            Ok(())
        };
        catalog.change(put).expect("tables");
        Server {
            client,
            catalog,
            services,
            variables: Variables::new(Arc::new(Globals::default())),
            facts: SessionFacts { now_us: NOW_US, ..SessionFacts::default() },
            warnings: Warnings::default(),
            found_rows: false,
            open: None,
            _runtime: runtime,
        }
    }

    fn context<'a>(
        &'a mut self,
        hints: &'a Hints,
        own: Option<&'a mut Transaction>,
    ) -> Context<'a> {
        let commits = own.is_some();
        let reads = match own.or(self.open.as_mut()) {
            Some(txn) => Reads::Transaction(txn),
            None => Reads::Latest(&self.client),
        };
        Context {
            view: self.catalog.view(),
            database: Some("test"),
            reads,
            commits,
            variables: &self.variables,
            facts: &mut self.facts,
            warnings: &mut self.warnings,
            ids: self.catalog.ids(),
            found_rows: self.found_rows,
            hints,
            services: &self.services,
            system: &NoSystemTables,
        }
    }

    /// Runs a change, in the open transaction or one of its own; then checks the table's indexes.
    fn run(&mut self, sql: &str) -> Result<Done> {
        self.warnings.clear();
        let parsed = parse(sql, 0, self.variables.sql_mode())?;
        if self.open.is_some() {
            return execute(&mut self.context(&parsed.hints, None), &parsed.stmt);
        }
        let mut txn = self.client.begin().expect("a transaction");
        let done = execute(&mut self.context(&parsed.hints, Some(&mut txn)), &parsed.stmt);
        let done = done.and_then(|done| self.catalog.commit(&[], txn).map(|()| done));
        self.check_indexes();
        done
    }

    /// Rows and last id of a change that succeeds.
    fn affected(&mut self, sql: &str) -> u64 {
        self.run(sql).unwrap_or_else(|e| panic!("{sql}: {e}")).affected_rows
    }

    /// The number and text of the error.
    fn error(&mut self, sql: &str) -> (u16, String) {
        match self.run(sql) {
            Ok(done) => panic!("{sql}: {done:?}"),
            Err(error) => (error.code, error.message),
        }
    }

    /// The lines of EXPLAIN of a change.
    fn explained(&mut self, sql: &str) -> Vec<String> {
        let parsed = parse(sql, 0, self.variables.sql_mode()).expect("parses");
        let mut txn = self.client.begin().expect("a transaction");
        let rows = explain(&mut self.context(&parsed.hints, Some(&mut txn)), &parsed.stmt);
        assert!(txn.is_empty(), "{sql}: nothing is written");
        text(rows.unwrap_or_else(|e| panic!("{sql}: {e}")))
    }

    fn begin(&mut self) {
        self.open = Some(self.client.begin().expect("a transaction"));
    }

    fn commit(&mut self) -> Result<()> {
        let txn = self.open.take().expect("an open transaction");
        let done = self.catalog.commit(&[], txn);
        self.check_indexes();
        done
    }

    /// A point read's rows, `None` if it is none.
    fn point(&mut self, sql: &str) -> Option<Vec<String>> {
        let parsed = parse(sql, 0, self.variables.sql_mode()).expect("parses");
        let Stmt::Query(query) = &parsed.stmt else { panic!("{sql}: no query") };
        let rows = point_select(&mut self.context(&parsed.hints, None), query);
        rows.unwrap_or_else(|e| panic!("{sql}: {e}")).map(text)
    }

    /// A planned query's rows.
    fn planned(&mut self, sql: &str) -> Vec<String> {
        let parsed = parse(sql, 0, self.variables.sql_mode()).expect("parses");
        let Stmt::Query(query) = &parsed.stmt else { panic!("{sql}: no query") };
        let read_ts = match &self.open {
            Some(txn) => txn.start_ts(),
            None => self.client.timestamp().expect("a timestamp"),
        };
        let context = QueryContext {
            catalog: self.catalog.view(),
            database: Some("test"),
            variables: &self.variables,
            session: &self.facts,
            txn: self.open.as_ref(),
            read_ts,
            hints: &parsed.hints,
            services: &self.services,
            system: &NoSystemTables,
        };
        text(query::select(&context, query).unwrap_or_else(|e| panic!("{sql}: {e}")))
    }

    /// Every committed row has its index entries, and there are no others.
    fn check_indexes(&self) {
        let ts = self.client.timestamp().expect("a timestamp");
        let snapshot = self.client.snapshot(ts);
        for table in self.catalog.view().tables() {
            let layout = Layout::new(table.clone()).expect("a layout");
            let mut wanted = BTreeMap::new();
            let rows = snapshot.scan(&row_range(table.id), usize::MAX, false).expect("rows");
            for (key, value) in &rows {
                let (_, handle) = decode_row_key(key).expect("a row key");
                let row = layout.decode(handle, value).expect("a row");
                let entries = layout.entries(&row, handle);
                wanted.extend(entries.map(|entry| (entry.key, entry.value)));
            }
            let mut entries =
                KeyRange::prefix(&[&table_prefix(table.id), b"_i".as_slice()].concat());
            entries.end = row_range(table.id).start;
            let found = snapshot.scan(&entries, usize::MAX, false).expect("entries");
            assert!(found.into_iter().eq(wanted), "index entries of {}", table.name);
        }
    }

    fn warned(&self) -> Vec<u16> {
        self.warnings.kept().iter().map(|w| w.code).collect()
    }
}

/// Rows as `a|b|NULL`.
fn text(mut rows: Rows) -> Vec<String> {
    let types: Vec<_> = rows.columns.iter().map(|c| c.ty.clone()).collect();
    let shown = |datum: &Datum, ty: &Option<ColumnType>| {
        convert::text(datum, ty.as_ref()).unwrap_or_else(|| "NULL".to_owned())
    };
    let mut all = Vec::new();
    while let Some(batch) = rows.source.next().expect("rows") {
        let rows: Vec<Vec<Datum>> = match batch {
            RowBatch::Datums(rows) => rows,
            RowBatch::Columns(batch) => {
                let cell = |row: usize, (column, ty): (&arrow::array::ArrayRef, &Option<_>)| {
                    convert::datum_at(column.as_ref(), row, ty.as_ref()).expect("a value")
                };
                let row = |r| batch.columns().iter().zip(&types).map(|c| cell(r, c)).collect();
                (0..batch.num_rows()).map(row).collect()
            }
        };
        for row in rows {
            let cells: Vec<_> = row.iter().zip(&types).map(|(d, t)| shown(d, t)).collect();
            all.push(cells.join("|"));
        }
    }
    all
}
