//! A segment: a range of handles with its stable file and its delta. Every version knows when it
//! ends, so a read decides by two comparisons; the ends are kept up at each write. It must never
//! do I/O after it began to change something.
//!
//! ```text
//!              (handle, version) ─► position           in-memory B+ tree over the delta
//!  delta       chunk │ chunk │ chunk ...               each by handle, rows with their `until`
//!  overlays    .  o  .  .  o                           per pack: rows that the delta ended
//!  stable      base packs        │ history packs       immutable
//! ```
//! Invariants: the live versions of a handle (tree, base, history) form a chain in which each
//! `until` is the next version, the last is `u64::MAX`; deletions and dead rows have `until` 0.
//! Dead rows are not in the tree. A view is never changed while a snapshot holds it.

use super::chunk::{Chunk, Rows};
use super::merge::Sealed;
use super::overlay::Overlay;
use super::stable::Stable;
use crate::error::{Error, Result};
use crate::store::HandleRange;
use damask_env::{Mistake, mistaken};
use damask_types::ErrorKind;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Small chunks that become one.
const JOINED: usize = 8;
/// Positions a delta may use between two merges.
const POSITIONS_MAX: u64 = u32::MAX as u64;

/// What a reader sees of a segment. Cloned when it is written to while a snapshot holds it.
#[derive(Clone, Debug)]
pub struct View {
    /// The handles it is responsible for.
    pub range: HandleRange,
    /// Merged rows.
    pub stable: Option<Arc<Stable>>,
    /// By the stable file's packs.
    pub overlays: Vec<Option<Arc<Overlay>>>,
    /// Ascending by position.
    pub chunks: Vec<Chunk>,
}

/// What the manifest knows of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// First handle.
    pub first: i64,
    /// The number of its stable file, if it has rows.
    pub file: Option<u64>,
    /// Operations up to this one are in the stable file.
    pub merged: u64,
}

/// A segment, as its writer sees it.
#[derive(Debug)]
pub struct Segment {
    /// Shared with snapshots.
    pub view: Arc<View>,
    /// Live delta rows by (handle, version), with their positions.
    pub index: BTreeMap<(i64, u64), u32>,
    /// As in the manifest.
    pub durable: Durable,
    /// The oldest operation that is in the delta only; `u64::MAX`: none.
    pub oldest: u64,
    /// The newest operation.
    pub newest: u64,
    /// The newest `clear`.
    pub last_clear: u64,
    /// The safe point of its last merge.
    pub safe_point: u64,
    seal: Option<Seal>,
}

/// What happened since a merge took its view.
#[derive(Debug, Default)]
struct Seal {
    chunks: usize,
    position: u32,
    oldest: Option<u64>,
    clears: Vec<HandleRange>,
}

/// One version found in the stable file.
#[derive(Clone, Copy)]
struct Found {
    pack: usize,
    row: usize,
    version: u64,
    deleted: bool,
}

/// The older and newer neighbour of a version.
#[derive(Clone, Copy, Default)]
struct Around {
    older: Option<Found>,
    newer: Option<u64>,
    same: bool,
}

impl View {
    /// Rows in the delta, dead ones too.
    pub fn delta_rows(&self) -> u64 {
        self.chunks.iter().map(|c| c.rows.len() as u64).sum()
    }

    /// Rows in the stable file.
    pub fn stable_rows(&self) -> u64 {
        self.stable.as_ref().map_or(0, |s| s.base_rows + s.history_rows)
    }

    /// The position behind the last delta row.
    fn end(&self) -> u32 {
        self.chunks.last().map_or(0, |c| c.start + c.rows.len() as u32)
    }

    /// The chunk and row at a position.
    pub fn at(&self, position: u32) -> (usize, usize) {
        let chunk = self.chunks.partition_point(|c| c.start <= position) - 1;
        (chunk, self.chunks[chunk].row(position - self.chunks[chunk].start))
    }

    fn overlay(&mut self, pack: usize, rows: usize) -> &mut Overlay {
        Arc::make_mut(self.overlays[pack].get_or_insert_with(|| Arc::new(Overlay::new(rows))))
    }

