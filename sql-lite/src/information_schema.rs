//! The system's tables, made from the catalog when a query names one. It must never be stored, and
//! never show what the catalog does not know (sizes and times are NULL).

mod tables;

use crate::catalog::{CatalogView, SYSTEM_DATABASES};
use crate::database::Shared;
use crate::outcome::ColumnMeta;
use crate::query::SystemTables;
use crate::variables::Variables;
use damask_types::schema::IntWidth;
use damask_types::{
    ColumnId, ColumnSchema, ColumnType, Datum, IndexId, TableId, TableSchema,
};
use std::sync::Arc;

/// A text column.
pub fn text_column(name: &str) -> ColumnMeta {
    ColumnMeta::expression(name, ColumnType::VarChar { len: 1024 })
}

/// An integer column.
pub fn number_column(name: &str) -> ColumnMeta {
    ColumnMeta::expression(name, ColumnType::Int { width: IntWidth::Big, unsigned: false })
}

/// Columns and rows.
pub type Table = (Vec<ColumnMeta>, Vec<Vec<Datum>>);

/// What the system's tables are made from.
pub struct Information<'a> {
    /// Databases and tables.
    pub view: Arc<CatalogView>,
    /// The server: connections, replicas, counters.
    pub shared: &'a Shared,
    /// The session's variables.
    pub variables: &'a Variables,
}

impl SystemTables for Information<'_> {
    fn table(&self, database: &str, name: &str) -> Option<Table> {
        let (database, name) = (database.to_ascii_lowercase(), name.to_ascii_lowercase());
        let (mut columns, rows) = tables::table(self, &database, &name)?;
        for column in &mut columns {
            column.database.clone_from(&database);
            column.table.clone_from(&name);
            column.org_table.clone_from(&name);
            column.org_name.clone_from(&column.name);
        }
        Some((columns, rows))
    }
}

impl Information<'_> {
    /// All databases, the system's among them, in name order.
    pub fn databases(&self) -> Vec<String> {
        let mut names: Vec<_> = self.view.databases.values().cloned().collect();
        names.extend(SYSTEM_DATABASES.iter().map(|name| (*name).to_owned()));
        names.sort_by_key(|name| name.to_ascii_lowercase());
        names
    }

    /// The tables of a database and their kinds.
    pub fn tables_in(&self, database: &str) -> Vec<(String, &'static str)> {
        let system = tables::names(&database.to_ascii_lowercase());
        if !system.is_empty() {
            return system.into_iter().map(|name| (name.to_uppercase(), "SYSTEM VIEW")).collect();
        }
        self.view.tables_of(database).map(|t| (t.name.clone(), "BASE TABLE")).collect()
    }

    /// A system table as if it were in the catalog, to be described.
    pub fn described(&self, database: &str, name: &str) -> Option<TableSchema> {
        let (columns, _) = self.table(database, name)?;
        let columns: Vec<_> = columns.into_iter().enumerate().map(|(at, c)| described(at, c)).collect();
        Some(TableSchema {
            id: TableId(0),
            database: database.to_owned(),
            name: name.to_owned(),
            version: 0,
            max_column_id: ColumnId(columns.len() as i64),
            columns,
            handle_column: None,
            indexes: Vec::new(),
            column_replicas: 0,
            max_index_id: IndexId(0),
            comment: String::new(),
        })
    }

    /// A table under the names that SHOW gives its columns.
    pub fn shown(&self, name: &str) -> Table {
        let (mut columns, rows) = self.table("information_schema", name).unwrap_or_default();
        for column in &mut columns {
            let mut shown = column.name.to_lowercase();
            shown[..1].make_ascii_uppercase();
            column.name = shown;
        }
        (columns, rows)
    }

    /// SHOW STATUS.
    pub fn status(&self) -> Vec<(&'static str, String)> {
        self.shared.status()
    }

    /// The next AUTO_INCREMENT value, if this node has given one.
    pub fn next_auto_increment(&self, table: TableId) -> Option<u64> {
        self.shared.catalog.ids().peek(table)
    }

    /// PROCESSLIST.
    pub fn processes(&self) -> Table {
        self.table("information_schema", "processlist").unwrap_or_default()
    }
}

fn described(at: usize, column: ColumnMeta) -> ColumnSchema {
    ColumnSchema {
        id: ColumnId(at as i64 + 1),
        name: column.name,
        ty: column.ty.unwrap_or(ColumnType::VarChar { len: 1024 }),
        nullable: true,
        default: None,
        origin_default: None,
        auto_increment: false,
        on_update_now: false,
        comment: String::new(),
    }
}
