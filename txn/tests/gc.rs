//! The safe point: what it waits for, what it ends, and that nobody at or above it sees a change.

mod common;

use common::{
    Spoil, brief, cluster, get, locks, prewrite_and_die, put_all, spoiled_client, two_phase,
};
use damask_env::{Fault, MemoryDisk};
use damask_kv::gc::{Budget, collect};
use damask_kv::{GcSafePoint, MvccReader};
use damask_tso::FileBound;
use damask_txn::gc::{Publish, SavedSafePoint};
use damask_txn::{Client, Error, Gc, Isolation, LocalCluster, Mode, Options, Reads, Request, Wait};
use damask_types::{ErrorKind, KeyLock, KeyRange, Timestamp};
use std::sync::Arc;
use std::time::Duration;

const LIFE: Duration = Duration::from_secs(60);

fn gc(cluster: &LocalCluster) -> (Gc, GcSafePoint) {
    let safe_point = cluster.safe_point();
    (Gc::new(Arc::new(safe_point.clone())), safe_point)
}

fn dump(client: &Client, ts: Timestamp) -> Vec<(Vec<u8>, Vec<u8>)> {
    client.snapshot(ts).scan(&KeyRange::all(), 1_000, false).expect("read")
}

fn advance(gc: &Gc, client: &Client) -> damask_txn::gc::Advanced {
    let now = client.timestamp().expect("a timestamp");
    gc.advance(client, now, LIFE, client.oldest_running()).expect("advances")
}

#[test]
fn it_stays_behind_the_life_time_and_the_oldest_transaction() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    let (gc, published) = gc(&cluster);
    let old = client.begin().expect("begins");
    assert_eq!(client.oldest_running(), Some(old.start_ts()));
    cluster.pass_ms(100_000);
    let young = client.begin().expect("begins");
    let first = advance(&gc, &client);
    assert_eq!(first.safe_point, old.start_ts().prev());
    assert_eq!((gc.safe_point(), published.get()), (first.safe_point, first.safe_point));
    let own = old.start_ts();
    drop(old);
    assert_eq!(client.oldest_running(), Some(young.start_ts()));
    let second = advance(&gc, &client);
    assert!(second.safe_point > own && second.safe_point < young.start_ts());
    let now = client.timestamp().expect("a timestamp");
    assert_eq!(now.physical_ms() - second.safe_point.physical_ms(), LIFE.as_millis() as u64);
    // It never goes back.
    let back = gc.advance(&client, now, LIFE * 2, None).expect("advances");
    assert_eq!(back.safe_point, second.safe_point);
    assert_eq!(published.get(), second.safe_point);
}

/// Invariant 18: a read at or above the safe point sees the same before and after.
#[test]
fn reads_at_or_above_the_safe_point_do_not_change() {
    let cluster = cluster(&["c", "e"]);
    let client = cluster.client();
    let (gc, published) = gc(&cluster);
    let keys = ["a", "b", "c", "d", "e", "f"];
    for round in 0..40_u32 {
        let mut txn = client.begin().expect("begins");
        for (i, key) in keys.iter().enumerate() {
            match (round as usize + i) % 5 {
                0 => txn.delete(*key).expect("fits"),
                1 => txn.lock(*key).expect("fits"),
                2 => txn.put(*key, vec![round as u8; 300]).expect("fits"),
                3 => txn.put(*key, vec![round as u8; 3]).expect("fits"),
                _ => {}
            }
        }
        txn.commit().expect("commits");
        cluster.pass_ms(5_000);
    }
    client.flush();
    // Somebody has died at every step of it.
    prewrite_and_die(&cluster, &["b", "d", "f"], "dead");
    cluster.pass_ms(70_000);
    let now = client.timestamp().expect("a timestamp");
    let at: Vec<Timestamp> = (0..30)
        .map(|i| Timestamp::compose(now.physical_ms() - 60_000 + i * 2_000, 0))
        .chain([now])
        .collect();
    let advanced = gc.advance(&client, now, LIFE, None).expect("advances");
    assert_eq!((advanced.resolved, locks(&cluster)), (3, 0));
    assert_eq!(advanced.safe_point, at[0]);
    let before: Vec<_> = at.iter().map(|ts| dump(&client, *ts)).collect();
    let records = records(&cluster);
    collect(cluster.engine().as_ref(), &KeyRange::all(), &published, Budget::default())
        .expect("collects");
    assert!(self::records(&cluster) < records / 2, "hardly anything was removed");
    let after: Vec<_> = at.iter().map(|ts| dump(&client, *ts)).collect();
    assert_eq!(before, after);
    // Below it nobody reads, and nobody who began below it writes.
    let below = at[0].prev();
    let error = client.snapshot(below).get(b"a").expect_err("refused");
    assert_eq!(error, Error::BelowSafePoint { ts: below, safe_point: at[0] });
    assert!(error.to_string().contains("GC life time"), "{error}");
    assert_eq!(error.kind(), ErrorKind::TooOld);
    client.snapshot(below).scan(&KeyRange::all(), 9, false).expect_err("refused");
    let mut late = client.begin_at(below);
    late.put("a", "late").expect("fits");
    let error = late.commit().expect_err("refused");
    assert!(error.to_string().contains("GC life time"), "{error}");
}

