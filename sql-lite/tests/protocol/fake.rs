//! Sessions that follow a script: a text names what it answers.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use damask_sql_lite::outcome::*;
use damask_sql_lite::{Error, Result};
use damask_types::schema::IntWidth;
use damask_types::{ColumnType, Datum};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What all sessions of a server share.
#[derive(Default)]
pub struct Fake {
    pub opened: Mutex<Vec<ConnectionInfo>>,
    pub texts: Mutex<Vec<String>>,
    pub file: Arc<Mutex<Vec<u8>>>,
    pub killed: Arc<Mutex<HashSet<u32>>>,
    pub resets: Arc<Mutex<usize>>,
    pub tables: Mutex<HashMap<String, (Vec<ColumnMeta>, Vec<RowBatch>)>>,
}

pub fn big() -> ColumnType {
    ColumnType::Int { width: IntWidth::Big, unsigned: false }
}

#[derive(Default)]
struct Handle(Arc<Fake>);

impl Sessions for Fake {
    fn open(&self, info: ConnectionInfo) -> Result<Box<dyn Session>> {
        if info.database.as_deref() == Some("missing") {
            return Err(Error::unknown_database("Unknown database 'missing'"));
        }
        self.opened.lock().unwrap().push(info);
        let shared = Fake {
            tables: Mutex::new(self.tables.lock().unwrap().clone()),
            file: self.file.clone(),
            killed: self.killed.clone(),
            resets: self.resets.clone(),
            ..Fake::default()
        };
        Ok(Box::new(FakeSession { fake: Handle(Arc::new(shared)), ..FakeSession::default() }))
    }

    fn is_killed(&self, id: u32) -> bool {
        self.killed.lock().unwrap().contains(&id)
    }

    fn client_gone(&self, id: u32) {
        self.killed.lock().unwrap().insert(id);
    }
}

#[derive(Default)]
struct FakeSession {
    fake: Handle,
    transaction: bool,
    prepared: HashMap<u32, String>,
    next: u32,
    last: Vec<Datum>,
}

struct Failing(usize);

impl RowSource for Failing {
    fn next(&mut self) -> Result<Option<RowBatch>> {
        if self.0 == 0 {
            return Err(Error::division_by_zero("Division by 0"));
        }
        self.0 -= 1;
        Ok(Some(RowBatch::Datums(vec![vec![Datum::Int(1)]])))
    }
}

struct File {
    bytes: Arc<Mutex<Vec<u8>>>,
    bytes_max: usize,
}

impl LocalInfile for File {
    fn file_name(&self) -> &str {
        "data.csv"
    }
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut all = self.bytes.lock().unwrap();
        all.extend_from_slice(bytes);
        if all.len() > self.bytes_max {
            return Err(Error::data_too_long("Data too long for column 'a' at row 1"));
        }
        Ok(())
    }
    fn finish(self: Box<Self>) -> Result<Done> {
        let affected_rows = self.bytes.lock().unwrap().len() as u64;
        Ok(Done { affected_rows, ..Done::default() })
    }
}

