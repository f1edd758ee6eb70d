//! Every decoder of this crate that reads a disk or a wire, under bytes of any kind and under valid
//! bytes that were damaged: none panics, none keeps more than its input has, and what it accepts is
//! encoded and decoded to the same again. More of the same: `DAMASK_FUZZ=1000000`.

use damask_types::codec::{self, DecodeError, encode_key, encode_key_ts};
use damask_types::row::{Cell, RowView, decode_value, encode_row, encode_value};
use damask_types::schema::IntWidth;
use damask_types::{
    ColumnId, ColumnType, Datum, Decimal, IndexId, Lock, LockKind, Record, TableId, TableSchema,
    Timestamp, Write, WriteKind, WriteRef, key,
};

/// Inputs of each decoder; more from the environment.
const ROUNDS: u64 = 20_000;
/// What a decoder may keep, in bytes: a part of an input byte for every one that it has read
/// (an empty key among a lock's secondaries takes one byte there and a `Vec` here).
const KEPT_FACTOR: usize = 64;
const KEPT_BASE: usize = 512;

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Bytes that lengths, tags and paddings are made of, more often than others.
    fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => [0, 1, 2, 0x7F, 0x80, 0xF7, 0xFE, 0xFF][self.below(8)],
            1 => b"PDLSRvftcaFp"[self.below(12)],
            _ => self.next() as u8,
        }
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| self.byte()).collect()
    }

    /// A seed, damaged in up to four places.
    fn damaged(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(7) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.byte()),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 if at < bytes.len() => bytes[at] = self.byte(),
                4 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                // A length that is far too large.
                5 => bytes.splice(at..at, [0xFF; 9]).for_each(drop),
                _ => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
            }
        }
        bytes
    }
}

/// What a decoder made of an input.
struct Decoded {
    /// The same value, encoded again; `None`: this form has more than one encoding, or none.
    again: Option<Vec<u8>>,
    /// Bytes that the value keeps.
    kept: usize,
}

type Decode = fn(&[u8]) -> Result<Decoded, DecodeError>;

fn of_lock(lock: &Lock) -> usize {
    let secondaries = lock.secondaries.as_ref().map_or(0, |keys| {
        keys.capacity() * size_of::<Vec<u8>>() + keys.iter().map(Vec::capacity).sum::<usize>()
    });
    lock.primary.capacity()
        + lock.short_value.as_ref().map_or(0, Vec::capacity)
        + secondaries
        + lock.rollback_ts.capacity() * size_of::<Timestamp>()
}

fn lock(input: &[u8]) -> Result<Decoded, DecodeError> {
    let lock = Lock::decode(input)?;
    let again = lock.encode();
    assert_eq!(Lock::decode(&again).as_ref(), Ok(&lock), "what is encoded decodes");
    Ok(Decoded { again: Some(again), kept: of_lock(&lock) })
}

fn write(input: &[u8]) -> Result<Decoded, DecodeError> {
    let view = WriteRef::decode(input);
    let write = Write::decode(input);
    assert_eq!(view.is_ok(), write.is_ok(), "a view and its copy agree");
    let (view, write) = (view?, write?);
    assert_eq!(view.short_value, write.short_value.as_deref());
    let again = write.encode();
    assert_eq!(Write::decode(&again).as_ref(), Ok(&write), "what is encoded decodes");
    Ok(Decoded { again: Some(again), kept: write.short_value.as_ref().map_or(0, Vec::capacity) })
}

fn record(input: &[u8]) -> Result<Decoded, DecodeError> {
    let mut rest = input;
    let record = Record::take(&mut rest)?;
    assert!(rest.len() < input.len(), "a record has bytes");
    let mut again = Vec::new();
    record.put(&mut again);
    let mut rest = again.as_slice();
    assert_eq!(Record::take(&mut rest).as_ref(), Ok(&record), "what is encoded decodes");
    assert!(rest.is_empty(), "and whole");
    let kept = record.key().len()
        + match &record {
            Record::Lock { lock, .. } => of_lock(lock),
            Record::Value { value, .. } => value.capacity(),
            Record::Write { write, .. } => write.short_value.as_ref().map_or(0, Vec::capacity),
            Record::Unlock { .. } | Record::DropValue { .. } | Record::DropWrite { .. } => 0,
        };
    Ok(Decoded { again: Some(again), kept })
}

