//! A transaction as its user sees it: a version to read, a buffer over it, and a commit. It must
//! never write anything before the commit but pessimistic locks, which change nothing.

use crate::buffer::{Buffer, Entry, Mark};
use crate::client::Client;
use crate::commit::{self, Change};
use crate::error::{Error, Result};
use crate::held::{Ask, Held};
use crate::options::{Isolation, Mode, Options, ReadFrom, Reads, Wait};
use crate::request::{Mutation, SCAN_PAIRS_MAX};
use crate::running::Open;
use crate::snapshot::{Pair, SnapshotReader};
use damask_types::{KeyRange, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// A transaction with snapshot isolation: reads see the state at its start and its own writes;
/// write skew is possible.
///
/// Optimistic: of two that write one key, the first to commit wins. Pessimistic: each statement
/// that writes reads the newest version ([`Transaction::begin_statement`]) and locks what it wrote
/// ([`Transaction::lock_written`]); the second waits for the first. Keys that are locked and not
/// written are committed as locks, so that an optimistic transaction that has read them before
/// and writes them later finds a conflict (TiDB does the same).
pub struct Transaction {
    // The locks go back before the transaction counts as ended.
    held: Option<Held>,
    client: Client,
    options: Options,
    /// Reads at the start.
    first: SnapshotReader,
    /// Reads at the statement's version.
    reader: SnapshotReader,
    buffer: Buffer,
    /// When it began, on the client's monotonic clock.
    began: Duration,
    /// It writes and locks nothing.
    reads_only: bool,
    _open: Open,
}

impl Transaction {
    pub(crate) fn new(
        client: Client,
        open: Open,
        began: Duration,
        options: Options,
    ) -> Transaction {
        let start_ts = open.start_ts();
        let first = SnapshotReader::new(client.clone(), start_ts);
        let pessimistic = options.mode == Mode::Pessimistic;
        let held = pessimistic.then(|| Held::new(client.clone(), start_ts, began));
        let (reader, buffer) = (first.clone(), Buffer::default());
        let reads_only = false;
        Transaction { held, client, options, first, reader, buffer, began, reads_only, _open: open }
    }

    /// One that only reads, of any replica.
    pub(crate) fn stale(client: Client, open: Open, began: Duration) -> Transaction {
        let mut txn = Transaction::new(client, open, began, Options::default());
        txn.first = txn.first.from(ReadFrom::Any);
        txn.reader = txn.first.clone();
        txn.reads_only = true;
        txn
    }

    /// May it only read, because it looks into the past?
    pub fn is_stale(&self) -> bool {
        self.reads_only
    }

    /// How it behaves.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Its name, and what its first statement reads at.
    pub fn start_ts(&self) -> Timestamp {
        self.first.ts()
    }

    /// The version that the statement reads: `get`, `scan` and `snapshot` all read there.
    pub fn read_ts(&self) -> Timestamp {
        self.reader.ts()
    }

    /// Reads without its own writes.
    pub fn snapshot(&self) -> &SnapshotReader {
        &self.reader
    }

    /// Begins a statement: the version that is read from here on. An optimistic transaction always
    /// reads at its start. A pessimistic one reads `Current` at a fresh timestamp, the newest
    /// version of all; and `Snapshot` at its start, or with read committed at a fresh one too.
    pub fn begin_statement(&mut self, reads: Reads) -> Result<()> {
        let Some(held) = &mut self.held else { return Ok(()) };
        held.begin_statement();
        if reads == Reads::Snapshot && self.options.isolation == Isolation::RepeatableRead {
            self.reader = self.first.clone();
            return Ok(());
        }
        // Not below a version that a lock has met.
        let read_ts = self.client.timestamp()?.max(held.newest());
        held.saw(read_ts);
        self.reader = SnapshotReader::new(self.client.clone(), read_ts);
        Ok(())
    }

    /// Ends a statement of a pessimistic transaction: locks every key written or locked since
    /// `mark` at the version that the statement read, except those that are held already. An
    /// optimistic transaction locks nothing before its commit: `Ok` at once.
    ///
    /// # Errors
    /// `Outdated`: a newer version exists; roll back to the mark, begin the statement again, run
    /// it again. `AlreadyExists`: an inserted key has a value. `Deadlock`: roll the transaction
    /// back. `LockNotAvailable`, `LockTimeout`: the statement failed. Whatever the error, keys that
    /// were locked stay locked until the transaction ends.
    pub fn lock_written(&mut self, mark: &Mark, wait: Wait) -> Result<()> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let read_ts = self.reader.ts();
        let (mut wanted, mut known, mut inserted) = (Vec::new(), Vec::new(), false);
        for (key, entry) in self.buffer.since(mark) {
            let inserts = matches!(entry, Entry::Insert(_));
            match held.version(key) {
                Some(version) if version > read_ts => {
                    // Locked at a version that this statement has not read.
                    return Err(Error::Outdated { key: key.to_vec(), read_ts });
                }
                Some(_) if inserts => known.push(key.to_vec()),
                Some(_) => {}
                None => {
                    wanted.push(key.to_vec());
                    inserted |= inserts;
                }
            }
        }
        let ask = Ask { read_ts, wait, skip: false, values: inserted };
        let valued = held.acquire(wanted, ask)?;
        let inserts = |key: &Vec<u8>| matches!(self.buffer.get(key), Some(Entry::Insert(_)));
        if let Some(key) = valued.into_iter().find(inserts) {
            return Err(Error::AlreadyExists { key });
        }
        held.has_read(read_ts);
        self.check_no_value(known, &self.reader)
    }

    /// Locks those of these keys that no other transaction has locked (`SKIP LOCKED`); says for
    /// each whether it is held now. An optimistic transaction locks nothing before its commit: all
    /// `true`.
    ///
    /// # Errors
    /// `Outdated` and others as of [`Transaction::lock_written`].
    pub fn try_lock(&mut self, keys: &[Vec<u8>]) -> Result<Vec<bool>> {
        let Some(held) = &mut self.held else { return Ok(vec![true; keys.len()]) };
        let read_ts = self.reader.ts();
        let outdated = |key: &[u8]| held.version(key).is_some_and(|version| version > read_ts);
        if let Some(key) = keys.iter().find(|key| outdated(key)) {
            return Err(Error::Outdated { key: key.clone(), read_ts });
        }
        let mut wanted: Vec<Vec<u8>> = keys.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|key| held.version(key).is_none());
        let bytes = held.bytes() + wanted.iter().map(Vec::len).sum::<usize>() + self.buffer.bytes();
        let limit = self.client.core().config.transaction_bytes_max;
        if bytes > limit {
            return Err(Error::TooLarge { what: "a transaction", bytes, limit });
        }
        let ask = Ask { read_ts, wait: Wait::No, skip: true, values: false };
        let mut rest = wanted.into_iter();
        // The primary has to be a key that is held: until there is one, key by key.
        while held.primary().is_none_or(|primary| held.version(primary).is_none()) {
            let Some(key) = rest.next() else { break };
            held.acquire(vec![key], ask)?;
        }
        held.acquire(rest.collect(), ask)?;
        held.has_read(read_ts);
        Ok(keys.iter().map(|key| held.version(key).is_some()).collect())
    }

    /// A key's value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.buffer.get(key).and_then(Entry::seen) {
            Some(own) => Ok(own.map(<[u8]>::to_vec)),
            None => self.stored(key),
        }
    }

    /// A key's value without own writes.
    fn stored(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let held = self.held.as_ref();
        match held.and_then(|held| held.fresh(key, self.reader.ts())) {
            Some(value) => Ok(value.clone()),
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
        if self.reads_only {
            return Err(Error::Invalid("the transaction only reads".to_owned()));
        }
        let config = &self.client.core().config;
        if entry > config.entry_bytes_max {
            let (bytes, limit) = (entry, config.entry_bytes_max);
            return Err(Error::TooLarge { what: "a key with its value", bytes, limit });
        }
        let limit = config.transaction_bytes_max;
        let bytes = self.buffer.bytes() + entry;
        if bytes > limit {
            return Err(Error::TooLarge { what: "a transaction", bytes, limit });
        }
        let bytes = self.buffer.undo_bytes();
        if bytes > limit {
            return Err(Error::TooLarge { what: "what savepoints keep", bytes, limit });
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
    pub fn commit(mut self) -> Result<Option<Timestamp>> {
        let start_ts = self.start_ts();
        if self.is_over() {
            self.rollback();
            return Ok(None);
        }
        self.lock_rest()?;
        self.check_absent()?;
        let held = self.held.take();
        let changes = changes(self.buffer, held.as_ref());
        commit::commit(&self.client, commit::Work { start_ts, began: self.began, changes, held })
            .map(Some)
    }

    /// Nothing to commit: nothing was written, and what was locked was locked, and read, at one
    /// version. With several, only a commit tells that no lock was lost between them, and with it
    /// what it kept from changing.
    fn is_over(&self) -> bool {
        if self.buffer.len() == 0 && self.held.is_none() {
            return true;
        }
        let Some(held) = &self.held else { return false };
        let only_locked =
            |(key, entry): (&[u8], &Entry)| *entry == Entry::Lock && held.version(key).is_some();
        self.buffer.iter().all(only_locked) && held.is_of_one_version()
    }

    /// Pessimistic: what was written outside of a statement is locked now, as an optimistic
    /// transaction would: nothing newer than the start may stand.
    fn lock_rest(&mut self) -> Result<()> {
        let start_ts = self.start_ts();
        let Some(held) = &mut self.held else { return Ok(()) };
        let keys = self.buffer.iter().map(|(key, _)| key);
        let rest = keys.filter(|key| held.version(key).is_none()).map(<[u8]>::to_vec).collect();
        let wait = Wait::Millis(self.client.core().config.lock_wait_ms);
        let ask = Ask { read_ts: start_ts, wait, skip: false, values: false };
        match held.acquire(rest, ask) {
            Err(e @ Error::Outdated { .. }) => {
                Err(Error::Conflict { start_ts, detail: e.to_string() })
            }
            other => other.map(|_| ()),
        }
    }

    /// Inserted and deleted again: the key must have had no value at the start; the lock at commit
    /// sees to it that it got none since. Of a key that was locked the statement has seen to it.
    fn check_absent(&self) -> Result<()> {
        let mut absent = self.buffer.absent();
        if let Some(held) = &self.held {
            absent.retain(|key| held.version(key).is_none());
        }
        self.check_no_value(absent, &self.first)
    }

    fn check_no_value(&self, keys: Vec<Vec<u8>>, reader: &SnapshotReader) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let values = reader.batch_get(&keys)?;
        match keys.into_iter().zip(values).find(|(_, value)| value.is_some()) {
            Some((key, _)) => Err(Error::AlreadyExists { key }),
            None => Ok(()),
        }
    }

    /// Gives up, and gives its locks back. Nothing was written, so nothing can fail; dropping it is
    /// the same, except that the locks are given back in the background.
    pub fn rollback(mut self) {
        if let Some(held) = &mut self.held {
            held.release();
        }
    }
}

/// The writes, and every other key that is held, in key order.
fn changes(buffer: Buffer, held: Option<&Held>) -> Vec<Change> {
    let mut all: BTreeMap<Vec<u8>, Change> = BTreeMap::new();
    let entries = buffer.into_entries();
    let Some(held) = held else {
        let change = |(key, entry)| Change::new(mutation(key, entry), Timestamp::ZERO);
        return entries.into_iter().map(change).collect();
    };
    for (key, version) in held.versions().filter(|(key, _)| !entries.contains_key(*key)) {
        let mutation = Mutation::Lock { key: key.to_vec() };
        all.insert(key.to_vec(), Change::new(mutation, version));
    }
    for (key, entry) in entries {
        let locked = held.version(&key).unwrap_or_default();
        all.insert(key.clone(), Change::new(mutation(key, entry), locked));
    }
    all.into_values().collect()
}

fn mutation(key: Vec<u8>, entry: Entry) -> Mutation {
    match entry {
        Entry::Put(value) => Mutation::Put { key, value },
        Entry::Insert(value) => Mutation::Insert { key, value },
        Entry::Delete => Mutation::Delete { key },
        Entry::Lock | Entry::Absent => Mutation::Lock { key },
    }
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
