//! The log store on RocksDB: one key for each entry and one for each group's state, one write batch
//! for each `append`, its write-ahead log synced by `sync`. It must never enable what lets an
//! acknowledged write be lost: the write-ahead log is on, and damage inside of it is an error.
//!
//! ```text
//!   01 | group, 8 bytes BE                     state: version, term, vote, commit,
//!                                              truncated index, term, restoring index, term
//!   02 | group, 8 bytes BE | index, 8 bytes BE entry, as in the file log
//! ```
//! Groups' positions are in memory, too, found at opening by one pass over the keys. What is
//! removed is given back by RocksDB's own compaction: `purge` has nothing to do.

use crate::error::{Error, Result};
use crate::file_log::format::{decode_state, encode_state, put_entry, take_entry};
use crate::log_store::{GroupLog, LogBatch, LogEntry, LogOp, LogStore, missing};
use crate::machine::Applied;
use damask_env::make_folder;
use damask_types::{ErrorKind, RegionId};
use parking_lot::Mutex;
use rocksdb::{DB, DBCompressionType, DBRecoveryMode, Options, ReadOptions, WriteBatch};
use std::collections::BTreeMap;
use std::path::Path;

const STATE: u8 = 1;
const ENTRY: u8 = 2;
/// More entries than this are removed by one range: each range costs every later read a little.
const POINT_DELETES_MAX: u64 = 512;

/// Limits of a [`RocksLogStore`].
#[derive(Clone, Debug)]
pub struct RocksLogConfig {
    /// Bytes kept in memory before they are written to a sorted file. Most entries are removed
    /// before that.
    pub write_buffer_bytes: usize,
    /// Bytes of write-ahead logs after which the oldest is emptied.
    pub wal_bytes_max: u64,
}

impl Default for RocksLogConfig {
    fn default() -> RocksLogConfig {
        RocksLogConfig { write_buffer_bytes: 64 << 20, wal_bytes_max: 256 << 20 }
    }
}

#[derive(Default)]
struct State {
    groups: BTreeMap<RegionId, GroupLog>,
    poisoned: Option<String>,
}

/// The logs of all groups in a RocksDB of their own.
pub struct RocksLogStore {
    database: DB,
    state: Mutex<State>,
}

impl RocksLogStore {
    /// Opens a folder, making it if needed.
    ///
    /// # Errors
    /// `Corrupt` if a part of it is damaged, or a log has a hole.
    pub fn open(folder: &Path, config: &RocksLogConfig) -> Result<RocksLogStore> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(config.write_buffer_bytes);
        options.set_max_write_buffer_number(3);
        options.set_max_total_wal_size(config.wal_bytes_max);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_paranoid_checks(true);
        options.set_keep_log_file_num(2);
        // A torn end is what a crash leaves; wrong bytes before it are an error, not the end.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        make_folder(folder).map_err(|e| Error::io("raft log, folder", &e))?;
        let database = DB::open(&options, folder).map_err(|e| classify("open", &e))?;
        let groups = recover(&database)?;
        let state = Mutex::new(State { groups, poisoned: None });
        Ok(RocksLogStore { database, state })
    }

    fn entry(&self, group: RegionId, index: u64) -> Result<Option<LogEntry>> {
        let found = self.database.get_pinned(entry_key(group, index));
        let found = found.map_err(|e| classify("get", &e))?;
        found.map(|bytes| decode_entry(group, index, &bytes)).transpose()
    }
}

impl State {
    fn healthy(&self) -> Result<()> {
        match &self.poisoned {
            Some(why) => Err(Error::Storage {
                kind: ErrorKind::Poisoned,
                detail: format!("the log failed earlier: {why}"),
            }),
            None => Ok(()),
        }
    }

    fn poison<T>(&mut self, result: std::result::Result<T, rocksdb::Error>) -> Result<T> {
        result.map_err(|e| {
            self.poisoned = Some(e.to_string());
            classify("write", &e)
        })
    }
}

