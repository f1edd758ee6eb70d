//! INSERT, REPLACE and ON DUPLICATE KEY UPDATE.

use super::*;

#[test]
fn values_are_converted_numbered_and_defaulted() {
    let mut s = Server::new(vec![table_t()]);
    let done = s.run("INSERT INTO t (u, d) VALUES ('a', '1.005'), (NULL, 2), ('b', DEFAULT)");
    let done = done.expect("inserted");
    assert_eq!((done.affected_rows, done.last_insert_id), (3, 1));
    assert_eq!(done.info, "Records: 3  Duplicates: 0  Warnings: 0");
    assert_eq!(s.facts.last_insert_id, 1);
    let done = s.run("INSERT INTO t VALUES (10, 'c', 1 + 2 * 3, NULL, '2001-02-03')");
    assert_eq!(done.expect("inserted").last_insert_id, 10);
    assert_eq!(s.facts.last_insert_id, 1);
    let done =
        s.run("INSERT INTO t SET id = 0, u = concat('x', 'y'), ts = NOW()").expect("inserted");
    assert_eq!((done.last_insert_id, done.info.as_str()), (11, ""));
    assert_eq!(
        s.planned("SELECT * FROM t ORDER BY id"),
        [
            "1|a|7|1.01|2020-01-02 03:04:05",
            "2|NULL|7|2.00|2020-01-02 03:04:05",
            "3|b|7|NULL|2020-01-02 03:04:05",
            "10|c|7|NULL|2001-02-03 00:00:00",
            "11|xy|7|NULL|2020-01-02 03:04:05",
        ]
    );
}

#[test]
fn wrong_values_have_their_numbers() {
    let mut s = Server::new(vec![table_t(), table_h()]);
    let mut code = |sql: &str| s.error(sql).0;
    assert_eq!(code("INSERT INTO t (id, k) VALUES (1, 3000000000)"), 1264);
    assert_eq!(code("INSERT INTO t (id, k) VALUES (1, 'x')"), 1366);
    assert_eq!(code("INSERT INTO t (id, u) VALUES (1, 'more than ten')"), 1406);
    assert_eq!(code("INSERT INTO t (id, ts) VALUES (1, '2020-13-01')"), 1292);
    assert_eq!(code("INSERT INTO t (id, k) VALUES (1, NULL)"), 1048);
    assert_eq!(code("INSERT INTO h (a) VALUES (1)"), 1364);
    assert_eq!(code("INSERT INTO h VALUES (1, 'x')"), 1136);
    assert_eq!(code("INSERT INTO h (a, z) VALUES (1, 'x')"), 1054);
    assert_eq!(code("INSERT INTO h (a, a) VALUES (1, 1)"), 1110);
    assert_eq!(code("INSERT INTO missing VALUES (1)"), 1146);
    assert_eq!(code("INSERT INTO h SELECT 1, 2"), 1136);
    assert_eq!(s.planned("SELECT count(*) FROM t"), ["0"]);
    s.variables.set("sql_mode", Some(Datum::Text(String::new())), false).expect("a mode");
    assert_eq!(s.affected("INSERT INTO h (a) VALUES (99999999999)"), 1);
    assert_eq!(s.warned(), [1364, 1264]);
    assert_eq!(s.planned("SELECT * FROM h"), ["2147483647||NULL"]);
}

