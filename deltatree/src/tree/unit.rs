//! Units of a scan: neighbouring rows of one pack or chunk, and which of them a read sees. It
//! must never look at the versions of a pack or chunk that is older than the read, nor at rows
//! outside of the unit.

use super::chunk::Seen;
use super::segment::View;
use crate::error::Result;
use crate::store::HandleRange;
use crate::values::{count, pack_bits};
use arrow::buffer::BooleanBuffer;

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
    /// Those with a bit, and how many they are; neither all nor none.
    Some(BooleanBuffer, usize),
}

impl Visible {
    /// From a mask of the unit's rows; no mask is all.
    pub fn of(mask: Option<BooleanBuffer>) -> Visible {
        let Some(mask) = mask else { return Visible::All };
        let set = count(&mask);
        Visible::counted(mask, set)
    }

    /// From a mask of which it is known how many bits are set.
    fn counted(mask: BooleanBuffer, set: usize) -> Visible {
        match set {
            0 => Visible::Nothing,
            all if all == mask.len() => Visible::All,
            _ => Visible::Some(mask, set),
        }
    }

    /// How many.
    pub fn count(&self, unit: &Unit) -> usize {
        match self {
            Visible::All => unit.rows,
            Visible::Nothing => 0,
            Visible::Some(_, set) => *set,
        }
    }
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
    /// The rows that a read at `ts` sees.
    pub fn visible(&self, view: &View, ts: u64) -> Result<Visible> {
        Ok(match self.seen(view, ts)? {
            Seen::Nothing => Visible::Nothing,
            Seen::All => Visible::All,
            Seen::Some(mask) => match self.known(view, ts) {
                Some(set) => Visible::counted(mask, set),
                None => Visible::of(Some(mask)),
            },
        })
    }

    /// How many rows a read at `ts` sees, if the delta has kept count of them.
    fn known(&self, view: &View, ts: u64) -> Option<usize> {
        let (live, rows) = match self.is_chunk {
            true => {
                let chunk = &view.chunks[self.index];
                (chunk.live(ts), chunk.rows.len())
            }
            false => {
                let stable = view.stable.as_ref()?;
                let pack = &stable.packs[self.index];
                let is_plain = self.index < stable.base_packs && pack.max_version <= ts;
                let overlay = view.overlays[self.index].as_ref().filter(|_| is_plain)?;
                (overlay.live(ts), pack.rows)
            }
        };
        live.filter(|_| self.rows == rows)
    }

    /// As `visible`, with the mask that it took to find out.
    pub fn seen(&self, view: &View, ts: u64) -> Result<Seen> {
        match self.is_chunk {
            true => Ok(view.chunks[self.index].seen(ts, self.first, self.rows)),
            false => Ok(self.pack_mask(view, ts)?.map_or(Seen::All, Seen::Some)),
        }
    }

    fn pack_mask(&self, view: &View, ts: u64) -> Result<Option<BooleanBuffer>> {
        let stable = view.stable.as_ref().expect("a pack has a file");
        let pack = &stable.packs[self.index];
        let overlay = view.overlays[self.index].as_ref().filter(|overlay| overlay.hides(ts));
        let is_base = self.index < stable.base_packs;
        let mask = overlay.map(|overlay| overlay.visible(ts, self.first, self.rows));
        if is_base && pack.max_version <= ts {
            return Ok(mask);
        }
        let keys = stable.keys(self.index)?;
        let rows = self.first..self.first + self.rows;
        let both = |mask: Option<BooleanBuffer>, other: BooleanBuffer| match mask {
            Some(mask) => &mask & &other,
            None => other,
        };
        let mut mask = mask;
        if pack.max_version > ts {
            let versions = pack_bits(&keys.versions[rows.clone()], |version| version <= ts);
            mask = Some(both(mask, versions));
        }
        if let Some(untils) = keys.untils {
            mask = Some(both(mask, pack_bits(&untils[rows], |until| ts < until)));
        }
        Ok(mask)
    }
}
