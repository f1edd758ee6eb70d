//! The log store on raft-engine, TiKV's log for many Raft groups: one batch and one sync per call
//! of `sync`. It must never read or purge on a thread that is not its own.
//!
//! ```text
//!   append ──► batch + index ── sync ──► Engine::write(batch, sync)
//!                  group 7:  entries: kind, index, term, context, data, as in the file log
//!                            "s": version, hard state, truncated and restoring positions
//! ```
//! raft-engine's limits stay what they are: its own sync without a batch does nothing, so what is
//! appended is kept until it is synced; a failed sync panics, which poisons this store; damage at
//! the very end of the newest file is taken for a write cut short. It keeps the last block that a
//! thread has read by its place in a log, and not by the log it is in: two stores that read on one
//! thread would be given each other's entries.

use crate::error::{Error, Result};
use crate::file_log::format::{decode_state, encode_state, put_entry, take_entry};
use crate::log_index::LogIndex;
use crate::log_store::{GroupLog, LogBatch, LogEntry, LogOp, LogStore, missing};
use damask_env::channel::{Sender, bounded, unbounded};
use damask_env::{Task, make_folder, spawn};
use damask_types::codec::take_var_u64;
use damask_types::{ErrorKind, RegionId};
use parking_lot::Mutex;
use protobuf::well_known_types::BytesValue;
use raft_engine::{Command, Config, Engine, MessageExt, ReadableSize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

const STATE_KEY: &[u8] = b"s";
/// What a cached entry weighs beside its bytes.
const CACHE_OVERHEAD: usize = 128;

/// Limits of a [`RaftEngineLogStore`].
#[derive(Clone, Debug)]
pub struct RaftEngineLogConfig {
    /// A file that has reached this size is not added to.
    pub segment_bytes: u64,
    /// With more bytes of files than this, what is needed of the oldest is moved.
    pub purge_bytes: u64,
    /// A batch of at least this is compressed; 0: none is.
    pub compress_bytes_min: u64,
    /// Entries kept in memory beside the files.
    pub cache_bytes: usize,
}

impl Default for RaftEngineLogConfig {
    fn default() -> RaftEngineLogConfig {
        RaftEngineLogConfig {
            segment_bytes: 32 << 20,
            purge_bytes: 256 << 20,
            compress_bytes_min: 8 << 10,
            cache_bytes: 64 << 20,
        }
    }
}

/// How raft-engine finds an entry's index: the second field of what `put_entry` writes.
struct Opaque;

impl MessageExt for Opaque {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value.get(1..).and_then(|mut rest| take_var_u64(&mut rest).ok()).unwrap_or(0)
    }
}

/// A thread that does what it is given, in order.
struct Worker {
    jobs: Option<Sender<Box<dyn FnOnce() + Send>>>,
    task: Option<Task>,
}

impl Worker {
    fn new(name: &str) -> Worker {
        let (jobs, given) = unbounded::<Box<dyn FnOnce() + Send>>();
        let body = move || {
            while let Ok(job) = given.recv() {
                job();
            }
        };
        Worker { jobs: Some(jobs), task: Some(spawn(name, body)) }
    }

    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = bounded(1);
        let jobs = self.jobs.as_ref().expect("it is there until it is dropped");
        // A worker that has panicked takes nothing, and so the answer never comes.
        let _ = jobs.send(Box::new(move || drop(sender.send(job()))));
        answer.recv().unwrap_or_else(|_| Err(poisoned("raft-engine panicked")))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(task) = self.task.take() {
            // What it panicked with was answered for.
            let _ = task.join();
        }
    }
}

fn poisoned(why: &str) -> Error {
    let detail = format!("the log failed earlier: {why}");
    Error::Storage { kind: ErrorKind::Poisoned, detail }
}

fn classify(op: &str, e: &raft_engine::Error) -> Error {
    let kind = match e {
        raft_engine::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => {
            ErrorKind::NoSpace
        }
        raft_engine::Error::Io(_) | raft_engine::Error::TryAgain(_) => ErrorKind::Io,
        raft_engine::Error::InvalidArgument(_) | raft_engine::Error::Full => ErrorKind::Invalid,
        _ => ErrorKind::Corrupt,
    };
    Error::Storage { kind, detail: format!("raft log, {op}: {e}") }
}

struct Slot {
    /// Of the batch that it was appended in.
    round: u64,
    cached: Option<LogEntry>,
}

