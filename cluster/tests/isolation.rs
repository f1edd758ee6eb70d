//! Isolation as clients see it: each `sql/isolation/NAME.test` (Hermitage's cases, and others about
//! locks) is run by real connections in an optimistic transaction, a pessimistic one and one that
//! reads what is committed, and gives `NAME.out`: what each statement answers, and who waits for
//! whom. It must never pass because a statement that should wait was only slow.
//!
//! A script's lines: `setup: SQL` first, then `NAME: SQL` for the client of that name. A statement
//! that waits for a lock `blocks`; its answer comes where it `unblocks`. What a client is given
//! while it waits is `queued`, and run afterwards. `wait: NAME` waits for that client's answer.

#![allow(clippy::disallowed_methods)] // clients are threads, in real time

mod support;

use damask_cluster::{Cluster, Config};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder, Value};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use support::{DEADLINE, UPDATE, bounded, same};

/// A statement that has asked for locks for so long waits for one: only where golden files are
/// made. Where they are compared, what they say is waited for.
const BLOCKED: Duration = Duration::from_millis(400);
/// Between two looks.
const POLL: Duration = Duration::from_millis(2);

/// The levels, and what makes a client use it.
const LEVELS: [(&str, &str); 3] = [
    ("optimistic", "SET SESSION tidb_txn_mode = 'optimistic'"),
    ("pessimistic", "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"),
    ("read committed", "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"),
];

fn connect(address: SocketAddr) -> Conn {
    let options = OptsBuilder::new()
        .ip_or_hostname(Some(address.ip().to_string()))
        .tcp_port(address.port())
        .user(Some("root"))
        .prefer_socket(false)
        .read_timeout(Some(DEADLINE));
    Conn::new(options).expect("connects")
}

fn cell(value: Value) -> String {
    match value {
        Value::NULL => "NULL".to_owned(),
        Value::Bytes(bytes) => String::from_utf8(bytes).expect("UTF-8"),
        other => other.as_sql(true),
    }
}

/// What a person would see of a statement.
fn answer(conn: &mut Conn, sql: &str) -> String {
    let mut result = match conn.query_iter(sql) {
        Ok(result) => result,
        // Its message has times in it.
        Err(mysql::Error::MySqlError(e)) if e.code == 9007 => {
            return "ERROR 9007: write conflict".to_owned();
        }
        Err(mysql::Error::MySqlError(e)) => {
            return format!("ERROR {} ({}): {}", e.code, e.state, e.message);
        }
        Err(e) => panic!("{sql}: {e}"),
    };
    let names: Vec<_> =
        result.columns().as_ref().iter().map(|c| c.name_str().into_owned()).collect();
    if names.is_empty() {
        return format!("ok, {} rows", result.affected_rows());
    }
    let mut text = format!("[{}]", names.join(" | "));
    for row in result.by_ref() {
        let cells: Vec<_> = row.expect("a row").unwrap().into_iter().map(cell).collect();
        write!(text, "\n{}", cells.join(" | ")).expect("text");
    }
    text
}

/// A client and its thread.
struct Client {
    name: String,
    id: u32,
    statements: Sender<String>,
    answers: Receiver<String>,
    /// Given to it and not answered, in order; the first is running.
    waiting: VecDeque<String>,
}

impl Client {
    fn new(address: SocketAddr, name: &str, database: &str, level: &str) -> Client {
        let mut conn = connect(address);
        conn.query_drop(format!("USE {database}")).expect("the database");
        conn.query_drop(level).expect("the level");
        let id = conn.connection_id();
        let (statements, todo) = channel::<String>();
        let (done, answers) = channel();
        std::thread::spawn(move || {
            for sql in todo {
                if done.send(answer(&mut conn, &sql)).is_err() {
                    break;
                }
            }
        });
        Client { name: name.to_owned(), id, statements, answers, waiting: VecDeque::new() }
    }
}

/// A golden file as it stands, or one to be made.
struct Golden {
    path: PathBuf,
    lines: Option<Vec<String>>,
}

impl Golden {
    fn new(name: &str) -> Golden {
        let path = folder().join(format!("{name}.out"));
        let read = || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        };
        let lines = std::env::var_os(UPDATE).is_none().then(read);
        Golden { path, lines }
    }
}

fn folder() -> PathBuf {
    support::scripts().join("isolation")
}

