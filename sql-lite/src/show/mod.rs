//! SHOW and DESCRIBE. It must never show a table's rows: those are queries.

pub mod describe;
pub mod filter;

use crate::convert;
use crate::dml::find_table;
use crate::error::{Error, Result};
use crate::information_schema::{Information, text_column, number_column};
use crate::outcome::{ColumnMeta, Rows};
use crate::session::{Level, Warnings};
use crate::statement::show::What;
use crate::statement::{Show, TableName};
use crate::variables::{COLLATIONS, CHARSETS};
use damask_types::{Datum, TableSchema};
use std::sync::Arc;

/// Characters of a statement in SHOW PROCESSLIST without FULL.
const INFO_MAX: usize = 100;

/// What SHOW looks at.
pub struct Context<'a> {
    /// Catalog, server and variables.
    pub information: Information<'a>,
    /// The current database.
    pub database: Option<&'a str>,
    /// Of the statement before.
    pub warnings: &'a Warnings,
    /// `user@host`.
    pub user: String,
}

fn t(text: impl Into<String>) -> Datum {
    Datum::Text(text.into())
}

fn optional(text: Option<String>) -> Datum {
    text.map_or(Datum::Null, Datum::Text)
}

fn texts(names: &[&str]) -> Vec<ColumnMeta> {
    names.iter().map(|name| text_column(name)).collect()
}

/// Runs a SHOW.
pub fn run(context: &Context<'_>, show: &Show) -> Result<Rows> {
    let (columns, mut rows) = table_of(context, &show.what)?;
    filter::apply(show.filter.as_ref(), &columns, &mut rows)?;
    Ok(Rows::of(columns, rows))
}

type Table = (Vec<ColumnMeta>, Vec<Vec<Datum>>);

fn table_of(context: &Context<'_>, what: &What) -> Result<Table> {
    let information = &context.information;
    Ok(match what {
        What::Databases => {
            let rows = information.databases().into_iter().map(|d| vec![t(d)]).collect();
            (texts(&["Database"]), rows)
        }
        What::Tables { full, database } => tables(context, *full, database.as_deref())?,
        What::TableStatus { database } => table_status(context, database.as_deref())?,
        What::Columns { full, table } => columns(context, *full, table)?,
        What::Index(table) => index(&*find(context, table)?),
        What::CreateTable(name) => create_table(context, name)?,
        What::CreateDatabase { name, if_not_exists } => {
            create_database(context, name, *if_not_exists)?
        }
        What::CreateView(name) => {
            let table = find(context, name)?;
            let message = format!("'{}.{}' is not VIEW", table.database, table.name);
            return Err(Error { code: 1347, state: "HY000", message });
        }
        What::Variables { global } => {
            let all = information.variables.all(*global).into_iter();
            let rows = all.map(|(name, value)| vec![t(name), t(value)]).collect();
            (texts(&["Variable_name", "Value"]), rows)
        }
        What::Status => {
            let all = information.status().into_iter();
            let rows = all.map(|(name, value)| vec![t(name), t(value)]).collect();
            (texts(&["Variable_name", "Value"]), rows)
        }
        What::Warnings { errors, limit } => warnings(context.warnings, *errors, *limit),
        What::WarningCount { errors } => {
            let name = if *errors { "@@session.error_count" } else { "@@session.warning_count" };
            let count = match errors {
                true => {
                    let kept = context.warnings.kept().iter();
                    kept.filter(|w| w.level == Level::Error).count() as u64
                }
                false => context.warnings.count(),
            };
            (vec![number_column(name)], vec![vec![Datum::Int(count as i64)]])
        }
        What::Engines => information.shown("engines"),
        What::Charsets => charsets(),
        What::Collations => collations(),
        What::Plugins => (texts(&["Name", "Status", "Type", "Library", "License"]), Vec::new()),
        What::Privileges => (texts(&["Privilege", "Context", "Comment"]), Vec::new()),
        What::Processlist { full } => processlist(context, *full),
        What::Grants => {
            let column = text_column(&format!("Grants for {}", context.user));
            let user = context.user.replacen('@', "'@'", 1);
            let grant = format!("GRANT ALL PRIVILEGES ON *.* TO '{user}' WITH GRANT OPTION");
            (vec![column], vec![vec![t(grant)]])
        }
        What::Nothing(names) => (texts(names), Vec::new()),
    })
}

