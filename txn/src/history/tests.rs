//! Histories with one thing wrong each, and right ones.

use super::{Anomaly, Level, Op, Outcome, Run, check};

fn append(key: u32, element: u32) -> Op {
    Op::Append { key, element }
}

fn read(key: u32, list: &[u32]) -> Op {
    Op::Read { key, list: list.to_vec() }
}

fn run(ops: impl Into<Vec<Op>>) -> Run {
    Run { ops: ops.into(), outcome: Outcome::Committed }
}

fn ended(outcome: Outcome, ops: impl Into<Vec<Op>>) -> Run {
    Run { ops: ops.into(), outcome }
}

fn found(runs: &[Run]) -> Vec<Anomaly> {
    check(runs, Level::SnapshotIsolation)
}

#[test]
fn a_serial_history_is_right() {
    let runs = [
        run([read(1, &[]), append(1, 10)]),
        run([read(1, &[10]), append(1, 11), read(1, &[10, 11]), append(2, 20)]),
        ended(Outcome::Aborted, [read(1, &[10, 11]), append(1, 12), read(1, &[10, 11, 12])]),
        ended(Outcome::Unknown, [append(2, 21)]),
        ended(Outcome::Unknown, [append(2, 22), read(2, &[20, 21, 22])]),
        run([read(1, &[10, 11]), read(2, &[20, 21])]),
    ];
    assert_eq!(check(&runs, Level::Serializable), []);
}

#[test]
fn write_skew_is_only_forbidden_where_it_is_said() {
    let runs = [
        run([read(1, &[]), append(2, 20)]),
        run([read(2, &[]), append(1, 10)]),
        run([read(1, &[10]), read(2, &[20])]),
    ];
    assert_eq!(check(&runs, Level::SnapshotIsolation), []);
    let found = check(&runs, Level::Serializable);
    assert!(matches!(&found[..], [Anomaly::G2(circle)] if circle.len() == 2), "{found:?}");
}

#[test]
fn read_skew_is_found() {
    let runs = [
        run([append(1, 10), append(2, 20)]),
        // Sees the one write of the first and not the other.
        run([read(1, &[10]), read(2, &[])]),
        run([read(1, &[10]), read(2, &[20])]),
    ];
    assert_eq!(check(&runs, Level::ReadCommitted), []);
    assert!(matches!(&found(&runs)[..], [Anomaly::GSingle(_)]), "{:?}", found(&runs));
}

#[test]
fn a_longer_circle_without_two_rw_in_a_row_is_found() {
    // 0 -rw-> 1 -wr-> 2 -rw-> 3 -wr-> 0: both pairs of writers are seen in opposite orders.
    let runs = [
        run([read(1, &[]), read(2, &[20])]),
        run([append(1, 10)]),
        run([read(1, &[10]), read(2, &[])]),
        run([append(2, 20)]),
        run([read(1, &[10]), read(2, &[20])]),
    ];
    assert!(matches!(&found(&runs)[..], [Anomaly::GSingle(_)]), "{:?}", found(&runs));
}

#[test]
fn circles_of_information_are_found() {
    let runs = [
        run([append(1, 10), read(2, &[20])]),
        run([append(2, 20), read(1, &[10])]),
        run([read(1, &[10]), read(2, &[20])]),
    ];
    let anomalies = check(&runs, Level::ReadCommitted);
    assert!(matches!(&anomalies[..], [Anomaly::G1c(_)]), "{anomalies:?}");
    let runs = [
        run([append(1, 10), append(2, 21)]),
        run([append(1, 11), append(2, 20)]),
        run([read(1, &[10, 11]), read(2, &[20, 21])]),
    ];
    let anomalies = check(&runs, Level::ReadCommitted);
    assert!(matches!(anomalies[0], Anomaly::G0(_)), "{anomalies:?}");
}

#[test]
fn aborted_and_unfinished_writes_may_not_be_read() {
    let runs = [ended(Outcome::Aborted, [append(1, 10)]), run([read(1, &[10])])];
    assert_eq!(found(&runs), [Anomaly::G1a { run: 1, element: 10 }]);
    let runs =
        [run([append(1, 10), append(1, 11)]), run([read(1, &[10])]), run([read(1, &[10, 11])])];
    assert!(found(&runs).contains(&Anomaly::G1b { run: 1, element: 10 }), "{:?}", found(&runs));
}

#[test]
fn lost_torn_invented_and_forgotten_writes_are_found() {
    let runs = [run([append(1, 10)]), run([append(1, 11)]), run([read(1, &[11])])];
    assert_eq!(found(&runs), [Anomaly::Lost { run: 0, element: 10 }]);
    let runs = [
        run([append(1, 10)]),
        run([append(1, 11)]),
        run([read(1, &[10])]),
        run([read(1, &[11, 10])]),
    ];
    assert!(found(&runs).contains(&Anomaly::Torn { key: 1, one: 2, other: 3 }));
    let runs = [run([append(1, 10)]), run([read(1, &[10, 10])])];
    assert!(found(&runs).contains(&Anomaly::Torn { key: 1, one: 1, other: 1 }));
    let runs = [run([read(1, &[10])])];
    assert_eq!(found(&runs), [Anomaly::Invented { run: 0, element: 10 }]);
    let runs = [run([append(1, 10), read(1, &[])]), run([read(1, &[10])])];
    assert_eq!(found(&runs), [Anomaly::Internal { run: 0 }]);
}

#[test]
fn a_lost_update_is_found() {
    // Both read the same and append; the list holds both, but each has read past the other.
    let runs = [
        run([read(1, &[]), append(1, 10)]),
        run([read(1, &[]), append(1, 11)]),
        run([read(1, &[10, 11])]),
    ];
    assert!(matches!(&found(&runs)[..], [Anomaly::GSingle(_)]), "{:?}", found(&runs));
}
