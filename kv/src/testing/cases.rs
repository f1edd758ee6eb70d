//! Cases that need one open engine. They must never rely on a backend's timing.

use super::{Owned, Random, dump, get, owned, write};
use crate::engine::{Cf, Cursor, Engine, KEY_BYTES_MAX, WriteBatch, is_empty_range, versions_end};
use damask_types::{ErrorKind, codec};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Batches that the atomicity case writes under its readers.
const ATOMIC_BATCHES: u32 = 300;
/// Steps of the case against a model.
const MODEL_STEPS: usize = 600;
/// Keys of the estimate case; bytes of each value.
const ESTIMATE_KEYS: u64 = 20_000;
const ESTIMATE_VALUE: usize = 100;

type Case = fn(&dyn Engine);

/// Every case with its name.
pub(super) const ALL: &[(&str, Case)] = &[
    ("read your write", read_your_write),
    ("families are apart", families_are_apart),
    ("a batch is applied in order", batch_is_in_order),
    ("a batch is atomic over families", batch_is_atomic),
    ("a snapshot does not change", snapshot_is_isolated),
    ("cursor bounds", cursor_bounds),
    ("cursor ends and turns", cursor_ends_and_turns),
    ("empty ranges", empty_ranges),
    ("edge keys and values", edge_keys),
    ("delete range ends", delete_range_ends),
    ("bad keys are refused whole", bad_keys),
    ("versions of one key", versions_of_one_key),
    ("a load comes in whole", load_is_whole),
    ("a load in the wrong order leaves nothing", load_out_of_order),
    ("estimate within a factor of two", estimate),
    ("random steps against a model", against_a_model),
];

fn read_your_write(engine: &dyn Engine) {
    assert_eq!(get(engine, Cf::Default, b"a"), None);
    write(engine, |b| b.put(Cf::Default, "a", "1"));
    assert_eq!(get(engine, Cf::Default, b"a"), Some(b"1".to_vec()));
    write(engine, |b| b.put(Cf::Default, "a", "2"));
    assert_eq!(get(engine, Cf::Default, b"a"), Some(b"2".to_vec()));
    write(engine, |b| b.delete(Cf::Default, "a"));
    assert_eq!(get(engine, Cf::Default, b"a"), None);
    write(engine, |b| b.delete(Cf::Default, "never was"));
    engine.write(WriteBatch::default()).expect("an empty batch is fine");
    engine.sync().expect("sync");
    engine.sync().expect("sync of nothing");
}

fn families_are_apart(engine: &dyn Engine) {
    for cf in Cf::ALL {
        write(engine, |b| b.put(cf, "k", cf.name()));
    }
    for cf in Cf::ALL {
        assert_eq!(get(engine, cf, b"k"), Some(cf.name().into()));
        assert_eq!(dump(&*engine.snapshot(), cf, &[], &[]).len(), 1);
    }
    write(engine, |b| b.delete_range(Cf::Lock, "", ""));
    assert_eq!(get(engine, Cf::Lock, b"k"), None);
    assert_eq!(get(engine, Cf::Write, b"k"), Some(b"write".to_vec()));
}

fn batch_is_in_order(engine: &dyn Engine) {
    write(engine, |b| {
        b.put(Cf::Default, "a", "1");
        b.delete(Cf::Default, "a");
        b.put(Cf::Default, "b", "1");
        b.put(Cf::Default, "b", "2");
        b.delete(Cf::Default, "c");
        b.put(Cf::Default, "c", "3");
        b.put(Cf::Default, "d", "4");
        b.delete_range(Cf::Default, "d", "f");
        b.put(Cf::Default, "e", "5");
    });
    let pairs = dump(&*engine.snapshot(), Cf::Default, &[], &[]);
    assert_eq!(pairs, pairs_of(&[("b", "2"), ("c", "3"), ("e", "5")]));
    write(engine, |b| {
        b.put(Cf::Default, "z", "6");
        b.delete_range(Cf::Default, "c", "");
        b.put(Cf::Default, "y", "7");
    });
    let pairs = dump(&*engine.snapshot(), Cf::Default, &[], &[]);
    assert_eq!(pairs, pairs_of(&[("b", "2"), ("y", "7")]));
}

