//! Golden SQL scripts: each `sql/NAME.sql` gives `sql/NAME.out`, and gives the same whether rows are
//! read, columns are read, the optimizer chooses, or the tables lie in many small regions.
//!
//! A script is statements that end with `;` at the end of a line, with `--` comments between them.
//! A query's rows are sorted unless it says ORDER BY. A script starts in an empty database of its
//! own name. A line `--@client NAME` gives what follows to another client, which is made at its
//! first use (the first is `main`).

mod support;

use damask_cluster::{Cluster, Config};
use damask_types::key::row_key;
use std::collections::HashMap;
use std::fmt::Write as _;
use support::{Client, bounded, golden, same, schema, scripts, split};

/// Handles before which every table is split, among small regions.
const EDGES: [i64; 3] = [2, 4, 50];

/// How a run reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Row,
    Column,
    Chosen,
    /// As chosen, every table in at least four regions from its beginning on.
    Small,
}

enum Step {
    Client(String),
    Statement(String),
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut statement = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("--@client ") {
            steps.push(Step::Client(name.trim().to_owned()));
        } else if statement.is_empty() && (line.trim().is_empty() || line.starts_with("--")) {
            continue;
        } else {
            statement += line;
            match statement.trim_end().strip_suffix(';') {
                Some(whole) => {
                    steps.push(Step::Statement(whole.to_owned()));
                    statement.clear();
                }
                None => statement.push('\n'),
            }
        }
    }
    assert!(statement.is_empty(), "a statement without its end: {statement}");
    steps
}

struct Run<'a> {
    cluster: &'a Cluster,
    mode: Mode,
    database: &'a str,
    admin: Client,
    clients: HashMap<String, Client>,
}

impl Run<'_> {
    fn client(&mut self, name: &str) -> &mut Client {
        let (cluster, mode, database) = (self.cluster, self.mode, self.database);
        self.clients.entry(name.to_owned()).or_insert_with(|| {
            let mut client = Client::new(cluster.database());
            client.run(&format!("USE {database}"));
            let engines = match mode {
                Mode::Row => "row",
                Mode::Column => "column",
                Mode::Chosen | Mode::Small => "row,column",
            };
            client.run(&format!("SET damask_isolation_read_engines = '{engines}'"));
            client
        })
    }

    /// A new table gets its columns, and its regions.
    fn place(&mut self) {
        let view = self.cluster.database().catalog.view();
        let tables: Vec<_> = view.tables_of(self.database).cloned().collect();
        for table in tables {
            if self.mode != Mode::Row {
                // TRUNCATE keeps the wish for columns and makes new ones.
                self.admin.replicate(self.database, &table.name, table.column_replicas == 0);
            }
            let key = row_key(table.id, EDGES[0]);
            let route = damask_pd::Placement::route(self.cluster.pd().as_ref(), &key);
            let is_split = route.is_some_and(|route| route.region.range.start == key);
            if self.mode == Mode::Small && !is_split {
                split(self.cluster, &schema(self.cluster, self.database, &table.name), &EDGES);
            }
        }
    }
}

fn run(cluster: &Cluster, mode: Mode, database: &str, steps: &[Step]) -> String {
    let mut admin = Client::new(cluster.database());
    admin.run(&format!("CREATE DATABASE {database}"));
    let mut run = Run { cluster, mode, database, admin, clients: HashMap::new() };
    let mut name = "main".to_owned();
    let mut out = String::new();
    for step in steps {
        match step {
            Step::Client(other) => {
                name.clone_from(other);
                writeln!(out, "--@client {name}").expect("text");
            }
            Step::Statement(sql) => {
                let answer = run.client(&name).transcript(sql);
                writeln!(out, "{sql};\n{answer}\n").expect("text");
                let head = sql.trim_start().get(..8).unwrap_or("").to_ascii_uppercase();
                if head.starts_with("CREATE") || head.starts_with("TRUNCATE") {
                    run.place();
                }
            }
        }
    }
    out
}

fn every_script(cluster: &Cluster, mode: Mode, mut each: impl FnMut(&str, &str)) {
    let entries = std::fs::read_dir(scripts()).expect("the folder of scripts");
    let paths = entries.map(|e| e.expect("an entry").path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "sql")).collect();
    paths.sort();
    assert!(!paths.is_empty(), "scripts");
    for path in paths {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        each(&name, &run(cluster, mode, &name, &parse(&text)));
    }
}

fn check(mode: Mode) {
    bounded(move || {
        let mut config = Config::memory();
        if mode == Mode::Small {
            config.raft.region_bytes_max = 8 << 10;
        }
        let cluster = Cluster::start(config).expect("starts");
        let mut wrong = Vec::new();
        every_script(&cluster, mode, |name, got| {
            let compare = || match mode {
                // Rows make the golden files; the others must give the same.
                Mode::Row => golden(&format!("{name}.out"), got),
                _ => {
                    let path = scripts().join(format!("{name}.out"));
                    let expected = std::fs::read_to_string(path).unwrap_or_default();
                    same(&format!("{name} as {mode:?}"), &expected, got);
                }
            };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(compare)).is_err() {
                wrong.push(name.to_owned());
            }
        });
        assert!(wrong.is_empty(), "{mode:?}: {wrong:?}");
    });
}

#[test]
fn from_rows() {
    check(Mode::Row);
}

#[test]
fn from_columns() {
    check(Mode::Column);
}

#[test]
fn as_the_optimizer_likes() {
    check(Mode::Chosen);
}

#[test]
fn in_small_regions() {
    check(Mode::Small);
}
