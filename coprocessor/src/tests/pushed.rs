//! Random statements over random histories, answered four ways: by a table in memory, by rows, by
//! columns that are scanned, and by columns whose store filters, folds and sorts. They must agree.

use super::*;
use crate::spec::FoldWork;
use arrow::util::pretty::pretty_format_batches;
use damask_deltatree::{Config, DeltaTree, Predicate};
use damask_env::MemoryDisk;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Statistics};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionConfig;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Columns behind the handle `id`: v, u, d, w, s, f, t, m.
fn wide_table() -> Arc<TableSchema> {
    let int = |unsigned| ColumnType::Int { width: IntWidth::Big, unsigned };
    let types = [
        ("id", int(false)),
        ("v", int(false)),
        ("u", int(true)),
        ("d", ColumnType::Decimal { precision: 15, scale: 2 }),
        ("w", ColumnType::Decimal { precision: 38, scale: 4 }),
        ("s", ColumnType::VarChar { len: 40 }),
        ("f", ColumnType::Double),
        ("t", ColumnType::Date),
        ("m", ColumnType::DateTime { fsp: 6 }),
    ];
    let columns =
        types.into_iter().enumerate().map(|(at, (name, ty))| column(at as i64 + 1, name, ty));
    Arc::new(TableSchema { columns: columns.collect(), indexes: Vec::new(), ..(*table()).clone() })
}

fn wide_schema(table: &TableSchema) -> Arc<Schema> {
    let may_be_null = |name: &str| !["id", "u"].contains(&name);
    let field = |c: &ColumnSchema| Field::new(&c.name, arrow_type(&c.ty), may_be_null(&c.name));
    Arc::new(Schema::new(table.columns.iter().map(field).collect::<Vec<_>>()))
}

/// A small generator: proptest gives the seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len() as u64) as usize]
    }
}

type Row = Vec<Datum>;

/// The cells behind the handle.
fn row(numbers: &mut Numbers, huge: bool) -> Row {
    let n = numbers.below(1000) as i64;
    let decimal = |unscaled: i128, scale| Datum::Decimal(Decimal { unscaled, scale });
    // two of these overflow 38 digits
    let wide = if huge { 6 * 10i128.pow(37) } else { i128::from(n) * 10i128.pow(20) };
    let mut cells = vec![
        Datum::Int(n % 17 - 8),
        Datum::UInt(if n % 50 == 0 { u64::MAX - n as u64 } else { n as u64 % 9 }),
        decimal(i128::from(n) * 101 - 40_000, 2),
        decimal(wide, 4),
        Datum::Text(
            ["a", "b", "", "a longer text than fifteen bytes", "ab"][n as usize % 5].into(),
        ),
        Datum::Double((n % 40) as f64 / 4.0 - 3.0),
        Datum::Date(9000 + (n % 300) as i32),
        Datum::DateTime(n * 86_400_000_123),
    ];
    for cell in &mut cells {
        if numbers.below(8) == 0 && !matches!(cell, Datum::UInt(_)) {
            *cell = Datum::Null;
        }
    }
    cells
}

/// Versions of rows in the order they were written; `None`: deleted.
type History = Vec<(u64, BTreeMap<i64, Option<Row>>)>;

fn history(numbers: &mut Numbers) -> History {
    let handles = 1 + numbers.below(400);
    let huge = numbers.below(6) == 0;
    let mut all = Vec::new();
    for step in 0..2 + numbers.below(5) {
        let share = if step == 0 { 100 } else { 1 + numbers.below(40) };
        let mut rows = BTreeMap::new();
        for handle in 0..handles as i64 {
            if numbers.below(100) < share {
                let gone = step > 0 && numbers.below(4) == 0;
                rows.insert(handle, (!gone).then(|| row(numbers, huge)));
            }
        }
        all.push((10 + step * 10, rows));
    }
    all
}

