//! A small race: every engine answers like the oracle, and the report names what was measured.

use super::*;

#[test]
fn every_engine_answers_like_the_oracle() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = RaceConfig { rows: 12_000, ..RaceConfig::small(folder.path()) };
    let report = run(config).expect("right answers");
    let text = report.text();
    for name in ["deltatree", "lsm strong", "lsm naive", "append-only", "Q1", "16.11", "loses"] {
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