#[derive(Default)]
struct State {
    groups: BTreeMap<RegionId, LogIndex<Slot>>,
    /// What the next sync writes, without the groups' states.
    batch: raft_engine::LogBatch,
    /// Groups whose state is to be written, too.
    changed: BTreeSet<RegionId>,
    /// Of `batch`; those below `written` are durable.
    round: u64,
    written: u64,
    /// Group, index, round and bytes, the oldest first.
    cache: VecDeque<(RegionId, u64, u64, usize)>,
    cache_bytes: usize,
    poisoned: Option<String>,
}

impl State {
    fn healthy(&self) -> Result<()> {
        self.poisoned.as_deref().map_or(Ok(()), |why| Err(poisoned(why)))
    }

    fn append(&mut self, group: RegionId, entries: Vec<LogEntry>) -> Result<()> {
        let mut opaque = Vec::with_capacity(entries.len());
        for entry in entries {
            let mut bytes = BytesValue::default();
            put_entry(&mut bytes.value, &entry);
            opaque.push(bytes);
            let (index, term, size) = (entry.index, entry.term, entry.size() + CACHE_OVERHEAD);
            let slot = Slot { round: self.round, cached: Some(entry) };
            self.groups.entry(group).or_default().push(index, term, slot, &mut drop)?;
            self.cache.push_back((group, index, self.round, size));
            self.cache_bytes += size;
        }
        // A group without a state is not found again.
        self.changed.insert(group);
        let added = self.batch.add_entries::<Opaque>(group.0, &opaque);
        added.map_err(|e| classify("append", &e))
    }

    fn change(&mut self, group: RegionId, op: &LogOp) {
        if *op == LogOp::Destroy {
            self.groups.remove(&group);
            self.changed.remove(&group);
            return self.batch.add_command(group.0, Command::Clean);
        }
        let log = self.groups.entry(group).or_default();
        match op {
            LogOp::HardState(hard) => log.hard = *hard,
            LogOp::CompactTo(to) => {
                log.compact(*to, &mut drop);
                self.batch.add_command(group.0, Command::Compact { index: to.index + 1 });
            }
            LogOp::Reset(to) => {
                log.reset(*to, &mut drop);
                self.batch.add_command(group.0, Command::Clean);
            }
            LogOp::Restoring(at) => log.restoring = Some(*at),
            LogOp::Append(_) | LogOp::Destroy => unreachable!("handled by the callers"),
        }
        self.changed.insert(group);
    }

    /// What is to be written now, with its round; `None`: nothing.
    fn take_batch(&mut self) -> Result<Option<(raft_engine::LogBatch, u64)>> {
        for id in std::mem::take(&mut self.changed) {
            let Some(log) = self.groups.get(&id) else { continue };
            let state = encode_state(&log.summary());
            let put = self.batch.put(id.0, STATE_KEY.to_vec(), state);
            put.map_err(|e| classify("append", &e))?;
        }
        if self.batch.is_empty() {
            return Ok(None);
        }
        self.round += 1;
        Ok(Some((std::mem::take(&mut self.batch), self.round - 1)))
    }

    /// Drops cached entries, the oldest first, that files hold.
    fn evict(&mut self, max: usize) {
        while self.cache_bytes > max {
            let Some(&(group, index, round, size)) = self.cache.front() else { return };
            if round >= self.written {
                return;
            }
            self.cache.pop_front();
            self.cache_bytes -= size;
            let slot = self.groups.get_mut(&group).and_then(|log| log.get_mut(index));
            if let Some(slot) = slot.filter(|slot| slot.round == round) {
                slot.cached = None;
            }
        }
    }
}

/// An engine that syncs once more when it is closed, and panics if that fails, when everything
/// acknowledged is durable.
struct Opened(Option<Arc<Engine>>);

impl std::ops::Deref for Opened {
    type Target = Arc<Engine>;

    fn deref(&self) -> &Arc<Engine> {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let engine = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
            tracing::warn!("raft-engine panicked when it was closed");
        }
    }
}

/// The logs of all groups in a raft-engine of their own.
pub struct RaftEngineLogStore {
    // Before the engine: their threads hold it, too.
    reader: Worker,
    mover: Worker,
    engine: Opened,
    cache_bytes: usize,
    state: Mutex<State>,
    /// Held by whoever writes: batches go out in order.
    writing: Mutex<()>,
}

