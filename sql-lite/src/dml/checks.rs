//! A table's CHECK constraints, ready for rows. They must never let a row pass that makes a
//! condition FALSE; what is UNKNOWN passes.

use super::expr::{Node, Scope, conjuncts};
use crate::catalog::checks::Check;
use crate::error::{Error, Result};
use crate::statement::check::condition;
use crate::value::Rules;
use damask_types::{Datum, TableSchema};
use sqlparser::ast::Expr;

/// The constraints that are enforced: name, and parts of which none may be FALSE.
pub(crate) struct Checks(Vec<(String, Vec<Node>)>);

impl Checks {
    /// Those of a list, for rows of a table. `rules`: the session's zone.
    ///
    /// # Errors
    /// If a condition cannot be told of a row.
    pub fn new(list: &[Check], table: &TableSchema, rules: Rules) -> Result<Checks> {
        let compiled = |check: &Check| {
            let parts = compile(&condition(&check.clause)?, table, rules);
            let parts = parts.ok_or_else(|| {
                let name = &check.name;
                Error::not_supported(format!("Check constraint '{name}' cannot be enforced"))
            })?;
            Ok((check.name.clone(), parts))
        };
        let enforced = list.iter().filter(|check| check.enforced);
        enforced.map(compiled).collect::<Result<_>>().map(Checks)
    }

    /// 3819 if the row violates one.
    pub fn violated(&self, row: &[Datum]) -> Result<Option<Error>> {
        for (name, parts) in &self.0 {
            for part in parts {
                if part.test(row, &[])? == Some(false) {
                    let message = format!("Check constraint '{name}' is violated.");
                    return Ok(Some(Error { code: 3819, state: "HY000", message }));
                }
            }
        }
        Ok(None)
    }
}

/// Can the condition be told of a row by itself?
pub(crate) fn is_simple(condition: &Expr, table: &TableSchema) -> bool {
    compile(condition, table, Rules { strict: true, offset_us: 0, now_us: i64::MIN }).is_some()
}

fn compile(condition: &Expr, table: &TableSchema, rules: Rules) -> Option<Vec<Node>> {
    // No condition is about the time at which it is looked at.
    let rules = Rules { strict: true, now_us: i64::MIN, ..rules };
    conjuncts(condition, &Scope { table, name: Some(&table.name), new: None, rules })
}
