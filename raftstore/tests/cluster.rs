//! Three stores in one process over memory disks and memory engines: replication, restart, crash,
//! leader change, split, learner, linearizable reads. It never waits for a fixed time.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use damask_env::{Disk, MemoryDisk, RealClock};
use damask_kv::{Cf, Engine, MemoryEngine};
use damask_raftstore::testing::LocalNetwork;
use damask_raftstore::{
    Applied, Error, FileLogConfig, FileLogStore, PeerChange, Proposal, ReadMode, ReadPermit,
    RowMachine, SplitChild, Store, StoreConfig, StoreHandle, StoreOptions,
};
use damask_types::codec::encode_key;
use damask_types::{
    Epoch, KeyRange, Lock, LockKind, Peer, PeerId, PeerRole, Record, Region, RegionId, StoreId,
    Timestamp,
};
use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);
const FIRST: RegionId = RegionId(1);

struct Node {
    disk: MemoryDisk,
    engine: MemoryEngine,
    store: Option<Store>,
}

struct Cluster {
    network: LocalNetwork,
    nodes: BTreeMap<u64, Node>,
    bootstrap: Region,
    config: StoreConfig,
}

fn peer(id: u64, store: u64) -> Peer {
    Peer { id: PeerId(id), store: StoreId(store), role: PeerRole::Voter }
}

fn value(key: &str, n: u64) -> Record {
    let lock = Lock::new(LockKind::Put, n.to_string().into_bytes(), Timestamp(n + 1), 1);
    Record::Lock { key: key.as_bytes().to_vec(), lock }
}

#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

/// Asks until there is an answer, or the deadline.
fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "timed out: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

impl Cluster {
    fn new(stores: u64) -> Cluster {
        let config = StoreConfig { tick: Duration::from_millis(20), ..StoreConfig::default() };
        Cluster::with(stores, config)
    }

    fn with(stores: u64, mut config: StoreConfig) -> Cluster {
        let peers = (1..=stores).map(|s| peer(s + 10, s)).collect();
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let bootstrap = Region { id: FIRST, range: KeyRange::all(), epoch, peers };
        config.core.compact_ticks = 5;
        config.core.log_keep_entries = 3;
        config.core.snapshot_chunk_bytes = 200;
        config.core.hibernate_regions = true;
        let mut cluster =
            Cluster { network: LocalNetwork::new(), nodes: BTreeMap::new(), bootstrap, config };
        (1..=stores).for_each(|s| cluster.add(s, true));
        cluster
    }

    fn add(&mut self, id: u64, bootstrap: bool) {
        let (disk, engine) = (MemoryDisk::new(), MemoryEngine::with_crashes());
        self.nodes.insert(id, Node { disk, engine, store: None });
        self.start(id, bootstrap);
    }

    fn start(&mut self, id: u64, bootstrap: bool) {
        let node = self.nodes.get_mut(&id).unwrap();
        let config = FileLogConfig { segment_bytes: 64 << 10, ..FileLogConfig::default() };
        let log = FileLogStore::open(Arc::new(node.disk.clone()), "raft", config).unwrap();
        let machine = RowMachine::new(Arc::new(node.engine.clone()));
        let mut options = StoreOptions::new(StoreId(id));
        options.config = self.config.clone();
        options.staging = Some(Arc::new(node.disk.clone()));
        options.bootstrap = bootstrap.then(|| self.bootstrap.clone());
        let store = Store::start(
            options,
            Arc::new(log),
            Arc::new(machine),
            Arc::new(self.network.clone()),
            Arc::new(RealClock::default()),
        );
        let store = store.unwrap();
        self.network.connect(store.handle());
        self.network.rejoin(StoreId(id));
        node.store = Some(store);
    }

    fn stop(&mut self, id: u64) {
        self.network.disconnect(StoreId(id));
        self.nodes.get_mut(&id).unwrap().store.take().unwrap().stop().unwrap();
    }

