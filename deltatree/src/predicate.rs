//! Predicates against whole columns: a bit per row, and whether the bounds of a column already
//! decide. It must never pass a row that a predicate refuses.

use crate::error::Result;
use crate::store::{Predicate, Test};
use crate::tree::bounds::Bounds;
use crate::values::{Texts, Values, both, count, for_words, invalid, pack_bits};
use arrow::array::{Array, ArrayRef};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::datatypes::{DataType, SchemaRef};
use std::cmp::Ordering;

/// Longest list of `In` that is compared value by value instead of searched.
const SHORT_LIST: usize = 8;
/// When at most one row of so many is left, the others are not looked at.
const SPARSE: usize = 6;

/// What a comparison accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accept {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Accept {
    /// `None`: one of the two is no number.
    fn takes(self, order: Option<Ordering>) -> bool {
        match (self, order) {
            (Accept::Equal, order) => order == Some(Ordering::Equal),
            (Accept::NotEqual, order) => order != Some(Ordering::Equal),
            (_, None) => false,
            (Accept::Less, Some(order)) => order.is_lt(),
            (Accept::LessEqual, Some(order)) => order.is_le(),
            (Accept::Greater, Some(order)) => order.is_gt(),
            (Accept::GreaterEqual, Some(order)) => order.is_ge(),
        }
    }
}

#[derive(Clone, Debug)]
enum Check {
    /// Whole and decimal numbers inside `low..=high`, or outside if negated.
    Numbers {
        low: i128,
        high: i128,
        negated: bool,
    },
    Float(Accept, f64),
    Text(Accept, Vec<u8>),
    /// Sorted, without doubles.
    NumberIn(Vec<i128>),
    FloatIn(Vec<f64>),
    TextIn(Vec<Vec<u8>>),
    Null,
    NotNull,
}

/// What bounds say of a predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rough {
    /// No row passes.
    Nothing,
    /// Some may.
    Some,
    /// Every row that is not NULL passes.
    AllButNull,
}

#[derive(Clone, Debug)]
struct Condition {
    column: usize,
    check: Check,
}

/// Predicates, checked against a schema.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    conditions: Vec<Condition>,
}

fn numbers_of(array: &dyn Array) -> Result<Vec<i128>> {
    Ok(match Values::of(array)? {
        Values::I64(values) => values.iter().map(|v| i128::from(*v)).collect(),
        Values::U64(values) => values.iter().map(|v| i128::from(*v)).collect(),
        Values::I32(values) => values.iter().map(|v| i128::from(*v)).collect(),
        Values::I128(values) => values.to_vec(),
        Values::F64(_) | Values::Texts(_) => return Err(invalid("not a number")),
    })
}

fn texts_of(texts: Texts<'_>, rows: usize) -> Vec<Vec<u8>> {
    (0..rows).map(|row| texts.get(row).to_vec()).collect()
}

fn compare(accept: Accept, array: &ArrayRef) -> Result<Check> {
    if array.len() != 1 {
        return Err(invalid("a predicate compares with one value"));
    }
    match Values::of(array)? {
        Values::F64(values) => return Ok(Check::Float(accept, values[0])),
        Values::Texts(texts) => return Ok(Check::Text(accept, texts.get(0).to_vec())),
        _ => {}
    }
    let value = numbers_of(array)?[0];
    let (low, high) = match accept {
        Accept::Equal | Accept::NotEqual => (value, value),
        // a decimal has 38 digits, so the ends of i128 are out of reach
        Accept::Less => (i128::MIN, value - 1),
        Accept::LessEqual => (i128::MIN, value),
        Accept::Greater => (value + 1, i128::MAX),
        Accept::GreaterEqual => (value, i128::MAX),
    };
    Ok(Check::Numbers { low, high, negated: accept == Accept::NotEqual })
}

fn list(array: &ArrayRef) -> Result<Check> {
    Ok(match Values::of(array)? {
        Values::F64(values) => Check::FloatIn(values.to_vec()),
        Values::Texts(texts) => {
            let mut all = texts_of(texts, array.len());
            all.sort_unstable();
            all.dedup();
            Check::TextIn(all)
        }
        _ => {
            let mut all = numbers_of(array)?;
            all.sort_unstable();
            all.dedup();
            Check::NumberIn(all)
        }
    })
}

