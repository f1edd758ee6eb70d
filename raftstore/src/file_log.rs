//! The log store on files: one growing sequence of records for all groups, one append and one sync
//! per call of `sync`. It never writes in place, and removes files from the oldest on only.
//!
//! `append` encodes into a buffer and is visible through an index in memory; `sync` writes the
//! buffer as one record. So at most one record is unsynced at any time: one at the end that lacks
//! sectors is a write cut short, and forgotten; any other bad record is damage, which is reported.
//! A read takes hold of its files together with the places of its entries, so that neither a move
//! of the entries nor the removal of the files comes between. A segment that is not added to any
//! more is read through a map of it.
//!
//! Room is reserved ahead of the records, in steps: a record that goes into it changes neither the
//! size nor the blocks of the file, so that its sync is one write and not two (the second is the
//! file system's journal).
//!
//! ```text
//!   append ──► buffer + index ── sync ──► [segment 7][segment 8][segment 9 …]
//!                                          entries above every compaction point stay; what quiet
//!                                          groups have in the oldest, `purge` moves to the newest
//! ```
//! It counts the live entries and bytes of each segment as they come and go, so that `purge` looks
//! at no entry unless it moves some.

pub(crate) mod format;
mod record;
mod recovery;
mod state;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::log_index::LogIndex;
use crate::log_store::{GroupLog, LogBatch, LogEntry, LogOp, LogStore, missing};
use damask_env::{Content, Disk, File};
use damask_types::RegionId;
use parking_lot::Mutex;
use record::{Header, RECORD_HEADER};
use state::{Piece, Place, State};
use std::borrow::Cow;
use std::io;
use std::sync::Arc;

/// Limits of a [`FileLogStore`].
#[derive(Clone, Debug)]
pub struct FileLogConfig {
    /// A segment that has reached this size is not added to.
    pub segment_bytes: u64,
    /// Entries kept in memory beside the files.
    pub cache_bytes: usize,
    /// With more segments than this, live entries in old ones are moved, as they are without it out
    /// of a segment of which nearly nothing lives.
    pub segments_max: usize,
    /// Room in the newest segment is reserved in steps of this; 0: none is. Each step costs the
    /// next sync a second write, of the file system's journal.
    pub reserve_bytes: u64,
    /// A record with a payload of at least this is compressed, if that makes it smaller.
    pub compress_bytes_min: usize,
}

impl Default for FileLogConfig {
    fn default() -> FileLogConfig {
        FileLogConfig {
            segment_bytes: 32 << 20,
            cache_bytes: 64 << 20,
            segments_max: 8,
            reserve_bytes: 4 << 20,
            compress_bytes_min: 8 << 10,
        }
    }
}

/// Entries that `purge` moves are written when they are as many bytes as this, so that a `sync` is
/// not held up by all of them.
const MOVE_BYTES: u64 = 1 << 20;

/// Where a read finds an entry.
#[derive(Clone)]
enum Source {
    Map(Content),
    /// Of a segment that is written, or is to be mapped.
    File {
        file: Arc<dyn File>,
        sealed: bool,
    },
}

impl Source {
    fn get(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        match self {
            Source::Map(map) => {
                let bytes = usize::try_from(offset).ok().and_then(|at| map.get(at..at + len));
                bytes.map(Cow::Borrowed).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            Source::File { file, .. } => file.read_at(offset, len).map(Cow::Owned),
        }
    }
}

/// The last record that was decompressed for a call that reads: its sequence and its payload.
#[derive(Default)]
struct Unpacked(Option<(u64, Vec<u8>)>);

/// What the writer knows of the segment that it writes.
#[derive(Default)]
struct Writing {
    segment: u64,
    /// Room is reserved up to here.
    reserved: u64,
}

/// The logs of all groups in one folder of a disk.
pub struct FileLogStore {
    disk: Arc<dyn Disk>,
    folder: String,
    config: FileLogConfig,
    state: Mutex<State>,
    /// Held by whoever writes files.
    writing: Mutex<Writing>,
}

impl FileLogStore {
    /// Opens a folder and replays what is there.
    ///
    /// # Errors
    /// `Corrupt`, with file and offset, if anything but the very end of the last file is damaged.
    pub fn open(disk: Arc<dyn Disk>, folder: &str, config: FileLogConfig) -> Result<FileLogStore> {
        let state = recovery::replay(&disk, folder)?;
        let (folder, state) = (folder.to_owned(), Mutex::new(state));
        Ok(FileLogStore { disk, folder, config, state, writing: Mutex::default() })
    }

    /// Number and size of the files.
    pub fn segments(&self) -> Result<Vec<(u64, u64)>> {
        let files = self.state.lock().files.clone();
        let size = |(number, file): (u64, Arc<dyn File>)| Ok((number, file.len()?));
        let sizes: std::io::Result<Vec<_>> = files.into_iter().map(size).collect();
        sizes.map_err(|e| Error::io(&self.folder, &e))
    }