/// What a read at `ts` sees, as a batch of the table's columns.
fn seen(history: &History, ts: u64, table: &TableSchema) -> RecordBatch {
    let mut rows: BTreeMap<i64, &Option<Row>> = BTreeMap::new();
    for (_, changes) in history.iter().filter(|(version, _)| *version <= ts) {
        rows.extend(changes.iter().map(|(handle, row)| (*handle, row)));
    }
    let schema = wide_schema(table);
    let fields = schema.fields().iter();
    let mut builders: Vec<ColumnBuilder> =
        fields.map(|f| ColumnBuilder::new(f.data_type(), rows.len()).expect("a type")).collect();
    for (handle, row) in rows.into_iter().filter_map(|(h, row)| Some((h, row.as_ref()?))) {
        builders[0].push_handle(handle).expect("fits");
        for (builder, cell) in builders[1..].iter_mut().zip(row) {
            builder.push_datum(cell).expect("fits");
        }
    }
    let columns = builders.iter_mut().map(ColumnBuilder::finish).collect();
    RecordBatch::try_new(schema, columns).expect("columns fit")
}

fn row_store(history: &History, table: &TableSchema) -> Arc<MemoryEngine> {
    let engine = Arc::new(MemoryEngine::new());
    let mut changes = WriteBatch::default();
    for (version, rows) in history {
        for (handle, row) in rows {
            let key = row_key(TABLE, *handle);
            let start = Timestamp(version - 1);
            let write = match row {
                None => Write::new(WriteKind::Delete, start, None),
                Some(row) => {
                    let ids = table.columns[1..].iter().map(|c| c.id);
                    let cells: Vec<_> = ids.zip(row).collect();
                    Write::new(WriteKind::Put, start, Some(encode_row(&cells)))
                }
            };
            changes.put(Cf::Write, encode_key_ts(&key, Timestamp(*version)), write.encode());
        }
    }
    engine.write(changes).expect("writes");
    engine
}

