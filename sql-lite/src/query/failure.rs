//! DataFusion's errors as MySQL's: a number, a state, a text that a user of MySQL understands. It
//! must never show a plan.

use super::{QueryContext, clause};
use crate::error::Error;
use damask_coprocessor::DispatchError;
use damask_types::ErrorKind;
use datafusion::common::{Column, DataFusionError, SchemaError};
use sqlparser::ast;

/// The error a client sees of a query that could not be planned: it says in which clause of the
/// query as written a name is unknown.
pub(super) fn planning(ctx: &QueryContext<'_>, written: &ast::Query, e: DataFusionError) -> Error {
    if let DataFusionError::Plan(text) = e.find_root()
        && needs_group(text)
        && !is_grouped(written)
    {
        let message = "In aggregated query without GROUP BY, the SELECT list contains a \
            nonaggregated column; this is incompatible with sql_mode=only_full_group_by";
        return Error { code: 1140, state: "42000", message: message.to_owned() };
    }
    let DataFusionError::SchemaError(root, _) = e.find_root() else { return error(e) };
    match &**root {
        SchemaError::FieldNotFound { field, .. } => {
            let name = shown(field);
            let clause = clause::of(ctx, written, &name, false);
            Error::unknown_column(format!("Unknown column '{name}' in '{clause}'"))
        }
        SchemaError::AmbiguousReference { field } => {
            let clause = clause::of(ctx, written, &field.name, true);
            let message = format!("Column '{}' in {clause} is ambiguous", field.name);
            Error { code: 1052, state: "23000", message }
        }
        _ => error(e),
    }
}

/// Is it that a name means two columns, or two columns have one name?
pub(super) fn names_twice(error: &Error) -> bool {
    matches!(error.code, 1052 | 1060)
}

/// Does the outermost SELECT have a GROUP BY?
fn is_grouped(query: &ast::Query) -> bool {
    match &*query.body {
        ast::SetExpr::Select(select) => match &select.group_by {
            ast::GroupByExpr::All(_) => true,
            ast::GroupByExpr::Expressions(exprs, _) => !exprs.is_empty(),
        },
        _ => true,
    }
}

fn needs_group(text: &str) -> bool {
    text.contains("must appear in the GROUP BY") || text.contains("must be in GROUP BY")
}

fn shown(field: &Column) -> String {
    match &field.relation {
        Some(relation) => format!("{}.{}", relation.table(), field.name),
        None => field.name.clone(),
    }
}

