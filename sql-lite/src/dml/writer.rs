//! Rows and their index entries, written together. It must never write a row without its entries,
//! nor an entry without its row.

use super::row;
use crate::catalog::CatalogView;
use crate::error::{Error, Result};
use crate::failure;
use damask_txn::Transaction;
use damask_types::key::decode_handle;
use damask_types::{Datum, KeyRange, TableSchema};
use std::collections::HashMap;

/// Keys remembered of one statement before they are asked for again.
const CACHE_KEYS_MAX: usize = 100_000;

/// The rows of one table in one statement.
pub struct Writer<'a> {
    table: &'a TableSchema,
    view: &'a CatalogView,
    txn: &'a mut Transaction,
    /// What the snapshot holds, as far as it was asked.
    cache: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

/// A row that is in the way of another.
pub struct Existing {
    /// Its handle.
    pub handle: i64,
    /// Its values.
    pub row: Vec<Datum>,
    /// The key that both have.
    pub key: Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Writes to a table.
    pub fn new(
        table: &'a TableSchema,
        view: &'a CatalogView,
        txn: &'a mut Transaction,
    ) -> Writer<'a> {
        Writer { table, view, txn, cache: HashMap::new() }
    }

    /// The transaction.
    pub fn txn(&mut self) -> &mut Transaction {
        self.txn
    }

    /// Every key that another row could have too: the row's and its unique entries'.
    fn unique_keys(&self, handle: i64, values: &[Datum]) -> Vec<Vec<u8>> {
        let mut keys = Vec::with_capacity(1 + self.table.indexes.len());
        // A hidden handle is new by itself.
        if self.table.handle_column.is_some() {
            keys.push(row::key(self.table, handle));
        }
        let unique = self.table.indexes.iter().filter(|i| i.unique);
        let entries = unique.map(|index| row::entry(self.table, index, values, handle));
        keys.extend(entries.filter(|e| e.unique).map(|e| e.key));
        keys
    }

    /// Reads at once what `existing` will ask for one by one.
    pub fn prefetch(&mut self, rows: &[(i64, Vec<Datum>)]) -> Result<()> {
        let keys = rows.iter().flat_map(|(handle, values)| self.unique_keys(*handle, values));
        let keys: Vec<_> = keys.collect();
        self.prefetch_keys(keys)
    }

    fn prefetch_keys(&mut self, mut keys: Vec<Vec<u8>>) -> Result<()> {
        if self.cache.len() > CACHE_KEYS_MAX {
            self.cache.clear();
        }
        keys.retain(|key| !self.cache.contains_key(key));
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Ok(());
        }
        let values = failure::convert(self.txn.snapshot().batch_get(&keys), self.view)?;
        self.cache.extend(keys.into_iter().zip(values));
        Ok(())
    }

    /// A key's value, own writes included.
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Some((_, value)) = self.txn.buffered(&KeyRange::point(key)).next() {
            return Ok(value.map(<[u8]>::to_vec));
        }
        if let Some(value) = self.cache.get(key) {
            return Ok(value.clone());
        }
        failure::convert(self.txn.get(key), self.view)
    }

    /// Rows by handle; `None` where there is none.
    pub fn rows(&mut self, handles: &[i64]) -> Result<Vec<Option<Vec<Datum>>>> {
        let keys: Vec<_> = handles.iter().map(|h| row::key(self.table, *h)).collect();
        let values = failure::convert(self.txn.batch_get(&keys), self.view)?;
        let rows = handles.iter().zip(values);
        rows.map(|(h, v)| v.map(|v| row::decode(self.table, *h, &v)).transpose()).collect()
    }

    /// The first row that has a key of this one, the primary key first. `except`: a handle that
    /// may have them.
    pub fn existing(
        &mut self,
        handle: i64,
        values: &[Datum],
        except: Option<i64>,
    ) -> Result<Option<Existing>> {
        for key in self.unique_keys(handle, values) {
            let Some(found) = self.get(&key)? else { continue };
            let owner = match damask_types::key::decode_row_key(&key) {
                Some((_, handle)) => handle,
                None => decode_handle(&found)
                    .map_err(|e| Error::unknown(format!("an index entry is damaged: {e}")))?,
            };
            if Some(owner) == except {
                continue;
            }
            let stored = self.get(&row::key(self.table, owner))?.ok_or_else(|| {
                Error::unknown(format!(
                    "table '{}': an index names row {owner}, which is not there",
                    self.table.name
                ))
            })?;
            let row = row::decode(self.table, owner, &stored)?;
            return Ok(Some(Existing { handle: owner, row, key }));
        }
        Ok(None)
    }

    /// 1062 for a row that is in the way.
    pub fn duplicate(&self, existing: &Existing) -> Error {
        failure::duplicate(&existing.key, self.view)
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        failure::convert(self.txn.put(key, value), self.view)
    }

    fn delete_key(&mut self, key: Vec<u8>) -> Result<()> {
        failure::convert(self.txn.delete(key), self.view)
    }

    /// A key that no row may have: found now among own writes, at the commit among others'.
    fn insert_key(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        failure::convert(self.txn.insert(key, value), self.view)
    }

    /// A new row.
    pub fn insert(&mut self, handle: i64, values: &[Datum]) -> Result<()> {
        let key = row::key(self.table, handle);
        let bytes = row::encode(self.table, values);
        if self.table.handle_column.is_some() {
            self.insert_key(key, bytes)?;
        } else {
            self.put(key, bytes)?;
        }
        for index in &self.table.indexes {
            let entry = row::entry(self.table, index, values, handle);
            if entry.unique {
                self.insert_key(entry.key, entry.value)?;
            } else {
                self.put(entry.key, entry.value)?;
            }
        }
        Ok(())
    }

    /// Removes a row.
    pub fn delete(&mut self, handle: i64, values: &[Datum]) -> Result<()> {
        self.delete_key(row::key(self.table, handle))?;
        for index in &self.table.indexes {
            let entry = row::entry(self.table, index, values, handle);
            self.delete_key(entry.key)?;
        }
        Ok(())
    }

    /// Changes a row; entries that stay are not written.
    pub fn update(
        &mut self,
        handle: i64,
        old: &[Datum],
        new_handle: i64,
        new: &[Datum],
    ) -> Result<()> {
        if new_handle != handle {
            self.delete(handle, old)?;
            return self.insert(new_handle, new);
        }
        self.put(row::key(self.table, handle), row::encode(self.table, new))?;
        for index in &self.table.indexes {
            let before = row::entry(self.table, index, old, handle);
            let after = row::entry(self.table, index, new, handle);
            if before == after {
                continue;
            }
            self.delete_key(before.key)?;
            if after.unique {
                self.insert_key(after.key, after.value)?;
            } else {
                self.put(after.key, after.value)?;
            }
        }
        Ok(())
    }
}
