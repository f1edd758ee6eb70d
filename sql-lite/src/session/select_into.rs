//! SELECT … INTO @a, @b: the one row of a query into user variables. It must never read more rows
//! than it takes to know that there are too many.

use super::warnings::Level;
use crate::convert::datum_at;
use crate::error::{Error, Result};
use crate::outcome::{Done, RowBatch, Rows};
use crate::session::connection::Connection;
use crate::statement::Hints;
use damask_types::Datum;
use sqlparser::ast::Query;

impl Connection {
    /// Without a row the variables stay as they are, with a warning.
    pub(super) fn select_into(
        &mut self,
        query: &Query,
        variables: &[String],
        hints: &Hints,
    ) -> Result<Done> {
        let mut rows = self.select(query, hints)?;
        if rows.columns.len() != variables.len() {
            let message = "The used SELECT statements have a different number of columns";
            return Err(Error { code: 1222, state: "21000", message: message.to_owned() });
        }
        let Some(row) = only_row(&mut rows)? else {
            let message = "No data - zero rows fetched, selected, or processed";
            self.warnings.push(Level::Warning, 1329, message);
            return Ok(Done::default());
        };
        for (name, value) in variables.iter().zip(row) {
            self.set_user_variable(name, value)?;
        }
        Ok(Done { affected_rows: 1, ..Done::default() })
    }
}

/// 1172 if there are more.
fn only_row(rows: &mut Rows) -> Result<Option<Vec<Datum>>> {
    let mut found = None;
    while let Some(batch) = rows.source.next()? {
        let mut batch = match batch {
            RowBatch::Datums(rows) => rows,
            RowBatch::Columns(batch) => {
                let cells = |row: usize| -> Result<Vec<Datum>> {
                    let cells = batch.columns().iter().zip(&rows.columns);
                    cells.map(|(c, meta)| datum_at(c.as_ref(), row, meta.ty.as_ref())).collect()
                };
                (0..batch.num_rows().min(2)).map(cells).collect::<Result<_>>()?
            }
        };
        if batch.len() + usize::from(found.is_some()) > 1 {
            let message = "Result consisted of more than one row".to_owned();
            return Err(Error { code: 1172, state: "42000", message });
        }
        found = batch.pop().or(found);
    }
    Ok(found)
}
