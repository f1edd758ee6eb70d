//! What one read has to do: the units that its ranges and conditions leave, and the columns of
//! each, found once. It must never skip a pack or chunk that holds a row of the answer.

use super::bounds::Bounds;
use super::chunk::Chunk;
use super::segment::View;
use super::stable::Stable;
use super::unit::{Unit, Visible, covers, touches};
use crate::error::Result;
use crate::fold::wide::{Next, prefetch};
use crate::predicate::{Filter, Rough, same_type};
use crate::store::{HandleRange, Masked, Prune, ScanRequest};
use crate::values::{Values, invalid};
use arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, Scalar, UInt32Array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::zip::zip;
use arrow::compute::take;
use arrow::datatypes::DataType;
use damask_types::Timestamp;
use std::sync::Arc;

/// The name that stands for the row's handle.
pub const HANDLE: &str = "handle";

/// No row's version is `u64::MAX`, but the end of time is: reads stay below it.
pub fn clamp(ts: Timestamp) -> u64 {
    ts.0.min(u64::MAX - 1)
}

/// Where a column of the request is in a stable file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Handle,
    Column(usize),
    Missing,
}

/// One read of a snapshot.
pub struct Plan {
    /// The segments, in handle order.
    pub views: Arc<Vec<Arc<View>>>,
    /// What was asked for.
    pub request: ScanRequest,
    /// The units, by segment: base packs, history packs, chunks.
    pub units: Vec<Unit>,
    ts: u64,
    filter: Filter,
    prunes: Vec<(usize, Bounds, Bounds)>,
    default_bounds: Vec<Bounds>,
    /// By view, by column of the request.
    places: Vec<Vec<Place>>,
}

/// Refuses a request that makes no sense.
fn check(request: &ScanRequest) -> Result<()> {
    let fields = request.schema.fields();
    if request.defaults.len() != fields.len() || request.batch_rows == 0 {
        return Err(invalid("one default per column and batch_rows above 0 are needed"));
    }
    let fits = |(field, default): (&Arc<arrow::datatypes::Field>, &ArrayRef)| {
        default.len() == 1 && default.data_type() == field.data_type()
    };
    if !fields.iter().zip(&request.defaults).all(fits) {
        return Err(invalid("a default is not one value of its column's type"));
    }
    let sorted = request.ranges.windows(2).all(|pair| pair[0].last < pair[1].first);
    if !sorted || request.ranges.iter().any(|range| range.first > range.last) {
        return Err(invalid("ranges are not ascending"));
    }
    let handle = fields.iter().find(|field| field.name() == HANDLE);
    if handle.is_some_and(|field| field.data_type() != &DataType::Int64) {
        return Err(invalid("the handle is an Int64"));
    }
    if request.prune.iter().any(|prune| prune.column >= fields.len()) {
        return Err(invalid("a prune condition names no column"));
    }
    Ok(())
}

fn prune_bounds(request: &ScanRequest, prune: &Prune) -> (usize, Bounds, Bounds) {
    let data_type = request.schema.field(prune.column).data_type();
    let bounds = |array: &Option<ArrayRef>| match array {
        Some(array) if array.data_type() == data_type => Bounds::of(array),
        _ => Bounds::Unknown,
    };
    (prune.column, bounds(&prune.min), bounds(&prune.max))
}

/// The units of some segments that lie in the ranges and are not older or newer than `ts`.
pub fn units(views: &[Arc<View>], ranges: &[HandleRange], ts: u64) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    for (view_index, view) in views.iter().enumerate() {
        if !touches(ranges, view.range.first, view.range.last) {
            continue;
        }
        if let Some(stable) = &view.stable {
            for index in 0..stable.packs.len() {
                pack_units(stable, view_index, index, ranges, ts, &mut units)?;
            }
        }
        for (index, chunk) in view.chunks.iter().enumerate() {
            chunk_units(chunk, (view_index, index), ranges, ts, &mut units);
        }
    }
    Ok(units)
}

fn pack_units(
    stable: &Stable,
    view: usize,
    index: usize,
    ranges: &[HandleRange],
    ts: u64,
    units: &mut Vec<Unit>,
) -> Result<()> {
    let pack = &stable.packs[index];
    let gone = pack.min_version > ts || pack.max_until <= ts;
    if gone || !touches(ranges, pack.first, pack.last) {
        return Ok(());
    }
    let unit = Unit { view, index, is_chunk: false, first: 0, rows: pack.rows };
    match covers(ranges, pack.first, pack.last) {
        true => units.push(unit),
        false => cut(unit, stable.keys(index)?.handles, ranges, units),
    }
    Ok(())
}