    /// Writes the buffer, syncs.
    fn flush(&self, writing: &mut Writing) -> Result<()> {
        let (piece, file, sequence) = {
            let mut state = self.state.lock();
            state.healthy()?;
            let Some((piece, sequence)) = state.take_piece(&self.config)? else { return Ok(()) };
            let file = state.files.get(&piece.segment).cloned();
            (piece, file, sequence)
        };
        match self.write(writing, &piece, file) {
            Ok(new) => {
                let mut state = self.state.lock();
                if let Some(file) = new {
                    state.files.insert(piece.segment, file);
                }
                state.piece_written(piece, sequence, &self.config);
                Ok(())
            }
            Err(e) => {
                let error = Error::io(self.name(piece.segment), &e);
                self.state.lock().poisoned = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// Returns the file, if it was made.
    fn write(
        &self,
        writing: &mut Writing,
        piece: &Piece,
        file: Option<Arc<dyn File>>,
    ) -> io::Result<Option<Arc<dyn File>>> {
        if let Some(file) = file {
            self.reserve(writing, piece, file.as_ref());
            file.append(&piece.bytes)?;
            file.sync()?;
            return Ok(None);
        }
        let file = self.disk.open(&self.name(piece.segment))?;
        self.reserve(writing, piece, file.as_ref());
        file.append(&piece.bytes)?;
        file.sync()?;
        self.disk.sync_folder(&self.folder)?;
        Ok(Some(file))
    }

    /// Sees to it that there is room for the piece, but not beyond the segment's size.
    fn reserve(&self, writing: &mut Writing, piece: &Piece, file: &dyn File) {
        if writing.segment != piece.segment {
            *writing = Writing { segment: piece.segment, reserved: 0 };
        }
        let end = piece.offset + piece.bytes.len() as u64;
        let (step, max) = (self.config.reserve_bytes, self.config.segment_bytes);
        if step == 0 || end <= writing.reserved || end >= max {
            return;
        }
        writing.reserved = end.next_multiple_of(step).min(max);
        if let Err(e) = file.allocate(writing.reserved) {
            // The append goes without, or says what is wrong.
            tracing::debug!(file = self.name(piece.segment), error = %e, "no room is reserved");
        }
    }

    fn name(&self, segment: u64) -> String {
        format::segment_name(&self.folder, segment)
    }

    fn read(&self, place: Place, source: &Source, unpacked: &mut Unpacked) -> Result<LogEntry> {
        if let Source::File { sealed: true, .. } = source
            && let Some(map) = self.map(place.segment)
        {
            return self.read(place, &Source::Map(map), unpacked);
        }
        let (start, len) = (place.inside as usize, place.len as usize);
        if let Some((sequence, payload)) = &unpacked.0
            && *sequence == place.sequence
        {
            return self.decode(place, payload.get(start..start + len));
        }
        let get = |offset, len| {
            let bytes = source.get(offset, len);
            bytes.map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => self.bad_entry(place),
                _ => Error::io(self.name(place.segment), &e),
            })
        };
        let header = Header::parse(&get(place.record, RECORD_HEADER)?);
        let header = header.filter(|header| header.sequence == place.sequence);
        let Some(header) = header else { return Err(self.bad_entry(place)) };
        let body = place.record + RECORD_HEADER as u64;
        if !header.is_packed() {
            return self.decode(place, Some(&get(body + u64::from(place.inside), len)?));
        }
        let body = get(body, header.body)?;
        let payload = header.unpack(&body).map_err(|_| self.bad_entry(place))?;
        let entry = self.decode(place, payload.get(start..start + len));
        unpacked.0 = Some((place.sequence, payload.into_owned()));
        entry
    }

    fn decode(&self, place: Place, bytes: Option<&[u8]>) -> Result<LogEntry> {
        let whole = bytes.filter(|bytes| crc32fast::hash(bytes) == place.crc);
        let entry = whole.and_then(|mut bytes| format::take_entry(&mut bytes).ok());
        entry.ok_or_else(|| self.bad_entry(place))
    }

    fn bad_entry(&self, place: Place) -> Error {
        let (name, record) = (self.name(place.segment), place.record);
        Error::corrupt(format!("{name} at {record}: a bad entry in this record"))
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
        let source = match self.map(oldest) {
            Some(map) => Source::Map(map),
            None => Source::File { file, sealed: false },
        };
        let (mut unpacked, mut bytes) = (Unpacked::default(), 0);
        // From the last to the first, as the index takes them back.
        for (group, index, place) in live.into_iter().rev() {
            let entry = self.read(place, &source, &mut unpacked)?;
            self.state.lock().rewrite(group, index, place, &entry, &self.config);
            bytes += u64::from(place.len);
            if bytes >= MOVE_BYTES {
                self.sync()?;
                bytes = 0;
            }
        }
        Ok(())
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
        self.flush(&mut self.writing.lock())
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
        let mut unpacked = Unpacked::default();
        for (at, place, source) in places {
            out[at] = self.read(place, &source, &mut unpacked)?;
        }
        Ok(())
    }

    fn term(&self, group: RegionId, index: u64) -> Result<Option<u64>> {
        Ok(self.state.lock().groups.get(&group).and_then(|log| log.term(index)))
    }

    fn purge(&self) -> Result<()> {
        self.rewrite_oldest()?;
        let mut writing = self.writing.lock();
        // What makes files removable must be durable before they go.
        let removable = self.state.lock().removable();
        if removable.is_empty() {
            return Ok(());
        }
        self.flush(&mut writing)?;
        for number in removable {
            self.state.lock().forget(number);
            let name = format::segment_name(&self.folder, number);
            self.disk.remove(&name).map_err(|e| Error::io(&name, &e))?;
            // One by one: a crash may only leave a contiguous rest.
            self.disk.sync_folder(&self.folder).map_err(|e| Error::io(&name, &e))?;
        }
        Ok(())
    }
}