fn column_store(history: &History, table: &TableSchema, numbers: &mut Numbers) -> Arc<DeltaTree> {
    let disk = Arc::new(MemoryDisk::new());
    let tree = DeltaTree::open(disk, Config::small()).expect("opens");
    let fields = table.columns[1..].iter();
    let fields = fields.map(|c| Field::new(c.id.to_string(), storage_type(&c.ty), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    for (version, rows) in history {
        let mut builders: Vec<ColumnBuilder> = schema
            .fields()
            .iter()
            .map(|f| ColumnBuilder::new(f.data_type(), rows.len()).expect("a type"))
            .collect();
        for row in rows.values() {
            for (at, builder) in builders.iter_mut().enumerate() {
                match row {
                    Some(row) => builder.push_datum(&row[at]).expect("fits"),
                    None => builder.push_null(),
                }
            }
        }
        let columns = builders.iter_mut().map(ColumnBuilder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        tree.apply(&ChangeBatch {
            table: TABLE,
            handles: Int64Array::from_iter_values(rows.keys().copied()),
            versions: UInt64Array::from(vec![*version; rows.len()]),
            deleted: BooleanArray::from_iter(rows.values().map(|row| Some(row.is_none()))),
            columns: RecordBatch::try_new_with_options(schema.clone(), columns, &options)
                .expect("columns fit"),
        })
        .expect("applies");
        if numbers.below(2) == 0 {
            tree.sync(&[]).expect("syncs");
            tree.maintain(Timestamp(5), u64::MAX).expect("merges");
        }
    }
    Arc::new(tree)
}

/// Counts what a store did itself.
struct Counting {
    inner: ColumnEndpoint,
    folds: AtomicUsize,
    selects: AtomicUsize,
    sorts: AtomicUsize,
}

impl Endpoint for Counting {
    fn open(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
    ) -> Result<Vec<Part>, EndpointError> {
        self.inner.open(context, ranges, spec)
    }

    fn select(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        filter: &[Predicate],
    ) -> Result<Option<Vec<MaskedPart>>, EndpointError> {
        let answer = self.inner.select(context, ranges, spec, filter)?;
        self.selects.fetch_add(usize::from(answer.is_some()), Ordering::Relaxed);
        Ok(answer)
    }

    fn ordered(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        filter: &[Predicate],
    ) -> Result<Option<Part>, EndpointError> {
        let answer = self.inner.ordered(context, ranges, spec, filter)?;
        self.sorts.fetch_add(usize::from(answer.is_some()), Ordering::Relaxed);
        Ok(answer)
    }

    fn fold(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        work: &FoldWork,
    ) -> Result<Option<RecordBatch>, EndpointError> {
        let answer = self.inner.fold(context, ranges, spec, work)?;
        self.folds.fetch_add(usize::from(answer.is_some()), Ordering::Relaxed);
        Ok(answer)
    }
}

/// Only what a store can do that knows nothing better.
struct Plain(Arc<Counting>);

impl Endpoint for Plain {
    fn open(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
    ) -> Result<Vec<Part>, EndpointError> {
        self.0.open(context, ranges, spec)
    }
}

fn handle_ranges(ranges: &[KeyRange]) -> Vec<HandleRange> {
    let handle = |key: &[u8]| key::decode_row_key(&key[..19.min(key.len())]).map(|r| r.1);
    let range = |range: &KeyRange| HandleRange {
        first: handle(&range.start).unwrap_or(i64::MIN),
        last: match handle(&range.end) {
            Some(after) if range.end.len() == 19 => after - 1,
            Some(last) => last,
            None => i64::MAX,
        },
    };
    ranges.iter().map(range).collect()
}

/// The table, read from one kind of store.
#[derive(Clone)]
struct Provider {
    dispatch: Arc<Dispatch>,
    source: Source,
    table: Arc<TableSchema>,
    ts: u64,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Provider({:?})", self.source)
    }
}

#[async_trait::async_trait]
impl TableProvider for Provider {
    fn schema(&self) -> Arc<Schema> {
        wide_schema(&self.table)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::common::Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Exact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let full = self.schema();
        let given = projection.cloned().unwrap_or_else(|| (0..full.fields().len()).collect());
        let mut needed = given.clone();
        for filter in filters {
            for column in filter.column_refs() {
                let at = full.index_of(&column.name)?;
                if !needed.contains(&at) {
                    needed.push(at);
                }
            }
        }
        let schema = Arc::new(full.project(&needed)?);
        let all = conjunction(filters.iter().cloned());
        let df_schema = DFSchema::try_from(schema.clone())?;
        let bare = |expr: Expr| {
            let bare = datafusion::logical_expr::expr_rewriter::unnormalize_col(expr);
            state.create_physical_expr(bare, &df_schema)
        };
        let filter = all.map(bare).transpose()?;
        let spec = ScanSpec {
            table: self.table.clone(),
            source: self.source,
            columns: needed
                .iter()
                .map(|at| ScanColumn::Column(self.table.columns[*at].id))
                .collect(),
            schema: schema.clone(),
            ts: Timestamp(self.ts),
            prune: Vec::new(),
            limit: if filters.is_empty() { limit } else { None },
            batch_rows: 7,
            parts: 3,
        };
        let plan = ScanPlan {
            dispatch: self.dispatch.clone(),
            spec: Arc::new(spec),
            ranges: vec![row_range(TABLE)],
            filter,
            projection: Some((0..given.len()).collect()),
            fetch: limit,
            statistics: Statistics::new_unknown(&full.project(&given)?),
            reason: String::new(),
        };
        Ok(Arc::new(RegionScanExec::new(plan, 2)?))
    }
}

fn session(partitions: usize, pushes: bool) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(partitions);
    let options = config.options_mut();
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.optimizer.enable_round_robin_repartition = false;
    // DataFusion 54.1 filters by the bound of `min(a)` also below `min(a), max(a + 1)`.
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    let state = SessionStateBuilder::new().with_default_features().with_config(config);
    let state = match pushes {
        true => state.with_physical_optimizer_rule(Arc::new(CutFragments)),
        false => state,
    };
    SessionContext::new_with_state(state.build())
}

/// The rows of a statement as sorted text, or that it failed.
fn answer(session: &SessionContext, sql: &str) -> Result<Vec<String>, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    let run = async {
        let batches = session.sql(sql).await?.collect().await?;
        Ok::<_, datafusion::common::DataFusionError>(batches)
    };
    let mut batches = runtime.expect("a runtime").block_on(run).map_err(|e| e.to_string())?;
    // No row is no row, in a batch or in none.
    batches.retain(|batch| batch.num_rows() > 0);
    let text = pretty_format_batches(&batches).expect("text").to_string();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

fn condition(numbers: &mut Numbers) -> String {
    let n = numbers.below(40) as i64;
    match numbers.below(14) {
        0 => format!("v {} {}", numbers.pick(&["=", "<>", "<", ">=", ">"]), n % 17 - 8),
        1 => format!("d between {}.50 and {}.25", n * 10 - 300, n * 10),
        2 => format!("s {} 'a'", numbers.pick(&["=", "<>", ">", "<="])),
        3 => format!("s in ('ab', 'b', 'zzz{n}')"),
        4 => format!("t < date '1995-{:02}-01'", n % 12 + 1),
        5 => format!(
            "{} is {} null",
            numbers.pick(&["v", "s", "w", "f"]),
            numbers.pick(&["", "not"])
        ),
        6 => format!("f > {n}.0"),
        7 => "v < d".to_owned(),
        8 => format!("v + 1 <> {n}"),
        9 => format!("id < {}", n * 10),
        10 => format!("{n} <= id"),
        11 => "s like '%l%'".to_owned(),
        12 => format!("(v = {} or s = 'b')", n % 5),
        _ => "100 / (v + 20) > 4".to_owned(),
    }
}

fn where_clause(numbers: &mut Numbers) -> String {
    let all: Vec<String> = (0..numbers.below(4)).map(|_| condition(numbers)).collect();
    if all.is_empty() { String::new() } else { format!(" where {}", all.join(" and ")) }
}

fn aggregate(numbers: &mut Numbers) -> &'static str {
    numbers.pick(&[
        "count(*)",
        "count(v)",
        "count(s)",
        "count(v + 1)",
        "sum(d)",
        "sum(d * (1 - d))",
        "avg(d)",
        "sum(cast(v as decimal(20, 0)))",
        "min(v)",
        "max(u)",
        "min(s)",
        "max(t)",
        "max(m)",
        "min(d)",
        "sum(f)",
        "avg(v)",
        "max(d + 1)",
        "sum(w)",
        "avg(f)",
        "min(id)",
        "sum(v)",
        "count(distinct v)",
        "max(f)",
        "count(v > 3)",
    ])
}

