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