impl RaftEngineLogStore {
    /// Opens a folder, making it if needed.
    ///
    /// # Errors
    /// `Corrupt` if a part of it is damaged, or a log has a hole.
    pub fn open(folder: &Path, config: &RaftEngineLogConfig) -> Result<RaftEngineLogStore> {
        let dir = folder.to_str().ok_or_else(|| {
            Error::Invalid(format!("raft-engine takes no such path: {}", folder.display()))
        })?;
        let limits = Config {
            dir: dir.to_owned(),
            target_file_size: ReadableSize(config.segment_bytes),
            purge_threshold: ReadableSize(config.purge_bytes.max(config.segment_bytes)),
            batch_compression_threshold: ReadableSize(config.compress_bytes_min),
            ..Config::default()
        };
        make_folder(folder).map_err(|e| Error::io("raft log, folder", &e))?;
        let opened = catch_unwind(AssertUnwindSafe(|| Engine::open(limits)));
        let engine = opened.map_err(|_| Error::corrupt("raft log, open: raft-engine panicked"))?;
        let engine = Opened(Some(Arc::new(engine.map_err(|e| classify("open", &e))?)));
        // raft-engine 0.4.2 syncs the names of all its files but the first: a power cut would take
        // that one with all that was acknowledged.
        let named = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        named.map_err(|e| Error::io("raft log, folder", &e))?;
        let reader = Worker::new("log-read");
        let recovering = Arc::clone(&engine);
        let state = Mutex::new(reader.run(move || recover(&recovering))?);
        let (mover, cache_bytes) = (Worker::new("log-move"), config.cache_bytes);
        Ok(RaftEngineLogStore {
            reader,
            mover,
            engine,
            cache_bytes,
            state,
            writing: Mutex::default(),
        })
    }

    /// Reads entries from files. One that is not there any more is `None`.
    fn read(&self, group: RegionId, indexes: Vec<u64>) -> Result<Vec<Option<LogEntry>>> {
        let engine = Arc::clone(&self.engine);
        self.reader.run(move || {
            indexes.into_iter().map(|index| read_entry(&engine, group, index)).collect()
        })
    }
}

fn read_entry(engine: &Engine, group: RegionId, index: u64) -> Result<Option<LogEntry>> {
    let found = engine.get_entry::<Opaque>(group.0, index).map_err(|e| classify("read", &e))?;
    let Some(bytes) = found else { return Ok(None) };
    let entry = take_entry(&mut bytes.value.as_slice())?;
    if entry.index != index {
        let found = entry.index;
        let text = format!("raft log: entry {index} of group {group} says that it is {found}");
        return Err(Error::corrupt(text));
    }
    Ok(Some(entry))
}

/// Reads every entry once, for its term.
fn recover(engine: &Engine) -> Result<State> {
    let mut state = State::default();
    for number in engine.raft_groups() {
        let id = RegionId(number);
        let corrupt = |text: String| Error::corrupt(format!("raft log: group {id}: {text}"));
        let found = (engine.get(number, STATE_KEY), engine.first_index(number));
        let (bytes, first) = match found {
            (Some(bytes), first) => (bytes, first),
            (None, None) => continue,
            (None, Some(_)) => return Err(corrupt("entries, no state".to_owned())),
        };
        let known = decode_state(&bytes)?;
        let mut log = LogIndex::<Slot>::default();
        log.reset(known.truncated, &mut drop);
        (log.hard, log.restoring) = (known.hard, known.restoring);
        let base = known.truncated.index + 1;
        if first.is_some_and(|first| first < base) {
            // Moved before they were compacted, and found again.
            state.batch.add_command(number, Command::Compact { index: base });
        }
        let last = engine.last_index(number).unwrap_or(0);
        for index in first.unwrap_or(base).max(base)..=last {
            let entry = read_entry(engine, id, index)?;
            let entry = entry.ok_or_else(|| corrupt(format!("entry {index} is missing")))?;
            let slot = Slot { round: 0, cached: None };
            let pushed = log.push(index, entry.term, slot, &mut drop);
            pushed.map_err(|e| corrupt(e.to_string()))?;
        }
        log.check().map_err(corrupt)?;
        state.groups.insert(id, log);
    }
    (state.round, state.written) = (1, 1);
    Ok(state)
}

impl LogStore for RaftEngineLogStore {
    fn recover(&self) -> Result<Vec<(RegionId, GroupLog)>> {
        Ok(self.state.lock().groups.iter().map(|(id, log)| (*id, log.summary())).collect())
    }

    fn group(&self, group: RegionId) -> Option<GroupLog> {
        self.state.lock().groups.get(&group).map(LogIndex::summary)
    }