fn statement(numbers: &mut Numbers) -> String {
    let filter = where_clause(numbers);
    match numbers.below(8) {
        0 => format!("select id, s, d, u from wide{filter}"),
        1 => format!("select id, v from wide{filter} order by id limit {}", 1 + numbers.below(20)),
        2 => {
            let order = numbers.pick(&["id desc", "v, id", "d desc, id"]);
            format!("select id, v, d from wide{filter} order by {order} limit 5")
        }
        _ => {
            let count = 1 + numbers.below(4);
            let calls: Vec<&str> = (0..count).map(|_| aggregate(numbers)).collect();
            let named = calls.iter().enumerate().map(|(at, call)| format!("{call} as a{at}"));
            let named = named.collect::<Vec<_>>().join(", ");
            let groups =
                numbers.pick(&["", "", "s", "v", "s, v", "t", "d, u", "v + 1", "f", "w", "m, s"]);
            match groups {
                "" => format!("select {named} from wide{filter}"),
                groups => format!("select {groups}, {named} from wide{filter} group by {groups}"),
            }
        }
    }
}

struct Stores {
    rows: Arc<dyn Endpoint>,
    columns: Arc<Counting>,
    cuts: Vec<Vec<u8>>,
}

impl Stores {
    fn new(history: &History, table: &TableSchema, numbers: &mut Numbers) -> Stores {
        let tree = column_store(history, table, numbers);
        let inner = ColumnEndpoint::over(Box::new(move |_, _, ranges, _| {
            Ok(ColumnView {
                table: TABLE,
                snapshot: tree.snapshot(TABLE).expect("a snapshot"),
                handles: handle_ranges(ranges),
                applied: Applied { index: 1, term: 1 },
            })
        }));
        let counts = Default::default();
        let (folds, selects, sorts) = counts;
        let mut cuts: Vec<i64> = (0..numbers.below(3)).map(|_| numbers.below(400) as i64).collect();
        cuts.sort_unstable();
        cuts.dedup();
        Stores {
            rows: Arc::new(row_endpoint(row_store(history, table))),
            columns: Arc::new(Counting { inner, folds, selects, sorts }),
            cuts: cuts.into_iter().map(|handle| row_key(TABLE, handle)).collect(),
        }
    }

    fn provider(&self, source: Source, plain: bool, table: &Arc<TableSchema>, ts: u64) -> Provider {
        let columns: Arc<dyn Endpoint> = match plain {
            true => Arc::new(Plain(self.columns.clone())),
            false => self.columns.clone(),
        };
        let regions = FixedRegions::cut_at(&self.cuts);
        let (dispatch, _) = dispatch(regions, self.rows.clone(), columns);
        Provider { dispatch, source, table: table.clone(), ts }
    }
}

