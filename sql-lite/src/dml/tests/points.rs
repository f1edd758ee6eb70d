//! Point reads: which queries are, and that they answer as the plan does.

use super::*;

fn filled() -> Server {
    let mut s = Server::new(vec![table_t(), table_h()]);
    let sql = "INSERT INTO t (id, u, k, d) VALUES (1, 'a', 10, 1.5), (2, 'b', 20, NULL), \
               (3, NULL, 30, 3), (4, 'd', 30, 4), (-5, 'e', 1, 0)";
    s.affected(sql);
    s.affected("INSERT INTO h VALUES (1, 'x', 1), (1, 'y', 2), (2, 'x', 3)");
    s
}

#[test]
fn point_reads_answer_as_plans_do() {
    let mut s = filled();
    for sql in [
        "SELECT * FROM t WHERE id = 1",
        "SELECT u, id, u AS v, 1 FROM t WHERE id = 2",
        "SELECT x.* FROM t AS x WHERE x.id = '3'",
        "SELECT u FROM test.t WHERE 4 = id",
        "SELECT u FROM t WHERE id = 99",
        "SELECT u FROM t WHERE id = NULL",
        "SELECT u FROM t WHERE id = 1.5",
        "SELECT u FROM t WHERE id = 99999999999999999999",
        "SELECT id FROM t WHERE id IN (4, 1, 1, 77, -5)",
        "SELECT id FROM t WHERE id BETWEEN -10 AND 3",
        "SELECT id FROM t WHERE id >= 2 AND id < 4 AND k > 5",
        "SELECT id FROM t WHERE id > 4 AND id < 2",
        "SELECT id FROM t WHERE id BETWEEN 1 AND 4 LIMIT 2",
        "SELECT id FROM t WHERE u = 'd'",
        "SELECT id FROM t WHERE u = 'nothing'",
        "SELECT id FROM t WHERE u = 'd' AND (k = 1 OR d IS NOT NULL)",
        "SELECT id FROM t WHERE id = 4 AND NOT (d < 4.0 OR u <> 'd')",
        "SELECT * FROM h WHERE a = 1 AND b = 'y'",
        "SELECT c FROM h WHERE a IN (1, 2) AND b = 'x' AND c > 2",
        "SELECT u FROM t WHERE id = 1 ORDER BY u LIMIT 1",
    ] {
        let planned = s.planned(sql);
        let point = s.point(sql).unwrap_or_else(|| panic!("{sql}: no point read"));
        assert_eq!(point, planned, "{sql}");
        s.begin();
        assert_eq!(s.point(sql).expect("a point read"), planned, "{sql}");
        s.open = None;
    }
}

#[test]
fn limits_and_offsets_count_rows_that_qualify() {
    let mut s = filled();
    for (sql, expected) in [
        ("SELECT id FROM t WHERE id BETWEEN -9 AND 4 LIMIT 1, 2", &["1", "2"][..]),
        ("SELECT id FROM t WHERE id BETWEEN 1 AND 4 AND k > 10 LIMIT 1 OFFSET 1", &["3"]),
        ("SELECT id FROM t WHERE id = 1 LIMIT 1 OFFSET 1", &[]),
        ("SELECT id FROM t WHERE id = 1 LIMIT 0", &[]),
        ("SELECT id FROM t WHERE id IN (1, 2) LIMIT 18446744073709551615 OFFSET 1", &["2"]),
    ] {
        assert_eq!(s.point(sql).expect("a point read"), expected, "{sql}");
    }
}

