//! CHECK constraints in definitions. A table must never have one that is enforced and cannot be told
//! of a row, or that a stored row violates.

use super::backfill::BATCH;
use super::build::check_name;
use crate::catalog::CatalogView;
use crate::catalog::checks::Check;
use crate::dml::rows::Layout;
use crate::dml::{Checks, is_simple};
use crate::error::{Error, Result};
use crate::failure;
use crate::statement::check::{CheckDef, columns_of, condition, condition_text, unqualified};
use damask_txn::Client;
use damask_types::key::{decode_row_key, row_range};
use damask_types::{KeyRange, TableSchema};
use std::sync::Arc;

fn error(code: u16, message: String) -> Error {
    Error { code, state: "HY000", message }
}

/// Is the name a constraint's of another table of the database, or one of the list's?
fn taken(view: &CatalogView, table: &TableSchema, list: &[Check], name: &str) -> bool {
    let others = view.tables_of(&table.database).filter(|other| other.id != table.id);
    let others = others.flat_map(|other| view.checks(other.id));
    others.chain(list).any(|check| check.name.eq_ignore_ascii_case(name))
}

fn generated(view: &CatalogView, table: &TableSchema, list: &[Check]) -> String {
    let mut names = (1..).map(|n| format!("{}_chk_{n}", table.name));
    names.find(|name| !taken(view, table, list, name)).expect("the numbers do not end")
}

/// Adds constraints to the list of a table's; gives what is to be said of them.
///
/// # Errors
/// 3822 for a name that is taken, 3820 for a column that is not there, 3818 for AUTO_INCREMENT.
pub fn add(
    view: &CatalogView,
    table: &TableSchema,
    list: &mut Vec<Check>,
    defs: &[CheckDef],
) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for def in defs {
        let name = match &def.name {
            Some(name) if taken(view, table, list, name) => {
                return Err(error(3822, format!("Duplicate check constraint name '{name}'.")));
            }
            Some(name) => check_name(name).map(|()| name.clone())?,
            None => generated(view, table, list),
        };
        let condition = unqualified(&def.condition, &table.name);
        for column in columns_of(&condition) {
            match table.column(&column) {
                None => {
                    let message = format!(
                        "Check constraint '{name}' refers to non-existing column '{column}'."
                    );
                    return Err(error(3820, message));
                }
                Some(column) if column.auto_increment => {
                    let message = format!(
                        "Check constraint '{name}' cannot refer to an auto-increment column."
                    );
                    return Err(error(3818, message));
                }
                Some(_) => {}
            }
        }
        let simple = is_simple(&condition, table);
        if def.enforced && !simple {
            said.push(format!(
                "Check constraint '{name}' is kept and not enforced: its condition is not one of \
                 columns, constants, comparisons, + - *"
            ));
        }
        let clause = condition_text(&condition)?;
        list.push(Check { name, clause, enforced: def.enforced && simple });
    }
    Ok(said)
}

/// The constraints of another table, for a table that is to be like it.
pub fn alike(view: &CatalogView, table: &TableSchema, other: &[Check]) -> Vec<Check> {
    let mut list = Vec::with_capacity(other.len());
    for check in other {
        let name = generated(view, table, &list);
        list.push(Check { name, ..check.clone() });
    }
    list
}

/// A column is dropped (with the constraints that are about nothing else) or renamed.
///
/// # Errors
/// 3959 if a constraint is in the way.
pub fn column_goes(list: &mut Vec<Check>, column: &str, dropped: bool) -> Result<()> {
    let mut kept = Vec::with_capacity(list.len());
    for check in list.drain(..) {
        let columns = columns_of(&condition(&check.clause)?);
        let own = |name: &String| name.eq_ignore_ascii_case(column);
        if columns.iter().any(own) && !(dropped && columns.iter().all(own)) {
            let name = &check.name;
            let message = format!(
                "Check constraint '{name}' uses column '{column}', hence column cannot be dropped \
                 or renamed."
            );
            return Err(error(3959, message));
        }
        if !columns.iter().any(own) {
            kept.push(check);
        }
    }
    *list = kept;
    Ok(())
}

/// A constraint of the list by its name.
pub fn position(list: &[Check], name: &str) -> Option<usize> {
    list.iter().position(|check| check.name.eq_ignore_ascii_case(name))
}

/// 3821.
pub fn not_found(name: &str) -> Error {
    error(3821, format!("Check constraint '{name}' is not found in the table."))
}

/// Fails with 3819 if a stored row violates one.
pub fn check_rows(client: &Client, table: &TableSchema, checks: &Checks) -> Result<()> {
    let layout = Layout::new(Arc::new(table.clone()))?;
    let snapshot = client.snapshot(failure::catalog(client.timestamp())?);
    let mut range = row_range(table.id);
    // Ends: each page leaves less of the range.
    loop {
        let pairs = failure::catalog(snapshot.scan(&range, BATCH, false))?;
        for (key, value) in &pairs {
            let Some((_, handle)) = decode_row_key(key) else { continue };
            if let Some(error) = checks.violated(&layout.decode(handle, value)?)? {
                return Err(error);
            }
        }
        match pairs.last() {
            Some((key, _)) if pairs.len() == BATCH => range.start = KeyRange::point(key).end,
            _ => return Ok(()),
        }
    }
}
