//! `information_schema.data_lock_waits` (TiDB's): who waits for whose row lock. It must never ask
//! for a lock itself.

use super::Context;
use super::result::{optional, text};
use crate::query::sha256_hex;
use crate::statement::normalized;
use damask_types::key::{Hex, decode_index_key, decode_row_key, decode_table};
use damask_types::{Datum, IndexId, Timestamp};
use serde_json::json;
use std::sync::Arc;

/// A transaction that waits for another's lock on a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockWait {
    /// The user key.
    pub key: Vec<u8>,
    /// Who waits, by its start.
    pub waiter: Timestamp,
    /// Who holds the key, as far as is known.
    pub holder: Timestamp,
}

/// Tells who waits for whom, in the whole cluster, as of now.
pub type LockWaits = Arc<dyn Fn() -> Vec<LockWait> + Send + Sync>;

pub(crate) fn rows(ctx: &Context<'_>) -> Vec<Vec<Datum>> {
    let mut waits = (ctx.lock_waits)();
    waits.sort();
    let row = |wait: LockWait| {
        // Transactions of other servers have no text here.
        let of_it = |p: &&super::Process| p.locking == Some(wait.waiter);
        let statement = ctx.processes.iter().find(of_it).and_then(|p| p.info.as_deref());
        let statement = statement.map(normalized);
        vec![
            text(Hex(&wait.key).to_string().to_uppercase()),
            optional(key_info(ctx, &wait.key)),
            Datum::UInt(wait.waiter.0),
            Datum::UInt(wait.holder.0),
            optional(statement.as_deref().map(sha256_hex)),
            optional(statement),
        ]
    };
    waits.into_iter().map(row).collect()
}

/// What a key is of, as JSON; `None`: of no table that is there.
fn key_info(ctx: &Context<'_>, key: &[u8]) -> Option<String> {
    let table = ctx.view.table_by_id(decode_table(key)?)?;
    let mut info = json!({
        "db_name": table.database,
        "table_id": table.id.0,
        "table_name": table.name,
    });
    if let Some((_, handle)) = decode_row_key(key) {
        info["handle_type"] = json!("int");
        info["handle_value"] = json!(handle.to_string());
        return Some(info.to_string());
    }
    let bytes: [u8; 8] = key.get(11..19)?.try_into().ok()?;
    let id = IndexId((u64::from_be_bytes(bytes) ^ (1 << 63)) as i64);
    let index = table.indexes.iter().find(|index| index.id == id)?;
    let (values, _) = decode_index_key(key, index.columns.len()).ok()?;
    let shown = |value: &Datum| match value {
        Datum::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        value => crate::convert::text(value, None).unwrap_or_else(|| "NULL".to_owned()),
    };
    info["index_id"] = json!(id.0);
    info["index_name"] = json!(index.name);
    info["index_values"] = values.iter().map(shown).collect();
    Some(info.to_string())
}
