//! Rows by key: which rows can satisfy simple conditions, and reading them without a plan. It must
//! never miss a row that satisfies the conditions; the caller tests each one it is given.

use super::expr::{Comparison, Node};
use super::rows::Layout;
use crate::catalog::CatalogView;
use crate::error::{Error, Result};
use crate::failure;
use damask_txn::{Client, SnapshotReader, Transaction};
use damask_types::key::{decode_row_key, handle_range};
use damask_types::{ColumnType, Datum, Decimal, KeyRange};

/// Keys of an IN list at most.
const KEYS_MAX: usize = 10_000;
/// Widest range of handles that counts as narrow.
pub(super) const NARROW: i128 = 10_000;
/// Rows of one page of a scan.
const PAGE: usize = 4_096;

/// The rows that may satisfy conditions.
#[derive(Debug, PartialEq)]
pub(super) enum Access {
    /// Of these handles, in order.
    Handles(Vec<i64>),
    /// Of these keys of a unique index.
    Unique(Vec<Vec<u8>>),
    /// Of the handles from the first to the last.
    Range(i64, i64),
}

/// Where to read.
pub(super) enum Reader<'a> {
    Transaction(&'a Transaction),
    Snapshot(SnapshotReader),
    /// One key only: two reads need not agree.
    Latest(&'a Client),
}

/// A row with its handle.
pub(super) type Found = (i64, Vec<Datum>);

/// A bound as a stored value.
enum Stored {
    Value(Datum),
    /// No value of the column equals it.
    Never,
    Unsure,
}

/// The narrowest access that conditions allow: handles, then a unique index, then a range of
/// handles. `None`: they bound nothing.
pub(super) fn access(layout: &Layout, parts: &[Node]) -> Option<Access> {
    if let Some(at) = layout.handle_at
        && let Some(values) = equals(layout, parts, at)
    {
        let mut handles: Vec<i64> = values.iter().filter_map(handle).collect();
        handles.sort_unstable();
        handles.dedup();
        return Some(Access::Handles(handles));
    }
    let unique = layout.indexes.iter().filter(|index| index.unique && index.public);
    for index in unique {
        let values = index.positions.iter().map(|at| equals(layout, parts, *at));
        let Some(values) = values.collect::<Option<Vec<_>>>() else { continue };
        if values.iter().map(Vec::len).product::<usize>() > KEYS_MAX {
            continue;
        }
        // Every combination of the columns' values.
        let mut keys: Vec<Vec<&Datum>> = vec![Vec::new()];
        for values in &values {
            let mut longer = Vec::with_capacity(keys.len() * values.len());
            for key in &keys {
                longer.extend(values.iter().map(|value| [key.as_slice(), &[value]].concat()));
            }
            keys = longer;
        }
        let mut keys: Vec<_> = keys.into_iter().map(|k| index.unique_key(k.into_iter())).collect();
        keys.sort_unstable();
        keys.dedup();
        return Some(Access::Unique(keys));
    }
    range(layout, parts)
}

fn handle(value: &Datum) -> Option<i64> {
    match value {
        Datum::Int(v) => Some(*v),
        Datum::UInt(v) => i64::try_from(*v).ok(),
        _ => None,
    }
}

/// The stored values that a column may have by `=` or IN; `None`: any.
fn equals(layout: &Layout, parts: &[Node], at: usize) -> Option<Vec<Datum>> {
    let ty = &layout.table.columns[at].ty;
    parts.iter().find_map(|part| match part {
        Node::Compare(Comparison::Equal, column, value) if **column == Node::Column(at) => {
            let Node::Const(value) = value.as_ref() else { return None };
            stored_all(std::slice::from_ref(value), ty)
        }
        Node::In(column, list, false) if **column == Node::Column(at) => {
            (list.len() <= KEYS_MAX).then(|| stored_all(list, ty))?
        }
        _ => None,
    })
}

fn stored_all(values: &[Datum], ty: &ColumnType) -> Option<Vec<Datum>> {
    let mut out = Vec::with_capacity(values.len());
    for value in values {
        match stored(value, ty) {
            Stored::Value(value) => out.push(value),
            Stored::Never => {}
            Stored::Unsure => return None,
        }
    }
    Some(out)
}

/// A constant (already fit to compare with the column) as the column stores it.
fn stored(value: &Datum, ty: &ColumnType) -> Stored {
    match (ty, value) {
        (_, Datum::Null) => Stored::Never,
        (ColumnType::Float | ColumnType::Double, _) => Stored::Unsure,
        (ty, value) if ty.is_integer() => match whole(value) {
            Some(Some(v)) if ty.is_unsigned() => {
                u64::try_from(v).map_or(Stored::Never, |v| Stored::Value(Datum::UInt(v)))
            }
            Some(Some(v)) => {
                i64::try_from(v).map_or(Stored::Never, |v| Stored::Value(Datum::Int(v)))
            }
            Some(None) => Stored::Never,
            None => Stored::Unsure,
        },
        (ColumnType::Decimal { scale, .. }, value) => {
            let decimal = match value {
                Datum::Int(v) => Decimal { unscaled: i128::from(*v), scale: 0 },
                Datum::UInt(v) => Decimal { unscaled: i128::from(*v), scale: 0 },
                Datum::Decimal(d) => *d,
                _ => return Stored::Unsure,
            };
            // Digits that the column does not keep: nothing equals it.
            let back = decimal.rescale(*scale).and_then(|d| d.rescale(decimal.scale.max(*scale)));
            match decimal.rescale(decimal.scale.max(*scale)) {
                None => Stored::Unsure,
                kept if kept == back => match decimal.rescale(*scale) {
                    Some(d) => Stored::Value(Datum::Decimal(d)),
                    None => Stored::Unsure,
                },
                _ => Stored::Never,
            }
        }
        (_, value) => Stored::Value(value.clone()),
    }
}

/// The integer that a number is: `Some(None)` = it is none, `None` = too large to say.
fn whole(value: &Datum) -> Option<Option<i128>> {
    match value {
        Datum::Int(v) => Some(Some(i128::from(*v))),
        Datum::UInt(v) => Some(Some(i128::from(*v))),
        Datum::Decimal(d) => {
            let by = 10i128.checked_pow(u32::from(d.scale))?;
            Some((d.unscaled % by == 0).then_some(d.unscaled / by))
        }
        Datum::Double(v) if v.abs() < (1i64 << 53) as f64 => {
            Some((v.fract() == 0.0).then_some(*v as i128))
        }
        _ => None,
    }
}

/// The range of handles between comparisons with integers; `None`: open at one end.
fn range(layout: &Layout, parts: &[Node]) -> Option<Access> {
    let at = layout.handle_at?;
    let (mut first, mut last) = (None, None);
    for part in parts {
        let Node::Compare(op, column, value) = part else { continue };
        let Node::Const(value @ (Datum::Int(_) | Datum::UInt(_))) = value.as_ref() else {
            continue;
        };
        if **column != Node::Column(at) {
            continue;
        }
        let Some(Some(v)) = whole(value) else { continue };
        let (low, high) = match op {
            Comparison::Greater => (Some(v + 1), None),
            Comparison::GreaterOrEqual => (Some(v), None),
            Comparison::Less => (None, Some(v - 1)),
            Comparison::LessOrEqual => (None, Some(v)),
            Comparison::Equal => (Some(v), Some(v)),
            Comparison::NotEqual => continue,
        };
        first = low.max(first);
        last = match (last, high) {
            (Some(a), Some(b)) => Some(std::cmp::min::<i128>(a, b)),
            (a, b) => a.or(b),
        };
    }
    let (first, last) = (first?, last?);
    let (min, max) = (i128::from(i64::MIN), i128::from(i64::MAX));
    if first > last || first > max || last < min {
        return Some(Access::Handles(Vec::new()));
    }
    Some(Access::Range(first.max(min) as i64, last.min(max) as i64))
}

impl Access {
    /// Few rows at most, whatever the table holds.
    pub fn is_narrow(&self) -> bool {
        match self {
            Access::Handles(_) | Access::Unique(_) => true,
            Access::Range(first, last) => i128::from(*last) - i128::from(*first) < NARROW,
        }
    }

    /// One row at most.
    pub fn is_point(&self) -> bool {
        match self {
            Access::Handles(handles) => handles.len() <= 1,
            Access::Unique(keys) => keys.len() <= 1,
            Access::Range(first, last) => first == last,
        }
    }

    /// Can it be answered by reading one key?
    pub fn is_one_key(&self) -> bool {
        matches!(self, Access::Handles(handles) if handles.len() <= 1)
    }
}

impl Reader<'_> {
    fn get_all(&self, keys: &[Vec<u8>]) -> damask_txn::Result<Vec<Option<Vec<u8>>>> {
        match (self, keys) {
            (_, []) => Ok(Vec::new()),
            (Reader::Latest(client), keys) => keys.iter().map(|k| client.get_latest(k)).collect(),
            (Reader::Transaction(txn), [key]) => Ok(vec![txn.get(key)?]),
            (Reader::Snapshot(snapshot), [key]) => Ok(vec![snapshot.get(key)?]),
            (Reader::Transaction(txn), keys) => txn.batch_get(keys),
            (Reader::Snapshot(snapshot), keys) => snapshot.batch_get(keys),
        }
    }

    fn scan(
        &self,
        range: &KeyRange,
        limit: usize,
    ) -> Result<damask_txn::Result<Vec<damask_txn::Pair>>> {
        match self {
            Reader::Transaction(txn) => Ok(txn.scan(range, limit, false)),
            Reader::Snapshot(snapshot) => Ok(snapshot.scan(range, limit, false)),
            Reader::Latest(_) => Err(Error::unknown("a scan without a timestamp")),
        }
    }
}

