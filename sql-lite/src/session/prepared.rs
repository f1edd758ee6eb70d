//! Prepared statements: parsed once, run with values. Both those of the protocol (numbered) and
//! those of SQL's PREPARE (named).

use crate::error::{Error, Result};
use crate::outcome::{ColumnMeta, Done, Outcome, Prepared};
use crate::query;
use crate::session::connection::Connection;
use crate::statement::control::PrepareFrom;
use crate::statement::{self, Parsed, Stmt, params, syntax_error};
use damask_types::Datum;
use std::collections::HashMap;
use std::sync::Arc;

/// Prepared statements of a session at most (max_prepared_stmt_count).
const STATEMENTS_MAX: usize = 16_382;

struct Statement {
    parsed: Parsed,
    text: Arc<str>,
}

impl Statement {
    fn bind(&self, values: &[Datum]) -> Result<Parsed> {
        if values.len() != self.parsed.params {
            return Err(Error {
                code: 1210,
                state: "HY000",
                message: "Incorrect arguments to EXECUTE".to_owned(),
            });
        }
        let mut parsed = self.parsed.clone();
        if !values.is_empty() {
            parsed.stmt = params::bind(&parsed.stmt, self.parsed.params, values)?;
        }
        Ok(parsed)
    }
}

/// A session's prepared statements.
#[derive(Default)]
pub struct Statements {
    numbered: HashMap<u32, Statement>,
    named: HashMap<String, Statement>,
    last: u32,
}

impl Statements {
    /// A statement with its values.
    pub fn bind(&self, id: u32, values: &[Datum]) -> Result<(Parsed, Arc<str>)> {
        let statement = self.numbered.get(&id).ok_or_else(|| {
            Error::unknown_statement(format!(
                "Unknown prepared statement handler ({id}) given to mysqld_stmt_execute"
            ))
        })?;
        Ok((statement.bind(values)?, statement.text.clone()))
    }

    /// Forgets one; unknown is fine.
    pub fn close(&mut self, id: u32) {
        self.numbered.remove(&id);
    }
}

impl Connection {
    fn parse_one(&self, sql: &str) -> Result<Statement> {
        let parsed = statement::parse(sql, 0, self.variables.sql_mode())?;
        if !statement::is_blank(sql, parsed.end) {
            return Err(syntax_error(sql, parsed.end));
        }
        if matches!(parsed.stmt, Stmt::Empty) {
            return Err(Error::empty_query("Query was empty"));
        }
        Ok(Statement { parsed, text: sql.into() })
    }

    pub(super) fn prepare_text(&mut self, sql: &str) -> Result<Prepared> {
        if self.statements.numbered.len() >= STATEMENTS_MAX {
            return Err(Error {
                code: 1461,
                state: "42000",
                message: format!(
                    "Can't create more than max_prepared_stmt_count statements (current value: \
                     {STATEMENTS_MAX})"
                ),
            });
        }
        let statement = self.parse_one(sql)?;
        let columns = self.result_columns(&statement)?;
        let params = statement.parsed.params;
        self.statements.last = self.statements.last.wrapping_add(1).max(1);
        let id = self.statements.last;
        self.statements.numbered.insert(id, statement);
        Ok(Prepared { id, params, columns })
    }

    /// What a query will return, as far as it is known without its values.
    fn result_columns(&self, statement: &Statement) -> Result<Vec<ColumnMeta>> {
        if !matches!(statement.parsed.stmt, Stmt::Query(_)) {
            return Ok(Vec::new());
        }
        let nulls = vec![Datum::Null; statement.parsed.params];
        let bound = statement.bind(&nulls)?;
        let Stmt::Query(q) = &bound.stmt else { return Ok(Vec::new()) };
        match self.with_query(&bound.hints, |context| query::columns(context, q)) {
            Ok(columns) => Ok(columns),
            // With values it may be right (LIMIT ?): then it is known when it runs.
            Err(_) if statement.parsed.params > 0 => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn prepare_named(&mut self, name: &str, from: &PrepareFrom) -> Result<Done> {
        let text = match from {
            PrepareFrom::Text(text) => text.clone(),
            PrepareFrom::Variable(variable) => {
                match self.facts.user_variables.get(&variable.to_ascii_lowercase()) {
                    Some(Datum::Text(text)) => text.clone(),
                    _ => return Err(syntax_error("NULL", 0)),
                }
            }
        };
        let statement = self.parse_one(&text)?;
        if self.statements.named.len() >= STATEMENTS_MAX {
            return Err(Error::unknown("too many prepared statements"));
        }
        self.statements.named.insert(name.to_ascii_lowercase(), statement);
        Ok(Done::default())
    }

    pub(super) fn execute_named(&mut self, name: &str, using: &[String]) -> Result<Outcome> {
        let value = |variable: &String| {
            let key = variable.to_ascii_lowercase();
            self.facts.user_variables.get(&key).cloned().unwrap_or(Datum::Null)
        };
        let values: Vec<Datum> = using.iter().map(value).collect();
        let statement = self.statements.named.get(&name.to_ascii_lowercase());
        let statement = statement.ok_or_else(|| unknown(name, "EXECUTE"))?;
        let (parsed, text) = (statement.bind(&values)?, statement.text.clone());
        if matches!(parsed.stmt, Stmt::Execute { .. } | Stmt::Prepare { .. }) {
            return Err(Error::not_supported(
                "This command is not supported in the prepared statement protocol yet",
            ));
        }
        self.execute_parsed(&parsed, &text)
    }

    pub(super) fn deallocate(&mut self, name: &str) -> Result<Done> {
        match self.statements.named.remove(&name.to_ascii_lowercase()) {
            Some(_) => Ok(Done::default()),
            None => Err(unknown(name, "DEALLOCATE PREPARE")),
        }
    }
}

fn unknown(name: &str, by: &str) -> Error {
    Error::unknown_statement(format!("Unknown prepared statement handler ({name}) given to {by}"))
}
