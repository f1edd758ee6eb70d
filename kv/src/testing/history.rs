//! Random histories of keys, as a model and as engine batches, for tests of reads and of GC.
//! It must never make a history that the transaction layer could not.

use crate::engine::{Engine, WriteBatch};
use crate::mvcc::{MvccReader, Read, Rows};
use crate::records::append_records;
use damask_types::mutation::SHORT_VALUE_MAX;
use damask_types::{
    KeyLock, KeyRange, Lock, LockKind, Record, Timestamp, Write, WriteKind, key::Hex,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One thing that happens to a key. Each has timestamps of its own, above all earlier ones.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Put(Vec<u8>),
    Delete,
    /// A lock-only commit.
    Lock,
    Rollback,
    /// A rollback whose start is the version of the key's n-th newest commit.
    Overlap(u8),
    /// The key is locked from here on; later events of the key do not happen.
    Pending(LockKind),
}

/// Events of keys 0..6.
pub(crate) fn events(max: usize) -> impl Strategy<Value = Vec<(u8, Event)>> {
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..4),
        Just(vec![9; SHORT_VALUE_MAX]),
        Just(vec![8; SHORT_VALUE_MAX + 1]),
    ];
    let kind = prop_oneof![
        Just(LockKind::Put),
        Just(LockKind::Delete),
        Just(LockKind::Lock),
        Just(LockKind::Pessimistic),
    ];
    let event = prop_oneof![
        40 => value.prop_map(Event::Put),
        20 => Just(Event::Delete),
        10 => Just(Event::Lock),
        10 => Just(Event::Rollback),
        10 => (0u8..4).prop_map(Event::Overlap),
        1 => kind.prop_map(Event::Pending),
    ];
    proptest::collection::vec((0u8..6, event), 0..max)
}

/// Keys of many lengths around the codec's groups of eight.
pub(crate) fn key_of(n: u8) -> Vec<u8> {
    vec![b'k'; usize::from(n) * 4]
}

/// Timestamps between two events.
const STEP: u64 = 4;

/// What the events made.
#[derive(Clone, Default)]
pub(crate) struct History {
    /// Versions of each key: a value, or `None` for deleted.
    pub model: BTreeMap<Vec<u8>, BTreeMap<u64, Option<Vec<u8>>>>,
    /// Every write record as it is now.
    pub writes: BTreeMap<(Vec<u8>, u64), Write>,
    pub locks: BTreeMap<Vec<u8>, Lock>,
    /// One batch an event.
    pub batches: Vec<WriteBatch>,
    /// Above every timestamp in it.
    pub end: u64,
}

impl History {
    pub fn new(events: &[(u8, Event)]) -> History {
        let mut history = History::default();
        for (i, (key, event)) in events.iter().enumerate() {
            history.happen(key_of(*key), event, i as u64 * STEP + 1, i as u64 * STEP + 3);
        }
        history.end = events.len() as u64 * STEP + 2;
        history
    }

    fn happen(&mut self, key: Vec<u8>, event: &Event, start: u64, commit: u64) {
        if self.locks.contains_key(&key) {
            return;
        }
        let mut records = Vec::new();
        let start_ts = Timestamp(start);
        let (at, write) = match event {
            Event::Put(value) => {
                self.model.entry(key.clone()).or_default().insert(commit, Some(value.clone()));
                let short = (value.len() <= SHORT_VALUE_MAX).then(|| value.clone());
                if short.is_none() {
                    let (key, value) = (key.clone(), value.clone());
                    records.push(Record::Value { key, start_ts, value });
                }
                (commit, Write::new(WriteKind::Put, start_ts, short))
            }
            Event::Delete => {
                self.model.entry(key.clone()).or_default().insert(commit, None);
                (commit, Write::new(WriteKind::Delete, start_ts, None))
            }
            Event::Lock => (commit, Write::new(WriteKind::Lock, start_ts, None)),
            Event::Rollback => (start, Write::rollback(start_ts, commit.is_multiple_of(3))),
            Event::Overlap(nth) => match self.overlap(&key, *nth) {
                Some(found) => found,
                None => return,
            },
            Event::Pending(kind) => {
                let mut lock = Lock::new(*kind, b"elsewhere".to_vec(), start_ts, 3000);
                lock.min_commit_ts = Timestamp(start + 1);
                self.locks.insert(key.clone(), lock.clone());
                let mut batch = WriteBatch::default();
                append_records(&mut batch, &[Record::Lock { key, lock }]);
                self.batches.push(batch);
                return;
            }
        };
        self.writes.insert((key.clone(), at), write.clone());
        records.push(Record::Write { key, commit_ts: Timestamp(at), write });
        let mut batch = WriteBatch::default();
        append_records(&mut batch, &records);
        self.batches.push(batch);
    }

    /// The record to be marked, with its fence: the next newer Put or Delete.
    fn overlap(&self, key: &[u8], nth: u8) -> Option<(u64, Write)> {
        let of_key = self.writes.range((key.to_vec(), 0)..=(key.to_vec(), u64::MAX));
        let committed = of_key.rev().filter(|(_, write)| write.kind != WriteKind::Rollback);
        let newest: Vec<_> = committed.take(usize::from(nth) + 1).collect();
        let ((_, at), write) = newest.last().filter(|_| newest.len() > usize::from(nth))?;
        if write.overlapped_rollback {
            return None;
        }
        let data = |write: &Write| matches!(write.kind, WriteKind::Put | WriteKind::Delete);
        let newer = newest[..newest.len() - 1].iter().rev().find(|(_, write)| data(write));
        let mut marked = (*write).clone();
        marked.overlapped_rollback = true;
        marked.gc_fence = Some(Timestamp(newer.map_or(0, |((_, at), _)| *at)));
        Some((*at, marked))
    }

