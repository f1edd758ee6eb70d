//! What result columns are called, where they come from, and which MySQL type they have. Names
//! come from the query as written, origins and types from the plan as made. It must never guess an
//! origin: what passes through an expression has none.

use super::functions::{DATETIME, TIME};
use super::table::CatalogTable;
use super::types;
use crate::outcome::ColumnMeta;
use arrow::datatypes::DataType;
use damask_types::schema::IntWidth;
use damask_types::{ColumnSchema, ColumnType, TableSchema};
use datafusion::common::Column;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, LogicalPlan};
use sqlparser::ast;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What the query as written calls its columns.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Named(String),
    Wildcard,
}

/// The items of the (leftmost) SELECT.
pub(crate) fn items(query: &ast::Query) -> Vec<Item> {
    let mut body = &*query.body;
    loop {
        match body {
            ast::SetExpr::SetOperation { left, .. } => body = left,
            ast::SetExpr::Query(query) => body = &query.body,
            ast::SetExpr::Select(select) => return select.projection.iter().map(item).collect(),
            _ => return Vec::new(),
        }
    }
}

fn item(item: &ast::SelectItem) -> Item {
    match item {
        ast::SelectItem::ExprWithAlias { alias, .. } => Item::Named(alias.value.clone()),
        ast::SelectItem::UnnamedExpr(expr) => Item::Named(match expr {
            ast::Expr::Identifier(ident) => ident.value.clone(),
            ast::Expr::CompoundIdentifier(idents) if !idents[0].value.starts_with('@') => {
                idents.last().map(|i| i.value.clone()).unwrap_or_default()
            }
            ast::Expr::Value(value) => match value.value.clone().into_string() {
                Some(text) => text,
                None => value.to_string(),
            },
            other => other.to_string(),
        }),
        _ => Item::Wildcard,
    }
}

/// Gives equal names of the outermost SELECT aliases of their own: MySQL allows them, DataFusion
/// does not. Names shown come from [`items`], taken before.
pub(crate) fn separate(query: &mut ast::Query) {
    let ast::SetExpr::Select(select) = &mut *query.body else { return };
    let mut seen: Vec<String> = Vec::new();
    for (i, item) in select.projection.iter_mut().enumerate() {
        let name = match item {
            ast::SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
            ast::SelectItem::UnnamedExpr(expr) => expr.to_string(),
            _ => continue,
        };
        if !seen.contains(&name) {
            seen.push(name);
            continue;
        }
        let alias = ast::Ident::with_quote('`', format!("__{i}_{name}"));
        match item {
            ast::SelectItem::ExprWithAlias { alias: own, .. } => *own = alias,
            ast::SelectItem::UnnamedExpr(expr) => {
                let expr = expr.clone();
                *item = ast::SelectItem::ExprWithAlias { expr, alias };
            }
            _ => {}
        }
    }
}

/// Gives aliases to the columns that stand beside a `*` of the select list, whose columns may be
/// the same ones, unless an ORDER BY names them by an alias; false: there are none.
pub(crate) fn beside_wildcards(query: &mut ast::Query) -> bool {
    let mut named = Vec::new();
    if let Some(ast::OrderByKind::Expressions(list)) = query.order_by.as_ref().map(|o| &o.kind) {
        let _: ControlFlow<()> = ast::visit_expressions(list, |expr| {
            if let ast::Expr::Identifier(ident) = expr {
                named.push(ident.value.to_lowercase());
            }
            ControlFlow::Continue(())
        });
    }
    set_apart(&mut query.body, &named)
}

fn set_apart(body: &mut ast::SetExpr, named: &[String]) -> bool {
    let select = match body {
        ast::SetExpr::Select(select) => select,
        ast::SetExpr::Query(query) => return set_apart(&mut query.body, named),
        ast::SetExpr::SetOperation { left, right, .. } => {
            let left = set_apart(left, named);
            return set_apart(right, named) || left;
        }
        _ => return false,
    };
    if !select.projection.iter().any(|i| matches!(item(i), Item::Wildcard)) {
        return false;
    }
    let mut found = false;
    for (i, item) in select.projection.iter_mut().enumerate() {
        let (expr, alias) = match &*item {
            ast::SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias)),
            ast::SelectItem::UnnamedExpr(expr) => (expr, None),
            _ => continue,
        };
        let column = match expr {
            ast::Expr::Identifier(ident) => Some(ident),
            ast::Expr::CompoundIdentifier(idents) => idents.last(),
            _ => None,
        };
        // What is calculated and has no alias is no column's name.
        let Some(name) = alias.or(column).map(|ident| ident.value.to_lowercase()) else { continue };
        let column = column.map(|ident| ident.value.to_lowercase());
        if column.as_ref() != Some(&name) && named.contains(&name) {
            continue;
        }
        let alias = ast::Ident::with_quote('`', format!("__{i}_{name}"));
        *item = ast::SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        found = true;
    }
    found
}

/// A column of a catalog table, and the name that its table has in the query.
struct Origin {
    table: Arc<TableSchema>,
    alias: String,
    at: usize,
}

impl Origin {
    fn column(&self) -> Option<&ColumnSchema> {
        self.table.columns.get(self.at)
    }
}

fn position(plan: &LogicalPlan, column: &Column) -> Option<usize> {
    plan.schema().index_of_column(column).ok()
}

