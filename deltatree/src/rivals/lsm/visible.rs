//! Which rows of the runs a read sees, worked out for each read: the strong way. Chunks that no
//! other run touches are taken whole; small runs are merged, then galloped into the largest. It
//! must never read a hidden column that the descriptions of chunks make unneeded.
//!
//! ```text
//!  young runs ──merge, newest version wins──► candidates ──gallop──► largest run
//!     each loser's bit is cleared in its chunk's mask; clean chunks have no mask at all
//! ```

use super::run::Run;
use crate::error::Result;
use crate::store::HandleRange;
use crate::values::pack_bits;
use arrow::array::{Int64Array, UInt64Array};
use arrow::buffer::{BooleanBuffer, Buffer};
use std::cmp::Ordering;
use std::sync::Arc;

/// Rows of one chunk that a read sees.
pub(super) struct Piece {
    pub run: usize,
    pub chunk: usize,
    /// First row, and how many.
    pub first: usize,
    pub rows: usize,
    /// Bit set: seen. `None`: every row is.
    pub mask: Option<BooleanBuffer>,
}

/// A chunk's rows in a range, on the way to a piece.
struct Local<'a> {
    at: (usize, usize),
    run: &'a Run,
    low: usize,
    high: usize,
    /// Over all rows of the chunk; `None`: all between `low` and `high`.
    live: Option<Vec<u64>>,
    handles: Option<Int64Array>,
    versions: Option<UInt64Array>,
}

/// The newest live version of a handle among the runs merged so far.
#[derive(Clone, Copy)]
struct Candidate {
    handle: i64,
    version: u64,
    local: u32,
    row: u32,
}

