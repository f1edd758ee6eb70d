//! Collects a range in bounded pieces, each one batch. It must never remove a key's newest delete
//! before, or without, every older record of the key.

use super::{GcSafePoint, KeyGc, Verdict};
use crate::engine::{Cf, Engine, Snapshot, WriteBatch};
use crate::error::Result;
use crate::mvcc::encoded_bounds;
use damask_env::{Mistake, mistaken};
use damask_types::codec::{self, decode_key, put_ts_desc, split_key_ts};
use damask_types::{KeyRange, Timestamp, WriteKind, WriteRef};

/// Records above the safe point that are stepped over before a seek goes past the rest.
const NEAR: usize = 8;

/// How much one call of [`sweep`] may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Records read; a key that was begun is gone on with until `removals_max`.
    pub records_max: usize,
    /// Write records removed, so the batch is about twice this. At least 1 is taken.
    pub removals_max: usize,
}

impl Default for Budget {
    /// A few milliseconds of reading, and a batch of about a megabyte.
    fn default() -> Budget {
        Budget { records_max: 32_768, removals_max: 8_192 }
    }
}

/// One piece of a sweep.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// To be written before the next piece's snapshot is taken.
    pub batch: WriteBatch,
    /// The user key to go on with; `None` when the range is done.
    pub resume: Option<Vec<u8>>,
    /// Write records read.
    pub records: u64,
    /// Write records removed by the batch.
    pub removed: u64,
    /// Long values removed by the batch.
    pub removed_values: u64,
}

/// The key that is being collected.
struct Open {
    encoded: Vec<u8>,
    gc: KeyGc,
    /// Records above the safe point so far.
    newer: usize,
    /// The record to be removed after all older ones: its engine key, and the value it may have.
    last: Option<(Vec<u8>, Option<Timestamp>)>,
}

/// What can be removed of `range` under `safe_point`: up to about `budget`, from the start of the
/// range on.
///
/// The batch is a statement about this snapshot. Nothing but ordinary commands may write the range
/// between the snapshot and the batch: where a range is replaced as a whole (a region's restore),
/// the two exclude each other. Else a delete could go whose older versions have just come back.
///
/// # Errors
/// `Corrupt` if a record cannot be read; those of the snapshot.
pub fn sweep(
    snapshot: &dyn Snapshot,
    range: &KeyRange,
    safe_point: Timestamp,
    budget: Budget,
) -> Result<Swept> {
    let mut swept = Swept::default();
    if range.is_empty() || safe_point == Timestamp::ZERO {
        return Ok(swept);
    }
    let (start, end) = encoded_bounds(range);
    let mut cursor = snapshot.cursor(Cf::Write, &start, &end)?;
    let mut open: Option<Open> = None;
    let mut seek = Vec::new();
    let mut pair = cursor.seek(&start)?;
    while let Some((key, value)) = pair {
        let (prefix, commit_ts) = split_key_ts(key)?;
        let key_open = match &mut open {
            Some(same) if same.encoded == prefix => same,
            before => {
                if let Some(done) = before.take() {
                    swept.close(done);
                    if swept.is_spent(budget) {
                        swept.resume = Some(decode_key(prefix)?);
                        return Ok(swept);
                    }
                }
                let (encoded, gc) = (prefix.to_vec(), KeyGc::new(safe_point));
                before.insert(Open { encoded, gc, newer: 0, last: None })
            }
        };
        swept.records += 1;
        let write = WriteRef::decode(value)?;
        let long = write.kind == WriteKind::Put && write.short_value.is_none();
        let long = long.then_some(write.start_ts);
        let verdict = match key_open.gc.visit(commit_ts, &write) {
            Verdict::RemoveLast if mistaken(Mistake::DeleteFirst) => Verdict::Remove,
            verdict => verdict,
        };
        match verdict {
            Verdict::Keep if commit_ts > safe_point => {
                key_open.newer += 1;
                if key_open.newer > NEAR {
                    seek.clear();
                    seek.extend_from_slice(prefix);
                    put_ts_desc(&mut seek, safe_point);
                    pair = cursor.seek(&seek)?;
                    continue;
                }
            }
            Verdict::Keep => {}
            Verdict::RemoveLast => key_open.last = Some((key.to_vec(), long)),
            Verdict::Remove => {
                swept.remove(key.to_vec(), long);
                if swept.removed as usize >= budget.removals_max.max(1) {
                    // What hides the rest of this key stays until a later piece.
                    swept.resume = Some(decode_key(prefix)?);
                    return Ok(swept);
                }
            }
        }
        pair = cursor.next()?;
    }
    if let Some(done) = open {
        swept.close(done);
    }
    Ok(swept)
}

impl Swept {
    fn is_spent(&self, budget: Budget) -> bool {
        self.records as usize >= budget.records_max
            || self.removed as usize >= budget.removals_max.max(1)
    }

    /// Removes a write record, and its long value if it has one.
    fn remove(&mut self, key: Vec<u8>, long: Option<Timestamp>) {
        if let Some(start_ts) = long {
            let mut value = key[..key.len() - 8].to_vec();
            codec::put_ts_desc(&mut value, start_ts);
            self.batch.delete(Cf::Default, value);
            self.removed_values += 1;
        }
        self.batch.delete(Cf::Write, key);
        self.removed += 1;
    }

    /// Every record of the key was seen.
    fn close(&mut self, key: Open) {
        if let Some((record, long)) = key.last {
            self.remove(record, long);
        }
    }
}

/// Sweeps a whole range, piece after piece, and says how many write records went. For tests and
/// tools: a server drives [`sweep`] itself, so that it can pause between pieces.
pub fn collect(
    engine: &dyn Engine,
    range: &KeyRange,
    safe_point: &GcSafePoint,
    budget: Budget,
) -> Result<u64> {
    let mut range = range.clone();
    let mut removed = 0;
    loop {
        let swept = sweep(&*engine.snapshot(), &range, safe_point.get(), budget)?;
        removed += swept.removed;
        engine.write(swept.batch)?;
        match swept.resume {
            Some(resume) => range.start = resume,
            None => return Ok(removed),
        }
    }
}
