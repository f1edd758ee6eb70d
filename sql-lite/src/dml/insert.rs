//! INSERT and REPLACE: rows of values or of a query into a table, with generated numbers. It must
//! never put a value under a key without having it checked, now or by the commit.

use super::Context;
use super::checks::Checks;
use super::expr::{self, Scope};
use super::input::Input;
pub use super::input::now;
use super::planned;
use super::rows::Layout;
use super::upsert::Upsert;
use super::write::{CHUNK_ROWS, Writer};
use crate::catalog::CatalogView;
use crate::catalog::ids::{self, Counter, Ids};
use crate::error::{Error, Result};
use crate::outcome::Done;
use crate::session::Warnings;
use crate::statement::{Insert, InsertSource, Value};
use crate::value::integer_bounds;
use damask_txn::Transaction;
use damask_types::{ColumnType, Datum, TableSchema};
use std::ops::Range;
use std::sync::Arc;

/// What becomes of a row when another has one of its unique keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnConflict {
    /// 1062, found out now.
    Fail,
    /// 1062, found out by the commit, or when the new keys are locked.
    FailLater,
    /// The new row is left out, with a warning.
    Ignore,
    /// The other rows are removed.
    Replace,
    /// The other row is updated: ON DUPLICATE KEY UPDATE.
    Update,
}

/// What rows are written with.
pub(super) struct Target<'a> {
    pub txn: &'a mut Transaction,
    pub ids: &'a Ids,
    pub warnings: &'a mut Warnings,
}

/// What became of rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// New rows.
    pub copied: u64,
    /// Rows removed or updated for new ones.
    pub replaced: u64,
    /// Rows left out.
    pub skipped: u64,
    /// As a client counts.
    pub affected: u64,
}

/// Puts whole rows into a table.
pub(super) struct Inserter {
    pub layout: Layout,
    pub input: Input,
    pub writer: Writer,
    /// What no row may violate.
    pub checks: Checks,
    auto_at: Option<usize>,
    pub on_conflict: OnConflict,
    /// AUTO_INCREMENT values given to the rows at hand.
    generated: Range<u64>,
    /// What became of rows.
    pub counts: Counts,
    /// The first AUTO_INCREMENT value given.
    pub first_generated: Option<u64>,
    /// The last AUTO_INCREMENT value that came with a row.
    pub last_explicit: Option<u64>,
}

impl Inserter {
    pub fn new(
        view: Arc<CatalogView>,
        table: Arc<TableSchema>,
        input: Input,
        on_conflict: OnConflict,
    ) -> Result<Inserter> {
        Ok(Inserter {
            auto_at: table.columns.iter().position(|c| c.auto_increment),
            checks: Checks::new(view.checks(table.id), &table, input.rules)?,
            layout: Layout::new(table)?,
            input,
            writer: Writer::new(view),
            on_conflict,
            generated: 0..0,
            counts: Counts::default(),
            first_generated: None,
            last_explicit: None,
        })
    }

    /// Gives numbers to rows that ask for one, and each row its handle.
    fn number(&mut self, ids: &Ids, rows: &mut [Vec<Datum>]) -> Result<Vec<i64>> {
        let table = self.layout.table.clone();
        if let Some(at) = self.auto_at {
            let asks = |row: &Vec<Datum>| self.input.generates(&row[at]);
            let count = rows.iter().filter(|row| asks(row)).count() as u64;
            let explicit = rows.iter().filter(|row| !asks(row));
            let mut explicit = explicit.filter_map(|row| positive(&row[at]));
            // Values to come are above those of this very statement.
            if let Some(max) = explicit.clone().max() {
                ids.advance(table.id, Counter::AutoIncrement, max)?;
                self.last_explicit = explicit.next_back();
            }
            if count > 0 {
                let ty = &table.columns[at].ty;
                let first = ids.allocate(table.id, Counter::AutoIncrement, count)?;
                self.generated = first..first + count;
                let asking = rows.iter_mut().filter(|row| self.input.generates(&row[at]));
                for (row, number) in asking.zip(first..) {
                    row[at] = numbered(number, ty)?;
                }
            }
        }
        let asking = rows.iter().filter(|row| self.layout.handle_of(row).is_none()).count() as u64;
        let mut next = match asking {
            0 => 0,
            n => ids.allocate(table.id, Counter::RowId, n)? as i64,
        };
        let handle = |row: &Vec<Datum>| {
            self.layout.handle_of(row).unwrap_or_else(|| {
                next += 1;
                next - 1
            })
        };
        Ok(rows.iter().map(handle).collect())
    }