impl<'a> Local<'a> {
    fn new(at: (usize, usize), run: &'a Run, range: HandleRange, ts: u64) -> Result<Local<'a>> {
        let meta = &run.data.chunks[at.1];
        let (low, high) = (0, meta.rows);
        let (handles, versions, live) = (None, None, None);
        let mut local = Local { at, run, low, high, live, handles, versions };
        if meta.first < range.first || range.last < meta.last {
            let handles = local.handles()?.values();
            let low = handles.partition_point(|handle| *handle < range.first);
            let high = handles.partition_point(|handle| *handle <= range.last);
            (local.low, local.high) = (low, high.max(low));
        }
        if meta.max_version > ts || !meta.single {
            local.find_newest(ts)?;
        }
        for cleared in &run.cleared {
            if cleared.first <= meta.last && meta.first <= cleared.last {
                local.clear(*cleared)?;
            }
        }
        Ok(local)
    }

    fn handles(&mut self) -> Result<&Int64Array> {
        if self.handles.is_none() {
            self.handles = Some(self.run.handles(self.at.1)?);
        }
        Ok(self.handles.as_ref().expect("loaded above"))
    }

    fn versions(&mut self) -> Result<&UInt64Array> {
        if self.versions.is_none() {
            self.versions = Some(self.run.versions(self.at.1)?);
        }
        Ok(self.versions.as_ref().expect("loaded above"))
    }

    /// Of each handle the newest version at or below `ts`. The rows of a handle are neighbours.
    fn find_newest(&mut self, ts: u64) -> Result<()> {
        let single = self.run.data.chunks[self.at.1].single;
        let versions = self.versions()?.clone();
        let versions = versions.values();
        let bits = match single {
            true => pack_bits(versions, |version| version <= ts),
            false => {
                let handles = self.handles()?.values();
                let newest = |row: usize| {
                    let next = row + 1;
                    versions[row] <= ts
                        && (next == versions.len()
                            || handles[next] != handles[row]
                            || versions[next] > ts)
                };
                BooleanBuffer::collect_bool(versions.len(), newest)
            }
        };
        self.live = Some(bits.bit_chunks().iter_padded().collect());
        Ok(())
    }

    fn clear(&mut self, range: HandleRange) -> Result<()> {
        let handles = self.handles()?.values();
        let low = handles.partition_point(|handle| *handle < range.first);
        let high = handles.partition_point(|handle| *handle <= range.last);
        (low..high).for_each(|row| self.kill(row));
        Ok(())
    }

    fn is_live(&self, row: usize) -> bool {
        self.live.as_ref().is_none_or(|words| words[row / 64] >> (row % 64) & 1 == 1)
    }

    fn kill(&mut self, row: usize) {
        let rows = self.run.data.chunks[self.at.1].rows;
        let words = self.live.get_or_insert_with(|| vec![u64::MAX; rows / 64 + 1]);
        words[row / 64] &= !(1 << (row % 64));
    }

    /// Adds the live rows to `out`, in order.
    fn candidates(&mut self, local: usize, out: &mut Vec<Candidate>) -> Result<()> {
        self.handles()?;
        self.versions()?;
        let (handles, versions) = (&self.handles, &self.versions);
        let handles = handles.as_ref().expect("loaded above").values();
        let versions = versions.as_ref().expect("loaded above").values();
        let candidate = |row: usize| Candidate {
            handle: handles[row],
            version: versions[row],
            local: local as u32,
            row: row as u32,
        };
        let rows = self.low..self.high;
        match self.live {
            None => out.extend(rows.map(candidate)),
            Some(_) => out.extend(rows.filter(|row| self.is_live(*row)).map(candidate)),
        }
        Ok(())
    }

    /// The rows a read sees; deleted ones have killed what they hide, and go now.
    fn into_piece(self) -> Result<Option<Piece>> {
        let (first, rows) = (self.low, self.high - self.low);
        let meta = &self.run.data.chunks[self.at.1];
        let mask = self.live.map(|words| {
            BooleanBuffer::new(Buffer::from_vec(words), 0, meta.rows).slice(first, rows)
        });
        let mask = match meta.has_deleted {
            false => mask,
            true => {
                let here = !&self.run.deleted(self.at.1)?.values().slice(first, rows);
                crate::values::both(mask, Some(here))
            }
        };
        let seen = mask.as_ref().map_or(rows, crate::values::count);
        let mask = mask.filter(|_| seen < rows);
        let (run, chunk) = self.at;
        Ok((seen > 0).then_some(Piece { run, chunk, first, rows, mask }))
    }
}

/// Two ascending lists of candidates as one; of a handle in both the newer version stays, of two
/// equal versions that of `old`, which was applied first.
fn merged(old: &[Candidate], new: &[Candidate], locals: &mut [Local<'_>]) -> Vec<Candidate> {
    let mut out = Vec::with_capacity(old.len() + new.len());
    let (mut o, mut n) = (0, 0);
    while o < old.len() && n < new.len() {
        let (a, b) = (old[o], new[n]);
        if a.handle < b.handle {
            let run = gallop(&old[o..], |c| c.handle < b.handle);
            out.extend_from_slice(&old[o..o + run]);
            o += run;
        } else if b.handle < a.handle {
            let run = gallop(&new[n..], |c| c.handle < a.handle);
            out.extend_from_slice(&new[n..n + run]);
            n += run;
        } else {
            let (winner, loser) = if b.version > a.version { (b, a) } else { (a, b) };
            locals[loser.local as usize].kill(loser.row as usize);
            out.push(winner);
            (o, n) = (o + 1, n + 1);
        }
    }
    out.extend_from_slice(&old[o..]);
    out.extend_from_slice(&new[n..]);
    out
}

/// How many leading items pass; doubling steps, then halves.
fn gallop<T>(items: &[T], passes: impl Fn(&T) -> bool) -> usize {
    let (mut low, mut step) = (0, 1);
    while low + step <= items.len() && passes(&items[low + step - 1]) {
        low += step;
        step *= 2;
    }
    let high = (low + step).min(items.len());
    low + items[low..high].partition_point(passes)
}

/// Finds each candidate's handle in the chunks of the largest run, and clears the older of the two.
fn gallop_into(
    base: std::ops::Range<usize>,
    candidates: &[Candidate],
    locals: &mut [Local<'_>],
) -> Result<()> {
    let (mut at, mut row) = (base.start, 0);
    for candidate in candidates {
        let handle = candidate.handle;
        while at < base.end && locals[at].run.data.chunks[locals[at].at.1].last < handle {
            (at, row) = (at + 1, 0);
        }
        if at == base.end {
            return Ok(());
        }
        let local = &mut locals[at];
        let chunk = local.at.1;
        if local.run.data.chunks[chunk].first > handle {
            continue;
        }
        local.handles()?;
        let handles = local.handles.as_ref().expect("loaded above").values();
        row += gallop(&handles[row..], |have| *have < handle);
        let same = handles[row..].iter().take_while(|have| **have == handle).count();
        let Some(live) = (row..row + same).find(|row| local.is_live(*row)) else { continue };
        let run = local.at.0;
        let surely_older = local.run.data.chunks[chunk].max_version < candidate.version;
        let order = match surely_older {
            true => Ordering::Less,
            false => local.versions()?.value(live).cmp(&candidate.version),
        };
        // of a version that is there twice, what was applied first counts
        let is_younger_run = run > locals[candidate.local as usize].at.0;
        if order.is_lt() || (order.is_eq() && is_younger_run) {
            locals[at].kill(live);
        } else {
            locals[candidate.local as usize].kill(candidate.row as usize);
        }
    }
    Ok(())
}

/// What a read at `ts` sees of the runs, oldest first, in one range.
pub(super) fn pieces(runs: &[Arc<Run>], range: HandleRange, ts: u64) -> Result<Vec<Piece>> {
    let mut locals: Vec<Local<'_>> = Vec::new();
    let mut spans = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let start = locals.len();
        for chunk in run.chunks_in(range) {
            if run.data.chunks[chunk].min_version <= ts {
                locals.push(Local::new((index, chunk), run, range, ts)?);
            }
        }
        if locals.len() > start {
            spans.push(start..locals.len());
        }
    }
    if spans.len() > 1 {
        let rows = |span: &std::ops::Range<usize>| -> usize {
            locals[span.clone()].iter().map(|local| local.high - local.low).sum()
        };
        let largest = (0..spans.len()).max_by_key(|index| rows(&spans[*index]));
        let largest = largest.expect("there are two spans");
        let base = spans.remove(largest);
        // from the youngest, which are the smallest
        let mut candidates: Vec<Candidate> = Vec::new();
        for span in spans.iter().rev() {
            let mut older = Vec::new();
            for local in span.clone() {
                locals[local].candidates(local, &mut older)?;
            }
            candidates = match candidates.is_empty() {
                true => older,
                false => merged(&older, &candidates, &mut locals),
            };
        }
        gallop_into(base, &candidates, &mut locals)?;
    }
    let pieces = locals.into_iter().map(Local::into_piece);
    pieces.filter_map(Result::transpose).collect()
}