fn engine_key(input: &[u8]) -> Result<Decoded, DecodeError> {
    if let Ok((encoded, ts)) = codec::split_key_ts(input)
        && let Ok(user) = codec::decode_key(encoded)
    {
        assert_eq!(encode_key_ts(&user, ts), input, "a version has one form");
    }
    let user = codec::decode_key(input)?;
    assert_eq!(encode_key(&user), input, "a key has one form");
    Ok(Decoded { again: Some(encode_key(&user)), kept: user.capacity() })
}

fn of_datums(datums: &[Datum]) -> usize {
    let bytes = |datum: &Datum| match datum {
        Datum::Text(text) => text.capacity(),
        Datum::Bytes(bytes) => bytes.capacity(),
        _ => 0,
    };
    size_of_val(datums) + datums.iter().map(bytes).sum::<usize>()
}

fn sorted(datum: &Datum) -> Vec<u8> {
    let mut out = Vec::new();
    datum.put_sorted(&mut out);
    out
}

fn datum(input: &[u8]) -> Result<Decoded, DecodeError> {
    let mut rest = input;
    let datum = Datum::take_sorted(&mut rest)?;
    let again = sorted(&datum);
    let taken = &input[..input.len() - rest.len()];
    // 0.0 and -0.0 are one value; a NaN keeps its bits.
    if !matches!(datum, Datum::Double(v) if v == 0.0) {
        assert_eq!(again, taken, "{datum:?} has one form");
    }
    // Whatever it is, it can be shown.
    if let Datum::Decimal(decimal) = &datum {
        assert!(!decimal.to_string().is_empty());
        decimal.rescale(2);
        decimal.to_f64();
    }
    Ok(Decoded { again: None, kept: of_datums(&[datum]) })
}

fn index_key(input: &[u8]) -> Result<Decoded, DecodeError> {
    key::decode_row_key(input);
    key::decode_table(input);
    for columns in 0..4 {
        let Ok((datums, handle)) = key::decode_index_key(input, columns) else { continue };
        assert_eq!(datums.len(), columns);
        let table = key::decode_table(input).expect("an index key names its table");
        let index = codec::take_i64_sorted(&mut &input[11..19]).expect("eight bytes");
        let index = IndexId(index);
        let zero = |datum: &Datum| matches!(datum, Datum::Double(v) if *v == 0.0);
        if !datums.iter().any(zero) {
            assert_eq!(key::index_key(table, index, &datums, handle), input, "it has one form");
        }
    }
    let (datums, _) = key::decode_index_key(input, 2)?;
    Ok(Decoded { again: None, kept: of_datums(&datums) })
}

fn handle(input: &[u8]) -> Result<Decoded, DecodeError> {
    let handle = key::decode_handle(input)?;
    assert_eq!(key::encode_handle(handle), input, "a handle has one form");
    Ok(Decoded { again: None, kept: 0 })
}

fn column_types() -> [ColumnType; 9] {
    [
        ColumnType::Bool,
        ColumnType::Int { width: IntWidth::Big, unsigned: false },
        ColumnType::Int { width: IntWidth::Tiny, unsigned: true },
        ColumnType::Double,
        ColumnType::Decimal { precision: 38, scale: 2 },
        ColumnType::VarChar { len: 9 },
        ColumnType::Blob { bytes_max: 99 },
        ColumnType::Date,
        ColumnType::DateTime { fsp: 6 },
    ]
}

/// A value form, as every type of column.
fn value(input: &[u8]) -> Result<Decoded, DecodeError> {
    let (mut kept, mut failed) = (0, None);
    for ty in column_types() {
        match decode_value(&ty, input) {
            Ok(datum) => {
                let again = encode_value(&datum).expect("not NULL");
                let same = decode_value(&ty, &again);
                let is_nan = matches!(datum, Datum::Double(v) if v.is_nan());
                assert!(is_nan || same == Ok(datum.clone()), "{ty:?}: {datum:?}, then {same:?}");
                kept += of_datums(&[datum]);
            }
            Err(e) => failed = Some(e),
        }
    }
    failed.map_or(Ok(Decoded { again: None, kept }), Err)
}

