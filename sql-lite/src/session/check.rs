//! CHECK TABLE and ADMIN CHECK TABLE: is everything that a table's rows are stored as still the
//! same rows? All is read at one timestamp. It must never change anything, nor say that all is well
//! of a part that it has not read.
//!
//! ```text
//!  rows ─ decode ─┬─► entry of each public index: there, and this one?
//!                 ├─► number of rows = number of entries   (so that no entry is left over)
//!                 └─► number, checksum ═ the same of the column replica
//! ```

use crate::convert::{Reader, prepare};
use crate::database::Database;
use crate::dml::rows::{Index, Layout};
use crate::error::{Error, Result};
use crate::failure;
use crate::interrupt::Interrupt;
use crate::outcome::{ColumnMeta, Done, Rows};
use crate::query;
use crate::session::connection::Connection;
use crate::statement::TableName;
use arrow::array::RecordBatch;
use damask_coprocessor::{DispatchError, Source};
use damask_txn::SnapshotReader;
use damask_types::key::{decode_handle, decode_index_key, decode_row_key, index_prefix, row_range};
use damask_types::{ColumnType, Datum, ErrorKind, KeyRange, TableSchema};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

/// Keys of one page.
const PAGE: usize = 1_000;
/// Faults that are told of one table; the first ones say enough.
const FAULTS_MAX: usize = 16;

/// Rows, whatever their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    checksum: u64,
}

impl Sum {
    /// Adds a row, written in `scratch`.
    fn add(&mut self, handle: i64, row: impl Iterator<Item = Datum>, scratch: &mut Vec<u8>) {
        scratch.clear();
        scratch.extend_from_slice(&handle.to_be_bytes());
        row.for_each(|value| value.put_sorted(scratch));
        let mut hasher = DefaultHasher::new();
        hasher.write(scratch);
        self.rows += 1;
        self.checksum = self.checksum.wrapping_add(hasher.finish());
    }
}

/// What was found out of one table.
#[derive(Debug, Default)]
struct Report {
    faults: Vec<String>,
    /// Parts that were not looked at.
    notes: Vec<String>,
}

impl Report {
    fn fault(&mut self, text: impl Into<String>) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(text.into());
        }
    }
}

/// One table while it is checked.
struct Check<'a> {
    database: &'a Database,
    interrupt: &'a Interrupt,
    table: Arc<TableSchema>,
    layout: Layout,
    snapshot: SnapshotReader,
    report: Report,
}

impl<'a> Check<'a> {
    fn run(
        database: &'a Database,
        interrupt: &'a Interrupt,
        table: &Arc<TableSchema>,
    ) -> Result<Report> {
        // As long as it is open nothing that it reads is collected.
        let txn = failure::catalog(database.client.begin())?;
        // After the timestamp: an index that is dropped meanwhile loses entries only above it.
        let view = database.catalog.view().at(txn.start_ts());
        let table = view.table_by_id(table.id);
        let table = table.ok_or_else(|| Error::schema_changed("the table was dropped"))?;
        let mut check = Check {
            database,
            interrupt,
            layout: Layout::new(table.clone())?,
            table,
            snapshot: txn.snapshot().clone(),
            report: Report::default(),
        };
        let (sum, rows) = check.rows()?;
        for at in 0..check.layout.indexes.len() {
            if check.layout.indexes[at].public && check.entries(at)? != rows {
                check.strays(at)?;
            }
        }
        check.columns(sum)?;
        drop(txn);
        Ok(check.report)
    }

    /// Every key of a range, a page at a time.
    fn pages(
        &mut self,
        mut range: KeyRange,
        mut each: impl FnMut(&mut Self, &[(Vec<u8>, Vec<u8>)]) -> Result<()>,
    ) -> Result<()> {
        // Ends: each page leaves less of the range.
        loop {
            self.interrupt.check()?;
            let page = failure::catalog(self.snapshot.scan(&range, PAGE, false))?;
            each(self, &page)?;
            match page.last() {
                Some((key, _)) if page.len() == PAGE => range.start = KeyRange::point(key).end,
                _ => return Ok(()),
            }
        }
    }