    /// A power cut: of log and engine only what was synced is left, and a little more.
    fn crash(&mut self, id: u64, keep: usize) {
        // Nothing that it says after its image was taken may be heard.
        self.network.isolate(StoreId(id));
        let node = self.nodes.get_mut(&id).unwrap();
        // The machine's image is taken first: it never may be ahead of the log.
        let engine = node.engine.crash(node.engine.unsynced() * keep / 4).unwrap();
        let disk = node.disk.crash_image(|n| n * keep / 4);
        drop(node.store.take());
        *node = Node { disk, engine, store: None };
        self.start(id, false);
    }

    fn handle(&self, id: u64) -> StoreHandle {
        self.nodes[&id].store.as_ref().unwrap().handle()
    }

    fn leader_among(&self, region: RegionId, stores: &[u64]) -> (u64, Region) {
        eventually("a leader", || {
            let lead = |id: &&u64| {
                let store = self.nodes[id].store.as_ref()?;
                let status = store.handle().replica(region).filter(|s| s.is_leader)?;
                Some((**id, status.term, status.region))
            };
            let all = stores.iter().filter_map(|id| lead(&id));
            all.max_by_key(|(_, term, _)| *term).map(|(id, _, region)| (id, region))
        })
    }

    fn leader(&self, region: RegionId) -> (u64, Region) {
        let all: Vec<u64> = self.nodes.keys().copied().collect();
        self.leader_among(region, &all)
    }

    fn propose_at(&self, id: u64, region: &Region, records: Vec<Record>) -> Result<Applied, Error> {
        let (sender, receiver) = mpsc::channel();
        let proposal = Proposal { region: region.id, epoch: region.epoch, term: None, records };
        let done = Box::new(move |result| drop(sender.send(result)));
        self.handle(id).propose(proposal, done);
        receiver.recv_timeout(DEADLINE).expect("an answer")
    }

    /// Writes through whoever leads, until it works.
    fn write(&self, region: RegionId, key: &str, n: u64) {
        eventually("a write", || {
            let (id, description) = self.leader(region);
            match self.propose_at(id, &description, vec![value(key, n)]) {
                Ok(_) => Some(()),
                Err(e) if e.kind() == damask_types::ErrorKind::Invalid => panic!("{e}"),
                Err(_) => None,
            }
        });
    }

    fn read_at(&self, id: u64, region: &Region) -> Result<ReadPermit, Error> {
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        self.handle(id).read_index(region.id, region.epoch, done);
        receiver.recv_timeout(DEADLINE).expect("an answer")
    }

    fn get(&self, id: u64, key: &str) -> Option<u64> {
        let snapshot = self.nodes[&id].engine.snapshot();
        let bytes = snapshot.get(Cf::Lock, &encode_key(key.as_bytes())).unwrap()?;
        let primary = Lock::decode(&bytes).unwrap().primary;
        Some(String::from_utf8(primary).unwrap().parse().unwrap())
    }

    fn wait_for(&self, id: u64, key: &str, n: u64) {
        eventually(&format!("{key} = {n} on store {id}"), || {
            assert!(self.handle(id).failed().is_none(), "{:?}", self.handle(id).failed());
            (self.get(id, key) == Some(n)).then_some(())
        });
    }

    fn change(&self, region: RegionId, change: PeerChange) -> Region {
        eventually("a change of replicas", || {
            let (id, description) = self.leader(region);
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |result| drop(sender.send(result)));
            self.handle(id).change_peer(region, description.epoch, change, done);
            receiver.recv_timeout(DEADLINE).expect("an answer").ok()
        })
    }

    /// Asked again until the leader takes it; done when the joint configuration is left.
    fn change_all(&self, region: RegionId, changes: &[PeerChange]) -> Region {
        let begun = eventually("a change of several replicas", || {
            let (id, description) = self.leader(region);
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |result| drop(sender.send(result)));
            let changes = changes.to_vec();
            self.handle(id).change_peers(region, description.epoch, changes, done);
            receiver.recv_timeout(DEADLINE).expect("an answer").ok()
        });
        eventually("a configuration that is not joint", || {
            let (_, description) = self.leader(region);
            let later = description.epoch.conf_ver > begun.epoch.conf_ver;
            (later && !description.is_joint()).then_some(description)
        })
    }

    fn split(&self, region: RegionId, key: &str, child: SplitChild) -> Vec<Region> {
        eventually("a split", || {
            let (id, description) = self.leader(region);
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |result| drop(sender.send(result)));
            let keys = vec![key.as_bytes().to_vec()];
            let children = vec![child.clone()];
            self.handle(id).split(region, description.epoch, keys, children, done);
            receiver.recv_timeout(DEADLINE).expect("an answer").ok()
        })
    }
}

