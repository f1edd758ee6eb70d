//! DeltaTree through the conformance suite, and its files byte by byte.

use super::*;
use crate::testing;
use arrow::array::{Array, AsArray, BooleanArray, Int64Array, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use damask_env::{MemoryDisk, RealDisk};

mod derived;
mod encoded;
mod load;
mod narrow;
mod pushed;
mod torn;
mod traps;

fn open(disk: Arc<dyn Disk>) -> Result<Arc<dyn ColumnStore>> {
    Ok(Arc::new(DeltaTree::open(disk, Config::small())?))
}

#[test]
fn suite_in_memory() {
    testing::suite(|| {
        let disk = MemoryDisk::new();
        Box::new(move || open(Arc::new(disk.clone())).expect("it opens"))
    });
}

#[test]
fn suite_on_a_real_disk() {
    testing::suite(|| {
        let folder = tempfile::tempdir().expect("a folder");
        Box::new(move || {
            let disk = RealDisk::open(folder.path()).expect("a disk");
            open(Arc::new(disk)).expect("it opens")
        })
    });
}

#[test]
fn suite_of_the_model() {
    testing::suite(|| {
        let store = Arc::new(crate::MemoryColumnStore::new());
        Box::new(move || store.clone())
    });
}

#[test]
fn crashes_and_failing_io() {
    testing::crash_suite(&open);
}

#[test]
fn flipped_bits() {
    testing::flip_suite(&open);
}

fn rows(handles: std::ops::Range<i64>, version: u64) -> ChangeBatch {
    let n = handles.end as usize - handles.start as usize;
    let fields =
        vec![Field::new("1", DataType::Int64, true), Field::new("2", DataType::Utf8, true)];
    let numbers = Int64Array::from_iter(handles.clone().map(|h| (h % 7 != 0).then_some(h * 2)));
    let texts = StringArray::from_iter_values(handles.clone().map(|h| format!("row {h}")));
    let schema = Arc::new(Schema::new(fields));
    ChangeBatch {
        table: TableId(100),
        handles: Int64Array::from_iter_values(handles),
        versions: UInt64Array::from(vec![version; n]),
        deleted: BooleanArray::from(vec![false; n]),
        columns: arrow::array::RecordBatch::try_new(
            schema,
            vec![Arc::new(numbers), Arc::new(texts)],
        )
        .expect("columns of one length"),
    }
}

fn request(ts: u64) -> crate::ScanRequest {
    crate::ScanRequest {
        ranges: vec![HandleRange::ALL],
        ts: Timestamp(ts),
        schema: Arc::new(Schema::new(vec![Field::new("1", DataType::Int64, true)])),
        defaults: vec![Arc::new(Int64Array::from(vec![None::<i64>]))],
        prune: Vec::new(),
        batch_rows: 1 << 16,
    }
}

fn merged_tree(disk: &MemoryDisk, config: Config) -> DeltaTree {
    let tree = DeltaTree::open(Arc::new(disk.clone()), config).expect("it opens");
    tree.apply(&rows(0..50, 5)).expect("applied");
    tree.apply(&rows(10..20, 8)).expect("applied");
    tree.sync(&[(7, b"mark".to_vec())]).expect("synced");
    tree.maintain(Timestamp(0), u64::MAX).expect("merged");
    tree
}

#[test]
fn every_flipped_bit_of_a_stable_file_is_found() {
    let disk = MemoryDisk::new();
    drop(merged_tree(&disk, Config::small()));
    let (name, len) =
        disk.files().into_iter().find(|(name, _)| name.ends_with(".stable")).expect("it merged");
    for offset in 0..len {
        let image = disk.crash_image(|_| 0);
        image.flip(&name, offset, (offset % 8) as u8);
        let opened = DeltaTree::open(Arc::new(image), Config::small());
        let e = opened.and_then(|tree| tree.verify()).expect_err("a bit was flipped");
        assert_eq!(e.kind(), ErrorKind::Corrupt, "byte {offset}");
        assert!(e.detail.contains(&name), "byte {offset}: {e}");
    }
}

/// `DAMASK_GOLDEN=write` writes the files anew; read the difference before it is committed.
#[test]
fn files_are_as_they_were() {
    let disk = MemoryDisk::new();
    drop(merged_tree(&disk, Config::small()));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    for (name, _) in disk.files() {
        let path = format!("{folder}/{}", name.replace('/', "-"));
        let bytes = disk.map(&name).expect("it is there");
        if std::env::var_os("DAMASK_GOLDEN").is_some() {
            std::fs::create_dir_all(folder).expect("a folder");
            std::fs::write(&path, &**bytes).expect("written");
        }
        let golden = std::fs::read(&path).expect("a golden file");
        assert!(golden == **bytes, "{path} differs: a new format needs a new version");
    }
}

#[test]
fn a_clean_pack_is_handed_out_without_a_copy() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Arc::new(RealDisk::open(folder.path()).expect("a disk"));
    let config = Config { merge_rows_min: 1, ..Config::default() };
    let tree = DeltaTree::open(disk, config).expect("it opens");
    let mut batch = rows(0..10_000, 5);
    // numbers of all 64 bits in no series: narrow ones would be encoded
    let wide = (0..10_000u64).map(|h| (h * h).wrapping_mul(0x9e37_79b9_7f4a_7c15) as i64);
    let wide = Arc::new(Int64Array::from_iter_values(wide)) as Arc<dyn Array>;
    let columns = vec![wide, batch.columns.column(1).clone()];
    let schema = batch.columns.schema();
    batch.columns = arrow::array::RecordBatch::try_new(schema, columns).expect("two columns");
    tree.apply(&batch).expect("applied");
    tree.maintain(Timestamp(0), u64::MAX).expect("merged");
    let table = tree.table(TableId(100)).expect("the table");
    let stable = table.lock().segments_at(i64::MIN, 1)[0].view.stable.clone().expect("merged");
    let address = || {
        let parts = tree.snapshot(TableId(100)).expect("a snapshot").scan(&request(9), 1);
        let mut part = parts.expect("a scan").remove(0);
        let batch = part.next().expect("a batch").expect("rows");
        let values = batch.column(0).as_primitive::<Int64Type>().values().as_ptr();
        assert_eq!((values as usize) % bytes::ALIGN, 0);
        assert!(stable.mapped().contains(&(values as usize)), "in the mapped file");
        values as usize
    };
    assert_eq!(address(), address());
}

