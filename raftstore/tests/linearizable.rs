//! The simulator's histories before two checkers that share nothing: ours (`check_register`, by
//! zones, in n log n steps) and stateright's `LinearizabilityTester`, which searches for an order
//! of the operations. On whatever the product did they must agree, and on what was spoilt on
//! purpose both must refuse. It must never give the search a history that it cannot end.
//!
//! ```text
//!  history of a key ─► values in the order of their writes ─► windows of 6 values, 3 apart
//!                         each with its write and at most 3 reads: 24 operations at most,
//!                         at most 2 of them writes whose outcome is not known
//! ```
//! The search is exponential, hence the bound. A history stays linearizable if a read is left out,
//! or a value with its write and all its reads; and two values that contradict one another do so in
//! any window that has both. Runs that are short enough are searched whole.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use damask_raftstore::testing::sim::{
    FaultKind, KeyHistory, Operation, SimConfig, check_register, run_recorded,
};
use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};
use std::collections::BTreeMap;

/// Values of a window, and how far the next one is.
const VALUES: usize = 6;
const STEP: usize = 3;
/// Reads of a value that a window keeps.
const READS: usize = 3;
/// Writes without a known outcome in what is searched: each may be anywhere, or nowhere.
const UNKNOWN_MAX: usize = 2;
/// Operations of a history that is searched whole.
const WHOLE_MAX: usize = 40;

/// From this number on, threads that are never answered.
const NEVER: usize = 1_000;

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len());
        from.get(at).copied()
    }
}

/// What stateright says.
fn searched(history: &[Operation]) -> bool {
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (at, op) in history.iter().enumerate() {
        events.push((op.invoked, false, at));
        events.extend(op.returned.map(|time| (time, true, at)));
    }
    events.sort_unstable();
    // A thread asks for one thing at a time: as few of them as there are operations at once. Who is
    // never answered is a thread of its own, and the last to be tried.
    let mut tester = LinearizabilityTester::new(Register(0));
    let (mut idle, mut count) = (Vec::new(), 0);
    let mut threads = vec![0; history.len()];
    for (_, returns, at) in events {
        let op = history[at];
        if returns {
            let ret = if op.write { RegisterRet::WriteOk } else { RegisterRet::ReadOk(op.value) };
            tester.on_return(threads[at], ret).unwrap();
            idle.push(threads[at]);
            continue;
        }
        let next = || {
            count += 1;
            count
        };
        let known = op.returned.is_some();
        threads[at] = if known { idle.pop().unwrap_or_else(next) } else { NEVER + at };
        let asked = if op.write { RegisterOp::Write(op.value) } else { RegisterOp::Read };
        tester.on_invoke(threads[at], asked).unwrap();
    }
    tester.is_consistent()
}

/// What both say, which must be the same.
fn verdict(history: &[Operation]) -> bool {
    let (ours, theirs) = (check_register(history), searched(history));
    assert_eq!(ours.is_ok(), theirs, "{ours:?}, but the search says {theirs}: {history:#?}");
    theirs
}

/// Few enough are without an outcome.
fn is_small(history: &[Operation]) -> bool {
    history.iter().filter(|op| op.returned.is_none()).count() <= UNKNOWN_MAX
}

/// See the drawing above.
fn windows(operations: &[Operation]) -> Vec<Vec<Operation>> {
    let mut values: BTreeMap<u64, (u64, Vec<Operation>)> = BTreeMap::from([(0, (0, Vec::new()))]);
    for op in operations.iter().filter(|op| op.write) {
        values.insert(op.value, (op.invoked, vec![*op]));
    }
    for op in operations.iter().filter(|op| !op.write) {
        values.get_mut(&op.value).expect("it was checked already").1.push(*op);
    }
    let mut values: Vec<(u64, Vec<Operation>)> = values.into_values().collect();
    values.sort_by_key(|(written, _)| *written);
    let few = |of_value: &Vec<Operation>| {
        let (writes, mut reads): (Vec<_>, Vec<_>) = of_value.iter().partition(|op| op.write);
        reads.sort_by_key(|op: &&Operation| op.returned);
        let last = reads.iter().copied().max_by_key(|op| op.invoked);
        let mut kept: Vec<Operation> = reads.into_iter().take(READS - 1).copied().collect();
        kept.extend(last.filter(|op| !kept.contains(op)));
        kept.extend(writes);
        kept
    };
    let mut out = Vec::new();
    let mut from = 0;
    loop {
        let to = (from + VALUES).min(values.len());
        let inside = values[from..to].iter();
        let window: Vec<Operation> = inside.flat_map(|(_, all)| few(all)).collect();
        if is_small(&window) {
            out.push(window);
        }
        if to == values.len() {
            return out;
        }
        from += STEP;
    }
}

