//! Running stores whose ticks never come: what happens here happens because of what was done, not
//! because time passed.

use super::*;
use crate::handle::{Proposal, SplitChild};
use crate::log_store::MemoryLogStore;
use crate::options::Without;
use crate::row_machine::RowMachine;
use crate::testing::LocalNetwork;
use crate::wire::decode_message;
use damask_env::{Clock, RealClock};
use damask_kv::MemoryEngine;
use damask_types::{KeyRange, Lock, LockKind, PeerId, PeerRole, Record, Timestamp};
use raft::eraftpb::MessageType;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const FIRST: RegionId = RegionId(1);
const DEADLINE: Duration = Duration::from_secs(30);

fn still(without: Without) -> StoreConfig {
    StoreConfig { tick: Duration::from_secs(3600), without, ..StoreConfig::default() }
}

/// Three stores; the first one campaigns when it starts, and the others hear it.
fn three(config: &StoreConfig) -> (LocalNetwork, Vec<Store>) {
    let network = LocalNetwork::new();
    let role = PeerRole::Voter;
    let peers = (1..=3).map(|s| Peer { id: PeerId(10 + s), store: StoreId(s), role }).collect();
    let epoch = Epoch { conf_ver: 1, version: 1 };
    let first = Region { id: FIRST, range: KeyRange::all(), epoch, peers };
    let start = |id: u64| {
        let mut options = StoreOptions::new(StoreId(id));
        options.config = config.clone();
        options.bootstrap = Some(first.clone());
        let connected = network.clone();
        options.on_open = Some(Box::new(move |handle| connected.connect(handle)));
        let machine = Arc::new(RowMachine::new(Arc::new(MemoryEngine::new())));
        let (log, clock) = (Arc::new(MemoryLogStore::new()), Arc::new(RealClock::default()));
        Store::start(options, log, machine, Arc::new(network.clone()), clock).unwrap()
    };
    let stores = [3, 2, 1].map(start).into();
    (network, stores)
}

fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let clock = RealClock::default();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock.monotonic() < DEADLINE, "it never happened");
        std::thread::yield_now();
    }
}

fn leader(stores: &[Store], id: RegionId) -> (StoreHandle, ReplicaStatus) {
    wait(|| {
        stores.iter().find_map(|store| {
            let status = store.handle().replica(id).filter(|status| status.is_leader)?;
            Some((store.handle(), status))
        })
    })
}

fn put(handle: &StoreHandle, region: &Region, key: &str) -> Receiver<Result<Applied>> {
    let lock = Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(1), 1);
    let records = vec![Record::Lock { key: key.as_bytes().to_vec(), lock }];
    let proposal = Proposal { region: region.id, epoch: region.epoch, term: None, records };
    let (sender, receiver) = channel();
    handle.propose(proposal, Box::new(move |result| drop(sender.send(result))));
    receiver
}

fn split(handle: &StoreHandle, region: &Region, key: &str, into: u64) -> Vec<Region> {
    let peers = (1..=3).map(|peer| PeerId(into * 10 + peer)).collect();
    let child = SplitChild { region: RegionId(into), peers };
    let (sender, receiver) = channel();
    let done = Box::new(move |result| drop(sender.send(result)));
    handle.split(region.id, region.epoch, vec![key.into()], vec![child], done);
    receiver.recv_timeout(DEADLINE).unwrap().unwrap()
}

#[test]
fn a_new_region_is_led_at_once_by_who_led_its_parent() {
    let (network, stores) = three(&still(Without::default()));
    let (handle, parent) = leader(&stores, FIRST);
    let votes = Arc::new(AtomicUsize::new(0));
    let counted = votes.clone();
    network.set_filter(move |envelope| {
        let kind = decode_message(&envelope.message).map(|m| m.get_msg_type());
        let asks = matches!(kind, Ok(MessageType::MsgRequestVote | MessageType::MsgRequestPreVote));
        counted.fetch_add(usize::from(asks && envelope.region != FIRST), Ordering::Relaxed);
        true
    });
    let mut region = parent.region;
    for n in 0..5 {
        let at = format!("m{n}");
        let parts = split(&handle, &region, &at, 100 + n);
        let (child, status) = leader(&stores, RegionId(100 + n));
        assert_eq!((child.id(), status.term), (handle.id(), LOG_START.term));
        let inside = if n == 0 { "a".to_owned() } else { format!("m{}", n - 1) };
        put(&child, &status.region, &inside).recv_timeout(DEADLINE).unwrap().unwrap();
        region = parts.last().unwrap().clone();
    }
    assert_eq!(votes.load(Ordering::Relaxed), 0, "nobody was asked for a vote");
    // And the others have followed: their replicas are not made by anything but the split.
    for store in &stores {
        for id in (0..5).map(|n| RegionId(100 + n)) {
            let leader = || store.handle().replica(id)?.leader;
            assert_eq!(wait(leader).store, handle.id());
        }
    }
}

/// Leaving out any of the optimisations changes no answer.
#[test]
fn every_way_to_write_writes() {
    let none = Without::default();
    for without in [
        Without { batching: true, ..none },
        Without { early_sends: true, ..none },
        Without { log_thread: true, ..none },
        Without { apply_thread: true, ..none },
        Without::EVERYTHING,
    ] {
        let (_network, stores) = three(&still(without));
        let (handle, status) = leader(&stores, FIRST);
        let answers: Vec<_> =
            (0..50).map(|n| put(&handle, &status.region, &format!("k{n}"))).collect();
        let mut last = 0;
        for answer in answers {
            let applied = answer.recv_timeout(DEADLINE).unwrap().unwrap();
            // Writes that share an entry are at one position.
            let has_own = without.batching && applied.index == last;
            assert!(applied.index >= last && !has_own, "{without:?}");
            last = applied.index;
        }
    }
}

/// While the raft thread is held up, what comes in waits up to the limit; the rest is dropped, as
/// a network may, and the store goes on afterwards.
#[test]
fn messages_above_the_limit_are_dropped_and_nothing_else_is() {
    const LIMIT: usize = 10_000;
    let config = StoreConfig { messages_bytes_max: LIMIT, ..still(Without::default()) };
    let (_network, stores) = three(&config);
    let (handle, status) = leader(&stores, FIRST);
    let [from, to] = [&status.region.peers[1], &status.region.peers[0]].map(Clone::clone);
    let to = Peer { store: handle.id(), ..to };
    let envelope = Envelope {
        region: FIRST,
        epoch: status.region.epoch,
        from,
        to,
        message: vec![255; 936], // no message: it counts and is stepped, and changes nothing
    };
    // Ticks never come: what is dropped now, and not this, would be missed for good.
    put(&handle, &status.region, "a").recv_timeout(DEADLINE).unwrap().unwrap();
    let size = message_bytes(std::slice::from_ref(&envelope));
    let held = handle.shared.raft.lock();
    for _ in 0..10 * LIMIT / size {
        handle.receive(vec![envelope.clone()]);
    }
    let waiting = handle.shared.messages.load(Ordering::Relaxed);
    assert!(waiting > LIMIT && waiting <= LIMIT + size, "{waiting} bytes wait");
    drop(held);
    wait(|| (handle.shared.messages.load(Ordering::Relaxed) == 0).then_some(()));
    put(&handle, &status.region, "b").recv_timeout(DEADLINE).unwrap().unwrap();
}
