//! TPC-H at scale 0.01: each query gives DuckDB's answer (`tpch/answers_sf001.txt`), and the same
//! from rows, from columns and as the optimizer likes.

mod query_common;
#[path = "query_common/tpch.rs"]
mod tpch;

use damask_types::Datum;
use std::collections::HashMap;

/// Numbers may differ in digits that MySQL does not keep.
fn same(want: &str, got: &str) -> bool {
    if want == got {
        return true;
    }
    match (want.parse::<f64>(), got.parse::<f64>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= 1e-3 * a.abs().max(b.abs()).max(0.1),
        _ => false,
    }
}

#[test]
fn tpch_gives_the_right_answers_from_every_engine() {
    let mut engine = tpch::engine(0.01);
    let answers = include_str!("tpch/answers_sf001.txt");
    let answers: HashMap<_, _> = tpch::sections(answers).into_iter().collect();
    let queries = tpch::queries();
    assert_eq!(queries.len(), 22);
    let mut failed = Vec::new();
    for (name, sql) in &queries {
        let mut results = Vec::new();
        for engines in ["row", "column", "row,column"] {
            let value = Datum::Text(engines.to_owned());
            let name = "damask_isolation_read_engines";
            engine.variables.set(name, Some(value), false).expect("sets");
            results.push(engine.rows(sql));
        }
        let rows = match &results[0] {
            Ok(rows) => rows,
            Err(e) => {
                failed.push(format!("{name}: {e}"));
                continue;
            }
        };
        if results[1].as_ref() != Ok(rows) || results[2].as_ref() != Ok(rows) {
            failed.push(format!("{name}: engines differ"));
        }
        let want: Vec<Vec<&str>> = match answers[name].as_str() {
            "" => Vec::new(),
            text => text.lines().map(|l| l.split(" | ").collect()).collect(),
        };
        let row_same = |(w, g): (&Vec<&str>, &Vec<String>)| {
            w.len() == g.len() && w.iter().zip(g).all(|(w, g)| same(w, g))
        };
        if want.len() != rows.len() || !want.iter().zip(rows).all(row_same) {
            let first = want.iter().zip(rows).find(|pair| !row_same(*pair));
            failed.push(format!("{name}: {} rows of {}, {first:?}", rows.len(), want.len()));
        }
    }
    assert!(failed.is_empty(), "{} fail:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn explain_says_which_engine_and_why() {
    let mut engine = tpch::engine(0.001);
    let plan = engine.explain("select sum(l_quantity) from lineitem where l_discount > 0.05");
    assert!(plan.contains("Fragment[column] table=lineitem"), "{plan}");
    assert!(plan.contains("aggr=sum"), "the partial sum runs beside the data: {plan}");
    assert!(plan.contains("by cost; cost: row"), "{plan}");
    let plan = engine.explain("select * from orders where o_orderkey = 7");
    assert!(plan.contains("Fragment[row] table=orders"), "{plan}");
    let hinted = "select /*+ read_from_storage(row[l]) */ sum(l_quantity) from lineitem l";
    let plan = engine.explain(hinted);
    assert!(plan.contains("Fragment[row]") && plan.contains("by hint"), "{plan}");
    let value = Datum::Text("row".to_owned());
    engine.variables.set("damask_isolation_read_engines", Some(value), false).expect("sets");
    let plan = engine.explain("select sum(l_quantity) from lineitem");
    assert!(plan.contains("Fragment[row]") && plan.contains("by setting"), "{plan}");
}