    /// Decodes every row and looks for its entries. Those that could be read, and how many are
    /// there.
    fn rows(&mut self) -> Result<(Sum, u64)> {
        let (mut sum, mut count, mut scratch) = (Sum::default(), 0, Vec::new());
        self.pages(row_range(self.table.id), |check, page| {
            let mut entries = Vec::new();
            for (key, value) in page {
                let Some((_, handle)) = decode_row_key(key) else {
                    check.report.fault("a key among the rows is none of a row");
                    continue;
                };
                count += 1;
                match check.layout.decode(handle, value) {
                    Ok(row) => {
                        for index in check.layout.indexes.iter().filter(|index| index.public) {
                            entries.push((handle, index.id, index.entry(&row, handle)));
                        }
                        sum.add(handle, row.into_iter(), &mut scratch);
                    }
                    Err(error) => check.report.fault(error.message),
                }
            }
            let keys: Vec<_> = entries.iter().map(|(_, _, entry)| entry.key.clone()).collect();
            let found = failure::catalog(check.snapshot.batch_get(&keys))?;
            for ((handle, id, entry), found) in entries.into_iter().zip(found) {
                let what = match found {
                    Some(value) if value == entry.value => continue,
                    Some(_) => "is of another row",
                    None => "is missing",
                };
                let name = check.index_name(id);
                check.report.fault(format!("index '{name}': the entry of row {handle} {what}"));
            }
            Ok(())
        })?;
        Ok((sum, count))
    }

    fn index_name(&self, id: damask_types::IndexId) -> String {
        let index = self.table.indexes.iter().find(|index| index.id == id);
        index.map(|index| index.name.clone()).unwrap_or_default()
    }

    /// Entries of an index.
    fn entries(&mut self, at: usize) -> Result<u64> {
        let prefix = index_prefix(self.table.id, self.layout.indexes[at].id);
        let mut count = 0;
        self.pages(KeyRange::prefix(&prefix), |_, page| {
            count += page.len() as u64;
            Ok(())
        })?;
        Ok(count)
    }

    /// Names entries that no row has.
    fn strays(&mut self, at: usize) -> Result<()> {
        let id = self.layout.indexes[at].id;
        let name = self.index_name(id);
        self.pages(KeyRange::prefix(&index_prefix(self.table.id, id)), |check, page| {
            let index = &check.layout.indexes[at];
            let handles: Vec<_> = page.iter().map(|(k, v)| handle_of(index, k, v)).collect();
            let keys = handles.iter().flatten().map(|handle| check.layout.row_key(*handle));
            let keys: Vec<_> = keys.collect();
            let mut rows = failure::catalog(check.snapshot.batch_get(&keys))?.into_iter();
            for ((key, _), handle) in page.iter().zip(handles) {
                let Some(handle) = handle else {
                    check.report.fault(format!("index '{name}': an entry cannot be read"));
                    continue;
                };
                let row = rows.next().flatten();
                let row = row.map(|value| check.layout.decode(handle, &value)).transpose();
                let index = &check.layout.indexes[at];
                let fault = match row {
                    Ok(Some(row)) if index.entry(&row, handle).key == *key => continue,
                    Ok(Some(_)) => format!("index '{name}': an entry of row {handle} is too many"),
                    Ok(None) => {
                        format!("index '{name}': an entry names row {handle}, which is not there")
                    }
                    // Told of the row itself.
                    Err(_) => continue,
                };
                check.report.fault(fault);
            }
            Ok(())
        })?;
        let of_it = format!("index '{name}'");
        if !self.report.faults.iter().any(|fault| fault.starts_with(&of_it)) {
            self.report.fault(format!("index '{name}' has not as many entries as there are rows"));
        }
        Ok(())
    }

    /// The column replica's rows at the same timestamp.
    fn columns(&mut self, rows: Sum) -> Result<()> {
        let (facts, table) = (&self.database.query.facts, self.table.clone());
        if table.column_replicas == 0 {
            return Ok(());
        }
        if !facts.columns_ready(&table) {
            let why = if facts.columns_stopped(&table) { "reachable" } else { "complete" };
            self.report.notes.push(format!("the column replica is not {why}: not checked"));
            return Ok(());
        }
        let spec = Arc::new(query::whole_table(&table, Source::Columns, self.snapshot.ts()));
        let dispatch = &self.database.query.dispatch;
        let range = row_range(table.id);
        let units = dispatch.units(std::slice::from_ref(&range));
        let ranges = units.map_or_else(
            || vec![vec![range]],
            |units| units.into_iter().map(|unit| unit.ranges).collect(),
        );
        let (mut sum, mut scratch) = (Sum::default(), Vec::new());
        for ranges in ranges {
            self.interrupt.check()?;
            let opened = dispatch.open(&ranges, &spec);
            let Some(parts) = self.unless_corrupt(opened)? else { return Ok(()) };
            for batch in parts.into_iter().flatten() {
                self.interrupt.check()?;
                let batch =
                    batch.map_err(|e| DispatchError { kind: e.kind(), detail: e.to_string() });
                let Some(batch) = self.unless_corrupt(batch)? else { return Ok(()) };
                add_batch(&table, &batch, &mut sum, &mut scratch)?;
            }
        }
        if sum != rows {
            self.report.fault(format!(
                "the column replica has {} rows with checksum {:016x}, the rows are {} with \
                 {:016x}",
                sum.rows, sum.checksum, rows.rows, rows.checksum
            ));
        }
        Ok(())
    }

