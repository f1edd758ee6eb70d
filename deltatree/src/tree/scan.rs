//! Reading a snapshot: a plan finds the units of work, then each is masked and its columns are
//! handed out or folded, without a copy. It must never read a hidden column of a pack that no
//! write touched.

use super::bounds::Bounds;
use super::ordered;
use super::plan::{Plan, clamp, units};
use super::segment::View;
use super::unit::{Unit, Visible};
use crate::error::Result;
use crate::fold::known::Known;
use crate::fold::wide::Next;
use crate::fold::{Folder, Rows};
use crate::plain::compact;
use crate::predicate::Filter;
use crate::store::{
    BatchIter, ColumnSnapshot, Grouping, HandleRange, Masked, MaskedIter, Query, ScanRequest,
};
use arrow::array::RecordBatch;
use damask_types::Timestamp;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Units that a thread takes at a time: about 64 Ki rows.
const MORSEL_UNITS: usize = 8;
/// Rows that are worth a thread of their own: below, waking it costs more than it saves.
const THREAD_ROWS_MIN: usize = 256 << 10;

/// A consistent view of a table.
pub struct Snapshot {
    views: Arc<Vec<Arc<View>>>,
}

impl Snapshot {
    /// Of these segments, in handle order.
    pub fn new(views: Vec<Arc<View>>) -> Snapshot {
        Snapshot { views: Arc::new(views) }
    }

    fn plan(&self, request: &ScanRequest, filter: Filter) -> Result<Plan> {
        Plan::new(self.views.clone(), request, filter)
    }
}

/// Splits units into about `parts` shares of neighbours with as many rows.
fn shares(units: &[Unit], parts: usize) -> Vec<std::ops::Range<usize>> {
    let total: usize = units.iter().map(|unit| unit.rows).sum();
    let share = total.div_ceil(parts.max(1)).max(1);
    let (mut shares, mut first, mut rows) = (Vec::new(), 0, 0);
    for (index, unit) in units.iter().enumerate() {
        rows += unit.rows;
        if rows >= share || index + 1 == units.len() {
            shares.push(first..index + 1);
            (first, rows) = (index + 1, 0);
        }
    }
    shares
}

fn parts(plan: Plan, parts: usize) -> impl Iterator<Item = Part> {
    let shares = shares(&plan.units, parts);
    let plan = Arc::new(plan);
    shares.into_iter().map(move |units| Part { plan: plan.clone(), units, rest: None })
}

impl ColumnSnapshot for Snapshot {
    fn scan(&self, request: &ScanRequest, count: usize) -> Result<Vec<BatchIter>> {
        let plan = self.plan(request, Filter::default())?;
        let rows = request.batch_rows;
        let iterator =
            |part: Part| -> BatchIter { Box::new(Sliced { part: part.whole(), rows, rest: None }) };
        Ok(parts(plan, count).map(iterator).collect())
    }

    fn count(&self, ranges: &[HandleRange], ts: Timestamp) -> Result<u64> {
        let ts = clamp(ts);
        let mut count = 0;
        for unit in units(&self.views, ranges, ts)? {
            count += unit.visible(&self.views[unit.view], ts)?.count(&unit) as u64;
        }
        Ok(count)
    }

    fn select(&self, query: &Query, count: usize) -> Result<Vec<MaskedIter>> {
        let filter = Filter::new(&query.scan.schema, &query.filter)?;
        let plan = self.plan(&query.scan, filter)?;
        Ok(parts(plan, count).map(|part| Box::new(part) as MaskedIter).collect())
    }

    fn ordered(&self, query: &Query) -> Result<BatchIter> {
        let filter = Filter::new(&query.scan.schema, &query.filter)?;
        let rows = query.scan.batch_rows;
        let batches = ordered::Ordered::new(self.plan(&query.scan, filter)?);
        Ok(Box::new(Sliced { part: batches, rows, rest: None }))
    }

    fn aggregate(
        &self,
        query: &Query,
        grouping: &Grouping,
        threads: usize,
    ) -> Result<Option<RecordBatch>> {
        let filter = Filter::new(&query.scan.schema, &query.filter)?;
        let plan = self.plan(&query.scan, filter)?;
        let rows: usize = plan.units.iter().map(|unit| unit.rows).sum();
        let threads = threads.min(rows / THREAD_ROWS_MIN).max(1);
        let folder = || Folder::new(&plan.request.schema, grouping);
        let work = Work { plan: &plan, next: AtomicUsize::new(0), stop: AtomicBool::new(false) };
        if threads == 1 {
            let mut all = folder()?;
            return match work.run(&mut all)? {
                true => all.finish().map(Some),
                false => Ok(None),
            };
        }
        let folders: Vec<_> = (1..threads).map(|_| folder()).collect::<Result<_>>()?;
        let done = Mutex::new(Vec::with_capacity(threads));
        let mut all = folder()?;
        let own = rayon::in_place_scope(|scope| {
            for mut folder in folders {
                let (work, done) = (&work, &done);
                scope.spawn(move |_| {
                    let complete = work.run(&mut folder);
                    done.lock().push(complete.map(|complete| complete.then_some(folder)));
                });
            }
            work.run(&mut all) // one thread is here already
        });
        // an error first: the others have stopped because of it
        let folders = done.into_inner().into_iter().collect::<Result<Vec<_>>>()?;
        if !own? {
            return Ok(None);
        }
        for folder in folders {
            let Some(folder) = folder else { return Ok(None) };
            if !all.merge(folder)? {
                return Ok(None);
            }
        }
        all.finish().map(Some)
    }
}