fn batch_is_atomic(engine: &dyn Engine) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..ATOMIC_BATCHES {
                write(engine, |b| Cf::ALL.iter().for_each(|cf| b.put(*cf, "n", i.to_be_bytes())));
            }
            done.store(true, Ordering::Release);
        });
        let mut last = None;
        while !done.load(Ordering::Acquire) {
            let snapshot = engine.snapshot();
            let seen = Cf::ALL.map(|cf| snapshot.get(cf, b"n").expect("reads"));
            assert!(seen.iter().all(|value| *value == seen[0]), "half a batch: {seen:?}");
            assert!(seen[0] >= last, "a later snapshot is older: {last:?} then {:?}", seen[0]);
            let pairs = dump(&*snapshot, Cf::Meta, &[], &[]);
            assert_eq!(pairs.first().map(|(_, v)| v.as_slice()), seen[0].as_deref());
            last = seen[0].clone();
        }
    });
    let expected = (ATOMIC_BATCHES - 1).to_be_bytes().to_vec();
    assert_eq!(get(engine, Cf::Meta, b"n"), Some(expected));
}

fn snapshot_is_isolated(engine: &dyn Engine) {
    let empty = engine.snapshot();
    write(engine, |b| {
        b.put(Cf::Default, "a", "1");
        b.put(Cf::Default, "b", "1");
        b.put(Cf::Default, "c", "1");
    });
    let first = engine.snapshot();
    let mut cursor = first.cursor(Cf::Default, b"", b"").expect("a cursor");
    assert_eq!(owned(cursor.seek(b"a").expect("seek")), pair("a", "1"));
    write(engine, |b| {
        b.put(Cf::Default, "a", "2");
        b.delete(Cf::Default, "b");
        b.put(Cf::Default, "bb", "2");
        b.delete_range(Cf::Default, "c", "d");
    });
    engine.sync().expect("sync");
    assert_eq!(owned(cursor.next().expect("next")), pair("b", "1"));
    assert_eq!(owned(cursor.next().expect("next")), pair("c", "1"));
    assert_eq!(owned(cursor.next().expect("next")), None);
    drop(cursor);
    let old = dump(&*first, Cf::Default, &[], &[]);
    assert_eq!(old, pairs_of(&[("a", "1"), ("b", "1"), ("c", "1")]));
    assert_eq!(first.get(Cf::Default, b"b").expect("reads").as_deref(), Some(&b"1"[..]));
    assert_eq!(dump(&*empty, Cf::Default, &[], &[]), []);
    let new = dump(&*engine.snapshot(), Cf::Default, &[], &[]);
    assert_eq!(new, pairs_of(&[("a", "2"), ("bb", "2")]));
}

fn cursor_bounds(engine: &dyn Engine) {
    write(engine, |b| ["a", "b", "c", "d", "e"].iter().for_each(|k| b.put(Cf::Write, *k, *k)));
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Cf::Write, b"b", b"d").expect("a cursor");
    assert_eq!(cursor.current(), None, "unpositioned until a seek");
    assert_eq!(owned(cursor.next().expect("next")), None);
    for (key, expected) in
        [("", Some("b")), ("a", Some("b")), ("b", Some("b")), ("bb", Some("c")), ("c", Some("c"))]
    {
        let found = owned(cursor.seek(key.as_bytes()).expect("seek"));
        assert_eq!(found, expected.and_then(|k| pair(k, k)), "seek {key}");
        assert_eq!(owned(cursor.current()), expected.and_then(|k| pair(k, k)));
    }
    for key in ["cc", "d", "e", "z"] {
        assert_eq!(owned(cursor.seek(key.as_bytes()).expect("seek")), None, "seek {key}");
        assert_eq!(cursor.current(), None);
    }
    for (key, expected) in
        [("z", Some("c")), ("d", Some("c")), ("cc", Some("c")), ("b", Some("b")), ("a", None)]
    {
        let found = owned(cursor.seek_for_prev(key.as_bytes()).expect("seek"));
        assert_eq!(found, expected.and_then(|k| pair(k, k)), "seek_for_prev {key}");
    }
    assert_eq!(owned(cursor.seek_to_last().expect("seek")), pair("c", "c"));
    let mut open = snapshot.cursor(Cf::Write, b"", b"").expect("a cursor");
    assert_eq!(owned(open.seek_to_last().expect("seek")), pair("e", "e"));
    assert_eq!(owned(open.seek(b"").expect("seek")), pair("a", "a"));
    assert_eq!(owned(open.seek_for_prev(b"zzz").expect("seek")), pair("e", "e"));
}