/// Two acknowledged writes, one after the other.
fn writes_in_order(history: &[Operation], chance: &mut Chance) -> Option<(Operation, Operation)> {
    let known = |op: &&Operation| op.write && op.returned.is_some();
    let mut pairs = Vec::new();
    for first in history.iter().filter(known) {
        let later = history.iter().filter(known).filter(|op| Some(op.invoked) > first.returned);
        pairs.extend(later.map(|second| (*first, *second)));
    }
    chance.pick(&pairs)
}

fn end(history: &[Operation]) -> u64 {
    history.iter().map(|op| op.returned.unwrap_or(0).max(op.invoked)).max().unwrap_or(0)
}

/// Reads after everything else, one after the other.
fn then_read(history: &[Operation], values: &[u64]) -> Vec<Operation> {
    let mut out = history.to_vec();
    for value in values {
        let last = end(&out);
        let (invoked, returned) = (last + 1, Some(last + 2));
        out.push(Operation { write: false, value: *value, invoked, returned });
    }
    out
}

/// What was overwritten before is read at the end.
fn stale_read(history: &[Operation], chance: &mut Chance) -> Option<Vec<Operation>> {
    let (old, _) = writes_in_order(history, chance)?;
    Some(then_read(history, &[old.value]))
}

/// Whoever read a value reads the one before instead, as if it had never been written.
fn lost_write(history: &[Operation], chance: &mut Chance) -> Option<Vec<Operation>> {
    let (before, lost) = writes_in_order(history, chance)?;
    let reads = |op: &&Operation| !op.write && op.value == lost.value;
    history.iter().filter(reads).find(|op| Some(op.invoked) > lost.returned)?;
    // Later writes may stay: the older value is read after the lost one was acknowledged.
    let mut out = history.to_vec();
    out.iter_mut().filter(|op| reads(&&**op)).for_each(|op| op.value = before.value);
    Some(out)
}

/// A value is read before anybody asked to write it.
fn future_read(history: &[Operation], chance: &mut Chance) -> Option<Vec<Operation>> {
    let mut pairs = Vec::new();
    for (at, read) in history.iter().enumerate().filter(|(_, op)| !op.write) {
        let later = history.iter().filter(|op| op.write && Some(op.invoked) > read.returned);
        pairs.extend(later.map(|write| (at, write.value)));
    }
    let (at, value) = chance.pick(&pairs)?;
    let mut out = history.to_vec();
    out[at].value = value;
    Some(out)
}

/// A value that nobody wrote.
fn from_nowhere(history: &[Operation], chance: &mut Chance) -> Option<Vec<Operation>> {
    let reads: Vec<usize> = (0..history.len()).filter(|at| !history[*at].write).collect();
    let at = chance.pick(&reads)?;
    let mut out = history.to_vec();
    out[at].value = u64::MAX;
    Some(out)
}

/// Whatever order two writes had, three readers see one, the other, and the one again.
fn back_and_forth(history: &[Operation], chance: &mut Chance) -> Option<Vec<Operation>> {
    let written: Vec<u64> = history.iter().filter(|op| op.write).map(|op| op.value).collect();
    let (one, other) = (chance.pick(&written)?, chance.pick(&written)?);
    (one != other).then(|| then_read(history, &[one, other, one]))
}

/// Values of reads are changed at random: it may still be right.
fn shuffled(history: &[Operation], chance: &mut Chance) -> Option<Vec<Operation>> {
    let reads: Vec<usize> = (0..history.len()).filter(|at| !history[*at].write).collect();
    let values: Vec<u64> = history.iter().map(|op| op.value).collect();
    let mut out = history.to_vec();
    for _ in 0..=chance.below(2) {
        out[chance.pick(&reads)?].value = chance.pick(&values)?;
    }
    Some(out)
}

/// Times of two operations are exchanged: it may still be right.
fn displaced(history: &[Operation], chance: &mut Chance) -> Option<Vec<Operation>> {
    let known: Vec<usize> =
        (0..history.len()).filter(|at| history[*at].returned.is_some()).collect();
    let (one, other) = (chance.pick(&known)?, chance.pick(&known)?);
    let mut out = history.to_vec();
    let (first, second) = (out[one], out[other]);
    (out[one].invoked, out[one].returned) = (second.invoked, second.returned);
    (out[other].invoked, out[other].returned) = (first.invoked, first.returned);
    Some(out)
}

