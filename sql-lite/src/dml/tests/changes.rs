//! UPDATE and DELETE, by key and by plan.

use super::*;

fn filled() -> Server {
    let mut s = Server::new(vec![table_t(), table_h()]);
    let sql = "INSERT INTO t (id, u, k, d, ts) VALUES (1, 'a', 10, 1.5, '2000-01-01'), \
               (2, 'b', 20, NULL, '2000-01-01'), (3, NULL, 30, 3, '2000-01-01'), \
               (4, 'd', 30, 4, '2000-01-01')";
    s.affected(sql);
    s.affected("INSERT INTO h VALUES (1, 'x', 1), (1, 'y', 2), (2, 'x', 3)");
    s
}

fn rows(s: &mut Server) -> Vec<String> {
    s.planned("SELECT id, u, k, d FROM t ORDER BY id")
}

#[test]
fn counts_and_info() {
    let mut s = filled();
    let done = s.run("UPDATE t SET k = 30 WHERE id IN (1, 3, 99)").expect("updated");
    assert_eq!(done.affected_rows, 1);
    assert_eq!(done.info, "Rows matched: 2  Changed: 1  Warnings: 0");
    s.found_rows = true;
    assert_eq!(s.affected("UPDATE t SET k = 30 WHERE id IN (1, 3, 99)"), 2);
    assert_eq!(s.affected("UPDATE t SET k = 31 WHERE k = 30 AND sqrt(4) = 2"), 3);
    s.found_rows = false;
    // Touched only where changed.
    assert_eq!(
        s.planned("SELECT id, ts FROM t ORDER BY id"),
        [
            "1|2020-01-02 03:04:05",
            "2|2000-01-01 00:00:00",
            "3|2020-01-02 03:04:05",
            "4|2020-01-02 03:04:05",
        ]
    );
    assert_eq!(s.affected("DELETE FROM t WHERE u = 'b'"), 1);
    assert_eq!(s.affected("DELETE FROM t WHERE k > 30 ORDER BY id DESC LIMIT 2"), 2);
    assert_eq!(rows(&mut s), ["1|a|31|1.50"]);
    assert_eq!(s.affected("UPDATE test.t SET k = k + 1 WHERE length(u) = 1"), 1);
    assert_eq!(s.affected("UPDATE test.t AS X SET x.k = X.k - 1 WHERE length(X.u) = 1"), 1);
    assert_eq!(s.affected("DELETE FROM test.t WHERE length(u) = 2"), 0);
    assert_eq!(s.affected("DELETE FROM t"), 1);
    assert_eq!(s.affected("DELETE FROM t"), 0);
}

#[test]
fn later_assignments_see_earlier_ones() {
    for condition in ["id = 1", "id + 0 = 1 AND length(u) = 1"] {
        let mut s = filled();
        let sql = format!("UPDATE t SET k = k + 1, d = k * 2, u = u WHERE {condition}");
        assert_eq!(s.affected(&sql), 1);
        assert_eq!(rows(&mut s)[0], "1|a|11|22.00", "{condition}");
    }
}

#[test]
fn division_by_zero_is_an_error_where_the_mode_says_so() {
    let mut s = filled();
    for sql in [
        "INSERT INTO t (id, k, d) VALUES (50, 1, 1/0)",
        "UPDATE t SET d = d / 0 WHERE id = 1",
        "UPDATE t SET d = d % (k - k) WHERE id = 1",
        "INSERT INTO t (id, k, d) SELECT 51, 1, 5 DIV 0",
    ] {
        assert_eq!(s.error(sql).0, 1365, "{sql}");
    }
    assert_eq!(s.affected("UPDATE t SET d = d / 2 WHERE id = 1"), 1);
    assert_eq!(s.planned("SELECT d, d / 0 FROM t WHERE id = 1"), ["0.75|NULL"], "a query goes on");
    assert_eq!(s.affected("UPDATE IGNORE t SET d = d / 0 WHERE id = 1"), 1);
    let mode = Datum::Text("STRICT_TRANS_TABLES".into());
    s.variables.set("sql_mode", Some(mode), false).expect("is set");
    assert_eq!(s.affected("INSERT INTO t (id, k, d) VALUES (50, 1, 1/0)"), 1);
    assert_eq!(s.planned("SELECT d FROM t WHERE id IN (1, 50) ORDER BY id"), ["NULL", "NULL"]);
}