fn cursor_ends_and_turns(engine: &dyn Engine) {
    write(engine, |b| (0..200u8).for_each(|i| b.put(Cf::Write, [b'k', i], [i])));
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Cf::Write, b"", b"").expect("a cursor");
    let key = |pair: Option<Owned>| pair.map(|(key, _)| key[1]);
    assert_eq!(key(owned(cursor.seek(&[b'k', 100]).expect("seek"))), Some(100));
    let mut at = 100i32;
    for steps in [1i32, -1, 5, -7, 40, -100, 130] {
        for _ in 0..steps.abs() {
            let found = if steps > 0 { cursor.next() } else { cursor.prev() };
            at += steps.signum();
            assert_eq!(key(owned(found.expect("step"))), Some(at as u8));
            assert_eq!(key(owned(cursor.current())), Some(at as u8));
        }
    }
    assert_eq!(key(owned(cursor.seek_to_last().expect("seek"))), Some(199));
    assert_eq!(owned(cursor.next().expect("next")), None);
    assert_eq!(owned(cursor.next().expect("next")), None, "the end stays the end");
    assert_eq!(owned(cursor.prev().expect("prev")), None, "until the next seek");
    assert_eq!(key(owned(cursor.seek(b"").expect("seek"))), Some(0));
    assert_eq!(owned(cursor.prev().expect("prev")), None);
    assert_eq!(owned(cursor.next().expect("next")), None);
    let mut other = snapshot.cursor(Cf::Write, b"", b"").expect("a second cursor");
    assert_eq!(key(owned(other.seek(&[b'k', 7]).expect("seek"))), Some(7));
    assert_eq!(key(owned(cursor.seek(&[b'k', 9]).expect("seek"))), Some(9));
    assert_eq!(key(owned(other.next().expect("next"))), Some(8), "cursors do not share a place");
}

fn empty_ranges(engine: &dyn Engine) {
    let check = |engine: &dyn Engine| {
        let snapshot = engine.snapshot();
        for (start, end) in [("b", "b"), ("c", "b"), ("bb", "bc"), ("x", "")] {
            let mut cursor =
                snapshot.cursor(Cf::Default, start.as_bytes(), end.as_bytes()).expect("a cursor");
            assert_eq!(owned(cursor.seek(b"").expect("seek")), None, "[{start}, {end})");
            assert_eq!(owned(cursor.seek_for_prev(b"z").expect("seek")), None, "[{start}, {end})");
            assert_eq!(owned(cursor.seek_to_last().expect("seek")), None, "[{start}, {end})");
            assert_eq!(owned(cursor.next().expect("next")), None);
            assert_eq!(owned(cursor.prev().expect("prev")), None);
        }
    };
    check(engine);
    write(engine, |b| ["a", "b", "c"].iter().for_each(|k| b.put(Cf::Default, *k, *k)));
    check(engine);
}

fn edge_keys(engine: &dyn Engine) {
    let long = vec![0xFF; KEY_BYTES_MAX];
    let big = vec![7; 1 << 20];
    let mut keys: Vec<Vec<u8>> = vec![
        vec![0x00],
        vec![0x00, 0x00],
        vec![0x00, 0xFF],
        vec![0x01],
        vec![0x7F],
        vec![0x80],
        vec![0xFF],
        vec![0xFF, 0x00],
        vec![0xFF, 0xFF],
        long,
    ];
    keys.sort();
    for (i, key) in keys.iter().enumerate() {
        let value = if i % 2 == 0 { Vec::new() } else { big.clone() };
        write(engine, |b| b.put(Cf::Default, key.clone(), value));
    }
    let snapshot = engine.snapshot();
    let pairs = dump(&*snapshot, Cf::Default, &[], &[]);
    assert_eq!(pairs.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), keys);
    for (i, (key, value)) in pairs.iter().enumerate() {
        assert_eq!(value.len(), if i % 2 == 0 { 0 } else { big.len() });
        assert_eq!(get(engine, Cf::Default, key).as_ref(), Some(value));
    }
    let prefix = dump(&*snapshot, Cf::Default, &[0x00], &[0x01]);
    assert_eq!(prefix.len(), 3, "a key is before its extensions");
    let top = dump(&*snapshot, Cf::Default, &[0xFF], &[]);
    assert_eq!(top.len(), 4);
}