/// The rows at these handles that exist, in the order of the handles.
pub(super) fn by_handles(
    reader: &Reader<'_>,
    view: &CatalogView,
    layout: &Layout,
    handles: &[i64],
) -> Result<Vec<Found>> {
    let keys: Vec<_> = handles.iter().map(|handle| layout.row_key(*handle)).collect();
    let values = failure::convert(reader.get_all(&keys), view)?;
    let found = handles.iter().zip(values).filter_map(|(handle, value)| Some((*handle, value?)));
    found.map(|(handle, value)| Ok((handle, layout.decode(handle, &value)?))).collect()
}

/// Reads the rows of an access page by page.
pub(super) struct Cursor {
    state: State,
}

enum State {
    /// Keys of unique entries.
    Keys(Vec<Vec<u8>>),
    /// Handles still to be read.
    Handles(std::vec::IntoIter<i64>),
    /// What is left of a range of rows.
    Range(KeyRange),
}

impl Cursor {
    pub fn new(layout: &Layout, access: Access) -> Cursor {
        let state = match access {
            Access::Unique(keys) => State::Keys(keys),
            Access::Handles(handles) => State::Handles(handles.into_iter()),
            Access::Range(first, last) => State::Range(handle_range(layout.table.id, first, last)),
        };
        Cursor { state }
    }

