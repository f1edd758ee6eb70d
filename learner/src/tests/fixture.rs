//! A store that crashes, a schema source that changes, and the words of a log.

use crate::{ColumnMachine, LearnerRead, ReadIndex, SchemaSource};
use arrow::array::{Array, Int64Array, StringArray};
use damask_deltatree::memory::MemoryColumnStore;
use damask_deltatree::types::storage_schema;
use damask_deltatree::*;
use damask_raftstore::{Applied, ApplyBatch, Done, Effect, ReadPermit, RegionState, StateMachine};
use damask_types::key::{row_key, row_range};
use damask_types::row::encode_row;
use damask_types::schema::IntWidth;
use damask_types::*;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub const T: TableId = TableId(100);
pub const R: RegionId = RegionId(1);

#[derive(Clone)]
enum Op {
    Apply(Box<ChangeBatch>),
    Clear(TableId, HandleRange),
}

type Hook = Box<dyn Fn() + Send>;

/// A memory store with a journal: a crash keeps what was synced, or that and all that came after.
#[derive(Default)]
pub struct Journal {
    memory: MemoryColumnStore,
    ops: Mutex<Vec<Op>>,
    synced: Mutex<(usize, Vec<Mark>)>,
    pub before_apply: Mutex<Option<Hook>>,
    pub before_snapshot: Mutex<Option<Hook>>,
    pub broken: AtomicBool,
    /// Rounds of `maintain` for which `apply` asks.
    pub full: AtomicU64,
}

impl Journal {
    pub fn crash(&self, keep_newer: bool) -> Arc<Journal> {
        let (synced, marks) = self.synced.lock().clone();
        let ops = self.ops.lock().clone();
        let keep = if keep_newer { ops.len() } else { synced };
        let next = Journal::default();
        for op in &ops[..keep] {
            match op {
                Op::Apply(batch) => next.memory.apply(batch).unwrap(),
                Op::Clear(table, range) => next.memory.clear(*table, *range).unwrap(),
            }
        }
        next.memory.sync(&marks).unwrap();
        *next.ops.lock() = ops[..keep].to_vec();
        *next.synced.lock() = (synced.min(keep), marks);
        Arc::new(next)
    }

    /// What was stored, call by call.
    pub fn stored(&self) -> Vec<ChangeBatch> {
        let rows = |op: &Op| match op {
            Op::Apply(batch) => Some((**batch).clone()),
            Op::Clear(..) => None,
        };
        self.ops.lock().iter().filter_map(rows).collect()
    }

    fn check(&self) -> Result<()> {
        match self.broken.load(Ordering::SeqCst) {
            true => Err(Error::new("test", ErrorKind::Io, "the disk is broken")),
            false => Ok(()),
        }
    }
}

impl ColumnStore for Journal {
    fn apply(&self, batch: &ChangeBatch) -> Result<()> {
        self.check()?;
        if self.full.load(Ordering::SeqCst) > 0 {
            return Err(Error::new("apply", ErrorKind::Retry, "merge first"));
        }
        if let Some(hook) = &*self.before_apply.lock() {
            hook();
        }
        self.ops.lock().push(Op::Apply(Box::new(batch.clone())));
        self.memory.apply(batch)
    }

    fn clear(&self, table: TableId, range: HandleRange) -> Result<()> {
        self.check()?;
        self.ops.lock().push(Op::Clear(table, range));
        self.memory.clear(table, range)
    }

    fn sync(&self, marks: &[Mark]) -> Result<()> {
        self.check()?;
        self.memory.sync(marks)?;
        *self.synced.lock() = (self.ops.lock().len(), self.memory.marks()?);
        Ok(())
    }

    fn marks(&self) -> Result<Vec<Mark>> {
        self.memory.marks()
    }

    fn snapshot(&self, table: TableId) -> Result<Arc<dyn ColumnSnapshot>> {
        let snapshot = self.memory.snapshot(table);
        if let Some(hook) = &*self.before_snapshot.lock() {
            hook();
        }
        snapshot
    }

    fn maintain(&self, safe_point: Timestamp, budget_bytes: u64) -> Result<bool> {
        let _ = self.full.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        self.memory.maintain(safe_point, budget_bytes)
    }

    fn stats(&self, table: TableId) -> Result<TableStats> {
        self.memory.stats(table)
    }
}