fn records(cluster: &LocalCluster) -> usize {
    let snapshot = cluster.engine().snapshot();
    let mut cursor = snapshot.cursor(damask_kv::Cf::Write, &[], &[]).expect("opens");
    let mut count = 0;
    let mut pair = cursor.seek(&[]).expect("read");
    while pair.is_some() {
        count += 1;
        pair = cursor.next().expect("read");
    }
    count
}

#[test]
fn it_ends_dead_transactions_and_stays_below_those_alive() {
    let cluster = cluster(&["b", "c"]);
    let client = cluster.client();
    let (gc, _) = gc(&cluster);
    // Of another client, which nobody has asked.
    let elsewhere = cluster.client();
    let options = Options { mode: Mode::Pessimistic, isolation: Isolation::RepeatableRead };
    let dead = prewrite_and_die(&cluster, &["a", "c"], "dead");
    cluster.pass_ms(4_000);
    let mut alive = elsewhere.begin_with(options).expect("begins");
    cluster.pass_ms(1_000);
    let mark = alive.mark();
    alive.begin_statement(Reads::Current).expect("a timestamp");
    alive.put("b", "alive").expect("fits");
    alive.lock_written(&mark, Wait::No).expect("locked");
    alive.release(mark);
    let late = prewrite_and_die(&cluster, &["bb"], "late");
    let now = client.timestamp().expect("a timestamp");
    let advanced = gc.advance(&client, now, Duration::ZERO, None).expect("advances");
    assert_eq!(advanced.held_back, Some(alive.start_ts()));
    assert_eq!(advanced.safe_point, alive.start_ts().prev());
    assert!(dead < advanced.safe_point && late > advanced.safe_point);
    alive.commit().expect("it was left alone");
    elsewhere.flush();
    cluster.pass_ms(4_000);
    let now = client.timestamp().expect("a timestamp");
    let advanced = gc.advance(&client, now, Duration::ZERO, None).expect("advances");
    assert_eq!((advanced.held_back, locks(&cluster)), (None, 0));
    assert_eq!(client.get_latest(b"b").expect("read").as_deref(), Some(&b"alive"[..]));
    assert_eq!(client.get_latest(b"a").expect("read"), None);
}

/// Who met a lock and comes back late finds neither the lock nor, if it was a delete, the commit of
/// its primary.
#[test]
fn a_lock_whose_primary_was_collected_meanwhile_has_ended() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    put_all(&client, &[("a", "1"), ("z", "1")]);
    let keeps_secondaries = spoiled_client(&cluster, two_phase(), |request| match request {
        Request::Commit { keys, .. } if keys[0] == b"z" => Spoil::LoseRequest,
        _ => Spoil::Nothing,
    });
    let mut txn = keeps_secondaries.begin().expect("begins");
    txn.delete("a").expect("fits");
    txn.put("z", "2").expect("fits");
    txn.commit().expect("its primary is committed");
    let reader = MvccReader::new(cluster.engine().snapshot());
    let lock = reader.load_lock(b"z").expect("read").expect("it stands");
    let met = KeyLock { key: b"z".to_vec(), lock };
    cluster.pass_ms(100_000);
    let (gc, published) = gc(&cluster);
    advance(&gc, &client);
    assert_eq!(locks(&cluster), 0);
    let everything = Budget::default();
    collect(cluster.engine().as_ref(), &KeyRange::all(), &published, everything).expect("collects");
    let late = cluster.client();
    let now = late.timestamp().expect("a timestamp");
    late.resolve_locks(&[met], now).expect("it has ended");
    assert_eq!(get(&late, "z").as_deref(), Some("2"));
}

