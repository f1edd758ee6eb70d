//! SELECT of plain columns by key, served from rows without the query engine. It must give exactly
//! what the engine would, or nothing (`None`).

use super::access::{Access, Named, Path, Reads, RowOf, find, fulfils, read};
use super::row;
use crate::catalog::CatalogView;
use crate::error::Result;
use crate::failure;
use crate::outcome::{ColumnMeta, Rows};
use crate::statement::params::literal;
use crate::statement::{Hints, Storage};
use crate::variables::Variables;
use damask_txn::{Client, Transaction};
use damask_types::{ColumnSchema, ColumnType, Datum, TableSchema};
use sqlparser::ast::{
    Expr, GroupByExpr, LimitClause, ObjectName, Query, Select, SelectItem, SetExpr, TableFactor,
};
use std::sync::Arc;

/// Rows that this path returns at most: larger results come from the query engine, in parts.
const ROWS_MAX: usize = 2_000;

/// A SELECT that this path can serve.
pub struct PointSelect<'a> {
    table: Arc<TableSchema>,
    name: String,
    columns: Vec<(usize, String)>,
    selection: &'a Expr,
    limit: usize,
    offset: usize,
    for_update: bool,
    offset_us: i64,
}

/// A column of a table as a client sees it.
pub fn column_meta(
    table: &TableSchema,
    column: &ColumnSchema,
    alias: &str,
    table_alias: &str,
) -> ColumnMeta {
    let primary = table.indexes.iter().find(|i| i.primary);
    let in_primary = primary.is_some_and(|i| i.columns.contains(&column.id));
    let unique = |i: &damask_types::IndexSchema| i.unique && !i.primary && i.columns == [column.id];
    ColumnMeta {
        name: alias.to_owned(),
        database: table.database.clone(),
        table: table_alias.to_owned(),
        org_table: table.name.clone(),
        org_name: column.name.clone(),
        ty: Some(column.ty.clone()),
        nullable: column.nullable,
        primary_key: in_primary || table.handle_column == Some(column.id),
        unique_key: table.indexes.iter().any(unique),
        auto_increment: column.auto_increment,
    }
}

/// The only table of a FROM without anything special about it: name parts and alias.
fn plain_table(select: &Select) -> Option<(&ObjectName, Option<&str>)> {
    let [from] = select.from.as_slice() else { return None };
    if !from.joins.is_empty() {
        return None;
    }
    match &from.relation {
        TableFactor::Table {
            name,
            alias,
            args: None,
            version: None,
            partitions,
            sample: None,
            ..
        } if partitions.is_empty() => {
            let alias = match alias {
                Some(alias) if !alias.columns.is_empty() => return None,
                Some(alias) => Some(alias.name.value.as_str()),
                None => None,
            };
            Some((name, alias))
        }
        _ => None,
    }
}

fn is_plain(select: &Select) -> bool {
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(e, m) if e.is_empty() && m.is_empty());
    ungrouped
        && select.distinct.is_none()
        && select.top.is_none()
        && select.into.is_none()
        && select.having.is_none()
        && select.named_window.is_empty()
        && select.qualify.is_none()
        && select.prewhere.is_none()
        && select.connect_by.is_empty()
        && select.lateral_views.is_empty()
}

fn count(expr: &Expr) -> Option<usize> {
    match literal(expr)? {
        Datum::Int(v) => usize::try_from(v).ok(),
        Datum::UInt(v) => usize::try_from(v).ok(),
        _ => None,
    }
}

/// `(limit, offset)`.
fn limits(clause: Option<&LimitClause>) -> Option<(usize, usize)> {
    match clause {
        None => Some((usize::MAX, 0)),
        Some(LimitClause::LimitOffset { limit, offset, limit_by }) if limit_by.is_empty() => {
            let limit = limit.as_ref().map_or(Some(usize::MAX), count)?;
            let offset = offset.as_ref().map_or(Some(0), |o| count(&o.value))?;
            Some((limit, offset))
        }
        Some(LimitClause::OffsetCommaLimit { offset, limit }) => {
            Some((count(limit)?, count(offset)?))
        }
        Some(_) => None,
    }
}