/// The error a client sees.
pub(crate) fn error(e: DataFusionError) -> Error {
    let root = e.find_root();
    if let DataFusionError::External(source) = root {
        if let Some(own) = source.downcast_ref::<Error>() {
            return own.clone();
        }
        if let Some(failed) = source.downcast_ref::<DispatchError>() {
            return dispatch(failed);
        }
    }
    match root {
        DataFusionError::SchemaError(e, _) => schema(e),
        DataFusionError::Plan(text) => plan(text),
        DataFusionError::NotImplemented(text) => {
            tracing::warn!(detail = first_line(text), "a query that is not supported");
            Error::not_supported("This version of Damask doesn't yet support such a query")
        }
        DataFusionError::ArrowError(e, _) => arrow(&e.to_string()),
        DataFusionError::Execution(text) => execution(text),
        DataFusionError::ResourcesExhausted(_) => super::memory::exhausted(),
        other => unforeseen(&other.to_string()),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// An error of a scan.
pub(crate) fn dispatch(e: &DispatchError) -> Error {
    match e.kind {
        ErrorKind::Retry | ErrorKind::Reroute => {
            Error::unavailable(format!("Region is unavailable: {}", e.detail))
        }
        ErrorKind::ResolveLock => {
            Error::lock_wait_timeout("Lock wait timeout exceeded; try restarting transaction")
        }
        ErrorKind::TooOld => Error::gc_too_early(e.detail.clone()),
        _ => Error::unknown(crate::failure::named_once(&e.detail)),
    }
}

fn schema(e: &SchemaError) -> Error {
    match e {
        // A subquery that the optimizer could not take apart.
        SchemaError::FieldNotFound { field, .. }
            if field.relation.as_ref().is_some_and(|r| r.table().starts_with("__")) =>
        {
            Error::not_supported("Not supported yet: such a correlated subquery")
        }
        SchemaError::FieldNotFound { field, .. } => {
            Error::unknown_column(format!("Unknown column '{}' in 'field list'", shown(field)))
        }
        SchemaError::AmbiguousReference { field } => {
            let message = format!("Column '{}' in field list is ambiguous", field.name);
            Error { code: 1052, state: "23000", message }
        }
        SchemaError::DuplicateUnqualifiedField { name } => {
            Error::duplicate_column(format!("Duplicate column name '{name}'"))
        }
        SchemaError::DuplicateQualifiedField { name, .. } => {
            let message = format!("Not unique table/alias or column: '{name}'");
            Error { code: 1066, state: "42000", message }
        }
    }
}

/// A word in quotes after a mark.
fn quoted(text: &str) -> &str {
    let mut parts = text.split('\'');
    parts.next();
    parts.next().unwrap_or_default()
}

fn plan(text: &str) -> Error {
    let with = |code: u16, state: &'static str, message: String| Error { code, state, message };
    if text.contains("Invalid function") {
        let name = quoted(text);
        return with(1305, "42000", format!("FUNCTION {name} does not exist"));
    }
    for (start, clause) in [
        ("Order by column out of bounds, specified: ", "order clause"),
        ("Cannot find column with position ", "group statement"),
    ] {
        if let Some((_, rest)) = text.split_once(start) {
            let end = rest.find([',', ' ']).unwrap_or(rest.len());
            let message = format!("Unknown column '{}' in '{clause}'", &rest[..end]);
            return Error::unknown_column(message);
        }
    }
    if needs_group(text) {
        let message = "Expression of SELECT list is not in GROUP BY clause and contains a \
            nonaggregated column which is not functionally dependent on columns in GROUP BY \
            clause; this is incompatible with sql_mode=only_full_group_by";
        return with(1055, "42000", message.to_owned());
    }
    if text.contains("SELECT DISTINCT") && text.contains("ORDER BY") {
        let message = "Expression of ORDER BY clause is not in SELECT list; this is incompatible \
            with DISTINCT";
        return with(3065, "HY000", message.to_owned());
    }
    if text.contains("unique expression names") || text.contains("ambiguous") {
        return with(1060, "42S21", "Duplicate column name".to_owned());
    }
    if text.contains("Aggregate") && text.contains("not allowed") || text.contains("nested aggreg")
    {
        return Error::invalid_query("Invalid use of group function");
    }
    if text.contains("should only return one column") {
        return Error::operand_columns("Operand should contain 1 column(s)");
    }
    if text.contains("same number of columns") || text.contains("different number of columns") {
        let message = "The used SELECT statements have a different number of columns";
        return with(1222, "21000", message.to_owned());
    }
    if text.contains("No field named") {
        return Error::unknown_column("Unknown column");
    }
    unforeseen(text)
}

/// What no MySQL error says: the details are for whoever keeps the server.
fn unforeseen(text: &str) -> Error {
    tracing::warn!(detail = first_line(text), "a query failed for a reason without a number");
    Error::unknown("The query can't be planned or run in this form")
}

fn arrow(text: &str) -> Error {
    if text.contains("verflow") {
        return Error::expression_out_of_range("Value is out of range");
    }
    unforeseen(text)
}

fn execution(text: &str) -> Error {
    if text.contains("more than one row") || text.contains("returned more than") {
        let message = "Subquery returns more than 1 row".to_owned();
        return Error { code: 1242, state: "21000", message };
    }
    arrow(text)
}
