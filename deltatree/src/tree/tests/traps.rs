//! The correctness traps of an engine that resolves positions when it writes, each by name. A
//! test here must fail when the code that its name speaks of is broken.

use super::*;
use crate::store::ScanRequest;
use crate::{Aggregate, Fold, Grouping, Query};
use arrow::array::RecordBatch;
use arrow::datatypes::Decimal128Type;

const TABLE: TableId = TableId(100);

struct Trap(DeltaTree);

/// A version of a row; no value: a deletion.
type Row = (i64, u64, Option<i64>);

impl Trap {
    fn new() -> Trap {
        Trap(DeltaTree::open(Arc::new(MemoryDisk::new()), Config::small()).expect("it opens"))
    }

    fn put(&self, rows: &[Row]) {
        let values: Int64Array = rows.iter().map(|row| row.2).collect();
        let schema = Arc::new(Schema::new(vec![Field::new("1", DataType::Int64, true)]));
        let batch = ChangeBatch {
            table: TABLE,
            handles: rows.iter().map(|row| Some(row.0)).collect(),
            versions: UInt64Array::from_iter_values(rows.iter().map(|row| row.1)),
            deleted: BooleanArray::from_iter(rows.iter().map(|row| Some(row.2.is_none()))),
            columns: RecordBatch::try_new(schema, vec![Arc::new(values)]).expect("one column"),
        };
        self.0.apply(&batch).expect("applied");
    }

    /// Merges everything, however small, and forgets nothing that a read at `safe_point` sees.
    fn merge(&self, safe_point: u64) {
        self.0.sync(&[]).expect("synced");
        let mut manifest = self.0.merging.lock();
        let table = self.0.table(TABLE).expect("the table");
        let firsts: Vec<i64> = table.lock().views().iter().map(|v| v.range.first).collect();
        for first in firsts {
            let merged = self.0.merge((TABLE, &table), (first, 1), safe_point, &mut manifest);
            merged.expect("merged");
        }
    }

    fn request(ranges: &[HandleRange], ts: u64) -> ScanRequest {
        ScanRequest { ranges: ranges.to_vec(), ..request(ts) }
    }

    /// Handles and values, from a scan; the count and a sum in the scan must agree.
    fn read_in(&self, ranges: &[HandleRange], ts: u64) -> Vec<(i64, i64)> {
        let snapshot = self.0.snapshot(TABLE).expect("a snapshot");
        read_snapshot(&*snapshot, ranges, ts)
    }

    fn read(&self, ts: u64) -> Vec<(i64, i64)> {
        self.read_in(&[HandleRange::ALL], ts)
    }
}

fn read_snapshot(
    snapshot: &dyn ColumnSnapshot,
    ranges: &[HandleRange],
    ts: u64,
) -> Vec<(i64, i64)> {
    let mut request = Trap::request(ranges, ts);
    let handle = Field::new("handle", DataType::Int64, true);
    request.schema = Arc::new(Schema::new(vec![Field::new("1", DataType::Int64, true), handle]));
    request.defaults.push(Arc::new(Int64Array::from(vec![None::<i64>])));
    let mut seen = Vec::new();
    for batch in snapshot.scan(&request, 1).expect("a scan").into_iter().flatten() {
        let batch = batch.expect("a batch");
        let (values, handles) = (batch.column(0), batch.column(1));
        let (values, handles) =
            (values.as_primitive::<Int64Type>(), handles.as_primitive::<Int64Type>());
        seen.extend((0..batch.num_rows()).map(|row| (handles.value(row), values.value(row))));
    }
    seen.sort_unstable();
    let count = snapshot.count(ranges, Timestamp(ts)).expect("a count");
    assert_eq!(count, seen.len() as u64, "the count at {ts}");
    let grouping = Grouping {
        groups: Vec::new(),
        aggregates: vec![Aggregate { fold: Fold::Sum, column: Some(0) }],
        groups_max: 1,
        ..Grouping::default()
    };
    let query = Query { scan: request, filter: Vec::new() };
    let answer = snapshot.aggregate(&query, &grouping, 1).expect("folded").expect("one group");
    let sum = answer.column(0).as_primitive::<Decimal128Type>().iter().flatten().sum::<i128>();
    assert_eq!(sum, seen.iter().map(|row| i128::from(row.1)).sum::<i128>(), "the sum at {ts}");
    seen
}

