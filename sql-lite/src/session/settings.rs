//! SET: variables of the session, the server, and the user, and what the next transaction is like.
//! It must never change a transaction that is open.

use crate::error::{Error, Result};
use crate::outcome::Done;
use crate::session::connection::Connection;
use crate::statement::control::{NEXT_AS_OF, NEXT_ISOLATION, NEXT_READ_ONLY};
use crate::statement::{SetItem, SetScope, SetValue, params};
use crate::variables::{isolation_of, unsupported_isolation};
use damask_types::Datum;
use sqlparser::ast::Expr;

/// User variables of a session at most.
const USER_VARIABLES_MAX: usize = 4096;

impl Connection {
    pub(super) fn set(&mut self, items: &[SetItem]) -> Result<Done> {
        for item in items {
            match item {
                SetItem::System { name, value: SetValue::Expr(at), .. } if name == NEXT_AS_OF => {
                    self.set_next_moment(at)?;
                }
                SetItem::System { scope, name, value } => {
                    let value = match value {
                        SetValue::Default => None,
                        SetValue::Word(word) => Some(Datum::Text(word.clone())),
                        SetValue::Expr(expr) => Some(self.value(expr)?),
                    };
                    self.set_system(name, value, *scope == SetScope::Global)?;
                }
                SetItem::User { name, value } => {
                    let value = self.value(value)?;
                    self.set_user_variable(name, value)?;
                }
                SetItem::Names { charset, collation } => {
                    self.variables.set_names(charset, collation.as_deref())?;
                }
            }
        }
        Ok(Done::default())
    }

    pub(super) fn set_user_variable(&mut self, name: &str, value: Datum) -> Result<()> {
        let name = name.to_ascii_lowercase();
        let variables = &mut self.facts.user_variables;
        if variables.len() >= USER_VARIABLES_MAX && !variables.contains_key(&name) {
            return Err(Error::unknown(format!("more than {USER_VARIABLES_MAX} user variables")));
        }
        variables.insert(name, value);
        Ok(())
    }

    fn set_system(&mut self, name: &str, value: Option<Datum>, global: bool) -> Result<()> {
        if name == NEXT_ISOLATION || name == NEXT_READ_ONLY {
            return self.set_next(name, value);
        }
        let before = self.variables.autocommit();
        self.variables.set(name, value.clone(), global)?;
        if !before && self.variables.autocommit() {
            self.commit()?;
        }
        if ["transaction_isolation", "tx_isolation"].iter().any(|n| name.eq_ignore_ascii_case(n)) {
            self.warn_of_isolation(value.as_ref());
        }
        Ok(())
    }

    fn set_next_moment(&mut self, at: &Expr) -> Result<()> {
        let ts = self.moment(at)?;
        self.check_past(ts)?;
        self.next.as_of = Some(ts);
        Ok(())
    }

    /// SET TRANSACTION: of the next one only. 1568 while one is open.
    fn set_next(&mut self, name: &str, value: Option<Datum>) -> Result<()> {
        if self.open.is_some() {
            return Err(Error::transaction_in_progress(
                "Transaction characteristics can't be changed while a transaction is in progress",
            ));
        }
        let Some(Datum::Text(word)) = &value else {
            return Err(Error::unknown("SET TRANSACTION without a word"));
        };
        if name == NEXT_READ_ONLY {
            self.next.read_only = Some(word == "ON");
            return Ok(());
        }
        self.variables.check_isolation(&Datum::Text(word.clone()))?;
        self.warn_of_isolation(value.as_ref());
        self.next.isolation = Some(isolation_of(word));
        Ok(())
    }

    /// A level that there is not was accepted: it is worth a warning.
    fn warn_of_isolation(&mut self, level: Option<&Datum>) {
        if let Some(Datum::Text(level)) = level
            && let Some(error) = unsupported_isolation(&Datum::Text(level.to_ascii_uppercase()))
        {
            self.warnings.demote(error);
        }
    }

    pub(super) fn value(&mut self, expr: &Expr) -> Result<Datum> {
        if let Some(value) = params::literal(expr) {
            return Ok(value);
        }
        let mut values = self.eval(std::slice::from_ref(expr))?;
        Ok(values.pop().unwrap_or(Datum::Null))
    }
}
