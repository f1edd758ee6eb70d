//! Reading a snapshot: units of work are found by handle ranges and pack bounds, then each is
//! masked and its columns are handed out, without a copy where every row is visible. It must
//! never read a hidden column of a pack that no write touched.

use super::bounds::Bounds;
use super::overlay::ones;
use super::segment::View;
use super::stable::{Pack, Stable};
use crate::error::{Error, Result};
use crate::store::{BatchIter, ColumnSnapshot, HandleRange, ScanRequest};
use arrow::array::UInt32Array;
use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, Scalar,
};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{FilterBuilder, FilterPredicate, take};
use arrow::datatypes::DataType;
use damask_types::{ErrorKind, Timestamp};
use std::sync::Arc;

/// The name that stands for the row's handle.
const HANDLE: &str = "handle";

/// A consistent view of a table.
pub struct Snapshot {
    views: Arc<Vec<Arc<View>>>,
}

/// Neighbouring rows that are read together.
#[derive(Clone, Copy, Debug)]
struct Unit {
    view: usize,
    /// A pack, or with `is_chunk` a chunk.
    index: usize,
    is_chunk: bool,
    first: usize,
    rows: usize,
}

enum Visible {
    All,
    Nothing,
    Some(BooleanBuffer),
}

fn bits(words: Vec<u64>, rows: usize) -> BooleanBuffer {
    BooleanBuffer::new(Buffer::from_vec(words), 0, rows)
}

/// No row's version is `u64::MAX`, but the end of time is: reads stay below it.
fn clamp(ts: Timestamp) -> u64 {
    ts.0.min(u64::MAX - 1)
}

fn covers(ranges: &[HandleRange], first: i64, last: i64) -> bool {
    ranges.iter().any(|range| range.first <= first && last <= range.last)
}

fn touches(ranges: &[HandleRange], first: i64, last: i64) -> bool {
    let at = ranges.partition_point(|range| range.last < first);
    ranges.get(at).is_some_and(|range| range.first <= last)
}

impl Unit {
    fn visible(&self, view: &View, ranges: &[HandleRange], ts: u64) -> Result<Visible> {
        let mask = match self.is_chunk {
            true => self.chunk_mask(view, ranges, ts),
            false => self.pack_mask(view, ts)?,
        };
        let Some(mask) = mask else { return Ok(Visible::All) };
        let mask = mask.slice(self.first, self.rows);
        Ok(match mask.count_set_bits() {
            0 => Visible::Nothing,
            all if all == self.rows => Visible::All,
            _ => Visible::Some(mask),
        })
    }

    fn pack_mask(&self, view: &View, ts: u64) -> Result<Option<BooleanBuffer>> {
        let stable = view.stable.as_ref().expect("a pack has a file");
        let pack = &stable.packs[self.index];
        let overlay = view.overlays[self.index].as_ref().filter(|overlay| overlay.hides(ts));
        let is_base = self.index < stable.base_packs;
        if is_base && pack.max_version <= ts && overlay.is_none() {
            return Ok(None);
        }
        let mut mask = ones(pack.rows);
        if !is_base || pack.max_version > ts {
            let keys = stable.keys(self.index)?;
            for (word, versions) in mask.iter_mut().zip(keys.versions.chunks(64)) {
                *word &= word_of(versions, |version| *version <= ts);
            }
            if let Some(untils) = keys.untils {
                for (word, untils) in mask.iter_mut().zip(untils.chunks(64)) {
                    *word &= word_of(untils, |until| ts < *until);
                }
            }
        }
        if let Some(overlay) = overlay {
            overlay.hide(&mut mask, ts);
        }
        Ok(Some(bits(mask, pack.rows)))
    }

    fn chunk_mask(&self, view: &View, ranges: &[HandleRange], ts: u64) -> Option<BooleanBuffer> {
        let chunk = &view.chunks[self.index];
        let covered = covers(ranges, chunk.rows.first, chunk.rows.last);
        if covered && chunk.is_clean(ts) {
            return None;
        }
        let mut mask = chunk.visible(ts);
        if !covered {
            for (word, handles) in mask.iter_mut().zip(chunk.rows.handles.values().chunks(64)) {
                if *word != 0 {
                    *word &= word_of(handles, |handle| touches(ranges, *handle, *handle));
                }
            }
        }
        Some(bits(mask, chunk.rows.len()))
    }
}

fn word_of<T>(values: &[T], test: impl Fn(&T) -> bool) -> u64 {
    let bits = values.iter().enumerate();
    bits.fold(0, |word, (bit, value)| word | u64::from(test(value)) << bit)
}

impl Snapshot {
    /// Of these segments, in handle order.
    pub fn new(views: Vec<Arc<View>>) -> Snapshot {
        Snapshot { views: Arc::new(views) }
    }

