//! Restarts, power cuts and damaged stores: what was acknowledged is there, or the store does not
//! start. Nothing here may stop a store more gently than a power cut would, unless it says so.

use super::support::*;
use damask_env::{MemoryDisk, RealClock};
use damask_kv::MemoryEngine;
use damask_raftstore::{
    Error, FileLogConfig, FileLogStore, RowMachine, Store, StoreConfig, StoreOptions, Without,
};
use damask_types::{RegionId, StoreId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn writes_reach_every_store_and_survive_a_restart_from_the_log() {
    let mut cluster = Cluster::new(3);
    for n in 0..200 {
        cluster.write(FIRST, &format!("k{:02}", n % 40), n);
    }
    (1..=3).for_each(|id| cluster.wait_for(id, "k39", 199));
    (1..=3).for_each(|id| cluster.stop(id));
    // The engines forget everything that was not synced: the logs must give it back.
    for node in cluster.nodes.values_mut() {
        node.engine = node.engine.crash(0).unwrap();
    }
    (1..=3).for_each(|id| cluster.start(id, true));
    cluster.write(FIRST, "after", 1);
    for id in 1..=3 {
        cluster.wait_for(id, "after", 1);
        for n in 160..200 {
            assert_eq!(cluster.get(id, &format!("k{:02}", n % 40)), Some(n));
        }
    }
}

/// The baseline of benches is slow, and right.
#[test]
fn the_naive_path_keeps_what_it_acknowledges() {
    let tick = Duration::from_millis(50);
    let config = StoreConfig { tick, without: Without::EVERYTHING, ..StoreConfig::default() };
    let mut cluster = Cluster::with(3, config);
    for n in 0..40 {
        cluster.write(FIRST, "k", n);
    }
    (1..=3).for_each(|id| cluster.crash(id, 0));
    cluster.write(FIRST, "after", 1);
    for id in 1..=3 {
        cluster.wait_for(id, "after", 1);
        assert_eq!(cluster.get(id, "k"), Some(39));
    }
}

#[test]
fn one_store_alone_elects_itself_and_compacts_its_log() {
    let mut cluster = Cluster::new(1);
    for n in 0..300 {
        cluster.write(FIRST, "k", n);
    }
    eventually("a compacted log", || {
        cluster.write(FIRST, "k", 299);
        let disk = cluster.nodes[&1].disk.clone();
        let image = disk.crash_image(|n| n);
        let log = FileLogStore::open(Arc::new(image), "raft", FileLogConfig::default()).unwrap();
        let log = damask_raftstore::LogStore::group(&log, FIRST)?;
        (log.truncated.index > 200).then_some(())
    });
    cluster.crash(1, 0);
    cluster.wait_for(1, "k", 299);
}

#[test]
fn crashes_of_each_store_lose_nothing_acknowledged() {
    let mut cluster = Cluster::new(3);
    let mut written = BTreeMap::new();
    for round in 0..12u64 {
        for n in 0..10 {
            let key = format!("k{}", (round * 7 + n) % 30);
            cluster.write(FIRST, &key, round * 100 + n);
            written.insert(key, round * 100 + n);
        }
        if round == 5 {
            cluster.split(FIRST, "k5", child());
            for (key, n) in written.clone() {
                let region = if key.as_str() < "k5" { RegionId(2) } else { FIRST };
                cluster.write(region, &key, n + 1000);
                written.insert(key, n + 1000);
            }
            break;
        }
        cluster.crash(round % 3 + 1, round as usize % 5);
    }
    for id in 1..=3 {
        cluster.crash(id, id as usize);
    }
    cluster.write(FIRST, "z", 1);
    cluster.write(RegionId(2), "a", 1);
    for id in 1..=3 {
        cluster.wait_for(id, "z", 1);
        cluster.wait_for(id, "a", 1);
        for (key, n) in &written {
            assert_eq!(cluster.get(id, key), Some(*n), "{key} on store {id}");
        }
    }
}

#[test]
fn a_log_that_lost_acknowledged_entries_is_refused() {
    let mut cluster = Cluster::new(1);
    for n in 0..20 {
        cluster.write(FIRST, "k", n);
    }
    cluster.stop(1);
    let node = cluster.nodes.get_mut(&1).unwrap();
    let log = FileLogStore::open(Arc::new(MemoryDisk::new()), "raft", FileLogConfig::default());
    let result = Store::start(
        StoreOptions::new(StoreId(1)),
        Arc::new(log.unwrap()),
        Arc::new(RowMachine::new(Arc::new(node.engine.clone()))),
        Arc::new(cluster.network.clone()),
        Arc::new(RealClock::default()),
    );
    let e = result.err().expect("it must not start");
    assert_eq!(e.kind(), damask_types::ErrorKind::Corrupt);
}

#[test]
fn a_store_that_lost_its_data_does_not_start() {
    let mut cluster = Cluster::new(3);
    cluster.write(FIRST, "k", 1);
    cluster.stop(3);
    let start = |engine: &MemoryEngine, disk: &MemoryDisk, held_data| {
        let log = FileLogStore::open(Arc::new(disk.clone()), "raft", FileLogConfig::default());
        let options = StoreOptions { held_data, ..StoreOptions::new(StoreId(3)) };
        Store::start(
            options,
            Arc::new(log.unwrap()),
            Arc::new(RowMachine::new(Arc::new(engine.clone()))),
            Arc::new(cluster.network.clone()),
            Arc::new(RealClock::default()),
        )
    };
    let (engine, disk) = (MemoryEngine::with_crashes(), MemoryDisk::new());
    let e = start(&engine, &disk, true).err().expect("it must not start");
    assert_eq!(e.kind(), damask_types::ErrorKind::Corrupt);
    assert!(e.to_string().contains("store 3"), "{e}");
    // One that never held data may be empty, and one that holds it starts.
    start(&engine, &disk, false).unwrap().stop().unwrap();
    let node = &cluster.nodes[&3];
    start(&node.engine, &node.disk, true).unwrap().stop().unwrap();
}

#[test]
fn a_failing_disk_stops_the_store_with_a_reason() {
    let cluster = Cluster::new(1);
    cluster.write(FIRST, "k", 1);
    let (_, region) = cluster.leader(FIRST);
    let fault = damask_env::Fault { fail_at: Some(0), capacity: None };
    cluster.nodes[&1].disk.set_fault(fault);
    let result = cluster.propose_at(1, &region, vec![value("k", 2)]);
    assert!(matches!(result, Err(Error::Undetermined(_))), "{result:?}");
    let why = eventually("the reason", || cluster.handle(1).failed());
    assert!(why.to_string().contains("injected"), "{why}");
    eventually("it leads nothing", || cluster.handle(1).replicas().is_empty().then_some(()));
    let result = cluster.propose_at(1, &region, vec![value("k", 3)]);
    assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
}
