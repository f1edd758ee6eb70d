//! Queries that ask for too much or are written in odd ways (`scripts/robust.test`), and what
//! bounds them. It must never take minutes, whatever is broken.

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

/// A query of a table `t` of as many rows as the square of `n`, with texts of this length.
fn squared(n: usize, length: usize, query: &str) -> String {
    format!(
        "with recursive n(i) as (select 1 union all select i+1 from n where i < {n}), \
         t(a, b) as (select x.i * {n} + y.i, repeat('x', {length}) from n x cross join n y) {query}"
    )
}

/// An engine whose queries have this quota of bytes.
fn engine(quota: u64, spills: bool) -> Engine {
    let mut engine = Engine::over_rows(Vec::new());
    let mut set = |name: &str, value: Datum| engine.variables.set(name, Some(value), false);
    set("tidb_mem_quota_query", Datum::UInt(quota)).expect("is set");
    set("tidb_enable_tmp_storage_on_oom", Datum::Int(spills.into())).expect("is set");
    engine
}

#[test]
fn a_query_over_its_quota_ends() {
    let engine = engine(512 << 10, false);
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
        let done = engine.rows(&squared(250, 40, query)).map(|rows| rows.len());
        let code = done.as_ref().map_err(|e: &Error| e.code);
        assert_eq!(code, Err(8175), "{query}: {done:?}");
    }
    let rows = engine.rows(&squared(20, 40, "select count(distinct a), sum(a) from t"));
    assert_eq!(rows.map(|r| r[0][0].clone()), Ok("400".into()), "the next has its own quota");
}

#[test]
fn what_sorts_spills() {
    let engine = engine(32 << 20, true);
    let rows = |query: &str| engine.rows(&squared(250, 400, query)).map(|rows| rows.concat());
    let sorted = rows("select a from t order by b, a").expect("is sorted");
    let expected: Vec<_> = (251..=62_750).map(|a| a.to_string()).collect();
    assert!(sorted == expected, "{} rows", sorted.len());
}

#[test]
fn planning_is_bounded() {
    let engine = Engine::over_rows(Vec::new());
    let sum = format!("select 1{}", "+1".repeat(100));
    assert_eq!(engine.rows(&sum).map(|rows| rows.concat()), Ok(vec!["101".to_owned()]));
    let doubled = |levels: usize| {
        let mut sql = "with c0 as (select 1 a)".to_owned();
        for i in 1..=levels {
            let j = i - 1;
            sql.push_str(&format!(", c{i} as (select x.a from c{j} x join c{j} y on x.a = y.a)"));
        }
        let done = engine.rows(&format!("{sql} select * from c{levels}"));
        done.map(|rows| rows.concat()).map_err(|e| e.code)
    };
    assert_eq!(doubled(4), Ok(vec!["1".to_owned()]));
    assert_eq!(doubled(30), Err(1116), "a plan of 2^30 tables");
}
