//! Queries that ask for too much or are written in odd ways (`scripts/robust.test`), and what bounds
//! them. It must never take minutes, whatever is broken.

mod query_common;

use damask_sql_lite::Error;
use damask_types::Datum;
use query_common::{Engine, script};

#[test]
fn odd_queries_give_mysqls_answers() {
    let engine = Engine::over_rows(Vec::new());
    let (cases, failed) = script(&engine, include_str!("scripts/robust.test"));
    assert!(cases > 20, "the script was read");
    assert!(failed.is_empty(), "{} of {cases} fail:\n{}", failed.len(), failed.join("\n"));
}

/// As many rows as the square of `n`.
fn squared(n: usize, query: &str) -> String {
    format!(
        "with recursive n(i) as (select 1 union all select i+1 from n where i < {n}), \
         t(a, b) as (select x.i * {n} + y.i, repeat('x', 40) from n x cross join n y) {query}"
    )
}

fn engine(quota: u64, spills: bool) -> Engine {
    let mut engine = Engine::over_rows(Vec::new());
    let mut set = |name: &str, value: Datum| engine.variables.set(name, Some(value), false);
    set("tidb_mem_quota_query", Datum::UInt(quota)).expect("is set");
    set("tidb_enable_tmp_storage_on_oom", Datum::Int(spills.into())).expect("is set");
    engine
}

#[test]
fn a_query_over_its_quota_ends() {
    let engine = engine(4 << 20, false);
    for query in [
        "select * from t order by b, a",
        "select a, count(*) from t group by a",
        "select count(distinct a) from t",
        "select group_concat(b) from t",
        "select group_concat(b order by a) from t",
        "select group_concat(distinct a) from t",
        "select count(distinct b, a) from t",
        "select distinct a from t",
        "select a from t union select a + 1 from t",
        "select count(*) from t x join t y on x.a = y.a",
        "select max(s) from (select sum(a) over () s from t) z",
    ] {
        let done = engine.rows(&squared(500, query)).map(|rows| rows.len());
        assert_eq!(done.map_err(|e: Error| e.code), Err(8175), "{query}");
    }
    let rows = engine.rows(&squared(30, "select count(distinct a), sum(a) from t"));
    assert_eq!(rows.map(|r| r[0][0].clone()), Ok("900".into()), "the next has its own quota");
}

#[test]
fn what_sorts_and_groups_spills() {
    let engine = engine(32 << 20, true);
    let sorted = squared(500, "select a from t order by b, a limit 3 offset 249990");
    assert_eq!(engine.rows(&sorted).map(|r| r.concat()), Ok(vec!["250491".into(), "250492".into(), "250493".into()]));
    let grouped = squared(500, "select count(*), sum(c) from (select a, b, count(*) c from t group by a, b) z");
    assert_eq!(engine.rows(&grouped).map(|r| r.concat()), Ok(vec!["250000".into(), "250000".into()]));
}

#[test]
fn scratch_times() {
    use std::time::Instant;
    let engine = Engine::over_rows(Vec::new());
    let time = |name: &str, sql: String| {
        let start = Instant::now();
        let got = engine.rows(&sql).map(|r| r.len());
        eprintln!("{name}: {:?} {:?}", start.elapsed(), got.map_err(|e| e.to_string()));
    };
    let which = std::env::var("WHICH").unwrap_or_default();
    let n: usize = std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    if which.contains('e') {
        let mut sql = "select 1 a".to_owned();
        for i in 0..n {
            sql = format!("select {i} a from (select {i} a) t{i} where exists ({sql})");
        }
        time("exists", sql);
    }
    if which.contains('i') {
        let mut sql = "select 1 a".to_owned();
        for i in 0..n {
            sql = format!("select {i} a from (select {i} a) t{i} where a in ({sql})");
        }
        time("in", sql);
    }
    if which.contains('c') {
        let mut sql = "with c0 as (select 1 a)".to_owned();
        for i in 1..=n {
            let j = i - 1;
            sql.push_str(&format!(", c{i} as (select x.a from c{j} x join c{j} y on x.a=y.a)"));
        }
        time("cte", format!("{sql} select * from c{n}"));
    }
    if which.contains('p') {
        time("plus", format!("select 1{}", "+1".repeat(n)));
    }
    if which.contains('o') {
        let o: Vec<_> = (0..n).map(|i| format!("a+{i}")).collect();
        time("order", format!("select a from (select 1 a) t order by {}", o.join(",")));
    }
}
