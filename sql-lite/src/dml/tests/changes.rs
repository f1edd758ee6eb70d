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
    assert_eq!(s.error("UPDATE t JOIN h ON h.a = t.id SET t.k = 1, h.c = 1").0, 1235);
    assert_eq!(s.affected("DELETE x FROM t x JOIN h ON h.a = x.id"), 2);
    let sql = "DELETE FROM h WHERE a NOT IN (SELECT id FROM t) AND b = 'x'";
    assert_eq!(s.affected(sql), 2);
    assert_eq!(s.planned("SELECT a, b FROM h"), ["1|y"]);
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