#[test]
fn many_locks_come_in_pages() {
    let cluster = cluster(&["k1000", "k2500"]);
    let dead = spoiled_client(&cluster, brief(), |request| match request {
        Request::Commit { .. } | Request::Rollback { .. } => Spoil::Refuse,
        _ => Spoil::Nothing,
    });
    let mut txn = dead.begin().expect("begins");
    (0..3_000).for_each(|i| txn.put(format!("k{i:04}"), "dead").expect("fits"));
    txn.commit().expect_err("nothing is committed");
    assert_eq!(locks(&cluster), 3_000);
    let client = cluster.client();
    put_all(&client, &[("z", "1")]);
    cluster.pass_ms(100_000);
    let (gc, _) = gc(&cluster);
    advance(&gc, &client);
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn nothing_is_published_when_a_region_does_not_answer() {
    let cluster = cluster(&["m"]);
    let deaf = spoiled_client(&cluster, brief(), |request| match request {
        Request::ScanLocks { range, .. } if range.contains(b"z") => Spoil::LoseAnswer,
        _ => Spoil::Nothing,
    });
    let (gc, published) = gc(&cluster);
    cluster.pass_ms(100_000);
    let now = deaf.timestamp().expect("a timestamp");
    gc.advance(&deaf, now, LIFE, None).expect_err("no answer");
    assert_eq!((gc.safe_point(), published.get()), (Timestamp::ZERO, Timestamp::ZERO));
}

fn saved(disk: &MemoryDisk, shared: &GcSafePoint) -> Result<SavedSafePoint, Error> {
    let file = FileBound::new(Arc::new(disk.clone()), "safe-point");
    SavedSafePoint::open(Box::new(file), shared.clone())
}

/// Versions are gone for good: after a restart, too, a read below is refused and not answered
/// without them.
#[test]
fn the_safe_point_outlives_a_restart() {
    let cluster = cluster(&[]);
    let client = cluster.client();
    let disk = MemoryDisk::new();
    let shared = cluster.safe_point();
    let gc = Gc::new(Arc::new(saved(&disk, &shared).expect("a new file")));
    put_all(&client, &[("a", "1")]);
    let old = client.timestamp().expect("a timestamp");
    put_all(&client, &[("a", "2")]);
    cluster.pass_ms(200_000);
    let safe_point = advance(&gc, &client).safe_point;
    assert!(old < safe_point);
    collect(cluster.engine().as_ref(), &KeyRange::all(), &shared, Budget::default())
        .expect("collects");
    assert_eq!(records(&cluster), 1);

    let restarted = LocalCluster::new(Arc::clone(cluster.engine()));
    restarted.oracle().advance_to(client.timestamp().expect("a timestamp"));
    let client = restarted.client();
    let shared = restarted.safe_point();
    let gc = Gc::new(Arc::new(saved(&disk.crash_image(|_| 0), &shared).expect("saved")));
    assert_eq!((gc.safe_point(), shared.get()), (safe_point, safe_point));
    let error = client.snapshot(old).get(b"a").expect_err("refused");
    assert_eq!(error, Error::BelowSafePoint { ts: old, safe_point });
    // A longer life time than before does not bring back what is gone.
    let now = client.timestamp().expect("a timestamp");
    let back = gc.advance(&client, now, LIFE * 100, None).expect("advances");
    assert_eq!((back.safe_point, shared.get()), (safe_point, safe_point));
    restarted.pass_ms(200_000);
    assert!(advance(&gc, &client).safe_point > safe_point);
}

/// Nobody hears of a safe point that a crash would forget, whichever operation of the disk fails.
#[test]
fn a_safe_point_that_is_not_saved_is_not_used() {
    for fail_at in 0.. {
        let (disk, shared) = (MemoryDisk::new(), GcSafePoint::new());
        let first = saved(&disk, &shared).expect("a new file");
        first.publish(Timestamp(5)).expect("saved");
        disk.set_fault(Fault { fail_at: Some(fail_at), capacity: None });
        let second = first.publish(Timestamp(9));
        let reached = disk.operations() > fail_at;
        assert_eq!(shared.get(), Timestamp(if second.is_ok() { 9 } else { 5 }));
        disk.set_fault(Fault::default());
        let after = GcSafePoint::new();
        saved(&disk.crash_image(|_| 0), &after).expect("whole");
        assert!(after.get() >= shared.get(), "{fail_at}: {} is lost", shared.get());
        first.publish(Timestamp(7)).expect("lower, or saved");
        assert!(shared.get() >= Timestamp(7));
        if !reached {
            assert!(fail_at > 0, "no operation was counted");
            return;
        }
    }
}
