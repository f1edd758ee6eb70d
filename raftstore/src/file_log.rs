//! The log store on files: one growing sequence of records for all groups, one append and one sync
//! per call of `sync`. It never writes in place, and removes files from the oldest on only.
//!
//! `append` encodes into a buffer and is visible through an index in memory; `sync` writes the
//! buffer as one record. So at most one record is unsynced at any time: one at the end that lacks
//! bytes is a write cut short, and forgotten; any other bad record is damage, which is reported.
//! A read takes hold of its files together with the places of its entries, so that neither a move
//! of the entries nor the removal of the files comes between. A segment that is not added to any
//! more is read through a map of it.
//!
//! ```text
//!   append ──► buffer + index ── sync ──► [segment 7][segment 8][segment 9 …]
//!                                          entries above every compaction point stay; what quiet
//!                                          groups have in the oldest, `purge` moves to the newest
//! ```
//! It counts the live entries and bytes of each segment as they come and go, so that `purge` looks
//! at no entry unless it moves some.

pub(crate) mod format;
mod recovery;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::log_index::LogIndex;
use crate::log_store::{GroupLog, LogBatch, LogEntry, LogOp, LogStore, missing};
use crate::machine::Applied;
use damask_env::{Content, Disk, File};
use damask_types::{ErrorKind, RegionId};
use format::{RECORD_HEADER, SEGMENT_HEADER};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Limits of a [`FileLogStore`].
#[derive(Clone, Debug)]
pub struct FileLogConfig {
    /// A segment that has reached this size is not added to.
    pub segment_bytes: u64,
    /// Entries kept in memory beside the files.
    pub cache_bytes: usize,
    /// With more segments than this, live entries in old ones are moved.
    pub segments_max: usize,
}

impl Default for FileLogConfig {
    fn default() -> FileLogConfig {
        FileLogConfig { segment_bytes: 32 << 20, cache_bytes: 64 << 20, segments_max: 8 }
    }
}

/// What a cached entry weighs beside its bytes.
const CACHE_OVERHEAD: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    segment: u64,
    offset: u64,
    len: u32,
    crc: u32,
    /// The record that holds it.
    sequence: u64,
}

#[derive(Debug)]
struct Slot {
    place: Place,
    cached: Option<LogEntry>,
}

/// What of a segment is still needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Live {
    entries: u64,
    bytes: u64,
}

/// Live entries by segment; a segment without any is not there.
#[derive(Debug, Default)]
struct Lives(BTreeMap<u64, Live>);

impl Lives {
    fn add(&mut self, place: Place) {
        let live = self.0.entry(place.segment).or_default();
        live.entries += 1;
        live.bytes += u64::from(place.len);
    }

    fn remove(&mut self, place: Place) {
        let live = self.0.get_mut(&place.segment).expect("it was added");
        live.entries -= 1;
        live.bytes -= u64::from(place.len);
        if live.entries == 0 {
            self.0.remove(&place.segment);
        }
    }

    fn bytes(&self, segment: u64) -> u64 {
        self.0.get(&segment).map_or(0, |live| live.bytes)
    }
}

/// Where a read finds an entry.
enum Source {
    Map(Content),
    /// Of a segment that is written, or is to be mapped.
    File {
        file: Arc<dyn File>,
        sealed: bool,
    },
}

/// Bytes of one record that is not written yet.
struct Piece {
    segment: u64,
    /// Where in the segment `bytes` begin.
    offset: u64,
    /// Where in `bytes` the record begins: after the header of a new segment.
    record: usize,
    bytes: Vec<u8>,
}

struct State {
    groups: BTreeMap<RegionId, LogIndex<Slot>>,
    live: Lives,
    files: BTreeMap<u64, Arc<dyn File>>,
    /// Segments that are not added to any more, once read.
    maps: BTreeMap<u64, Content>,
    piece: Option<Piece>,
    /// The segment that is written, and its size with all pieces taken.
    tail: (u64, u64),
    /// Of the next record.
    sequence: u64,
    /// Records below this one are in files.
    written: u64,
    cache: VecDeque<(RegionId, u64, Place)>,
    cache_bytes: usize,
    poisoned: Option<String>,
}

/// The logs of all groups in one folder of a disk.
pub struct FileLogStore {
    disk: Arc<dyn Disk>,
    folder: String,
    config: FileLogConfig,
    state: Mutex<State>,
    /// Held by whoever writes files.
    writing: Mutex<()>,
}