    /// Numbers rows and reads what may be in their way: their unique keys, and the rows there.
    pub fn prepare(
        &mut self,
        target: &mut Target<'_>,
        rows: &mut [Vec<Datum>],
    ) -> Result<Vec<i64>> {
        let handles = self.number(target.ids, rows)?;
        if self.on_conflict == OnConflict::FailLater || !self.layout.has_unique() {
            return Ok(handles);
        }
        let mut keys = Vec::with_capacity(rows.len() * 2);
        for (row, handle) in rows.iter().zip(&handles) {
            self.layout.unique_keys(row, *handle, &mut keys);
        }
        self.writer.prefetch(target.txn, keys)?;
        if matches!(self.on_conflict, OnConflict::Replace | OnConflict::Update) {
            let mut others = Vec::new();
            for (row, handle) in rows.iter().zip(&handles) {
                for index in self.layout.indexes.iter().filter(|index| index.unique) {
                    let entry = index.entry(row, *handle);
                    if let Some(value) = self.writer.known(&entry.key).filter(|_| entry.unique) {
                        others.push(self.layout.row_key(self.layout.handle_in(value)?));
                    }
                }
            }
            self.writer.also(target.txn, others)?;
        }
        Ok(handles)
    }

    /// Puts rows, converted and in the order of the table's columns; not for `Update`.
    pub fn push(&mut self, target: &mut Target<'_>, rows: &mut [Vec<Datum>]) -> Result<()> {
        let mut start = 0;
        while start < rows.len() {
            let end = rows.len().min(start + CHUNK_ROWS);
            let handles = self.prepare(target, &mut rows[start..end])?;
            for (row, handle) in rows[start..end].iter().zip(handles) {
                match self.checks.violated(row)? {
                    None => self.put(target, row, handle)?,
                    Some(error) if self.on_conflict == OnConflict::Ignore => {
                        target.warnings.demote(error);
                        self.counts.skipped += 1;
                    }
                    Some(error) => return Err(error),
                }
            }
            start = end;
        }
        Ok(())
    }

    fn put(&mut self, target: &mut Target<'_>, row: &[Datum], handle: i64) -> Result<()> {
        let Inserter { layout, writer, .. } = self;
        match self.on_conflict {
            OnConflict::FailLater => {}
            OnConflict::Fail | OnConflict::Update => {
                if let Some(other) = writer.in_the_way(target.txn, layout, row, handle, None)? {
                    return Err(writer.duplicate(&other.key));
                }
            }
            OnConflict::Ignore => {
                if let Some(other) = writer.in_the_way(target.txn, layout, row, handle, None)? {
                    target.warnings.demote(writer.duplicate(&other.key));
                    self.counts.skipped += 1;
                    return Ok(());
                }
            }
            OnConflict::Replace => {
                let mut removed = 0;
                // Ends: each turn removes a row, and a row has one for each unique key at most.
                while let Some(other) = writer.in_the_way(target.txn, layout, row, handle, None)? {
                    let old = writer.row(target.txn, layout, other.handle)?;
                    let hidden = layout.handle_at.is_none();
                    if removed == 0 && old == row && (hidden || other.handle == handle) {
                        // The row is there already.
                        self.counts.copied += 1;
                        self.counts.affected += 1;
                        return Ok(());
                    }
                    writer.remove(target.txn, layout, &old, other.handle)?;
                    removed += 1;
                }
                self.counts.replaced += removed;
                self.counts.affected += removed;
            }
        }
        self.add(target.txn, row, handle)
    }

    /// Writes a new row that nothing is in the way of.
    pub fn add(&mut self, txn: &mut Transaction, row: &[Datum], handle: i64) -> Result<()> {
        self.writer.insert(txn, &self.layout, row, handle)?;
        self.counts.copied += 1;
        self.counts.affected += 1;
        if self.first_generated.is_none()
            && let Some(value) = self.auto_at.and_then(|at| positive(&row[at]))
            && self.generated.contains(&value)
        {
            self.first_generated = Some(value);
        }
        Ok(())
    }
}

