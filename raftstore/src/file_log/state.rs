//! What a file log knows in memory: every group's index, which segment holds what, and the record
//! that is to be written next. It does no I/O.

use super::format::{self, SEGMENT_HEADER};
use super::record::{self, RECORD_HEADER};
use super::{FileLogConfig, Source};
use crate::error::{Error, Result};
use crate::log_index::LogIndex;
use crate::log_store::{LogEntry, LogOp};
use crate::machine::Applied;
use damask_env::{Content, File};
use damask_types::{ErrorKind, RegionId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a cached entry weighs beside its bytes.
const CACHE_OVERHEAD: usize = 128;
/// A larger buffer is given back once it is written.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// Where an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u64,
    /// Where in the segment its record begins.
    pub record: u64,
    /// The record that holds it.
    pub sequence: u64,
    /// Where in the record's payload it begins.
    pub inside: u32,
    pub len: u32,
    pub crc: u32,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub place: Place,
    pub cached: Option<LogEntry>,
}

/// A segment is emptied early if at most this part of what it got is needed: that much more is
/// written, and a log takes little more room than what it must keep.
const MOVED_PART: u64 = 16;

/// What of a segment is still needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    pub entries: u64,
    /// Of these entries, as they were before they were compressed.
    pub bytes: u64,
    /// Of all entries that it got.
    got: u64,
}

/// Live entries by segment.
#[derive(Debug, Default)]
pub(super) struct Lives(BTreeMap<u64, Live>);

impl Lives {
    pub fn add(&mut self, place: Place) {
        let live = self.0.entry(place.segment).or_default();
        live.entries += 1;
        live.bytes += u64::from(place.len);
        live.got += u64::from(place.len);
    }

    pub fn remove(&mut self, place: Place) {
        let live = self.0.get_mut(&place.segment).expect("it was added");
        live.entries -= 1;
        live.bytes -= u64::from(place.len);
    }

    /// The oldest segment that is needed.
    fn first(&self) -> Option<u64> {
        self.0.iter().find(|(_, live)| live.entries > 0).map(|(segment, _)| *segment)
    }

    /// Is so little of the segment needed that moving it costs next to nothing? Groups in which
    /// nothing happens would keep everything that others wrote behind their last entries.
    fn is_nearly_dead(&self, segment: u64) -> bool {
        let live = self.0.get(&segment).copied().unwrap_or_default();
        live.bytes * MOVED_PART <= live.got
    }

    /// Is half of the segment, or half of all, not needed any more?
    fn is_half_dead(&self, segment: u64) -> bool {
        let half = |live: Live| live.bytes * 2 <= live.got;
        let sum = |a: Live, b: &Live| Live {
            entries: a.entries + b.entries,
            bytes: a.bytes + b.bytes,
            got: a.got + b.got,
        };
        half(self.0.get(&segment).copied().unwrap_or_default())
            || half(self.0.values().fold(Live::default(), sum))
    }

    #[cfg(test)]
    pub fn entries(&self) -> u64 {
        self.0.values().map(|live| live.entries).sum()
    }
}

/// Bytes of one record that is not written yet.
pub(super) struct Piece {
    pub segment: u64,
    /// Where in the segment `bytes` begin.
    pub offset: u64,
    /// Where in `bytes` the record begins: after the header of a new segment.
    record: usize,
    pub bytes: Vec<u8>,
}

#[derive(Default)]
pub(super) struct State {
    pub groups: BTreeMap<RegionId, LogIndex<Slot>>,
    pub live: Lives,
    pub files: BTreeMap<u64, Arc<dyn File>>,
    /// Segments that are not added to any more, once read.
    pub maps: BTreeMap<u64, Content>,
    piece: Option<Piece>,
    /// Of a piece that was written: room for the next.
    spare: Vec<u8>,
    /// The segment that is written, and its size with all pieces taken.
    pub tail: (u64, u64),
    /// Of the next record.
    pub sequence: u64,
    /// Records below this one are in files.
    pub written: u64,
    cache: VecDeque<(RegionId, u64, Place)>,
    cache_bytes: usize,
    pub poisoned: Option<String>,
}

impl State {
    pub fn healthy(&self) -> Result<()> {
        match &self.poisoned {
            Some(why) => Err(Error::Storage {
                kind: ErrorKind::Poisoned,
                detail: format!("the log failed earlier: {why}"),
            }),
            None => Ok(()),
        }
    }

