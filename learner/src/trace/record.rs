//! Writes a trace of what a store's learner is told. It must never fail the learner that it
//! listens to, nor hold it up for more than a write into the page cache.

use super::{HEAD_BYTES, MAGIC, put_apply, put_destroy, put_import, put_schema};
use crate::error::{Error, Result};
use crate::rows::SchemaSource;
use damask_env::{Disk, File};
use damask_raftstore::{
    ApplyBatch, Effect, RangeSize, RegionState, SnapshotChunks, SnapshotSource, StateMachine,
};
use damask_types::{ErrorKind, KeyRange, Region, RegionId, TableId, TableSchema};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes that are collected before they are handed to the disk; a sync of the learner hands over
/// what there is.
const BUFFER_BYTES: usize = 256 << 10;
/// Bytes of a record's buffer that are kept for the next one.
const KEPT_BYTES: usize = 4 << 20;

/// Is told once why nothing more is recorded.
pub type OnEnd = Box<dyn Fn(&str) + Send + Sync>;

struct Tape {
    file: Arc<dyn File>,
    /// Whole records that are not in the file yet.
    buffer: Vec<u8>,
    /// In the file and in the buffer.
    bytes: u64,
    /// Regions whose content is not all on the tape: they were there before it, or have taken in
    /// or come out of one that was.
    partial: BTreeSet<RegionId>,
    ended: Option<String>,
}

impl Tape {
    fn add(&mut self, body: &[u8], bytes_max: u64) -> std::result::Result<(), String> {
        let bytes = (HEAD_BYTES + body.len()) as u64;
        let len = u32::try_from(body.len()).ok().filter(|_| self.bytes + bytes <= bytes_max);
        let Some(len) = len else {
            self.flush()?;
            return Err(format!("it has its largest size, {bytes_max} bytes"));
        };
        self.buffer.extend(len.to_le_bytes());
        self.buffer.extend(crc32fast::hash(body).to_le_bytes());
        self.buffer.extend_from_slice(body);
        self.bytes += bytes;
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> std::result::Result<(), String> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let done = self.file.append(&self.buffer).map_err(|e| e.to_string());
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BYTES);
        done
    }
}

/// Writes a trace of what a store's learner is told: of every region that is new to the store, and
/// of one that was there before as soon as its next snapshot comes. It stops at its limit, or when
/// its disk fails, and says so once; the learner goes on.
pub struct Recorder {
    bytes_max: u64,
    on_end: OnEnd,
    /// Held over a call and its record, whose body it keeps: records stand in the order of the
    /// calls.
    order: Mutex<Vec<u8>>,
    tape: Mutex<Tape>,
}

impl Recorder {
    /// Begins a new file, of at most so many bytes.
    pub fn create(
        disk: &dyn Disk,
        name: &str,
        bytes_max: u64,
        on_end: OnEnd,
    ) -> Result<Arc<Recorder>> {
        let failed = |e: std::io::Error| Error::Store {
            kind: ErrorKind::Io,
            detail: format!("trace {name}: {e}"),
        };
        let file = disk.open(name).map_err(failed)?;
        file.truncate(0).and_then(|()| file.append(MAGIC)).map_err(failed)?;
        let (bytes, partial) = (MAGIC.len() as u64, BTreeSet::new());
        let tape = Tape { file, buffer: Vec::new(), bytes, partial, ended: None };
        let (order, tape) = (Mutex::default(), Mutex::new(tape));
        Ok(Arc::new(Recorder { bytes_max, on_end, order, tape }))
    }

    /// `inner`, which is told nothing before, and what it is told goes into the trace.
    pub fn machine(
        self: &Arc<Self>,
        inner: Arc<dyn StateMachine>,
    ) -> damask_raftstore::Result<Arc<dyn StateMachine>> {
        let there = inner.recover()?.into_iter().filter(|state| !state.tombstone);
        self.tape.lock().partial.extend(there.map(|state| state.region.id));
        Ok(Arc::new(RecordedMachine { recorder: self.clone(), inner }))
    }

    /// `inner`, and what it answers goes into the trace.
    pub fn schemas(self: &Arc<Self>, inner: Arc<dyn SchemaSource>) -> Arc<dyn SchemaSource> {
        Arc::new(RecordedSchemas { recorder: self.clone(), inner })
    }

    /// Why nothing more is recorded; `None`: it goes on.
    pub fn ended(&self) -> Option<String> {
        self.tape.lock().ended.clone()
    }

    /// Hands to the disk what was recorded so far.
    pub fn flush(&self) {
        self.with(Tape::flush);
    }

    fn write(&self, body: &[u8]) {
        self.with(|tape| tape.add(body, self.bytes_max));
    }