impl Condition {
    fn new(schema: &SchemaRef, predicate: &Predicate) -> Result<Condition> {
        let field = schema.fields().get(predicate.column);
        let field = field.ok_or_else(|| invalid("a predicate names no column"))?;
        let fits = |array: &ArrayRef| match array.data_type() == field.data_type() {
            true if array.null_count() == 0 => Ok(()),
            true => Err(invalid("a predicate compares with NULL")),
            false => Err(invalid("a predicate compares with another type")),
        };
        let single = |accept: Accept, array: &ArrayRef| {
            fits(array)?;
            compare(accept, array)
        };
        let check = match &predicate.test {
            Test::Equal(value) => single(Accept::Equal, value)?,
            Test::NotEqual(value) => single(Accept::NotEqual, value)?,
            Test::Less(value) => single(Accept::Less, value)?,
            Test::LessEqual(value) => single(Accept::LessEqual, value)?,
            Test::Greater(value) => single(Accept::Greater, value)?,
            Test::GreaterEqual(value) => single(Accept::GreaterEqual, value)?,
            Test::In(values) => {
                fits(values)?;
                list(values)?
            }
            Test::Null => Check::Null,
            Test::NotNull => Check::NotNull,
        };
        Ok(Condition { column: predicate.column, check })
    }

    /// Takes another condition in, if both are intervals of one column.
    fn narrow(&mut self, other: &Condition) -> bool {
        let same = self.column == other.column;
        match (&mut self.check, &other.check) {
            (
                Check::Numbers { low, high, negated: false },
                Check::Numbers { low: more, high: less, negated: false },
            ) if same => {
                (*low, *high) = ((*low).max(*more), (*high).min(*less));
                true
            }
            _ => false,
        }
    }

    /// The rows whose value passes; `None`: all. NULLs pass only `Null`.
    fn rows(&self, array: &dyn Array) -> Result<Option<BooleanBuffer>> {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        let nulls = nulls.map(|nulls| nulls.inner().clone());
        let passes = match &self.check {
            Check::Null => {
                let none = BooleanBuffer::new_unset(array.len());
                return Ok(Some(nulls.map_or(none, |nulls| !&nulls)));
            }
            Check::NotNull => return Ok(nulls),
            Check::Numbers { low, high, negated } => {
                interval(Values::of(array)?, *low, *high, *negated)?
            }
            Check::NumberIn(list) => numbers_in(Values::of(array)?, list)?,
            Check::Float(accept, value) => {
                let Values::F64(values) = Values::of(array)? else { return Err(another_type()) };
                float(values, *accept, *value)
            }
            Check::FloatIn(list) => {
                let Values::F64(values) = Values::of(array)? else { return Err(another_type()) };
                pack_bits(values, |v| list.contains(&v))
            }
            Check::Text(accept, value) => {
                let texts = Values::of(array)?;
                text_rows(texts, |text| accept.takes(Some(text.cmp(value))))?
            }
            Check::TextIn(list) => {
                let found = |text: &[u8]| list.binary_search_by(|v| v.as_slice().cmp(text)).is_ok();
                text_rows(Values::of(array)?, found)?
            }
        };
        Ok(both(Some(passes), nulls))
    }

    /// The rows of a sparse mask whose value passes; `None`: this check is only made on all rows.
    fn some_rows(&self, array: &dyn Array, mask: &BooleanBuffer) -> Result<Option<BooleanBuffer>> {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        let mask = nulls.map_or_else(|| mask.clone(), |nulls| mask & nulls.inner());
        Ok(match (&self.check, Values::of(array)?) {
            (Check::Numbers { low, high, negated }, values) => {
                let inside = |v: i128| ((*low <= v) & (v <= *high)) != *negated;
                Some(match values {
                    Values::I64(all) => under(&mask, |row| inside(all[row].into())),
                    Values::U64(all) => under(&mask, |row| inside(all[row].into())),
                    Values::I32(all) => under(&mask, |row| inside(all[row].into())),
                    Values::I128(all) => under(&mask, |row| inside(all[row])),
                    Values::F64(_) | Values::Texts(_) => return Err(another_type()),
                })
            }
            (Check::Text(accept, value), Values::Texts(texts)) => {
                Some(under(&mask, |row| accept.takes(Some(texts.get(row).cmp(value)))))
            }
            _ => None,
        })
    }

