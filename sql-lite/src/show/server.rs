//! SHOW of the session and the server: variables, warnings, character sets, connections. It must
//! never claim an ability that is not there.

use super::Context;
use super::result::{Answer, Columns, Kind, count, int, optional, text, yes};
use crate::outcome::ColumnMeta;
use crate::session::Level;
use crate::variables::{CHARSETS, COLLATIONS};
use damask_types::Datum;

use Kind::{Count, Int, Name, Text};

/// The authentication plugins that the protocol offers.
const AUTHENTICATION: [&str; 2] = ["mysql_native_password", "caching_sha2_password"];

/// Characters of a statement that SHOW PROCESSLIST without FULL shows.
const INFO_CHARS_MAX: usize = 100;

const VARIABLES: Columns = &[("Variable_name", Name), ("Value", Text)];

/// SHOW VARIABLES.
pub(super) fn variables(ctx: &Context<'_>, global: bool) -> Answer {
    Answer::new(VARIABLES, variable_rows(ctx, global))
}

/// Name and value of every variable.
pub(crate) fn variable_rows(ctx: &Context<'_>, global: bool) -> Vec<Vec<Datum>> {
    let all = ctx.variables.all(global);
    all.into_iter().map(|(name, value)| vec![text(name), text(value)]).collect()
}

/// SHOW STATUS.
pub(super) fn status(ctx: &Context<'_>) -> Answer {
    Answer::new(VARIABLES, status_rows(ctx))
}

/// Name and value of every status variable.
pub(crate) fn status_rows(ctx: &Context<'_>) -> Vec<Vec<Datum>> {
    let running = ctx.processes.iter().filter(|p| p.command != "Sleep").count();
    let rows = [
        ("Compression", "OFF".to_owned()),
        ("Damask_schema_version", ctx.view.version.to_string()),
        ("Ssl_cipher", String::new()),
        ("Ssl_cipher_list", String::new()),
        ("Ssl_version", String::new()),
        ("Threads_connected", ctx.processes.len().to_string()),
        ("Threads_running", running.to_string()),
    ];
    rows.into_iter().map(|(name, value)| vec![text(name), text(value)]).collect()
}

const WARNINGS: Columns = &[("Level", Name), ("Code", Int), ("Message", Text)];

/// SHOW WARNINGS, SHOW ERRORS; `limit` is offset and count.
pub(super) fn warnings(ctx: &Context<'_>, errors: bool, limit: Option<(u64, u64)>) -> Answer {
    let (skip, take) = limit.unwrap_or((0, u64::MAX));
    let bounded = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let shown = ctx.warnings.kept().iter().filter(|w| !errors || w.level == Level::Error);
    let shown = shown.skip(bounded(skip)).take(bounded(take));
    let rows = shown.map(|w| vec![text(w.level.name()), int(w.code.into()), text(&w.message)]);
    Answer::new(WARNINGS, rows.collect())
}

/// SHOW COUNT(*) WARNINGS, SHOW COUNT(*) ERRORS.
pub(super) fn warning_count(ctx: &Context<'_>, errors: bool) -> Answer {
    let kept = ctx.warnings.kept().iter().filter(|w| w.level == Level::Error).count();
    let (name, number) = match errors {
        true => ("@@session.error_count", kept as u64),
        false => ("@@session.warning_count", ctx.warnings.count()),
    };
    let columns = vec![ColumnMeta::expression(name, Count.ty())];
    Answer { columns, rows: vec![vec![count(number)]] }
}

const ENGINES: Columns = &[
    ("Engine", Name),
    ("Support", Name),
    ("Comment", Text),
    ("Transactions", Name),
    ("XA", Name),
    ("Savepoints", Name),
];

/// SHOW ENGINES.
pub(super) fn engines() -> Answer {
    Answer::new(ENGINES, engine_rows())
}

/// The one engine, under the name clients ask for.
pub(crate) fn engine_rows() -> Vec<Vec<Datum>> {
    let comment = "Rows replicated by Raft, with column replicas";
    let row = ["InnoDB", "DEFAULT", comment, "YES", "NO", "YES"];
    vec![row.into_iter().map(text).collect()]
}

const CHARSET: Columns =
    &[("Charset", Name), ("Description", Text), ("Default collation", Name), ("Maxlen", Int)];

/// SHOW CHARACTER SET.
pub(super) fn charsets() -> Answer {
    let rows = CHARSETS
        .iter()
        .map(|c| vec![text(c.name), text(c.description), text(c.collation), int(c.bytes_max)]);
    Answer::new(CHARSET, rows.collect())
}

const COLLATION: Columns = &[
    ("Collation", Name),
    ("Charset", Name),
    ("Id", Count),
    ("Default", Name),
    ("Compiled", Name),
    ("Sortlen", Int),
    ("Pad_attribute", Name),
];