pub(super) fn input_position(plan: &LogicalPlan, at: usize) -> Option<(&LogicalPlan, usize)> {
    match plan {
        LogicalPlan::Projection(p) => through(&p.expr[at], &p.input),
        LogicalPlan::Filter(f) => Some((&f.input, at)),
        LogicalPlan::Sort(s) => Some((&s.input, at)),
        LogicalPlan::Limit(l) => Some((&l.input, at)),
        LogicalPlan::Distinct(d) => Some((d.input(), at)),
        LogicalPlan::Repartition(r) => Some((&r.input, at)),
        LogicalPlan::Window(w) => (at < w.input.schema().fields().len()).then_some((&*w.input, at)),
        LogicalPlan::Aggregate(a) => through(a.group_expr.get(at)?, &a.input),
        LogicalPlan::Join(j) => {
            let left = j.left.schema().fields().len();
            match at < left {
                true => Some((&*j.left, at)),
                false => Some((&*j.right, at - left)),
            }
        }
        LogicalPlan::SubqueryAlias(s) => Some((&s.input, at)),
        _ => None,
    }
}

fn through<'a>(expr: &Expr, input: &'a LogicalPlan) -> Option<(&'a LogicalPlan, usize)> {
    match expr {
        Expr::Alias(alias) => through(&alias.expr, input),
        Expr::Column(column) => Some((input, position(input, column)?)),
        _ => None,
    }
}

fn origin(plan: &LogicalPlan, at: usize) -> Option<Origin> {
    if let LogicalPlan::TableScan(scan) = plan {
        let provider = source_as_provider(&scan.source).ok()?;
        let table = provider.downcast_ref::<CatalogTable>()?;
        let at = scan.projection.as_ref().map_or(Some(at), |p| p.get(at).copied())?;
        return Some(Origin { table: table.table.clone(), alias: table.table.name.clone(), at });
    }
    let (input, at) = input_position(plan, at)?;
    let mut found = origin(input, at)?;
    if let LogicalPlan::SubqueryAlias(alias) = plan
        && !alias.alias.table().eq_ignore_ascii_case(&found.alias)
    {
        found.alias = alias.alias.table().to_owned();
    }
    Some(found)
}

/// The MySQL type of an Arrow type.
pub(crate) fn mysql_type(ty: &DataType) -> Option<ColumnType> {
    use DataType as D;
    let big = |unsigned| Some(ColumnType::Int { width: IntWidth::Big, unsigned });
    match ty {
        D::Null => None,
        D::UInt8 | D::UInt16 | D::UInt32 | D::UInt64 => big(true),
        D::Boolean | D::Int8 | D::Int16 | D::Int32 | D::Int64 => big(false),
        D::Float16 | D::Float32 | D::Float64 => Some(ColumnType::Double),
        D::Decimal128(p, s) => Some(ColumnType::Decimal { precision: *p, scale: *s as u8 }),
        D::Date32 | D::Date64 => Some(ColumnType::Date),
        ty if *ty == DATETIME => Some(ColumnType::DateTime { fsp: 0 }),
        ty if *ty == TIME => Some(ColumnType::Time { fsp: 0 }),
        D::Timestamp(..) => Some(ColumnType::DateTime { fsp: 6 }),
        D::Binary | D::LargeBinary | D::BinaryView => Some(ColumnType::VarBinary { len: 65_535 }),
        _ => Some(ColumnType::VarChar { len: 16_383 }),
    }
}

/// Does the catalog's type look in Arrow as the plan's column does?
fn agrees(ty: &ColumnType, arrow: &DataType) -> bool {
    damask_coprocessor::arrow_type(ty) == *arrow
}

/// The columns of a plan's result; `items` as the query calls them.
/// `written` has what columns are called in derived tables, by their names in lower case.
pub(crate) fn columns(
    plan: &LogicalPlan,
    items: &[Item],
    written: &HashMap<String, String>,
) -> Vec<ColumnMeta> {
    let fields = plan.schema().fields();
    let names = names(fields.len(), items);
    let column = |(at, field): (usize, &Arc<arrow::datatypes::Field>)| {
        let origin = origin(plan, at);
        let arrow = field.data_type();
        let known = types::of_column(plan, at).filter(|ty| agrees(ty, arrow));
        let ty = known.or_else(|| mysql_type(arrow));
        let mut meta = ColumnMeta::expression("", ColumnType::Double);
        meta.ty = ty;
        meta.nullable = field.is_nullable();
        meta.name = written.get(field.name()).unwrap_or_else(|| field.name()).clone();
        if let Some(found) = &origin
            && let Some(column) = found.column()
        {
            let table = &found.table;
            let keys = || table.indexes.iter().filter(|i| i.columns.contains(&column.id));
            meta.name.clone_from(&column.name);
            meta.database.clone_from(&table.database);
            meta.table.clone_from(&found.alias);
            meta.org_table.clone_from(&table.name);
            meta.org_name.clone_from(&column.name);
            meta.primary_key = table.handle_column == Some(column.id) || keys().any(|i| i.primary);
            meta.unique_key = keys().any(|i| i.unique && !i.primary && i.columns.len() == 1);
            meta.auto_increment = column.auto_increment;
        }
        if let Some(Some(name)) = names.get(at) {
            meta.name.clone_from(name);
        }
        meta
    };
    fields.iter().enumerate().map(column).collect()
}

/// The name of each column where the query names it: before the first and after the last wildcard.
fn names(count: usize, items: &[Item]) -> Vec<Option<String>> {
    let mut names = vec![None; count];
    for (i, item) in items.iter().enumerate().take(count) {
        match item {
            Item::Named(name) => names[i] = Some(name.clone()),
            Item::Wildcard => break,
        }
    }
    for (i, item) in items.iter().rev().enumerate().take(count) {
        match item {
            Item::Named(name) => names[count - 1 - i] = Some(name.clone()),
            Item::Wildcard => break,
        }
    }
    names
}