/// A table to describe; a missing database or table is 1146, which clients probe for.
fn find(context: &Context<'_>, name: &TableName) -> Result<Arc<TableSchema>> {
    let view = &context.information.view;
    let database = name.database.as_deref().or(context.database);
    if let Some(table) =
        database.and_then(|d| context.information.described(d, &name.table))
    {
        return Ok(Arc::new(table));
    }
    find_table(view, context.database, name).map_err(|error| match (error.code, database) {
        (1044 | 1049, Some(database)) => {
            Error::no_such_table(format!("Table '{database}.{}' doesn't exist", name.table))
        }
        _ => error,
    })
}

fn database_of(context: &Context<'_>, database: Option<&str>) -> Result<String> {
    let Some(database) = database.or(context.database) else {
        return Err(Error::no_database("No database selected"));
    };
    if !context.information.view.has_database(database) {
        return Err(Error::unknown_database(format!("Unknown database '{database}'")));
    }
    Ok(database.to_owned())
}

fn tables(context: &Context<'_>, full: bool, database: Option<&str>) -> Result<Table> {
    let database = database_of(context, database)?;
    let mut columns = texts(&[&format!("Tables_in_{database}")]);
    if full {
        columns.push(text_column("Table_type"));
    }
    let rows = context.information.tables_in(&database).into_iter().map(|(name, kind)| {
        let mut row = vec![t(name)];
        if full {
            row.push(t(kind));
        }
        row
    });
    Ok((columns, rows.collect()))
}

fn table_status(context: &Context<'_>, database: Option<&str>) -> Result<Table> {
    let database = database_of(context, database)?;
    let names = [
        "Name", "Engine", "Version", "Row_format", "Rows", "Avg_row_length", "Data_length",
        "Max_data_length", "Index_length", "Data_free", "Auto_increment", "Create_time",
        "Update_time", "Check_time", "Collation", "Checksum", "Create_options", "Comment",
    ];
    let rows = context.information.view.tables_of(&database).map(|table| {
        let n = |v: i64| Datum::Int(v);
        vec![
            t(&table.name), t("InnoDB"), n(10), t("Compact"), Datum::Null, n(0), n(0), n(0), n(0),
            n(0), Datum::Null, Datum::Null, Datum::Null, Datum::Null, t("utf8mb4_bin"),
            Datum::Null, t(""), t(&table.comment),
        ]
    });
    Ok((texts(&names), rows.collect()))
}

fn columns(context: &Context<'_>, full: bool, name: &TableName) -> Result<Table> {
    let table = find(context, name)?;
    let names: &[&str] = if full {
        &["Field", "Type", "Collation", "Null", "Key", "Default", "Extra", "Privileges", "Comment"]
    } else {
        &["Field", "Type", "Null", "Key", "Default", "Extra"]
    };
    let rows = table.columns.iter().map(|column| {
        let null = t(if column.nullable { "YES" } else { "NO" });
        let key = t(describe::key(&table, column));
        let default = optional(describe::default_text(column));
        let extra = t(describe::extra(column));
        let (name, ty) = (t(&column.name), t(describe::column_type(&column.ty)));
        if !full {
            return vec![name, ty, null, key, default, extra];
        }
        let collation = optional(column.ty.is_text().then(|| "utf8mb4_bin".to_owned()));
        let privileges = t("select,insert,update,references");
        vec![name, ty, collation, null, key, default, extra, privileges, t(&column.comment)]
    });
    Ok((texts(names), rows.collect()))
}