#[test]
fn a_merge_keeps_all_rows_and_takes_writes_again() {
    let cluster = Cluster::new(3);
    for n in 0..20 {
        cluster.write(FIRST, &format!("k{n:02}"), n);
    }
    cluster.split(FIRST, "k10", child());
    cluster.write(RegionId(2), "k05", 105);
    cluster.write(FIRST, "k15", 115);
    eventually("a merge", || {
        if (1..=3).all(|id| cluster.handle(id).replica(RegionId(2)).is_none()) {
            return Some(());
        }
        for id in 1..=3 {
            let handle = cluster.handle(id);
            let status = handle.replica(RegionId(2)).filter(|s| s.is_leader && !s.merging);
            if let Some(region) = status.map(|s| s.region) {
                let (sender, receiver) = mpsc::channel();
                let done = Box::new(move |result| drop(sender.send(result)));
                handle.merge(region.id, region.epoch, FIRST, done);
                // A replica may be behind: then it is asked again.
                let _ = receiver.recv_timeout(DEADLINE).expect("an answer");
            }
        }
        None
    });
    let (_, region) = cluster.leader(FIRST);
    assert_eq!((region.range.clone(), region.epoch.version), (KeyRange::all(), 4));
    cluster.write(FIRST, "k05", 205);
    for id in 1..=3 {
        cluster.wait_for(id, "k05", 205);
        cluster.wait_for(id, "k15", 115);
        assert_eq!(cluster.get(id, "k09"), Some(9));
        // Who comes with the old description learns who has the keys now.
        let old = Region { id: RegionId(2), ..region.clone() };
        let refused = cluster.read_at(id, &old);
        assert!(matches!(refused, Err(Error::EpochNotMatch { .. })), "{refused:?}");
    }
}

fn child() -> SplitChild {
    SplitChild { region: RegionId(2), peers: vec![PeerId(21), PeerId(22), PeerId(23)] }
}

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
    let tick = Duration::from_millis(20);
    let config = StoreConfig { tick, naive: true, ..StoreConfig::default() };
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

/// A follower is read at the index that the leader has named, once it is there.
#[test]
fn a_replica_is_read_at_an_index_that_its_leader_named() {
    let cluster = Cluster::new(3);
    cluster.write(FIRST, "k", 1);
    let (leader, region) = cluster.leader(FIRST);
    let behind = (1..=3).find(|id| *id != leader).expect("three");
    cluster.network.isolate(StoreId(behind));
    cluster.write(FIRST, "k", 2);
    let index = cluster.read_at(leader, &region).unwrap().applied.index;
    let (sender, receiver) = mpsc::channel();
    let read = |epoch| {
        let sender = sender.clone();
        let done = Box::new(move |result| drop(sender.send(result)));
        cluster.handle(behind).read_at(FIRST, epoch, index, done);
    };
    read(region.epoch);
    assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err(), "it cannot be there yet");
    cluster.network.heal();
    let permit = receiver.recv_timeout(DEADLINE).expect("an answer").unwrap();
    assert!(permit.applied.index >= index);
    assert_eq!(cluster.get(behind, "k"), Some(2));
    read(Epoch { version: region.epoch.version - 1, ..region.epoch });
    let refused = receiver.recv_timeout(DEADLINE).expect("an answer");
    assert!(matches!(refused, Err(Error::EpochNotMatch { .. })), "{refused:?}");
}