#[test]
fn keys_move_with_their_entries() {
    let mut s = filled();
    assert_eq!(s.affected("UPDATE t SET id = 9, u = 'z' WHERE u = 'a'"), 1);
    let text = "Duplicate entry '9' for key 't.PRIMARY'".to_owned();
    assert_eq!(s.error("UPDATE t SET id = 9 WHERE id = 2"), (1062, text));
    let text = "Duplicate entry '3' for key 't.PRIMARY'".to_owned();
    assert_eq!(s.error("UPDATE t SET id = id + 1"), (1062, text));
    assert_eq!(s.affected("UPDATE t SET id = id + 100"), 4);
    assert_eq!(s.planned("SELECT id FROM t ORDER BY id"), ["102", "103", "104", "109"]);
    let text = "Duplicate entry 'b' for key 't.u'".to_owned();
    assert_eq!(s.error("UPDATE t SET u = 'b' WHERE k = 30"), (1062, text));
    assert_eq!(s.affected("UPDATE IGNORE t SET u = 'q' WHERE k = 30"), 1);
    assert_eq!(s.warned(), [1062]);
    assert_eq!(s.affected("UPDATE h SET a = a + 1, b = 'w' WHERE a = 1 AND b = 'y'"), 1);
    assert_eq!(s.affected("UPDATE h SET c = c + 1 WHERE (a = 1 OR a = 2) AND b IN ('x', 'w')"), 3);
    assert_eq!(s.planned("SELECT * FROM h ORDER BY a, b"), ["1|x|2", "2|w|3", "2|x|4"]);
}

#[test]
fn values_that_do_not_fit() {
    let mut s = filled();
    assert_eq!(s.error("UPDATE t SET k = NULL WHERE id = 1").0, 1048);
    assert_eq!(s.error("UPDATE t SET id = NULL WHERE id = 1").0, 1048);
    assert_eq!(s.error("UPDATE t SET k = 'x' WHERE id = 1").0, 1366);
    assert_eq!(s.error("UPDATE t SET k = k + 9223372036854775807 WHERE id = 1").0, 1690);
    assert_eq!(s.error("UPDATE t SET nope = 1 WHERE id = 1").0, 1054);
    assert_eq!(s.error("UPDATE t SET k = nope WHERE id = 1").0, 1054);
    assert_eq!(s.error("DELETE FROM t WHERE nope = 1").0, 1054);
    assert_eq!(s.affected("UPDATE IGNORE t SET k = 'x' WHERE id = 1"), 1);
    assert_eq!(s.warned(), [1366]);
    assert_eq!(s.affected("UPDATE t SET k = DEFAULT, d = DEFAULT WHERE id = 1"), 1);
    assert_eq!(rows(&mut s)[0], "1|a|7|NULL");
}

#[test]
fn joins_change_one_table() {
    let mut s = filled();
    let sql = "UPDATE t JOIN h ON h.a = t.id SET t.k = t.k + h.c WHERE h.b = 'x'";
    assert_eq!(s.affected(sql), 2);
    assert_eq!(rows(&mut s)[..2], ["1|a|11|1.50", "2|b|23|NULL"]);
    assert_eq!(s.affected("DELETE x FROM t x JOIN h ON h.a = x.id"), 2);
    let sql = "DELETE FROM h WHERE a NOT IN (SELECT id FROM t) AND b = 'x'";
    assert_eq!(s.affected(sql), 2);
    assert_eq!(s.planned("SELECT a, b FROM h"), ["1|y"]);
}

