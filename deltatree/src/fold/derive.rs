//! The columns of a batch that a folder works on: those of the request as they are asked for, and
//! those made of them. It must never make a column a second time for the same rows.

use super::Rows;
use crate::error::Result;
use crate::store::Derived;
use crate::values::{both, count, invalid};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::{FilterBuilder, FilterPredicate};

/// When fewer than one row of so many is kept, the kept ones are copied before columns are made of
/// them: making a value costs more than copying one.
const COPIED: usize = 2;

/// Where columns of the request come from.
pub(super) type Fetch<'a> = &'a mut dyn FnMut(usize) -> Result<ArrayRef>;

/// Columns of one batch.
pub(super) struct Columns<'a> {
    /// Which rows count.
    pub rows: Rows,
    base: usize,
    derived: &'a [Derived],
    fetch: Fetch<'a>,
    have: Vec<Option<ArrayRef>>,
    /// Each picks the rows that were left when they were copied.
    picks: Vec<FilterPredicate>,
}

impl<'a> Columns<'a> {
    /// Nothing fetched yet. Columns from `base` on are derived.
    pub fn new(rows: Rows, base: usize, derived: &'a [Derived], fetch: Fetch<'a>) -> Columns<'a> {
        let have = vec![None; if derived.is_empty() { 0 } else { base + derived.len() }];
        Columns { rows, base, derived, fetch, have, picks: Vec::new() }
    }

    /// Makes every derived column, of the rows that `keep` leaves. After it, `get` makes nothing.
    pub fn prepare(&mut self, keep: Option<usize>) -> Result<()> {
        if let Some(at) = keep {
            let truths = self.made(at)?;
            let Some(truths) = truths.as_boolean_opt() else {
                return Err(invalid("rows are kept by a column that is not of truths"));
            };
            let valid = truths.nulls().map(|nulls| nulls.inner().clone());
            let kept = both(Some(truths.values().clone()), valid);
            let mask = both(self.rows.mask.take(), kept);
            let set = mask.as_ref().map_or(self.rows.rows, count);
            self.rows = Rows { rows: self.rows.rows, set, mask };
        }
        if self.rows.set == 0 {
            return Ok(());
        }
        if !self.derived.is_empty() && self.rows.set * COPIED < self.rows.rows {
            self.narrow()?;
        }
        for at in self.base..self.base + self.derived.len() {
            if self.have[at].is_none() {
                self.made(at)?;
            }
        }
        Ok(())
    }

    /// A column, of the rows that are left.
    pub fn get(&mut self, at: usize) -> Result<ArrayRef> {
        if let Some(Some(array)) = self.have.get(at) {
            return Ok(array.clone());
        }
        let mut array = (self.fetch)(at)?;
        for picks in &self.picks {
            array = picks.filter(&array)?;
        }
        if let Some(slot) = self.have.get_mut(at) {
            *slot = Some(array.clone());
        }
        Ok(array)
    }

    /// A derived column; without the other rows if it cannot be made of all.
    fn made(&mut self, at: usize) -> Result<ArrayRef> {
        let array = match self.make(at) {
            Err(_) if self.rows.mask.is_some() => {
                self.narrow()?;
                self.make(at)?
            }
            made => made?,
        };
        self.have[at] = Some(array.clone());
        Ok(array)
    }

    fn make(&mut self, at: usize) -> Result<ArrayRef> {
        let derived = &self.derived[at - self.base];
        let mut inputs = Vec::with_capacity(derived.inputs.len());
        for input in &derived.inputs {
            inputs.push(match self.have.get(*input) {
                Some(None) if *input >= self.base => self.made(*input)?,
                _ => self.get(*input)?,
            });
        }
        let array = (derived.derive)(&inputs, self.rows.rows)?;
        match array.len() == self.rows.rows && *array.data_type() == derived.data_type {
            true => Ok(array),
            false => Err(invalid("a derived column is not what it was said to be")),
        }
    }

    /// Copies the rows that count; the others are gone.
    fn narrow(&mut self) -> Result<()> {
        let Some(mask) = self.rows.mask.take() else { return Ok(()) };
        let picks = FilterBuilder::new(&BooleanArray::new(mask, None)).optimize().build();
        for array in self.have.iter_mut().flatten() {
            *array = picks.filter(array)?;
        }
        self.picks.push(picks);
        self.rows = Rows::all(self.rows.set);
        Ok(())
    }
}

/// Checks what derived columns are made of.
pub(super) fn check(base: usize, derived: &[Derived], keep: Option<usize>) -> Result<()> {
    for (at, one) in derived.iter().enumerate() {
        if one.inputs.iter().any(|input| *input >= base + at) {
            return Err(invalid("a derived column is made of one that is not there yet"));
        }
    }
    match keep.is_some_and(|at| at < base || at >= base + derived.len()) {
        true => Err(invalid("rows are kept by a column that is not derived")),
        false => Ok(()),
    }
}
