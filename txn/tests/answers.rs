//! Each region error in the way of a whole transaction: of a read, a prewrite and a commit. What can
//! be tried again ends as if nothing had been said, what cannot is named, and what nobody knows is
//! called unknown. It must never end as done what was not, or the other way round.

mod common;

use common::*;
use damask_raftstore::Error as RegionError;
use damask_txn::{Config, Request};
use damask_types::{ErrorKind, KeyRange, Peer, PeerId, PeerRole, RegionId, StoreId, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const REGION: RegionId = RegionId(1);

/// What a store that did nothing may say, by the names of the field.
fn refusals() -> Vec<(&'static str, RegionError)> {
    let (region, range) = (REGION, KeyRange::new("b", "c"));
    let elsewhere = Peer { id: PeerId(99), store: StoreId(9), role: PeerRole::Voter };
    let (ts, safe_ts) = (Timestamp(9), Timestamp(8));
    vec![
        ("NotLeader, another", RegionError::NotLeader { region, leader: Some(elsewhere) }),
        ("NotLeader, nobody", RegionError::NotLeader { region, leader: None }),
        ("EpochNotMatch, nothing known", RegionError::EpochNotMatch { current: vec![] }),
        ("RegionNotFound", RegionError::RegionNotFound(region)),
        ("KeyNotInRegion", RegionError::KeyNotInRegion { region, range }),
        ("StaleCommand", RegionError::Stale),
        ("ServerIsBusy", RegionError::Busy("too much in flight")),
        ("ProposalInMergingMode", RegionError::Merging(region)),
        ("DataIsNotReady", RegionError::DataIsNotReady { region, ts, safe_ts }),
        ("a store that stopped", RegionError::Stopped),
    ]
}

/// Which requests are in the way, and their name.
type Stage = (&'static str, fn(&Request) -> bool);

const STAGES: [Stage; 3] = [
    ("get", |request| matches!(request, Request::Get { .. })),
    ("prewrite", |request| matches!(request, Request::Prewrite(_))),
    ("commit", |request| matches!(request, Request::Commit { .. })),
];

/// A transaction that adds one to a counter, while the first `times` requests of a stage are
/// answered so; and how often that was said.
fn add_one(stage: Stage, error: &RegionError, times: u32, config: Config) -> Ended {
    let cluster = cluster(&["m"]);
    put_all(&cluster.client(), &[("a", "1"), ("z", "1")]);
    let said = Arc::new(AtomicU32::new(0));
    let (count, error) = (Arc::clone(&said), error.clone());
    let client = spoiled_client(&cluster, config, move |request| {
        let in_the_way = stage.1(request) && count.load(Ordering::Relaxed) < times;
        if !in_the_way {
            return Spoil::Nothing;
        }
        count.fetch_add(1, Ordering::Relaxed);
        Spoil::Answer(error.clone())
    });
    let mut txn = client.begin().expect("begins");
    let outcome = ["a", "z"].into_iter().try_for_each(|key| {
        let old = txn.get(key.as_bytes())?.expect("there");
        let old: u32 = String::from_utf8(old).expect("text").parse().expect("a number");
        txn.put(key, (old + 1).to_string())
    });
    let outcome = outcome.and_then(|()| txn.commit().map(drop));
    drop(client);
    // What was left behind ends with its time to live.
    cluster.pass_ms(30_000);
    let other = cluster.client();
    let values = ["a", "z"].map(|key| get(&other, key).expect("there"));
    Ended { outcome, values, said: said.load(Ordering::Relaxed) }
}

struct Ended {
    outcome: Result<(), damask_txn::Error>,
    values: [String; 2],
    said: u32,
}

#[test]
fn a_refusal_that_passes_is_not_seen() {
    for stage in STAGES {
        for (name, error) in refusals() {
            let ended = add_one(stage, &error, 2, two_phase());
            let (outcome, what) = (ended.outcome, format!("{name} in the way of {}", stage.0));
            outcome.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(ended.values, ["2", "2"], "{what}: once, and whole");
            assert_eq!(ended.said, 2, "{what}: it was asked again");
        }
    }
}

#[test]
fn a_refusal_that_stays_ends_with_nothing_done() {
    for stage in STAGES {
        for (name, error) in refusals() {
            let ended = add_one(stage, &error, u32::MAX, brief());
            let what = format!("{name} in the way of {}", stage.0);
            let error = ended.outcome.expect_err(&what);
            assert_eq!(error.kind(), ErrorKind::Retry, "{what}: {error}");
            assert_eq!(ended.values, ["1", "1"], "{what}");
        }
    }
}

#[test]
fn what_can_never_work_is_not_tried_twice() {
    let too_large = RegionError::TooLarge { bytes: 9, limit: 8 };
    let wrong = RegionError::Invalid("no such command".to_owned());
    let full = RegionError::DiskFull("nearly".to_owned());
    for (error, kind) in
        [(too_large, ErrorKind::Invalid), (wrong, ErrorKind::Invalid), (full, ErrorKind::NoSpace)]
    {
        let ended = add_one(STAGES[1], &error, u32::MAX, two_phase());
        let found = ended.outcome.expect_err("it stays").kind();
        assert_eq!((found, &ended.values), (kind, &["1", "1"].map(str::to_owned)), "{error}");
        // Once for each of the two regions, which are asked side by side.
        assert!(ended.said <= 2, "{error}: {} times", ended.said);
    }
}

#[test]
fn what_nobody_knows_is_called_unknown() {
    let unknown = RegionError::Undetermined("no answer".to_owned());
    let failed = RegionError::Storage { kind: ErrorKind::Io, detail: "a bad disk".to_owned() };
    for error in [unknown, failed] {
        let ended = add_one(STAGES[2], &error, 2, two_phase());
        ended.outcome.expect("asked again until it is known");
        assert_eq!(ended.values, ["2", "2"], "{error}");
        let ended = add_one(STAGES[2], &error, u32::MAX, brief());
        let found = ended.outcome.expect_err("it stays");
        assert_eq!(found.kind(), ErrorKind::Undetermined, "{error}: {found}");
        assert_eq!(ended.values[0], ended.values[1], "{error}: both or none");
    }
}