pub(super) fn positive(value: &Datum) -> Option<u64> {
    match value {
        Datum::Int(v) => u64::try_from(*v).ok(),
        Datum::UInt(v) => Some(*v),
        Datum::Double(v) if *v > 0.0 => Some(*v as u64),
        _ => None,
    }
}

fn numbered(next: u64, ty: &ColumnType) -> Result<Datum> {
    match ty {
        ColumnType::Float | ColumnType::Double => Ok(Datum::Double(next as f64)),
        _ if i128::from(next) > integer_bounds(ty).1 => Err(ids::exhausted()),
        _ if ty.is_unsigned() => Ok(Datum::UInt(next)),
        _ => Ok(Datum::Int(next as i64)),
    }
}

/// Positions of the columns named, in their order; `None` = all.
pub(super) fn positions(table: &TableSchema, names: Option<&[String]>) -> Result<Vec<usize>> {
    let Some(names) = names else { return Ok((0..table.columns.len()).collect()) };
    let mut positions = Vec::with_capacity(names.len());
    for name in names {
        let at = table.columns.iter().position(|c| c.name.eq_ignore_ascii_case(name));
        let at = at.ok_or_else(|| unknown_column(name))?;
        if positions.contains(&at) {
            let message = format!("Column '{name}' specified twice");
            return Err(Error { code: 1110, state: "42000", message });
        }
        positions.push(at);
    }
    Ok(positions)
}

pub(super) fn unknown_column(name: &str) -> Error {
    super::unknown_column(name, "field list")
}

fn wrong_count(row: u64) -> Error {
    let message = format!("Column count doesn't match value count at row {row}");
    Error::wrong_value_count(message)
}

/// Turns values of some columns into rows of all.
struct Fill {
    positions: Vec<usize>,
    /// By position: what columns that are not named get.
    defaults: Vec<Datum>,
}

impl Fill {
    fn new(ctx: &mut Context<'_>, inserter: &Inserter, positions: Vec<usize>) -> Result<Fill> {
        let columns = &inserter.layout.table.columns;
        let default = |(at, column)| match positions.contains(&at) {
            true => Ok(Datum::Null),
            false => inserter.input.default(column, ctx.warnings),
        };
        let defaults = columns.iter().enumerate().map(default).collect::<Result<_>>()?;
        Ok(Fill { positions, defaults })
    }

    /// `row` counts from 1.
    fn row(
        &self,
        inserter: &Inserter,
        values: impl Iterator<Item = Datum>,
        types: Option<&[Option<ColumnType>]>,
        row: u64,
        warnings: &mut Warnings,
    ) -> Result<Vec<Datum>> {
        let columns = &inserter.layout.table.columns;
        let mut cells = self.defaults.clone();
        for (i, (at, value)) in self.positions.iter().zip(values).enumerate() {
            let source = types.and_then(|types| types[i].as_ref());
            cells[*at] = inserter.input.cell(value, source, &columns[*at], row, warnings)?;
        }
        Ok(cells)
    }
}

/// INSERT and REPLACE.
pub(super) fn insert(ctx: &mut Context<'_>, insert: &Insert) -> Result<Done> {
    let table = ctx.table(&insert.table)?;
    let on_conflict = match () {
        () if insert.replace => OnConflict::Replace,
        () if !insert.on_duplicate.is_empty() => OnConflict::Update,
        () if insert.ignore => OnConflict::Ignore,
        () if ctx.finds_duplicates_later() => OnConflict::FailLater,
        () => OnConflict::Fail,
    };
    let mut input = Input::new(ctx.variables, ctx.facts, insert.ignore);
    let several = match &insert.source {
        InsertSource::Values(rows) => rows.len() > 1,
        InsertSource::Query(_) => true,
    };
    input.adjust_null |= several && !input.rules.strict;
    let mut inserter = Inserter::new(ctx.view.clone(), table.clone(), input, on_conflict)?;
    let mut upsert = match on_conflict {
        OnConflict::Update => Some(Upsert::new(&table, insert, input.rules)?),
        _ => None,
    };
    let records = match &insert.source {
        InsertSource::Values(rows) => {
            let rows = values(ctx, &inserter, insert, rows)?;
            let records = rows.len() as u64;
            push(ctx, &mut inserter, upsert.as_mut(), rows)?;
            records
        }
        InsertSource::Query(query) => {
            let positions = positions(&table, insert.columns.as_deref())?;
            let mut rows = planned::rows(ctx, query)?;
            if rows.types.len() != positions.len() {
                return Err(wrong_count(1));
            }
            let fill = Fill::new(ctx, &inserter, positions)?;
            let mut records = 0;
            while let Some(batch) = rows.next()? {
                let mut converted = Vec::with_capacity(batch.len());
                for values in batch {
                    records += 1;
                    let (values, types) = (values.into_iter(), Some(rows.types.as_slice()));
                    converted.push(fill.row(&inserter, values, types, records, ctx.warnings)?);
                }
                push(ctx, &mut inserter, upsert.as_mut(), converted)?;
            }
            records
        }
    };
    Ok(done(ctx, &inserter, records, several))
}