#[test]
fn merges_split_large_segments_and_old_files_go() {
    let disk = MemoryDisk::new();
    let config = Config { segment_rows_max: 64, pack_rows: 16, ..Config::small() };
    let tree = DeltaTree::open(Arc::new(disk.clone()), config).expect("it opens");
    tree.apply(&rows(0..400, 5)).expect("applied");
    tree.maintain(Timestamp(0), u64::MAX).expect("merged");
    let stable = || disk.files().iter().filter(|(name, _)| name.ends_with(".stable")).count();
    let files = stable();
    assert!(files > 3, "{files} files");
    let old = tree.snapshot(TableId(100)).expect("a snapshot");
    tree.apply(&rows(0..400, 6)).expect("applied");
    tree.sync(&[]).expect("synced");
    tree.maintain(Timestamp(6), u64::MAX).expect("merged");
    assert!(stable() > files, "an open snapshot keeps its files");
    assert_eq!(old.count(&[HandleRange::ALL], Timestamp(5)).expect("a count"), 400);
    drop(old);
    assert_eq!(tree.stats(TableId(100)).expect("stats").stable_rows, 400);
    let mut named = 0;
    for durable in tree.merging.lock().tables.values().flatten() {
        named += usize::from(durable.file.is_some());
    }
    assert_eq!(stable(), named);
}

#[test]
fn writes_go_on_while_a_merge_runs() {
    let tree = merged_tree(&MemoryDisk::new(), Config::small());
    let table = tree.table(TableId(100)).expect("the table");
    tree.apply(&rows(40..60, 20)).expect("applied");
    let mut locked = table.lock();
    let inputs = [locked.segments_at(i64::MIN, 1)[0].seal()];
    let merged = locked.last_seq;
    drop(locked);
    // after the merge took its view: new rows, a removal, and a row into the removed range
    tree.apply(&rows(0..5, 30)).expect("applied");
    tree.clear(TableId(100), HandleRange { first: 41, last: 50 }).expect("cleared");
    tree.apply(&rows(45..46, 31)).expect("applied");
    let written = tree.write_merged(TableId(100), &inputs, 0, merged, &mut Vec::new());
    let (segments, _) = written.expect("merged");
    table.lock().replace_segments(i64::MIN, 1, segments, 12);
    let snapshot = tree.snapshot(TableId(100)).expect("a snapshot");
    let count = |ts| snapshot.count(&[HandleRange::ALL], Timestamp(ts)).expect("a count");
    assert_eq!([count(5), count(20), count(30), count(31)], [41, 50, 50, 51]);
}

#[test]
fn a_changed_type_is_refused() {
    let tree = DeltaTree::open(Arc::new(MemoryDisk::new()), Config::default()).expect("it opens");
    tree.apply(&rows(0..5, 5)).expect("applied");
    let mut batch = rows(5..6, 6);
    let fields = vec![Field::new("1", DataType::Utf8, true)];
    let array = Arc::new(StringArray::from(vec!["x"])) as Arc<dyn Array>;
    let schema = Arc::new(Schema::new(fields));
    batch.columns = arrow::array::RecordBatch::try_new(schema, vec![array]).expect("one column");
    assert_eq!(tree.apply(&batch).expect_err("another type").kind(), ErrorKind::Invalid);
}

#[test]
fn logs_go_when_their_rows_are_merged() {
    let disk = MemoryDisk::new();
    let config = Config { log_file_bytes: 4096, log_bytes_max: 8192, ..Config::small() };
    let tree = DeltaTree::open(Arc::new(disk.clone()), config.clone()).expect("it opens");
    for step in 0..40 {
        tree.apply(&rows(step..step + 5, step as u64 + 1)).expect("applied");
        tree.sync(&[(1, vec![step as u8 + 1])]).expect("synced");
        tree.maintain(Timestamp(0), u64::MAX).expect("maintained");
    }
    let logs = disk.files().iter().filter(|(name, _)| name.starts_with("log/")).count();
    assert!(logs <= 5, "{logs} log files");
    drop(tree);
    let tree = DeltaTree::open(Arc::new(disk.crash_image(|_| 0)), config).expect("it opens");
    assert_eq!(tree.marks().expect("marks"), [(1, vec![40])]);
    let snapshot = tree.snapshot(TableId(100)).expect("a snapshot");
    assert_eq!(snapshot.count(&[HandleRange::ALL], Timestamp::MAX).expect("a count"), 44);
}