#[test]
fn duplicates_are_named_now_or_by_the_commit() {
    let mut s = Server::new(vec![table_t(), table_h()]);
    s.affected("INSERT INTO t (id, u) VALUES (1, 'a'), (2, 'b'), (3, NULL), (4, NULL)");
    s.affected("INSERT INTO h VALUES (1, 'x', 1)");
    for open in [false, true] {
        if open {
            s.begin();
        }
        let text = "Duplicate entry '2' for key 't.PRIMARY'".to_owned();
        assert_eq!(s.error("INSERT INTO t (id) VALUES (7), (2)"), (1062, text));
        let text = "Duplicate entry 'a' for key 't.u'".to_owned();
        assert_eq!(s.error("INSERT INTO t (id, u) VALUES (8, 'a')"), (1062, text));
        let text = "Duplicate entry 'q' for key 't.u'".to_owned();
        assert_eq!(s.error("INSERT INTO t (u) VALUES ('q'), ('q')"), (1062, text));
        let text = "Duplicate entry '1-x' for key 'h.PRIMARY'".to_owned();
        assert_eq!(s.error("INSERT INTO h VALUES (2, 'y', 1), (1, 'x', 2)"), (1062, text));
    }
    // The failed statements left nothing in the transaction.
    s.affected("INSERT INTO t (id, u) VALUES (9, 'z')");
    assert_eq!(s.planned("SELECT id FROM t ORDER BY id"), ["1", "2", "3", "4", "9"]);
    s.commit().expect("committed");
    assert_eq!(s.planned("SELECT id FROM t ORDER BY id"), ["1", "2", "3", "4", "9"]);
    assert_eq!(s.planned("SELECT a, b FROM h"), ["1|x"]);
}

#[test]
fn ignore_skips_and_adjusts() {
    let mut s = Server::new(vec![table_t()]);
    s.affected("INSERT INTO t (id, u) VALUES (1, 'a')");
    let sql = "INSERT IGNORE INTO t (id, u, k) VALUES (1, 'n', 1), (2, 'a', 1), (3, 'c', 'x'), \
               (4, 'd', NULL), (3, 'e', 1)";
    let done = s.run(sql).expect("inserted");
    assert_eq!(done.affected_rows, 2);
    assert_eq!(done.info, "Records: 5  Duplicates: 3  Warnings: 5");
    assert_eq!(s.planned("SELECT id, u, k FROM t ORDER BY id"), ["1|a|7", "3|c|0", "4|d|0"]);
}

#[test]
fn replace_removes_every_row_in_the_way() {
    let mut s = Server::new(vec![table_t(), table_h()]);
    s.affected("INSERT INTO t (id, u, k) VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)");
    assert_eq!(s.affected("REPLACE INTO t (id, u, k) VALUES (1, 'b', 9)"), 3);
    assert_eq!(s.affected("REPLACE INTO t (id, u, k) VALUES (8, 'd', 9)"), 1);
    assert_eq!(s.affected("REPLACE INTO t (id, u, k) VALUES (8, 'd', 9)"), 1);
    assert_eq!(s.affected("REPLACE INTO t (id, u, k) VALUES (8, 'e', 1), (8, 'f', 2)"), 4);
    assert_eq!(s.planned("SELECT id, u, k FROM t ORDER BY id"), ["1|b|9", "3|c|3", "8|f|2"]);
    s.affected("INSERT INTO h VALUES (1, 'x', 1)");
    assert_eq!(s.affected("REPLACE INTO h VALUES (1, 'x', 2), (2, 'x', 3)"), 3);
    assert_eq!(s.planned("SELECT * FROM h ORDER BY a"), ["1|x|2", "2|x|3"]);
}