#[test]
fn an_update_of_several_tables_sees_old_rows() {
    let mut s = filled();
    // Row 1 of t meets two rows of h: it changes once, both rows of h change.
    let done = s.run("UPDATE t JOIN h ON h.a = t.id SET t.k = t.k + 1, c = t.k * 10, t.d = t.k");
    let done = done.expect("updated");
    assert_eq!(done.affected_rows, 5);
    assert_eq!(done.info, "Rows matched: 5  Changed: 5  Warnings: 0");
    assert_eq!(rows(&mut s)[..2], ["1|a|11|11.00", "2|b|21|21.00"]);
    let h = |s: &mut Server| s.planned("SELECT a, b, c FROM h ORDER BY a, b");
    assert_eq!(h(&mut s), ["1|x|100", "1|y|100", "2|x|200"]);
    // NULLs of an outer join are no rows.
    let sql =
        "UPDATE t LEFT JOIN h ON h.a = t.id AND h.b = 'x' SET t.k = 5, h.c = 0 WHERE t.id > 1";
    assert_eq!(s.affected(sql), 4);
    assert_eq!(h(&mut s), ["1|x|100", "1|y|100", "2|x|0"]);
    // One table by two names.
    let sql = "UPDATE t x JOIN t y ON y.id = x.id + 1 SET x.k = y.id, y.d = x.id WHERE x.id <= 2";
    assert_eq!(s.affected(sql), 4);
    assert_eq!(rows(&mut s)[..3], ["1|a|2|11.00", "2|b|3|1.00", "3|NULL|5|2.00"]);
    // Keys that collide take everything back.
    s.begin();
    let sql = "UPDATE t, h SET h.c = 7, t.u = 'same' WHERE t.id = h.a AND h.b = 'x'";
    assert_eq!(s.error(sql).0, 1062);
    s.commit().expect("committed");
    assert_eq!(h(&mut s), ["1|x|100", "1|y|100", "2|x|0"]);
    assert_eq!(s.error("UPDATE t, h SET t.k = 1, h.c = 1 LIMIT 1").0, 1221);
    assert_eq!(s.error("UPDATE t, h SET t.k = 1, h.c = 1 ORDER BY t.id").0, 1221);
    assert_eq!(s.error("UPDATE t x, t y SET k = 1").0, 1052);
    assert_eq!(s.error("UPDATE t, h SET z.k = 1").0, 1054);
}

#[test]
fn a_delete_from_several_tables() {
    let mut s = filled();
    assert_eq!(s.affected("DELETE t, h FROM t JOIN h ON h.a = t.id WHERE t.id = 1"), 3);
    assert_eq!(s.planned("SELECT a, b FROM h"), ["2|x"]);
    assert_eq!(rows(&mut s).len(), 3);
    // By alias, with a table that only filters, and an outer join's NULLs.
    let sql = "DELETE FROM x, y USING t x LEFT JOIN h y ON y.a = x.id JOIN t z ON z.id = x.id \
               WHERE z.k >= 20 AND x.id < 4";
    assert_eq!(s.affected(sql), 3);
    assert_eq!(rows(&mut s), ["4|d|30|4.00"]);
    assert_eq!(s.planned("SELECT count(*) FROM h"), ["0"]);
    // The same row by two names goes once.
    assert_eq!(s.affected("DELETE x, y FROM t x JOIN t y ON y.id = x.id"), 1);
    assert_eq!(s.error("DELETE t, t FROM t JOIN h ON h.a = t.id").0, 1066);
    assert_eq!(s.error("DELETE z FROM t JOIN h ON h.a = t.id").0, 1109);
    assert_eq!(s.error("DELETE t FROM t JOIN h ON h.a = t.id LIMIT 1").0, 1221);
}

#[test]
fn explain_shows_what_is_written_and_the_way_to_the_rows() {
    let mut s = filled();
    assert_eq!(
        s.explained("UPDATE t SET k = 1 WHERE id IN (1, 2)"),
        ["Update|N/A|test.t: rows and 2 indexes", "└─Point_Get|2|t: by row key"]
    );
    assert_eq!(s.explained("DELETE FROM t WHERE u = 'a'")[1], "└─Point_Get|1|t: by unique key");
    assert_eq!(
        s.explained("UPDATE t SET k = 1 WHERE id BETWEEN 3 AND 12")[1],
        "└─TableRange|10|t: row keys 3 to 12"
    );
    assert_eq!(s.explained("DELETE FROM h")[1], "└─TableScan|?|h: all rows, in the transaction");
    assert_eq!(
        s.explained("INSERT INTO t (u) VALUES ('x'), (nothing())"),
        ["Insert|N/A|test.t: rows and 2 indexes", "└─Values|2|"]
    );
    let lines = s.explained("REPLACE INTO t (id) SELECT a FROM h WHERE c > 1");
    assert_eq!(lines[0], "Replace|N/A|test.t: rows and 2 indexes");
    assert!(lines[1].starts_with("└─"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("row(h)") || line.contains("h ")), "{lines:?}");
    let lines = s.explained("UPDATE t JOIN h ON h.a = t.id SET t.k = 1, h.c = 1");
    assert_eq!(lines[0], "Update|N/A|test.t: rows and 2 indexes");
    assert_eq!(lines[1], "Update|N/A|test.h: rows and 2 indexes");
    assert!(lines[2].starts_with("└─") && lines[3].starts_with("  "), "{lines:?}");
    let lines = s.explained("DELETE FROM t WHERE sqrt(k) > 3");
    assert!(lines[1].starts_with("└─"), "{lines:?}");
    assert_eq!(rows(&mut s).len(), 4, "nothing was changed");
}