#[test]
fn a_duplicate_of_a_version_changes_nothing() {
    for merged in [false, true] {
        let trap = Trap::new();
        trap.put(&[(1, 10, Some(1)), (2, 10, Some(2))]);
        if merged {
            trap.merge(0);
        }
        trap.put(&[(1, 10, Some(99)), (1, 12, Some(3)), (1, 12, Some(98))]);
        trap.put(&[(1, 10, Some(97)), (1, 12, Some(96))]);
        for _ in 0..2 {
            assert_eq!(trap.read(11), [(1, 1), (2, 2)]);
            assert_eq!(trap.read(u64::MAX), [(1, 3), (2, 2)]);
            trap.merge(0);
        }
    }
}

#[test]
fn an_older_version_may_arrive_after_a_newer_one() {
    for merged in [false, true] {
        let trap = Trap::new();
        trap.put(&[(1, 10, Some(10)), (1, 30, Some(30))]);
        if merged {
            trap.merge(0);
        }
        trap.put(&[(1, 20, Some(20)), (1, 5, Some(5)), (1, 40, Some(40))]);
        trap.put(&[(1, 35, Some(35))]);
        for _ in 0..2 {
            for ts in [5, 10, 20, 30, 35, 40] {
                assert_eq!(trap.read(ts), [(1, ts as i64)]);
                assert_eq!(trap.read(ts + 1), [(1, ts as i64)]);
            }
            assert_eq!(trap.read(4), []);
            trap.merge(0);
        }
    }
}

#[test]
fn a_deleted_handle_may_be_inserted_again() {
    for merged in [false, true] {
        let trap = Trap::new();
        trap.put(&[(1, 10, Some(10)), (1, 20, None)]);
        if merged {
            trap.merge(0);
        }
        trap.put(&[(1, 30, Some(30)), (1, 40, None), (1, 50, Some(50))]);
        for _ in 0..2 {
            let seen = [15, 25, 35, 45, 55].map(|ts| trap.read(ts).first().map(|row| row.1));
            assert_eq!(seen, [Some(10), None, Some(30), None, Some(50)]);
            trap.merge(0);
        }
    }
}

#[test]
fn a_deletion_of_nothing_hides_what_comes_under_it_later() {
    for merged in [false, true] {
        let trap = Trap::new();
        trap.put(&[(7, 20, None)]);
        if merged {
            trap.merge(0);
        }
        trap.put(&[(7, 10, Some(10))]);
        for _ in 0..2 {
            assert_eq!(trap.read(15), [(7, 10)]);
            assert_eq!(trap.read(20), []);
            trap.merge(0);
        }
        trap.put(&[(7, 21, Some(21))]);
        assert_eq!(trap.read(u64::MAX), [(7, 21)]);
    }
}

#[test]
fn a_read_between_two_versions_sees_the_older_one() {
    // both in the delta, across delta and stable, both in the stable file
    for merges in [[false, false], [true, false], [true, true]] {
        let trap = Trap::new();
        let row = |h: i64, version: u64| (h, version, Some(h * 100 + version as i64));
        trap.put(&(0..40).map(|h| row(h, 10)).collect::<Vec<_>>());
        if merges[0] {
            trap.merge(0);
        }
        // two thirds of the rows, in one batch, at two versions
        let newer = |h: i64| [20, 22, 10][h as usize % 3];
        let updates = (0..40).filter(|h| newer(*h) > 10).map(|h| row(h, newer(h)));
        trap.put(&updates.collect::<Vec<_>>());
        if merges[1] {
            trap.merge(0);
        }
        assert_eq!(trap.read(9), []);
        for ts in [10, 15, 19, 20, 21, 22, u64::MAX] {
            let seen = |h: i64| if newer(h) <= ts { newer(h) } else { 10 };
            let expected: Vec<_> = (0..40).map(|h| (h, h * 100 + seen(h) as i64)).collect();
            assert_eq!(trap.read(ts), expected, "at {ts}, merges {merges:?}");
        }
    }
}

