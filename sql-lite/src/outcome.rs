//! What a statement gives back, and the seam between the protocol and the sessions behind it.
//! Nothing here knows packets or SQL text.

use crate::error::Result;
use arrow::array::RecordBatch;
use damask_types::{ColumnType, Datum};

/// How a result column looks to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnMeta {
    /// Display name (alias).
    pub name: String,
    /// Database of the origin, empty for an expression.
    pub database: String,
    /// Table (alias), empty for an expression.
    pub table: String,
    /// Table as named in the catalog.
    pub org_table: String,
    /// Column as named in the catalog.
    pub org_name: String,
    /// Its type; `None` = the NULL literal.
    pub ty: Option<ColumnType>,
    /// May be NULL.
    pub nullable: bool,
    /// Part of the primary key.
    pub primary_key: bool,
    /// Part of a unique key.
    pub unique_key: bool,
    /// AUTO_INCREMENT.
    pub auto_increment: bool,
}

impl ColumnMeta {
    /// A column without origin.
    pub fn expression(name: impl Into<String>, ty: ColumnType) -> ColumnMeta {
        ColumnMeta {
            name: name.into(),
            database: String::new(),
            table: String::new(),
            org_table: String::new(),
            org_name: String::new(),
            ty: Some(ty),
            nullable: true,
            primary_key: false,
            unique_key: false,
            auto_increment: false,
        }
    }
}

/// Some rows of a result.
#[derive(Clone, Debug)]
pub enum RowBatch {
    /// Row-wise: SHOW, point reads, catalog tables.
    Datums(Vec<Vec<Datum>>),
    /// Column-wise, in the order of the metadata; types as `damask_deltatree::types::arrow_type`
    /// gives for each column's `ty` (Utf8/LargeUtf8/Utf8View and narrower numbers are accepted too).
    Columns(RecordBatch),
}

/// Rows as they come.
pub trait RowSource: Send {
    /// The next batch; `None` at the end. Blocks.
    fn next(&mut self) -> Result<Option<RowBatch>>;
}

/// All rows at hand.
pub struct Ready(pub std::vec::IntoIter<RowBatch>);

impl RowSource for Ready {
    fn next(&mut self) -> Result<Option<RowBatch>> {
        Ok(self.0.next())
    }
}

/// A result set.
pub struct Rows {
    /// One for each column.
    pub columns: Vec<ColumnMeta>,
    /// The rows.
    pub source: Box<dyn RowSource>,
}

impl Rows {
    /// A result set of rows at hand.
    pub fn of(columns: Vec<ColumnMeta>, rows: Vec<Vec<Datum>>) -> Rows {
        let batches = if rows.is_empty() { vec![] } else { vec![RowBatch::Datums(rows)] };
        Rows { columns, source: Box::new(Ready(batches.into_iter())) }
    }
}

/// A file that the client is asked to send (LOAD DATA LOCAL INFILE).
pub trait LocalInfile: Send {
    /// As the statement names it.
    fn file_name(&self) -> &str;
    /// The next bytes of it. After an error no more are passed on.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// The file ended.
    fn finish(self: Box<Self>) -> Result<Done>;
}

/// What a statement without rows did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Changed (or found, with CLIENT_FOUND_ROWS) rows.
    pub affected_rows: u64,
    /// First AUTO_INCREMENT value generated, else 0.
    pub last_insert_id: u64,
    /// Human text, e.g. `Rows matched: 1  Changed: 1  Warnings: 0`.
    pub info: String,
}

/// What one statement gives back.
pub enum Outcome {
    /// No rows.
    Done(Done),
    /// Rows.
    Rows(Rows),
    /// Send me a file.
    LocalInfile(Box<dyn LocalInfile>),
}

/// A prepared statement.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Its number in this connection.
    pub id: u32,
    /// How many `?` it has.
    pub params: usize,
    /// Result columns, empty when it has none (or they are known only when run).
    pub columns: Vec<ColumnMeta>,
}

/// Who connects.
#[derive(Clone, Debug, Default)]
pub struct ConnectionInfo {
    /// Unique in this server; shown by CONNECTION_ID().
    pub id: u32,
    /// The user name given.
    pub user: String,
    /// The peer's address.
    pub host: String,
    /// The database asked for.
    pub database: Option<String>,
    /// CLIENT_FOUND_ROWS.
    pub found_rows: bool,
}

/// What a status packet says of the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// A transaction is open.
    pub in_transaction: bool,
    /// Statements commit by themselves.
    pub autocommit: bool,
    /// Warnings of the last statement.
    pub warnings: u16,
}

/// Receives the outcomes of a text that may hold several statements, in order. It consumes each
/// outcome (reads all its rows) before it returns; an error of a row source or the client's
/// connection stops the text. `status` is the session's after the statement; `more` = another follows.
pub trait Sink {
    /// One outcome.
    fn outcome(&mut self, outcome: Outcome, session: &mut dyn Session, more: bool) -> Result<()>;
}

/// One client's session, used by one thread at a time.
pub trait Session: Send {
    /// Runs a text of one or more statements; the first error ends it.
    fn query(&mut self, sql: &str, sink: &mut dyn Sink) -> Result<()>;
    /// Prepares one statement.
    fn prepare(&mut self, sql: &str) -> Result<Prepared>;
    /// Runs a prepared statement.
    fn execute(&mut self, id: u32, params: Vec<Datum>) -> Result<Outcome>;
    /// Forgets a prepared statement; unknown is fine.
    fn close_statement(&mut self, id: u32);
    /// USE.
    fn use_database(&mut self, name: &str) -> Result<()>;
    /// COM_RESET_CONNECTION: rolls back, drops prepared statements, resets variables.
    fn reset(&mut self);
    /// COM_FIELD_LIST.
    fn fields(&mut self, table: &str) -> Result<Vec<ColumnMeta>>;
    /// For status flags.
    fn status(&self) -> Status;
}

/// Opens sessions: what the protocol server is given.
pub trait Sessions: Send + Sync + 'static {
    /// A client was let in.
    fn open(&self, info: ConnectionInfo) -> Result<Box<dyn Session>>;
    /// `KILL` and shutdown: has this connection been told to end?
    fn is_killed(&self, id: u32) -> bool;
    /// The client of a connection is gone while a statement of it runs: nobody waits for the answer.
    fn client_gone(&self, id: u32);
}