fn row(input: &[u8]) -> Result<Decoded, DecodeError> {
    let row = RowView::new(input)?;
    let ids: Vec<ColumnId> = row.column_ids().collect();
    let mut kept = 0;
    for id in &ids {
        if let Cell::Value(bytes) = row.get(*id) {
            drop(value(bytes));
            // Cells lie side by side in the row.
            kept = kept.max(bytes.len());
        }
    }
    assert!(ids.len() <= input.len());
    Ok(Decoded { again: None, kept })
}

fn schema(input: &[u8]) -> Result<Decoded, DecodeError> {
    let bad = |_| DecodeError("not a schema");
    let schema: TableSchema = serde_json::from_slice(input).map_err(bad)?;
    let again = serde_json::to_vec(&schema).expect("JSON");
    let same: TableSchema = serde_json::from_slice(&again).expect("what is encoded decodes");
    assert_eq!(same, schema);
    Ok(Decoded { again: None, kept: 0 })
}

fn locks() -> Vec<Vec<u8>> {
    let mut full = Lock::new(LockKind::Put, b"primary".to_vec(), Timestamp(1 << 40), 3_000);
    full.short_value = Some(vec![7; 255]);
    full.for_update_ts = Timestamp(u64::MAX);
    full.txn_size = 3;
    full.min_commit_ts = Timestamp(9);
    full.secondaries = Some(vec![b"one".to_vec(), Vec::new(), vec![0xFF; 40]]);
    full.rollback_ts = vec![Timestamp(1), Timestamp(u64::MAX)];
    let kinds = [LockKind::Put, LockKind::Delete, LockKind::Lock, LockKind::Pessimistic];
    let plain = kinds.map(|kind| Lock::new(kind, b"p".to_vec(), Timestamp(5), 1).encode());
    plain.into_iter().chain([full.encode()]).collect()
}

fn writes() -> Vec<Vec<u8>> {
    let mut full = Write::new(WriteKind::Put, Timestamp(1 << 50), Some(vec![7; 255]));
    full.overlapped_rollback = true;
    full.gc_fence = Some(Timestamp(3));
    let kinds = [WriteKind::Put, WriteKind::Delete, WriteKind::Lock, WriteKind::Rollback];
    let plain = kinds.map(|kind| Write::new(kind, Timestamp(5), None).encode());
    plain.into_iter().chain([full.encode(), Write::rollback(Timestamp(5), true).encode()]).collect()
}

fn records() -> Vec<Vec<u8>> {
    let key = b"key".to_vec();
    let lock = Lock::decode(&locks()[4]).expect("just made");
    let write = Write::decode(&writes()[4]).expect("just made");
    let (start_ts, commit_ts) = (Timestamp(5), Timestamp(9));
    let all = [
        Record::Lock { key: key.clone(), lock },
        Record::Unlock { key: key.clone() },
        Record::Value { key: key.clone(), start_ts, value: vec![7; 300] },
        Record::DropValue { key: key.clone(), start_ts },
        Record::Write { key: key.clone(), commit_ts, write },
        Record::DropWrite { key, commit_ts },
    ];
    let put = |record: &Record| {
        let mut out = Vec::new();
        record.put(&mut out);
        out
    };
    all.iter().map(put).collect()
}

fn datums() -> Vec<Datum> {
    vec![
        Datum::Null,
        Datum::Int(i64::MIN),
        Datum::UInt(u64::MAX),
        Datum::Double(-1.5),
        Datum::Decimal(Decimal { unscaled: -12_345, scale: 3 }),
        Datum::Text("twelve bytes".to_owned()),
        Datum::Bytes(vec![0xFF; 9]),
        Datum::Date(-1),
        Datum::DateTime(1 << 50),
        Datum::Time(-1),
    ]
}