#[test]
fn on_duplicate_key_update() {
    let mut s = Server::new(vec![table_t()]);
    s.affected("INSERT INTO t (id, u, k) VALUES (1, 'a', 1), (2, 'b', 2)");
    let sql = "INSERT INTO t (id, u, k) VALUES (1, 'x', 5), (9, 'n', 6) \
               ON DUPLICATE KEY UPDATE k = k + VALUES(k), d = k * 10";
    assert_eq!(s.affected(sql), 3);
    assert_eq!(
        s.planned("SELECT id, u, k, d FROM t ORDER BY id"),
        ["1|a|6|60.00", "2|b|2|NULL", "9|n|6|NULL",]
    );
    // Nothing changes: 0, or 1 with CLIENT_FOUND_ROWS.
    let same = "INSERT INTO t (u, k) VALUES ('b', 1) ON DUPLICATE KEY UPDATE k = 2";
    assert_eq!(s.affected(same), 0);
    s.found_rows = true;
    assert_eq!(s.affected(same), 1);
    s.found_rows = false;
    // A row alias, a function that needs the query engine, a row twice in one statement.
    let sql = "INSERT INTO t (id, u, k) VALUES (2, 'q', 3), (2, 'r', 4) AS n \
               ON DUPLICATE KEY UPDATE u = concat(t.u, n.u), k = greatest(t.k, n.k)";
    assert_eq!(s.affected(sql), 4);
    let sql = "INSERT INTO t (id, k) VALUES (2, 9) AS n(i, m) ON DUPLICATE KEY UPDATE k = m + i";
    assert_eq!(s.affected(sql), 2);
    assert_eq!(s.planned("SELECT u, k FROM t WHERE id = 2"), ["bqr|11"]);
    // The id of the row that was there.
    let sql =
        "INSERT INTO t (u) VALUES ('a') ON DUPLICATE KEY UPDATE id = LAST_INSERT_ID(id), k = 0";
    assert_eq!(s.run(sql).expect("updated").last_insert_id, 1);
    assert_eq!(s.facts.last_insert_id, 1);
    let text = "Duplicate entry 'n' for key 't.u'".to_owned();
    let sql = "INSERT INTO t (id) VALUES (1) ON DUPLICATE KEY UPDATE u = 'n'";
    assert_eq!(s.error(sql), (1062, text));
    // A row moves to another handle.
    s.affected("INSERT INTO t (id) VALUES (1) ON DUPLICATE KEY UPDATE id = 100");
    assert_eq!(s.planned("SELECT id FROM t ORDER BY id"), ["2", "9", "100"]);
}

#[test]
fn rows_of_a_query() {
    let mut s = Server::new(vec![table_t(), table_h()]);
    s.affected(
        "INSERT INTO t (id, u, k, d) VALUES (1, 'a', 1, 1.5), (2, 'b', 2, 2.25), (3, 'c', 3, NULL)",
    );
    let done =
        s.run("INSERT INTO h (b, a, c) SELECT u, id, d FROM t WHERE k > 1").expect("inserted");
    assert_eq!(done.info, "Records: 2  Duplicates: 0  Warnings: 0");
    assert_eq!(s.planned("SELECT * FROM h ORDER BY a"), ["2|b|2.25", "3|c|NULL"]);
    // A table into itself.
    assert_eq!(s.affected("INSERT INTO h SELECT a + 10, b, c FROM h"), 2);
    assert_eq!(s.planned("SELECT count(*) FROM h"), ["4"]);
    let sql = "INSERT INTO t (id, k) SELECT id, k + 1 FROM (SELECT 1 AS id, 5 AS k) x \
               ON DUPLICATE KEY UPDATE k = VALUES(k)";
    assert_eq!(s.affected(sql), 2);
    assert_eq!(s.planned("SELECT k FROM t WHERE id = 1"), ["6"]);
}

#[test]
fn timestamps_keep_their_moment_in_other_zones() {
    let mut s = Server::new(vec![table_t()]);
    s.variables.set("time_zone", Some(Datum::Text("+02:00".into())), false).expect("a zone");
    s.affected(
        "INSERT INTO t (id, ts) VALUES (1, '2020-06-01 12:00:00'), (2, DEFAULT), (3, NOW())",
    );
    let shown = ["1|2020-06-01 12:00:00", "2|2020-01-02 05:04:05", "3|2020-01-02 05:04:05"];
    assert_eq!(s.planned("SELECT id, ts FROM t ORDER BY id"), shown);
    assert_eq!(s.point("SELECT id, ts FROM t WHERE id IN (3, 1, 2)").expect("a point read"), shown);
    let sql = "INSERT INTO t (id, ts) SELECT id + 10, ts FROM t";
    s.affected(sql);
    s.affected("UPDATE t SET k = 1, ts = ts WHERE id = 1");
    s.affected("INSERT INTO t (id) VALUES (1) ON DUPLICATE KEY UPDATE ts = coalesce(ts, NULL)");
    s.variables.set("time_zone", Some(Datum::Text("+00:00".into())), false).expect("a zone");
    assert_eq!(s.planned("SELECT ts FROM t WHERE id IN (1, 11)"), ["2020-06-01 10:00:00"; 2]);
}
