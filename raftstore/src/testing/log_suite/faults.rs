//! Power cuts at every operation of the disk, writes cut short and torn, syncs that fail, bits that
//! flip. A store may lose what it has not acknowledged, never anything else; it never makes up
//! anything.

use super::*;
use damask_types::ErrorKind;

/// Operations of the disk that are let fail, one a run, at most.
const FAULTS_MAX: u64 = 600;
/// Where opening takes long, only every so many of them fail, and fewer bits are flipped.
const SLOW_STRIDE: u64 = 11;
/// Sectors of which every choice survives a power cut, one a run.
const CHOSEN_SECTORS: usize = 3;
/// Bits that are flipped, spread over all there are.
const FLIPS: u64 = 1500;

pub(super) fn run(make: &dyn Fn() -> Box<dyn LogBackend>) {
    if !make().is_durable() {
        return;
    }
    for seed in 1..=3 {
        every_failed_operation(make, seed);
    }
    a_failed_sync_is_never_retried(make);
    flipped_bits_at_rest(make);
    flipped_bits_while_open(make);
}

/// What a run has done when it was stopped.
struct Run {
    /// The model's state after each batch that was begun, from the empty one on.
    states: Vec<Shown>,
    /// States up to this one are acknowledged: a sync after them has returned.
    acknowledged: usize,
    /// Nothing has failed.
    is_clean: bool,
}

/// Opens, writes, syncs and purges until something fails.
fn work(backend: &dyn LogBackend, seed: u64) -> (Run, Option<std::sync::Arc<dyn LogStore>>) {
    let mut work = Workload::new(seed);
    let mut run = Run { states: vec![work.shown()], acknowledged: 0, is_clean: false };
    let Ok(store) = backend.open() else { return (run, None) };
    for step in 0..60 {
        let batch = work.batch();
        run.states.push(work.shown());
        if store.append(batch).is_err() {
            return (run, Some(store));
        }
        if step % 2 == 0 {
            if store.sync().is_err() {
                return (run, Some(store));
            }
            run.acknowledged = run.states.len() - 1;
        }
        if step % 7 == 0 && store.purge().is_err() {
            return (run, Some(store));
        }
    }
    run.is_clean = true;
    (run, Some(store))
}

/// The n-th operation fails, n = 0, 1, …, until a run is clean; then the power goes, and of what
/// was not synced nothing, all, or something in between is there: a prefix of the batches.
fn every_failed_operation(make: &dyn Fn() -> Box<dyn LogBackend>, seed: u64) {
    let slow = make().is_slow();
    let (stride, cuts, choices) = match slow {
        false => (1, &[0, 1, 7, 40, 333, 512, 600, usize::MAX][..], 0..2 << CHOSEN_SECTORS),
        true => (SLOW_STRIDE, &[0, 333, usize::MAX][..], 5..7),
    };
    for n in (seed % stride..FAULTS_MAX).step_by(stride as usize) {
        let backend = make();
        if !backend.fail_at(Some(n)) {
            return;
        }
        let (run, store) = work(backend.as_ref(), seed);
        let done = run.is_clean && backend.operations() <= n;
        backend.fail_at(None);
        for kept in cuts {
            let mut left = *kept;
            let image = backend.power_cut(&mut |unsynced| {
                let keep = unsynced.min(left);
                left -= keep;
                keep
            });
            let Some(image) = image else { break };
            check(image.as_ref(), &run, &format!("seed {seed}, fault {n}, {kept} bytes kept"));
        }
        // Of the first sectors every choice, of all others both.
        for kept in choices.clone() {
            let mut choose = |sector: usize| kept >> sector.min(CHOSEN_SECTORS) & 1 == 1;
            let image = backend.power_cut_by_sectors(&mut choose);
            let Some(image) = image else { break };
            check(image.as_ref(), &run, &format!("seed {seed}, fault {n}, sectors {kept:b} kept"));
        }
        drop(store);
        if done {
            return;
        }
    }
    panic!("a run of more than {FAULTS_MAX} operations");
}

