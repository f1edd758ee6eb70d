//! The invariants of transactions by number and name, the tests that hold each, and
//! the proof that the checker of stored records can fail. It must name no test that is gone.

use damask_kv::{Engine, MemoryEngine, records_to_batch};
use damask_txn::testing::{Broken, check_invariants};
use damask_types::{Lock, LockKind, Record, Timestamp, Write, WriteKind};
use std::path::Path;

/// Number and name, and tests as "file::name" from the workspace's root.
const TABLE: [(&str, &[&str]); 20] = [
    ("one_lock_per_key", &[BROKEN, COMMANDS, HISTORIES, LEADERS]),
    ("commit_after_start", &[BROKEN, COMMANDS, HISTORIES, LEADERS]),
    ("unique_outcome", &[BROKEN, COMMANDS, HISTORIES, LEADERS]),
    ("same_commit_ts", &[BROKEN, COMMANDS, HISTORIES, HIGHEST]),
    ("commit_implies_primary", &[BROKEN, COMMANDS, HISTORIES, LEADERS]),
    ("no_write_overlap", &[BROKEN, COMMANDS, HISTORIES, LEADERS]),
    (
        "value_present",
        &[
            BROKEN,
            COMMANDS,
            HISTORIES,
            "kv/src/gc/tests.rs::reads_at_or_above_the_safe_point_are_the_same",
        ],
    ),
    ("abort_is_final", &[COMMANDS, DECISIONS, LATE_COPIES, "txn/tests/scripts.rs::scripts"]),
    ("unique_write", &[COMMANDS, HISTORIES]),
    ("min_commit_respected", &["txn/tests/scripts.rs::scripts", HIGHEST]),
    (
        "snapshot_read",
        &[
            HISTORIES,
            "txn/tests/history.rs::optimistic_histories_on_short_ways_have_snapshot_isolation",
        ],
    ),
    (
        "no_commit_below_read",
        &[
            "txn/tests/loom.rs::a_read_sees_the_lock_or_the_commit_or_is_below_it",
            "txn/tests/loom.rs::every_other_order_fails",
            BELOW_READ,
            NEW_LEADER,
        ],
    ),
    (
        "snapshot_isolation",
        &[
            HISTORIES,
            LEADERS,
            LOCKED,
            "txn/src/history/tests.rs::read_skew_is_found",
            "txn/src/history/tests.rs::a_lost_update_is_found",
            "cluster/tests/isolation.rs::every_level_isolates_as_it_is_written_down",
        ],
    ),
    ("strict", &[HISTORIES, "txn/tests/short_commit.rs::commits_keep_the_order_of_time"]),
    (
        "bank_total",
        &[
            "txn/tests/bank.rs::the_bank_keeps_its_money_on_short_ways",
            "txn/tests/bank.rs::the_pessimistic_bank_keeps_its_money",
            "txn/tests/bank.rs::the_bank_of_both_minds_keeps_its_money",
            LEADERS,
            LOCKED,
            "cluster/tests/faults.rs::transfers_keep_the_sum_in_rows_and_columns_at_every_moment",
        ],
    ),
    (
        "ts_monotone",
        &[
            "tso/src/local/tests.rs::a_power_cut_at_any_operation_repeats_nothing",
            "tso/src/local/tests.rs::a_paused_leader_gives_out_nothing_after_its_successor",
            "tso/src/local/tests.rs::everything_served_is_below_the_saved_bound",
        ],
    ),
    ("undetermined_not_retried", &["txn/tests/short_commit.rs::undetermined_not_retried"]),
    (
        "gc_reads",
        &[
            "kv/src/gc/tests.rs::reads_at_or_above_the_safe_point_are_the_same",
            "txn/tests/gc.rs::reads_at_or_above_the_safe_point_do_not_change",
            "txn/tests/gc.rs::the_safe_point_outlives_a_restart",
        ],
    ),
    ("idempotence", &["txn/tests/idempotence.rs::random_commands_keep_the_invariants"]),
    (
        "one_victim_per_circle",
        &[
            "txn/src/deadlock/tests.rs::random_waits_agree_with_a_plain_search",
            "txn/src/server/tests/waiting.rs::a_circle_has_one_victim_and_the_other_goes_on",
            "txn/tests/pessimistic.rs::of_a_circle_one_is_the_victim",
            "txn/tests/pessimistic.rs::a_circle_of_transactions_that_last_has_a_victim_too",
        ],
    ),
];

const HIGHEST: &str =
    "txn/tests/short_commit.rs::an_async_commit_is_at_the_highest_version_that_a_key_asks_for";
const DECISIONS: &str = "txn/tests/decisions.rs::transactions_of_every_kind_keep_the_invariants";
const LATE_COPIES: &str = "txn/tests/late.rs::a_failed_commit_is_not_made_by_late_copies";
const BELOW_READ: &str = "txn/src/server/tests/phases.rs::\
    nobody_commits_below_what_was_read_by_whatever_command";
const NEW_LEADER: &str = "txn/src/server/tests/phases.rs::\
    a_new_leader_starts_above_what_its_predecessor_has_served";