#[test]
fn another_leader_takes_over_and_the_old_one_refuses_reads() {
    let cluster = Cluster::new(3);
    cluster.write(FIRST, "k", 1);
    let (old, region) = cluster.leader(FIRST);
    assert!(cluster.read_at(old, &region).is_ok());
    cluster.network.isolate(StoreId(old));
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result| drop(sender.send(result)));
    cluster.handle(old).read(FIRST, region.epoch, ReadMode::Index, done);
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    let (new, region) = cluster.leader_among(FIRST, &others);
    assert_ne!(new, old);
    cluster.propose_at(new, &region, vec![value("k", 2)]).unwrap();
    let permit = cluster.read_at(new, &region).unwrap();
    assert_eq!(cluster.get(new, "k"), Some(2));
    assert!(permit.applied.index > 5);
    // Its lease ended before another could be elected.
    let local = cluster.handle(old).read_local(FIRST, region.epoch, || ());
    assert!(local.is_none(), "{local:?}");
    // The read that the old leader took while cut off is refused, not served.
    let refused = receiver.recv_timeout(DEADLINE).expect("an answer");
    assert!(matches!(refused, Err(Error::NotLeader { .. })), "{refused:?}");
    cluster.network.heal();
    cluster.wait_for(old, "k", 2);
}

#[test]
fn an_idle_region_sleeps_and_has_another_leader_when_its_own_is_lost() {
    let mut cluster = Cluster::new(3);
    cluster.write(FIRST, "a", 1);
    let asleep = |cluster: &Cluster, stores: &[u64]| {
        let sleeps = |id: &u64| cluster.handle(*id).replica(FIRST).is_some_and(|s| s.hibernating);
        stores.iter().all(sleeps).then_some(())
    };
    eventually("everybody to sleep", || asleep(&cluster, &[1, 2, 3]));
    let (lost, region) = cluster.leader(FIRST);
    let permit = cluster.read_at(lost, &region).expect("whoever slept asks a quorum");
    assert_eq!(permit.region.id, FIRST);
    eventually("everybody to sleep again", || asleep(&cluster, &[1, 2, 3]));
    cluster.stop(lost);
    let others: Vec<u64> = (1..=3).filter(|id| *id != lost).collect();
    let leader = eventually("another leader", || {
        let leads = |id: &&u64| cluster.handle(**id).replica(FIRST).is_some_and(|s| s.is_leader);
        others.iter().find(leads).copied()
    });
    let written =
        eventually("a write", || cluster.propose_at(leader, &region, vec![value("b", 2)]).ok());
    cluster.start(lost, false);
    eventually("the lost one to catch up", || {
        let status = cluster.handle(lost).replica(FIRST)?;
        (status.applied.index >= written.index).then_some(())
    });
    eventually("all three to sleep", || asleep(&cluster, &[1, 2, 3]));
}

#[test]
fn every_way_of_reading_sees_what_was_acknowledged() {
    let cluster = Cluster::new(3);
    let (leader, region) = cluster.leader(FIRST);
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    for n in 1..20 {
        cluster.write(FIRST, "k", n);
        for mode in [ReadMode::Log, ReadMode::Index, ReadMode::Lease, ReadMode::Follower] {
            let ask = |id: u64| {
                let (sender, receiver) = mpsc::channel();
                let done = Box::new(move |result| drop(sender.send(result)));
                cluster.handle(id).read(FIRST, region.epoch, mode, done);
                receiver.recv_timeout(DEADLINE).expect("an answer")
            };
            let serves = if mode == ReadMode::Follower { follower } else { leader };
            ask(serves).unwrap();
            assert_eq!(cluster.get(serves, "k"), Some(n), "{mode:?}");
            if mode != ReadMode::Follower {
                let refused = ask(follower);
                assert!(matches!(refused, Err(Error::NotLeader { .. })), "{mode:?}: {refused:?}");
            }
        }
    }
    let local = eventually("a lease", || {
        cluster.write(FIRST, "k", 20);
        let handle = cluster.handle(leader);
        handle.read_local(FIRST, region.epoch, || cluster.get(leader, "k"))
    });
    assert_eq!(local.1, Some(20));
    assert!(cluster.handle(follower).read_local(FIRST, region.epoch, || ()).is_none());
    let old = Epoch { version: 0, ..region.epoch };
    assert!(cluster.handle(leader).read_local(FIRST, old, || ()).is_none());
}