    /// What is corrupt is a fault of the table, everything else an error of the statement.
    fn unless_corrupt<T>(
        &mut self,
        result: std::result::Result<T, DispatchError>,
    ) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.kind == ErrorKind::Corrupt => {
                self.report.fault(format!("the column replica: {}", e.detail));
                Ok(None)
            }
            Err(e) => Err(query::dispatch_error(&e)),
        }
    }
}

/// The row that an entry is of; `None`: it cannot be read.
fn handle_of(index: &Index, key: &[u8], value: &[u8]) -> Option<i64> {
    match decode_index_key(key, index.positions.len()).ok()? {
        (_, Some(handle)) => Some(handle),
        (_, None) => decode_handle(value).ok(),
    }
}

/// Adds the rows of a batch of all columns and the handle.
fn add_batch(
    table: &TableSchema,
    batch: &RecordBatch,
    sum: &mut Sum,
    scratch: &mut Vec<u8>,
) -> Result<()> {
    let prepared = batch.columns().iter().map(|column| prepare(column.as_ref()));
    let prepared = prepared.collect::<Result<Vec<_>>>()?;
    let readers = batch.columns().iter().zip(&prepared);
    let readers = readers.map(|(column, p)| Reader::new(p.as_deref().unwrap_or(column)));
    let mut readers = readers.collect::<Result<Vec<_>>>()?;
    let Some(handles) = readers.pop() else { return Ok(()) };
    for at in 0..batch.num_rows() {
        let Datum::Int(handle) = handles.cell(at).to_datum() else {
            return Err(Error::unknown("a row of columns has no handle"));
        };
        let cells = readers.iter().zip(&table.columns);
        let cells = cells.map(|(reader, column)| reader.cell(at).fitted(&column.ty).to_datum());
        sum.add(handle, cells, scratch);
    }
    Ok(())
}

impl Connection {
    fn checked(&self, table: &Arc<TableSchema>) -> Result<Report> {
        Check::run(&self.database, &self.live.interrupt, table)
    }

    /// ADMIN CHECK TABLE: 8223 for the first fault.
    pub(super) fn admin_check(&mut self, tables: &[TableName]) -> Result<Done> {
        for name in tables {
            let view = self.database.catalog.view();
            let table = crate::dml::find_table(&view, self.current.as_deref(), name)?;
            if let Some(fault) = self.checked(&table)?.faults.first() {
                return Err(Error {
                    code: 8223,
                    state: "HY000",
                    message: format!("data inconsistency in table: {}, {fault}", table.name),
                });
            }
        }
        Ok(Done::default())
    }

    /// ANALYZE, CHECK, OPTIMIZE, REPAIR: rows for each table. Only CHECK does something.
    pub(super) fn maintain(&mut self, operation: &str, tables: &[TableName]) -> Result<Rows> {
        let text = |name: &str| ColumnMeta::expression(name, ColumnType::VarChar { len: 192 });
        let columns = ["Table", "Op", "Msg_type", "Msg_text"].map(text).to_vec();
        let mut rows = Vec::new();
        for name in tables {
            let view = self.database.catalog.view();
            let database = name.database.as_deref().or(self.current.as_deref());
            let database = database.ok_or_else(|| Error::no_database("No database selected"))?;
            let full = format!("{database}.{}", name.table);
            let mut row = |kind: &str, message: &str| {
                let cells = [full.as_str(), operation, kind, message];
                rows.push(cells.map(|text| Datum::Text(text.to_owned())).to_vec());
            };
            let Some(table) = view.table(database, &name.table) else {
                row("Error", &format!("Table '{full}' doesn't exist"));
                row("status", "Operation failed");
                continue;
            };
            if operation != "check" {
                row("status", "OK");
                continue;
            }
            let report = self.checked(&table)?;
            report.notes.iter().for_each(|note| row("note", note));
            report.faults.iter().for_each(|fault| row("error", fault));
            match report.faults.is_empty() {
                true => row("status", "OK"),
                false => row("error", "Corrupt"),
            }
        }
        Ok(Rows::of(columns, rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_knows_rows_whatever_their_order() {
        let mut scratch = Vec::new();
        let mut sum = |rows: &[(i64, i64)]| {
            let mut sum = Sum::default();
            for (handle, value) in rows {
                sum.add(*handle, [Datum::Int(*value), Datum::Null].into_iter(), &mut scratch);
            }
            sum
        };
        assert_eq!(sum(&[(1, 5), (2, 6)]), sum(&[(2, 6), (1, 5)]));
        assert_ne!(sum(&[(1, 5), (2, 6)]), sum(&[(1, 6), (2, 5)]));
        assert_ne!(sum(&[(1, 5)]), sum(&[(1, 5), (1, 5)]));
    }
}