impl FileLogStore {
    /// Opens a folder and replays what is there.
    ///
    /// # Errors
    /// `Corrupt`, with file and offset, if anything but the very end of the last file is damaged.
    pub fn open(disk: Arc<dyn Disk>, folder: &str, config: FileLogConfig) -> Result<FileLogStore> {
        let state = recovery::replay(&disk, folder)?;
        let folder = folder.to_owned();
        Ok(FileLogStore { disk, folder, config, state: Mutex::new(state), writing: Mutex::new(()) })
    }

    /// Number and size of the files.
    pub fn segments(&self) -> Result<Vec<(u64, u64)>> {
        let files = self.state.lock().files.clone();
        let size = |(number, file): (u64, Arc<dyn File>)| Ok((number, file.len()?));
        let sizes: std::io::Result<Vec<_>> = files.into_iter().map(size).collect();
        sizes.map_err(|e| Error::io(&self.folder, &e))
    }

    /// Writes the buffer, syncs. The caller holds `writing`.
    fn flush(&self) -> Result<()> {
        let (piece, file, sequence) = {
            let mut state = self.state.lock();
            state.healthy()?;
            let Some((piece, sequence)) = state.take_piece()? else { return Ok(()) };
            let file = state.files.get(&piece.segment).cloned();
            (piece, file, sequence)
        };
        match self.write(&piece, file) {
            Ok(file) => {
                let mut state = self.state.lock();
                state.files.insert(piece.segment, file);
                state.written = sequence + 1;
                state.evict(self.config.cache_bytes);
                Ok(())
            }
            Err(e) => {
                let name = format::segment_name(&self.folder, piece.segment);
                let error = Error::io(name, &e);
                self.state.lock().poisoned = Some(error.to_string());
                Err(error)
            }
        }
    }

    fn write(&self, piece: &Piece, file: Option<Arc<dyn File>>) -> std::io::Result<Arc<dyn File>> {
        let (file, new) = match file {
            Some(file) => (file, false),
            None => (self.disk.open(&format::segment_name(&self.folder, piece.segment))?, true),
        };
        file.append(&piece.bytes)?;
        file.sync()?;
        if new {
            self.disk.sync_folder(&self.folder)?;
        }
        Ok(file)
    }

    fn name(&self, segment: u64) -> String {
        format::segment_name(&self.folder, segment)
    }

    fn read(&self, place: Place, source: Source) -> Result<LogEntry> {
        let (start, len) = (place.offset as usize, place.len as usize);
        match source {
            Source::Map(map) => self.decode(place, map.get(start..start + len).unwrap_or(&[])),
            Source::File { file, sealed } => {
                if let Some(map) = sealed.then(|| self.map(place.segment)).flatten() {
                    return self.read(place, Source::Map(map));
                }
                let bytes = file.read_at(place.offset, len);
                let bytes = bytes.map_err(|e| Error::io(self.name(place.segment), &e))?;
                self.decode(place, &bytes)
            }
        }
    }

    fn decode(&self, place: Place, mut bytes: &[u8]) -> Result<LogEntry> {
        let whole = crc32fast::hash(bytes) == place.crc;
        match format::take_entry(&mut bytes) {
            Ok(entry) if whole => Ok(entry),
            _ => {
                let (name, offset) = (self.name(place.segment), place.offset);
                Err(Error::corrupt(format!("{name} at {offset}: bad entry")))
            }
        }
    }

    /// Maps a segment that is not added to any more. `None`: it was removed meanwhile, or cannot
    /// be mapped; whoever holds its file can still read that.
    fn map(&self, segment: u64) -> Option<Content> {
        let map = self.disk.map(&self.name(segment)).ok()?;
        let mut state = self.state.lock();
        if state.files.contains_key(&segment) {
            state.maps.insert(segment, map.clone());
        }
        Some(map)
    }