    fn units(
        &self,
        ranges: &[HandleRange],
        ts: u64,
        skip: impl Fn(&Stable, &Pack) -> bool,
    ) -> Result<Vec<Unit>> {
        let mut units = Vec::new();
        for (view_index, view) in self.views.iter().enumerate() {
            if !touches(ranges, view.range.first, view.range.last) {
                continue;
            }
            let unit = |index, is_chunk, first, rows| Unit {
                view: view_index,
                index,
                is_chunk,
                first,
                rows,
            };
            let stable = view.stable.as_ref();
            for (index, pack) in stable.iter().flat_map(|s| s.packs.iter().enumerate()) {
                let stable = stable.expect("it has packs");
                let gone = pack.min_version > ts || pack.max_until <= ts;
                if gone || !touches(ranges, pack.first, pack.last) || skip(stable, pack) {
                    continue;
                }
                if covers(ranges, pack.first, pack.last) {
                    units.push(unit(index, false, 0, pack.rows));
                    continue;
                }
                let handles = stable.keys(index)?.handles;
                let from = ranges.partition_point(|range| range.last < pack.first);
                for range in ranges[from..].iter().take_while(|range| range.first <= pack.last) {
                    let first = handles.partition_point(|h| *h < range.first);
                    let end = handles.partition_point(|h| *h <= range.last);
                    if first < end {
                        units.push(unit(index, false, first, end - first));
                    }
                }
            }
            for (index, chunk) in view.chunks.iter().enumerate() {
                if touches(ranges, chunk.rows.first, chunk.rows.last) {
                    units.push(unit(index, true, 0, chunk.rows.len()));
                }
            }
        }
        Ok(units)
    }
}

fn check(request: &ScanRequest) -> Result<()> {
    let invalid = |what: &str| Err(Error::new("scan", ErrorKind::Invalid, what));
    let fields = request.schema.fields();
    if request.defaults.len() != fields.len() || request.batch_rows == 0 {
        return invalid("one default per column and batch_rows above 0 are needed");
    }
    let fits = |(field, default): (&Arc<arrow::datatypes::Field>, &ArrayRef)| {
        default.len() == 1 && default.data_type() == field.data_type()
    };
    if !fields.iter().zip(&request.defaults).all(fits) {
        return invalid("a default is not one value of its column's type");
    }
    let sorted = request.ranges.windows(2).all(|pair| pair[0].last < pair[1].first);
    if !sorted || request.ranges.iter().any(|range| range.first > range.last) {
        return invalid("ranges are not ascending");
    }
    let handle = fields.iter().find(|field| field.name() == HANDLE);
    if handle.is_some_and(|field| field.data_type() != &DataType::Int64) {
        return invalid("the handle is an Int64");
    }
    if request.prune.iter().any(|prune| prune.column >= fields.len()) {
        return invalid("a prune condition names no column");
    }
    Ok(())
}

/// A condition, ready to be held against packs.
struct Condition {
    name: String,
    data_type: DataType,
    min: Bounds,
    max: Bounds,
    default: Bounds,
}

impl Condition {
    fn of(request: &ScanRequest) -> Vec<Condition> {
        let bounds = |array: &Option<ArrayRef>, ty: &DataType| match array {
            Some(array) if array.data_type() == ty => Bounds::of(array),
            _ => Bounds::Unknown,
        };
        let condition = |prune: &crate::store::Prune| {
            let field = request.schema.field(prune.column);
            Condition {
                name: field.name().clone(),
                data_type: field.data_type().clone(),
                min: bounds(&prune.min, field.data_type()),
                max: bounds(&prune.max, field.data_type()),
                default: Bounds::of(&request.defaults[prune.column]),
            }
        };
        request.prune.iter().map(condition).collect()
    }

    /// No row of the pack can match.
    fn skips(&self, stable: &Stable, pack: &Pack) -> bool {
        if self.name == HANDLE {
            let handles = Bounds::Numbers(pack.first.into(), pack.last.into());
            return handles.outside(&self.min, &self.max);
        }
        let at = stable.find_column(&self.name);
        let Some(column) = at.and_then(|at| pack.columns[at].as_ref()) else {
            // every row has the default, and a NULL matches no comparison
            return self.default.outside(&self.min, &self.max);
        };
        let same = at.is_some_and(|at| stable.columns[at].1 == self.data_type);
        same && column.bounds.outside(&self.min, &self.max)
            && (!column.has_absent() || self.default.outside(&self.min, &self.max))
    }
}

