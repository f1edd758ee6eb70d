//! The conformance suite of the column store seam: any store against a plain model, and stores on
//! a disk against crashes, failing I/O and flipped bits. It must never depend on a store's inside.

use crate::error::Result;
use crate::store::{ChangeBatch, ColumnStore, HandleRange, Prune, ScanRequest};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use damask_env::{Disk, MemoryDisk};
use damask_types::{ErrorKind, TableId, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Opens the same place again and again; each call of the maker gives a new, empty place.
pub type Opener = Box<dyn Fn() -> Arc<dyn ColumnStore>>;
/// Opens a store on a disk.
pub type DiskOpener<'a> = &'a dyn Fn(Arc<dyn Disk>) -> Result<Arc<dyn ColumnStore>>;

const TABLE: TableId = TableId(107);
/// What rows have that were written without column 2.
const DEFAULT: &str = "default";
const HANDLES: u64 = 150;
const STEPS: usize = 300;

/// A small generator of numbers (SplitMix64): the same seed gives the same run.
pub struct Numbers(pub u64);

impl Numbers {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Column 1, and column 2 if the row was written with it.
type Row = (Option<i64>, Option<Option<String>>);

/// One version of a row; no row: a deletion.
#[derive(Clone, Debug, PartialEq)]
struct Version {
    handle: i64,
    version: u64,
    row: Option<Row>,
}

/// What a read returns.
type Seen = Vec<(i64, Option<i64>, Option<String>)>;

/// The model: every version, in order.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<(i64, u64), Option<Row>>);

impl Model {
    fn apply(&mut self, versions: &[Version]) {
        for v in versions {
            self.0.entry((v.handle, v.version)).or_insert_with(|| v.row.clone());
        }
    }

    fn clear(&mut self, range: HandleRange) {
        self.0.retain(|(handle, _), _| *handle < range.first || range.last < *handle);
    }

    fn read(&self, ranges: &[HandleRange], ts: u64) -> Seen {
        let mut seen = BTreeMap::new();
        for ((handle, version), row) in &self.0 {
            let inside = ranges.iter().any(|r| r.first <= *handle && *handle <= r.last);
            if inside && *version <= ts {
                seen.insert(*handle, row);
            }
        }
        let row = |(handle, row): (i64, &Option<Row>)| {
            let (a, b) = row.clone()?;
            Some((handle, a, b.unwrap_or(Some(DEFAULT.to_owned()))))
        };
        seen.into_iter().filter_map(row).collect()
    }
}

/// Versions as a batch; either all or none of the rows have column 2.
fn batch(versions: &[Version]) -> ChangeBatch {
    let a: Int64Array = versions.iter().map(|v| v.row.as_ref().and_then(|r| r.0)).collect();
    let mut fields = vec![Field::new("1", DataType::Int64, true)];
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(a)];
    if versions.iter().any(|v| v.row.as_ref().is_some_and(|r| r.1.is_some())) {
        let b = versions.iter().map(|v| v.row.as_ref().and_then(|r| r.1.clone().flatten()));
        fields.push(Field::new("2", DataType::Utf8, true));
        arrays.push(Arc::new(b.collect::<StringArray>()));
    }
    let schema = Arc::new(Schema::new(fields));
    ChangeBatch {
        table: TABLE,
        handles: versions.iter().map(|v| Some(v.handle)).collect(),
        versions: UInt64Array::from_iter_values(versions.iter().map(|v| v.version)),
        deleted: BooleanArray::from_iter(versions.iter().map(|v| Some(v.row.is_none()))),
        columns: RecordBatch::try_new(schema, arrays).expect("columns of one length"),
    }
}

fn request(ranges: &[HandleRange], ts: u64, batch_rows: usize) -> ScanRequest {
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("1", DataType::Int64, true),
        Field::new("handle", DataType::Int64, true),
        Field::new("2", DataType::Utf8, true),
    ]));
    let number: ArrayRef = Arc::new(Int64Array::from(vec![None]));
    ScanRequest {
        ranges: ranges.to_vec(),
        ts: Timestamp(ts),
        schema,
        defaults: vec![number.clone(), number, Arc::new(StringArray::from(vec![DEFAULT]))],
        prune: Vec::new(),
        batch_rows,
    }
}

