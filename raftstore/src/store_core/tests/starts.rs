//! Who stands for election as soon as its store starts, and who leads without one. It must never
//! depend on time: no tick comes here.

use super::*;
use crate::wire::decode_message;

fn region(id: u64, version: u64, voters: u64) -> Region {
    let role = PeerRole::Voter;
    let peers = (1..=voters).map(|s| Peer { id: PeerId(id * 10 + s), store: StoreId(s), role });
    let (from, to) = (format!("k{id}"), format!("k{}", id + 1));
    let epoch = Epoch { conf_ver: 1, version };
    Region { id: RegionId(id), range: KeyRange::new(from, to), epoch, peers: peers.collect() }
}

/// The first turn of a store that recovered these regions, with the votes in their logs.
fn started(store: u64, regions: &[(Region, u64)]) -> (StoreCore, Turn) {
    let log = Arc::new(crate::log_store::MemoryLogStore::new());
    let mut states = Vec::new();
    for (region, vote) in regions {
        let hard = HardState { term: LOG_START.term, vote: *vote, commit: LOG_START.index };
        let reset = [LogOp::Reset(LOG_START), LogOp::HardState(hard)];
        log.append(reset.map(|op| (region.id, op)).into()).unwrap();
        let (region, merge) = (region.clone(), MergeState::default());
        states.push(RegionState { region, applied: LOG_START, tombstone: false, merge });
    }
    let mut core = StoreCore::new(StoreId(store), config(), log, &states).unwrap();
    core.begin(Duration::ZERO);
    let turn = core.finish().unwrap();
    (core, turn)
}

/// Regions for which votes are asked for.
fn stand(turn: &Turn) -> BTreeSet<u64> {
    let held = turn.write.iter().flat_map(|write| &write.held);
    let asks = |e: &&Envelope| {
        let kind = decode_message(&e.message).unwrap().get_msg_type();
        matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
    };
    turn.sends.iter().chain(held).filter(asks).map(|e| e.region.0).collect()
}

#[test]
fn only_the_first_voter_of_a_cluster_that_is_new_stands_at_once() {
    // Region 2 was split off: its parent's leader, on another store, may not have applied that, and
    // may still read its keys by the lease.
    let regions = [(region(1, 1, 3), 0), (region(2, 2, 3), 0)];
    assert_eq!(stand(&started(1, &regions).1), BTreeSet::from([1]));
    assert_eq!(stand(&started(2, &regions).1), BTreeSet::new(), "one is enough");
}

#[test]
fn who_leads_alone_leads_at_once_if_it_has_voted_for_itself() {
    let leads = |vote| {
        let (core, _) = started(1, &[(region(3, 2, 1), vote)]);
        core.status(RegionId(3)).unwrap().is_leader
    };
    assert!(leads(31));
    assert!(!leads(0), "it may have been one of several, and forgotten whom it heard");
}