    /// Moves what is still needed of the oldest segment to the newest, if that gives back more than
    /// it costs: little of it is left, or it stands before others of which little is left.
    fn rewrite_oldest(&self) -> Result<()> {
        let mut live = Vec::new();
        let (file, oldest) = {
            let state = self.state.lock();
            let Some((&oldest, file)) = state.files.iter().next() else { return Ok(()) };
            if !state.is_worth_moving(oldest, &self.config) {
                return Ok(());
            }
            for (id, log) in &state.groups {
                let inside = log.iter().filter(|(_, _, slot)| slot.place.segment == oldest);
                live.extend(inside.map(|(index, _, slot)| (*id, index, slot.place)));
            }
            (file.clone(), oldest)
        };
        if live.is_empty() {
            return Ok(());
        }
        let map = self.map(oldest);
        // From the last to the first, as the index takes them back.
        for (group, index, place) in live.into_iter().rev() {
            let source = match &map {
                Some(map) => Source::Map(map.clone()),
                None => Source::File { file: file.clone(), sealed: false },
            };
            let entry = self.read(place, source)?;
            self.state.lock().rewrite(group, index, place, &entry, &self.config);
        }
        Ok(())
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

    fn piece(&mut self, config: &FileLogConfig) -> &mut Piece {
        if self.piece.is_none() {
            let (segment, offset) = self.tail;
            let piece = if offset >= config.segment_bytes || offset == 0 {
                let segment = segment + 1;
                let mut bytes = format::segment_header(segment).to_vec();
                bytes.resize(SEGMENT_HEADER + RECORD_HEADER, 0);
                for (id, log) in &self.groups {
                    format::put_state(&mut bytes, *id, log.hard, log.truncated, log.restoring);
                }
                Piece { segment, offset: 0, record: SEGMENT_HEADER, bytes }
            } else {
                Piece { segment, offset, record: 0, bytes: vec![0; RECORD_HEADER] }
            };
            self.piece = Some(piece);
        }
        self.piece.as_mut().expect("made above")
    }

    fn take_piece(&mut self) -> Result<Option<(Piece, u64)>> {
        let Some(mut piece) = self.piece.take() else { return Ok(None) };
        let sequence = self.sequence;
        if let Err(e) = format::seal(&mut piece.bytes, piece.record, sequence) {
            // What it holds is visible and would never be durable.
            self.poisoned = Some(e.to_string());
            return Err(e);
        }
        self.sequence += 1;
        self.tail = (piece.segment, piece.offset + piece.bytes.len() as u64);
        Ok(Some((piece, sequence)))
    }

    /// Are there too many segments, and is half of the oldest, or half of all, not needed?
    fn is_worth_moving(&self, oldest: u64, config: &FileLogConfig) -> bool {
        let half = config.segment_bytes / 2;
        let all: u64 = self.live.0.values().map(|live| live.bytes).sum();
        self.files.len() > config.segments_max
            && oldest != self.tail.0
            && (self.live.bytes(oldest) <= half || all <= half * self.files.len() as u64)
    }

    /// Encodes an entry into the current piece.
    fn place(&mut self, entry: &LogEntry, config: &FileLogConfig) -> Place {
        let sequence = self.sequence;
        let piece = self.piece(config);
        let start = piece.bytes.len();
        format::put_entry(&mut piece.bytes, entry);
        let bytes = &piece.bytes[start..];
        let (len, crc) = (bytes.len() as u32, crc32fast::hash(bytes));
        Place { segment: piece.segment, offset: piece.offset + start as u64, len, crc, sequence }
    }

    fn append(
        &mut self,
        group: RegionId,
        entries: Vec<LogEntry>,
        config: &FileLogConfig,
    ) -> Result<()> {
        format::put_entries_head(&mut self.piece(config).bytes, group, false, entries.len());
        for entry in entries {
            let place = self.place(&entry, config);
            self.remember(group, entry.index, place);
            let (log, live) = (self.groups.entry(group).or_default(), &mut self.live);
            let (index, term, slot) =
                (entry.index, entry.term, Slot { place, cached: Some(entry) });
            live.add(place);
            if let Err(e) = log.push(index, term, slot, &mut |gone| live.remove(gone.place)) {
                // What was encoded may not be written: it would replay as a hole.
                self.poisoned = Some(e.to_string());
                return Err(e);
            }
        }
        Ok(())
    }

    /// An operation without entries, as it is visible.
    fn change(&mut self, group: RegionId, op: &LogOp) {
        let live = &mut self.live;
        let mut gone = |slot: Slot| live.remove(slot.place);
        if *op == LogOp::Destroy {
            if let Some(mut log) = self.groups.remove(&group) {
                log.reset(Applied::default(), &mut gone);
            }
            return;
        }
        let log = self.groups.entry(group).or_default();
        match op {
            LogOp::HardState(hard) => log.hard = *hard,
            LogOp::CompactTo(to) => log.compact(*to, &mut gone),
            LogOp::Reset(to) => log.reset(*to, &mut gone),
            LogOp::Restoring(at) => log.restoring = Some(*at),
            LogOp::Append(_) | LogOp::Destroy => unreachable!("handled by the callers"),
        }
    }

    fn remember(&mut self, group: RegionId, index: u64, place: Place) {
        self.cache_bytes += place.len as usize + CACHE_OVERHEAD;
        self.cache.push_back((group, index, place));
    }

    fn rewrite(
        &mut self,
        group: RegionId,
        index: u64,
        old: Place,
        entry: &LogEntry,
        config: &FileLogConfig,
    ) {
        let there = self.groups.get(&group).and_then(|log| log.get(index)).map(|slot| slot.place);
        if there != Some(old) {
            return;
        }
        format::put_entries_head(&mut self.piece(config).bytes, group, true, 1);
        let place = self.place(entry, config);
        self.remember(group, index, place);
        let log = self.groups.get_mut(&group).expect("looked up above");
        let (live, slot) = (&mut self.live, Slot { place, cached: Some(entry.clone()) });
        live.add(place);
        log.replace(index, entry.term, slot, &mut |gone| live.remove(gone.place));
    }

    /// Drops cached entries, the oldest first, that files hold. An entry that was cut or
    /// compacted is only counted out when its turn comes: the limit is one on age, too.
    fn evict(&mut self, max: usize) {
        while self.cache_bytes > max {
            let Some(&(group, index, place)) = self.cache.front() else { return };
            if place.sequence >= self.written {
                return;
            }
            self.cache.pop_front();
            self.cache_bytes -= place.len as usize + CACHE_OVERHEAD;
            let slot = self.groups.get_mut(&group).and_then(|log| log.get_mut(index));
            if let Some(slot) = slot
                && slot.place == place
            {
                slot.cached = None;
            }
        }
    }

    fn source(&self, segment: u64) -> Source {
        match self.maps.get(&segment) {
            Some(map) => Source::Map(map.clone()),
            None => {
                let file = self.files.get(&segment).expect("only entries in files leave the cache");
                Source::File { file: file.clone(), sealed: segment < self.tail.0 }
            }
        }
    }

    /// Files that hold nothing that is needed: all before the first that does. The newest stays.
    fn removable(&self) -> Vec<u64> {
        let first = self.live.0.keys().next().copied();
        let needed = first.unwrap_or(u64::MAX).min(self.tail.0);
        self.files.range(..needed).map(|(number, _)| *number).collect()
    }
}

impl LogStore for FileLogStore {
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
            if let LogOp::Append(entries) = op {
                if !entries.is_empty() {
                    state.append(id, entries, &self.config)?;
                }
                continue;
            }
            format::put_op(&mut state.piece(&self.config).bytes, id, &op);
            state.change(id, &op);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let _writing = self.writing.lock();
        self.flush()
    }

    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        max_bytes: u64,
        out: &mut Vec<LogEntry>,
    ) -> Result<()> {
        let mut places = Vec::new();
        {
            let state = self.state.lock();
            let log = state.groups.get(&group).ok_or_else(|| missing(group, low))?;
            let mut bytes = 0;
            for index in low..high {
                let slot = log.get(index).ok_or_else(|| missing(group, index))?;
                bytes += u64::from(slot.place.len);
                if index > low && bytes > max_bytes {
                    break;
                }
                if slot.cached.is_none() {
                    places.push((out.len(), slot.place, state.source(slot.place.segment)));
                }
                out.push(slot.cached.clone().unwrap_or_default());
            }
        }
        for (at, place, source) in places {
            out[at] = self.read(place, source)?;
        }
        Ok(())
    }

    fn term(&self, group: RegionId, index: u64) -> Result<Option<u64>> {
        Ok(self.state.lock().groups.get(&group).and_then(|log| log.term(index)))
    }

    fn purge(&self) -> Result<()> {
        self.rewrite_oldest()?;
        let _writing = self.writing.lock();
        // What makes files removable must be durable before they go.
        let removable = self.state.lock().removable();
        if removable.is_empty() {
            return Ok(());
        }
        self.flush()?;
        for number in removable {
            {
                let mut state = self.state.lock();
                state.files.remove(&number);
                state.maps.remove(&number);
            }
            let name = format::segment_name(&self.folder, number);
            self.disk.remove(&name).map_err(|e| Error::io(&name, &e))?;
            // One by one: a crash may only leave a contiguous rest.
            self.disk.sync_folder(&self.folder).map_err(|e| Error::io(&name, &e))?;
        }
        Ok(())
    }
}
