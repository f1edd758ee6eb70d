//! Folding rows into aggregates, batch by batch, under masks. Used by the plain form and by
//! DeltaTree's scan alike. It must never copy a column.
//!
//! ```text
//!  columns, mask ─► groups: a number per row ─► states: one slot per group ─► finish: a batch
//!                   (none: all rows are slot 0)         merge: another thread's
//! ```

mod derive;
mod grouped;
pub(crate) mod groups;
mod kernels;
pub(crate) mod known;
pub(crate) mod wide;

use crate::error::Result;
use crate::store::{Derived, Fold, Grouping};
use crate::tree::bounds::Bounds;
use crate::values::{Values, both, count, for_rows, invalid};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Schema, SchemaRef};
use derive::Columns;
use grouped::Numbered;
use groups::{Groups, Value, array_of};
use known::Known;
use std::sync::Arc;
use wide::Next;

/// Digits that an average has more than its values.
const AVG_DIGITS: i8 = 4;

/// What is known of each group, by the group's number.
#[derive(Debug)]
enum State {
    Count(Vec<u64>),
    /// Sums with their counts.
    Sum(Vec<(i128, u64)>),
    FloatSum(Vec<(f64, u64)>),
    Least(Vec<Value>),
    Greatest(Vec<Value>),
}

#[derive(Debug)]
struct Call {
    fold: Fold,
    column: Option<usize>,
    /// Of the column.
    data_type: DataType,
    state: State,
}

/// The rows of a batch, and which of them count.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// All.
    pub rows: usize,
    /// Those that count.
    pub set: usize,
    /// A bit for each that counts; `None`: all do.
    pub mask: Option<BooleanBuffer>,
}

impl Rows {
    /// Every row counts.
    pub fn all(rows: usize) -> Rows {
        Rows { rows, set: rows, mask: None }
    }

    /// Those under a mask, if there is one.
    pub fn of(rows: usize, mask: Option<BooleanBuffer>) -> Rows {
        Rows { rows, set: mask.as_ref().map_or(rows, count), mask }
    }

    /// Only those that are not NULL in a column.
    fn valid(&self, array: Option<&ArrayRef>) -> Option<Rows> {
        let nulls = array?.nulls().filter(|nulls| nulls.null_count() > 0)?;
        let mask = both(self.mask.clone(), Some(nulls.inner().clone()))?;
        Some(Rows { rows: self.rows, set: count(&mask), mask: Some(mask) })
    }
}

/// Aggregates in the making.
#[derive(Debug)]
pub(crate) struct Folder {
    /// The request's columns, then those made of them.
    schema: SchemaRef,
    derived: Vec<Derived>,
    keep: Option<usize>,
    group_columns: Vec<usize>,
    groups: Option<Groups>,
    groups_max: usize,
    calls: Vec<Call>,
    ids: Vec<u32>,
}

fn overflow() -> crate::error::Error {
    invalid("a sum has more than 38 digits")
}

