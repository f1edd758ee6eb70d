//! A snapshot that is put in place in several writes, and a crash at every moment of that.

use super::*;
use crate::file_log::{FileLogConfig, FileLogStore};
use crate::row_machine::RowMachine;
use crate::snapshot::ChunkBuilder;
use crate::store_core::{CoreConfig, StoreCore};
use damask_env::MemoryDisk;
use damask_kv::testing::Faulty;
use damask_kv::{Cf, Engine, MemoryEngine};
use damask_types::codec::encode_key_ts;
use damask_types::{Epoch, ErrorKind, PeerRole, Timestamp};

const REGION: RegionId = RegionId(7);
const STORE: StoreId = StoreId(1);
const STREAM: u64 = 3;
const PARTS: u64 = 6;

fn state() -> RegionState {
    let peer = |id, store| Peer { id: PeerId(id), store: StoreId(store), role: PeerRole::Voter };
    let (epoch, peers) = (Epoch { conf_ver: 3, version: 2 }, vec![peer(1, 1), peer(2, 2)]);
    let region = Region { id: REGION, range: KeyRange::new("a", "z"), epoch, peers };
    let applied = Applied { index: 90, term: 8 };
    RegionState { region, applied, tombstone: false, merge: Default::default() }
}

fn chunk(part: u64) -> Vec<u8> {
    let mut builder = ChunkBuilder::default();
    for n in 0..5 {
        let key = format!("k{part}{n}");
        builder.push(Cf::Write, &encode_key_ts(key.as_bytes(), Timestamp(9)), &[7; 20]);
    }
    builder.finish()
}

fn log(disk: &MemoryDisk) -> Arc<dyn LogStore> {
    let log = FileLogStore::open(Arc::new(disk.clone()), "raft", FileLogConfig::default());
    Arc::new(log.unwrap())
}

/// Puts the snapshot in place, until something fails.
fn import(disk: &MemoryDisk, engine: Arc<dyn Engine>) -> Result<()> {
    let machine = Arc::new(RowMachine::new(engine).with_import_bytes(200));
    let applier = Applier::new(STORE, machine, log(disk), &[]);
    let mut applier = applier.stage_on(Arc::new(disk.clone()))?;
    let stage = |at| {
        let (region, stream, last) = (REGION, STREAM, at + 1 == PARTS);
        ApplyTask::Stage { region, stream, at, last, chunk: chunk(at) }
    };
    let import = ApplyTask::Import { state: state(), stream: STREAM };
    applier.run((0..PARTS).map(stage).chain([import]).collect()).map(drop)
}

fn rows(engine: &MemoryEngine) -> usize {
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Cf::Write, b"", b"").unwrap();
    let mut pair = cursor.seek(b"").unwrap();
    let mut count = 0;
    while pair.is_some() {
        count += 1;
        pair = cursor.next().unwrap();
    }
    count
}

#[test]
fn an_import_that_a_crash_cuts_short_is_done_again_from_what_was_kept() {
    let mut again = 0;
    for nth in 0.. {
        let (disk, engine) = (MemoryDisk::new(), MemoryEngine::with_crashes());
        let faulty = Arc::new(Faulty::new(engine.clone(), nth, ErrorKind::Io));
        assert_eq!(import(&disk, faulty.clone()).is_err(), faulty.has_failed(), "{nth}");
        for keep in 0..=engine.unsynced() {
            let engine = engine.crash(keep).unwrap();
            let image = disk.crash_image(|n| n * (keep % 3) / 2);
            let machine = RowMachine::new(Arc::new(engine.clone()));
            again += usize::from(machine.unfinished().unwrap().is_some());
            resume_import(&machine, Some(&image)).unwrap();
            assert!(machine.unfinished().unwrap().is_none());
            let states = machine.recover().unwrap();
            if states.is_empty() {
                assert!(faulty.has_failed() && rows(&engine) == 0, "nothing had begun");
                continue;
            }
            assert_eq!((&states[..], rows(&engine)), (&[state()][..], PARTS as usize * 5));
            // The log goes on where the content ends.
            let log = log(&image);
            StoreCore::new(STORE, CoreConfig::default(), log.clone(), &states).unwrap();
            let group = log.group(REGION).unwrap();
            assert_eq!((group.truncated, group.last), (state().applied, state().applied));
        }
        if !faulty.has_failed() {
            break;
        }
    }
    assert!(again > 5, "{again}");
}

#[test]
fn an_import_whose_parts_are_gone_is_named() {
    let (disk, engine) = (MemoryDisk::new(), MemoryEngine::with_crashes());
    // The mark, its sync, and a part.
    let faulty = Arc::new(Faulty::new(engine.clone(), 4, ErrorKind::Io));
    import(&disk, faulty).unwrap_err();
    let machine = RowMachine::new(Arc::new(engine.crash(9).unwrap()));
    assert!(machine.unfinished().unwrap().is_some());
    let empty = MemoryDisk::new();
    for disk in [None, Some(&empty as &dyn Disk)] {
        let e = resume_import(&machine, disk).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt);
        assert!(e.to_string().contains("region 7"), "{e}");
    }
    resume_import(&machine, Some(&disk)).unwrap();
}

/// Its log is as every replica has it: a command that should not have been proposed is refused by
/// all in the same way, and changes nothing.
#[test]
fn a_split_with_an_id_that_is_taken_is_refused() {
    let child = |region, peers: [u64; 2]| {
        let peers = peers.map(PeerId).to_vec();
        SplitChild { region: RegionId(region), peers }
    };
    for children in [
        vec![child(REGION.0, [11, 12])],
        vec![child(0, [11, 12])],
        vec![child(8, [11, 12]), child(8, [13, 14])],
        vec![child(8, [11, 11])],
        vec![child(8, [11, 0])],
        vec![child(8, [1, 11])],
        vec![child(8, [11, 12]), child(9, [12, 13])],
    ] {
        let keys: Vec<Vec<u8>> = [b"d", b"h"].map(|k| k.to_vec())[..children.len()].to_vec();
        assert!(split_region(&state().region, &keys, &children).is_err(), "{children:?}");
        let machine = Arc::new(RowMachine::new(Arc::new(MemoryEngine::new())));
        let (applied, effects) = (state().applied, vec![Effect::Regions(vec![state()])]);
        machine.apply(vec![ApplyBatch { region: REGION, applied, effects }]).unwrap();
        let log = log(&MemoryDisk::new());
        let mut applier = Applier::new(STORE, machine.clone(), log, &[state()]);
        let (index, term) = (applied.index + 1, applied.term);
        let data = crate::command::encode_split(state().region.epoch, &keys, &children);
        let entries = vec![LogEntry { index, term, data, ..LogEntry::default() }];
        let (sender, receiver) = std::sync::mpsc::channel();
        let answer = Answer::new(Box::new(move |result| drop(sender.send(result))));
        let waiting = vec![(index, Waiting::Split(answer))];
        let reports = applier.run(vec![ApplyTask::Entries { region: REGION, entries, waiting }]);
        let reports = reports.unwrap();
        let [ApplyReport::Applied { changes, .. }] = &reports[..] else { panic!("{reports:?}") };
        assert!(changes.is_empty(), "{changes:?}");
        let refused = receiver.recv().unwrap().expect_err("an id is taken");
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
        let expected = RegionState { applied: Applied { index, term }, ..state() };
        assert_eq!(machine.recover().unwrap(), [expected]);
    }
}
