//! INSERT … ON DUPLICATE KEY UPDATE. It must never update more than the first row in the way.

use super::Context;
use super::assign::{self, Assigned, Assignment};
use super::expr::{NewRow, Scope};
use super::insert::Inserter;
use super::planned;
use super::write::{CHUNK_ROWS, InTheWay};
use crate::error::{Error, Result};
use crate::statement::Insert;
use crate::value::Rules;
use damask_types::{Datum, TableSchema};
use std::sync::Arc;

/// What is done with rows in the way.
pub(super) struct Upsert {
    table: Arc<TableSchema>,
    assignments: Vec<Assignment>,
    /// `AS new(a, b)`, with the columns' positions.
    alias: Option<(String, Vec<(String, usize)>)>,
    rules: Rules,
    ignore: bool,
    row: u64,
}

fn scope<'a>(
    table: &'a TableSchema,
    alias: &'a Option<(String, Vec<(String, usize)>)>,
    rules: Rules,
) -> Scope<'a> {
    let alias = alias.as_ref().map(|(name, columns)| (name.as_str(), columns.as_slice()));
    Scope { table, name: Some(&table.name), new: Some(NewRow { alias }), rules }
}

impl Upsert {
    pub fn new(table: &Arc<TableSchema>, insert: &Insert, rules: Rules) -> Result<Upsert> {
        let alias = match &insert.row_alias {
            None => None,
            Some((name, columns)) => {
                let positions = super::insert::positions(table, insert.columns.as_deref())?;
                if !columns.is_empty() && columns.len() != positions.len() {
                    return Err(Error::wrong_value_count(
                        "Column count doesn't match value count at row 1",
                    ));
                }
                Some((name.clone(), columns.iter().cloned().zip(positions).collect()))
            }
        };
        let scope = scope(table, &alias, rules);
        let assignments = assign::assignments(&insert.on_duplicate, &scope)?;
        let (table, ignore) = (table.clone(), insert.ignore);
        Ok(Upsert { table, assignments, alias, rules, ignore, row: 0 })
    }

    /// Puts rows, converted and in the order of the table's columns.
    pub fn push(
        &mut self,
        ctx: &mut Context<'_>,
        inserter: &mut Inserter,
        mut rows: Vec<Vec<Datum>>,
    ) -> Result<()> {
        let mut start = 0;
        while start < rows.len() {
            let end = rows.len().min(start + CHUNK_ROWS);
            let handles = inserter.prepare(&mut ctx.target()?, &mut rows[start..end])?;
            for (row, handle) in rows[start..end].iter().zip(handles) {
                self.row += 1;
                if let Some(error) = inserter.checks.violated(row)? {
                    self.refuse(ctx, error)?;
                    continue;
                }
                let (writer, layout) = (&inserter.writer, &inserter.layout);
                match writer.in_the_way(ctx.txn()?, layout, row, handle, None)? {
                    None => inserter.add(ctx.txn()?, row, handle)?,
                    Some(other) => self.update(ctx, inserter, row, &other)?,
                }
            }
            start = end;
        }
        Ok(())
    }

    /// The row is not put: an error, or a warning with IGNORE.
    fn refuse(&self, ctx: &mut Context<'_>, error: Error) -> Result<()> {
        if !self.ignore {
            return Err(error);
        }
        ctx.warnings.demote(error);
        Ok(())
    }

    fn update(
        &self,
        ctx: &mut Context<'_>,
        inserter: &mut Inserter,
        row: &[Datum],
        other: &InTheWay,
    ) -> Result<()> {
        let old = inserter.writer.row(ctx.txn()?, &inserter.layout, other.handle)?;
        let mut new = old.clone();
        for assignment in &self.assignments {
            let column = &self.table.columns[assignment.at];
            let input = &inserter.input;
            let (value, source) = match &assignment.value {
                Assigned::Default => (input.default(column, ctx.warnings)?, Some(&column.ty)),
                Assigned::Node(node) => (node.eval(&new, row)?, node.source(&self.table)),
                Assigned::Planned(expr) => {
                    let scope = scope(&self.table, &self.alias, self.rules);
                    let expr = assign::with_values(expr, &scope, &new, row);
                    let mut values = planned::eval(ctx, &[expr])?;
                    (values.pop().unwrap_or_default(), None)
                }
            };
            let cell = assign::cell(input, value, source, column, self.row, ctx.warnings)?;
            if assignment.remembered {
                inserter.first_generated = super::insert::positive(&cell);
            }
            new[assignment.at] = cell;
        }
        if new == old {
            inserter.counts.affected += u64::from(ctx.found_rows);
            return ctx.lock_unchanged(inserter.layout.row_key(other.handle));
        }
        assign::touch(&self.table, &self.assignments, &inserter.input, &mut new);
        if let Some(error) = inserter.checks.violated(&new)? {
            return self.refuse(ctx, error);
        }
        let (writer, layout) = (&inserter.writer, &inserter.layout);
        let handle = layout.handle_of(&new).unwrap_or(other.handle);
        let txn = ctx.txn()?;
        if let Some(third) = writer.in_the_way(txn, layout, &new, handle, Some(other.handle))? {
            let error = writer.duplicate(&third.key);
            return self.refuse(ctx, error);
        }
        writer.replace(txn, layout, (other.handle, &old), (handle, &new))?;
        inserter.counts.replaced += 1;
        inserter.counts.affected += 2;
        Ok(())
    }
}
