//! 33 scenarios by name, after the list of TinyKV's `test_raftstore` (itself after MIT 6.824): each
//! runs whole stores under the simulator with exactly the faults of its line, for several seeds.
//! In each run every key's history is linearizable; leaders, logs, leases and regions keep every
//! rule after every event; all keys take writes again once the faults end, and all replicas become
//! alike. Over the seeds, what gives the scenario its name did happen. No scenario may wait for a
//! clock. `SEEDS=n` runs so many of each, `SEED=n` one.
//!
//! * U, unreliable: messages are lost, late, doubled;
//! * R, restarts: power is lost, on one store or on all;
//! * P, partitions: the stores fall into two parts;
//! * S, snapshots: logs are so short that who was away needs one;
//! * M, membership: replicas come, go and change their role, one by one and several in one step.
//!
//! | scenario | clients | with |
//! |---|---|---|
//! | basic | 1 | nothing |
//! | concurrent | 5 | nothing |
//! | unreliable | 5 | U |
//! | one_partition | 5 | a leader in the smaller part |
//! | many_partitions_one_client | 1 | P |
//! | many_partitions_many_clients | 5 | P |
//! | persist_one_client | 1 | R |
//! | persist_concurrent | 5 | R |
//! | persist_concurrent_unreliable | 5 | U R |
//! | persist_partition | 5 | R P |
//! | persist_partition_unreliable | 5 | U R P |
//! | one_snapshot | 5 | a store that is away, S |
//! | snapshot_recover | 1 | R S |
//! | snapshot_recover_many_clients | 20 | R S |
//! | snapshot_unreliable | 5 | U S |
//! | snapshot_unreliable_recover | 5 | U R S |
//! | snapshot_unreliable_recover_concurrent_partition | 5 | U R P S |
//! | transfer_leader | 5 | leaders are told to hand over |
//! | basic_conf_change | 5 | M |
//! | conf_change_remove_leader | 5 | leaders give their vote to another store |
//! | conf_change_recover | 1 | R M |
//! | conf_change_recover_many_clients | 20 | R M |
//! | conf_change_unreliable | 5 | U M |
//! | conf_change_unreliable_recover | 5 | U R M |
//! | conf_change_snapshot_unreliable_recover | 5 | U R S M |
//! | conf_change_snapshot_unreliable_recover_concurrent_partition | 5 | U R P S M |
//! | one_split | 5 | splits |
//! | split_recover | 1 | R, splits |
//! | split_recover_many_clients | 20 | R, splits |
//! | split_unreliable | 5 | U, splits |
//! | split_unreliable_recover | 5 | U R, splits |
//! | split_conf_change_snapshot_unreliable_recover | 5 | U R S M, splits |
//! | split_conf_change_snapshot_unreliable_recover_concurrent_partition | 5 | U R P S M, splits |
#![allow(clippy::unwrap_used)] // a test fails by panicking

use damask_raftstore::testing::sim::{FaultKind, SimConfig, SimReport, run};

/// What a scenario turns on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum With {
    Unreliable,
    Minority,
    Partitions,
    Restarts,
    Away,
    Snapshots,
    Transfer,
    Membership,
    LeaderRemoved,
    Split,
}

use With::{
    Away, LeaderRemoved, Membership, Minority, Partitions, Restarts, Snapshots, Split, Transfer,
    Unreliable,
};

impl With {
    /// Those that take turns come as often as they are here.
    fn faults(self) -> Vec<FaultKind> {
        match self {
            Unreliable => vec![FaultKind::Loss, FaultKind::Delay, FaultKind::Duplicate],
            Minority => vec![FaultKind::Minority],
            Partitions => vec![FaultKind::Partition],
            Restarts => vec![FaultKind::Crash, FaultKind::Blackout],
            Away => vec![FaultKind::Isolation],
            Snapshots => Vec::new(),
            Transfer => vec![FaultKind::Transfer],
            Membership => vec![FaultKind::Membership; 3],
            LeaderRemoved => vec![FaultKind::LeaderRemoved],
            Split => vec![FaultKind::Split; 3],
        }
    }