impl Call {
    fn new(schema: &SchemaRef, fold: Fold, column: Option<usize>) -> Result<Call> {
        let field = column.map(|column| schema.fields().get(column));
        let data_type = match (field, fold) {
            (Some(Some(field)), _) => field.data_type().clone(),
            (None, Fold::Count) => DataType::Int64,
            _ => return Err(invalid("an aggregate names no column")),
        };
        let state = match (fold, &data_type) {
            (Fold::Count, _) => State::Count(Vec::new()),
            (Fold::Sum | Fold::Avg, DataType::Float64) => State::FloatSum(Vec::new()),
            (
                Fold::Sum | Fold::Avg,
                DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..),
            ) => State::Sum(Vec::new()),
            (Fold::Sum | Fold::Avg, other) => {
                return Err(invalid(format!("there is no sum of {other}")));
            }
            (Fold::Min, _) => State::Least(Vec::new()),
            (Fold::Max, _) => State::Greatest(Vec::new()),
        };
        Ok(Call { fold, column, data_type, state })
    }

    fn grow(&mut self, groups: usize) {
        match &mut self.state {
            State::Count(all) => all.resize(groups, 0),
            State::Sum(all) => all.resize(groups, (0, 0)),
            State::FloatSum(all) => all.resize(groups, (0.0, 0)),
            State::Least(all) | State::Greatest(all) => all.resize(groups, Value::Null),
        }
    }

    /// The values of a column, unless only their number matters.
    fn values<'a>(&self, array: Option<&'a ArrayRef>) -> Result<Option<Values<'a>>> {
        match self.state {
            State::Count(_) => Ok(None),
            _ => array.map(|array| Values::of(array)).transpose(),
        }
    }

    /// Folds rows of one group: slot 0. `hints`: as `kernels::sum` has them.
    fn update_all(
        &mut self,
        rows: &Rows,
        array: Option<&ArrayRef>,
        hints: (bool, Next),
    ) -> Result<()> {
        let valid = rows.valid(array);
        let Rows { rows, set, mask } = valid.as_ref().unwrap_or(rows);
        let (rows, count, mask) = (*rows, *set as u64, mask.as_ref());
        if count == 0 {
            return Ok(());
        }
        let values = self.values(array)?;
        match (&mut self.state, values) {
            (State::Count(all), _) => all[0] += count,
            (State::Sum(all), Some(values)) => {
                let sum = match values {
                    Values::I64(values) => Some(kernels::sum(values, mask, hints)),
                    Values::U64(values) => Some(kernels::sum(values, mask, hints)),
                    Values::I128(values) => kernels::sum_wide(values, mask),
                    _ => return Err(invalid("a column changed its type")),
                };
                let total = sum.and_then(|sum| all[0].0.checked_add(sum)).ok_or_else(overflow)?;
                all[0] = (total, all[0].1 + count);
            }
            (State::FloatSum(all), Some(Values::F64(values))) => {
                let (sum, seen) = all[0];
                all[0] = (sum + kernels::sum_floats(values, mask), seen + count);
            }
            (State::Least(all), Some(values)) => {
                let found = extreme(values, mask, rows, true);
                let better = |a: &Value| matches!(a, Value::Null) || found.order(a).is_lt();
                if better(&all[0]) {
                    all[0] = found;
                }
            }
            (State::Greatest(all), Some(values)) => {
                let found = extreme(values, mask, rows, false);
                if found.order(&all[0]).is_gt() {
                    all[0] = found;
                }
            }
            _ => return Err(invalid("a column changed its type")),
        }
        Ok(())
    }

    /// Folds rows of many groups.
    fn update_groups(&mut self, rows: &mut Numbered<'_>, array: Option<&ArrayRef>) -> Result<()> {
        let values = self.values(array)?;
        let valid = rows.rows.valid(array);
        let mut without;
        let rows = match valid {
            None => rows,
            Some(valid) => {
                without = Numbered::new(rows.ids, valid, rows.groups);
                &mut without
            }
        };
        let is_done = match (&mut self.state, values) {
            (State::Count(all), _) => {
                all.iter_mut().zip(rows.counts()).for_each(|(all, more)| *all += more);
                true
            }
            (State::Sum(all), Some(values)) => rows.add(all, values)?,
            _ => false,
        };
        if is_done {
            return Ok(());
        }
        let (ids, mask) = (rows.ids, rows.rows.mask.as_ref());
        match (&mut self.state, values) {
            (State::Sum(all), Some(values)) => sum_groups(all, ids, mask, values)?,
            (State::FloatSum(all), Some(Values::F64(values))) => {
                for_rows(ids.len(), mask, |row| {
                    let (sum, count) = &mut all[ids[row] as usize];
                    (*sum, *count) = (*sum + values[row], *count + 1);
                });
            }
            (State::Least(all), Some(values)) => extremes(all, ids, mask, values, true),
            (State::Greatest(all), Some(values)) => extremes(all, ids, mask, values, false),
            _ => return Err(invalid("a column changed its type")),
        }
        Ok(())
    }

    /// Adds what another thread folded: its slot `from` is this one's `ids[from]`.
    fn merge(&mut self, other: Call, ids: &[u32]) -> Result<()> {
        let at = |from: usize| ids[from] as usize;
        match (&mut self.state, other.state) {
            (State::Count(all), State::Count(more)) => {
                more.into_iter().enumerate().for_each(|(from, count)| all[at(from)] += count);
            }
            (State::Sum(all), State::Sum(more)) => {
                for (from, (sum, count)) in more.into_iter().enumerate() {
                    let slot = &mut all[at(from)];
                    *slot = (slot.0.checked_add(sum).ok_or_else(overflow)?, slot.1 + count);
                }
            }
            (State::FloatSum(all), State::FloatSum(more)) => {
                for (from, (sum, count)) in more.into_iter().enumerate() {
                    let slot = &mut all[at(from)];
                    *slot = (slot.0 + sum, slot.1 + count);
                }
            }
            (State::Least(all), State::Least(more)) => {
                for (from, value) in more.into_iter().enumerate() {
                    keep(&mut all[at(from)], value, true);
                }
            }
            (State::Greatest(all), State::Greatest(more)) => {
                for (from, value) in more.into_iter().enumerate() {
                    keep(&mut all[at(from)], value, false);
                }
            }
            _ => return Err(invalid("different aggregates")),
        }
        Ok(())
    }

    fn finish(&self, order: &[usize]) -> Result<ArrayRef> {
        let decimal = |scale| DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale);
        let scale = match self.data_type {
            DataType::Decimal128(_, scale) => scale,
            _ => 0,
        };
        match &self.state {
            State::Count(all) => {
                let counts = order.iter().map(|group| all[*group] as i64);
                Ok(Arc::new(Int64Array::from_iter_values(counts)))
            }
            State::Least(all) | State::Greatest(all) => {
                array_of(order.iter().map(|group| &all[*group]), &self.data_type)
            }
            State::FloatSum(all) => {
                let value = |(sum, count): (f64, u64)| match (count, self.fold) {
                    (0, _) => Value::Null,
                    (_, Fold::Avg) => Value::Float(sum / count as f64),
                    _ => Value::Float(sum),
                };
                let values: Vec<Value> = order.iter().map(|group| value(all[*group])).collect();
                array_of(values.iter(), &DataType::Float64)
            }
            State::Sum(all) => {
                let more = if self.fold == Fold::Avg { AVG_DIGITS } else { 0 };
                let value = |(sum, count): (i128, u64)| {
                    if count == 0 {
                        return Ok(Value::Null);
                    }
                    let whole = sum.checked_mul(10i128.pow(more as u32)).ok_or_else(overflow)?;
                    let value = if more > 0 { divide(whole, count.into()) } else { whole };
                    match value.unsigned_abs() < 10u128.pow(u32::from(DECIMAL128_MAX_PRECISION)) {
                        true => Ok(Value::Number(value)),
                        false => Err(overflow()),
                    }
                };
                let values = order.iter().map(|group| value(all[*group]));
                let values = values.collect::<Result<Vec<_>>>()?;
                array_of(values.iter(), &decimal(scale + more))
            }
        }
    }
}

