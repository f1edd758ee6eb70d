//! Units of a scan: neighbouring rows of one pack or chunk, and which of them a read sees. It
//! must never look at the versions of a pack or chunk that is older than the read.

use super::chunk::Seen;
use super::overlay::ones;
use super::segment::View;
use crate::error::Result;
use crate::store::HandleRange;
use crate::values::pack_bits;
use arrow::buffer::{BooleanBuffer, Buffer};

/// Neighbouring rows that are read together.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// Which view of the snapshot.
    pub view: usize,
    /// A pack, or with `is_chunk` a chunk.
    pub index: usize,
    /// Of the delta?
    pub is_chunk: bool,
    /// The first row.
    pub first: usize,
    /// How many.
    pub rows: usize,
}

/// The rows of a unit that a read sees.
#[derive(Clone, Debug)]
pub enum Visible {
    /// All.
    All,
    /// None.
    Nothing,
    /// Those with a bit; neither all nor none.
    Some(BooleanBuffer),
}

impl Visible {
    /// From a mask of the unit's rows; no mask is all.
    pub fn of(mask: Option<BooleanBuffer>) -> Visible {
        let Some(mask) = mask else { return Visible::All };
        match mask.count_set_bits() {
            0 => Visible::Nothing,
            all if all == mask.len() => Visible::All,
            _ => Visible::Some(mask),
        }
    }

    /// How many.
    pub fn count(&self, unit: &Unit) -> usize {
        match self {
            Visible::All => unit.rows,
            Visible::Nothing => 0,
            Visible::Some(mask) => mask.count_set_bits(),
        }
    }
}

fn bits(words: Vec<u64>, rows: usize) -> BooleanBuffer {
    BooleanBuffer::new(Buffer::from_vec(words), 0, rows)
}

/// The ranges hold all handles in `first..=last`.
pub fn covers(ranges: &[HandleRange], first: i64, last: i64) -> bool {
    let at = ranges.partition_point(|range| range.last < first);
    ranges.get(at).is_some_and(|range| range.first <= first && last <= range.last)
}

/// The ranges hold some handle in `first..=last`, perhaps.
pub fn touches(ranges: &[HandleRange], first: i64, last: i64) -> bool {
    let at = ranges.partition_point(|range| range.last < first);
    ranges.get(at).is_some_and(|range| range.first <= last)
}

impl Unit {
    /// The rows that a read at `ts` sees; of a chunk, those inside the ranges.
    pub fn visible(&self, view: &View, ranges: &[HandleRange], ts: u64) -> Result<Visible> {
        let mask = match self.is_chunk {
            true => match self.chunk_mask(view, ranges, ts) {
                Seen::Nothing => return Ok(Visible::Nothing),
                Seen::All => None,
                Seen::Some(words) => Some(bits(words, view.chunks[self.index].rows.len())),
            },
            false => self.pack_mask(view, ts)?,
        };
        Ok(Visible::of(mask.map(|mask| mask.slice(self.first, self.rows))))
    }

    fn pack_mask(&self, view: &View, ts: u64) -> Result<Option<BooleanBuffer>> {
        let stable = view.stable.as_ref().expect("a pack has a file");
        let pack = &stable.packs[self.index];
        let overlay = view.overlays[self.index].as_ref().filter(|overlay| overlay.hides(ts));
        let is_base = self.index < stable.base_packs;
        let mask = overlay.map(|overlay| bits(overlay.visible(ts), pack.rows));
        if is_base && pack.max_version <= ts {
            return Ok(mask);
        }
        let keys = stable.keys(self.index)?;
        let mut mask = mask.unwrap_or_else(|| bits(ones(pack.rows), pack.rows));
        if pack.max_version > ts {
            mask = &mask & &pack_bits(keys.versions, |version| version <= ts);
        }
        if let Some(untils) = keys.untils {
            mask = &mask & &pack_bits(untils, |until| ts < until);
        }
        Ok(Some(mask))
    }

    fn chunk_mask(&self, view: &View, ranges: &[HandleRange], ts: u64) -> Seen {
        let chunk = &view.chunks[self.index];
        let seen = chunk.seen(ts);
        if seen == Seen::Nothing || covers(ranges, chunk.rows.first, chunk.rows.last) {
            return seen;
        }
        let mut mask = match seen {
            Seen::Some(words) => words,
            _ => ones(chunk.rows.len()),
        };
        for (word, handles) in mask.iter_mut().zip(chunk.rows.handles.values().chunks(64)) {
            if *word != 0 {
                let inside = handles.iter().enumerate();
                *word &= inside.fold(0, |word, (bit, handle)| {
                    word | u64::from(touches(ranges, *handle, *handle)) << bit
                });
            }
        }
        Seen::Some(mask)
    }
}