impl FakeSession {
    fn one(&mut self, sql: &str) -> Result<Outcome> {
        let (word, rest) = sql.split_once(' ').unwrap_or((sql, ""));
        let done = |info: &str| Done { info: info.to_owned(), ..Done::default() };
        Ok(match word {
            "begin" => {
                self.transaction = true;
                Outcome::Done(done(""))
            }
            "insert" => Outcome::Done(Done {
                affected_rows: 300,
                last_insert_id: 70_000,
                info: "Records: 300".into(),
            }),
            "fail" => {
                return Err(Error::duplicate_entry("Duplicate entry '1' for key 't.PRIMARY'"));
            }
            "panic" => panic!("as the script says"),
            "badrows" => {
                let columns = vec![ColumnMeta::expression("a", big())];
                let batches = rest.parse().unwrap();
                Outcome::Rows(Rows { columns, source: Box::new(Failing(batches)) })
            }
            "rows" => {
                let count: i64 = rest.parse().unwrap();
                let columns = vec![
                    ColumnMeta::expression("n", big()),
                    ColumnMeta::expression("s", ColumnType::VarChar { len: 20 }),
                ];
                let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
                let texts = (0..count).map(|n| format!("row {n}"));
                let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
                let batch = RecordBatch::try_from_iter([("0", numbers), ("1", texts)]).unwrap();
                let batches = vec![RowBatch::Columns(batch)];
                Outcome::Rows(Rows { columns, source: Box::new(Ready(batches.into_iter())) })
            }
            "echo" => {
                let columns = vec![ColumnMeta::expression("e", ColumnType::VarChar { len: 9 })];
                let text = self.fake.0.texts.lock().unwrap().last().cloned().unwrap_or_default();
                Outcome::Rows(Rows::of(columns, vec![vec![Datum::Text(text)]]))
            }
            "long" => {
                let ty = ColumnType::Blob { bytes_max: u32::MAX };
                let bytes = vec![7; rest.parse().unwrap()];
                let columns = vec![ColumnMeta::expression("b", ty)];
                Outcome::Rows(Rows::of(columns, vec![vec![Datum::Bytes(bytes)]]))
            }
            "load" => {
                self.fake.0.file.lock().unwrap().clear();
                let bytes_max = rest.parse().unwrap_or(usize::MAX);
                let bytes = self.fake.0.file.clone();
                Outcome::LocalInfile(Box::new(File { bytes, bytes_max }))
            }
            "KILL" => {
                self.fake.0.killed.lock().unwrap().insert(rest.parse().unwrap());
                Outcome::Done(done(""))
            }
            "wait" => {
                let deadline = Instant::now() + Duration::from_secs(30);
                while self.fake.0.killed.lock().unwrap().is_empty() {
                    assert!(Instant::now() < deadline, "nobody was told to end");
                    std::thread::sleep(Duration::from_millis(5));
                }
                Outcome::Done(done(""))
            }
            "table" => {
                let tables = self.fake.0.tables.lock().unwrap();
                let (columns, batches) = tables[rest].clone();
                Outcome::Rows(Rows { columns, source: Box::new(Ready(batches.into_iter())) })
            }
            "params" => {
                let shown: Vec<_> = self.last.iter().map(|d| format!("{d:?}")).collect();
                let columns = vec![ColumnMeta::expression("p", ColumnType::VarChar { len: 9 })];
                let row = vec![Datum::Text(shown.join(" "))];
                Outcome::Rows(Rows::of(columns, vec![row]))
            }
            _ => return Err(Error::parse("You have an error in your SQL syntax")),
        })
    }
}

impl Session for FakeSession {
    fn query(&mut self, sql: &str, sink: &mut dyn Sink) -> Result<()> {
        self.fake.0.texts.lock().unwrap().push(sql.to_owned());
        let cut = if sql.starts_with("echo") { '\0' } else { ';' };
        let texts = sql.split(cut).map(str::trim);
        let texts: Vec<_> = texts.filter(|t| !t.is_empty() && !t.starts_with("--")).collect();
        if texts.is_empty() {
            return Err(Error::empty_query("Query was empty"));
        }
        for (i, text) in texts.iter().enumerate() {
            let outcome = self.one(text)?;
            sink.outcome(outcome, self, i + 1 < texts.len())?;
        }
        Ok(())
    }

    fn prepare(&mut self, sql: &str) -> Result<Prepared> {
        if sql.starts_with("fail") {
            return Err(Error::parse("You have an error in your SQL syntax"));
        }
        self.next += 1;
        self.prepared.insert(self.next, sql.to_owned());
        let params = sql.matches('?').count();
        let columns = match sql.strip_prefix("table ") {
            Some(name) => self.fake.0.tables.lock().unwrap()[name].0.clone(),
            None => Vec::new(),
        };
        Ok(Prepared { id: self.next, params, columns })
    }

    fn execute(&mut self, id: u32, params: Vec<Datum>) -> Result<Outcome> {
        self.last = params;
        let sql = self.prepared[&id].clone();
        self.one(&sql)
    }

    fn close_statement(&mut self, id: u32) {
        self.prepared.remove(&id);
    }

    fn use_database(&mut self, name: &str) -> Result<()> {
        match name {
            "test" => Ok(()),
            _ => Err(Error::unknown_database(format!("Unknown database '{name}'"))),
        }
    }

    fn reset(&mut self) {
        self.transaction = false;
        self.prepared.clear();
        *self.fake.0.resets.lock().unwrap() += 1;
    }

    fn fields(&mut self, table: &str) -> Result<Vec<ColumnMeta>> {
        let tables = self.fake.0.tables.lock().unwrap();
        let found = tables.get(table).map(|t| t.0.clone());
        found.ok_or_else(|| Error::no_such_table(format!("Table '{table}' doesn't exist")))
    }

    fn status(&self) -> Status {
        Status { in_transaction: self.transaction, autocommit: true, warnings: 2 }
    }
}
