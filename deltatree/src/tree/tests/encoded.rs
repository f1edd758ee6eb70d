//! Files whose blocks are encoded: what is small, what stays mapped, what old files give, and
//! wrong bytes of every encoding.

use super::*;
use crate::testing::model::Numbers;
use crate::tree::stable::{Stable, WriteColumn, Writer};
use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Decimal128Array, DurationMicrosecondArray, Float64Array,
    TimestampMicrosecondArray, new_empty_array, new_null_array,
};
use arrow::buffer::BooleanBuffer;

const ROWS: usize = 2000;

/// A file of one pack with these columns; its number is 1.
fn file(disk: &MemoryDisk, columns: &[(ArrayRef, Option<BooleanBuffer>)]) -> Stable {
    let rows = columns[0].0.len();
    let names = (0..columns.len()).map(|at| (at.to_string(), columns[at].0.data_type().clone()));
    let mut writer = Writer::create(disk, 1, TableId(100), names.collect()).expect("a file");
    let columns: Vec<WriteColumn> = columns.iter().map(|column| Some(column.clone())).collect();
    let handles = (0..rows as i64).map(|h| h * 3).collect();
    writer.pack(handles, vec![9; rows], None, columns).expect("a pack");
    writer.finish().expect("written");
    Stable::open(Arc::new(disk.clone()), TableId(100), 1).expect("it opens")
}

fn bytes_of(array: ArrayRef) -> u64 {
    file(&MemoryDisk::new(), &[(array, None)]).len()
}

fn numbers(end: u64) -> ArrayRef {
    let mut numbers = Numbers(end);
    Arc::new(Int64Array::from_iter_values((0..ROWS).map(|_| numbers.below(end) as i64)))
}

fn words(count: u64) -> ArrayRef {
    let mut numbers = Numbers(count);
    Arc::new(StringArray::from_iter_values(
        (0..ROWS).map(|_| format!("kind {}", numbers.below(count))),
    ))
}

/// Of every type: empty values, equal ones, extremes, noise, and each with NULLs.
fn columns_of_all_types() -> Vec<ArrayRef> {
    let mut random = Numbers(5);
    let mut columns: Vec<ArrayRef> = Vec::new();
    for kind in 0..5 {
        for with_nulls in [false, true] {
            let value = |i: usize, random: &mut Numbers| match kind {
                0 => 7,
                1 => i as i64 * 1000 - 5,
                2 => [i64::MIN, i64::MAX, 0, -1][i % 4],
                3 => random.below(200) as i64 - 100,
                _ => random.below(u64::MAX) as i64,
            };
            let values: Vec<Option<i64>> = (0..ROWS)
                .map(|i| (!with_nulls || i % 5 != 0).then(|| value(i, &mut random)))
                .collect();
            let each = || values.iter().copied();
            let text = |v: i64| if v == 0 { String::new() } else { format!("{v} {v}") };
            columns.extend([
                Arc::new(Int64Array::from_iter(each())) as ArrayRef,
                Arc::new(UInt64Array::from_iter(each().map(|v| v.map(|v| v as u64)))),
                Arc::new(Float64Array::from_iter(
                    each().map(|v| v.map(|v| if v == 0 { f64::NAN } else { v as f64 })),
                )),
                Arc::new(Decimal128Array::from_iter(
                    each().map(|v| v.map(|v| i128::from(v) * i128::from(v))),
                )),
                Arc::new(Date32Array::from_iter(each().map(|v| v.map(|v| v as i32)))),
                Arc::new(TimestampMicrosecondArray::from_iter(each())),
                Arc::new(DurationMicrosecondArray::from_iter(each())),
                Arc::new(StringArray::from_iter(each().map(|v| v.map(text)))),
                Arc::new(BinaryArray::from_iter(each().map(|v| v.map(text)))),
            ]);
        }
    }
    for at in 0..9 {
        columns.push(new_null_array(columns[at].data_type(), ROWS));
    }
    columns
}

#[test]
fn every_type_comes_back_bit_by_bit() {
    for len in [ROWS, 100, 8, 1] {
        let offset = (ROWS - len) / 2;
        let columns: Vec<_> = columns_of_all_types()
            .iter()
            .enumerate()
            .map(|(at, column)| {
                let absent = BooleanBuffer::collect_bool(len, |i| i % (at + 1) == 1);
                (column.slice(offset, len), (at % 2 == 0).then_some(absent))
            })
            .collect();
        let stable = file(&MemoryDisk::new(), &columns);
        stable.verify().expect("as it was written");
        for (at, (array, absent)) in columns.iter().enumerate() {
            let column = stable.column(0, at).expect("it opens").expect("it is there");
            assert_eq!(column.absent.as_ref(), absent.as_ref(), "column {at}, {len} rows");
            // a NaN is not equal to itself: floats are compared by their bits
            let floats = |array: &ArrayRef| {
                let floats = array.as_primitive_opt::<arrow::datatypes::Float64Type>();
                floats.map(|f| f.iter().map(|v| v.map(f64::to_bits)).collect::<Vec<_>>())
            };
            match floats(array) {
                None => assert_eq!(column.array.to_data(), array.to_data(), "column {at}"),
                some => assert_eq!(floats(&column.array), some, "column {at}, {len} rows"),
            }
        }
        let keys = stable.keys(0).expect("keys");
        assert!(keys.handles.iter().enumerate().all(|(i, h)| *h == i as i64 * 3));
        assert!(keys.versions.iter().all(|version| *version == 9));
    }
}