#[test]
fn a_statement_that_is_told_to_end_changes_nothing() {
    let mut s = filled();
    s.facts.interrupt.raise(crate::interrupt::Reason::Query);
    for sql in
        ["UPDATE t SET k = 1", "DELETE FROM t WHERE abs(k) > 0", "INSERT INTO h VALUES (9, '', 9)"]
    {
        assert_eq!(s.error(sql).0, 1317, "{sql}");
    }
    s.facts.interrupt.begin();
    assert_eq!(rows(&mut s).len(), 4);
    assert_eq!(s.planned("SELECT count(*) FROM h"), ["3"]);
}

#[test]
fn a_transaction_sees_its_own_changes_by_key_and_by_plan() {
    let mut s = filled();
    s.begin();
    s.affected("INSERT INTO t (id, u, k) VALUES (50, 'n', 30)");
    s.affected("DELETE FROM t WHERE id = 3");
    assert_eq!(s.affected("UPDATE t SET d = 9 WHERE k = 30 AND abs(id) > 0"), 2);
    assert_eq!(s.affected("UPDATE t SET u = 'm' WHERE u = 'n'"), 1);
    assert_eq!(s.point("SELECT u, d FROM t WHERE id = 50").expect("a point read"), ["m|9.00"]);
    assert_eq!(s.point("SELECT id FROM t WHERE u = 'n'").expect("a point read"), [""; 0]);
    assert_eq!(
        s.point("SELECT id FROM t WHERE id BETWEEN 2 AND 60").expect("a point read"),
        ["2", "4", "50"]
    );
    // A failed statement takes back its own writes only.
    assert_eq!(s.error("UPDATE t SET u = 'same' WHERE id IN (2, 4, 50)").0, 1062);
    s.commit().expect("committed");
    assert_eq!(rows(&mut s), ["1|a|10|1.50", "2|b|20|NULL", "4|d|30|9.00", "50|m|30|9.00"]);
}

#[test]
fn the_first_to_commit_wins() {
    let mut s = filled();
    s.begin();
    s.affected("UPDATE t SET k = k + 1 WHERE id = 1");
    let own = s.open.take();
    s.affected("UPDATE t SET k = k + 5 WHERE id = 1");
    s.open = own;
    assert_eq!(s.commit().expect_err("a conflict").code, 9007);
    assert_eq!(rows(&mut s)[0], "1|a|15|1.50");
}

/// The same random changes, found by key in one table and by a plan in the other, leave the same
/// rows and give the same counts and errors.
#[test]
fn by_key_and_by_plan_are_the_same() {
    let twin = |name: &str| {
        let mut table = table_t();
        table.0.name = name.to_owned();
        table.0.columns[0].auto_increment = false;
        table
    };
    let mut s = Server::new(vec![twin("a"), twin("b")]);
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    for step in 0..150 {
        let (x, y, z) = (random(12), random(12), random(5));
        let key = [format!("id = {x}"), format!("id IN ({x}, {y})"), format!("u = 'u{y}'")];
        let key = &key[random(3) as usize];
        let plan = key.replace("id ", "id + 0 ").replace("u =", "concat(u, '') =");
        let template = match random(6) {
            0 | 1 => format!("INSERT INTO @ (id, u, k) VALUES ({x}, 'u{y}', {z})"),
            2 => format!("UPDATE @ SET k = k + {z}, u = 'u{x}' WHERE #"),
            3 => format!("UPDATE @ SET id = {y}, d = id + {z} WHERE # AND k > {z}"),
            4 => format!("DELETE FROM @ WHERE # AND k <> {z}"),
            _ => format!("REPLACE INTO @ (id, u, k) VALUES ({x}, 'u{y}', {z})"),
        };
        let direct = s.run(&template.replace('@', "a").replace('#', key));
        let planned = s.run(&template.replace('@', "b").replace('#', &plan));
        let shown = |r: &Result<Done>| match r {
            Ok(done) => format!("{} {}", done.affected_rows, done.info),
            Err(e) => format!("{} {}", e.code, e.message.replace("'b.", "'a.")),
        };
        assert_eq!(shown(&direct), shown(&planned), "{step}: {template} / {key}");
        let (a, b) =
            (s.planned("SELECT * FROM a ORDER BY id"), s.planned("SELECT * FROM b ORDER BY id"));
        assert_eq!(a, b, "{step}: {template} / {key}");
    }
}