/// Schemas with a cache that only a refresh renews.
#[derive(Default)]
pub struct Source {
    pub catalog: Mutex<HashMap<TableId, Arc<TableSchema>>>,
    cache: Mutex<HashMap<TableId, Arc<TableSchema>>>,
    pub refreshes: AtomicU64,
    /// Called when a glance has its answer, and before that is used.
    pub after_glance: Mutex<Option<Box<dyn Fn() + Send + Sync>>>,
}

impl SchemaSource for Source {
    fn table(
        &self,
        id: TableId,
        refresh: bool,
    ) -> std::result::Result<Option<Arc<TableSchema>>, String> {
        if refresh {
            self.refreshes.fetch_add(1, Ordering::SeqCst);
            *self.cache.lock() = self.catalog.lock().clone();
        }
        Ok(self.cache.lock().get(&id).cloned())
    }

    fn glance(&self, id: TableId) -> Option<Arc<TableSchema>> {
        let now = self.catalog.lock().get(&id).cloned();
        if let Some(hook) = &*self.after_glance.lock() {
            hook();
        }
        now
    }
}

pub fn column(id: i64, ty: ColumnType) -> ColumnSchema {
    ColumnSchema {
        id: ColumnId(id),
        name: format!("c{id}"),
        ty,
        nullable: true,
        default: None,
        origin_default: None,
        auto_increment: false,
        on_update_now: false,
        comment: String::new(),
    }
}

/// `(c1 BIGINT PRIMARY KEY, c2 BIGINT, c3 TEXT)`, then further columns.
pub fn schema(id: TableId, more: &[ColumnSchema]) -> TableSchema {
    let int = ColumnType::Int { width: IntWidth::Big, unsigned: false };
    let mut columns = vec![
        column(1, int.clone()),
        column(2, int),
        column(3, ColumnType::Text { bytes_max: 1 << 16 }),
    ];
    columns.extend_from_slice(more);
    TableSchema {
        id,
        database: "d".into(),
        name: "t".into(),
        version: 1,
        max_column_id: columns.iter().map(|c| c.id).max().expect("some"),
        columns,
        handle_column: Some(ColumnId(1)),
        indexes: vec![],
        column_replicas: 1,
        max_index_id: IndexId(0),
        comment: String::new(),
    }
}

/// Permits of a replica that is always caught up.
struct CaughtUp(Arc<ColumnMachine>);

impl ReadIndex for CaughtUp {
    fn ask(
        &self,
        _: RegionId,
        _: Epoch,
        _: &[KeyRange],
        _: Timestamp,
    ) -> std::result::Result<u64, crate::ReadError> {
        Ok(0)
    }

    fn wait(&self, region: RegionId, _: Epoch, _: u64, done: Done<ReadPermit>) {
        let states = self.0.slot(region).map(|slot| slot.seen.lock().state.clone());
        done(match states {
            Some(state) => {
                Ok(ReadPermit { region: Arc::new(state.region), term: 1, applied: state.applied })
            }
            None => Err(damask_raftstore::Error::RegionNotFound(region)),
        });
    }
}

pub struct Fixture {
    pub store: Arc<Journal>,
    pub source: Arc<Source>,
    pub machine: Arc<ColumnMachine>,
    pub index: u64,
}

impl Fixture {
    /// A learner with region 1 over all rows of table `T`.
    pub fn new() -> Fixture {
        let fixture = Fixture::empty();
        let regions = Effect::Regions(vec![state(R, row_range(T), 1)]);
        let applied = Applied { index: 5, term: 1 };
        fixture
            .machine
            .apply(vec![ApplyBatch { region: R, applied, effects: vec![regions] }])
            .unwrap();
        fixture
    }

    /// A learner without regions.
    pub fn empty() -> Fixture {
        let source = Arc::new(Source::default());
        source.catalog.lock().insert(T, Arc::new(schema(T, &[])));
        Fixture::open(Arc::default(), source)
    }

    pub fn open(store: Arc<Journal>, source: Arc<Source>) -> Fixture {
        let machine = Arc::new(ColumnMachine::open(store.clone(), source.clone()).unwrap());
        Fixture { store, source, machine, index: 5 }
    }

    pub fn crash(&self, keep_newer: bool) -> Fixture {
        Fixture::open(self.store.crash(keep_newer), self.source.clone())
    }

    /// One entry of region 1.
    pub fn write(&mut self, records: Vec<Record>) {
        self.index += 1;
        self.machine.apply(vec![batch(R, self.index, records)]).unwrap();
    }

    pub fn reader(&self) -> LearnerRead {
        let index = Arc::new(CaughtUp(self.machine.clone()));
        LearnerRead::new(index, self.machine.clone(), Duration::from_secs(5))
    }