    fn is_killed(&self, pack: usize, row: usize) -> bool {
        self.overlays[pack].as_ref().is_some_and(|o| o.is_killed(row))
    }
}

impl Segment {
    /// A segment with only a stable file.
    pub fn new(range: HandleRange, stable: Option<Arc<Stable>>, merged: u64) -> Segment {
        let file = stable.as_ref().map(|s| s.id);
        let overlays = vec![None; stable.as_ref().map_or(0, |s| s.packs.len())];
        Segment {
            view: Arc::new(View { range, stable, overlays, chunks: Vec::new() }),
            index: BTreeMap::new(),
            durable: Durable { first: range.first, file, merged },
            oldest: u64::MAX,
            newest: merged,
            last_clear: 0,
            safe_point: 0,
            seal: None,
        }
    }

    /// Checks all that writing rows in `first..=last` will look at; nothing may fail after it.
    pub fn prepare(&self, first: i64, last: i64, rows: usize) -> Result<()> {
        if u64::from(self.view.end()) + rows as u64 > POSITIONS_MAX {
            let detail = "the segment's delta is full: merge first";
            return Err(Error::new("apply", ErrorKind::Retry, detail));
        }
        let Some(stable) = &self.view.stable else { return Ok(()) };
        for (index, pack) in stable.packs.iter().enumerate() {
            if pack.first <= last && first <= pack.last {
                stable.keys(index)?;
            }
        }
        Ok(())
    }

    /// Adds prepared rows that are sorted by (handle, version); `live` skips rows if given.
    pub fn insert(&mut self, rows: Rows, seq: u64, live: Option<&[bool]>, chunk_rows: usize) {
        let view = Arc::make_mut(&mut self.view);
        let start = view.end();
        view.chunks.push(Chunk::new(start, rows));
        let last = view.chunks.len() - 1;
        let rows = view.chunks[last].rows.clone();
        for row in 0..rows.len() {
            let until = match live.is_none_or(|live| live[row]) {
                false => 0,
                true => {
                    let key = (rows.handles.value(row), rows.versions.value(row));
                    let position = start + row as u32;
                    link(view, &mut self.index, key, position, rows.deleted.value(row))
                }
            };
            view.chunks[last].set_until(row, until);
        }
        self.touch(seq);
        self.join_chunks(chunk_rows);
    }

    fn touch(&mut self, seq: u64) {
        self.oldest = self.oldest.min(seq);
        self.newest = self.newest.max(seq);
        if let Some(seal) = &mut self.seal {
            seal.oldest.get_or_insert(seq);
        }
    }

    /// Minor compaction in memory: small neighbours become one chunk, in steps of a factor, so
    /// that a row is copied a logarithmic number of times.
    fn join_chunks(&mut self, chunk_rows: usize) {
        let sealed = self.seal.as_ref().map_or(0, |seal| seal.chunks);
        while let Some(run) = run_to_join(&self.view.chunks[sealed..], chunk_rows) {
            let view = Arc::make_mut(&mut self.view);
            let first = view.chunks.len() - run;
            let mut joined = Vec::new();
            for part in fitting(&view.chunks[first..], chunk_rows) {
                match Chunk::join(&view.chunks[first..][part]) {
                    Ok(chunk) => joined.push(chunk),
                    Err(_) => return, // what cannot be joined stays as it is
                }
            }
            view.chunks.truncate(first);
            view.chunks.append(&mut joined);
        }
    }

    /// Physically removes the versions in a range; `prepare` was called for it.
    pub fn clear(&mut self, range: HandleRange, seq: u64) {
        let view = Arc::make_mut(&mut self.view);
        let inside = (range.first, 0)..=(range.last, u64::MAX);
        let keys: Vec<_> = self.index.range(inside).map(|(key, at)| (*key, *at)).collect();
        for (key, position) in keys {
            self.index.remove(&key);
            let (chunk, row) = view.at(position);
            view.chunks[chunk].set_until(row, 0);
        }
        clear_stable(view, range);
        if let Some(seal) = &mut self.seal {
            seal.clears.push(range);
        }
        self.last_clear = seq;
        self.touch(seq);
    }