/// The columns of a request, then those made of them.
fn with_derived(schema: &SchemaRef, derived: &[Derived]) -> SchemaRef {
    if derived.is_empty() {
        return schema.clone();
    }
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    let all = derived.iter().enumerate();
    fields.extend(all.map(|(at, derived)| {
        Arc::new(Field::new(format!("d{at}"), derived.data_type.clone(), true))
    }));
    Arc::new(Schema::new(fields))
}

/// Rounded half away from zero.
fn divide(sum: i128, count: i128) -> i128 {
    let (quotient, rest) = (sum / count, sum % count);
    match rest.abs() >= count - rest.abs() {
        true => quotient + sum.signum(),
        false => quotient,
    }
}

/// Puts a value in a slot if it is the smaller (or greater) one; NULL is none.
fn keep(slot: &mut Value, value: Value, least: bool) {
    let better = match (&*slot, &value) {
        (_, Value::Null) => false,
        (Value::Null, _) => true,
        (slot, value) => (value.order(slot).is_lt()) == least && value.order(slot).is_ne(),
    };
    if better {
        *slot = value;
    }
}

fn extreme(values: Values<'_>, mask: Option<&BooleanBuffer>, rows: usize, least: bool) -> Value {
    macro_rules! number {
        ($values:expr) => {{
            let found = match least {
                true => kernels::best($values, mask, |a, b| if b < a { b } else { a }),
                false => kernels::best($values, mask, |a, b| if b > a { b } else { a }),
            };
            found.map_or(Value::Null, |v| Value::Number(v.into()))
        }};
    }
    match values {
        Values::I64(values) => number!(values),
        Values::U64(values) => number!(values),
        Values::I32(values) => number!(values),
        Values::I128(values) => number!(values),
        Values::F64(values) => {
            let better = |a: f64, b: f64| if b.total_cmp(&a).is_lt() == least { b } else { a };
            let found = kernels::best(values, mask, better);
            found.map_or(Value::Null, |v| Value::Float(v + 0.0))
        }
        Values::Texts(texts) => {
            let mut found: Option<&[u8]> = None;
            for_rows(rows, mask, |row| {
                let text = texts.get(row);
                if found.is_none_or(|found| if least { text < found } else { text > found }) {
                    found = Some(text);
                }
            });
            found.map_or(Value::Null, |text| Value::Text(text.to_vec()))
        }
    }
}

