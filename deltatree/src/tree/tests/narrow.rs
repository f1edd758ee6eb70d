//! Narrow reads of a segment whose delta has many chunks that overlap: the right rows, and the
//! work counted in rows and mask words, so that it stays in proportion without a clock.

use super::*;
use crate::predicate::Filter;
use crate::store::ScanRequest;
use crate::tree::chunk::Seen;
use crate::tree::plan::Plan;

const TABLE: TableId = TableId(100);
const HANDLES: i64 = 4000;
const TRANSACTIONS: u64 = 70;
/// Handles between two neighbours of a transaction.
const STEP: i64 = 29;

fn batch(handles: &[i64], version: u64) -> ChangeBatch {
    let values = Int64Array::from_iter_values(handles.iter().map(|h| value(*h, version)));
    let schema = Arc::new(Schema::new(vec![Field::new("1", DataType::Int64, true)]));
    ChangeBatch {
        table: TABLE,
        handles: Int64Array::from_iter_values(handles.iter().copied()),
        versions: UInt64Array::from(vec![version; handles.len()]),
        deleted: BooleanArray::from(vec![false; handles.len()]),
        columns: arrow::array::RecordBatch::try_new(schema, vec![Arc::new(values)])
            .expect("columns of one length"),
    }
}

fn value(handle: i64, version: u64) -> i64 {
    handle * 1000 + version as i64
}

/// A tree with one stable file and a delta of joined and small chunks, each over all handles; and
/// the versions of each handle, ascending.
fn updated_tree() -> (DeltaTree, Vec<Vec<u64>>) {
    let config = Config { merge_rows_min: 1, chunk_rows: 1200, ..Config::default() };
    let tree = DeltaTree::open(Arc::new(MemoryDisk::new()), config).expect("it opens");
    tree.apply(&batch(&(0..HANDLES).collect::<Vec<_>>(), 5)).expect("applied");
    tree.maintain(Timestamp(0), u64::MAX).expect("merged");
    let mut versions = vec![vec![5]; HANDLES as usize];
    for number in 0..TRANSACTIONS {
        let first = number as i64 * 7 % STEP;
        let handles: Vec<i64> = (first..HANDLES).step_by(STEP as usize).collect();
        tree.apply(&batch(&handles, 10 + number)).expect("applied");
        handles.iter().for_each(|h| versions[*h as usize].push(10 + number));
    }
    (tree, versions)
}

fn views(tree: &DeltaTree) -> Arc<Vec<Arc<segment::View>>> {
    Arc::new(tree.table(TABLE).expect("the table").lock().views())
}

fn narrow(ranges: &[(i64, i64)], ts: u64) -> ScanRequest {
    let range = |(first, last): &(i64, i64)| HandleRange { first: *first, last: *last };
    ScanRequest { ranges: ranges.iter().map(range).collect(), ..request(ts) }
}

fn read(tree: &DeltaTree, request: &ScanRequest) -> Vec<i64> {
    let mut values = Vec::new();
    for part in tree.snapshot(TABLE).expect("a snapshot").scan(request, 1).expect("a scan") {
        for batch in part {
            let batch = batch.expect("rows");
            values.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        }
    }
    values.sort_unstable();
    values
}

const READS: [&[(i64, i64)]; 6] = [
    &[(58, 58)],
    &[(-3, 0)],
    &[(1234, 1234), (1235, 1235), (3999, 4100)],
    &[(2000, 2020)],
    &[(7, 9), (100, 130), (131, 140), (3000, 3000)],
    &[(500, 800)],
];

#[test]
fn narrow_reads_of_overlapping_chunks_find_the_rows() {
    let (tree, versions) = updated_tree();
    for ts in [4, 5, 10, 33, 50, 78, 79, u64::MAX] {
        for ranges in READS {
            let inside = ranges.iter().flat_map(|(a, b)| *a.max(&0)..=*b.min(&(HANDLES - 1)));
            let expected: Vec<i64> = inside
                .filter_map(|h| {
                    let seen = versions[h as usize].iter().rev().find(|v| **v <= ts);
                    seen.map(|version| value(h, *version))
                })
                .collect();
            let request = narrow(ranges, ts);
            assert_eq!(read(&tree, &request), expected, "{ranges:?} at {ts}");
            let snapshot = tree.snapshot(TABLE).expect("a snapshot");
            let count = snapshot.count(&request.ranges, request.ts).expect("a count");
            assert_eq!(count, expected.len() as u64, "{ranges:?} at {ts}");
        }
    }
}

#[test]
fn a_narrow_read_touches_only_rows_in_its_ranges() {
    let (tree, versions) = updated_tree();
    let views = views(&tree);
    assert_eq!(views.len(), 1);
    let chunks = &views[0].chunks;
    assert!(chunks.len() > 7 && chunks.iter().any(|chunk| chunk.rows.len() > 1000));
    for ts in [33, 50, u64::MAX] {
        for ranges in READS {
            let inside = ranges.iter().flat_map(|(a, b)| *a.max(&0)..=*b.min(&(HANDLES - 1)));
            let stored: usize = inside.map(|h| versions[h as usize].len()).sum();
            let plan = Plan::new(views.clone(), &narrow(ranges, ts), Filter::default());
            let units = plan.expect("a plan").units;
            let rows: usize = units.iter().map(|unit| unit.rows).sum();
            assert!(rows <= stored, "{rows} rows for {stored} in {ranges:?} at {ts}");
            if ts == u64::MAX {
                assert_eq!(rows, stored, "{ranges:?}");
            }
            for unit in &units {
                if let Seen::Some(mask) = unit.seen(&views[0], ts).expect("a mask") {
                    let words = mask.inner().len().div_ceil(8);
                    let needed = unit.rows.div_ceil(64) + 1;
                    assert!(words <= needed, "{words} words for {unit:?} at {ts}");
                }
            }
        }
    }
}
