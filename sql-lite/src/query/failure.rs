//! DataFusion's errors as MySQL's: a number, a state, a text that a user of MySQL understands. It
//! must never show a plan.

use crate::error::Error;
use damask_coprocessor::DispatchError;
use damask_types::ErrorKind;
use datafusion::common::{DataFusionError, SchemaError};

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
            Error { code: 1235, state: "42000", message: format!("Not supported yet: {text}") }
        }
        DataFusionError::ArrowError(e, _) => arrow(&e.to_string()),
        DataFusionError::Execution(text) => execution(text),
        DataFusionError::ResourcesExhausted(text) => {
            Error { code: 8175, state: "HY000", message: format!("Out of memory quota: {text}") }
        }
        other => Error::unknown(first_line(&other.to_string())),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn dispatch(e: &DispatchError) -> Error {
    match e.kind {
        ErrorKind::Retry | ErrorKind::Reroute => {
            Error::unavailable(format!("Region is unavailable: {}", e.detail))
        }
        ErrorKind::ResolveLock => {
            Error::lock_wait_timeout("Lock wait timeout exceeded; try restarting transaction")
        }
        _ => Error::unknown(e.detail.clone()),
    }
}

fn schema(e: &SchemaError) -> Error {
    match e {
        SchemaError::FieldNotFound { field, .. } => {
            let name = match &field.relation {
                Some(relation) => format!("{}.{}", relation.table(), field.name),
                None => field.name.clone(),
            };
            Error::unknown_column(format!("Unknown column '{name}' in 'field list'"))
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
    if text.contains("must appear in the GROUP BY") || text.contains("must be in GROUP BY") {
        let message = format!("Expression is not in GROUP BY clause: {}", first_line(text));
        return with(1055, "42000", message);
    }
    if text.contains("unique expression names") || text.contains("ambiguous") {
        return with(1060, "42S21", format!("Duplicate column name: {}", first_line(text)));
    }
    if text.contains("Aggregate") && text.contains("not allowed") || text.contains("nested aggreg")
    {
        return Error::invalid_query("Invalid use of group function");
    }
    if text.contains("same number of columns") || text.contains("different number of columns") {
        let message = "The used SELECT statements have a different number of columns";
        return with(1222, "21000", message.to_owned());
    }
    if text.contains("No field named") {
        return Error::unknown_column(first_line(text));
    }
    with(1105, "HY000", first_line(text))
}

fn arrow(text: &str) -> Error {
    if text.contains("verflow") {
        let message = format!("Value is out of range: {}", first_line(text));
        return Error::expression_out_of_range(message);
    }
    Error::unknown(first_line(text))
}

fn execution(text: &str) -> Error {
    if text.contains("more than one row") || text.contains("returned more than") {
        let message = "Subquery returns more than 1 row".to_owned();
        return Error { code: 1242, state: "21000", message };
    }
    arrow(text)
}