#[test]
fn a_deposed_leaders_proposal_is_stale_once_another_entry_is_committed_in_its_place() {
    let cluster = Cluster::new(3);
    cluster.write(FIRST, "k", 1);
    let (old, region) = cluster.leader(FIRST);
    cluster.network.isolate(StoreId(old));
    let (sender, receiver) = mpsc::channel();
    let records = vec![value("lost", 1)];
    let proposal = Proposal { region: FIRST, epoch: region.epoch, term: None, records };
    let done = Box::new(move |result| drop(sender.send(result)));
    cluster.handle(old).propose(proposal, done);
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    let (new, region) = cluster.leader_among(FIRST, &others);
    // Not so many that the old leader needs a snapshot.
    for n in 2..4 {
        cluster.propose_at(new, &region, vec![value("k", n)]).unwrap();
    }
    cluster.network.heal();
    let result = receiver.recv_timeout(DEADLINE).expect("an answer");
    assert!(matches!(result, Err(Error::Stale | Error::NotLeader { .. })), "{result:?}");
    cluster.wait_for(old, "k", 3);
    assert_eq!(cluster.get(old, "lost"), None);
}

#[test]
fn after_a_split_both_halves_take_writes_and_old_epochs_are_refused() {
    let mut cluster = Cluster::new(3);
    cluster.write(FIRST, "a", 1);
    cluster.write(FIRST, "z", 1);
    let (_, before) = cluster.leader(FIRST);
    let regions = cluster.split(FIRST, "m", child());
    assert_eq!(regions.len(), 2);
    assert_eq!(regions[0].range, KeyRange::new("", "m"));
    assert_eq!(regions[1].range, KeyRange::new("m", ""));
    assert!(regions.iter().all(|r| r.epoch.version == 2));
    cluster.write(RegionId(2), "a", 2);
    cluster.write(FIRST, "z", 2);
    let (id, now) = cluster.leader(FIRST);
    match cluster.propose_at(id, &before, vec![value("a", 9)]) {
        Err(Error::EpochNotMatch { current }) => assert_eq!(current.len(), 2),
        other => panic!("{other:?}"),
    }
    let outside = cluster.propose_at(id, &now, vec![value("a", 9)]);
    assert!(matches!(outside, Err(Error::KeyNotInRegion { .. })), "{outside:?}");
    for id in 1..=3 {
        cluster.wait_for(id, "a", 2);
        cluster.wait_for(id, "z", 2);
    }
    (1..=3).for_each(|id| cluster.crash(id, 0));
    cluster.write(RegionId(2), "b", 3);
    cluster.write(FIRST, "y", 3);
    for id in 1..=3 {
        cluster.wait_for(id, "b", 3);
        cluster.wait_for(id, "y", 3);
        assert_eq!(cluster.get(id, "a"), Some(2));
    }
}

