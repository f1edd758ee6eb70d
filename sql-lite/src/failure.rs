//! Errors of the transaction layer as MySQL numbers. It must never call an unknown outcome a
//! failure: that one is 8501.

use crate::catalog::CatalogView;
use crate::convert;
use crate::error::{Error, Result};
use damask_txn::Error as TxnError;
use damask_types::key::{decode_index_key, decode_row_key, decode_table};
use damask_types::{ColumnSchema, ColumnType, Datum, ErrorKind, IndexId};

/// An error while the catalog itself is read or written.
pub fn catalog<T>(result: std::result::Result<T, TxnError>) -> Result<T> {
    result.map_err(|e| error(e, &CatalogView::default()))
}

/// An error of a transaction on rows; the view names the key of a duplicate.
pub fn convert<T>(result: std::result::Result<T, TxnError>, view: &CatalogView) -> Result<T> {
    result.map_err(|e| error(e, view))
}

/// What an outdated statement says, should it be said at all.
const OUTDATED: &str = "Write conflict, a newer version of a row that the statement has read \
    exists [try again later]";

/// May the transaction be run again from its start?
pub fn is_conflict(error: &Error) -> bool {
    error.code == 9007
}

/// Is the statement to be run again in its transaction, which goes on?
pub fn is_outdated(error: &Error) -> bool {
    error.code == 9007 && error.message == OUTDATED
}

/// Is the whole transaction to be rolled back, and not only the statement?
pub fn ends_transaction(error: &Error) -> bool {
    error.code == 1213
}

/// A text without what several layers have each put at its end: `(Corrupt) (Corrupt)`.
pub fn named_once(text: &str) -> &str {
    let mut text = text;
    // Ends: each turn makes it shorter.
    while let Some(at) = text.rfind(" (") {
        let (before, kind) = text.split_at(at);
        if !kind.ends_with(')') || !before.ends_with(kind) {
            break;
        }
        text = before;
    }
    text
}

fn error(error: TxnError, view: &CatalogView) -> Error {
    let text = error.to_string();
    let text = named_once(&text).to_owned();
    match error {
        TxnError::Conflict { start_ts, detail } => {
            // The details begin with the same words.
            let detail = detail.trim_start_matches("write conflict").trim_start_matches([':', ' ']);
            Error::write_conflict(format!(
                "Write conflict, txnStartTS={start_ts}, reason={detail} [try again later]"
            ))
        }
        TxnError::AlreadyExists { key } => duplicate(&key, view),
        TxnError::Undetermined { .. } => {
            Error::undetermined(format!("execution result undetermined: {text}"))
        }
        TxnError::TooLarge { .. } => {
            Error::transaction_too_large(format!("Transaction is too large: {text}"))
        }
        TxnError::Outdated { .. } => Error::write_conflict(OUTDATED),
        TxnError::LockTimeout { .. } => Error::lock_wait_timeout(
            "Lock wait timeout exceeded; try restarting transaction".to_owned(),
        ),
        TxnError::Deadlock { .. } => {
            Error::deadlock("Deadlock found when trying to get lock; try restarting transaction")
        }
        TxnError::LockNotAvailable { .. } => Error::lock_not_available(
            "Statement aborted because lock(s) could not be acquired immediately and NOWAIT is set.",
        ),
        TxnError::Unavailable { .. } => {
            Error::unavailable(format!("Region is unavailable: {text}"))
        }
        TxnError::BelowSafePoint { .. } => Error::gc_too_early(text),
        TxnError::Storage { kind: ErrorKind::NoSpace, detail } => {
            Error::disk_full(format!("Disk full ({detail}); nothing was written, free some space"))
        }
        TxnError::Storage { .. } | TxnError::Invalid(_) => Error::unknown(text),
    }
}

/// 1062 for a key that exists.
pub fn duplicate(key: &[u8], view: &CatalogView) -> Error {
    let table = decode_table(key).and_then(|id| view.table_by_id(id));
    let Some(table) = table else {
        return Error::duplicate_entry("Duplicate entry '?' for key '?'");
    };
    if let Some((_, handle)) = decode_row_key(key) {
        return duplicate_text(&handle.to_string(), &table.name, "PRIMARY");
    }
    let id = key.get(11..19).and_then(|bytes| {
        let bytes: [u8; 8] = bytes.try_into().ok()?;
        Some(IndexId((u64::from_be_bytes(bytes) ^ (1 << 63)) as i64))
    });
    let index = id.and_then(|id| table.indexes.iter().find(|i| i.id == id));
    let Some(index) = index else { return duplicate_text("?", &table.name, "?") };
    let Ok((values, _)) = decode_index_key(key, index.columns.len()) else {
        return duplicate_text("?", &table.name, &index.name);
    };
    let columns = index.columns.iter().map(|id| table.column_by_id(*id));
    let texts: Vec<_> = values.iter().zip(columns).map(|(v, c)| shown(v, c)).collect();
    duplicate_text(&texts.join("-"), &table.name, &index.name)
}

/// MySQL's text of 1062.
pub fn duplicate_text(value: &str, table: &str, key: &str) -> Error {
    let short: String = value.chars().take(64).collect();
    Error::duplicate_entry(format!("Duplicate entry '{short}' for key '{table}.{key}'"))
}

fn shown(value: &Datum, column: Option<&ColumnSchema>) -> String {
    let ty: Option<&ColumnType> = column.map(|c| &c.ty);
    // Text comes back from an index key as bytes.
    let value = match (value, ty) {
        (Datum::Bytes(bytes), Some(ty)) if ty.is_text() => {
            Datum::Text(String::from_utf8_lossy(bytes).into_owned())
        }
        (value, _) => value.clone(),
    };
    convert::text(&value, ty).unwrap_or_else(|| "NULL".to_owned())
}

#[cfg(test)]
mod tests {
    use super::named_once;

    #[test]
    fn a_kind_is_named_once() {
        for (text, expected) in [
            ("get: bad block (Corrupt)", "get: bad block (Corrupt)"),
            ("get: bad block (Corrupt) (Corrupt)", "get: bad block (Corrupt)"),
            ("get: bad block (Corrupt) (Corrupt) (Corrupt)", "get: bad block (Corrupt)"),
            ("lost (Io) (Corrupt)", "lost (Io) (Corrupt)"),
            ("plain", "plain"),
            ("", ""),
        ] {
            assert_eq!(named_once(text), expected);
        }
    }
}
