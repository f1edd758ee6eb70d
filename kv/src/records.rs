//! Log records to engine changes: the row reading of the log, one batch for one or many entries.
//! It must never read the engine: the same records give the same batch on every replica.

use crate::engine::{Cf, WriteBatch};
use damask_types::Record;
use damask_types::codec::{encode_key, encode_key_ts};

/// The changes that these records stand for, in their order.
pub fn records_to_batch(records: &[Record]) -> WriteBatch {
    let mut batch = WriteBatch::default();
    batch.ops.reserve(records.len());
    append_records(&mut batch, records);
    batch
}

/// Adds the changes that these records stand for to a batch, in their order.
pub fn append_records(batch: &mut WriteBatch, records: &[Record]) {
    for record in records {
        match record {
            Record::Lock { key, lock } => batch.put(Cf::Lock, encode_key(key), lock.encode()),
            Record::Unlock { key } => batch.delete(Cf::Lock, encode_key(key)),
            Record::Value { key, start_ts, value } => {
                batch.put(Cf::Default, encode_key_ts(key, *start_ts), value.clone());
            }
            Record::DropValue { key, start_ts } => {
                batch.delete(Cf::Default, encode_key_ts(key, *start_ts));
            }
            Record::Write { key, commit_ts, write } => {
                batch.put(Cf::Write, encode_key_ts(key, *commit_ts), write.encode());
            }
            Record::DropWrite { key, commit_ts } => {
                batch.delete(Cf::Write, encode_key_ts(key, *commit_ts));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Op;
    use damask_types::key::Hex;
    use damask_types::{Lock, LockKind, Timestamp, Write, WriteKind};

    /// One line a change: family, key, value, in hex; `-` for a delete.
    fn lines(records: &[Record]) -> Vec<String> {
        let batch = records_to_batch(records);
        let line = |op: &Op| match op {
            Op::Put(cf, key, value) => format!("{} {} {}", cf.name(), Hex(key), Hex(value)),
            Op::Delete(cf, key) => format!("{} {} -", cf.name(), Hex(key)),
            Op::DeleteRange(..) => unreachable!("no record removes a range"),
        };
        batch.ops.iter().map(line).collect()
    }

    /// The engine's bytes of a whole transaction, as TiKV writes them.
    #[test]
    fn golden_bytes() {
        let key = b"abc".to_vec();
        let (start_ts, commit_ts) = (Timestamp(5), Timestamp(0x0102));
        let mut lock = Lock::new(LockKind::Put, key.clone(), start_ts, 3000);
        lock.short_value = Some(b"v".to_vec());
        lock.min_commit_ts = Timestamp(6);
        let put = Write::new(WriteKind::Put, start_ts, Some(b"v".to_vec()));
        let mut fenced = Write::new(WriteKind::Put, start_ts, None);
        fenced.overlapped_rollback = true;
        fenced.gc_fence = Some(Timestamp(7));
        let enc = "6162630000000000fa";
        assert_eq!(
            lines(&[
                Record::Lock { key: key.clone(), lock },
                Record::Value { key: key.clone(), start_ts, value: b"long".to_vec() },
                Record::Write { key: key.clone(), commit_ts, write: put },
                Record::Write { key: key.clone(), commit_ts, write: fenced },
                Record::Unlock { key: key.clone() },
                Record::Write {
                    key: key.clone(),
                    commit_ts: start_ts,
                    write: Write::rollback(start_ts, true),
                },
                Record::Write {
                    key: key.clone(),
                    commit_ts,
                    write: Write::new(WriteKind::Delete, start_ts, None)
                },
                Record::Write {
                    key: key.clone(),
                    commit_ts,
                    write: Write::new(WriteKind::Lock, start_ts, None)
                },
                Record::DropValue { key: key.clone(), start_ts },
                Record::DropWrite { key, commit_ts },
            ]),
            [
                // Type, primary with its length as a signed varint, start, ttl, `v` short, `c` ts.
                format!("lock {enc} 500661626305b817760176630000000000000006"),
                format!("default {enc}fffffffffffffffa 6c6f6e67"),
                format!("write {enc}fffffffffffffefd 5005760176"),
                format!("write {enc}fffffffffffffefd 500552460000000000000007"),
                format!("lock {enc} -"),
                format!("write {enc}fffffffffffffffa 5205760170"),
                format!("write {enc}fffffffffffffefd 4405"),
                format!("write {enc}fffffffffffffefd 4c05"),
                format!("default {enc}fffffffffffffffa -"),
                format!("write {enc}fffffffffffffefd -"),
            ]
        );
    }
}