fn scan(store: &dyn crate::ColumnSnapshot, request: &ScanRequest, parts: usize) -> Result<Seen> {
    let mut seen = Vec::new();
    for part in store.scan(request, parts)? {
        for batch in part {
            let batch = batch?;
            assert!(batch.num_rows() <= request.batch_rows, "a batch is too large");
            assert_eq!(batch.schema(), request.schema);
            let a = batch.column(0).as_primitive::<Int64Type>();
            let handles = batch.column(1).as_primitive::<Int64Type>();
            let b = batch.column(2).as_string::<i32>();
            for row in 0..batch.num_rows() {
                let a = a.is_valid(row).then(|| a.value(row));
                let b = b.is_valid(row).then(|| b.value(row).to_owned());
                seen.push((handles.value(row), a, b));
            }
        }
    }
    seen.sort();
    Ok(seen)
}

fn ranges(numbers: &mut Numbers) -> Vec<HandleRange> {
    if numbers.below(3) == 0 {
        return vec![HandleRange::ALL];
    }
    let mut edges: Vec<i64> =
        (0..2 + 2 * numbers.below(3)).map(|_| numbers.below(HANDLES + 20) as i64 - 10).collect();
    edges.sort_unstable();
    edges.dedup();
    let pairs = edges.chunks_exact(2);
    pairs.map(|pair| HandleRange { first: pair[0], last: pair[1] }).collect()
}

/// Reads a snapshot in several ways and compares with the model.
fn check(
    snapshot: &dyn crate::ColumnSnapshot,
    model: &Model,
    numbers: &mut Numbers,
    oldest: u64,
    now: u64,
) -> Result<()> {
    for ts in [u64::MAX, now, oldest + numbers.below(now + 2 - oldest)] {
        let ranges = ranges(numbers);
        let expected = model.read(&ranges, ts);
        let mut request = request(&ranges, ts, [1, 7, 4096][numbers.below(3) as usize]);
        let seen = scan(snapshot, &request, 1 + numbers.below(4) as usize)?;
        assert_eq!(seen, expected, "read at {ts} of {ranges:?}");
        assert_eq!(snapshot.count(&ranges, Timestamp(ts))?, expected.len() as u64);

        let low = numbers.below(1000) as i64;
        let high = low + numbers.below(100) as i64;
        let one = |v: i64| Some(Arc::new(Int64Array::from(vec![v])) as ArrayRef);
        request.prune = vec![Prune { column: 0, min: one(low), max: one(high) }];
        let seen = scan(snapshot, &request, 2)?;
        for row in &expected {
            let matches = row.1.is_some_and(|a| low <= a && a <= high);
            assert!(!matches || seen.contains(row), "pruning lost {row:?}");
        }
        assert!(seen.iter().all(|row| expected.contains(row)), "pruning made up a row");
    }
    Ok(())
}

/// Makes versions the way a cluster does, and some that only a replay does.
struct Writer {
    numbers: Numbers,
    now: u64,
    safe_point: u64,
    /// Applied after the safe point: may come again.
    recent: Vec<Version>,
    used: std::collections::HashSet<(i64, u64)>,
}

impl Writer {
    fn new(seed: u64) -> Writer {
        let used = std::collections::HashSet::new();
        Writer { numbers: Numbers(seed), now: 10, safe_point: 0, recent: Vec::new(), used }
    }