#[test]
fn empty_arrays_come_back() {
    for column in columns_of_all_types() {
        for form in [block::Form::Raw, block::Form::Chosen] {
            let (mut out, empty) = (Vec::new(), new_empty_array(column.data_type()));
            let descriptor = block::write(&mut out, 0, &empty, None, form).expect("written");
            let opened = descriptor.open("f", &arrow::buffer::Buffer::from(out), 0);
            assert_eq!(opened.expect("opened").array.len(), 0);
        }
    }
}

#[test]
fn what_repeats_takes_less_and_noise_stays_raw() {
    let raw = bytes_of(numbers(u64::MAX));
    let width = ROWS as u64 * 8;
    assert!((width..width + 1000).contains(&raw), "handles and versions are all but free: {raw}");
    let constant: ArrayRef = Arc::new(Int64Array::from(vec![77; ROWS]));
    assert_eq!(raw - bytes_of(constant), (width.next_multiple_of(64)) - 64);
    let series: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
    assert_eq!(raw - bytes_of(series), (width.next_multiple_of(64)) - 64);
    // 10 of 64 bits are left, and the heads
    assert!(raw - bytes_of(numbers(1000)) > width * 84 / 100 - 64);
    let texts = words(4);
    let plain = texts.to_data().get_slice_memory_size().expect("a size") as u64;
    assert!(bytes_of(texts) * 3 < plain, "of {plain} bytes");
}

#[test]
fn numbers_that_do_not_shrink_are_handed_out_where_they_are_mapped() {
    let disk = MemoryDisk::new();
    let null_some =
        |i: i64| (i % 64 != 0).then_some(i.wrapping_mul(0x9e37_79b9_7f4a_7c15u64 as i64));
    let holes: ArrayRef = Arc::new(Int64Array::from_iter((0..ROWS as i64).map(null_some)));
    let stable = file(
        &disk,
        &[(numbers(u64::MAX), None), (numbers(1 << 40), None), (holes, None), (numbers(9), None)],
    );
    let range = stable.mapped();
    let is_mapped = |at: usize| {
        let column = stable.column(0, at).expect("it opens").expect("it is there");
        let first = column.array.as_primitive::<Int64Type>().values().as_ptr() as usize;
        let is_mapped = range.contains(&first);
        assert!(!is_mapped || (first - range.start).is_multiple_of(bytes::ALIGN));
        is_mapped
    };
    assert_eq!([0, 1, 2, 3].map(is_mapped), [true, true, true, false]);
    let again = |at| stable.column(0, at).expect("open").expect("there").array.clone();
    assert!(Arc::ptr_eq(&again(3), &again(3)), "it is decoded once");
}

#[test]
fn every_flipped_bit_of_every_encoding_is_found() {
    let disk = MemoryDisk::new();
    let holes: ArrayRef =
        Arc::new(Int64Array::from_iter((0..ROWS as i64).map(|i| (i < 3).then_some(i * i))));
    let clock: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(
        (0..ROWS as i64).map(|i| (i << 40) + i * i % 50),
    ));
    let absent = BooleanBuffer::new_set(ROWS);
    let columns = [(numbers(900), None), (holes, Some(absent)), (clock, None), (words(7), None)];
    let len = file(&disk, &columns).len();
    for offset in 0..len as usize {
        let image = disk.crash_image(|unsynced| unsynced);
        assert!(image.flip("stable/000000000001.stable", offset, (offset % 8) as u8));
        let opened = Stable::open(Arc::new(image), TableId(100), 1);
        let e = opened.and_then(|file| file.verify()).expect_err("a bit was flipped");
        assert_eq!(e.kind(), ErrorKind::Corrupt, "byte {offset}");
    }
}

/// Bytes that are wrong under a checksum that is right, as a faulty writer would leave them.
#[test]
fn a_wrong_encoding_with_a_right_checksum_never_panics() {
    let mut random = Numbers(3);
    for array in [numbers(900), numbers(u64::MAX), words(7), words(1 << 60)] {
        let mut out = Vec::new();
        let descriptor =
            block::write(&mut out, 0, &array, None, block::Form::Chosen).expect("written");
        for turn in 0..400 {
            let (mut wrong, mut descriptor) = (out.clone(), descriptor.clone());
            let end = if turn % 2 == 0 { 16 } else { out.len() as u64 };
            wrong[random.below(end) as usize] ^= 1 << random.below(8);
            descriptor.crc = crc32fast::hash(&wrong);
            let buffer = arrow::buffer::Buffer::from(wrong);
            for rows in [ROWS, 0, 1, ROWS * 10, u32::MAX as usize] {
                let _ = descriptor.open("f", &buffer, rows);
            }
        }
    }
}

#[test]
fn files_of_version_1_are_read() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/version-1.stable");
    let disk = MemoryDisk::new();
    let bytes = std::fs::read(golden).expect("a golden file");
    assert_eq!(bytes[8], 1);
    disk.open("stable/000000000001.stable").and_then(|file| file.append(&bytes)).expect("written");
    let stable = Stable::open(Arc::new(disk), TableId(100), 1).expect("it opens");
    stable.verify().expect("as it was written");
    assert_eq!((stable.base_rows, stable.history_rows), (50, 10));
    let column = stable.column(0, 0).expect("it opens").expect("it is there");
    assert_eq!(column.array.as_primitive::<Int64Type>().value(3), 6);
}
