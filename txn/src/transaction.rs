//! A transaction as its user sees it: a snapshot, a buffer over it, and a commit. It must never
//! write anything before the commit, so giving up costs nothing.

use crate::buffer::{Buffer, Entry, Mark};
use crate::client::Client;
use crate::commit;
use crate::error::{Error, Result};
use crate::request::{Mutation, SCAN_PAIRS_MAX};
use crate::snapshot::{Pair, SnapshotReader};
use damask_types::{KeyRange, Timestamp};
use std::time::Duration;

/// An optimistic transaction with snapshot isolation: reads see the state at its start and its own
/// writes; of two that write one key, the first to commit wins; write skew is possible.
pub struct Transaction {
    client: Client,
    reader: SnapshotReader,
    buffer: Buffer,
    /// When it began, on the client's monotonic clock.
    began: Duration,
}

impl Transaction {
    pub(crate) fn new(client: Client, start_ts: Timestamp, began: Duration) -> Transaction {
        let reader = SnapshotReader::new(client.clone(), start_ts);
        Transaction { client, reader, buffer: Buffer::default(), began }
    }

    /// What it reads at, and its name.
    pub fn start_ts(&self) -> Timestamp {
        self.reader.ts()
    }

    /// Reads without its own writes.
    pub fn snapshot(&self) -> &SnapshotReader {
        &self.reader
    }

