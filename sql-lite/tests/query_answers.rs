//! Whole queries against MySQL's answers: `scripts/answers.test`, written as `expressions.test` is.
//! What is meant here: logic of three values around subqueries, types of choices, digits of
//! quotients, names of derived columns, and statements of thousands of terms.

mod query_common;

use query_common::{Engine, STACK_BYTES};

fn deep(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(body);
    let ended = thread.expect("a thread").join();
    assert!(ended.is_ok(), "see above");
}

#[test]
fn queries_give_mysqls_answers() {
    deep(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts/answers.test");
        let script = std::fs::read_to_string(path).expect("the script");
        let engine = Engine::over_rows(Vec::new());
        let mut failed = Vec::new();
        let mut cases = 0;
        let mut lines = script.lines().peekable();
        while let Some(line) = lines.next() {
            let Some(sql) = line.strip_prefix("> ") else { continue };
            let mut want = Vec::new();
            while let Some(row) = lines.next_if(|l| !l.starts_with("> ") && !l.starts_with('#')) {
                if !row.is_empty() {
                    want.push(row.to_owned());
                }
            }
            let got: Vec<String> = match engine.rows(sql) {
                Ok(rows) => rows.into_iter().map(|row| row.join(" | ")).collect(),
                Err(e) => vec![format!("!{} {}", e.code, e.message)],
            };
            let is_error = want.len() == 1 && want[0].starts_with('!');
            let same = match is_error {
                true => got.len() == 1 && got[0].split(' ').next() == Some(&want[0]),
                false => got == want,
            };
            cases += 1;
            if !same {
                failed.push(format!("> {sql}\n  want {want:?}\n  got  {got:?}"));
            }
        }
        assert!(cases > 50, "the script was read");
        assert!(failed.is_empty(), "{} of {cases} fail:\n{}", failed.len(), failed.join("\n"));
    });
}

fn names(engine: &Engine, sql: &str) -> Vec<String> {
    let columns = engine.with(sql, None, damask_sql_lite::query::columns);
    let columns = columns.unwrap_or_else(|e| panic!("{sql}: {e}"));
    columns.into_iter().map(|column| column.name).collect()
}

#[test]
fn derived_columns_are_called_by_their_text() {
    let engine = Engine::over_rows(Vec::new());
    let is = |sql: &str, want: &[&str]| assert_eq!(names(&engine, sql), want, "{sql}");
    is("SELECT * FROM (SELECT 1, 1+1) x", &["1", "1+1"]);
    is("SELECT `1+1` FROM (SELECT 1, 1+1) x", &["1+1"]);
    is("SELECT `MAX(total)` FROM (SELECT MAX(total) FROM (SELECT 1 total) o) x", &["MAX(total)"]);
    is("SELECT * FROM (SELECT MAX(total) FROM (SELECT 1 total) o) x", &["MAX(total)"]);
    is("SELECT * FROM (SELECT 1 AS Foo, 'Bar') x", &["Foo", "Bar"]);
    is("WITH c AS (SELECT 2 * 3) SELECT * FROM c", &["2 * 3"]);
}

#[test]
fn thousands_of_terms_are_planned() {
    deep(|| {
        let engine = Engine::over_rows(Vec::new());
        let one = |sql: String| {
            let rows = engine.rows(&sql).unwrap_or_else(|e| panic!("{e}: {sql:.80}"));
            rows.into_iter().next().map(|row| row.join(","))
        };
        let list = |n: usize, by: &str, term: &dyn Fn(usize) -> String| {
            (0..n).map(term).collect::<Vec<_>>().join(by)
        };
        let from = "FROM (SELECT 4999 a UNION ALL SELECT -1) t";
        let any = list(5_000, " OR ", &|n| format!("a + 0 = {n}"));
        assert_eq!(one(format!("SELECT a {from} WHERE {any}")), Some("4999".to_owned()));
        let all = list(5_000, " AND ", &|n| format!("a + 0 <> {n}"));
        assert_eq!(one(format!("SELECT a {from} WHERE {all}")), Some("-1".to_owned()));
        let sum = list(3_000, " + ", &|_| "1".to_owned());
        assert_eq!(one(format!("SELECT {sum}")), Some("3000".to_owned()));
        let differences = list(3_000, " - ", &|_| "a".to_owned());
        assert_eq!(
            one(format!("SELECT {differences} {from} WHERE a < 0")),
            Some("2998".to_owned())
        );
        let unions = list(200, " UNION ALL ", &|n| format!("SELECT {n}"));
        assert_eq!(one(format!("SELECT count(*) FROM ({unions}) t")), Some("200".to_owned()));
        let items = list(20_000, ",", &|n| n.to_string());
        let sql = format!("SELECT count(*) {from} WHERE a IN ({items})");
        assert_eq!(one(sql), Some("1".to_owned()));
    });
}