fn extremes(
    all: &mut [Value],
    ids: &[u32],
    mask: Option<&BooleanBuffer>,
    values: Values<'_>,
    least: bool,
) {
    for_rows(ids.len(), mask, |row| {
        let slot = &mut all[ids[row] as usize];
        let value = match values {
            Values::I64(values) => Value::Number(values[row].into()),
            Values::U64(values) => Value::Number(values[row].into()),
            Values::I32(values) => Value::Number(values[row].into()),
            Values::I128(values) => Value::Number(values[row]),
            Values::F64(values) => Value::Float(values[row] + 0.0),
            Values::Texts(texts) => {
                let text = texts.get(row);
                let same = |slot: &[u8]| if least { slot <= text } else { slot >= text };
                if matches!(slot, Value::Text(slot) if same(slot)) {
                    return; // nothing to copy
                }
                Value::Text(text.to_vec())
            }
        };
        keep(slot, value, least);
    });
}

fn sum_groups(
    all: &mut [(i128, u64)],
    ids: &[u32],
    mask: Option<&BooleanBuffer>,
    values: Values<'_>,
) -> Result<()> {
    let mut over = false;
    let mut add = |row: usize, value: i128| {
        let (sum, count) = &mut all[ids[row] as usize];
        let (total, overflows) = sum.overflowing_add(value);
        (*sum, *count) = (total, *count + 1);
        over |= overflows;
    };
    match values {
        Values::I64(values) => for_rows(ids.len(), mask, |row| add(row, values[row].into())),
        Values::U64(values) => for_rows(ids.len(), mask, |row| add(row, values[row].into())),
        Values::I128(values) => for_rows(ids.len(), mask, |row| add(row, values[row])),
        _ => return Err(invalid("a column changed its type")),
    }
    if over { Err(overflow()) } else { Ok(()) }
}

impl Folder {
    /// Nothing folded yet; checks the grouping against the request's columns.
    pub fn new(schema: &SchemaRef, grouping: &Grouping) -> Result<Folder> {
        let base = schema.fields().len();
        let schema = with_derived(schema, &grouping.derived);
        if grouping.groups.iter().any(|column| *column >= schema.fields().len()) {
            return Err(invalid("a group names no column"));
        }
        derive::check(base, &grouping.derived, grouping.keep)?;
        let calls = grouping.aggregates.iter().map(|a| Call::new(&schema, a.fold, a.column));
        let mut calls = calls.collect::<Result<Vec<_>>>()?;
        let groups = match grouping.groups.len() {
            0 => {
                calls.iter_mut().for_each(|call| call.grow(1));
                None
            }
            columns => Some(Groups::new(columns)),
        };
        Ok(Folder {
            schema,
            derived: grouping.derived.clone(),
            keep: grouping.keep,
            group_columns: grouping.groups.clone(),
            groups,
            groups_max: grouping.groups_max,
            calls,
            ids: Vec::new(),
        })
    }

    /// Counts rows of which no column is asked for.
    pub fn add_rows(&mut self, rows: u64) {
        for call in &mut self.calls {
            if let State::Count(all) = &mut call.state {
                all[0] += rows;
            }
        }
    }

    /// Folds rows of a batch; `column` gives a column of the request. False: there are too many
    /// groups, and the folder is of no use any more.
    pub fn update(
        &mut self,
        rows: Rows,
        column: impl FnMut(usize) -> Result<ArrayRef>,
    ) -> Result<bool> {
        self.update_known(rows, column, &known::Nothing)
    }