fn chunk_units(
    chunk: &Chunk,
    (view, index): (usize, usize),
    ranges: &[HandleRange],
    ts: u64,
    units: &mut Vec<Unit>,
) {
    let rows = &chunk.rows;
    if rows.min_version > ts || !touches(ranges, rows.first, rows.last) {
        return;
    }
    let unit = Unit { view, index, is_chunk: true, first: 0, rows: rows.len() };
    match covers(ranges, rows.first, rows.last) {
        true => units.push(unit),
        false => cut(unit, rows.handles.values(), ranges, units),
    }
}

/// The parts of a whole pack or chunk, whose handles ascend, that lie in the ranges. Parts that
/// touch are one.
fn cut(mut unit: Unit, handles: &[i64], ranges: &[HandleRange], units: &mut Vec<Unit>) {
    let (Some(first), Some(last)) = (handles.first(), handles.last()) else { return };
    let from = ranges.partition_point(|range| range.last < *first);
    let (known, mut end) = (units.len(), 0);
    for range in ranges[from..].iter().take_while(|range| range.first <= *last) {
        let start = end + handles[end..].partition_point(|handle| *handle < range.first);
        if handles.get(start).is_none_or(|handle| *handle > range.last) {
            end = start;
            continue;
        }
        end = start + handles[start..].partition_point(|handle| *handle <= range.last);
        match units[known..].last_mut().filter(|before| before.first + before.rows == start) {
            Some(before) => before.rows = end - before.first,
            None => {
                (unit.first, unit.rows) = (start, end - start);
                units.push(unit);
            }
        }
    }
}

fn places(view: &View, request: &ScanRequest) -> Vec<Place> {
    let place = |field: &Arc<arrow::datatypes::Field>| {
        if field.name() == HANDLE {
            return Place::Handle;
        }
        let found = view.stable.as_ref().and_then(|stable| stable.find_column(field.name()));
        found.map_or(Place::Missing, Place::Column)
    };
    request.schema.fields().iter().map(place).collect()
}

impl Plan {
    /// Checks a request and finds the units that may hold rows of the answer.
    pub fn new(views: Arc<Vec<Arc<View>>>, request: &ScanRequest, filter: Filter) -> Result<Plan> {
        check(request)?;
        let ts = clamp(request.ts);
        let prunes = request.prune.iter().map(|prune| prune_bounds(request, prune)).collect();
        let asked: Vec<usize> =
            request.prune.iter().map(|p| p.column).chain(filter.columns()).collect();
        let defaults = request.defaults.iter().enumerate();
        let default_bounds = defaults.map(|(at, default)| match asked.contains(&at) {
            true => Bounds::of(default),
            false => Bounds::Unknown,
        });
        let default_bounds = default_bounds.collect();
        let places = views.iter().map(|view| places(view, request)).collect();
        let all = units(&views, &request.ranges, ts)?;
        let request = request.clone();
        let units = Vec::new();
        let mut plan = Plan { views, request, units, ts, filter, prunes, default_bounds, places };
        plan.units = all.into_iter().filter(|unit| !plan.skips(unit)).collect();
        Ok(plan)
    }

    /// No row of the unit can pass the conditions.
    fn skips(&self, unit: &Unit) -> bool {
        let pruned = |(column, min, max): &(usize, Bounds, Bounds)| match self.known(unit, *column)
        {
            None => false,
            Some((bounds, absent)) => {
                bounds.outside(min, max)
                    && (!absent || self.default_bounds[*column].outside(min, max))
            }
        };
        let refused = |(condition, column): (usize, usize)| match self.known(unit, column) {
            None => false,
            Some((bounds, absent)) => {
                let nothing = |bounds| self.filter.rough(condition, bounds) == Rough::Nothing;
                nothing(bounds) && (!absent || nothing(&self.default_bounds[column]))
            }
        };
        self.prunes.iter().any(pruned) || self.filter.columns().enumerate().any(refused)
    }