    /// Is there a lock at or below it? Then it cannot be a safe point.
    pub fn is_locked_below(&self, ts: u64) -> bool {
        self.locks.values().any(|lock| lock.start_ts.0 <= ts)
    }

    pub fn write_to(&self, engine: &dyn Engine) {
        self.batches.iter().for_each(|batch| engine.write(batch.clone()).expect("writes"));
    }

    fn value_at(&self, key: &[u8], at: u64) -> Option<Vec<u8>> {
        self.model.get(key)?.range(..=at).next_back()?.1.clone()
    }

    /// Rows of the range at a timestamp, and the first lock that blocks it.
    fn expected(&self, range: &KeyRange, at: u64, reverse: bool) -> (Vec<Pair>, Option<KeyLock>) {
        let mut keys: Vec<_> = self.model.keys().chain(self.locks.keys()).collect();
        keys.retain(|key| range.contains(key));
        keys.sort();
        keys.dedup();
        if reverse {
            keys.reverse();
        }
        let mut rows = Vec::new();
        for key in keys {
            if let Some(lock) = self.locks.get(key).filter(|lock| lock.blocks_read(Timestamp(at))) {
                return (rows, Some(KeyLock { key: key.clone(), lock: lock.clone() }));
            }
            rows.extend(self.value_at(key, at).map(|value| (key.clone(), value)));
        }
        (rows, None)
    }

    /// Compares every way to read at `at` with the model.
    pub fn check(&self, reader: &MvccReader, range: &KeyRange, at: u64, block: usize) {
        let ts = Timestamp(at);
        for reverse in [false, true] {
            let (rows, lock) = self.expected(range, at, reverse);
            let got = reader.scan(range, ts, usize::MAX, reverse).expect("scans");
            let expected = match &lock {
                Some(lock) => Read::Blocked(Box::new(lock.clone())),
                None => Read::Ok(rows.clone()),
            };
            assert_eq!(got, expected, "reverse {reverse} of {range:?} at {at}");
            let got = reader.scan(range, ts, block, reverse).expect("scans");
            if lock.is_none() || rows.len() >= block {
                let some = rows[..rows.len().min(block)].to_vec();
                assert_eq!(got, Read::Ok(some), "{block} of {range:?} at {at}");
            }
        }
        let (rows, lock) = self.expected(range, at, false);
        let mut found = Rows::default();
        let mut scan = reader.scanner(range, ts).expect("a scan");
        let end = loop {
            match scan.next_block(block, &mut found).expect("rows") {
                Read::Ok(0) => break None,
                Read::Ok(_) => {}
                Read::Blocked(lock) => break Some(*lock),
            }
        };
        let found: Vec<_> = found.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        assert_eq!((found, end), (rows, lock), "in blocks of {block} at {at}");
        for n in 0..7 {
            let key = key_of(n);
            let lock = self.locks.get(&key).filter(|lock| lock.blocks_read(ts));
            match (reader.get(&key, ts).expect("reads"), lock) {
                (Read::Blocked(got), Some(lock)) => assert_eq!(got.lock, *lock),
                (Read::Ok(got), None) => {
                    let expected = self.value_at(&key, at);
                    assert_eq!(got.as_deref(), expected.as_deref(), "{} at {at}", Hex(&key));
                }
                other => panic!("{} at {at}: {other:?}", Hex(&key)),
            }
        }
    }

    /// Compares reads at every timestamp from `first` on.
    pub fn check_from(&self, engine: &dyn Engine, first: u64) {
        let reader = MvccReader::new(engine.snapshot());
        for at in (first..=self.end).chain([u64::MAX]) {
            self.check(&reader, &KeyRange::all(), at, 3);
        }
    }

    /// A rollback that overlaps each record that none has marked yet, as a leader that has not
    /// collected them would decide it now: it reaches other replicas after their GC.
    pub fn late_marks(&self) -> WriteBatch {
        let mut records = Vec::new();
        let data = |write: &Write| matches!(write.kind, WriteKind::Put | WriteKind::Delete);
        for ((key, at), write) in &self.writes {
            if write.overlapped_rollback || write.kind == WriteKind::Rollback {
                continue;
            }
            let newer = self.writes.range((key.clone(), at + 1)..=(key.clone(), u64::MAX));
            let fence =
                newer.into_iter().find(|(_, write)| data(write)).map_or(0, |((_, at), _)| *at);
            let mut marked = write.clone();
            marked.overlapped_rollback = true;
            marked.gc_fence = Some(Timestamp(fence));
            let (key, commit_ts) = (key.clone(), Timestamp(*at));
            records.push(Record::Write { key, commit_ts, write: marked });
        }
        let mut batch = WriteBatch::default();
        append_records(&mut batch, &records);
        batch
    }
}

type Pair = (Vec<u8>, Vec<u8>);
