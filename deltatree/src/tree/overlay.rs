//! What the delta did to a stable pack: which rows ended, and when. It must never bring back a
//! row that was physically removed.

use super::mask::Mask;
use crate::fold::wide::prefetch;
use arrow::buffer::BooleanBuffer;

/// Changes laid over one immutable pack. Copied when a snapshot still holds the old one.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Bit set: the row is visible at the end of time.
    latest: Mask,
    /// Bit set: the row was physically removed.
    killed: Option<Mask>,
    /// Rows that ended, with the version that ended them; each row at most once, ascending by
    /// version: a read in the past walks back from the end.
    ended: Vec<(u32, u64)>,
    min_until: u64,
}

impl Overlay {
    /// Nothing changed yet.
    pub fn new(rows: usize) -> Overlay {
        let (latest, ended) = (Mask::all(rows), Vec::new());
        Overlay { latest, killed: None, ended, min_until: u64::MAX }
    }

    /// Was the row physically removed?
    pub fn is_killed(&self, row: usize) -> bool {
        self.killed.as_ref().is_some_and(|killed| killed.get(row))
    }

    /// The row is visible only below `until`.
    pub fn end(&mut self, row: usize, until: u64) {
        let mut until = until;
        if self.latest.get(row) {
            self.latest.clear(row);
        } else if let Some(at) = self.ended.iter().position(|entry| entry.0 == row as u32) {
            until = until.min(self.ended.remove(at).1);
        } else {
            return; // removed
        }
        // versions mostly come in order: then this is a push
        let later = self.ended.iter().rev().take_while(|entry| entry.1 > until).count();
        self.ended.insert(self.ended.len() - later, (row as u32, until));
        self.min_until = self.min_until.min(until);
    }

    /// Removes rows physically.
    pub fn kill(&mut self, rows: std::ops::Range<usize>) {
        let all = self.latest.rows();
        let killed = self.killed.get_or_insert_with(|| Mask::none(all));
        for row in rows {
            killed.set(row);
            self.latest.clear(row);
        }
        let killed = &*killed;
        self.ended.retain(|entry| !killed.get(entry.0 as usize));
    }

    /// Rows that a read at the end of time does not see.
    pub fn dead_rows(&self, rows: usize) -> usize {
        rows - self.latest.count()
    }

    /// Rows that a read at `ts` sees, if it needs nothing but the mask of the end of time.
    pub fn live(&self, ts: u64) -> Option<usize> {
        self.ended.last().is_none_or(|entry| entry.1 <= ts).then_some(self.latest.count())
    }

    /// Some row was physically removed.
    pub fn has_killed(&self) -> bool {
        self.killed.is_some()
    }

    /// Does it hide any row from a read at `ts`?
    pub fn hides(&self, ts: u64) -> bool {
        self.killed.is_some() || ts >= self.min_until
    }

    /// Asks memory for the mask and the last row that ended, which will be read soon.
    pub fn expect(&self) {
        self.latest.expect();
        prefetch(&self.ended[self.ended.len().saturating_sub(1)..]);
    }

    /// Which of `rows` rows from `first` on a read at `ts` sees as far as the delta is concerned:
    /// the mask of the end of time, where rows that ended later than `ts` are put back.
    pub fn visible(&self, ts: u64, first: usize, rows: usize) -> BooleanBuffer {
        let undone = self.ended.iter().rev().take_while(|entry| entry.1 > ts);
        let inside = |entry: &&(u32, u64)| (first..first + rows).contains(&(entry.0 as usize));
        let mut undone = undone.filter(inside).map(|entry| entry.0 as usize).peekable();
        match undone.peek() {
            None => self.latest.part(first, rows),
            Some(_) => self.latest.part_with(first, rows, undone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(overlay: &Overlay, rows: usize, ts: u64) -> Vec<usize> {
        let mask = overlay.visible(ts, 0, rows);
        for first in 0..rows {
            let part = overlay.visible(ts, first, rows - first);
            assert_eq!(part, mask.slice(first, rows - first), "from row {first} on");
        }
        mask.set_indices().collect()
    }

    #[test]
    fn rows_end_at_their_time_and_killed_rows_never_come_back() {
        let mut overlay = Overlay::new(70);
        overlay.kill(2..69);
        overlay.end(0, 10);
        overlay.end(1, 20);
        overlay.end(0, 5);
        assert_eq!(visible(&overlay, 70, 4), [0, 1, 69]);
        assert_eq!(visible(&overlay, 70, 5), [1, 69]);
        assert_eq!(visible(&overlay, 70, 20), [69]);
        assert_eq!(overlay.dead_rows(70), 69);
        assert_eq!((overlay.live(20), overlay.live(19)), (Some(1), None));
        overlay.end(3, 7);
        assert_eq!(visible(&overlay, 70, 1), [0, 1, 69]);
    }
}