/// Runs statements on one history; how often a store folded, selected and sorted.
fn check(seed: u64, statements: usize) -> [usize; 3] {
    let mut numbers = Numbers(seed);
    let (table, history) = (wide_table(), history(&mut numbers));
    let stores = Stores::new(&history, &table, &mut numbers);
    for _ in 0..statements {
        let ts = [15, 25, 35, 100][numbers.below(4) as usize];
        let partitions = 1 + numbers.below(2) as usize;
        let oracle = session(partitions, false);
        let batch = seen(&history, ts, &table);
        oracle.register_batch("wide", batch).expect("registers");
        let sql = statement(&mut numbers);
        let expected = answer(&oracle, &sql);
        let ways = [
            ("rows", Source::Rows, true, false),
            ("columns, scanned", Source::Columns, true, false),
            ("columns, declined", Source::Columns, true, true),
            ("columns, pushed", Source::Columns, false, true),
        ];
        for (way, source, plain, pushes) in ways {
            let session = session(partitions, pushes);
            let provider = stores.provider(source, plain, &table, ts);
            session.register_table("wide", Arc::new(provider)).expect("registers");
            let found = answer(&session, &sql);
            match (&found, &expected) {
                (Err(_), Err(_)) => {}
                _ => assert_eq!(found, expected, "{way}: {sql} at {ts}, seed {seed}"),
            }
        }
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    [&stores.columns.folds, &stores.columns.selects, &stores.columns.sorts].map(count)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_way_gives_the_same_answer(seed in any::<u64>()) {
        check(seed, 6);
    }
}

#[test]
fn stores_are_asked_to_do_the_work() {
    let mut all = [0; 3];
    for seed in 0..6 {
        let more = check(seed, 8);
        all.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    let [folds, selects, sorts] = all;
    assert!(folds > 20 && selects > 5 && sorts > 0, "folds, selects, sorts: {all:?}");
}

#[test]
fn what_stores_fold_is_shown_like_what_is_scanned() {
    let mut numbers = Numbers(1);
    let (table, history) = (wide_table(), history(&mut numbers));
    let stores = Stores::new(&history, &table, &mut numbers);
    let shown = |plain| {
        let session = session(2, true);
        let provider = stores.provider(Source::Columns, plain, &table, 100);
        session.register_table("wide", Arc::new(provider)).expect("registers");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let plan = runtime.block_on(async {
            let sql = "select s, sum(d) from wide where v > 2 group by s";
            session.sql(sql).await.expect("plans").create_physical_plan().await.expect("plans")
        });
        displayable(plan.as_ref()).indent(false).to_string()
    };
    let text = shown(false);
    assert!(text.contains("Fragment[column] table=t"), "{text}");
    assert!(text.contains("filter=v@") && text.contains("aggr=sum(wide.d)"), "{text}");
    assert_eq!(text, shown(true));
}

/// Nanoseconds that the operators of a plan waited for fresh columns; `None`: none of them says.
fn waited(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    let metrics = plan.metrics();
    let all = metrics.iter().flat_map(|metrics| metrics.iter());
    let waits = all.filter(|metric| metric.value().name() == "freshness_wait");
    let own = waits.map(|metric| metric.value().as_usize());
    let below = plan.children().into_iter().filter_map(waited);
    own.chain(below).reduce(|a, b| a + b)
}

#[test]
fn the_wait_for_fresh_columns_is_measured_whoever_folds() {
    let mut numbers = Numbers(1);
    let (table, history) = (wide_table(), history(&mut numbers));
    let stores = Stores::new(&history, &table, &mut numbers);
    let waited_for = |source, sql| {
        let session = session(2, true);
        let provider = stores.provider(source, false, &table, 100);
        session.register_table("wide", Arc::new(provider)).expect("registers");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let plan = runtime.block_on(async {
            let plan = session.sql(sql).await.expect("plans").create_physical_plan().await;
            let plan = plan.expect("plans");
            let rows = datafusion::physical_plan::collect(plan.clone(), session.task_ctx()).await;
            rows.expect("runs");
            plan
        });
        waited(&plan)
    };
    for sql in ["select s, sum(d) from wide where v > 2 group by s", "select s from wide"] {
        assert!(waited_for(Source::Columns, sql).is_some_and(|nanos| nanos > 0), "{sql}");
        assert_eq!(waited_for(Source::Rows, sql), None, "{sql}: rows wait for no replica");
    }
}
