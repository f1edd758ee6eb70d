//! A small race: every engine answers like the oracle, and the report names what was measured.

use super::*;
use crate::error::Result as StoreResult;
use crate::memory::MemoryColumnStore;
use crate::store::{
    BatchIter, ChangeBatch, ColumnSnapshot, HandleRange, Mark, ScanRequest, TableStats,
};
use damask_types::{TableId, Timestamp};

/// A store that answers every question about the past with the present.
struct Forgetful(MemoryColumnStore);

impl ColumnStore for Forgetful {
    fn apply(&self, batch: &ChangeBatch) -> StoreResult<()> {
        self.0.apply(batch)
    }

    fn clear(&self, table: TableId, range: HandleRange) -> StoreResult<()> {
        self.0.clear(table, range)
    }

    fn sync(&self, marks: &[Mark]) -> StoreResult<()> {
        self.0.sync(marks)
    }

    fn marks(&self) -> StoreResult<Vec<Mark>> {
        self.0.marks()
    }

    fn snapshot(&self, table: TableId) -> StoreResult<Arc<dyn ColumnSnapshot>> {
        Ok(Arc::new(Present(self.0.snapshot(table)?)))
    }

    fn maintain(&self, safe_point: Timestamp, budget_bytes: u64) -> StoreResult<bool> {
        self.0.maintain(safe_point, budget_bytes)
    }

    fn stats(&self, table: TableId) -> StoreResult<TableStats> {
        self.0.stats(table)
    }
}

struct Present(Arc<dyn ColumnSnapshot>);

impl ColumnSnapshot for Present {
    fn scan(&self, request: &ScanRequest, parts: usize) -> StoreResult<Vec<BatchIter>> {
        self.0.scan(&ScanRequest { ts: Timestamp(u64::MAX), ..request.clone() }, parts)
    }

    fn count(&self, ranges: &[HandleRange], _ts: Timestamp) -> StoreResult<u64> {
        self.0.count(ranges, Timestamp(u64::MAX))
    }
}

#[test]
fn a_wrong_answer_about_the_past_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let race = |name: &str, open: Open| {
        let small = RaceConfig::small(&folder.path().join(name));
        let guests = vec![Engine { name: "guest", open, is_bound: false }];
        let engines = vec!["guest".to_owned(), "append-only".to_owned()];
        let (parts, questions) = (vec![Part::Ladder], vec!["Q2".to_owned()]);
        run(RaceConfig { rows: 6_000, guests, engines, parts, questions, ..small })
    };
    let right = race("right", |_| Ok(Arc::new(MemoryColumnStore::new()))).expect("right answers");
    let past = right.ladder.iter().find(|cell| cell.question.contains("ago")).expect("asked");
    let timed = right.engines.iter().zip(&past.times).filter(|(_, times)| times.is_some());
    let timed: Vec<&str> = timed.map(|(name, _)| *name).collect();
    assert_eq!(timed, ["guest"], "a bound holds no past to be timed");
    let wrong = race("wrong", |_| Ok(Arc::new(Forgetful(MemoryColumnStore::new()))));
    let error = wrong.map(|report| report.text()).expect_err("the present is not the past");
    assert!(error.to_string().contains("guest: Q2, 20000 rows ago at 5 %"), "{error}");
}

#[test]
fn the_oracle_knows_what_was_hidden() {
    let mut workload = Workload::new(3_000, Placement::Zipf);
    let mut history = vec![(workload.now, workload.newest.clone())];
    for rows in 1..=3 * READABLE {
        workload.transactions(rows);
        history.push((workload.now, workload.newest.clone()));
        for (ts, versions) in history.iter().filter(|(ts, _)| *ts >= workload.oldest()) {
            assert_eq!(*workload.versions_at(*ts), **versions, "at {ts} of {}", workload.now);
        }
    }
    assert_eq!(workload.now - workload.oldest(), READABLE);
}

#[test]
fn every_engine_answers_like_the_oracle() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = RaceConfig { rows: 12_000, ..RaceConfig::small(folder.path()) };
    let report = run(config).expect("right answers");
    assert!(report.writes.iter().all(|writes| writes.live_bytes == 12_000 * 40));
    assert!(report.writes[0].disk_bytes >= 12_000 * 40, "packs are not compressed");
    let text = report.text();
    let engines = ["deltatree", "lsm strong", "lsm naive", "append-only"];
    let others = ["Q1", "16.11", "loses", "rows/s (rows", "space", "freshness"];
    for name in engines.iter().chain(&others) {
        assert!(text.contains(name), "{name} is missing:\n{text}");
    }
    assert_eq!(report.html().matches("<svg").count(), 2 + questions::ALL.len() + 1);
}

#[test]
fn a_wide_table_has_columns_of_every_kind() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = RaceConfig { rows: 6_000, wide: true, ..RaceConfig::small(folder.path()) };
    let report = run(RaceConfig { placement_ladder: Vec::new(), ..small }).expect("right answers");
    let text = report.text();
    for (name, _) in questions::WIDE {
        assert!(text.contains(name), "{name} is missing:\n{text}");
    }
}

#[test]
fn a_wrong_number_in_the_environment_is_an_error() {
    let small = RaceConfig { rows: 10, ..RaceConfig::small(Path::new("unused")) };
    assert!(small.from_environment().is_err());
}

#[test]
fn parts_can_be_run_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let only = |name: &str| {
        let small = RaceConfig::small(&folder.path().join(name));
        let questions = vec!["Q2 sum".to_owned()];
        let parts = vec![part(name).expect("a part's name")];
        run(RaceConfig { rows: 6_000, parts, questions, ..small }).expect("right answers").text()
    };
    let lines = only("bandwidth");
    assert!(lines.contains("sums by group") && !lines.contains("Q2"), "{lines}");
    let ladder = only("ladder");
    assert!(ladder.contains("Q2 sum") && !ladder.contains("Q3"), "{ladder}");
    assert!(!ladder.contains("cycle:") && !ladder.contains("GB/s"), "{ladder}");
    assert!(only("cycle").contains("ampl."));
    assert!(part("all").is_err());
}
