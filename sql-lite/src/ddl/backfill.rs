//! Fills a new index from the rows that are there, in batches, while writes go on. It must never
//! overwrite what a newer write has put: each batch is a transaction that conflicts with any write
//! to the same index key.

use crate::catalog::{Catalog, CatalogView};
use crate::dml::Try;
use crate::dml::rows::Layout;
use crate::error::{Error, Result};
use crate::failure;
use crate::interrupt::Interrupt;
use damask_txn::{Client, Wait};
use damask_types::key::{decode_handle, decode_row_key, row_range};
use damask_types::row::{Cell, RowView};
use damask_types::{ColumnId, IndexId, KeyRange, TableId, TableSchema};

/// Rows of one batch.
pub(super) const BATCH: usize = 1_000;
/// Conflicts of one batch after which the whole gives up.
const ATTEMPTS_MAX: u32 = 50;
/// For the row locks of transactions that are open.
const LOCK_WAIT: Wait = Wait::Millis(50_000);

/// Fills an index that every write keeps since before this began, or until `interrupt` is raised.
pub fn run(
    catalog: &Catalog,
    client: &Client,
    interrupt: &Interrupt,
    table: TableId,
    index: IndexId,
) -> Result<()> {
    let view = catalog.view();
    let gone = || Error::schema_changed("the table was dropped while its index was being filled");
    let table = view.table_by_id(table).ok_or_else(gone)?;
    let layout = Layout::new(table.clone())?;
    let mut range = row_range(table.id);
    let mut attempt = 0;
    let again = |e: &Error| failure::is_conflict(e) || failure::ends_transaction(e);
    // Ends: a turn moves the range forward, fails, or counts as an attempt.
    loop {
        interrupt.check()?;
        match batch(client, &view, interrupt, &layout, index, &range, attempt == 0) {
            Ok(None) => return Ok(()),
            Ok(Some(last)) => {
                range.start = KeyRange::point(&last).end;
                attempt = 0;
            }
            Err(e) if again(&e) && attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(error),
        }
        if catalog.view().table_by_id(table.id).is_none() {
            return Err(gone());
        }
    }
}

/// One batch; returns the last row's key, or `None` when no row is left.
fn batch(
    client: &Client,
    view: &CatalogView,
    interrupt: &Interrupt,
    layout: &Layout,
    index: IndexId,
    range: &KeyRange,
    first: bool,
) -> Result<Option<Vec<u8>>> {
    let index = layout.index(index);
    let index = index.ok_or_else(|| Error::unknown("the index to fill is not there"))?;
    let mut own = Try::begin(client, first, view)?;
    let txn = &mut own.txn;
    let pairs = failure::convert(txn.scan(range, BATCH, false), view)?;
    let Some((last, _)) = pairs.last() else { return Ok(None) };
    let last = last.clone();
    let mut entries = Vec::with_capacity(pairs.len());
    for (key, value) in &pairs {
        let Some((_, handle)) = decode_row_key(key) else { continue };
        let values = layout.decode(handle, value)?;
        entries.push((handle, index.entry(&values, handle)));
    }
    let keys: Vec<_> = entries.iter().map(|(_, e)| e.key.clone()).collect();
    let existing = failure::convert(txn.batch_get(&keys), view)?;
    for ((handle, entry), found) in entries.into_iter().zip(existing) {
        match found {
            Some(owner) if entry.unique => {
                let owner = decode_handle(&owner)
                    .map_err(|e| Error::unknown(format!("an index entry is damaged: {e}")))?;
                if owner != handle {
                    return Err(failure::duplicate(&entry.key, view));
                }
            }
            Some(_) => {}
            None if entry.unique => failure::convert(txn.insert(entry.key, entry.value), view)?,
            None => failure::convert(txn.put(entry.key, entry.value), view)?,
        }
    }
    failure::convert(own.written(LOCK_WAIT, interrupt, view)?.commit(), view)?;
    Ok(Some(last))
}

/// Fails with 1138 if a row has a NULL in one of these columns.
pub fn check_not_null(client: &Client, table: &TableSchema, columns: &[ColumnId]) -> Result<()> {
    let snapshot = client.snapshot(failure::catalog(client.timestamp())?);
    let mut range = row_range(table.id);
    let missing_is_null =
        |id: &ColumnId| table.column_by_id(*id).is_some_and(|c| c.origin_default.is_none());
    // Ends: each page leaves less of the range.
    loop {
        let pairs = failure::catalog(snapshot.scan(&range, BATCH, false))?;
        for (_, value) in &pairs {
            let view = RowView::new(value).map_err(|e| {
                Error::unknown(format!("a row of '{}' is damaged: {e}", table.name))
            })?;
            let null = columns.iter().any(|id| match view.get(*id) {
                Cell::Null => true,
                Cell::Missing => missing_is_null(id),
                Cell::Value(_) => false,
            });
            if null {
                let message = "Invalid use of NULL value".to_owned();
                return Err(Error { code: 1138, state: "22004", message });
            }
        }
        match pairs.last() {
            Some((key, _)) if pairs.len() == BATCH => range.start = KeyRange::point(key).end,
            _ => return Ok(()),
        }
    }
}
