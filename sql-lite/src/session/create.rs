//! CREATE TABLE … AS SELECT: a table with the columns of a query, and its rows. It must never leave
//! a table behind whose rows could not be written.

use crate::error::{Error, Result};
use crate::outcome::{ColumnMeta, Done};
use crate::query;
use crate::session::connection::Connection;
use crate::session::warnings::Level;
use crate::statement::{ColumnDef, CreateTable, Hints, Insert, InsertSource, Stmt};
use damask_types::ColumnType;
use sqlparser::ast::Query;

/// The type of a column of which a query says nothing but NULL.
const OF_NULL: ColumnType = ColumnType::VarBinary { len: 1 };

impl Connection {
    /// Creates the table, then inserts; the statement has committed what was open before.
    pub(super) fn create_from_query(
        &mut self,
        create: &CreateTable,
        query: &Query,
        hints: &Hints,
    ) -> Result<Done> {
        let database = create.name.database.as_deref().or(self.current.as_deref());
        let view = self.database.catalog.view();
        let table = &create.name.table;
        if create.if_not_exists && database.is_some_and(|d| view.table(d, table).is_some()) {
            self.warnings.push(Level::Note, 1050, format!("Table '{table}' already exists"));
            return Ok(Done::default());
        }
        let found = self.with_query(hints, |context| query::columns(context, query))?;
        let mut definition = create.clone();
        (definition.query, definition.if_not_exists) = (None, false);
        for column in &found {
            let named = |def: &ColumnDef| def.name.eq_ignore_ascii_case(&column.name);
            if !create.columns.iter().any(named) {
                definition.columns.push(of(column));
            }
        }
        self.ddl(&Stmt::CreateTable(Box::new(definition)))?;
        let insert = Insert {
            table: create.name.clone(),
            columns: Some(found.into_iter().map(|column| column.name).collect()),
            source: InsertSource::Query(Box::new(query.clone())),
            replace: false,
            ignore: false,
            on_duplicate: Vec::new(),
            row_alias: None,
        };
        let inserted = self.change(&Stmt::Insert(Box::new(insert)), hints);
        inserted
            .and_then(|done| self.commit().map(|()| done))
            .map_err(|error| self.undo(create, error))
    }

    /// Takes the table away again; the error that asked for it.
    fn undo(&mut self, create: &CreateTable, error: Error) -> Error {
        self.abandon();
        let drop = Stmt::DropTable { names: vec![create.name.clone()], if_exists: true };
        match self.ddl(&drop) {
            Ok(_) => error,
            Err(second) => Error {
                message: format!("{}; the table stays: {}", error.message, second.message),
                ..error
            },
        }
    }
}

/// A column that holds what a query's column gives.
fn of(column: &ColumnMeta) -> ColumnDef {
    // What is calculated may be NULL whatever its operands are (1/0).
    let nullable = column.org_name.is_empty() || column.nullable;
    ColumnDef {
        name: column.name.clone(),
        ty: column.ty.clone().unwrap_or(OF_NULL),
        nullable: Some(nullable),
        default: None,
        auto_increment: false,
        on_update_now: false,
        comment: String::new(),
        key: None,
        checks: Vec::new(),
        ignored: Vec::new(),
    }
}
