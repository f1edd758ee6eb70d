//! SET: variables of the session, the server, and the user.

use crate::error::Result;
use crate::outcome::Done;
use crate::session::connection::Connection;
use crate::statement::{SetItem, SetScope, SetValue, params};
use damask_types::Datum;
use sqlparser::ast::Expr;

/// User variables of a session at most.
const USER_VARIABLES_MAX: usize = 4096;

impl Connection {
    pub(super) fn set(&mut self, items: &[SetItem]) -> Result<Done> {
        for item in items {
            match item {
                SetItem::System { scope, name, value } => {
                    let value = match value {
                        SetValue::Default => None,
                        SetValue::Word(word) => Some(Datum::Text(word.clone())),
                        SetValue::Expr(expr) => Some(self.value(expr)?),
                    };
                    let before = self.variables.autocommit();
                    self.variables.set(name, value, *scope == SetScope::Global)?;
                    if !before && self.variables.autocommit() {
                        self.commit()?;
                    }
                }
                SetItem::User { name, value } => {
                    let value = self.value(value)?;
                    let name = name.to_ascii_lowercase();
                    let variables = &mut self.facts.user_variables;
                    if variables.len() >= USER_VARIABLES_MAX && !variables.contains_key(&name) {
                        return Err(crate::error::Error::unknown(format!(
                            "more than {USER_VARIABLES_MAX} user variables"
                        )));
                    }
                    variables.insert(name, value);
                }
                SetItem::Names { charset, collation } => {
                    self.variables.set_names(charset, collation.as_deref())?;
                }
            }
        }
        Ok(Done::default())
    }

    fn value(&mut self, expr: &Expr) -> Result<Datum> {
        if let Some(value) = params::literal(expr) {
            return Ok(value);
        }
        let mut values = self.eval(std::slice::from_ref(expr))?;
        Ok(values.pop().unwrap_or(Datum::Null))
    }
}
