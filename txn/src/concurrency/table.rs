//! `max_ts` and the locks that are being written, as one pair: who reads raises the first and then
//! looks at the second, who writes fills the second and then looks at the first, so that one of
//! them sees the other (Dekker). It must never be asked in another order.
//!
//! ```text
//!   reader   max_ts ↑   ═ fence ═   how many locks?      0: nobody writes below ts
//!   writer   locks  ↑   ═ fence ═   max_ts?              + 1: above every reader that saw 0
//! ```
//!
//! A writer's locks stand for every version above its start until the lowest is known; then for
//! those from there on. While the table is empty a reader pays for one load and one fence.

use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, fence};
use damask_types::{KeyLock, KeyRange, Lock, LockKind, Timestamp};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Bound;
use std::sync::Arc;

/// Parts of the table, each with a lock of its own.
const SHARDS: usize = 16;

/// `max_ts` and the table.
pub struct Table {
    max_ts: AtomicU64,
    /// Locks in all shards; raised before they are put in, lowered after they are out.
    count: AtomicUsize,
    shards: Vec<Mutex<Shard>>,
}

type Shard = BTreeMap<Arc<[u8]>, Entry>;

/// A key that is being prewritten.
struct Entry {
    kind: LockKind,
    writer: Arc<Writer>,
}

/// What a prewrite says of itself.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The transaction.
    pub start_ts: Timestamp,
    /// Its deciding key.
    pub primary: Vec<u8>,
    /// Lock lifetime.
    pub ttl_ms: u64,
    /// Keys of the whole transaction.
    pub txn_size: u64,
}

struct Writer {
    pending: Pending,
    /// ZERO until it is known: then the locks stand for every version.
    min_commit_ts: AtomicU64,
}

/// Keys in the table; dropping it takes them out.
pub struct Guard {
    table: Arc<Table>,
    keys: Vec<Arc<[u8]>>,
    min_commit_ts: Timestamp,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            max_ts: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(),
        }
    }
}

impl Table {
    /// Somebody reads at `ts`, and looks for locks only after this.
    pub fn read(&self, ts: Timestamp) {
        // Reads rise, mostly: one of them raises it, the others see that it is done.
        if self.max_ts.load(Ordering::Acquire) < ts.0 {
            self.max_ts.fetch_max(ts.0, Ordering::AcqRel);
        }
        fence(Ordering::SeqCst);
    }

    /// The highest timestamp read.
    pub fn max_ts(&self) -> Timestamp {
        Timestamp(self.max_ts.load(Ordering::Acquire))
    }

    /// Is nothing being prewritten?
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Puts locks in, and says which version is above every read that has not seen them, and at
    /// least `lowest`.
    pub fn publish<'k>(
        self: &Arc<Table>,
        pending: Pending,
        keys: impl Iterator<Item = (&'k [u8], LockKind)>,
        lowest: Timestamp,
    ) -> Guard {
        let writer = Arc::new(Writer { pending, min_commit_ts: AtomicU64::new(0) });
        let mut guard = Guard { table: Arc::clone(self), keys: Vec::new(), min_commit_ts: lowest };
        for (key, kind) in keys {
            let key: Arc<[u8]> = key.into();
            self.count.fetch_add(1, Ordering::AcqRel);
            let entry = Entry { kind, writer: Arc::clone(&writer) };
            self.shard(&key).lock().insert(Arc::clone(&key), entry);
            guard.keys.push(key);
        }
        fence(Ordering::SeqCst);
        guard.min_commit_ts = lowest.max(self.max_ts().next());
        writer.min_commit_ts.store(guard.min_commit_ts.0, Ordering::Release);
        guard
    }

    /// The lock on `key` that a read at `ts` must wait for.
    pub fn blocking(&self, key: &[u8], ts: Timestamp, bypass: &[Timestamp]) -> Option<KeyLock> {
        let shard = self.shard(key).lock();
        let entry = shard.get(key)?;
        entry.blocks(ts, bypass).then(|| entry.key_lock(key))
    }

    /// Up to `limit` locks in the range that a read at `ts` must wait for, in no order.
    pub fn blocking_range(
        &self,
        range: &KeyRange,
        ts: Timestamp,
        bypass: &[Timestamp],
        limit: usize,
    ) -> Vec<KeyLock> {
        let mut locks = Vec::new();
        if range.is_empty() {
            return locks;
        }
        let end = match range.end.is_empty() {
            true => Bound::Unbounded,
            false => Bound::Excluded(range.end.as_slice()),
        };
        let bounds = (Bound::Included(range.start.as_slice()), end);
        for shard in &self.shards {
            let shard = shard.lock();
            for (key, entry) in shard.range::<[u8], _>(bounds) {
                if locks.len() >= limit {
                    return locks;
                }
                if entry.blocks(ts, bypass) {
                    locks.push(entry.key_lock(key));
                }
            }
        }
        locks
    }

    /// Every key that is being prewritten and may be committed at or below `ts`, and a version that
    /// is surely below its commit.
    pub fn unfinished(&self, ts: Timestamp) -> Vec<(Vec<u8>, Timestamp)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let blocking = shard.iter().filter(|(_, entry)| entry.blocks(ts, &[]));
            all.extend(blocking.map(|(key, entry)| (key.to_vec(), entry.below())));
        }
        all
    }

    fn shard(&self, key: &[u8]) -> &Mutex<Shard> {
        let mut hasher = DefaultHasher::new();
        hasher.write(key);
        &self.shards[hasher.finish() as usize % SHARDS]
    }
}

impl Entry {
    fn blocks(&self, ts: Timestamp, bypass: &[Timestamp]) -> bool {
        let start_ts = self.writer.pending.start_ts;
        start_ts <= ts
            && self.writer.min_commit_ts.load(Ordering::Acquire) <= ts.0
            && !bypass.contains(&start_ts)
    }

    /// Its commit is above that.
    fn below(&self) -> Timestamp {
        let start_ts = self.writer.pending.start_ts;
        match Timestamp(self.writer.min_commit_ts.load(Ordering::Acquire)) {
            Timestamp::ZERO => start_ts,
            lowest => start_ts.max(lowest.prev()),
        }
    }

    fn key_lock(&self, key: &[u8]) -> KeyLock {
        let Pending { start_ts, primary, ttl_ms, txn_size } = self.writer.pending.clone();
        let mut lock = Lock::new(self.kind, primary, start_ts, ttl_ms);
        lock.txn_size = txn_size;
        lock.min_commit_ts = Timestamp(self.writer.min_commit_ts.load(Ordering::Acquire));
        KeyLock { key: key.to_vec(), lock }
    }
}

impl Guard {
    /// No version of the transaction may be below it.
    pub fn min_commit_ts(&self) -> Timestamp {
        self.min_commit_ts
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for key in &self.keys {
            self.table.shard(key).lock().remove(key);
            self.table.count.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