    fn versions(&mut self) -> Vec<Version> {
        let numbers = &mut self.numbers;
        let with_second = numbers.below(3) > 0;
        let dense = numbers.below(4) == 0;
        let start = numbers.below(HANDLES);
        let mut versions = Vec::new();
        for i in 0..1 + numbers.below(40) {
            let handle = if dense { start + i } else { numbers.below(HANDLES) } as i64;
            let late = numbers.below(6) == 0 && self.now > self.safe_point + 2;
            let version = match late {
                true => self.safe_point + 1 + numbers.below(self.now - self.safe_point),
                false => {
                    self.now += 1 + numbers.below(3);
                    self.now
                }
            };
            if !self.used.insert((handle, version)) {
                continue;
            }
            let a = (numbers.below(5) > 0).then(|| numbers.below(1000) as i64);
            let b = (numbers.below(5) > 0).then(|| format!("text {}", numbers.below(1 << 40)));
            let row = (numbers.below(5) > 0).then_some((a, with_second.then_some(b)));
            versions.push(Version { handle, version, row });
        }
        if with_second && versions.iter().all(|v| v.row.is_none()) {
            versions.clear();
        }
        self.recent.extend(versions.iter().cloned());
        versions
    }

    /// Versions that were applied before.
    fn again(&mut self) -> Vec<Version> {
        let with_second = self.numbers.below(2) == 0;
        let (numbers, recent) = (&mut self.numbers, &self.recent);
        let pick = |_| recent.get(numbers.below(recent.len().max(1) as u64) as usize).cloned();
        let picked: Vec<Version> = (0..10).filter_map(pick).collect();
        let alike = |v: &Version| v.row.as_ref().is_none_or(|r| r.1.is_some() == with_second);
        picked.into_iter().filter(alike).collect()
    }

    fn range(&mut self) -> HandleRange {
        let first = self.numbers.below(HANDLES) as i64;
        HandleRange { first, last: first + self.numbers.below(HANDLES / 2) as i64 }
    }

    fn move_safe_point(&mut self) -> u64 {
        self.safe_point += self.numbers.below(self.now - self.safe_point + 1);
        let safe_point = self.safe_point;
        self.recent.retain(|v| v.version > safe_point);
        safe_point
    }
}

/// Every promise of the seam, on new places from `make`. Panics where a store breaks one.
pub fn suite(make: impl Fn() -> Opener) {
    an_unknown_table_is_empty(&*make()());
    versions_and_marks(&*make()());
    wrong_batches_are_refused(&*make()());
    for seed in 0..6 {
        random_walk(&make(), seed);
    }
}

fn an_unknown_table_is_empty(store: &dyn ColumnStore) {
    let snapshot = store.snapshot(TableId(5)).expect("a snapshot");
    assert_eq!(snapshot.count(&[HandleRange::ALL], Timestamp::MAX).expect("a count"), 0);
    let all = request(&[HandleRange::ALL], u64::MAX, 10);
    assert!(scan(&*snapshot, &all, 3).expect("a scan").is_empty());
    store.clear(TableId(5), HandleRange::ALL).expect("nothing to clear");
    assert!(store.marks().expect("marks").is_empty());
    assert_eq!(store.stats(TableId(5)).expect("stats"), crate::TableStats::default());
}