/// One script at one level.
struct Run<'a> {
    address: SocketAddr,
    admin: &'a mut Conn,
    database: &'a str,
    level: &'a str,
    clients: Vec<Client>,
    golden: &'a Golden,
    out: &'a mut String,
}

impl Run<'_> {
    fn client(&mut self, name: &str) -> usize {
        if let Some(at) = self.clients.iter().position(|c| c.name == name) {
            return at;
        }
        self.clients.push(Client::new(self.address, name, self.database, self.level));
        self.clients.len() - 1
    }

    /// The next line of the golden file; `None` while it is made.
    fn expected(&self) -> Option<&str> {
        let lines = self.golden.lines.as_ref()?;
        Some(lines.get(self.out.lines().count()).map_or("", String::as_str))
    }

    /// Does the client ask for row locks, as the server sees it?
    fn asks_for_locks(&mut self, id: u32) -> bool {
        let rows: Vec<mysql::Row> = self.admin.query("SHOW PROCESSLIST").expect("a list");
        let state = rows.iter().find(|row| row.get::<u32, _>("Id") == Some(id));
        let state = state.and_then(|row| row.get::<String, _>("State"));
        state.is_some_and(|state| state == "waiting for row locks")
    }

    /// The answer, or `None` when the statement waits for a lock.
    fn answer_or_block(&mut self, at: usize, blocks: &str) -> Option<String> {
        let (expected, id) = (self.expected().map(|line| line == blocks), self.clients[at].id);
        let deadline = Instant::now() + DEADLINE;
        let mut since = None;
        // Ends: by the answer, a wait that lasts, or the deadline.
        loop {
            match self.clients[at].answers.recv_timeout(POLL) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Disconnected) => panic!("{}: no answer", self.database),
                Err(RecvTimeoutError::Timeout) => {}
            }
            assert!(Instant::now() < deadline, "{}: no answer in time", self.database);
            if expected == Some(false) {
                continue;
            }
            match self.asks_for_locks(id) {
                true => {
                    let since = *since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= BLOCKED {
                        return None;
                    }
                }
                false => since = None,
            }
        }
    }

    fn put(&mut self, answer: &str) {
        for line in answer.lines() {
            writeln!(self.out, "    {line}").expect("text");
        }
    }

    fn step(&mut self, name: &str, sql: &str) {
        let at = self.client(name);
        writeln!(self.out, "{name}: {sql}").expect("text");
        self.clients[at].waiting.push_back(sql.to_owned());
        if self.clients[at].waiting.len() > 1 {
            self.put("queued");
            return;
        }
        self.start(at);
        self.wake();
    }

    /// Runs a client's first statement until its answer, or until it waits.
    fn start(&mut self, at: usize) {
        let client = &self.clients[at];
        client.statements.send(client.waiting[0].clone()).expect("its thread runs");
        match self.answer_or_block(at, "    blocks") {
            None => self.put("blocks"),
            Some(answer) => self.answered(at, &answer),
        }
    }

    fn answered(&mut self, at: usize, answer: &str) {
        self.put(answer);
        self.clients[at].waiting.pop_front();
        if let Some(sql) = self.clients[at].waiting.front() {
            writeln!(self.out, "{}, as queued: {sql}", self.clients[at].name).expect("text");
            self.start(at);
        }
    }

    /// Those that wait may be able to go on now.
    fn wake(&mut self) {
        for at in 0..self.clients.len() {
            if self.clients[at].waiting.is_empty() {
                continue;
            }
            let line = format!("{} unblocks", self.clients[at].name);
            let expected = self.expected().map(|expected| expected == line);
            let patience = match expected {
                None => BLOCKED,
                Some(true) => DEADLINE,
                Some(false) => POLL,
            };
            if let Ok(answer) = self.clients[at].answers.recv_timeout(patience) {
                writeln!(self.out, "{line}").expect("text");
                self.answered(at, &answer);
            }
        }
    }

    /// A wait ends by itself.
    fn wait(&mut self, name: &str) {
        let at = self.client(name);
        if self.clients[at].waiting.is_empty() {
            return;
        }
        let answer = self.clients[at].answers.recv_timeout(DEADLINE).expect("an answer in time");
        writeln!(self.out, "{name} unblocks by itself").expect("text");
        self.answered(at, &answer);
    }

    /// Nobody waits for ever.
    fn finish(&mut self) {
        for at in 0..self.clients.len() {
            assert!(
                self.clients[at].waiting.is_empty(),
                "{}: {} waits at the end",
                self.database,
                self.clients[at].name
            );
        }
    }
}