#[test]
fn a_read_older_than_a_pack_takes_its_history() {
    let trap = Trap::new();
    // each round changes the handles that its number divides: packs mix old and new rows
    for round in 1..=6 {
        let changed = (0..50).filter(|h| h % round == 0);
        let rows = changed.map(|h| (h, round as u64 * 10, Some(h * 10 + round)));
        trap.put(&rows.collect::<Vec<Row>>());
        trap.merge(20);
    }
    for ts in 20..70 {
        let newest = |h: i64| (1..=6).rev().find(|r| h % r == 0 && r * 10 <= ts).unwrap_or(1);
        let expected: Vec<_> = (0..50).map(|h| (h, h * 10 + newest(h))).collect();
        assert_eq!(trap.read(ts as u64), expected, "at {ts}");
    }
}

#[test]
fn removal_between_two_writes_is_physical() {
    for merged in [false, true] {
        let trap = Trap::new();
        trap.put(&(0..30).map(|h| (h, 10, Some(1))).collect::<Vec<_>>());
        trap.put(&[(5, 12, Some(2))]);
        if merged {
            trap.merge(0);
        }
        trap.put(&[(7, 13, Some(2)), (21, 13, Some(2))]); // ends rows that a read at 12 sees
        let before = trap.0.snapshot(TABLE).expect("a snapshot");
        trap.0.clear(TABLE, HandleRange { first: 3, last: 20 }).expect("cleared");
        trap.put(&[(5, 20, Some(3)), (6, 11, Some(4))]);
        for _ in 0..2 {
            assert_eq!(trap.read_in(&[HandleRange { first: 3, last: 20 }], 11), [(6, 4)]);
            assert_eq!(trap.read_in(&[HandleRange { first: 3, last: 20 }], 20), [(5, 3), (6, 4)]);
            assert_eq!(trap.read(10).len(), 12, "an old read does not bring removed rows back");
            assert_eq!(trap.read(12).len(), 13, "nor one between two versions");
            trap.merge(0);
        }
        assert_eq!(read_snapshot(&*before, &[HandleRange::ALL], 10).len(), 30);
    }
}

#[test]
fn a_snapshot_outlives_splits_and_joins_of_segments() {
    let trap = Trap::new();
    trap.put(&(0..400).map(|h| (h, 10, Some(h))).collect::<Vec<_>>());
    let segments = || trap.0.table(TABLE).expect("the table").lock().views().len();
    let whole = trap.0.snapshot(TABLE).expect("a snapshot");
    trap.merge(0);
    let split = segments();
    assert!(split > 2, "{split} segments");
    let parts = trap.0.snapshot(TABLE).expect("a snapshot");
    trap.0.clear(TABLE, HandleRange { first: 5, last: 390 }).expect("cleared");
    trap.put(&[(200, 30, Some(7))]);
    trap.merge(0);
    while trap.0.maintain(Timestamp(0), u64::MAX).expect("maintained") || segments() > 1 {}
    for snapshot in [whole, parts] {
        for ts in [10, u64::MAX] {
            let seen = read_snapshot(&*snapshot, &[HandleRange::ALL], ts);
            assert_eq!(seen, (0..400).map(|h| (h, h)).collect::<Vec<_>>());
        }
    }
    let left: Vec<_> = (0..5).chain(391..400).map(|h| (h, h)).collect();
    assert_eq!(trap.read(20), left);
    assert_eq!(trap.read(30).len(), left.len() + 1);
}

#[test]
fn rows_written_while_neighbours_are_joined_are_kept() {
    let trap = Trap::new();
    trap.put(&(0..300).map(|h| (h, 10, Some(h))).collect::<Vec<_>>());
    trap.merge(0);
    trap.0.sync(&[]).expect("synced");
    let table = trap.0.table(TABLE).expect("the table");
    let (inputs, merged) = {
        let mut table = table.lock();
        let segments = table.segments_at(i64::MIN, 2);
        let inputs: Vec<Sealed> = segments.iter_mut().map(Segment::seal).collect();
        (inputs, table.last_seq)
    };
    // into both, one of them twice, a deletion, and a removal at their border
    let border = inputs[1].view.range.first;
    trap.put(&[(1, 20, Some(-1)), (border + 1, 20, Some(-2)), (border + 1, 21, None)]);
    trap.0.clear(TABLE, HandleRange { first: border - 1, last: border }).expect("cleared");
    trap.put(&[(border, 22, Some(-3))]);
    let written = trap.0.write_merged(TABLE, &inputs, 0, merged, &mut Vec::new());
    let (segments, _) = written.expect("merged");
    table.lock().replace_segments(i64::MIN, 2, segments, 12);
    let mut expected: Vec<_> = (0..300).map(|h| (h, h)).collect();
    expected[1] = (1, -1);
    expected[border as usize] = (border, -3);
    expected.remove(border as usize + 1);
    expected.remove(border as usize - 1);
    assert_eq!(trap.read(u64::MAX), expected);
    assert_eq!(trap.read(15).len(), 298);
}