    /// Rows at a timestamp, whatever locks there are: (handle, c2, c3).
    pub fn rows(&self, ts: u64) -> Vec<(i64, Option<i64>, Option<String>)> {
        scan(&*self.store.snapshot(T).unwrap(), HandleRange::ALL, ts)
    }
}

pub fn scan(
    snapshot: &dyn ColumnSnapshot,
    range: HandleRange,
    ts: u64,
) -> Vec<(i64, Option<i64>, Option<String>)> {
    use arrow::datatypes::{DataType, Field, Schema};
    let table = schema(T, &[]);
    let mut fields = vec![Field::new("handle", DataType::Int64, true)];
    fields.extend(storage_schema(&table.columns[1..]).fields().iter().map(|f| f.as_ref().clone()));
    let nulls = |f: &Field| arrow::array::new_null_array(f.data_type(), 1);
    let request = ScanRequest {
        ranges: vec![range],
        ts: Timestamp(ts),
        defaults: fields.iter().map(nulls).collect(),
        schema: Arc::new(Schema::new(fields)),
        prune: vec![],
        batch_rows: 100,
    };
    let mut rows = Vec::new();
    for batch in snapshot.scan(&request, 2).unwrap().into_iter().flatten() {
        let batch = batch.unwrap();
        let ints =
            |c: usize| batch.column(c).as_any().downcast_ref::<Int64Array>().unwrap().clone();
        let (handles, numbers) = (ints(0), ints(1));
        let texts = batch.column(2).as_any().downcast_ref::<StringArray>().unwrap();
        for i in 0..batch.num_rows() {
            let number = numbers.is_valid(i).then(|| numbers.value(i));
            let text = texts.is_valid(i).then(|| texts.value(i).to_owned());
            rows.push((handles.value(i), number, text));
        }
    }
    rows.sort();
    rows
}

pub fn state(id: RegionId, range: KeyRange, version: u64) -> RegionState {
    RegionState {
        region: Region { id, range, epoch: Epoch { conf_ver: 1, version }, peers: vec![] },
        applied: Applied { index: 5, term: 1 },
        tombstone: false,
        merge: Default::default(),
    }
}

pub fn batch(region: RegionId, index: u64, records: Vec<Record>) -> ApplyBatch {
    let effects = vec![Effect::Write(records)];
    ApplyBatch { region, applied: Applied { index, term: 1 }, effects }
}

pub fn row(number: i64, text: &str) -> Vec<u8> {
    let (number, text) = (Datum::Int(number), Datum::Text(text.to_owned()));
    encode_row(&[(ColumnId(2), &number), (ColumnId(3), &text)])
}

pub fn key(handle: i64) -> Vec<u8> {
    row_key(T, handle)
}

/// A prewrite; `None` deletes. A long value is a record of its own.
pub fn prewrite(handle: i64, start: u64, value: Option<&[u8]>) -> Vec<Record> {
    let kind = if value.is_some() { LockKind::Put } else { LockKind::Delete };
    let mut lock = Lock::new(kind, key(handle), Timestamp(start), 3000);
    let mut records = Vec::new();
    match value {
        Some(value) if value.len() > mutation::SHORT_VALUE_MAX => {
            let (key, start_ts) = (key(handle), Timestamp(start));
            records.push(Record::Value { key, start_ts, value: value.to_vec() });
        }
        value => lock.short_value = value.map(<[u8]>::to_vec),
    }
    records.push(Record::Lock { key: key(handle), lock });
    records
}

pub fn commit(handle: i64, start: u64, commit: u64, value: Option<&[u8]>) -> Vec<Record> {
    let kind = if value.is_some() { WriteKind::Put } else { WriteKind::Delete };
    let short = value.filter(|v| v.len() <= mutation::SHORT_VALUE_MAX).map(<[u8]>::to_vec);
    let write = Write::new(kind, Timestamp(start), short);
    vec![
        Record::Write { key: key(handle), commit_ts: Timestamp(commit), write },
        Record::Unlock { key: key(handle) },
    ]
}

pub fn rollback(handle: i64, start: u64, long: bool) -> Vec<Record> {
    let (key, start_ts) = (key(handle), Timestamp(start));
    let write = Write::rollback(start_ts, false);
    let mut records = vec![
        Record::Write { key: key.clone(), commit_ts: start_ts, write },
        Record::Unlock { key: key.clone() },
    ];
    if long {
        records.push(Record::DropValue { key, start_ts });
    }
    records
}