    /// Takes the view for a merge, with the live delta in key order. Rows that come later stay
    /// in chunks of their own.
    pub fn seal(&mut self) -> Sealed {
        let (chunks, position) = (self.view.chunks.len(), self.view.end());
        self.seal = Some(Seal { chunks, position, ..Seal::default() });
        let delta = self.index.iter().map(|(key, at)| (*key, *at)).collect();
        Sealed { view: self.view.clone(), delta }
    }

    /// The merge failed: as if it had not begun.
    pub fn unseal(&mut self) {
        self.seal = None;
    }

    /// The merge is done: `segments` take the place of this one (and of neighbours). What came
    /// since is added to them; their packs' keys can be read.
    pub fn hand_over(&mut self, segments: &mut [Segment], chunk_rows: usize) {
        let seal = self.seal.take().expect("a merge seals the segment first");
        for segment in segments.iter_mut() {
            segment.last_clear = segment.last_clear.max(self.last_clear);
            segment.newest = segment.newest.max(self.newest);
            for range in &seal.clears {
                clear_stable(Arc::make_mut(&mut segment.view), *range);
            }
            if let Some(seq) = seal.oldest {
                segment.touch(seq);
            }
        }
        let mut live: Vec<Vec<bool>> =
            self.view.chunks[seal.chunks..].iter().map(|c| vec![false; c.rows.len()]).collect();
        for position in self.index.values().filter(|at| **at >= seal.position) {
            let (chunk, row) = self.view.at(*position);
            live[chunk - seal.chunks][row] = !mistaken(Mistake::MergeLosesLate);
        }
        for (chunk, live) in self.view.chunks[seal.chunks..].iter().zip(live) {
            hand_over_chunk(segments, chunk, &live, seal.oldest.unwrap_or(u64::MAX), chunk_rows);
        }
    }
}

/// How many chunks at the end should be joined.
fn run_to_join(chunks: &[Chunk], chunk_rows: usize) -> Option<usize> {
    let level = |chunk: &Chunk| chunk.rows.len().max(1).ilog(JOINED);
    let last = chunks.last()?;
    let run = chunks.iter().rev().take_while(|chunk| {
        let small = chunk.rows.len() * 2 <= chunk_rows;
        small && level(chunk) <= level(last) && chunk.rows.is_like(&last.rows)
    });
    Some(run.count()).filter(|run| *run >= JOINED)
}

/// Neighbours that fit into one chunk.
fn fitting(chunks: &[Chunk], chunk_rows: usize) -> Vec<std::ops::Range<usize>> {
    let mut parts: Vec<std::ops::Range<usize>> = Vec::new();
    let mut rows = 0;
    for (index, chunk) in chunks.iter().enumerate() {
        rows += chunk.rows.len();
        match parts.last_mut().filter(|_| rows <= chunk_rows) {
            Some(part) => part.end = index + 1,
            None => {
                rows = chunk.rows.len();
                parts.push(index..index + 1);
            }
        }
    }
    parts
}

fn hand_over_chunk(
    segments: &mut [Segment],
    chunk: &Chunk,
    live: &[bool],
    seq: u64,
    chunk_rows: usize,
) {
    let rows = &chunk.rows;
    for segment in segments {
        let range = segment.view.range;
        let inside = |row: usize| {
            let handle = rows.handles.value(row);
            live[row] && range.first <= handle && handle <= range.last
        };
        let live: Vec<bool> = (0..rows.len()).map(inside).collect();
        // rows of other segments stay behind as dead rows until the next merge
        if live.contains(&true) {
            segment.insert(rows.slice(0, rows.len()), seq, Some(&live), chunk_rows);
        }
    }
}