fn rows() -> Vec<Vec<u8>> {
    let datums = datums();
    let cells = |first: i64| -> Vec<(ColumnId, &Datum)> {
        (first..).map(ColumnId).zip(datums.iter()).collect()
    };
    // Of both sizes.
    vec![encode_row(&cells(1)), encode_row(&cells(300)), encode_row(&[])]
}

fn index_keys() -> Vec<Vec<u8>> {
    let datums = datums();
    let pairs = datums.chunks(2);
    let entry = |pair: &[Datum]| key::index_key(TableId(-7), IndexId(2), pair, Some(-1));
    let mut keys: Vec<Vec<u8>> = pairs.map(entry).collect();
    keys.push(key::index_key(TableId(1), IndexId(1), &[], None));
    keys.push(key::row_key(TableId(1), 5));
    keys
}

fn schemas() -> Vec<Vec<u8>> {
    let column = damask_types::ColumnSchema {
        id: ColumnId(1),
        name: "a".to_owned(),
        ty: ColumnType::Decimal { precision: 38, scale: 2 },
        nullable: true,
        default: None,
        origin_default: Some(vec![1, 2, 3]),
        auto_increment: false,
        on_update_now: false,
        comment: "ä".to_owned(),
    };
    let schema = TableSchema {
        id: TableId(1),
        database: "d".to_owned(),
        name: "t".to_owned(),
        version: 3,
        columns: vec![column],
        handle_column: None,
        indexes: Vec::new(),
        column_replicas: 1,
        max_column_id: ColumnId(1),
        max_index_id: IndexId(0),
        comment: String::new(),
    };
    vec![serde_json::to_vec(&schema).expect("JSON")]
}

/// Name, decoder, and valid inputs of it.
fn targets() -> Vec<(&'static str, Decode, Vec<Vec<u8>>)> {
    let keys = [&b""[..], b"abc", b"12345678", &[0xFF; 20]];
    let engine_keys = keys.iter().map(|key| encode_key(key));
    let versions = keys.iter().map(|key| encode_key_ts(key, Timestamp(77)));
    vec![
        ("lock", lock, locks()),
        ("write", write, writes()),
        ("record", record, records()),
        ("engine key", engine_key, engine_keys.chain(versions).collect()),
        ("datum", datum, datums().iter().map(sorted).collect()),
        ("index key", index_key, index_keys()),
        ("handle", handle, vec![key::encode_handle(-5)]),
        ("value", value, datums().iter().filter_map(encode_value).collect()),
        ("row", row, rows()),
        ("schema", schema, schemas()),
    ]
}

fn try_one(name: &str, decode: Decode, input: &[u8]) -> bool {
    let Ok(Decoded { again, kept }) = decode(input) else { return false };
    let most = KEPT_BASE + KEPT_FACTOR * input.len();
    assert!(kept <= most, "{name}: {kept} bytes kept of {} in {input:02x?}", input.len());
    if let Some(again) = again {
        // Encoding what was decoded is stable.
        let twice = decode(&again).expect("what is encoded decodes");
        assert_eq!(twice.again.as_ref(), Some(&again), "{name}: {input:02x?}");
    }
    true
}

#[test]
fn every_seed_is_accepted() {
    for (name, decode, seeds) in targets() {
        // Of versions, rows among index keys, and values of many types, the next test knows more.
        let accepted = seeds.iter().filter(|seed| try_one(name, decode, seed)).count();
        let partly = matches!(name, "engine key" | "index key" | "value");
        assert!(accepted > 0 || name == "value", "{name}");
        assert!(partly || accepted == seeds.len(), "{name}: {accepted} of {}", seeds.len());
    }
}

#[test]
fn no_bytes_break_a_decoder() {
    let rounds = std::env::var("DAMASK_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    for (number, (name, decode, seeds)) in (1..).zip(targets()) {
        let mut chance = Chance(number);
        let mut accepted = 0;
        for round in 0..rounds {
            let input = match round % 4 {
                0 => chance.bytes(80),
                _ => chance.damaged(&seeds),
            };
            accepted += u64::from(try_one(name, decode, &input));
        }
        assert!(accepted < rounds, "{name} refuses nothing");
    }
}