type Spoil = fn(&[Operation], &mut Chance) -> Option<Vec<Operation>>;

/// None of these can be linearizable.
const WRONG: [(&str, Spoil); 5] = [
    ("a stale read", stale_read),
    ("a lost write", lost_write),
    ("a read from the future", future_read),
    ("a value from nowhere", from_nowhere),
    ("back and forth", back_and_forth),
];

fn seeds(release: u64) -> u64 {
    let wanted = std::env::var("SEEDS").ok().map(|text| text.parse().unwrap());
    wanted.unwrap_or(if cfg!(debug_assertions) { release / 8 } else { release })
}

fn recorded(config: &SimConfig) -> Vec<KeyHistory> {
    run_recorded(config).unwrap_or_else(|failure| panic!("{failure}")).1
}

/// Short storms, so that windows are not all of the calm after them.
fn histories(seeds: u64) -> Vec<KeyHistory> {
    let config = |seed| SimConfig { storm_ms: 4_000, ..SimConfig::new(seed) };
    (1..=seeds).flat_map(|seed| recorded(&config(seed))).collect()
}

#[test]
fn both_checkers_accept_what_the_product_did_and_refuse_what_was_spoilt() {
    let mut chance = Chance(1);
    let (mut windows_seen, mut refused) = (0, [0; WRONG.len()]);
    let (mut right, mut wrong) = (0, 0);
    for history in histories(seeds(48)) {
        for window in windows(&history.operations) {
            assert!(verdict(&window), "key {}: {window:#?}", history.key);
            windows_seen += 1;
            for (at, (what, spoil)) in WRONG.iter().enumerate() {
                let Some(spoilt) = spoil(&window, &mut chance) else { continue };
                assert!(!verdict(&spoilt), "{what} is taken: {spoilt:#?}");
                refused[at] += 1;
            }
            for change in [shuffled as Spoil, displaced] {
                let Some(changed) = change(&window, &mut chance) else { continue };
                if verdict(&changed) { right += 1 } else { wrong += 1 }
            }
        }
    }
    println!("{windows_seen} windows; {refused:?} refused; changed: {right} right, {wrong} wrong");
    let enough = if cfg!(debug_assertions) { 50 } else { 1_000 };
    assert!(windows_seen > enough, "{windows_seen}");
    assert!(refused.iter().all(|count| *count > enough / 5), "{refused:?}");
    assert!(right > enough / 5 && wrong > enough / 5, "{right} and {wrong}: both must be common");
}

/// Reads that went aside of the leader are in order with the writes, each by itself.
#[test]
fn both_checkers_accept_reads_of_other_replicas_with_the_writes_alone() {
    let mut seen = 0;
    for history in histories(seeds(16)) {
        let writes = history.operations.iter().filter(|op| op.write);
        let writes: Vec<Operation> = writes.copied().collect();
        // Far writes say nothing of a read: those beside the one that it saw do.
        for read in &history.aside {
            let at = writes.iter().position(|op| op.value == read.value).unwrap_or(0);
            let near = at.saturating_sub(VALUES)..(at + VALUES).min(writes.len());
            let mut beside = writes[near].to_vec();
            beside.push(*read);
            if is_small(&beside) {
                assert!(verdict(&beside), "key {}: {beside:#?}", history.key);
                seen += 1;
            }
        }
    }
    assert!(seen > if cfg!(debug_assertions) { 20 } else { 200 }, "{seen}");
}

/// Runs of a second with a few clients, every operation of each key at once.
#[test]
fn short_runs_are_searched_whole() {
    let faults = vec![FaultKind::Crash, FaultKind::Isolation, FaultKind::Delay, FaultKind::Split];
    let (mut whole, mut longest) = (0, 0);
    for seed in 1..=seeds(80) {
        let (storm_ms, clients) = (700, 4);
        let faults = Some(faults.clone());
        let config = SimConfig { storm_ms, clients, faults, ..SimConfig::new(seed) };
        for KeyHistory { key, operations, .. } in recorded(&config) {
            if operations.len() <= WHOLE_MAX && is_small(&operations) {
                assert!(verdict(&operations), "seed {seed}, key {key}: {operations:#?}");
                whole += 1;
                longest = longest.max(operations.len());
            }
        }
    }
    println!("{whole} histories of up to {longest} operations");
    assert!(whole > if cfg!(debug_assertions) { 30 } else { 300 } && longest > 10, "{whole}");
}
