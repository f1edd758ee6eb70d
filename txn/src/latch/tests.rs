//! Latches among real threads: turns, patience, order. Every schedule of a few is in
//! `tests/loom.rs`; nothing here may depend on luck.

use super::Latches;
use damask_env::spawn;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

fn keys(list: &[&'static str]) -> Vec<&'static [u8]> {
    list.iter().map(|key| key.as_bytes()).collect()
}

#[test]
fn commands_with_a_common_key_take_turns() {
    let latches = Arc::new(Latches::default());
    let inside = Arc::new(AtomicU32::new(0));
    let done = Arc::new(AtomicU32::new(0));
    let tasks: Vec<_> = (0..8u8)
        .map(|i| {
            let (latches, inside, done) = (latches.clone(), inside.clone(), done.clone());
            spawn("test", move || {
                for round in 0..200u8 {
                    // Many orders of naming, one key in common.
                    let own = [b'x', i, round];
                    let list: [&[u8]; 3] = match round % 3 {
                        0 => [b"hot", &own, b"warm"],
                        1 => [b"warm", b"hot", &own],
                        _ => [&own, b"warm", b"hot"],
                    };
                    let guard = latches.acquire(list.into_iter(), LONG).expect("taken");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(guard);
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| task.join().expect("no panic"));
    assert_eq!(done.load(Ordering::SeqCst), 1600);
}

#[test]
fn out_of_patience_lets_go_of_everything() {
    let latches = Arc::new(Latches::default());
    let held = latches.acquire(keys(&["b"]).into_iter(), LONG).expect("taken");
    let brief = Duration::from_millis(5);
    assert!(latches.acquire(keys(&["a", "b", "c"]).into_iter(), brief).is_none());
    assert!(latches.acquire(keys(&["a", "c"]).into_iter(), brief).is_some());
    drop(held);
    assert!(latches.acquire(keys(&["a", "b", "c"]).into_iter(), brief).is_some());
}

#[test]
fn waiters_are_served_in_the_order_they_came() {
    let latches = Arc::new(Latches::default());
    let order = Arc::new(Mutex::new(Vec::new()));
    let first = latches.acquire(keys(&["k"]).into_iter(), LONG).expect("taken");
    let mut tasks = Vec::new();
    for i in 0..5 {
        let (latches2, order) = (latches.clone(), order.clone());
        tasks.push(spawn("test", move || {
            let _guard = latches2.acquire(keys(&["k"]).into_iter(), LONG).expect("taken");
            order.lock().push(i);
        }));
        while latches.waiting_for(b"k") <= i {
            std::thread::yield_now();
        }
    }
    drop(first);
    tasks.into_iter().for_each(|task| task.join().expect("no panic"));
    assert_eq!(*order.lock(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_guard_may_be_dropped_on_another_thread() {
    let latches = Arc::new(Latches::default());
    let guard = latches.acquire(keys(&["k"]).into_iter(), LONG).expect("taken");
    let other = spawn("test", move || drop(guard));
    assert!(latches.acquire(keys(&["k"]).into_iter(), LONG).is_some());
    other.join().expect("no panic");
}