#[test]
fn rows_outside_of_the_asked_ranges_are_not_seen() {
    let trap = Trap::new();
    trap.put(&(0..60).map(|h| (h, 10, Some(h))).collect::<Vec<_>>());
    trap.merge(0);
    // a moved region's rows may lie around: in chunks and packs that reach over the edges
    trap.put(&[(2, 20, Some(-2)), (9, 20, Some(-9)), (55, 20, Some(-55))]);
    let ranges = [HandleRange { first: 2, last: 4 }, HandleRange { first: 50, last: 54 }];
    let expected = [(2, -2), (3, 3), (4, 4), (50, 50), (51, 51), (52, 52), (53, 53), (54, 54)];
    assert_eq!(trap.read_in(&ranges, 30), expected);
    assert_eq!(trap.read_in(&[], 30), []);
}

#[test]
fn versions_need_not_grow_over_a_segment() {
    // two regions in one segment: the later one commits at smaller timestamps
    let trap = Trap::new();
    trap.put(&[(1, 100, Some(1)), (2, 101, Some(2))]);
    trap.put(&[(11, 50, Some(11)), (12, 51, Some(12))]);
    trap.put(&[(1, 110, Some(-1))]);
    trap.put(&[(11, 60, Some(-11))]);
    for _ in 0..2 {
        assert_eq!(trap.read(55), [(11, 11), (12, 12)]);
        assert_eq!(trap.read(100), [(1, 1), (11, -11), (12, 12)]);
        assert_eq!(trap.read(105), [(1, 1), (2, 2), (11, -11), (12, 12)]);
        assert_eq!(trap.read(110), [(1, -1), (2, 2), (11, -11), (12, 12)]);
        trap.merge(0);
    }
}

#[test]
fn positions_do_not_wrap_around() {
    let trap = Trap::new();
    trap.put(&[(1, 10, Some(1))]);
    let table = trap.0.table(TABLE).expect("the table");
    let mut locked = table.lock();
    let segment = &mut locked.segments_at(i64::MIN, 1)[0];
    let chunk = &mut Arc::make_mut(&mut segment.view).chunks[0];
    chunk.start = u32::MAX - 2; // as after four thousand million rows without a merge
    let error = segment.prepare(2, 5, 4).expect_err("no position is left");
    assert_eq!(error.kind(), ErrorKind::Retry);
    segment.prepare(2, 2, 1).expect("one is left");
}

#[test]
fn a_column_added_later_has_its_default_in_older_rows() {
    let trap = Trap::new();
    trap.put(&[(1, 10, Some(1)), (2, 10, Some(2))]);
    trap.merge(0);
    trap.put(&[(3, 11, Some(3))]);
    let mut request = request(20);
    request.schema = Arc::new(Schema::new(vec![Field::new("9", DataType::Int64, true)]));
    request.defaults = vec![Arc::new(Int64Array::from(vec![5]))];
    let aggregates = vec![Aggregate { fold: Fold::Sum, column: Some(0) }];
    let grouping =
        Grouping { groups: Vec::new(), aggregates, groups_max: 1, ..Grouping::default() };
    let filter = vec![crate::Predicate {
        column: 0,
        test: crate::Test::Equal(Arc::new(Int64Array::from(vec![5]))),
    }];
    let snapshot = trap.0.snapshot(TABLE).expect("a snapshot");
    let answer = snapshot.aggregate(&Query { scan: request, filter }, &grouping, 1);
    let answer = answer.expect("folded").expect("one group");
    assert_eq!(answer.column(0).as_primitive::<Decimal128Type>().value(0), 15);
}
