//! A scan in the order of handles: base packs are in order already, and the few rows of other
//! packs and of the delta are sorted and woven in, column at a time. It must never sort what the
//! stable file has sorted.

use super::plan::Plan;
use super::unit::{Unit, Visible};
use crate::error::Result;
use crate::plain::compact;
use crate::values::for_rows;
use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::interleave;
use std::collections::HashMap;

/// Rows of a batch that has no pack to follow.
const BATCH_ROWS: usize = 8192;

/// A visible row that is not in a base pack.
#[derive(Clone, Copy, Debug)]
struct Extra {
    handle: i64,
    unit: u32,
    row: u32,
}

/// What is left of the segment that is being read.
struct Rest {
    /// Units of base packs.
    base: std::ops::Range<usize>,
    /// Ascending by handle.
    extras: Vec<Extra>,
    at: usize,
}

/// The batches of a plan, ascending by handle.
pub struct Ordered {
    plan: Plan,
    next: usize,
    rest: Option<Rest>,
}

impl Ordered {
    /// Reads nothing yet.
    pub fn new(plan: Plan) -> Ordered {
        Ordered { plan, next: 0, rest: None }
    }

    fn is_base(&self, unit: &Unit) -> bool {
        let stable = self.plan.views[unit.view].stable.as_ref();
        !unit.is_chunk && stable.is_some_and(|stable| unit.index < stable.base_packs)
    }

    fn handles(&self, unit: &Unit) -> Result<&[i64]> {
        let view = &self.plan.views[unit.view];
        let handles: &[i64] = match (unit.is_chunk, &view.stable) {
            (false, Some(stable)) => stable.keys(unit.index)?.handles,
            _ => view.chunks[unit.index].rows.handles.values(),
        };
        Ok(&handles[unit.first..unit.first + unit.rows])
    }

    /// Begins the segment of the next unit.
    fn begin(&mut self) -> Result<Rest> {
        let units = &self.plan.units;
        let first = self.next;
        let same = |unit: &&Unit| unit.view == units[first].view;
        let end = first + units[first..].iter().take_while(same).count();
        let base = units[first..end].iter().take_while(|unit| self.is_base(unit)).count();
        let mut extras = Vec::new();
        for (index, unit) in units.iter().enumerate().take(end).skip(first + base) {
            let mask = match self.plan.visible(unit)? {
                Visible::Nothing => continue,
                Visible::All => None,
                Visible::Some(mask, _) => Some(mask),
            };
            let handles = self.handles(unit)?;
            for_rows(unit.rows, mask.as_ref(), |row| {
                let (unit, handle) = (index as u32, handles[row]);
                extras.push(Extra { handle, unit, row: row as u32 });
            });
        }
        extras.sort_unstable_by_key(|extra| extra.handle);
        self.next = end;
        Ok(Rest { base: first..first + base, extras, at: 0 })
    }

    /// The next batch of a segment; it may be empty. `None`: the segment is done.
    fn step(&self, rest: &mut Rest) -> Result<Option<RecordBatch>> {
        let Some(index) = rest.base.next() else {
            let end = rest.extras.len().min(rest.at + BATCH_ROWS);
            let extras = &rest.extras[rest.at..end];
            rest.at = end;
            return match extras.is_empty() {
                true => Ok(None),
                false => self.weave(None, extras).map(Some),
            };
        };
        let unit = &self.plan.units[index];
        let last = *self.handles(unit)?.last().expect("a unit has rows");
        let end = rest.at + rest.extras[rest.at..].partition_point(|extra| extra.handle <= last);
        let extras = &rest.extras[rest.at..end];
        rest.at = end;
        if !extras.is_empty() {
            return self.weave(Some(index), extras).map(Some);
        }
        match self.plan.read(unit)? {
            Some(masked) => compact(masked).map(Some),
            None => {
                let schema = self.plan.request.schema.clone();
                Ok(Some(RecordBatch::new_empty(schema)))
            }
        }
    }

    /// The rows of a base unit and others, by handle.
    fn weave(&self, base: Option<usize>, extras: &[Extra]) -> Result<RecordBatch> {
        let mut sources: Vec<usize> = Vec::new();
        let mut locals: HashMap<u32, usize> = HashMap::new();
        let mut picks = Vec::with_capacity(extras.len());
        let mut left = extras.iter().peekable();
        if let Some(index) = base {
            sources.push(index);
            let unit = &self.plan.units[index];
            let handles = self.handles(unit)?;
            let mut local = |extra: &Extra, sources: &mut Vec<usize>| {
                *locals.entry(extra.unit).or_insert_with(|| {
                    sources.push(extra.unit as usize);
                    sources.len() - 1
                })
            };
            let mut take = |row: usize| {
                while let Some(extra) = left.next_if(|extra| extra.handle < handles[row]) {
                    picks.push((local(extra, &mut sources), extra.row as usize));
                }
                picks.push((0, row));
            };
            match self.plan.visible(unit)? {
                Visible::Nothing => {}
                Visible::All => for_rows(unit.rows, None, &mut take),
                Visible::Some(mask, _) => for_rows(unit.rows, Some(&mask), &mut take),
            }
        }
        for extra in left {
            let local = *locals.entry(extra.unit).or_insert_with(|| {
                sources.push(extra.unit as usize);
                sources.len() - 1
            });
            picks.push((local, extra.row as usize));
        }
        let columns = (0..self.plan.request.schema.fields().len()).map(|at| {
            let arrays = sources.iter().map(|unit| self.plan.column(&self.plan.units[*unit], at));
            let arrays: Vec<ArrayRef> = arrays.collect::<Result<_>>()?;
            let arrays: Vec<&dyn Array> = arrays.iter().map(|array| &**array).collect();
            Ok(interleave(&arrays, &picks)?)
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(picks.len()));
        let schema = self.plan.request.schema.clone();
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let mut rest = match self.rest.take() {
                Some(rest) => rest,
                None if self.next == self.plan.units.len() => return Ok(None),
                None => self.begin()?,
            };
            if let Some(batch) = self.step(&mut rest)? {
                self.rest = Some(rest);
                if batch.num_rows() > 0 {
                    return Ok(Some(batch));
                }
            }
        }
    }
}

impl Iterator for Ordered {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        let batch = self.advance();
        if batch.is_err() {
            (self.next, self.rest) = (self.plan.units.len(), None); // nothing follows an error
        }
        batch.transpose()
    }
}
