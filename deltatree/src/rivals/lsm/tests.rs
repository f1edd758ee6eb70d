//! Both readers of the LSM through the conformance suite, in memory and on RocksDB; what is picked
//! for compaction, and that pages come back as they were.

use super::pages::MemoryPages;
use super::*;
use crate::testing;

/// A place in memory that can be opened again and again.
fn place(config: LsmConfig) -> testing::Opener {
    let shelf = Shelf::new(Box::<MemoryPages>::default(), config.cache_bytes);
    Box::new(move || {
        let store = LsmColumns::open_shelf(shelf.clone(), config.clone());
        Arc::new(store.expect("it opens"))
    })
}

#[test]
fn suite_of_the_strong_reader() {
    testing::suite(|| place(LsmConfig::small()));
}

#[test]
fn suite_of_the_naive_reader() {
    testing::suite(|| place(LsmConfig { naive: true, ..LsmConfig::small() }));
}

#[cfg(feature = "rocksdb")]
#[test]
fn suite_on_rocksdb() {
    testing::suite(|| {
        let folder = tempfile::tempdir().expect("a folder");
        Box::new(move || {
            let store = LsmColumns::open(folder.path(), LsmConfig::small());
            Arc::new(store.expect("it opens"))
        })
    });
}

#[test]
fn what_is_compacted() {
    let config = LsmConfig { size_amplification_percent: 50, ..LsmConfig::default() };
    for (sizes, expected) in [
        (vec![], None),
        (vec![100], None),
        (vec![100, 49], None),
        // half of the oldest: everything
        (vec![100, 50], Some(0..2)),
        (vec![1000, 100, 100], None),
        // four runs: those of about one size, the youngest first
        (vec![1000, 100, 30, 30], Some(2..4)),
        (vec![1000, 100, 100, 10], Some(1..3)),
        (vec![10_000, 640, 320, 160, 80, 40, 20, 10], None),
        (vec![10_000, 1280, 640, 320, 160, 80, 40, 20, 10], Some(7..9)),
    ] {
        assert_eq!(pick(&sizes, &config), expected, "{sizes:?}");
    }
}

#[test]
fn a_page_that_is_cut_is_corrupt() {
    use arrow::array::{Array, ArrayRef, StringArray};
    let values: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("ccc")]));
    let present = Some(arrow::buffer::BooleanBuffer::from(vec![true, false, true]));
    let page = codec::encode_column(&run::Column { values: values.clone(), present })
        .expect("a known type");
    let column = codec::decode_column(page.clone()).expect("whole");
    assert_eq!(column.values.to_data(), values.to_data());
    assert_eq!(column.present.map(|bits| bits.count_set_bits()), Some(2));
    for len in 0..page.len() {
        match codec::decode_column(page[..len].to_vec()) {
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{len} bytes"),
            Ok(column) => assert_eq!(column.values.to_data(), values.to_data(), "{len} bytes"),
        }
    }
}