/// SHOW COLLATION.
pub(super) fn collations() -> Answer {
    Answer::new(COLLATION, collation_rows())
}

/// All collations. They compare by bytes, so that nothing is padded.
pub(crate) fn collation_rows() -> Vec<Vec<Datum>> {
    let row = |(name, charset, id, default): &(&str, &str, i64, bool)| {
        vec![
            text(*name),
            text(*charset),
            count(id.unsigned_abs()),
            text(if *default { "Yes" } else { "" }),
            text("Yes"),
            int(1),
            text("NO PAD"),
        ]
    };
    COLLATIONS.iter().map(row).collect()
}

const PLUGINS: Columns =
    &[("Name", Name), ("Status", Name), ("Type", Name), ("Library", Name), ("License", Name)];

/// SHOW PLUGINS.
pub(super) fn plugins() -> Answer {
    let row = |name: &str, kind: &str| {
        vec![text(name), text("ACTIVE"), text(kind), Datum::Null, text("Apache-2.0")]
    };
    let mut rows: Vec<_> = AUTHENTICATION.iter().map(|p| row(p, "AUTHENTICATION")).collect();
    rows.push(row("InnoDB", "STORAGE ENGINE"));
    Answer::new(PLUGINS, rows)
}

const PRIVILEGES: Columns = &[("Privilege", Name), ("Context", Name), ("Comment", Text)];

/// SHOW PRIVILEGES.
pub(super) fn privileges() -> Answer {
    let rows = [
        ("Alter", "Tables", "To alter the table"),
        ("Create", "Databases,Tables,Indexes", "To create new databases and tables"),
        ("Delete", "Tables", "To delete existing rows"),
        ("Drop", "Databases,Tables", "To drop databases and tables"),
        ("Index", "Tables", "To create or drop indexes"),
        ("Insert", "Tables", "To insert data into tables"),
        ("Select", "Tables", "To retrieve rows from table"),
        ("Update", "Tables", "To update existing rows"),
        ("Usage", "Server Admin", "No privileges - allow connect only"),
    ];
    let rows = rows.into_iter().map(|(a, b, c)| vec![text(a), text(b), text(c)]);
    Answer::new(PRIVILEGES, rows.collect())
}

const PROCESSES: Columns = &[
    ("Id", Count),
    ("User", Name),
    ("Host", Name),
    ("db", Name),
    ("Command", Name),
    ("Time", Int),
    ("State", Name),
    ("Info", Text),
];

/// SHOW PROCESSLIST.
pub(super) fn processlist(ctx: &Context<'_>, full: bool) -> Answer {
    Answer::new(PROCESSES, process_rows(ctx, full))
}

/// All connections by id.
pub(crate) fn process_rows(ctx: &Context<'_>, full: bool) -> Vec<Vec<Datum>> {
    let mut processes: Vec<_> = ctx.processes.iter().collect();
    processes.sort_by_key(|p| p.id);
    let info = |text: &String| match full {
        true => text.clone(),
        false => text.chars().take(INFO_CHARS_MAX).collect(),
    };
    let row = |p: &super::Process| {
        vec![
            count(p.id),
            text(&p.user),
            text(&p.host),
            optional(p.database.clone()),
            text(&p.command),
            int(i64::try_from(p.seconds).unwrap_or(i64::MAX)),
            text(&p.state),
            optional(p.info.as_ref().map(info)),
        ]
    };
    processes.into_iter().map(row).collect()
}

/// SHOW GRANTS: whoever was let in may do everything.
pub(super) fn grants(ctx: &Context<'_>) -> Answer {
    let user = ctx.facts.user.replace('`', "``");
    let title = format!("Grants for {}@%", ctx.facts.user);
    let grant = format!("GRANT ALL PRIVILEGES ON *.* TO `{user}`@`%` WITH GRANT OPTION");
    let columns = vec![ColumnMeta::expression(title, Text.ty())];
    Answer { columns, rows: vec![vec![text(grant)]] }
}

/// Character sets as the system table has them.
pub(crate) fn charset_rows() -> Vec<Vec<Datum>> {
    let row = |c: &crate::variables::Charset| {
        vec![text(c.name), text(c.collation), text(c.description), int(c.bytes_max)]
    };
    CHARSETS.iter().map(row).collect()
}

/// Which collation belongs to which character set.
pub(crate) fn applicability_rows() -> Vec<Vec<Datum>> {
    COLLATIONS.iter().map(|c| vec![text(c.0), text(c.1)]).collect()
}

/// What the current user may do.
pub(crate) fn user_privilege_rows(ctx: &Context<'_>) -> Vec<Vec<Datum>> {
    let grantee = format!("'{}'@'%'", ctx.facts.user);
    let names =
        ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "INDEX", "ALTER", "PROCESS"];
    let row = |name| vec![text(&grantee), text("def"), text(name), yes(true)];
    names.into_iter().map(row).collect()
}