fn delete_range_ends(engine: &dyn Engine) {
    let left = |start: &str, end: &str| {
        write(engine, |b| {
            b.delete_range(Cf::Default, "", "");
            ["a", "b", "bb", "c", "d"].iter().for_each(|k| b.put(Cf::Default, *k, "v"));
        });
        write(engine, |b| b.delete_range(Cf::Default, start, end));
        let pairs = dump(&*engine.snapshot(), Cf::Default, &[], &[]);
        for (key, _) in &pairs {
            assert!(get(engine, Cf::Default, key).is_some(), "got as it is scanned");
        }
        pairs.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(left("b", "c"), ["a", "c", "d"]);
    assert_eq!(left("b", "b"), ["a", "b", "bb", "c", "d"]);
    assert_eq!(left("c", "b"), ["a", "b", "bb", "c", "d"]);
    assert_eq!(left("", "bb"), ["bb", "c", "d"]);
    assert_eq!(left("bb", ""), ["a", "b"]);
    assert_eq!(left("", ""), [""; 0]);
    assert_eq!(left("x", ""), ["a", "b", "bb", "c", "d"]);
}

fn bad_keys(engine: &dyn Engine) {
    for key in [Vec::new(), vec![1; KEY_BYTES_MAX + 1]] {
        let mut batch = WriteBatch::default();
        batch.put(Cf::Default, "good", "1");
        batch.put(Cf::Default, key, "2");
        let error = engine.write(batch).expect_err("a bad key");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(get(engine, Cf::Default, b"good"), None, "nothing of the batch is written");
    }
    assert_eq!(get(engine, Cf::Default, b""), None);
}

/// The range that reads of versions use: its cursor may be of another kind.
fn versions_of_one_key(engine: &dyn Engine) {
    // No key's engine form is a prefix of another's.
    let encoded = |key: &str| codec::encode_key(key.as_bytes());
    let version = |key: &str, ts: u64| [&encoded(key)[..], &ts.to_be_bytes()].concat();
    let mut all = Vec::new();
    for key in ["", "k", "key", "keyk", "l"] {
        all.extend([1, 2, 3, 500, u64::MAX - 1].map(|ts| version(key, ts)));
    }
    for (n, key) in all.iter().enumerate() {
        write(engine, |b| b.put(Cf::Write, key.clone(), n.to_be_bytes()));
        if n % 4 == 3 {
            engine.sync().expect("sync");
        }
    }
    let snapshot = engine.snapshot();
    for key in ["k", "key", "keyk", "none"] {
        let start = encoded(key);
        let mut end = start.clone();
        versions_end(&mut end);
        let inside = all.iter().filter(|k| **k >= start && **k < end);
        let inside: Vec<_> = inside.cloned().collect();
        assert_eq!(inside.len(), if key == "none" { 0 } else { 5 }, "only versions of one key");
        for _ in 0..2 {
            let mut cursor = snapshot.cursor(Cf::Write, &start, &end).expect("a cursor");
            assert_eq!(cursor.current(), None, "unpositioned until a seek");
            assert_eq!(owned(cursor.next().expect("next")), None);
            for ts in [0, 2, 3, 4, 501, u64::MAX - 1, u64::MAX] {
                let target = version(key, ts);
                let mut at = inside.partition_point(|k| *k < target);
                let mut found = owned(cursor.seek(&target).expect("seek")).map(|(key, _)| key);
                while at < inside.len() {
                    assert_eq!(found.as_ref(), inside.get(at), "{key} from {ts}");
                    assert_eq!(owned(cursor.current()).map(|(key, _)| key), found);
                    found = owned(cursor.next().expect("next")).map(|(key, _)| key);
                    at += 1;
                }
                assert_eq!(found, None, "the end of {key}");
                assert_eq!(owned(cursor.next().expect("next")), None, "stays the end");
            }
            let first = inside.first();
            assert_eq!(owned(cursor.seek(b"").expect("seek")).map(|(k, _)| k).as_ref(), first);
            let last = inside.last();
            let found = owned(cursor.seek_to_last().expect("seek")).map(|(k, _)| k);
            assert_eq!(found.as_ref(), last);
            assert_eq!(owned(cursor.seek(b"zzzzzzzzzzzz").expect("seek")), None);
            // A version of a key just before it.
            let mut before = key.as_bytes().to_vec();
            before.last_mut().map(|last| *last -= 1).expect("keys here have bytes");
            let before = [codec::encode_key(&before), 5u64.to_be_bytes().into()].concat();
            let found = owned(cursor.seek(&before).expect("seek")).map(|(k, _)| k);
            assert_eq!(found.as_ref(), first, "from a version of another key");
        }
        let mut cursor = snapshot.cursor(Cf::Write, &start, &end).expect("a cursor");
        if let [first, second, ..] = &inside[..] {
            assert_eq!(
                owned(cursor.seek(second).expect("seek")).map(|(k, _)| k).as_ref(),
                Some(second)
            );
            assert_eq!(owned(cursor.prev().expect("prev")).map(|(k, _)| k).as_ref(), Some(first));
            assert_eq!(owned(cursor.next().expect("next")).map(|(k, _)| k).as_ref(), Some(second));
        }
    }
}

fn load_is_whole(engine: &dyn Engine) {
    write(engine, |b| {
        b.put(Cf::Default, "a", "old");
        b.put(Cf::Default, "b", "old");
        b.put(Cf::Default, "c", "old");
        b.delete(Cf::Default, "c");
    });
    let before = engine.snapshot();
    let mut load = engine.ingest(Cf::Default).expect("a load");
    for (key, value) in [("b", "new"), ("c", "new"), ("d", "")] {
        load.put(key.as_bytes(), value.as_bytes()).expect("in order");
    }
    assert_eq!(get(engine, Cf::Default, b"d"), None, "not seen before its end");
    assert_eq!(load.finish().expect("comes in"), 3);
    let pairs = dump(&*engine.snapshot(), Cf::Default, &[], &[]);
    assert_eq!(pairs, pairs_of(&[("a", "old"), ("b", "new"), ("c", "new"), ("d", "")]));
    let old = dump(&*before, Cf::Default, &[], &[]);
    assert_eq!(old, pairs_of(&[("a", "old"), ("b", "old")]), "an older snapshot does not see it");
    write(engine, |b| b.put(Cf::Default, "b", "newer"));
    assert_eq!(get(engine, Cf::Default, b"b"), Some(b"newer".to_vec()));
    assert_eq!(dump(&*engine.snapshot(), Cf::Write, &[], &[]), [], "families are apart");
    assert_eq!(engine.ingest(Cf::Lock).expect("a load").finish().expect("of nothing"), 0);
}

fn load_out_of_order(engine: &dyn Engine) {
    let long = vec![1; KEY_BYTES_MAX + 1];
    for bad in [&b"a"[..], b"b", b"", &long] {
        let mut load = engine.ingest(Cf::Write).expect("a load");
        load.put(b"b", b"1").expect("the first");
        let error = load.put(bad, b"2").expect_err("does not follow");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        drop(load);
        assert_eq!(dump(&*engine.snapshot(), Cf::Write, &[], &[]), []);
    }
    let mut load = engine.ingest(Cf::Write).expect("a load");
    load.put(b"b", b"1").expect("the first");
    drop(load);
    engine.sync().expect("sync");
    assert_eq!(dump(&*engine.snapshot(), Cf::Write, &[], &[]), [], "dropped, not finished");
}

fn estimate(engine: &dyn Engine) {
    let mut random = Random(7);
    let key = |i: u64| i.wrapping_mul(1 << 48).to_be_bytes();
    for block in 0..ESTIMATE_KEYS / 1000 {
        write(engine, |b| {
            for i in block * 1000..(block + 1) * 1000 {
                let value: Vec<u8> = (0..ESTIMATE_VALUE).map(|_| random.next() as u8).collect();
                b.put(Cf::Write, key(i), value);
            }
        });
    }
    let near = |got: u64, expected: u64| got >= expected / 2 && got <= expected * 2;
    let check = |when: &str| {
        let half = key(ESTIMATE_KEYS / 2);
        let pair_bytes = (8 + ESTIMATE_VALUE) as u64;
        for (start, end, keys) in [
            (&[][..], &[][..], ESTIMATE_KEYS),
            (&[][..], &half[..], ESTIMATE_KEYS / 2),
            (&half[..], &[][..], ESTIMATE_KEYS / 2),
        ] {
            let got = engine.estimate(Cf::Write, start, end).expect("estimate");
            assert!(near(got.keys, keys), "{when}: {got:?} for {keys} keys");
            assert!(near(got.bytes, keys * pair_bytes), "{when}: {got:?} for {keys} keys");
        }
        let nothing = engine.estimate(Cf::Write, &half, &half).expect("estimate");
        assert_eq!((nothing.keys, nothing.bytes), (0, 0));
        let other = engine.estimate(Cf::Lock, &[], &[]).expect("estimate");
        assert_eq!(other.keys, 0);
    };
    check("before sync");
    engine.sync().expect("sync");
    check("after sync");
    assert!(engine.statistics().iter().all(|(name, _)| !name.is_empty()));
}

/// Random batches, reads and cursor walks, compared with a `BTreeMap`; old snapshots stay right.
fn against_a_model(engine: &dyn Engine) {
    let mut random = Random(42);
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut kept = Vec::new();
    for step in 0..MODEL_STEPS {
        let mut batch = WriteBatch::default();
        for _ in 0..random.below(4) + 1 {
            let key = random_key(&mut random);
            match random.below(10) {
                0 => {
                    let end = random_key(&mut random);
                    if !is_empty_range(&key, &end) {
                        model.retain(|k, _| *k < key || *k >= end);
                    }
                    batch.delete_range(Cf::Default, key, end);
                }
                1..=3 => {
                    model.remove(&key);
                    batch.delete(Cf::Default, key);
                }
                _ => {
                    let value = step.to_be_bytes().to_vec();
                    model.insert(key.clone(), value.clone());
                    batch.put(Cf::Default, key, value);
                }
            }
        }
        engine.write(batch).expect("writes");
        match random.below(20) {
            0 => kept.push((engine.snapshot(), model.clone())),
            1 if !kept.is_empty() => {
                let (snapshot, model) = kept.swap_remove(random.below(kept.len() as u64) as usize);
                let pairs = dump(&*snapshot, Cf::Default, &[], &[]);
                assert_eq!(pairs, model.into_iter().collect::<Vec<_>>(), "step {step}");
            }
            2 => engine.sync().expect("sync"),
            _ => {}
        }
        let (start, end) = (random_key(&mut random), random_key(&mut random));
        let snapshot = engine.snapshot();
        let mut cursor = snapshot.cursor(Cf::Default, &start, &end).expect("a cursor");
        walk_with_model(&mut random, &mut *cursor, &model, (&start, &end));
    }
}

fn random_key(random: &mut Random) -> Vec<u8> {
    let len = random.below(2) + 1;
    (0..len).map(|_| [0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF][random.below(7) as usize]).collect()
}

fn walk_with_model(
    random: &mut Random,
    cursor: &mut dyn Cursor,
    model: &BTreeMap<Vec<u8>, Vec<u8>>,
    (start, end): (&[u8], &[u8]),
) {
    let inside: Vec<_> =
        model.iter().filter(|(k, _)| k.as_slice() >= start && k.as_slice() < end).collect();
    let mut at: Option<usize> = None;
    for _ in 0..8 {
        let found = match random.below(5) {
            0 => {
                let key = random_key(random);
                at = inside.iter().position(|(k, _)| **k >= key);
                cursor.seek(&key)
            }
            1 => {
                let key = random_key(random);
                at = inside.iter().rposition(|(k, _)| **k <= key);
                cursor.seek_for_prev(&key)
            }
            2 => {
                at = inside.len().checked_sub(1);
                cursor.seek_to_last()
            }
            3 => {
                at = at.and_then(|at| at.checked_sub(1));
                cursor.prev()
            }
            _ => {
                at = at.map(|at| at + 1).filter(|at| *at < inside.len());
                cursor.next()
            }
        };
        let expected = at.map(|at| (inside[at].0.clone(), inside[at].1.clone()));
        assert_eq!(owned(found.expect("moves")), expected);
    }
}

fn pair(key: &str, value: &str) -> Option<Owned> {
    Some((key.into(), value.into()))
}

fn pairs_of(pairs: &[(&str, &str)]) -> Vec<Owned> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}