    /// Does something to the tape, unless it has ended; if that fails, it ends.
    fn with(&self, work: impl FnOnce(&mut Tape) -> std::result::Result<(), String>) {
        let mut tape = self.tape.lock();
        if tape.ended.is_some() {
            return;
        }
        if let Err(detail) = work(&mut tape) {
            tape.ended = Some(detail.clone());
            tape.buffer = Vec::new();
            drop(tape);
            (self.on_end)(&detail);
        }
    }

    /// Could a record of so many bytes be added?
    fn takes(&self, bytes: u64) -> bool {
        self.with(|tape| match tape.bytes.saturating_add(bytes) <= self.bytes_max {
            true => Ok(()),
            false => tape.flush().and(Err(format!(
                "a snapshot of {bytes} bytes does not fit into {} bytes",
                self.bytes_max
            ))),
        });
        self.tape.lock().ended.is_none()
    }

    /// Those of the batches whose regions are wholly on the tape.
    fn of_whole<'a>(&self, batches: &'a [ApplyBatch]) -> Vec<&'a ApplyBatch> {
        let mut tape = self.tape.lock();
        if tape.ended.is_some() {
            return Vec::new();
        }
        let mut kept = Vec::with_capacity(batches.len());
        for batch in batches {
            let states = batch.effects.iter().filter_map(|effect| match effect {
                Effect::Regions(states) => Some(states),
                Effect::Write(_) => None,
            });
            let ids = states.flatten().map(|state| state.region.id).chain([batch.region]);
            match ids.clone().any(|id| tape.partial.contains(&id)) {
                true => tape.partial.extend(ids),
                false => kept.push(batch),
            }
        }
        kept
    }

    /// A region begins anew: all of it is on the tape from now on. Was it before?
    fn begin(&self, id: RegionId) -> bool {
        !self.tape.lock().partial.remove(&id)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.flush();
    }
}

struct RecordedSchemas {
    recorder: Arc<Recorder>,
    inner: Arc<dyn SchemaSource>,
}

/// Nobody looks ahead while a trace is recorded: in it schemas stand where rows have asked for them.
impl SchemaSource for RecordedSchemas {
    fn table(
        &self,
        id: TableId,
        refresh: bool,
    ) -> std::result::Result<Option<Arc<TableSchema>>, String> {
        let schema = self.inner.table(id, refresh)?;
        let mut body = Vec::new();
        let encoded = put_schema(&mut body, id, schema.as_deref());
        self.recorder.with(|tape| encoded.and_then(|()| tape.add(&body, self.recorder.bytes_max)));
        Ok(schema)
    }
}

struct RecordedMachine {
    recorder: Arc<Recorder>,
    inner: Arc<dyn StateMachine>,
}

impl StateMachine for RecordedMachine {
    fn recover(&self) -> damask_raftstore::Result<Vec<RegionState>> {
        self.inner.recover()
    }

    fn apply(&self, batches: Vec<ApplyBatch>) -> damask_raftstore::Result<()> {
        let mut body = self.recorder.order.lock();
        body.clear();
        let kept = self.recorder.of_whole(&batches);
        if !kept.is_empty() {
            put_apply(&mut body, &kept);
        }
        self.inner.apply(batches)?;
        if !body.is_empty() {
            self.recorder.write(&body);
            body.shrink_to(KEPT_BYTES);
        }
        Ok(())
    }

    fn sync(&self) -> damask_raftstore::Result<Vec<(RegionId, u64)>> {
        self.recorder.flush();
        self.inner.sync()
    }

    fn export(&self, region: &Region) -> damask_raftstore::Result<SnapshotChunks> {
        self.inner.export(region)
    }

    fn source(&self, region: &Region) -> damask_raftstore::Result<Arc<dyn SnapshotSource>> {
        self.inner.source(region)
    }

    fn import(
        &self,
        state: &RegionState,
        replaced: &[RegionState],
        chunks: SnapshotChunks,
    ) -> damask_raftstore::Result<()> {
        let _order = self.recorder.order.lock();
        let mut body = Vec::new();
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        if self.recorder.takes(bytes) {
            put_import(&mut body, state, replaced, &chunks);
        }
        self.inner.import(state, replaced, chunks)?;
        replaced.iter().chain([state]).for_each(|state| {
            self.recorder.begin(state.region.id);
        });
        if !body.is_empty() {
            self.recorder.write(&body);
        }
        Ok(())
    }

    fn destroy(&self, state: &RegionState) -> damask_raftstore::Result<()> {
        let _order = self.recorder.order.lock();
        self.inner.destroy(state)?;
        if self.recorder.begin(state.region.id) {
            let mut body = Vec::new();
            put_destroy(&mut body, state);
            self.recorder.write(&body);
        }
        Ok(())
    }

    fn size(&self, range: &KeyRange, parts: usize) -> damask_raftstore::Result<RangeSize> {
        self.inner.size(range, parts)
    }
}