fn push(
    ctx: &mut Context<'_>,
    inserter: &mut Inserter,
    upsert: Option<&mut Upsert>,
    mut rows: Vec<Vec<Datum>>,
) -> Result<()> {
    match upsert {
        Some(upsert) => upsert.push(ctx, inserter, rows),
        None => inserter.push(&mut ctx.target()?, &mut rows),
    }
}

fn done(ctx: &mut Context<'_>, inserter: &Inserter, records: u64, several: bool) -> Done {
    if let Some(first) = inserter.first_generated {
        ctx.facts.last_insert_id = first;
    }
    let last_insert_id = inserter.first_generated.or(inserter.last_explicit).unwrap_or(0);
    let duplicates = match inserter.on_conflict {
        OnConflict::Ignore => inserter.counts.skipped,
        _ => inserter.counts.replaced,
    };
    let warnings = ctx.warnings.count();
    let info = match several {
        true => format!("Records: {records}  Duplicates: {duplicates}  Warnings: {warnings}"),
        false => String::new(),
    };
    Done { affected_rows: inserter.counts.affected, last_insert_id, info }
}

/// The rows of VALUES, converted.
fn values(
    ctx: &mut Context<'_>,
    inserter: &Inserter,
    insert: &Insert,
    rows: &[Vec<Value>],
) -> Result<Vec<Vec<Datum>>> {
    let table = &inserter.layout.table;
    let empty = insert.columns.as_ref().is_none_or(Vec::is_empty) && rows.iter().all(Vec::is_empty);
    let positions = match empty {
        true => Vec::new(),
        false => positions(table, insert.columns.as_deref())?,
    };
    if let Some(at) = rows.iter().position(|row| row.len() != positions.len()) {
        return Err(wrong_count(at as u64 + 1));
    }
    let mut planned = evaluate(ctx, table, rows)?.into_iter();
    let fill = Fill::new(ctx, inserter, positions)?;
    let mut converted = Vec::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        let number = at as u64 + 1;
        let mut cells = fill.defaults.clone();
        for (at, value) in fill.positions.iter().zip(row) {
            let column = &table.columns[*at];
            let value = match value {
                Value::Literal(datum) => datum.clone(),
                Value::Default => {
                    cells[*at] = inserter.input.default(column, ctx.warnings)?;
                    continue;
                }
                Value::Param(_) => {
                    return Err(Error::unknown("a parameter of the statement has no value"));
                }
                Value::Expr(_) => planned.next().expect("one for each expression"),
            };
            cells[*at] = inserter.input.cell(value, None, column, number, ctx.warnings)?;
        }
        converted.push(cells);
    }
    Ok(converted)
}

/// The values of all expressions among the rows: simple ones here, the others by the query engine
/// in one go.
fn evaluate(ctx: &mut Context<'_>, table: &TableSchema, rows: &[Vec<Value>]) -> Result<Vec<Datum>> {
    let mut values = Vec::new();
    let (mut places, mut rest) = (Vec::new(), Vec::new());
    let scope = Scope::constants(table);
    for value in rows.iter().flatten() {
        let Value::Expr(expr) = value else { continue };
        match expr::compile(expr, &scope) {
            Some(node) => values.push(node.eval(&[], &[])?),
            None => {
                places.push(values.len());
                values.push(Datum::Null);
                rest.push((**expr).clone());
            }
        }
    }
    if !rest.is_empty() {
        for (at, value) in places.into_iter().zip(planned::eval(ctx, &rest)?) {
            values[at] = value;
        }
    }
    Ok(values)
}