    /// The bounds of a unit's column, and whether some rows have the default instead.
    fn known(&self, unit: &Unit, at: usize) -> Option<(&Bounds, bool)> {
        let view = &self.views[unit.view];
        let name = self.request.schema.field(at).name();
        if unit.is_chunk {
            let rows = &view.chunks[unit.index].rows;
            if name == HANDLE {
                return Some((rows.handle_bounds(), false));
            }
            return Some(match rows.columns.schema_ref().column_with_name(name) {
                Some((column, _)) => (rows.bounds(column), false),
                None => (&self.default_bounds[at], false),
            });
        }
        let stable = view.stable.as_ref()?;
        let pack = &stable.packs[unit.index];
        Some(match self.places[unit.view][at] {
            Place::Handle => (&pack.handle_bounds, false),
            Place::Missing => (&self.default_bounds[at], false),
            Place::Column(column) => match &pack.columns[column] {
                Some(column) => (&column.bounds, column.has_absent()),
                None => (&self.default_bounds[at], false),
            },
        })
    }

    /// Bounds that hold every value of a unit's column, if they are at hand. Those of a chunk are
    /// found when they are `sought`, and kept.
    pub fn bounds(&self, unit: &Unit, at: usize, sought: bool) -> Option<&Bounds> {
        if unit.is_chunk && !sought {
            let rows = &self.views[unit.view].chunks[unit.index].rows;
            let name = self.request.schema.field(at).name();
            let (column, _) = rows.columns.schema_ref().column_with_name(name)?;
            return rows.known_bounds(column);
        }
        self.known(unit, at).filter(|(_, absent)| !absent).map(|(bounds, _)| bounds)
    }

    fn may_be_null(&self, unit: &Unit, at: usize) -> bool {
        let view = &self.views[unit.view];
        match (unit.is_chunk, self.places[unit.view][at]) {
            (false, Place::Handle) => false,
            (false, Place::Column(column)) => {
                let stable = view.stable.as_ref().expect("a pack has a file");
                stable.packs[unit.index].columns[column].as_ref().is_none_or(|c| c.has_nulls())
            }
            _ => true,
        }
    }

    /// The rows of a unit that belong to the answer. Only columns that the filter names are
    /// touched, and of those only where bounds leave a doubt and a row is left.
    pub fn visible(&self, unit: &Unit) -> Result<Visible> {
        let view = &self.views[unit.view];
        let mut visible = unit.visible(view, self.ts)?;
        for (condition, column) in self.filter.columns().enumerate() {
            if let Visible::Nothing = visible {
                return Ok(visible);
            }
            let sure = !self.may_be_null(unit, column)
                && self.bounds(unit, column, false).is_some_and(|bounds| {
                    self.filter.rough(condition, bounds) == Rough::AllButNull
                });
            if sure {
                continue;
            }
            let array = self.column(unit, column)?;
            visible = match visible {
                Visible::Some(mask, set) => {
                    Visible::of(self.filter.refine(condition, &array, Some((mask, set)))?)
                }
                _ => Visible::of(self.filter.refine(condition, &array, None)?),
            };
        }
        Ok(visible)
    }

    /// Asks memory for what the next units begin with, step by step, so that nothing waits: each
    /// step looks at what the step before it, a unit earlier, has asked for.
    pub fn look_ahead(&self, next: &[Unit]) {
        let pack = |at: usize| {
            let unit = next.get(at).filter(|unit| !unit.is_chunk)?;
            let view = &self.views[unit.view];
            Some((unit, view, view.stable.as_deref()?))
        };
        if let Some((unit, _, stable)) = pack(2) {
            stable.expect_pack(unit.index);
        }
        if let Some((unit, view, stable)) = pack(1) {
            self.stored_columns(unit).for_each(|column| stable.expect_column(unit.index, column));
            if let Some(overlay) = &view.overlays[unit.index] {
                prefetch(std::slice::from_ref(&**overlay));
            }
        }
        if let Some((unit, view, stable)) = pack(0) {
            self.stored_columns(unit).for_each(|column| stable.expect_array(unit.index, column));
            if let Some(overlay) = &view.overlays[unit.index] {
                overlay.expect();
            }
        }
        if let Some(unit) = next.first().filter(|unit| unit.is_chunk) {
            self.views[unit.view].chunks[unit.index].expect();
        }
    }

    /// Asks memory for the first values of the next unit, where no sum does it.
    pub fn expect_first(&self, next: Option<&Unit>) {
        let Some(unit) = next else { return };
        (0..self.request.schema.fields().len()).for_each(|at| self.next(unit, at).expect());
    }