impl ColumnSnapshot for Snapshot {
    fn scan(&self, request: &ScanRequest, parts: usize) -> Result<Vec<BatchIter>> {
        check(request)?;
        let ts = clamp(request.ts);
        let conditions = Condition::of(request);
        let skip = |stable: &Stable, pack: &Pack| conditions.iter().any(|c| c.skips(stable, pack));
        let units = self.units(&request.ranges, ts, skip)?;
        let total: usize = units.iter().map(|unit| unit.rows).sum();
        let share = total.div_ceil(parts.max(1)).max(1);
        let request = Arc::new(request.clone());
        let mut iterators: Vec<BatchIter> = Vec::new();
        let mut part: Vec<Unit> = Vec::new();
        let mut rows = 0;
        let count = units.len();
        for (index, unit) in units.into_iter().enumerate() {
            rows += unit.rows;
            part.push(unit);
            if rows >= share || index + 1 == count {
                rows = 0;
                iterators.push(Box::new(Part {
                    views: self.views.clone(),
                    request: request.clone(),
                    ts,
                    units: std::mem::take(&mut part).into_iter(),
                    rest: None,
                }));
            }
        }
        Ok(iterators)
    }

    fn count(&self, ranges: &[HandleRange], ts: Timestamp) -> Result<u64> {
        let ts = clamp(ts);
        let mut count = 0;
        for unit in self.units(ranges, ts, |_, _| false)? {
            count += match unit.visible(&self.views[unit.view], ranges, ts)? {
                Visible::All => unit.rows,
                Visible::Nothing => 0,
                Visible::Some(mask) => mask.count_set_bits(),
            } as u64;
        }
        Ok(count)
    }
}

/// The batches of some units.
struct Part {
    views: Arc<Vec<Arc<View>>>,
    request: Arc<ScanRequest>,
    ts: u64,
    units: std::vec::IntoIter<Unit>,
    rest: Option<RecordBatch>,
}

impl Part {
    /// The next unit's batch; `None` behind the last.
    fn next_unit(&mut self) -> Result<Option<RecordBatch>> {
        for unit in self.units.by_ref() {
            let view = &self.views[unit.view];
            match unit.visible(view, &self.request.ranges, self.ts)? {
                Visible::All => return read(view, &unit, &self.request, None).map(Some),
                Visible::Nothing => {}
                Visible::Some(mask) => {
                    let mask = BooleanArray::new(mask, None);
                    let filter = FilterBuilder::new(&mask);
                    let filter = match self.request.schema.fields().len() > 1 {
                        true => filter.optimize().build(),
                        false => filter.build(),
                    };
                    return read(view, &unit, &self.request, Some(&filter)).map(Some);
                }
            }
        }
        Ok(None)
    }
}

impl Iterator for Part {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => match self.next_unit() {
                Ok(Some(batch)) => batch,
                Ok(None) => return None,
                Err(e) => {
                    self.units = Vec::new().into_iter(); // nothing follows an error
                    return Some(Err(e));
                }
            },
        };
        let rows = self.request.batch_rows;
        if batch.num_rows() <= rows {
            return Some(Ok(batch));
        }
        self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
        Some(Ok(batch.slice(0, rows)))
    }
}

fn read(
    view: &View,
    unit: &Unit,
    request: &ScanRequest,
    filter: Option<&FilterPredicate>,
) -> Result<RecordBatch> {
    let rows = filter.map_or(unit.rows, FilterPredicate::count);
    let fields = request.schema.fields().iter().zip(&request.defaults);
    let columns = fields.map(|(field, default)| {
        let (array, absent) = match column(view, unit, field.name())? {
            Some(found) => found,
            None => return repeat(default, rows),
        };
        if array.data_type() != field.data_type() {
            let (name, is, asked) = (field.name(), array.data_type(), field.data_type());
            let detail = format!("column {name} is {is}, not {asked}");
            return Err(Error::new("scan", ErrorKind::Invalid, detail));
        }
        let slice = array.slice(unit.first, unit.rows);
        let array = match absent {
            Some(absent) => {
                let absent = BooleanArray::new(absent.slice(unit.first, unit.rows), None);
                zip(&absent, &Scalar::new(default.clone()), &slice)?
            }
            None => slice,
        };
        match filter {
            Some(filter) => Ok(filter.filter(&array)?),
            None => Ok(array),
        }
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(request.schema.clone(), columns, &options)?)
}

/// A value, repeated.
pub fn repeat(value: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    Ok(take(value, &UInt32Array::from(vec![0; rows]), None)?)
}

/// All rows of the unit's pack or chunk, and which of them lack the column.
fn column(
    view: &View,
    unit: &Unit,
    name: &str,
) -> Result<Option<(ArrayRef, Option<BooleanBuffer>)>> {
    if unit.is_chunk {
        let rows = &view.chunks[unit.index].rows;
        if name == HANDLE {
            let handles: Int64Array = rows.handles.clone();
            return Ok(Some((Arc::new(handles), None)));
        }
        return Ok(rows.columns.column_by_name(name).map(|array| (array.clone(), None)));
    }
    let stable = view.stable.as_ref().expect("a pack has a file");
    if name == HANDLE {
        return Ok(Some((stable.handles(unit.index)?, None)));
    }
    let Some(at) = stable.find_column(name) else { return Ok(None) };
    let column = stable.column(unit.index, at)?;
    Ok(column.map(|column| (column.array.clone(), column.absent.clone())))
}