    fn rough(&self, bounds: &Bounds) -> Rough {
        match (&self.check, bounds) {
            (Check::Numbers { low, high, negated }, Bounds::Numbers(min, max)) => {
                let inside = low <= min && max <= high;
                let outside = max < low || high < min;
                match (inside, outside, negated) {
                    (true, _, false) | (_, true, true) => Rough::AllButNull,
                    (_, true, false) | (true, _, true) => Rough::Nothing,
                    _ => Rough::Some,
                }
            }
            (Check::NumberIn(list), Bounds::Numbers(min, max)) => {
                let at = list.partition_point(|v| v < min);
                match list.get(at).is_some_and(|v| v <= max) {
                    true => Rough::Some,
                    false => Rough::Nothing,
                }
            }
            (Check::Float(accept, value), Bounds::Floats(min, max)) => {
                rough_float(*accept, *value, *min, *max)
            }
            (Check::Text(accept, value), Bounds::Strings(min, max)) => {
                rough_text(*accept, value, min, max.as_deref())
            }
            _ => Rough::Some,
        }
    }
}

/// The rows of a mask that pass a test, which is asked of no other row.
fn under(mask: &BooleanBuffer, test: impl Fn(usize) -> bool) -> BooleanBuffer {
    let mut words = Vec::with_capacity(mask.len().div_ceil(64));
    for_words(mask, |base, mut bits| {
        let mut kept = 0;
        while bits != 0 {
            let bit = bits.trailing_zeros();
            kept |= u64::from(test(base + bit as usize)) << bit;
            bits &= bits - 1;
        }
        words.push(kept);
    });
    BooleanBuffer::new(Buffer::from_vec(words), 0, mask.len())
}

fn another_type() -> crate::error::Error {
    invalid("a column has another type than the request says")
}

fn interval(values: Values<'_>, low: i128, high: i128, negated: bool) -> Result<BooleanBuffer> {
    // the interval in the column's own type; `None`: it is empty
    macro_rules! within {
        ($values:expr, $ty:ty) => {{
            let low = low.max(<$ty>::MIN as i128) as $ty;
            let high_fits = high >= <$ty>::MIN as i128;
            let high = high.min(<$ty>::MAX as i128) as $ty;
            match high_fits && low <= high {
                true => pack_bits($values, |v| ((low <= v) & (v <= high)) != negated),
                false if negated => BooleanBuffer::new_set($values.len()),
                false => BooleanBuffer::new_unset($values.len()),
            }
        }};
    }
    if low > high {
        let rows = match values {
            Values::I64(values) => values.len(),
            Values::U64(values) => values.len(),
            Values::I32(values) => values.len(),
            Values::I128(values) => values.len(),
            Values::F64(_) | Values::Texts(_) => return Err(another_type()),
        };
        return Ok(BooleanBuffer::collect_bool(rows, |_| negated));
    }
    Ok(match values {
        Values::I64(values) if low <= i64::MAX.into() => within!(values, i64),
        Values::U64(values) if low <= u64::MAX.into() => within!(values, u64),
        Values::I32(values) if low <= i32::MAX.into() => within!(values, i32),
        Values::I128(values) => pack_bits(values, |v| ((low <= v) & (v <= high)) != negated),
        Values::I64(values) => BooleanBuffer::collect_bool(values.len(), |_| negated),
        Values::U64(values) => BooleanBuffer::collect_bool(values.len(), |_| negated),
        Values::I32(values) => BooleanBuffer::collect_bool(values.len(), |_| negated),
        Values::F64(_) | Values::Texts(_) => return Err(another_type()),
    })
}

fn numbers_in(values: Values<'_>, list: &[i128]) -> Result<BooleanBuffer> {
    macro_rules! found {
        ($values:expr, $ty:ty) => {{
            let list: Vec<$ty> = list.iter().filter_map(|v| <$ty>::try_from(*v).ok()).collect();
            match list.len() <= SHORT_LIST {
                true => pack_bits($values, |v| list.iter().fold(false, |hit, x| hit | (*x == v))),
                false => pack_bits($values, |v| list.binary_search(&v).is_ok()),
            }
        }};
    }
    Ok(match values {
        Values::I64(values) => found!(values, i64),
        Values::U64(values) => found!(values, u64),
        Values::I32(values) => found!(values, i32),
        Values::I128(values) => found!(values, i128),
        Values::F64(_) | Values::Texts(_) => return Err(another_type()),
    })
}

fn float(values: &[f64], accept: Accept, value: f64) -> BooleanBuffer {
    match accept {
        Accept::Equal => pack_bits(values, |v| v == value),
        Accept::NotEqual => pack_bits(values, |v| v != value),
        Accept::Less => pack_bits(values, |v| v < value),
        Accept::LessEqual => pack_bits(values, |v| v <= value),
        Accept::Greater => pack_bits(values, |v| v > value),
        Accept::GreaterEqual => pack_bits(values, |v| v >= value),
    }
}

