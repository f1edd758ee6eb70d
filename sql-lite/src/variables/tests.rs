//! What SET accepts and what `@@` then says.

use super::*;

fn text(s: &str) -> Datum {
    Datum::Text(s.to_owned())
}

#[test]
fn a_new_session_starts_from_the_globals() {
    let globals = Arc::new(Globals::default());
    let mut one = Variables::new(globals.clone());
    one.set("TIME_ZONE", Some(text("+02:00")), true).expect("set");
    assert_eq!(one.time_zone_offset_us(), 0, "the session that set it keeps its own");
    let two = Variables::new(globals);
    assert_eq!(two.time_zone_offset_us(), 7_200_000_000);
    assert_eq!(two.get("time_zone"), Some(text("+02:00")));
}

#[test]
fn mysql_numbers_for_what_is_refused() {
    let mut v = Variables::new(Arc::default());
    let mut code = |name: &str, value: Datum, global| {
        v.set(name, Some(value), global).expect_err("must be refused").code
    };
    assert_eq!(code("no_such", Datum::Int(1), false), 1193);
    assert_eq!(code("version", text("x"), false), 1238);
    assert_eq!(code("max_connections", Datum::Int(1), false), 1229);
    assert_eq!(code("timestamp", Datum::Int(1), true), 1228);
    assert_eq!(code("autocommit", text("maybe"), false), 1231);
    assert_eq!(code("sql_mode", text("STRICT_NOT"), false), 1231);
    assert_eq!(code("wait_timeout", text("x"), false), 1232);
    assert_eq!(code("time_zone", text("Mars/Olympus"), false), 1298);
    assert_eq!(code("collation_connection", text("klingon_ci"), false), 1273);
    assert_eq!(code("damask_isolation_read_engines", text("tape"), false), 1231);
}

#[test]
fn decoded_values_follow_set() {
    let mut v = Variables::new(Arc::default());
    v.set("autocommit", Some(text("off")), false).expect("set");
    assert!(!v.autocommit());
    assert_eq!(v.shown("autocommit", false).as_deref(), Some("OFF"));
    v.set("sql_mode", Some(text("ansi_quotes")), false).expect("set");
    assert!(v.sql_mode().ansi_quotes() && !v.sql_mode().strict());
    v.set("sql_mode", None, false).expect("default");
    assert!(v.sql_mode().strict());
    v.set("tidb_isolation_read_engines", Some(text("tikv")), false).expect("alias");
    assert_eq!(v.read_engines(), ReadEngines { row: true, column: false });
    v.set("character_set_results", Some(Datum::Null), false).expect("NULL is allowed here");
    assert_eq!(v.get("character_set_results"), Some(Datum::Null));
    assert_eq!(v.get("tx_isolation"), Some(text("REPEATABLE-READ")));
}

#[test]
fn numbers_are_clamped_and_names_sorted() {
    let mut v = Variables::new(Arc::default());
    v.set("wait_timeout", Some(Datum::Int(-5)), false).expect("clamped");
    assert_eq!(v.get("wait_timeout"), Some(Datum::Int(1)));
    assert!(v.all(false).len() > 100);
    assert!(v.set_names("utf8mb4", Some("utf8mb4_general_ci")).is_ok());
    assert_eq!(v.set_names("ebcdic", None).expect_err("unknown").code, 1115);
}

#[test]
fn levels_that_there_are_not_are_refused_or_taken_for_others() {
    let mut v = Variables::new(Arc::default());
    assert_eq!(
        (v.transaction_mode(), v.isolation()),
        (Mode::Pessimistic, Isolation::RepeatableRead)
    );
    v.set("tx_isolation", Some(text("read-committed")), false).expect("set");
    assert_eq!(v.isolation(), Isolation::ReadCommitted);
    for level in ["serializable", "READ-UNCOMMITTED"] {
        for global in [false, true] {
            let error = v.set("transaction_isolation", Some(text(level)), global);
            assert_eq!(error.expect_err("refused").code, 8048);
        }
    }
    assert_eq!(v.isolation(), Isolation::ReadCommitted);
    v.set("tidb_skip_isolation_level_check", Some(Datum::Int(1)), false).expect("set");
    v.set("transaction_isolation", Some(text("serializable")), false).expect("taken");
    assert_eq!(v.isolation(), Isolation::RepeatableRead);
    v.set("damask_txn_mode", Some(text("Optimistic")), false).expect("set");
    assert_eq!(v.transaction_mode(), Mode::Optimistic);
    assert_eq!(v.get("tidb_txn_mode"), Some(text("optimistic")));
    v.set("tidb_txn_mode", Some(text("")), false).expect("set");
    assert_eq!(v.transaction_mode(), Mode::Optimistic, "as TiDB takes it");
    v.set("innodb_lock_wait_timeout", Some(Datum::Int(0)), false).expect("clamped");
    assert_eq!(v.lock_wait(), Wait::Millis(1_000));
}