    /// What is to be written next.
    pub fn piece(&mut self, config: &FileLogConfig) -> &mut Piece {
        if self.piece.is_none() {
            let (segment, offset) = self.tail;
            let mut bytes = std::mem::take(&mut self.spare);
            let piece = if offset >= config.segment_bytes || offset == 0 {
                let segment = segment + 1;
                bytes.extend_from_slice(&format::segment_header(segment));
                bytes.resize(SEGMENT_HEADER + RECORD_HEADER, 0);
                for (id, log) in &self.groups {
                    format::put_state(&mut bytes, *id, log.hard, log.truncated, log.restoring);
                }
                Piece { segment, offset: 0, record: SEGMENT_HEADER, bytes }
            } else {
                bytes.resize(RECORD_HEADER, 0);
                Piece { segment, offset, record: 0, bytes }
            };
            self.piece = Some(piece);
        }
        self.piece.as_mut().expect("made above")
    }

    /// The piece as it is to be written, with its sequence.
    pub fn take_piece(&mut self, config: &FileLogConfig) -> Result<Option<(Piece, u64)>> {
        let Some(mut piece) = self.piece.take() else { return Ok(None) };
        let (sequence, pack_min) = (self.sequence, config.compress_bytes_min);
        let Piece { offset, record, bytes, .. } = &mut piece;
        if let Err(e) = record::seal(bytes, *record, *offset, sequence, pack_min) {
            // What it holds is visible and would never be durable.
            self.poisoned = Some(e.to_string());
            return Err(e);
        }
        self.sequence += 1;
        self.tail = (piece.segment, piece.offset + piece.bytes.len() as u64);
        Ok(Some((piece, sequence)))
    }

    /// The piece is in its file, and durable.
    pub fn piece_written(&mut self, piece: Piece, sequence: u64, config: &FileLogConfig) {
        self.written = sequence + 1;
        self.evict(config.cache_bytes);
        if piece.bytes.capacity() <= SPARE_BYTES_MAX && self.spare.capacity() == 0 {
            self.spare = piece.bytes;
            self.spare.clear();
        }
    }

    /// Is nearly nothing of the oldest segment needed; or are there too many, and half of it, or
    /// half of all, is not?
    pub fn is_worth_moving(&self, oldest: u64, config: &FileLogConfig) -> bool {
        let too_many = self.files.len() > config.segments_max;
        oldest != self.tail.0
            && (self.live.is_nearly_dead(oldest) || too_many && self.live.is_half_dead(oldest))
    }

    /// A segment's file is about to be removed.
    pub fn forget(&mut self, segment: u64) {
        self.files.remove(&segment);
        self.maps.remove(&segment);
        self.live.0.remove(&segment);
    }

    /// Encodes an entry into the current piece.
    fn place(&mut self, entry: &LogEntry, config: &FileLogConfig) -> Place {
        let sequence = self.sequence;
        let piece = self.piece(config);
        let start = piece.bytes.len();
        format::put_entry(&mut piece.bytes, entry);
        let bytes = &piece.bytes[start..];
        let (len, crc) = (bytes.len() as u32, crc32fast::hash(bytes));
        let inside = (start - piece.record - RECORD_HEADER) as u32;
        let record = piece.offset + piece.record as u64;
        Place { segment: piece.segment, record, sequence, inside, len, crc }
    }

    /// Adds entries to a group: to its index, and to the piece.
    pub fn append(
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
    pub fn change(&mut self, group: RegionId, op: &LogOp) {
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

    /// Moves an entry to the piece, if it is still there.
    pub fn rewrite(
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

    /// Where entries of a segment are read.
    pub fn source(&self, segment: u64) -> Source {
        match self.maps.get(&segment) {
            Some(map) => Source::Map(map.clone()),
            None => {
                let file = self.files.get(&segment).expect("only entries in files leave the cache");
                Source::File { file: file.clone(), sealed: segment < self.tail.0 }
            }
        }
    }

    /// Files that hold nothing that is needed: all before the first that does. The newest stays.
    pub fn removable(&self) -> Vec<u64> {
        let needed = self.live.first().unwrap_or(u64::MAX).min(self.tail.0);
        self.files.range(..needed).map(|(number, _)| *number).collect()
    }
}