    /// A key's value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.buffer.get(key).and_then(Entry::seen) {
            Some(own) => Ok(own.map(<[u8]>::to_vec)),
            None => self.reader.get(key),
        }
    }

    /// Several keys' values, in the order of the keys.
    pub fn batch_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        if self.buffer.len() == 0 {
            return self.reader.batch_get(keys);
        }
        let mut values = vec![None; keys.len()];
        let (mut places, mut stored) = (Vec::new(), Vec::new());
        for (at, key) in keys.iter().enumerate() {
            match self.buffer.get(key).and_then(Entry::seen) {
                Some(own) => values[at] = own.map(<[u8]>::to_vec),
                None => {
                    places.push(at);
                    stored.push(key.clone());
                }
            }
        }
        if !stored.is_empty() {
            for (at, value) in places.into_iter().zip(self.reader.batch_get(&stored)?) {
                values[at] = value;
            }
        }
        Ok(values)
    }

    /// Up to `limit` pairs of the range, in key order or from the end, own writes included.
    pub fn scan(&self, range: &KeyRange, limit: usize, reverse: bool) -> Result<Vec<Pair>> {
        if self.buffer.range(range).next().is_none() {
            return self.reader.scan(range, limit, reverse);
        }
        let mut pairs = Vec::new();
        let mut rest = range.clone();
        // Ends: each page leaves less of the range.
        while pairs.len() < limit && !rest.is_empty() {
            let wanted = (limit - pairs.len()).min(SCAN_PAIRS_MAX);
            let (page, left) = self.reader.page(&rest, wanted, reverse)?;
            let done = match (&left, reverse) {
                (None, _) => rest,
                (Some(left), false) => KeyRange { start: rest.start, end: left.start.clone() },
                (Some(left), true) => KeyRange { start: left.end.clone(), end: rest.end },
            };
            let own = self.buffer.range(&done);
            match reverse {
                false => merge(page, own, false, &mut pairs),
                true => merge(page, own.rev(), true, &mut pairs),
            }
            match left {
                Some(left) => rest = left,
                None => break,
            }
        }
        pairs.truncate(limit);
        Ok(pairs)
    }

    /// Own writes in a range, in key order: a key and its value, `None` when deleted. Keys that are
    /// only locked are not among them.
    pub fn buffered(
        &self,
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = (&[u8], Option<&[u8]>)> {
        self.buffer.range(range).filter_map(|(key, entry)| entry.seen().map(|seen| (key, seen)))
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        self.check_room(key.len() + value.len())?;
        self.buffer.put(key, value);
        Ok(())
    }

    /// Sets a key that must have no value: `AlreadyExists` now if the transaction gave it one,
    /// else at the commit if the store has one.
    pub fn insert(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        self.check_room(key.len() + value.len())?;
        self.buffer.insert(key, value)
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) -> Result<()> {
        let key = key.into();
        self.check_room(key.len())?;
        self.buffer.delete(key);
        Ok(())
    }

    /// Makes the commit fail with a conflict if another transaction changes the key meanwhile.
    pub fn lock(&mut self, key: impl Into<Vec<u8>>) -> Result<()> {
        let key = key.into();
        self.check_room(key.len())?;
        self.buffer.lock(key);
        Ok(())
    }

    fn check_room(&self, entry: usize) -> Result<()> {
        let config = &self.client.core().config;
        if entry > config.entry_bytes_max {
            let (bytes, limit) = (entry, config.entry_bytes_max);
            return Err(Error::TooLarge { what: "a key with its value", bytes, limit });
        }
        let bytes = self.buffer.bytes() + entry;
        if bytes > config.transaction_bytes_max {
            let limit = config.transaction_bytes_max;
            return Err(Error::TooLarge { what: "a transaction", bytes, limit });
        }
        Ok(())
    }

    /// Nothing to commit.
    pub fn is_read_only(&self) -> bool {
        self.buffer.len() == 0
    }

    /// Keys written or locked.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// No keys written or locked.
    pub fn is_empty(&self) -> bool {
        self.is_read_only()
    }

    /// Bytes of keys and values written.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// A point to go back to: the beginning of a statement, a savepoint. While one stands, every
    /// write keeps a copy of its key.
    pub fn mark(&mut self) -> Mark {
        self.buffer.mark()
    }

    /// Takes back all writes since the mark; the mark, and those made after it, end.
    ///
    /// # Panics
    /// If the mark had ended, with one made before it.
    pub fn rollback_to(&mut self, mark: Mark) {
        self.buffer.rollback_to(mark);
    }

    /// Keeps all writes since the mark; the mark, and those made after it, end.
    pub fn release(&mut self, mark: Mark) {
        self.buffer.release(mark);
    }

    /// Makes all writes visible at once, at the version returned; `None` if there were none.
    ///
    /// # Errors
    /// `Undetermined`: may or may not have happened. Any other: it did not and will not happen.
    pub fn commit(self) -> Result<Option<Timestamp>> {
        if self.is_read_only() {
            return Ok(None);
        }
        let start_ts = self.start_ts();
        self.check_absent()?;
        let entries = self.buffer.into_entries().into_iter();
        let mutations = entries.map(|(key, entry)| match entry {
            Entry::Put(value) => Mutation::Put { key, value },
            Entry::Insert(value) => Mutation::Insert { key, value },
            Entry::Delete => Mutation::Delete { key },
            Entry::Lock | Entry::Absent => Mutation::Lock { key },
        });
        commit::commit(&self.client, start_ts, self.began, mutations.collect()).map(Some)
    }

    /// Inserted and deleted again: the key must have had no value at the start; the lock at commit
    /// sees to it that it got none since.
    fn check_absent(&self) -> Result<()> {
        let absent = self.buffer.absent();
        if absent.is_empty() {
            return Ok(());
        }
        let values = self.reader.batch_get(&absent)?;
        match absent.into_iter().zip(values).find(|(_, value)| value.is_some()) {
            Some((key, _)) => Err(Error::AlreadyExists { key }),
            None => Ok(()),
        }
    }

    /// Gives up. Nothing was written, so nothing can fail; dropping it is the same.
    pub fn rollback(self) {}
}

/// Merges a page with own writes over the same part of the range, own writes winning.
fn merge<'a>(
    page: Vec<Pair>,
    own: impl Iterator<Item = (&'a [u8], &'a Entry)>,
    reverse: bool,
    out: &mut Vec<Pair>,
) {
    let before = |a: &[u8], b: &[u8]| if reverse { a > b } else { a < b };
    let mut page = page.into_iter().peekable();
    for (key, entry) in own {
        let Some(seen) = entry.seen() else { continue };
        while let Some(pair) = page.next_if(|(stored, _)| before(stored, key)) {
            out.push(pair);
        }
        page.next_if(|(stored, _)| stored == key);
        if let Some(value) = seen {
            out.push((key.to_vec(), value.to_vec()));
        }
    }
    out.extend(page);
}