fn check(image: &dyn LogBackend, run: &Run, context: &str) {
    let store = image.open().unwrap_or_else(|e| panic!("{context}: {e}"));
    let found = shown(store.as_ref()).unwrap_or_else(|e| panic!("{context}: {e}"));
    let fits = run.states[run.acknowledged..].contains(&found);
    assert!(fits, "{context}: not a state since the last sync\n{found:#?}");
    // And it goes on: what is written now is there after the next cut.
    one(store.as_ref(), RegionId(9), LogOp::Append(vec![entry(1, 1)]));
    store.sync().unwrap_or_else(|e| panic!("{context}: {e}"));
    let Some(again) = image.power_cut(&mut |_| 0) else { return };
    let again = again.open().unwrap_or_else(|e| panic!("{context}, again: {e}"));
    let mut expected = found;
    let last = Applied { index: 1, term: 1 };
    expected.insert(RegionId(9), (GroupLog { last, ..GroupLog::default() }, vec![(1, 1)]));
    let found = shown(again.as_ref()).unwrap_or_else(|e| panic!("{context}, again: {e}"));
    assert_eq!(found, expected, "{context}, again");
}

/// After a failed sync the system may have dropped the pages: what a second one says means nothing.
fn a_failed_sync_is_never_retried(make: &dyn Fn() -> Box<dyn LogBackend>) {
    for n in 0..4 {
        let backend = make();
        let store = backend.open().expect("opens");
        append(store.as_ref(), A, 1..=2, 1);
        store.sync().expect("syncs");
        if !backend.fail_at(Some(n)) {
            return;
        }
        let more = vec![(A, LogOp::Append(vec![entry(3, 1), entry(4, 1)]))];
        if store.append(more).and_then(|()| store.sync()).is_ok() {
            continue;
        }
        backend.fail_at(None);
        for _ in 0..3 {
            let again = store.sync().expect_err("poisoned");
            assert_eq!(again.kind(), ErrorKind::Poisoned, "{again}");
            let more = store.append(vec![(A, LogOp::Append(vec![entry(5, 1)]))]);
            assert_eq!(more.expect_err("poisoned").kind(), ErrorKind::Poisoned);
        }
        assert_eq!(backend.operations(), 0, "the disk is left alone");
        drop(store);
        let store = backend.open().expect("opens again");
        let found = terms(store.as_ref(), A);
        assert!(found.len() == 2 || found.len() == 4, "{found:?}");
    }
}

/// Some files and records, all synced, and as they are after opening: a store may cut off then what
/// it had only reserved.
fn filled(backend: &dyn LogBackend) -> Shown {
    let store = backend.open().expect("opens");
    let mut work = Workload::new(77);
    for _ in 0..40 {
        store.append(work.batch()).expect("takes");
        store.sync().expect("syncs");
    }
    drop(store);
    drop(backend.open().expect("opens again"));
    work.shown()
}

fn slowness(backend: &dyn LogBackend) -> u64 {
    if backend.is_slow() { SLOW_STRIDE } else { 1 }
}

/// A bit flips while the store is closed: opening it, or reading, names the damage; or the bit did
/// not matter.
fn flipped_bits_at_rest(make: &dyn Fn() -> Box<dyn LogBackend>) {
    let backend = make();
    let expected = filled(backend.as_ref());
    let bits = backend.bits();
    let step = ((bits / FLIPS).max(1) * slowness(backend.as_ref())) | 1;
    for at in (0..bits).step_by(step as usize) {
        if !backend.flip(at) {
            return;
        }
        match backend.open().and_then(|store| shown(store.as_ref())) {
            Ok(found) => assert_eq!(found, expected, "bit {at}: something else is served"),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "bit {at}: {e}"),
        }
        backend.flip(at);
    }
    assert_eq!(shown(backend.open().expect("opens").as_ref()).expect("answers"), expected);
}

/// A bit flips under an open store: a read names the damage, or is right.
fn flipped_bits_while_open(make: &dyn Fn() -> Box<dyn LogBackend>) {
    let backend = make();
    let expected = filled(backend.as_ref());
    let bits = backend.bits();
    let step = ((bits / FLIPS * 8).max(1) * slowness(backend.as_ref())) | 1;
    for at in (0..bits).step_by(step as usize) {
        let store = backend.open().expect("opens");
        if !backend.flip(at) {
            return;
        }
        match shown(store.as_ref()) {
            Ok(found) => assert_eq!(found, expected, "bit {at}: something else is served"),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "bit {at}: {e}"),
        }
        drop(store);
        backend.flip(at);
    }
}
