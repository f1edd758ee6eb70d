//! LOAD DATA into tables.

use super::super::load::{Destination, Loader};
use super::*;
use parking_lot::Mutex;

fn loader(s: &Server, sql: &str, destination: Destination) -> Loader {
    let parsed = parse(sql, 0, s.variables.sql_mode()).expect("parses");
    let Stmt::LoadData(load) = &parsed.stmt else { panic!("{sql}: no load") };
    let (catalog, client) = (s.catalog.clone(), s.client.clone());
    Loader::new(catalog, client, Some("test"), &s.variables, &s.facts, destination, load)
        .expect("a loader")
}

/// Loads a text in pieces; its result and the numbers of its warnings.
fn load(s: &mut Server, sql: &str, text: &str) -> Result<(Done, Vec<u16>)> {
    let mut loader = loader(s, sql, Destination::Own);
    for piece in text.as_bytes().chunks(5) {
        loader.push(piece)?;
    }
    let done = loader.finish();
    s.check_indexes();
    let warnings = loader.take_warnings();
    Ok((done?, warnings.kept().iter().map(|w| w.code).collect()))
}

#[test]
fn lines_become_rows() {
    let mut s = Server::new(vec![table_t()]);
    s.affected("INSERT INTO t (id, u) VALUES (2, 'there'), (7, 'taken')");
    let sql = "LOAD DATA LOCAL INFILE 'f' INTO TABLE t FIELDS TERMINATED BY ',' \
               (id, u, @skipped, k, d, ts)";
    let text = "1,a,x,5,1.25,2020-02-03 04:05:06\n2,b,x,5,1,\\N\n\\N,\\N,x,oops,2.345,2001-01-01\n\
                8,taken,x,1,1,\\N\n9,few\n10,c,x,1,1,\\N,many\n";
    let (done, warned) = load(&mut s, sql, text).expect("loaded");
    assert_eq!(done.affected_rows, 4);
    assert_eq!(done.info, "Records: 6  Deleted: 0  Skipped: 2  Warnings: 5");
    assert_eq!(warned, [1366, 1261, 1262, 1062, 1062]);
    assert_eq!(
        s.planned("SELECT * FROM t WHERE id NOT IN (2, 7) ORDER BY id"),
        [
            "1|a|5|1.25|2020-02-03 04:05:06",
            "9|few|7|NULL|2020-01-02 03:04:05",
            "10|c|1|1.00|NULL",
            "11|NULL|0|2.35|2001-01-01 00:00:00",
        ]
    );
}

#[test]
fn replace_and_strict_loads() {
    let mut s = Server::new(vec![table_h()]);
    s.affected("INSERT INTO h VALUES (1, 'x', 1), (2, 'y', 2)");
    let sql = "LOAD DATA LOCAL INFILE 'f' REPLACE INTO TABLE h";
    let (done, _) = load(&mut s, sql, "1\tx\t10\n3\tz\t30\n3\tz\t31").expect("loaded");
    assert_eq!(done.affected_rows, 5);
    assert_eq!(done.info, "Records: 3  Deleted: 2  Skipped: 0  Warnings: 0");
    assert_eq!(s.planned("SELECT * FROM h ORDER BY a"), ["1|x|10", "2|y|2", "3|z|31"]);
    // Not LOCAL: mistakes are errors, and the batch with them is not there.
    let sql = "LOAD DATA INFILE 'f' INTO TABLE h";
    for (text, code) in [
        ("5\tq\t1\n1\tx\t1\n", 1062),
        ("5\tq\tno\n", 1366),
        ("5\tq\n", 1261),
        ("5\tq\t1\t2\n", 1262),
        ("\\N\tq\t1\n", 1048),
    ] {
        assert_eq!(load(&mut s, sql, text).expect_err("refused").code, code, "{text}");
    }
    assert_eq!(s.planned("SELECT count(*) FROM h"), ["3"]);
}

#[test]
fn many_rows_are_many_transactions() {
    let mut s = Server::new(vec![table_t()]);
    let rows: String = (0..12_345).map(|n| format!("{n}|u{n}|{}|\n", n % 10)).collect();
    let sql = "LOAD DATA LOCAL INFILE 'f' INTO TABLE t FIELDS TERMINATED BY '|' \
               LINES TERMINATED BY '|\\n' (id, u, k)";
    s.variables
        .set("sql_mode", Some(Datum::Text("NO_AUTO_VALUE_ON_ZERO".into())), false)
        .expect("a mode");
    let mut loader = loader(&s, sql, Destination::Own);
    let half = rows.len() / 2;
    loader.push(&rows.as_bytes()[..half]).expect("taken");
    // What is not committed yet is less than a batch.
    let count: usize = s.planned("SELECT count(*) FROM t")[0].parse().expect("a number");
    assert_eq!(count, 5_000);
    loader.push(&rows.as_bytes()[half..]).expect("taken");
    assert_eq!(loader.finish().expect("loaded").affected_rows, 12_345);
    s.check_indexes();
    assert_eq!(s.planned("SELECT count(*), sum(id), sum(k) FROM t"), ["12345|76193340|55540"]);
}

#[test]
fn inside_a_transaction_all_or_nothing() {
    let mut s = Server::new(vec![table_h()]);
    s.begin();
    s.affected("INSERT INTO h VALUES (1, 'x', 1)");
    let slot = Arc::new(Mutex::new(s.open.take()));
    let sql = "LOAD DATA INFILE 'f' INTO TABLE h";
    let mut good = loader(&s, sql, Destination::Shared(slot.clone()));
    good.push(b"2\ty\t2\n3\tz").expect("taken");
    good.push(b"\t3\n").expect("taken");
    assert_eq!(good.finish().expect("loaded").affected_rows, 2);
    let mut bad = loader(&s, sql, Destination::Shared(slot.clone()));
    bad.push(b"4\ty\t2\n2\ty\t3\n").expect("taken");
    assert_eq!(bad.finish().expect_err("a duplicate").code, 1062);
    assert!(bad.push(b"5\ty\t2\n").is_err());
    s.open = slot.lock().take();
    assert_eq!(s.planned("SELECT a FROM h ORDER BY a"), ["1", "2", "3"]);
    s.commit().expect("committed");
    assert_eq!(s.planned("SELECT a FROM h ORDER BY a"), ["1", "2", "3"]);
}

#[test]
fn a_load_goes_on_from_what_others_left() {
    use damask_txn::{Mode, Options, Reads};
    let mut s = Server::new(vec![table_h()]);
    let options = Options { mode: Mode::Pessimistic, ..Options::default() };
    let mut txn = s.client.begin_with(options).expect("begins");
    txn.begin_statement(Reads::Current).expect("a version to read");
    let slot = Arc::new(Mutex::new(Some(txn)));
    let sql = "LOAD DATA LOCAL INFILE 'f' REPLACE INTO TABLE h";
    let mut load = loader(&s, sql, Destination::Shared(slot.clone()));
    load.push(b"1\tx\t10\n2\tx\t20").expect("taken");
    // Committed above the version that the load reads.
    s.affected("INSERT INTO h VALUES (1, 'x', 1)");
    let done = load.finish().expect("loaded");
    assert_eq!(done.info, "Records: 2  Deleted: 1  Skipped: 0  Warnings: 0");
    s.open = slot.lock().take();
    s.commit().expect("committed");
    assert_eq!(s.planned("SELECT * FROM h ORDER BY a"), ["1|x|10", "2|x|20"]);
    s.check_indexes();
}