    fn append(&self, batch: LogBatch) -> Result<()> {
        let mut state = self.state.lock();
        state.healthy()?;
        for (id, op) in batch {
            let LogOp::Append(entries) = op else {
                state.change(id, &op);
                continue;
            };
            if !entries.is_empty()
                && let Err(e) = state.append(id, entries)
            {
                // What is visible would never be durable.
                state.poisoned = Some(e.to_string());
                return Err(e);
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let _writing = self.writing.lock();
        let (mut batch, round) = {
            let mut state = self.state.lock();
            state.healthy()?;
            match state.take_batch() {
                Ok(Some(taken)) => taken,
                Ok(None) => return Ok(()),
                Err(e) => {
                    state.poisoned = Some(e.to_string());
                    return Err(e);
                }
            }
        };
        let written = catch_unwind(AssertUnwindSafe(|| self.engine.write(&mut batch, true)));
        let mut state = self.state.lock();
        let failed = match written {
            Ok(Ok(_)) => {
                state.written = round + 1;
                state.evict(self.cache_bytes);
                return Ok(());
            }
            Ok(Err(e)) => classify("sync", &e),
            Err(_) => Error::Storage {
                kind: ErrorKind::Io,
                detail: "raft log, sync: raft-engine panicked".to_owned(),
            },
        };
        state.poisoned = Some(failed.to_string());
        Err(failed)
    }

    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        max_bytes: u64,
        out: &mut Vec<LogEntry>,
    ) -> Result<()> {
        let mut wanted = Vec::new();
        {
            let state = self.state.lock();
            let log = state.groups.get(&group).ok_or_else(|| missing(group, low))?;
            for index in low..high {
                let slot = log.get(index).ok_or_else(|| missing(group, index))?;
                wanted.push(slot.cached.clone());
            }
        }
        let cold = (low..high).zip(&wanted).filter(|(_, cached)| cached.is_none());
        let cold: Vec<u64> = cold.map(|(index, _)| index).collect();
        let read = if cold.is_empty() { Vec::new() } else { self.read(group, cold)? };
        let (mut read, mut bytes) = (read.into_iter(), 0);
        for (index, cached) in (low..high).zip(wanted) {
            let entry = match cached {
                Some(entry) => Some(entry),
                None => read.next().flatten(),
            };
            // Gone: it was compacted meanwhile.
            let entry = entry.ok_or_else(|| missing(group, index))?;
            bytes += entry.size() as u64;
            if index > low && bytes > max_bytes {
                break;
            }
            out.push(entry);
        }
        Ok(())
    }

    fn term(&self, group: RegionId, index: u64) -> Result<Option<u64>> {
        Ok(self.state.lock().groups.get(&group).and_then(|log| log.term(index)))
    }

    fn purge(&self) -> Result<()> {
        self.state.lock().healthy()?;
        let engine = Arc::clone(&self.engine);
        let done = self.mover.run(move || {
            let lagging = engine.purge_expired_files().map_err(|e| classify("purge", &e))?;
            if !lagging.is_empty() {
                tracing::debug!(groups = lagging.len(), "groups hold old log files");
            }
            Ok(())
        });
        done.inspect_err(|e| self.state.lock().poisoned = Some(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{InFolder, log_store_suite};

    /// Small, so that files are begun, moved and removed.
    fn small() -> RaftEngineLogConfig {
        RaftEngineLogConfig {
            segment_bytes: 2 << 10,
            purge_bytes: 8 << 10,
            compress_bytes_min: 512,
            cache_bytes: 2 << 10,
        }
    }

    fn open(folder: &Path) -> Result<Arc<dyn LogStore>> {
        Ok(Arc::new(RaftEngineLogStore::open(folder, &small())?))
    }

    #[test]
    fn raft_engine_log_passes_the_suite() {
        log_store_suite(&|| {
            let guard = tempfile::tempdir().expect("a temporary folder");
            Box::new(InFolder { folder: guard.path().into(), open, guard: Box::new(guard) })
        });
    }

    /// Entries at the same places of two logs, read in turn on one thread.
    #[test]
    fn stores_do_not_see_each_others_entries() {
        let (one, two) = (tempfile::tempdir(), tempfile::tempdir());
        let folders = [one.expect("a folder"), two.expect("a folder")];
        let config = RaftEngineLogConfig { cache_bytes: 0, ..small() };
        let stores = [0u8, 1].map(|which| {
            let store = RaftEngineLogStore::open(folders[which as usize].path(), &config);
            let store = store.expect("opens");
            let entry =
                |index| LogEntry { index, term: 1, data: vec![which], ..LogEntry::default() };
            let entries = LogOp::Append((1..=3).map(entry).collect());
            store.append(vec![(RegionId(1), entries)]).expect("takes");
            store.sync().expect("syncs");
            store
        });
        for round in 0..4u8 {
            let mut out = Vec::new();
            let store = &stores[usize::from(round % 2)];
            store.entries(RegionId(1), 1, 4, u64::MAX, &mut out).expect("reads");
            assert!(out.len() == 3 && out.iter().all(|e| e.data == [round % 2]), "{out:?}");
        }
    }
}
