//! What a store makes of merges by what is left of their targets, and how far behind a replica may
//! be when one begins.

use super::*;
use crate::merge::{Absorbed, Prepared};

fn region(id: u64, range: KeyRange, version: u64) -> Region {
    let peer = Peer { id: PeerId(id * 10), store: StoreId(1), role: PeerRole::Voter };
    let epoch = Epoch { conf_ver: version, version };
    Region { id: RegionId(id), range, epoch, peers: vec![peer] }
}

/// The target was merged elsewhere, into a region that has no replica here: what is left of the
/// target itself says that it never took the source in.
#[test]
fn a_merge_into_a_region_that_went_another_way_is_taken_back() {
    let (disk, engine) = (MemoryDisk::new(), MemoryEngine::with_crashes());
    let target = region(2, KeyRange::new("m", "t"), 1);
    let prepared = Some(Prepared { target: target.clone(), min_index: 6, commit: 5 });
    let merge = MergeState { prepared, ..MergeState::default() };
    let source = region(1, KeyRange::new("", "m"), 2);
    let gone = Region { epoch: Epoch { conf_ver: 2, version: 2 }, ..target };
    let into = MergeState::default().gone_into(RegionId(3));
    let state = |region, tombstone, merge| {
        let applied = LOG_START;
        RegionState { region, applied, tombstone, merge }
    };
    let states = vec![state(source, false, merge), state(gone, true, into)];
    let machine = RowMachine::new(Arc::new(engine.clone()));
    let effects = vec![Effect::Regions(states)];
    let batch = ApplyBatch { region: RegionId(1), applied: LOG_START, effects };
    machine.apply(vec![batch]).unwrap();
    machine.sync().unwrap();
    let nodes = BTreeMap::from([(1, Node::start(1, disk, engine, 0))]);
    let (net, history) = (Vec::new(), Arc::default());
    let mut world = World { nodes, net, chance: 1, next_id: 100, history, trace: None };
    world.finish(1);
    for _ in 0..40 {
        while !world.nodes[&1].writes.is_empty() || !world.nodes[&1].applies.is_empty() {
            world.run_writer(1);
            world.run_applier(1);
        }
        if !world.nodes[&1].core.status(RegionId(1)).unwrap().merging {
            return;
        }
        world.tick(1);
    }
    panic!("it waits for ever: {}", world.nodes[&1].core.describe(RegionId(1)));
}

/// The first region went into the second one and that into the third, whose snapshot holds all. The
/// second one's replica here has not heard of the first merge, and never will: nobody else has it.
/// A learner that forgot what it had applied is left like that.
#[test]
fn a_snapshot_replaces_a_chain_of_merged_regions() {
    let here = |id, range, version| {
        let epoch = Epoch { conf_ver: 6, version };
        Region { epoch, ..Newcomer::region(id, range, id * 10) }
    };
    let [first, second, third] = [
        here(2, KeyRange::new("", "d"), 3),
        here(3, KeyRange::new("d", "m"), 3),
        here(1, KeyRange::new("m", ""), 3),
    ];
    let all = Region { range: KeyRange::all(), ..here(1, KeyRange::all(), 9) };
    let taken = |region, into, version| Absorbed {
        region: RegionId(region),
        into: RegionId(into),
        version,
    };
    let replaced = |absorbed: Vec<Absorbed>, regions: &[&Region]| {
        let state = |region: &&Region| RegionState {
            region: (*region).clone(),
            applied: LOG_START,
            tombstone: false,
            merge: MergeState::default(),
        };
        let states: Vec<_> = regions.iter().map(state).collect();
        let mut store = Newcomer::new(&states);
        store.beat(&all);
        store.snapshot_after(&all, &MergeState { absorbed, ..MergeState::default() });
        let applies = store.core.finish().unwrap().applies;
        applies.iter().any(|task| matches!(task, ApplyTask::Import { .. }))
    };
    let chain = vec![taken(2, 3, 6), taken(3, 1, 9)];
    assert!(replaced(chain.clone(), &[&first, &second, &third]));
    assert!(replaced(chain, &[&first, &third]), "the second one is gone already");
    let unknown = vec![taken(3, 1, 9)];
    assert!(!replaced(unknown, &[&first, &second, &third]), "of the first one it says nothing");
}

#[test]
fn a_merge_counts_on_no_more_entries_than_are_kept_for_certain() {
    let gap = |merge_gap_entries, log_keep_entries| {
        CoreConfig { merge_gap_entries, log_keep_entries, ..CoreConfig::default() }.merge_gap()
    };
    assert_eq!(gap(16, 1024), 16);
    assert_eq!(gap(100, 1024), KEPT_ENTRIES, "a log that is too long keeps no more");
    assert_eq!(gap(3, 1024), 3);
    assert_eq!(gap(16, 2), 2);
}