fn text_rows(values: Values<'_>, test: impl Fn(&[u8]) -> bool) -> Result<BooleanBuffer> {
    let Values::Texts(texts) = values else { return Err(another_type()) };
    let rows = texts.offsets.len() - 1;
    Ok(BooleanBuffer::collect_bool(rows, |row| test(texts.get(row))))
}

fn rough_float(accept: Accept, value: f64, min: f64, max: f64) -> Rough {
    if value.is_nan() {
        return Rough::Some;
    }
    let (all, nothing) = match accept {
        Accept::Equal => (min == value && max == value, value < min || max < value),
        Accept::NotEqual => (value < min || max < value, min == value && max == value),
        Accept::Less => (max < value, min >= value),
        Accept::LessEqual => (max <= value, min > value),
        Accept::Greater => (min > value, max <= value),
        Accept::GreaterEqual => (min >= value, max < value),
    };
    match (all, nothing) {
        (_, true) => Rough::Nothing,
        (true, _) => Rough::AllButNull,
        _ => Rough::Some,
    }
}

/// `min` is not above any value, `max`, if there is one, not below any: both may be cut.
fn rough_text(accept: Accept, value: &[u8], min: &[u8], max: Option<&[u8]>) -> Rough {
    let (below, above) = (value < min, max.is_some_and(|max| max < value));
    let (all, nothing) = match accept {
        Accept::Equal => (false, below || above),
        Accept::NotEqual => (below || above, false),
        Accept::Less => (above, value <= min),
        Accept::LessEqual => (max.is_some_and(|max| max <= value), below),
        Accept::Greater => (below, max.is_some_and(|max| max <= value)),
        Accept::GreaterEqual => (value <= min, above),
    };
    match (all, nothing) {
        (_, true) => Rough::Nothing,
        (true, _) => Rough::AllButNull,
        _ => Rough::Some,
    }
}

impl Filter {
    /// Checks predicates against the columns of a request.
    pub fn new(schema: &SchemaRef, predicates: &[Predicate]) -> Result<Filter> {
        let mut conditions: Vec<Condition> = Vec::with_capacity(predicates.len());
        for predicate in predicates {
            let condition = Condition::new(schema, predicate)?;
            if !conditions.iter_mut().any(|before| before.narrow(&condition)) {
                conditions.push(condition);
            }
        }
        Ok(Filter { conditions })
    }

    /// The column of each condition.
    pub fn columns(&self) -> impl Iterator<Item = usize> {
        self.conditions.iter().map(|condition| condition.column)
    }

    /// What bounds say of one condition.
    pub fn rough(&self, condition: usize, bounds: &Bounds) -> Rough {
        self.conditions[condition].rough(bounds)
    }

    /// The rows of `mask`, of which so many bits are set, that pass one condition.
    pub fn refine(
        &self,
        condition: usize,
        array: &dyn Array,
        mask: Option<(BooleanBuffer, usize)>,
    ) -> Result<Option<BooleanBuffer>> {
        let condition = &self.conditions[condition];
        if let Some((mask, set)) = &mask
            && set * SPARSE <= mask.len()
            && let Some(passing) = condition.some_rows(array, mask)?
        {
            return Ok(Some(passing));
        }
        Ok(both(mask.map(|(mask, _)| mask), condition.rows(array)?))
    }

    /// The rows that pass every condition; `None`: all of them. `column` gives a column of the
    /// request, and is asked only for those that conditions name.
    pub fn rows(
        &self,
        mut column: impl FnMut(usize) -> Result<ArrayRef>,
    ) -> Result<Option<BooleanBuffer>> {
        let mut mask: Option<BooleanBuffer> = None;
        for (index, condition) in self.conditions.iter().enumerate() {
            let counted = mask.map(|mask| {
                let set = count(&mask);
                (mask, set)
            });
            mask = self.refine(index, &column(condition.column)?, counted)?;
        }
        Ok(mask)
    }
}

/// The type of a column, for messages.
pub(crate) fn same_type(asked: &DataType, found: &DataType, name: &str) -> Result<()> {
    match asked == found {
        true => Ok(()),
        false => Err(invalid(format!("column {name} is {found}, not {asked}"))),
    }
}