    /// Did it happen? Counted over the seeds, of which there were so many.
    fn check(self, total: &SimReport, seeds: u64) {
        let at_least = |what: &str, n: u64, least: u64| {
            assert!(n >= least, "{what}: {n} in {seeds} seeds: {total:?}");
        };
        match self {
            Unreliable => at_least("lost messages", total.lost, 10 * seeds),
            Minority | Partitions | Away => {
                at_least("messages stopped by a cut", total.stopped, 10 * seeds);
            }
            Restarts => at_least("restarts", total.restarts, 2 * seeds),
            Snapshots => at_least("snapshots", total.snapshots, seeds),
            // Besides the first, and the one after the leader that is lost in the end.
            Transfer => at_least("terms", total.leaders, 4 * seeds),
            Membership => {
                at_least("all changes", total.changes + total.joint_changes, seeds);
                at_least("changes", total.changes, 1);
                at_least("joint changes", total.joint_changes, 1);
                at_least("snapshots", total.snapshots, seeds);
            }
            LeaderRemoved => {
                at_least("leaders that gave up their vote", total.deposed, seeds);
                at_least("replicas removed", total.changes, 1);
            }
            Split => at_least("splits", total.splits, seeds),
        }
        if self == Minority {
            at_least("terms", total.leaders, 3 * seeds);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn scenario(name: &str, clients: u64, with: &[With]) {
    let (from, seeds) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("SEEDS").unwrap_or(if cfg!(debug_assertions) { 4 } else { 12 })),
    };
    // Where nobody moves there are five replicas: two may be away.
    let moves = with.contains(&Membership) || with.contains(&LeaderRemoved);
    let mut total = SimReport::default();
    for seed in from..from + seeds {
        let config = SimConfig {
            storm_ms: 6_000,
            faults: Some(with.iter().flat_map(|w| w.faults()).collect()),
            pause_ms: (50, 700),
            clients,
            writes_permille: Some(500),
            stores: Some(5),
            voters: if moves { 3 } else { 5 },
            short_logs: with.contains(&Snapshots),
            ..SimConfig::new(seed)
        };
        let report = run(&config).unwrap_or_else(|failure| panic!("{name}: {failure}"));
        total.add(&report);
        if with.is_empty() {
            assert!(report.leaders <= 2, "nobody else is elected before the end: {report:?}");
        }
    }
    println!("{name}: {seeds} seeds from {from}: {total:?}");
    // One seed may be an idle one.
    if number("SEED").is_none() {
        with.iter().for_each(|w| w.check(&total, seeds));
        assert!(total.writes > 40 * seeds, "{total:?}");
        assert!(total.reads.iter().sum::<u64>() > 10 * seeds, "{total:?}");
    }
}

macro_rules! scenarios {
    ($($name:ident: $clients:literal [$($with:ident),*];)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { scenario(stringify!($name), $clients, &[$($with),*]); })*
    };
}

scenarios! {
    basic: 1 [];
    concurrent: 5 [];
    unreliable: 5 [Unreliable];
    one_partition: 5 [Minority];
    many_partitions_one_client: 1 [Partitions];
    many_partitions_many_clients: 5 [Partitions];
    persist_one_client: 1 [Restarts];
    persist_concurrent: 5 [Restarts];
    persist_concurrent_unreliable: 5 [Unreliable, Restarts];
    persist_partition: 5 [Restarts, Partitions];
    persist_partition_unreliable: 5 [Unreliable, Restarts, Partitions];
    one_snapshot: 5 [Away, Snapshots];
    snapshot_recover: 1 [Restarts, Snapshots];
    snapshot_recover_many_clients: 20 [Restarts, Snapshots];
    snapshot_unreliable: 5 [Unreliable, Snapshots];
    snapshot_unreliable_recover: 5 [Unreliable, Restarts, Snapshots];
    snapshot_unreliable_recover_concurrent_partition: 5
        [Unreliable, Restarts, Partitions, Snapshots];
    transfer_leader: 5 [Transfer];
    basic_conf_change: 5 [Membership];
    conf_change_remove_leader: 5 [LeaderRemoved];
    conf_change_recover: 1 [Restarts, Membership];
    conf_change_recover_many_clients: 20 [Restarts, Membership];
    conf_change_unreliable: 5 [Unreliable, Membership];
    conf_change_unreliable_recover: 5 [Unreliable, Restarts, Membership];
    conf_change_snapshot_unreliable_recover: 5 [Unreliable, Restarts, Snapshots, Membership];
    conf_change_snapshot_unreliable_recover_concurrent_partition: 5
        [Unreliable, Restarts, Partitions, Snapshots, Membership];
    one_split: 5 [Split];
    split_recover: 1 [Restarts, Split];
    split_recover_many_clients: 20 [Restarts, Split];
    split_unreliable: 5 [Unreliable, Split];
    split_unreliable_recover: 5 [Unreliable, Restarts, Split];
    split_conf_change_snapshot_unreliable_recover: 5
        [Unreliable, Restarts, Snapshots, Membership, Split];
    split_conf_change_snapshot_unreliable_recover_concurrent_partition: 5
        [Unreliable, Restarts, Partitions, Snapshots, Membership, Split];
}

#[test]
fn the_table_at_the_head_has_every_scenario() {
    let head = include_str!("scenarios.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
    let listed: Vec<&str> = head.filter_map(|row| row.split(" | ").next()).skip(1).collect();
    assert_eq!(listed, NAMES);
    assert_eq!(NAMES.len(), 33);
}