/// Puts a version into its handle's chain and the tree; the `until` of its row.
fn link(
    view: &mut View,
    index: &mut BTreeMap<(i64, u64), u32>,
    key: (i64, u64),
    position: u32,
    deleted: bool,
) -> u64 {
    let (handle, version) = key;
    let own = index.range((handle, 0)..=(handle, u64::MAX)).next_back();
    let (older, newer) = match own.map(|((_, version), at)| (*version, *at)) {
        None => (None, None),
        // versions of a handle mostly come in order
        Some(newest) if newest.0 < version => (Some(newest), None),
        Some(_) => {
            let newer = index.range(key..=(handle, u64::MAX)).next().map(|(k, _)| k.1);
            let older = index.range((handle, 0)..key).next_back();
            (older.map(|((_, version), at)| (*version, *at)), newer)
        }
    };
    let doubled = mistaken(Mistake::ReplayDoubles);
    if newer == Some(version) && !doubled {
        return 0; // applied before
    }
    let around = stable_around(view, handle, version, older.map(|o| o.0));
    if around.same && !doubled {
        return 0;
    }
    match (older, around.older) {
        (Some((delta, at)), stable) if stable.is_none_or(|s| s.version < delta) => {
            let (chunk, row) = view.at(at);
            if view.chunks[chunk].until(row) != 0 {
                view.chunks[chunk].set_until(row, version);
            }
        }
        (_, Some(found)) if !found.deleted => {
            let rows = view.stable.as_ref().map_or(0, |s| s.packs[found.pack].rows);
            if !mistaken(Mistake::MaskNotCleared) {
                view.overlay(found.pack, rows).end(found.row, version);
            }
        }
        _ => {}
    }
    index.insert(key, position);
    match (deleted, newer, around.newer) {
        (true, _, _) => 0,
        (_, Some(a), Some(b)) => a.min(b),
        (_, a, b) => a.or(b).unwrap_or(u64::MAX),
    }
}

/// The neighbours of a version in the stable file. `older`: a delta version that is older.
fn stable_around(view: &View, handle: i64, version: u64, older: Option<u64>) -> Around {
    let mut around = Around::default();
    let Some(stable) = &view.stable else { return around };
    if older.is_some_and(|older| older >= stable.max_version) {
        return around; // everything in the file is older still
    }
    let mut add = |pack: usize, row: usize, found: u64, deleted: bool| {
        if view.is_killed(pack, row) {
            return;
        }
        if found == version {
            around.same = true;
        } else if found > version {
            around.newer = Some(around.newer.map_or(found, |newer| newer.min(found)));
        } else if around.older.is_none_or(|older| older.version < found) {
            around.older = Some(Found { pack, row, version: found, deleted });
        }
    };
    let keys = |pack| stable.keys(pack).expect("`prepare` opened the packs in the range");
    let (base, history) = stable.packs.split_at(stable.base_packs);
    let pack = base.partition_point(|p| p.last < handle);
    if base.get(pack).is_some_and(|p| p.first <= handle) {
        let keys = keys(pack);
        if let Some(row) = position(keys.handles, handle) {
            add(pack, row, keys.versions[row], false);
        }
    }
    let mut pack = history.partition_point(|p| p.last < handle);
    while history.get(pack).is_some_and(|p| p.first <= handle) {
        let index = base.len() + pack;
        let keys = keys(index);
        let first = keys.handles.partition_point(|h| *h < handle);
        for row in (first..keys.handles.len()).take_while(|row| keys.handles[*row] == handle) {
            let deleted = keys.untils.is_some_and(|untils| untils[row] == 0);
            add(index, row, keys.versions[row], deleted);
        }
        pack += 1;
    }
    around
}

/// Finds a handle among distinct ascending ones.
fn position(handles: &[i64], handle: i64) -> Option<usize> {
    let guess = usize::try_from(handle.wrapping_sub(handles[0])).ok();
    match guess.filter(|guess| handles.get(*guess) == Some(&handle)) {
        Some(dense) => Some(dense),
        None => handles.binary_search(&handle).ok(),
    }
}

fn clear_stable(view: &mut View, range: HandleRange) {
    let Some(stable) = view.stable.clone() else { return };
    for (index, pack) in stable.packs.iter().enumerate() {
        if pack.last < range.first || range.last < pack.first {
            continue;
        }
        let rows = if range.first <= pack.first && pack.last <= range.last {
            0..pack.rows
        } else {
            let keys = stable.keys(index).expect("`prepare` opened the packs in the range");
            let first = keys.handles.partition_point(|h| *h < range.first);
            first..keys.handles.partition_point(|h| *h <= range.last)
        };
        if !rows.is_empty() {
            view.overlay(index, pack.rows).kill(rows);
        }
    }
}