#[test]
fn a_learner_gets_a_snapshot_follows_reads_becomes_a_voter_and_is_removed() {
    let mut cluster = Cluster::new(1);
    for n in 0..50 {
        cluster.write(FIRST, &format!("k{n}"), n);
    }
    cluster.add(2, false);
    let learner = Peer { role: PeerRole::Learner, ..peer(30, 2) };
    let region = cluster.change(FIRST, PeerChange::AddLearner(learner));
    assert_eq!(region.epoch.conf_ver, 2);
    cluster.wait_for(2, "k49", 49);
    cluster.write(FIRST, "more", 7);
    let permit = cluster.read_at(2, &region).unwrap();
    assert_eq!(permit.region.epoch, region.epoch);
    assert_eq!(cluster.get(2, "more"), Some(7), "visible once the read is permitted");
    cluster.crash(2, 1);
    cluster.write(FIRST, "more", 8);
    cluster.wait_for(2, "more", 8);
    let region = cluster.change(FIRST, PeerChange::AddVoter(learner));
    assert_eq!(region.voters().count(), 2);
    cluster.write(FIRST, "more", 9);
    cluster.wait_for(2, "more", 9);
    let (leader, _) = cluster.leader(FIRST);
    let other = *region.peers.iter().find(|p| p.store != StoreId(leader)).unwrap();
    cluster.change(FIRST, PeerChange::Remove(other));
    eventually("the removed replica goes", || {
        let gone = cluster.handle(other.store.0).replica(FIRST).is_none();
        (gone && cluster.get(other.store.0, "more").is_none()).then_some(())
    });
    cluster.write(FIRST, "more", 10);
    // The tombstone outlives a restart, and a new peer may come.
    if other.store == StoreId(2) {
        cluster.crash(2, 4);
        assert!(cluster.handle(2).replica(FIRST).is_none());
        cluster.change(FIRST, PeerChange::AddLearner(peer(31, 2)));
        cluster.wait_for(2, "more", 10);
    }
}

#[test]
fn a_voter_moves_to_another_store_in_one_step_also_the_leader() {
    let mut cluster = Cluster::new(3);
    for n in 0..50 {
        cluster.write(FIRST, &format!("k{n}"), n);
    }
    cluster.add(4, false);
    let new = peer(40, 4);
    cluster.change(FIRST, PeerChange::AddLearner(new));
    cluster.wait_for(4, "k49", 49);
    let disk = cluster.nodes[&4].disk.clone();
    eventually("what was put aside goes", || disk.list("staged").unwrap().is_empty().then_some(()));
    let (leader, before) = cluster.leader(FIRST);
    let old = *before.peer_on(StoreId(leader)).unwrap();
    let swap = [PeerChange::AddVoter(new), PeerChange::AddLearner(old)];
    let after = cluster.change_all(FIRST, &swap);
    assert_eq!(after.peer(old.id).map(|p| p.role), Some(PeerRole::Learner));
    assert_eq!(after.peer(new.id).map(|p| p.role), Some(PeerRole::Voter));
    assert_eq!(after.epoch.conf_ver, before.epoch.conf_ver + 4);
    assert_ne!(cluster.leader(FIRST).0, leader, "it does not vote any more");
    cluster.change(FIRST, PeerChange::Remove(old));
    cluster.write(FIRST, "more", 7);
    cluster.wait_for(4, "more", 7);
    cluster.crash(4, 0);
    cluster.write(FIRST, "more", 8);
    cluster.wait_for(4, "more", 8);
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
fn a_lagging_follower_catches_up_by_snapshot_and_leaders_move_on_request() {
    let cluster = Cluster::new(3);
    cluster.write(FIRST, "k", 0);
    let (leader, region) = cluster.leader(FIRST);
    let late = (1..=3).find(|id| *id != leader).unwrap();
    cluster.network.isolate(StoreId(late));
    for n in 1..400 {
        cluster.write(FIRST, "k", n);
    }
    cluster.network.heal();
    cluster.wait_for(late, "k", 399);
    let to = *region.peers.iter().find(|p| p.store == StoreId(late)).unwrap();
    eventually("the leader moves", || {
        let (id, _) = cluster.leader(FIRST);
        cluster.handle(id).transfer_leader(FIRST, to);
        (id == late).then_some(())
    });
    cluster.write(FIRST, "k", 400);
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
fn only_stores_of_the_first_region_begin_with_it() {
    let mut cluster = Cluster::new(1);
    cluster.write(FIRST, "k", 1);
    // It is offered the first region, has no part in it, and starts empty.
    cluster.add(2, true);
    assert!(cluster.handle(2).replicas().is_empty());
    let learner = Peer { role: PeerRole::Learner, ..peer(30, 2) };
    cluster.change(FIRST, PeerChange::AddLearner(learner));
    cluster.wait_for(2, "k", 1);
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