/// Runs a script at every level; the transcript.
fn transcript(address: SocketAddr, name: &str, text: &str, golden: &Golden) -> String {
    let mut out = String::new();
    let mut admin = connect(address);
    for (number, (level, set)) in LEVELS.iter().enumerate() {
        writeln!(out, "== {level}").expect("text");
        let database = format!("{name}_{number}");
        admin.query_drop(format!("CREATE DATABASE {database}")).expect("a database");
        let mut run = Run {
            address,
            admin: &mut admin,
            database: &database,
            level: set,
            clients: Vec::new(),
            golden,
            out: &mut out,
        };
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (who, sql) = line.split_once(": ").expect("NAME: SQL");
            match who {
                "setup" => {
                    run.admin.query_drop(format!("USE {database}")).expect("the database");
                    run.admin.query_drop(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
                }
                "wait" => run.wait(sql),
                who => run.step(who, sql),
            }
        }
        run.finish();
        out.push('\n');
    }
    out
}

#[test]
fn every_level_isolates_as_it_is_written_down() {
    bounded(|| {
        let mysql = Some("127.0.0.1:0".parse().expect("an address"));
        let cluster = Cluster::start(Config { mysql, ..Config::memory() }).expect("starts");
        let address = cluster.mysql_addr().expect("serves");
        let entries = std::fs::read_dir(folder()).expect("the folder of scripts");
        let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "test"));
        paths.sort();
        assert!(!paths.is_empty(), "scripts");
        let mut wrong = Vec::new();
        for path in paths {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            let golden = Golden::new(&name);
            let check = || {
                let got = transcript(address, &name, &text, &golden);
                match &golden.lines {
                    None => std::fs::write(&golden.path, got).expect("written"),
                    Some(lines) => same(&name, &(lines.join("\n") + "\n"), &got),
                }
            };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_err() {
                wrong.push(name);
            }
        }
        assert!(wrong.is_empty(), "{wrong:?} (made anew with {UPDATE}=1)");
    });
}

/// Clients that add to one row, and what each has added.
const ADDERS: usize = 6;
const ADDITIONS: usize = 15;

#[test]
fn counters_lose_nothing_and_nobody_begins_again() {
    bounded(|| {
        let mysql = Some("127.0.0.1:0".parse().expect("an address"));
        let cluster = Cluster::start(Config { mysql, ..Config::memory() }).expect("starts");
        let address = cluster.mysql_addr().expect("serves");
        let mut admin = connect(address);
        admin.query_drop("CREATE TABLE test.c (id INT PRIMARY KEY, n INT)").expect("a table");
        admin.query_drop("INSERT INTO test.c VALUES (1, 0), (2, 0)").expect("rows");
        let statements: [&[&str]; 4] = [
            &["BEGIN PESSIMISTIC", "UPDATE test.c SET n = n + 1 WHERE id = 1", "COMMIT"],
            &["BEGIN PESSIMISTIC", "UPDATE test.c SET n = n + 1", "COMMIT"],
            &["SET autocommit = 0", "UPDATE test.c SET n = n + 1 WHERE id = 2", "COMMIT"],
            &["SET autocommit = 1", "UPDATE test.c SET n = n + 1"],
        ];
        let clients: Vec<_> = (0..ADDERS)
            .map(|at| {
                let (mut conn, statements) = (connect(address), statements[at % statements.len()]);
                let level = LEVELS[1 + at % 2].1;
                std::thread::spawn(move || {
                    conn.query_drop(level).expect("the level");
                    for sql in (0..ADDITIONS).flat_map(|_| statements) {
                        conn.query_drop(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().expect("no error"));
        let found: Vec<(i32, usize)> = admin.query("SELECT id, n FROM test.c").expect("rows");
        let adds = |id: usize| {
            let both = |at: &usize| [1, 3].contains(&(at % 4)) || at % 4 == 2 * (id - 1);
            (0..ADDERS).filter(both).count() * ADDITIONS
        };
        assert_eq!(found, [(1, adds(1)), (2, adds(2))]);
    });
}
