//! CHECK (condition), and the text of the condition that the catalog keeps. It must never keep a
//! text that reads back as another condition.

use super::parser::P;
use super::{Stmt, parse};
use crate::error::{Error, Result};
use crate::variables::SqlMode;
use sqlparser::ast::{Expr, SelectItem, SetExpr, Value, visit_expressions, visit_expressions_mut};
use sqlparser::tokenizer::Token;
use std::ops::ControlFlow;

/// A CHECK constraint's definition.
#[derive(Clone, Debug)]
pub struct CheckDef {
    /// CONSTRAINT name, if given.
    pub name: Option<String>,
    /// What no row may make FALSE.
    pub condition: Box<Expr>,
    /// Without NOT ENFORCED.
    pub enforced: bool,
}

impl P<'_> {
    /// What follows CHECK.
    pub(super) fn check(&mut self, name: Option<String>) -> Result<CheckDef> {
        self.expect_symbol(&Token::LParen)?;
        let condition = Box::new(self.expr()?);
        self.expect_symbol(&Token::RParen)?;
        let enforced = !self.words(&["NOT", "ENFORCED"]);
        if enforced {
            self.word("ENFORCED");
        }
        Ok(CheckDef { name, condition, enforced })
    }
}

/// The condition without the table's name before its columns.
pub fn unqualified(condition: &Expr, table: &str) -> Expr {
    let mut condition = condition.clone();
    let _: ControlFlow<()> = visit_expressions_mut(&mut condition, |expr| {
        if let Expr::CompoundIdentifier(idents) = expr
            && let [.., of, column] = idents.as_slice()
            && of.value.eq_ignore_ascii_case(table)
        {
            let column = column.clone();
            *expr = Expr::Identifier(column);
        }
        ControlFlow::Continue(())
    });
    condition
}

/// The columns that it names, each time that it does.
pub fn columns_of(condition: &Expr) -> Vec<String> {
    let mut columns = Vec::new();
    let _: ControlFlow<()> = visit_expressions(condition, |expr| {
        match expr {
            Expr::Identifier(ident) => columns.push(ident.value.clone()),
            Expr::CompoundIdentifier(idents) => {
                let parts: Vec<_> = idents.iter().map(|ident| ident.value.as_str()).collect();
                columns.push(parts.join("."));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    columns
}

/// The condition as text, names in backticks, whatever the session's sql_mode.
///
/// # Errors
/// 1235 for a constant or a name that could not be read back as it is.
pub fn condition_text(condition: &Expr) -> Result<String> {
    let (mut shown, mut sound) = (condition.clone(), true);
    let _: ControlFlow<()> = visit_expressions_mut(&mut shown, |expr| {
        match expr {
            Expr::Identifier(ident) => {
                sound &= !ident.value.contains('`');
                ident.quote_style = Some('`');
            }
            Expr::Value(value) => {
                if let Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) =
                    &value.value
                {
                    sound &= !text.contains(['\\', '\'']);
                    value.value = Value::SingleQuotedString(text.clone());
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    match sound {
        true => Ok(shown.to_string()),
        false => Err(Error::not_supported(
            "This version of Damask doesn't yet support 'quotes and backslashes within CHECK'",
        )),
    }
}

/// The condition of a text that [`condition_text`] made.
pub fn condition(text: &str) -> Result<Expr> {
    let damaged = || Error::unknown(format!("catalog: the CHECK '{text}' cannot be read"));
    let Stmt::Query(query) = parse(&format!("SELECT {text}"), 0, SqlMode::default())?.stmt else {
        return Err(damaged());
    };
    let SetExpr::Select(select) = *query.body else { return Err(damaged()) };
    match select.projection.into_iter().next() {
        Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => Ok(expr),
        _ => Err(damaged()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_reads_back_as_it_was() {
        for (written, kept) in [
            ("t.a > 1 and B in (1, 2)", "`a` > 1 AND `B` IN (1, 2)"),
            ("`select` is null or not a = \"x\"", "`select` IS NULL OR NOT `a` = 'x'"),
            ("(a between -1 and 1.5) <> 0", "(`a` BETWEEN -1 AND 1.5) <> 0"),
        ] {
            let first = unqualified(&condition(written).expect("reads"), "T");
            let text = condition_text(&first).expect("can be kept");
            assert_eq!(text, kept);
            let again = condition(&text).expect("reads back");
            assert_eq!(condition_text(&again).expect("can be kept"), text);
        }
        let named = columns_of(&condition("o.a > 1 and B < abs(a)").expect("reads"));
        assert_eq!(named, ["o.a", "B", "a"]);
        for unsound in ["a = 'it''s'", r"a = '\\'"] {
            let unsound = condition(unsound).expect("reads");
            assert_eq!(condition_text(&unsound).expect_err("cannot be kept").code, 1235);
        }
    }
}