const BROKEN: &str = "txn/tests/invariants.rs::each_broken_invariant_is_named";
const COMMANDS: &str = "txn/tests/idempotence.rs::random_commands_keep_the_invariants";
const HISTORIES: &str = "txn/tests/history.rs::mixed_histories_have_snapshot_isolation";
const LEADERS: &str = "txn/tests/leader.rs::leaders_fall_under_commits_in_one_phase";
const LOCKED: &str = "txn/tests/leader.rs::leaders_fall_under_locks";

/// Is there a function of this name that `cargo test` runs? Its attributes stand right above it,
/// with nothing but comments between.
fn is_test(text: &str, function: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begin = format!("fn {function}(");
    let Some(at) = lines.iter().position(|line| line.starts_with(&begin)) else { return false };
    let above = lines[..at].iter().rev();
    let own = above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    let attributes: Vec<_> = own.copied().filter(|line| line.starts_with("#[")).collect();
    attributes.contains(&"#[test]") && !attributes.iter().any(|line| line.starts_with("#[ignore"))
}

#[test]
fn what_is_not_run_is_no_test() {
    let text = "\
        fn helper() {}\n\
        #[test]\n/// Why.\n#[should_panic]\nfn runs() {}\n\
        #[test]\n#[ignore = \"slow\"]\nfn ignored() {}\n\
        // #[test]\nfn commented() {}\n\
        #[test]\nfn other() {}\n\nfn beside_a_test() {}\n\
        // fn gone() {}\n";
    assert!(is_test(text, "runs") && is_test(text, "other"));
    for function in ["helper", "ignored", "commented", "beside_a_test", "gone", "run"] {
        assert!(!is_test(text, function), "{function}");
    }
}

#[test]
fn every_invariant_has_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in a workspace");
    for (number, (name, tests)) in (1..).zip(TABLE) {
        assert!(!tests.is_empty(), "{number} {name}");
        for test in tests {
            let (file, function) = test.split_once("::").expect("file::name");
            let text = std::fs::read_to_string(root.join(file));
            // A part of the workspace may be built alone.
            let Ok(text) = text else {
                assert!(!root.join("cluster").exists(), "{number} {name}: {file} is gone");
                continue;
            };
            assert!(is_test(&text, function), "{number} {name}: {test} is gone, or runs no more");
        }
    }
}

/// A key, its records, and what they break.
fn broken(records: &[Record]) -> Option<&'static str> {
    let engine = MemoryEngine::new();
    engine.write(records_to_batch(records)).expect("memory");
    match check_invariants(&engine, |start_ts, _| start_ts) {
        Ok(_) => None,
        Err(Broken::Invariant { invariant, .. }) => Some(invariant),
        Err(Broken::Engine(e)) => panic!("{e}"),
    }
}

fn put(key: &str, start: u64, commit: u64) -> Record {
    let write = Write::new(WriteKind::Put, Timestamp(start), Some(b"v".to_vec()));
    Record::Write { key: key.into(), commit_ts: Timestamp(commit), write }
}

fn rollback(key: &str, start: u64) -> Record {
    let write = Write::rollback(Timestamp(start), true);
    Record::Write { key: key.into(), commit_ts: Timestamp(start), write }
}

fn lock(key: &str, primary: &str, start: u64, secondaries: Option<&[&str]>) -> Record {
    let mut lock = Lock::new(LockKind::Put, primary.into(), Timestamp(start), 1);
    lock.short_value = Some(b"v".to_vec());
    lock.secondaries = secondaries.map(|keys| keys.iter().map(|key| (*key).into()).collect());
    Record::Lock { key: key.into(), lock }
}

#[test]
fn each_broken_invariant_is_named() {
    let long = Write::new(WriteKind::Put, Timestamp(5), None);
    let long = Record::Write { key: b"a".to_vec(), commit_ts: Timestamp(6), write: long };
    let value = |start_ts| Record::Value { key: b"a".to_vec(), start_ts, value: vec![0; 300] };
    let whole: [&[Record]; 5] = [
        &[put("a", 5, 6), put("b", 5, 6), put("a", 6, 9), rollback("a", 10)],
        &[lock("a", "a", 5, None), lock("b", "a", 5, None)],
        &[lock("b", "a", 5, None), put("a", 5, 6)],
        &[lock("a", "a", 5, Some(&["b"])), put("b", 5, 6)],
        &[long.clone(), value(Timestamp(5))],
    ];
    for records in whole {
        assert_eq!(broken(records), None, "{records:?}");
    }
    let cases: [(&str, &[Record]); 10] = [
        ("one_lock_per_key", &[lock("a", "a", 5, None), put("a", 5, 6)]),
        ("one_lock_per_key", &[lock("a", "a", 5, None), rollback("a", 5)]),
        ("commit_after_start", &[put("a", 5, 5)]),
        ("unique_outcome", &[put("a", 5, 6), rollback("b", 5)]),
        ("same_commit_ts", &[put("a", 5, 6), put("b", 5, 7)]),
        ("commit_implies_primary", &[lock("a", "a", 5, None), put("b", 5, 6)]),
        ("commit_implies_primary", &[lock("a", "a", 5, Some(&["b", "c"])), put("b", 5, 6)]),
        ("no_write_overlap", &[put("a", 5, 8), put("a", 6, 9)]),
        ("value_present", &[long]),
        ("value_present", &[value(Timestamp(5))]),
    ];
    for (invariant, records) in cases {
        assert_eq!(broken(records), Some(invariant), "{records:?}");
    }
}