fn classify(op: &str, e: &rocksdb::Error) -> Error {
    let text = e.to_string();
    let kind = match e.kind() {
        rocksdb::ErrorKind::Corruption => ErrorKind::Corrupt,
        _ if text.contains("No space") => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    Error::Storage { kind, detail: format!("raft log, {op}: {text}") }
}

fn state_key(group: RegionId) -> [u8; 9] {
    let mut key = [STATE; 9];
    key[1..].copy_from_slice(&group.0.to_be_bytes());
    key
}

fn entry_key(group: RegionId, index: u64) -> [u8; 17] {
    let mut key = [ENTRY; 17];
    key[1..9].copy_from_slice(&group.0.to_be_bytes());
    key[9..].copy_from_slice(&index.to_be_bytes());
    key
}

fn decode_entry(group: RegionId, index: u64, mut bytes: &[u8]) -> Result<LogEntry> {
    let entry = take_entry(&mut bytes)?;
    if entry.index != index || !bytes.is_empty() {
        let found = entry.index;
        let text = format!("raft log: entry {index} of group {group} says that it is {found}");
        return Err(Error::corrupt(text));
    }
    Ok(entry)
}

/// Reads every key once: groups, with their last entries; no hole, nothing committed missing.
fn recover(database: &DB) -> Result<BTreeMap<RegionId, GroupLog>> {
    let corrupt = |text: String| Error::corrupt(format!("raft log: {text}"));
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("8 bytes"));
    let mut groups: BTreeMap<RegionId, GroupLog> = BTreeMap::new();
    let mut at = database.raw_iterator();
    at.seek_to_first();
    while let Some((key, value)) = at.item() {
        match (key.first(), key.len()) {
            (Some(&STATE), 9) => {
                groups.insert(RegionId(number(&key[1..])), decode_state(value)?);
            }
            (Some(&ENTRY), 17) => {
                let (id, index) = (RegionId(number(&key[1..9])), number(&key[9..]));
                let entry = decode_entry(id, index, value)?;
                let log = groups.get_mut(&id);
                let log = log.ok_or_else(|| corrupt(format!("entries of group {id}, no state")))?;
                if index != log.last.index + 1 {
                    let last = log.last.index;
                    return Err(corrupt(format!("group {id}: entry {index} follows {last}")));
                }
                log.last = Applied { index, term: entry.term };
            }
            _ => return Err(corrupt(format!("an unknown key of {} bytes", key.len()))),
        }
        at.next();
    }
    at.status().map_err(|e| classify("recovery", &e))?;
    for (id, log) in &groups {
        if log.hard.commit > log.last.index {
            let (commit, last) = (log.hard.commit, log.last.index);
            let text =
                format!("group {id}: committed up to {commit}, but the last entry is {last}");
            return Err(corrupt(text));
        }
    }
    Ok(groups)
}

/// One `append`: its writes, and groups as they will be (`None`: destroyed).
#[derive(Default)]
struct Change {
    writes: WriteBatch,
    groups: BTreeMap<RegionId, Option<GroupLog>>,
    /// An entry as it is encoded.
    buffer: Vec<u8>,
}

impl Change {
    fn remove(&mut self, group: RegionId, from: u64, to: u64) {
        if to.saturating_sub(from) > POINT_DELETES_MAX {
            self.writes.delete_range(entry_key(group, from), entry_key(group, to));
        } else {
            (from..to).for_each(|index| self.writes.delete(entry_key(group, index)));
        }
    }

    fn append(&mut self, id: RegionId, log: &mut GroupLog, entries: &[LogEntry]) -> Result<()> {
        for entry in entries {
            if entry.index <= log.truncated.index || entry.index > log.last.index + 1 {
                return Err(Error::Invalid(format!(
                    "entry {} does not follow a log of {}..={}",
                    entry.index,
                    log.truncated.index + 1,
                    log.last.index
                )));
            }
            self.remove(id, entry.index + 1, log.last.index + 1);
            self.buffer.clear();
            put_entry(&mut self.buffer, entry);
            self.writes.put(entry_key(id, entry.index), &self.buffer);
            log.last = Applied { index: entry.index, term: entry.term };
        }
        Ok(())
    }

    fn apply(&mut self, id: RegionId, before: Option<GroupLog>, op: &LogOp) -> Result<()> {
        let mut log = before.unwrap_or_default();
        let entries = log.truncated.index + 1..log.last.index + 1;
        match op {
            LogOp::Append(all) => self.append(id, &mut log, all)?,
            LogOp::HardState(hard) => log.hard = *hard,
            LogOp::CompactTo(to) if to.index <= log.truncated.index => {}
            LogOp::CompactTo(to) => {
                self.remove(id, entries.start, entries.end.min(to.index + 1));
                log.truncated = *to;
                if log.last.index <= to.index {
                    log.last = *to;
                }
            }
            LogOp::Reset(to) => {
                self.remove(id, entries.start, entries.end);
                (log.truncated, log.last, log.restoring) = (*to, *to, None);
            }
            LogOp::Restoring(at) => log.restoring = Some(*at),
            LogOp::Destroy => {
                self.remove(id, entries.start, entries.end);
                self.writes.delete(state_key(id));
                self.groups.insert(id, None);
                return Ok(());
            }
        }
        let same = |old: &GroupLog| GroupLog { last: old.last, ..log } == *old;
        if !before.is_some_and(|old| same(&old)) {
            self.writes.put(state_key(id), encode_state(&log));
        }
        self.groups.insert(id, Some(log));
        Ok(())
    }
}