    /// The same of rows of which something is known: a column whose values cannot change an extreme
    /// is not read.
    pub fn update_known(
        &mut self,
        rows: Rows,
        mut column: impl FnMut(usize) -> Result<ArrayRef>,
        known: &impl Known,
    ) -> Result<bool> {
        let base = self.schema.fields().len() - self.derived.len();
        let mut columns = Columns::new(rows, base, &self.derived, &mut column);
        columns.prepare(self.keep)?;
        let rows = columns.rows.clone();
        if rows.set == 0 {
            return Ok(true);
        }
        let mut numbered = match &mut self.groups {
            None => None,
            Some(groups) => {
                let arrays = self.group_columns.iter().map(|at| columns.get(*at));
                let arrays = arrays.collect::<Result<Vec<_>>>()?;
                groups.number(&arrays, rows.mask.as_ref(), &mut self.ids)?;
                if groups.len() > self.groups_max {
                    return Ok(false);
                }
                self.calls.iter_mut().for_each(|call| call.grow(groups.len()));
                Some(Numbered::new(&self.ids, rows.clone(), groups.len()))
            }
        };
        for call in &mut self.calls {
            let asked = call.column.filter(|at| *at < base);
            if numbered.is_none() && asked.is_some_and(|at| call.is_settled(at, known)) {
                continue;
            }
            let array = call.column.map(|at| columns.get(at)).transpose()?;
            match &mut numbered {
                None => {
                    let bounds = asked.and_then(|at| known.bounds(at, false));
                    let next = asked.map_or(Next::default(), |at| known.next(at));
                    let hints = (kernels::is_small(bounds), next);
                    call.update_all(&rows, array.as_ref(), hints)?;
                }
                Some(numbered) => call.update_groups(numbered, array.as_ref())?,
            }
        }
        Ok(true)
    }

    /// Adds what another folder of the same grouping has. False: too many groups.
    pub fn merge(&mut self, other: Folder) -> Result<bool> {
        let ids: Vec<u32> = match (&mut self.groups, &other.groups) {
            (Some(own), Some(others)) => {
                (0..others.len()).map(|group| own.find(&others.values(group))).collect()
            }
            _ => vec![0],
        };
        if let Some(groups) = &self.groups {
            if groups.len() > self.groups_max {
                return Ok(false);
            }
            self.calls.iter_mut().for_each(|call| call.grow(groups.len()));
        }
        for (own, others) in self.calls.iter_mut().zip(other.calls) {
            own.merge(others, &ids)?;
        }
        Ok(true)
    }

    /// The answer: the groups' columns, then the aggregates; ascending by group.
    pub fn finish(self) -> Result<RecordBatch> {
        let keys: Vec<Vec<Value>> = match &self.groups {
            None => vec![Vec::new()],
            Some(groups) => (0..groups.len()).map(|group| groups.values(group)).collect(),
        };
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by(|a, b| {
            let pairs = keys[*a].iter().zip(&keys[*b]);
            pairs.map(|(a, b)| a.order(b)).find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
        });
        let (mut fields, mut arrays) = (Vec::new(), Vec::new());
        for (index, column) in self.group_columns.iter().enumerate() {
            let field = self.schema.field(*column);
            arrays.push(array_of(order.iter().map(|g| &keys[*g][index]), field.data_type())?);
            fields.push(Field::new(field.name(), field.data_type().clone(), true));
        }
        for (index, call) in self.calls.iter().enumerate() {
            let array = call.finish(&order)?;
            fields.push(Field::new(format!("a{index}"), array.data_type().clone(), true));
            arrays.push(array);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(order.len()));
        let schema = Arc::new(Schema::new(fields));
        Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
    }
}

impl Call {
    /// No value of its column can be a better extreme.
    fn is_settled(&self, at: usize, known: &impl Known) -> bool {
        let (State::Least(all) | State::Greatest(all)) = &self.state else { return false };
        let Some(bounds) = known.bounds(at, true) else { return false };
        let least = self.fold == Fold::Min;
        match (&all[0], bounds) {
            (Value::Number(best), Bounds::Numbers(min, max)) => {
                if least {
                    best <= min
                } else {
                    max <= best
                }
            }
            (Value::Float(best), Bounds::Floats(min, max)) => {
                if least {
                    best <= min
                } else {
                    max <= best
                }
            }
            _ => false,
        }
    }
}