fn versions_and_marks(store: &dyn ColumnStore) {
    let row = |handle, version, a: i64| Version { handle, version, row: Some((Some(a), None)) };
    let gone = |handle, version| Version { handle, version, row: None };
    let read = |ts| {
        let snapshot = store.snapshot(TABLE).expect("a snapshot");
        let all = request(&[HandleRange::ALL], ts, 100);
        let seen = scan(&*snapshot, &all, 1).expect("a scan");
        seen.into_iter().map(|(handle, a, _)| (handle, a.unwrap_or(-1))).collect::<Vec<_>>()
    };
    store.apply(&batch(&[row(1, 10, 100), row(2, 10, 200)])).expect("applied");
    store.apply(&batch(&[row(1, 30, 130), gone(2, 20)])).expect("applied");
    // older versions that come late, one under a deletion, and a duplicate
    store.apply(&batch(&[row(1, 20, 120), row(2, 15, 215), row(1, 10, 999)])).expect("applied");
    store.apply(&batch(&[row(2, 40, 240), gone(3, 5)])).expect("applied");
    assert_eq!(read(9), []);
    assert_eq!(read(10), [(1, 100), (2, 200)]);
    assert_eq!(read(15), [(1, 100), (2, 215)]);
    assert_eq!(read(29), [(1, 120)]);
    assert_eq!(read(u64::MAX), [(1, 130), (2, 240)]);
    let before = store.snapshot(TABLE).expect("a snapshot");
    store.clear(TABLE, HandleRange { first: 1, last: 1 }).expect("cleared");
    assert_eq!(read(u64::MAX), [(2, 240)]);
    store.apply(&batch(&[row(1, 10, 7)])).expect("applied");
    assert_eq!(read(u64::MAX), [(1, 7), (2, 240)]);
    assert_eq!(before.count(&[HandleRange::ALL], Timestamp(15)).expect("a count"), 2);
    store.sync(&[(1, vec![1]), (2, vec![2])]).expect("synced");
    store.sync(&[(1, vec![]), (3, vec![3])]).expect("synced");
    assert_eq!(store.marks().expect("marks"), [(2, vec![2]), (3, vec![3])]);
}