/// Units to be folded by several threads, each taking the next few.
struct Work<'a> {
    plan: &'a Plan,
    next: AtomicUsize,
    stop: AtomicBool,
}

impl Work<'_> {
    /// False: too many groups.
    fn run(&self, folder: &mut Folder) -> Result<bool> {
        let units = &self.plan.units;
        while !self.stop.load(Ordering::Relaxed) {
            let first = self.next.fetch_add(MORSEL_UNITS, Ordering::Relaxed);
            if first >= units.len() {
                return Ok(true);
            }
            let mut morsel = first..units.len().min(first + MORSEL_UNITS);
            let whole = morsel.try_fold(true, |whole, at| {
                self.plan.look_ahead(&units[at + 1..]);
                Ok(whole & self.fold(&units[at], units.get(at + 1), folder)?)
            });
            if !matches!(whole, Ok(true)) {
                self.stop.store(true, Ordering::Relaxed);
                return whole;
            }
        }
        Ok(false)
    }

    fn fold(&self, unit: &Unit, next: Option<&Unit>, folder: &mut Folder) -> Result<bool> {
        let rows = match self.plan.visible(unit)? {
            Visible::Nothing => return Ok(true),
            Visible::All => Rows::all(unit.rows),
            Visible::Some(mask, set) => Rows { rows: unit.rows, set, mask: Some(mask) },
        };
        let column = |at| self.plan.column(unit, at);
        folder.update_known(rows, column, &Beside { plan: self.plan, unit, next })
    }
}

/// What is known of a unit beside its values.
struct Beside<'a> {
    plan: &'a Plan,
    unit: &'a Unit,
    next: Option<&'a Unit>,
}

impl Known for Beside<'_> {
    fn bounds(&self, at: usize, sought: bool) -> Option<&Bounds> {
        self.plan.bounds(self.unit, at, sought)
    }

    fn next(&self, at: usize) -> Next {
        self.next.map_or(Next::default(), |unit| self.plan.next(unit, at))
    }
}

/// The masked batches of some units.
struct Part {
    plan: Arc<Plan>,
    units: std::ops::Range<usize>,
    rest: Option<Masked>,
}

impl Part {
    /// Whole units, without the rows that do not belong to the answer.
    fn whole(self) -> impl Iterator<Item = Result<RecordBatch>> {
        let Part { plan, mut units, .. } = self;
        std::iter::from_fn(move || {
            let batch = next_unit(&plan, &mut units)?;
            Some(batch.and_then(compact))
        })
    }
}

fn next_unit(plan: &Plan, units: &mut std::ops::Range<usize>) -> Option<Result<Masked>> {
    for unit in units.by_ref() {
        plan.look_ahead(&plan.units[unit + 1..]);
        plan.expect_first(plan.units.get(unit + 1));
        match plan.read(&plan.units[unit]) {
            Ok(None) => {}
            Ok(Some(masked)) => return Some(Ok(masked)),
            Err(e) => {
                *units = 0..0; // nothing follows an error
                return Some(Err(e));
            }
        }
    }
    None
}

impl Iterator for Part {
    type Item = Result<Masked>;

    fn next(&mut self) -> Option<Result<Masked>> {
        let rows_max = self.plan.request.batch_rows;
        loop {
            let masked = match self.rest.take() {
                Some(masked) => masked,
                None => match next_unit(&self.plan, &mut self.units)? {
                    Ok(masked) => masked,
                    Err(e) => return Some(Err(e)),
                },
            };
            let rows = masked.batch.num_rows();
            if rows <= rows_max {
                return Some(Ok(masked));
            }
            let part = |first: usize, rows: usize| {
                let mask = masked.mask.as_ref().map(|mask| mask.slice(first, rows));
                match Visible::of(mask) {
                    Visible::Nothing => None,
                    Visible::All => Some(None),
                    Visible::Some(mask, _) => Some(Some(mask)),
                }
                .map(|mask| Masked { batch: masked.batch.slice(first, rows), mask })
            };
            self.rest = part(rows_max, rows - rows_max);
            if let Some(head) = part(0, rows_max) {
                return Some(Ok(head));
            }
        }
    }
}

/// Batches of at most some rows.
struct Sliced<I> {
    part: I,
    rows: usize,
    rest: Option<RecordBatch>,
}

impl<I: Iterator<Item = Result<RecordBatch>>> Iterator for Sliced<I> {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => match self.part.next()? {
                Ok(batch) => batch,
                Err(e) => return Some(Err(e)),
            },
        };
        if batch.num_rows() <= self.rows {
            return Some(Ok(batch));
        }
        self.rest = Some(batch.slice(self.rows, batch.num_rows() - self.rows));
        Some(Ok(batch.slice(0, self.rows)))
    }
}