impl<'a> PointSelect<'a> {
    /// Recognises one.
    pub fn of(
        query: &'a Query,
        view: &CatalogView,
        database: Option<&str>,
        variables: &Variables,
        hints: &Hints,
    ) -> Option<PointSelect<'a>> {
        if query.with.is_some() || query.order_by.is_some() || query.fetch.is_some() {
            return None;
        }
        let SetExpr::Select(select) = query.body.as_ref() else { return None };
        let selection = select.selection.as_ref()?;
        if !is_plain(select) || !variables.read_engines().row {
            return None;
        }
        let (name, alias) = plain_table(select)?;
        let name = crate::statement::object_name(name)?;
        let table = view.table(name.database.as_deref().or(database)?, &name.table)?;
        let alias = alias.unwrap_or(&table.name).to_owned();
        if hints.storage_of(&alias) == Some(Storage::Column) {
            return None;
        }
        let (limit, offset) = limits(query.limit_clause.as_ref())?;
        let offset_us = variables.time_zone_offset_us();
        let named = Named { table: &table, name: &alias, offset_us };
        let columns = columns_of(named, &select.projection)?;
        find(named, Some(selection))?;
        Some(PointSelect {
            columns,
            selection,
            limit,
            offset,
            for_update: !query.locks.is_empty(),
            offset_us,
            name: alias,
            table,
        })
    }

    /// The result's columns.
    pub fn metadata(&self) -> Vec<ColumnMeta> {
        let meta = |(at, alias): &(usize, String)| {
            column_meta(&self.table, &self.table.columns[*at], alias, &self.name)
        };
        self.columns.iter().map(meta).collect()
    }

    /// FOR UPDATE or FOR SHARE.
    pub fn locks(&self) -> bool {
        self.for_update
    }

    /// Runs it at the latest state: one row by handle needs no timestamp.
    pub fn latest(&self, client: &Client) -> Result<Option<Rows>> {
        let access = self.access();
        if let Path::Handles(handles) = &access.path
            && let [handle] = handles.as_slice()
        {
            let key = row::key(&self.table, *handle);
            let stored = failure::catalog(client.get_latest(&key))?;
            let stored = stored.map(|bytes| (*handle, bytes)).into_iter().collect();
            return self.rows(&access, stored);
        }
        let snapshot = client.snapshot(failure::catalog(client.timestamp())?);
        self.run(&access, &snapshot)
    }

    /// Runs it in a transaction; FOR UPDATE makes the commit fail if the rows change meanwhile.
    pub fn in_transaction(&self, txn: &mut Transaction) -> Result<Option<Rows>> {
        let access = self.access();
        let Some(stored) = read(&self.table, &access.path, &*txn, ROWS_MAX)? else {
            return Ok(None);
        };
        if self.for_update {
            for (handle, _) in &stored {
                failure::catalog(txn.lock(row::key(&self.table, *handle)))?;
            }
        }
        self.rows(&access, stored)
    }

    fn named(&self) -> Named<'_> {
        Named { table: &self.table, name: &self.name, offset_us: self.offset_us }
    }

    fn access(&self) -> Access<'a> {
        find(self.named(), Some(self.selection)).expect("it was found when recognised")
    }

    fn run(&self, access: &Access<'_>, reads: &dyn Reads) -> Result<Option<Rows>> {
        match read(&self.table, &access.path, reads, ROWS_MAX)? {
            Some(stored) => self.rows(access, stored),
            None => Ok(None),
        }
    }

    fn rows(&self, access: &Access<'_>, stored: Vec<(i64, Vec<u8>)>) -> Result<Option<Rows>> {
        let positions: Vec<_> = self.columns.iter().map(|(at, _)| *at).collect();
        let zoned: Vec<_> = positions
            .iter()
            .map(|at| matches!(self.table.columns[*at].ty, ColumnType::Timestamp { .. }))
            .collect();
        let mut rows = Vec::with_capacity(stored.len().min(self.limit));
        let mut skip = self.offset;
        for (handle, bytes) in stored {
            if rows.len() >= self.limit {
                break;
            }
            if !access.rest.is_empty() {
                let values = row::decode(&self.table, handle, &bytes)?;
                match fulfils(&access.rest, &RowOf { named: self.named(), values: &values }) {
                    Some(true) => {}
                    Some(false) => continue,
                    None => return Ok(None),
                }
            }
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let mut values = row::decode_some(&self.table, handle, &bytes, &positions)?;
            if self.offset_us != 0 {
                values.iter_mut().zip(&zoned).for_each(|(v, zoned)| {
                    if let (Datum::DateTime(us), true) = (v, zoned) {
                        *us += self.offset_us;
                    }
                });
            }
            rows.push(values);
        }
        Ok(Some(Rows::of(self.metadata(), rows)))
    }
}

/// Positions and names of plain columns and `*`; `None` if there is anything else.
fn columns_of(named: Named<'_>, items: &[SelectItem]) -> Option<Vec<(usize, String)>> {
    let mut columns = Vec::new();
    let all = |columns: &mut Vec<(usize, String)>| {
        let named = named.table.columns.iter().enumerate();
        columns.extend(named.map(|(at, c)| (at, c.name.clone())));
    };
    for item in items {
        let (expr, alias) = match item {
            SelectItem::UnnamedExpr(expr) => (expr, None),
            SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias.value.as_str())),
            SelectItem::Wildcard(_) => {
                all(&mut columns);
                continue;
            }
            SelectItem::QualifiedWildcard(
                sqlparser::ast::SelectItemQualifiedWildcardKind::ObjectName(name),
                _,
            ) => {
                let name = crate::statement::object_name(name)?;
                if !name.table.eq_ignore_ascii_case(named.name) {
                    return None;
                }
                all(&mut columns);
                continue;
            }
            _ => return None,
        };
        let column = named.column(expr)?;
        let at = named.table.position(column.id)?;
        let (_, written) = super::eval::column_ref(expr)?;
        columns.push((at, alias.unwrap_or(written).to_owned()));
    }
    Some(columns)
}