fn index(table: &TableSchema) -> Table {
    let names = [
        "Table", "Non_unique", "Key_name", "Seq_in_index", "Column_name", "Collation",
        "Cardinality", "Sub_part", "Packed", "Null", "Index_type", "Comment", "Index_comment",
        "Visible", "Expression",
    ];
    let mut columns = texts(&names);
    for at in [1, 3, 6, 7] {
        columns[at] = number_column(names[at]);
    }
    let mut rows = Vec::new();
    for (name, parts, unique) in describe::keys(table) {
        for (at, column) in parts.iter().enumerate() {
            rows.push(vec![
                t(&table.name), Datum::Int(i64::from(!unique)), t(&name),
                Datum::Int(at as i64 + 1), t(&column.name), t("A"), Datum::Int(0), Datum::Null,
                Datum::Null, t(if column.nullable { "YES" } else { "" }), t("BTREE"), t(""), t(""),
                t("YES"), Datum::Null,
            ]);
        }
    }
    (columns, rows)
}

fn create_table(context: &Context<'_>, name: &TableName) -> Result<Table> {
    let table = find(context, name)?;
    let next = context.information.next_auto_increment(table.id);
    let text = describe::create_table(&table, next);
    Ok((texts(&["Table", "Create Table"]), vec![vec![t(&table.name), t(text)]]))
}

fn create_database(context: &Context<'_>, name: &str, if_not_exists: bool) -> Result<Table> {
    let name = database_of(context, Some(name))?;
    let condition = if if_not_exists { "/*!32312 IF NOT EXISTS*/ " } else { "" };
    let text = format!(
        "CREATE DATABASE {condition}{} /*!40100 DEFAULT CHARACTER SET utf8mb4 */",
        describe::quoted(&name)
    );
    Ok((texts(&["Database", "Create Database"]), vec![vec![t(name), t(text)]]))
}

fn warnings(warnings: &Warnings, errors: bool, limit: Option<(u64, u64)>) -> Table {
    let (offset, count) = limit.unwrap_or((0, u64::MAX));
    let kept = warnings.kept().iter().filter(|w| !errors || w.level == Level::Error);
    let kept = kept.skip(offset as usize).take(usize::try_from(count).unwrap_or(usize::MAX));
    let rows = kept
        .map(|w| vec![t(w.level.name()), Datum::Int(i64::from(w.code)), t(&w.message)])
        .collect();
    (vec![text_column("Level"), number_column("Code"), text_column("Message")], rows)
}

fn charsets() -> Table {
    let mut columns = texts(&["Charset", "Description", "Default collation"]);
    columns.push(number_column("Maxlen"));
    let row = |c: &crate::variables::Charset| {
        vec![t(c.name), t(c.description), t(c.collation), Datum::Int(c.bytes_max)]
    };
    (columns, CHARSETS.iter().map(row).collect())
}

fn collations() -> Table {
    let mut columns = texts(&["Collation", "Charset"]);
    columns.push(number_column("Id"));
    columns.extend(texts(&["Default", "Compiled"]));
    columns.push(number_column("Sortlen"));
    columns.push(text_column("Pad_attribute"));
    let rows = COLLATIONS.iter().map(|(name, charset, id, default)| {
        let default = t(if *default { "Yes" } else { "" });
        vec![
            t(*name), t(*charset), Datum::Int(*id), default, t("Yes"), Datum::Int(1),
            t("PAD SPACE"),
        ]
    });
    (columns, rows.collect())
}

fn processlist(context: &Context<'_>, full: bool) -> Table {
    let (mut columns, mut rows) = context.information.processes();
    for column in &mut columns {
        let mut name = column.name.to_lowercase();
        name[..1].make_ascii_uppercase();
        column.name = match name.as_str() {
            "Db" => "db".to_owned(),
            _ => name,
        };
    }
    for row in rows.iter_mut().filter(|_| !full) {
        if let Some(info) = row.last_mut()
            && let Some(text) = convert::text(info, None)
        {
            *info = t(text.chars().take(INFO_MAX).collect::<String>());
        }
    }
    (columns, rows)
}