#[test]
fn other_queries_are_left_to_the_plan() {
    let mut s = filled();
    for sql in [
        "SELECT * FROM t",
        "SELECT * FROM t WHERE k = 10",
        "SELECT * FROM t WHERE id > 1",
        "SELECT * FROM t WHERE id = 1 OR id = 2",
        "SELECT * FROM t WHERE id = '1x'",
        "SELECT * FROM t WHERE u = 1",
        "SELECT * FROM t WHERE id BETWEEN 0 AND 1000000",
        "SELECT * FROM t WHERE id IN (1, 2) ORDER BY u",
        "SELECT count(*) FROM t WHERE id = 1",
        "SELECT DISTINCT u FROM t WHERE id = 1",
        "SELECT u FROM t WHERE id = 1 GROUP BY u",
        "SELECT u FROM t WHERE id = 1 UNION SELECT u FROM t",
        "SELECT t.u FROM t, h WHERE id = 1",
        "SELECT upper(u) FROM t WHERE id = 1",
        "SELECT nope FROM t WHERE id = 1",
        "SELECT u FROM missing WHERE id = 1",
        "SELECT u FROM t WHERE id = (SELECT 1)",
        "SELECT * FROM h WHERE a = 1",
        "SELECT /*+ READ_FROM_STORAGE(COLUMN[t]) */ u FROM t WHERE id = 1",
        "SELECT 1",
    ] {
        assert_eq!(s.point(sql), None, "{sql}");
    }
    let engines = Some(Datum::Text("column".into()));
    s.variables.set("damask_isolation_read_engines", engines, false).expect("a list");
    assert_eq!(s.point("SELECT * FROM t WHERE id = 1"), None);
}

#[test]
fn for_update_makes_the_second_writer_fail() {
    let mut s = filled();
    s.begin();
    assert_eq!(s.point("SELECT k FROM t WHERE id = 1 FOR UPDATE").expect("a point read"), ["10"]);
    s.affected("UPDATE t SET k = 0 WHERE id = 2");
    let own = s.open.take();
    s.affected("UPDATE t SET k = 11 WHERE id = 1");
    s.open = own;
    assert_eq!(s.commit().expect_err("a conflict").code, 9007);
}

#[test]
fn rows_of_any_plain_query_can_be_locked() {
    for (sql, changed, conflict) in [
        ("SELECT * FROM t WHERE k = 30 FOR UPDATE", "id = 3", true),
        ("SELECT * FROM t WHERE k = 30 FOR UPDATE", "id = 2", false),
        ("SELECT * FROM t ORDER BY k DESC, id LIMIT 1 FOR UPDATE", "id = 3", true),
        ("SELECT * FROM t ORDER BY k DESC, id LIMIT 1 FOR UPDATE", "id = 4", false),
        ("SELECT t.k FROM t JOIN h ON h.a = t.id FOR UPDATE OF h", "id = 1", false),
        ("SELECT t.k FROM t JOIN h ON h.a = t.id FOR UPDATE", "id = 1", true),
    ] {
        let mut s = filled();
        s.begin();
        let parsed = parse(sql, 0, s.variables.sql_mode()).expect("parses");
        let Stmt::Query(query) = &parsed.stmt else { panic!("{sql}: no query") };
        assert!(locking(query, &s.variables).is_some(), "{sql}: asks for locks");
        lock_rows(&mut s.context(&parsed.hints, None), query).expect("locked");
        let own = s.open.take();
        s.affected(&format!("UPDATE t SET d = 99 WHERE {changed}"));
        s.open = own;
        assert_eq!(s.commit().is_err(), conflict, "{sql}: {changed}");
    }
}

#[test]
fn a_row_written_before_a_column_was_added() {
    let mut s = filled();
    let change = |change: &mut crate::catalog::Change| {
        let table = change.view.table("test", "h").expect("a table");
        let mut table = Table((*table).clone()).column("e", int(), false);
        table.0.version += 1;
        table.0.columns[3].origin_default = encode_value(&Datum::Int(42));
        change.put(table.0);
        Ok(())
    };
    s.catalog.change(change).expect("a column");
    assert_eq!(s.point("SELECT * FROM h WHERE a = 2 AND b = 'x'").expect("a point"), ["2|x|3|42"]);
    s.affected("UPDATE h SET c = 4 WHERE a = 2 AND b = 'x'");
    assert_eq!(s.planned("SELECT * FROM h WHERE a = 2"), ["2|x|4|42"]);
}