    /// Where a unit's column begins, if that is known without opening it.
    pub fn next(&self, unit: &Unit, at: usize) -> Next {
        let view = &self.views[unit.view];
        if unit.first > 0 {
            return Next::default();
        }
        if unit.is_chunk {
            let name = self.request.schema.field(at).name();
            let array = view.chunks[unit.index].rows.columns.column_by_name(name);
            let values = array.and_then(|array| Values::of(array).ok());
            return values.map_or(Next::default(), |values| values.next());
        }
        match (self.places[unit.view][at], &view.stable) {
            (Place::Column(column), Some(stable)) => stable.next(unit.index, column),
            _ => Next::default(),
        }
    }

    /// Where the columns of the request are in the unit's file.
    fn stored_columns(&self, unit: &Unit) -> impl Iterator<Item = usize> {
        self.places[unit.view].iter().filter_map(|place| match place {
            Place::Column(column) => Some(*column),
            Place::Handle | Place::Missing => None,
        })
    }

    /// A column of a unit; without a copy, unless rows without the column need its default.
    pub fn column(&self, unit: &Unit, at: usize) -> Result<ArrayRef> {
        let field = self.request.schema.field(at);
        let default = &self.request.defaults[at];
        let Some((array, absent)) = self.stored(unit, at)? else {
            return repeat(default, unit.rows);
        };
        same_type(field.data_type(), array.data_type(), field.name())?;
        let whole = unit.first == 0 && unit.rows == array.len();
        let slice = if whole { array } else { array.slice(unit.first, unit.rows) };
        let Some(absent) = absent else { return Ok(slice) };
        let absent = BooleanArray::new(absent.slice(unit.first, unit.rows), None);
        Ok(zip(&absent, &Scalar::new(default.clone()), &slice)?)
    }

    /// All rows of the unit's pack or chunk, and which of them lack the column.
    fn stored(&self, unit: &Unit, at: usize) -> Result<Option<(ArrayRef, Option<BooleanBuffer>)>> {
        let view = &self.views[unit.view];
        if unit.is_chunk {
            let rows = &view.chunks[unit.index].rows;
            let name = self.request.schema.field(at).name();
            if name == HANDLE {
                return Ok(Some((Arc::new(rows.handles.clone()), None)));
            }
            return Ok(rows.columns.column_by_name(name).map(|array| (array.clone(), None)));
        }
        let stable = view.stable.as_ref().expect("a pack has a file");
        match self.places[unit.view][at] {
            Place::Handle => Ok(Some((stable.handles(unit.index)?, None))),
            Place::Missing => Ok(None),
            Place::Column(column) => {
                let column = stable.column(unit.index, column)?;
                Ok(column.map(|column| (column.array.clone(), column.absent.clone())))
            }
        }
    }

    /// The rows of a unit that belong to the answer, as masked columns.
    pub fn read(&self, unit: &Unit) -> Result<Option<Masked>> {
        let mask = match self.visible(unit)? {
            Visible::Nothing => return Ok(None),
            Visible::All => None,
            Visible::Some(mask, _) => Some(mask),
        };
        let columns = (0..self.request.schema.fields().len()).map(|at| self.column(unit, at));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(unit.rows));
        let schema = self.request.schema.clone();
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok(Some(Masked { batch, mask }))
    }
}

/// A value, repeated.
pub fn repeat(value: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    Ok(take(value, &UInt32Array::from(vec![0; rows]), None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_cut_at_the_edges_of_ranges() {
        let handles = [0, 2, 4, 4, 6, 8];
        let parts = |ranges: &[(i64, i64)]| {
            let range = |(first, last): &(i64, i64)| HandleRange { first: *first, last: *last };
            let ranges: Vec<_> = ranges.iter().map(range).collect();
            let unit = Unit { view: 0, index: 0, is_chunk: true, first: 0, rows: 6 };
            let mut units = vec![unit];
            cut(unit, &handles, &ranges, &mut units);
            units[1..].iter().map(|unit| (unit.first, unit.rows)).collect::<Vec<_>>()
        };
        assert_eq!(parts(&[(4, 4)]), [(2, 2)]);
        assert_eq!(parts(&[(1, 1), (3, 3), (7, 7)]), []);
        assert_eq!(parts(&[(-5, -1), (0, 0), (5, 5), (6, 6), (9, 9)]), [(0, 1), (4, 1)]);
        assert_eq!(parts(&[(0, 2), (3, 5), (6, 6)]), [(0, 5)]);
        assert_eq!(parts(&[(i64::MIN, 2), (8, i64::MAX)]), [(0, 2), (5, 1)]);
    }
}