impl LogStore for RocksLogStore {
    fn recover(&self) -> Result<Vec<(RegionId, GroupLog)>> {
        Ok(self.state.lock().groups.iter().map(|(id, log)| (*id, *log)).collect())
    }

    fn group(&self, group: RegionId) -> Option<GroupLog> {
        self.state.lock().groups.get(&group).copied()
    }

    fn append(&self, batch: LogBatch) -> Result<()> {
        let mut state = self.state.lock();
        state.healthy()?;
        let mut change = Change::default();
        for (id, op) in &batch {
            let before = match change.groups.get(id) {
                Some(changed) => *changed,
                None => state.groups.get(id).copied(),
            };
            change.apply(*id, before, op)?;
        }
        // Under the lock: what is visible and what is written have one order.
        let written = self.database.write(change.writes);
        state.poison(written)?;
        for (id, log) in change.groups {
            match log {
                Some(log) => drop(state.groups.insert(id, log)),
                None => drop(state.groups.remove(&id)),
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.state.lock().healthy()?;
        let synced = self.database.flush_wal(true);
        match synced {
            Ok(()) => Ok(()),
            failed => self.state.lock().poison(failed),
        }
    }

    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        max_bytes: u64,
        out: &mut Vec<LogEntry>,
    ) -> Result<()> {
        if low >= high {
            return Ok(());
        }
        let mut at = {
            let state = self.state.lock();
            let log = state.groups.get(&group).ok_or_else(|| missing(group, low))?;
            if low <= log.truncated.index {
                return Err(missing(group, low));
            }
            if high > log.last.index + 1 {
                return Err(missing(group, high - 1));
            }
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(entry_key(group, high));
            // A snapshot, taken under the lock: no compaction comes between.
            self.database.raw_iterator_opt(options)
        };
        at.seek(entry_key(group, low));
        let mut bytes = 0;
        for index in low..high {
            let Some((key, value)) = at.item() else {
                at.status().map_err(|e| classify("read", &e))?;
                let text = format!("raft log: entry {index} of group {group} is gone");
                return Err(Error::corrupt(text));
            };
            if key != entry_key(group, index) {
                let text = format!("raft log: group {group} has a hole at {index}");
                return Err(Error::corrupt(text));
            }
            let entry = decode_entry(group, index, value)?;
            bytes += entry.size() as u64;
            if index > low && bytes > max_bytes {
                break;
            }
            out.push(entry);
            at.next();
        }
        Ok(())
    }

    fn term(&self, group: RegionId, index: u64) -> Result<Option<u64>> {
        let Some(log) = self.group(group) else { return Ok(None) };
        match index {
            i if i == log.truncated.index => Ok(Some(log.truncated.term)),
            i if i == log.last.index => Ok(Some(log.last.term)),
            i if i < log.truncated.index || i > log.last.index => Ok(None),
            // Gone, if it was compacted meanwhile.
            i => Ok(self.entry(group, i)?.map(|entry| entry.term)),
        }
    }

    fn purge(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{InFolder, log_store_suite};
    use std::sync::Arc;

    fn open(folder: &Path) -> Result<Arc<dyn LogStore>> {
        // Small, so that files are written and compacted.
        let config = RocksLogConfig { write_buffer_bytes: 64 << 10, wal_bytes_max: 1 << 20 };
        Ok(Arc::new(RocksLogStore::open(folder, &config)?))
    }

    #[test]
    fn rocks_log_passes_the_suite() {
        log_store_suite(&|| {
            let guard = tempfile::tempdir().expect("a temporary folder");
            Box::new(InFolder { folder: guard.path().into(), open, guard: Box::new(guard) })
        });
    }

    #[test]
    fn a_hole_and_a_damaged_entry_are_named() {
        let entry = |index| LogEntry { index, term: 1, data: vec![1], ..LogEntry::default() };
        for damage in [b"".as_slice(), b"\x00\x07\x01\x00\x00"] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let store = open(folder.path()).expect("opens");
            let entries = (1..=3).map(entry).collect();
            store.append(vec![(RegionId(1), LogOp::Append(entries))]).expect("takes");
            drop(store);
            let database = DB::open_default(folder.path()).expect("opens");
            match damage {
                b"" => database.delete(entry_key(RegionId(1), 2)).expect("deletes"),
                bytes => database.put(entry_key(RegionId(1), 2), bytes).expect("puts"),
            }
            drop(database);
            let refused = open(folder.path()).err().expect("damaged");
            assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
        }
    }
}