    /// The next rows, about `limit` at most; `None` at the end.
    pub fn next(
        &mut self,
        reader: &Reader<'_>,
        view: &CatalogView,
        layout: &Layout,
        limit: usize,
    ) -> Result<Option<Vec<Found>>> {
        let limit = limit.clamp(1, PAGE);
        if let State::Keys(keys) = &self.state {
            let values = failure::convert(reader.get_all(keys), view)?;
            let handles = values.iter().flatten().map(|value| layout.handle_in(value));
            self.state = State::Handles(handles.collect::<Result<Vec<_>>>()?.into_iter());
        }
        match &mut self.state {
            State::Keys(_) => Ok(None),
            State::Handles(handles) => {
                let page: Vec<_> = handles.by_ref().take(limit).collect();
                match page.is_empty() {
                    true => Ok(None),
                    false => by_handles(reader, view, layout, &page).map(Some),
                }
            }
            State::Range(range) if range.is_empty() => Ok(None),
            State::Range(range) => {
                let pairs = failure::convert(reader.scan(range, limit)?, view)?;
                match pairs.last() {
                    Some((key, _)) if pairs.len() >= limit => {
                        range.start = KeyRange::point(key).end;
                    }
                    _ => *range = KeyRange { start: vec![0], end: vec![0] },
                }
                let row = |(key, value): (Vec<u8>, Vec<u8>)| {
                    let (_, handle) = decode_row_key(&key)?;
                    Some(layout.decode(handle, &value).map(|row| (handle, row)))
                };
                pairs.into_iter().filter_map(row).collect::<Result<_>>().map(Some)
            }
        }
    }
}
