//! Rows into a transaction together with their index entries, and what is in the way of a new row.
//! It must never write an entry without its row, or leave one behind.

use super::rows::{Entry, Layout};
use crate::catalog::CatalogView;
use crate::error::{Error, Result};
use crate::failure;
use damask_txn::Transaction;
use damask_types::{Datum, KeyRange};
use std::collections::HashMap;
use std::sync::Arc;

/// Rows whose unique keys are read at once.
pub(super) const CHUNK_ROWS: usize = 2_048;

/// What is stored under keys that a statement asked for, so that each is read once.
pub(super) struct Writer {
    view: Arc<CatalogView>,
    known: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

/// Another row that has a unique key of the new one.
pub(super) struct InTheWay {
    /// The key.
    pub key: Vec<u8>,
    /// That row.
    pub handle: i64,
}

impl Writer {
    /// Nothing is known yet. The view names keys in errors.
    pub fn new(view: Arc<CatalogView>) -> Writer {
        Writer { view, known: HashMap::new() }
    }

    /// Reads keys at once for `look`; forgets those read before.
    pub fn prefetch(&mut self, txn: &Transaction, keys: Vec<Vec<u8>>) -> Result<()> {
        self.known.clear();
        self.also(txn, keys)
    }

    /// Reads more keys at once.
    pub fn also(&mut self, txn: &Transaction, keys: Vec<Vec<u8>>) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let values = failure::convert(txn.batch_get(&keys), &self.view)?;
        self.known.extend(keys.into_iter().zip(values));
        Ok(())
    }

    /// A key's value with the transaction's own writes.
    pub fn look(&self, txn: &Transaction, key: &[u8]) -> Result<Option<Vec<u8>>> {
        // What is known was read before this statement's own writes: those come first.
        if !txn.is_empty() {
            let own = KeyRange::point(key);
            if let Some((_, value)) = txn.buffered(&own).next() {
                return Ok(value.map(<[u8]>::to_vec));
            }
        }
        match self.known.get(key) {
            Some(value) => Ok(value.clone()),
            None => failure::convert(txn.get(key), &self.view),
        }
    }

    /// What was read of a key; `None` also when it was not read.
    pub fn known(&self, key: &[u8]) -> Option<&[u8]> {
        self.known.get(key)?.as_deref()
    }

    /// The first row in the way of a new one. `except`: a row that may have the same keys.
    pub fn in_the_way(
        &self,
        txn: &Transaction,
        layout: &Layout,
        row: &[Datum],
        handle: i64,
        except: Option<i64>,
    ) -> Result<Option<InTheWay>> {
        if layout.handle_at.is_some() && except != Some(handle) {
            let key = layout.row_key(handle);
            if self.look(txn, &key)?.is_some() {
                return Ok(Some(InTheWay { key, handle }));
            }
        }
        for index in layout.indexes.iter().filter(|index| index.unique) {
            let entry = index.entry(row, handle);
            if !entry.unique {
                continue;
            }
            if let Some(value) = self.look(txn, &entry.key)? {
                let other = layout.handle_in(&value)?;
                if except != Some(other) {
                    return Ok(Some(InTheWay { key: entry.key, handle: other }));
                }
            }
        }
        Ok(None)
    }

    /// A row that an index entry names.
    pub fn row(&self, txn: &Transaction, layout: &Layout, handle: i64) -> Result<Vec<Datum>> {
        let value = self.look(txn, &layout.row_key(handle))?.ok_or_else(|| {
            let table = &layout.table.name;
            Error::unknown(format!("an index entry of table '{table}' has no row {handle}"))
        })?;
        layout.decode(handle, &value)
    }

    /// 1062 for a key.
    pub fn duplicate(&self, key: &[u8]) -> Error {
        failure::duplicate(key, &self.view)
    }

    /// Writes a new row. Keys that must be unique are checked in the buffer now and in the store
    /// at the commit.
    pub fn insert(
        &self,
        txn: &mut Transaction,
        layout: &Layout,
        row: &[Datum],
        handle: i64,
    ) -> Result<()> {
        let (key, value) = (layout.row_key(handle), layout.encode(row));
        let written = match layout.handle_at {
            Some(_) => txn.insert(key, value),
            // A row id is given once.
            None => txn.put(key, value),
        };
        failure::convert(written, &self.view)?;
        for entry in layout.entries(row, handle) {
            self.put_entry(txn, entry)?;
        }
        Ok(())
    }

    fn put_entry(&self, txn: &mut Transaction, entry: Entry) -> Result<()> {
        let written = match entry.unique {
            true => txn.insert(entry.key, entry.value),
            false => txn.put(entry.key, entry.value),
        };
        failure::convert(written, &self.view)
    }

    /// Removes a row.
    pub fn remove(
        &self,
        txn: &mut Transaction,
        layout: &Layout,
        row: &[Datum],
        handle: i64,
    ) -> Result<()> {
        failure::convert(txn.delete(layout.row_key(handle)), &self.view)?;
        for entry in layout.entries(row, handle) {
            failure::convert(txn.delete(entry.key), &self.view)?;
        }
        Ok(())
    }

    /// Replaces a row by another version of it, which may have another handle.
    pub fn replace(
        &self,
        txn: &mut Transaction,
        layout: &Layout,
        old: (i64, &[Datum]),
        new: (i64, &[Datum]),
    ) -> Result<()> {
        let ((old_handle, old_row), (handle, row)) = (old, new);
        if old_handle != handle {
            self.remove(txn, layout, old_row, old_handle)?;
            return self.insert(txn, layout, row, handle);
        }
        failure::convert(txn.put(layout.row_key(handle), layout.encode(row)), &self.view)?;
        for index in layout.indexes.iter().filter(|index| !index.same(old_row, row)) {
            let gone = index.entry(old_row, handle).key;
            failure::convert(txn.delete(gone), &self.view)?;
            self.put_entry(txn, index.entry(row, handle))?;
        }
        Ok(())
    }
}