fn wrong_batches_are_refused(store: &dyn ColumnStore) {
    let mut wrong = batch(&[Version { handle: 1, version: 1, row: None }]);
    wrong.versions = UInt64Array::from(vec![1, 2]);
    let error = store.apply(&wrong).expect_err("lengths differ");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let snapshot = store.snapshot(TABLE).expect("a snapshot");
    let mut wrong = request(&[HandleRange::ALL], 1, 10);
    wrong.defaults.pop();
    let error = snapshot.scan(&wrong, 1).map(|_| ()).expect_err("a default is missing");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// Random changes; open snapshots keep what they saw; a reopened store has what was synced.
fn random_walk(open: &Opener, seed: u64) {
    let mut store = open();
    let (mut writer, mut model) = (Writer::new(seed), Model::default());
    let mut kept = Vec::new();
    let step = |store: &mut Arc<dyn ColumnStore>, writer: &mut Writer, model: &mut Model| {
        match writer.numbers.below(12) {
            0..=5 => {
                let versions = writer.versions();
                store.apply(&batch(&versions))?;
                model.apply(&versions);
            }
            6 => {
                let versions = writer.again();
                store.apply(&batch(&versions))?;
                model.apply(&versions);
            }
            7 if writer.numbers.below(4) == 0 => {
                let range = writer.range();
                store.clear(TABLE, range)?;
                model.clear(range);
            }
            8 => {
                let safe_point = match writer.numbers.below(3) {
                    0 => writer.move_safe_point(),
                    _ => writer.safe_point,
                };
                store.maintain(Timestamp(safe_point), 1 << writer.numbers.below(30))?;
            }
            9 => store.sync(&[(1, writer.now.to_le_bytes().to_vec())])?,
            10 if writer.numbers.below(4) == 0 => {
                store.sync(&[])?;
                // one store at a time may have the place
                *store = Arc::new(crate::MemoryColumnStore::new());
                *store = open();
            }
            _ => {}
        }
        Result::Ok(())
    };
    for number in 0..STEPS {
        let context = format!("seed {seed}, step {number}");
        step(&mut store, &mut writer, &mut model).unwrap_or_else(|e| panic!("{context}: {e}"));
        let snapshot = store.snapshot(TABLE).unwrap_or_else(|e| panic!("{context}: {e}"));
        let (oldest, now) = (writer.safe_point, writer.now);
        check(&*snapshot, &model, &mut writer.numbers, oldest, now)
            .unwrap_or_else(|e| panic!("{context}: {e}"));
        if number % 10 == 0 {
            kept.push((snapshot, model.clone(), oldest, now));
        }
        if number % 60 == 59 {
            for (snapshot, model, oldest, now) in kept.drain(..) {
                check(&*snapshot, &model, &mut writer.numbers, oldest, now)
                    .unwrap_or_else(|e| panic!("{context}, an older snapshot: {e}"));
            }
        }
    }
}

/// One change of a script that is run again after each crash.
#[derive(Clone, Debug)]
enum Change {
    Apply(Vec<Version>),
    Clear(HandleRange),
    Sync,
    Maintain(u64),
}

fn script(seed: u64, len: usize) -> (Vec<Change>, u64) {
    let mut writer = Writer::new(seed);
    let mut changes = Vec::new();
    for _ in 0..len {
        changes.push(match writer.numbers.below(10) {
            0..=4 => Change::Apply(writer.versions()),
            5 => Change::Clear(writer.range()),
            6 | 7 => Change::Sync,
            _ => Change::Maintain(writer.move_safe_point() / 2),
        });
    }
    (changes, writer.now)
}

/// Does the change with a number; a sync's mark says which change comes next.
fn perform(store: &dyn ColumnStore, number: usize, change: &Change) -> Result<()> {
    match change {
        Change::Apply(versions) => store.apply(&batch(versions)),
        Change::Clear(range) => store.clear(TABLE, *range),
        Change::Sync => store.sync(&[(1, (number as u64 + 1).to_le_bytes().to_vec())]),
        Change::Maintain(safe_point) => store.maintain(Timestamp(*safe_point), u64::MAX).map(drop),
    }
}

fn model_of(changes: &[Change]) -> Model {
    let mut model = Model::default();
    for change in changes {
        match change {
            Change::Apply(versions) => model.apply(versions),
            Change::Clear(range) => model.clear(*range),
            Change::Sync | Change::Maintain(_) => {}
        }
    }
    model
}

fn next_change(store: &dyn ColumnStore) -> Result<usize> {
    let marks = store.marks()?;
    let bytes = marks.first().map(|(_, bytes)| bytes.as_slice().try_into().expect("8 bytes"));
    Ok(bytes.map_or(0, |bytes| u64::from_le_bytes(bytes) as usize))
}

/// Opens a crash image, replays the script from the mark to `end`, and compares.
fn recover(
    open: DiskOpener<'_>,
    image: MemoryDisk,
    changes: &[Change],
    acknowledged: usize,
    context: &str,
) {
    let store = open(Arc::new(image)).unwrap_or_else(|e| panic!("{context}: open: {e}"));
    let next = next_change(&*store).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(next >= acknowledged, "{context}: a sync was lost: {next} < {acknowledged}");
    for (number, change) in changes.iter().enumerate().skip(next) {
        perform(&*store, number, change).unwrap_or_else(|e| panic!("{context}: replay: {e}"));
    }
    let snapshot = store.snapshot(TABLE).unwrap_or_else(|e| panic!("{context}: {e}"));
    let seen = scan(&*snapshot, &request(&[HandleRange::ALL], u64::MAX, 100), 2);
    let expected = model_of(changes).read(&[HandleRange::ALL], u64::MAX);
    assert_eq!(seen.unwrap_or_else(|e| panic!("{context}: {e}")), expected, "{context}");
}

/// A power cut after every change, and a store whose n-th I/O fails for every n.
pub fn crash_suite(open: DiskOpener<'_>) {
    for seed in 0..4 {
        let (changes, _) = script(seed, 60);
        let disk = MemoryDisk::new();
        let store = open(Arc::new(disk.clone())).expect("an empty disk");
        let (mut numbers, mut acknowledged) = (Numbers(seed), 0);
        for (number, change) in changes.iter().enumerate() {
            perform(&*store, number, change).expect("nothing fails here");
            if matches!(change, Change::Sync) {
                acknowledged = number + 1;
            }
            let image = disk.crash_image(|unsynced| numbers.below(unsynced as u64 + 1) as usize);
            let context = format!("seed {seed}, cut after change {number}");
            recover(open, image, &changes[..=number], acknowledged, &context);
        }
    }
    for seed in 10..13 {
        failing_io(open, seed);
    }
}

fn failing_io(open: DiskOpener<'_>, seed: u64) {
    const OPERATIONS_MAX: u64 = 5000;
    let (changes, _) = script(seed, 50);
    for fail_at in 0..OPERATIONS_MAX {
        let disk = MemoryDisk::new();
        disk.set_fault(damask_env::Fault { fail_at: Some(fail_at), ..Default::default() });
        let (mut acknowledged, mut failed) = (0, false);
        let store = match open(Arc::new(disk.clone())) {
            Ok(store) => store,
            Err(_) => {
                failed = true;
                open(Arc::new(disk.clone())).expect("it fails only once")
            }
        };
        let mut numbers = Numbers(fail_at);
        for (number, change) in changes.iter().enumerate() {
            let context = format!("seed {seed}, I/O {fail_at} failed, change {number}");
            match perform(&*store, number, change) {
                Ok(()) if matches!(change, Change::Sync) => acknowledged = number + 1,
                Ok(()) => {}
                Err(e) => {
                    assert!(!failed, "{context}: {e}");
                    failed = true;
                    let cut = |unsynced| numbers.below(unsynced as u64 + 1) as usize;
                    let image = disk.crash_image(cut);
                    recover(open, image, &changes[..=number], acknowledged, &context);
                    if e.kind() == ErrorKind::Poisoned {
                        break;
                    }
                    perform(&*store, number, change).unwrap_or_else(|e| panic!("{context}: {e}"));
                    if matches!(change, Change::Sync) {
                        acknowledged = number + 1;
                    }
                }
            }
        }
        if !failed && disk.operations() <= fail_at {
            return;
        }
    }
    panic!("seed {seed}: the script takes more than {OPERATIONS_MAX} operations");
}

/// Flips bits of every file of a store, one at a time: the store names the file as corrupt, or it
/// gives an earlier mark from which a replay leads to the right rows.
pub fn flip_suite(open: DiskOpener<'_>) {
    let (changes, now) = script(42, 60);
    let disk = MemoryDisk::new();
    let store = open(Arc::new(disk.clone())).expect("an empty disk");
    for (number, change) in changes.iter().enumerate() {
        perform(&*store, number, change).expect("nothing fails here");
    }
    perform(&*store, changes.len(), &Change::Sync).expect("synced");
    drop(store);
    let (mut found, mut flips) = (0, 0);
    for (name, len) in disk.files() {
        for offset in (0..len).step_by(len.div_ceil(150).max(1)) {
            let image = disk.crash_image(|unsynced| unsynced);
            assert!(image.flip(&name, offset, (offset % 8) as u8));
            flips += 1;
            match read_flipped(open, image, &changes, now) {
                Ok(()) => {}
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "{name} at {offset}: {e}");
                    assert!(e.to_string().contains(&name), "{name} at {offset}: {e}");
                    found += 1;
                }
            }
        }
    }
    assert!(found * 2 > flips, "only {found} of {flips} flips were found");
}

fn read_flipped(
    open: DiskOpener<'_>,
    image: MemoryDisk,
    changes: &[Change],
    now: u64,
) -> Result<()> {
    let store = open(Arc::new(image))?;
    let next = next_change(&*store)?.min(changes.len());
    let syncs = changes.iter().enumerate().filter(|(_, c)| matches!(c, Change::Sync));
    let mut cuts = syncs.map(|(number, _)| number + 1).chain([changes.len()]);
    assert!(cuts.any(|cut| cut == next), "a mark that was never written: {next}");
    // rows may be newer than the mark; a replay from the mark makes them whole
    for (number, change) in changes.iter().enumerate().skip(next) {
        perform(&*store, number, change)?;
    }
    let snapshot = store.snapshot(TABLE)?;
    let seen = scan(&*snapshot, &request(&[HandleRange::ALL], now, 100), 1)?;
    let expected = model_of(changes).read(&[HandleRange::ALL], now);
    assert_eq!(seen, expected, "rows that were never written");
    Ok(())
}
