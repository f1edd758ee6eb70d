mod query_common;
#[path = "query_common/tpch.rs"]
mod tpch;
use damask_types::Datum;
use std::time::Instant;
#[test]
fn perf() {
    let mut engine = tpch::engine(0.1);
    for engines in ["column"] {
        engine
            .variables
            .set("damask_isolation_read_engines", Some(Datum::Text(engines.into())), false)
            .unwrap();
        for (name, sql) in tpch::queries() {
            let mut best = f64::MAX;
            let mut plan = f64::MAX;
            for _ in 0..4 {
                let t = Instant::now();
                engine.rows(&sql).unwrap();
                best = best.min(t.elapsed().as_secs_f64() * 1e3);
            }
            for _ in 0..4 {
                let t = Instant::now();
                engine.explain(&sql);
                plan = plan.min(t.elapsed().as_secs_f64() * 1e3);
            }
            println!("{engines} {name} {best:.1} ms (plan {plan:.2} ms)");
        }
        for sql in [
            "select sum(l_orderkey), count(*) from lineitem",
            "select count(*) from lineitem",
            "select * from orders where o_orderkey = 7",
            "select 1",
        ] {
            let mut best = f64::MAX;
            let mut plan = f64::MAX;
            for _ in 0..20 {
                let t = Instant::now();
                engine.rows(sql).unwrap();
                best = best.min(t.elapsed().as_secs_f64() * 1e3);
            }
            for _ in 0..20 {
                let t = Instant::now();
                engine.explain(sql);
                plan = plan.min(t.elapsed().as_secs_f64() * 1e3);
            }
            println!("{engines} {sql} {best:.2} ms (plan {plan:.2} ms)");
        }
        println!("{}", engine.explain(&tpch::queries()[0].1));
        println!("{}", engine.explain(&tpch::queries()[5].1));
    }
}
