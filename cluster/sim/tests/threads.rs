//! Simulated threads keep what real ones promise: channels, conditions, locks, joins, clocks. And
//! the order in which they run is the seed's.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use damask_env::channel::{self, RecvTimeoutError, TrySendError};
use damask_env::simulation::pause;
use damask_env::{Clock, Closing, Condvar, lock, spawn};
use damask_sim::kernel::{Kernel, kernel};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

const SECOND: u64 = 1_000_000;

/// Runs a body as a task, to its end and the end of all that it started; what it returned.
fn simulate<T: Send + 'static>(seed: u64, body: impl FnOnce() -> T + Send + 'static) -> (T, u64) {
    let (kernel, running) = Kernel::start(seed);
    let group = kernel.group(0, 1_000_000);
    let answer = Arc::new(Mutex::new(None));
    let told = answer.clone();
    kernel.spawn_in(group, "test", move || {
        let value = body();
        *told.lock() = Some(value);
    });
    kernel.run_until(1000 * SECOND, || kernel.tasks() == 0);
    assert_eq!(kernel.tasks(), 0, "{:?}", kernel.names());
    let trace = kernel.trace();
    kernel.end();
    drop(running);
    let value = answer.lock().take().unwrap();
    (value, trace)
}

#[test]
fn channels_carry_in_order_wait_and_end() {
    simulate(1, || {
        let (sender, receiver) = channel::bounded(2);
        let task = spawn("sends", move || (0..20).for_each(|n| sender.send(n).unwrap()));
        assert_eq!(receiver.iter().collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        task.join().unwrap();
        let (sender, receiver) = channel::unbounded::<u8>();
        let begun = kernel().time();
        let waited = receiver.recv_timeout(Duration::from_millis(70));
        assert_eq!(waited, Err(RecvTimeoutError::Timeout));
        assert!((70_000..75_000).contains(&(kernel().time() - begun)), "simulated time passed");
        drop(receiver);
        assert!(sender.send(1).is_err());
    });
}

#[test]
fn a_channel_without_capacity_takes_only_what_is_waited_for() {
    simulate(2, || {
        let (sender, receiver) = channel::bounded(0);
        assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
        let task = spawn("takes", move || assert_eq!(receiver.recv(), Ok(2)));
        pause(Duration::from_millis(5));
        sender.try_send(2).unwrap();
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        task.join().unwrap();
        assert_eq!(sender.try_send(3), Err(TrySendError::Disconnected(3)));
    });
}

#[test]
fn conditions_wake_one_or_all_and_time_out() {
    simulate(3, || {
        let shared = Arc::new((Mutex::new(0), Condvar::new()));
        let waits = |shared: &Arc<(Mutex<u32>, Condvar)>| {
            let shared = shared.clone();
            spawn("waits", move || {
                let mut left = shared.0.lock();
                shared.1.wait_while(&mut left, |left| *left == 0);
                *left -= 1;
            })
        };
        let tasks: Vec<_> = (0..4).map(|_| waits(&shared)).collect();
        pause(Duration::from_millis(1));
        *shared.0.lock() = 1;
        shared.1.notify_one();
        pause(Duration::from_millis(20));
        assert_eq!(tasks.iter().filter(|task| task.is_finished()).count(), 1);
        *shared.0.lock() = 3;
        shared.1.notify_all();
        tasks.into_iter().for_each(|task| task.join().unwrap());
        let mut left = shared.0.lock();
        assert!(shared.1.wait_while_for(&mut left, |_| true, Duration::from_millis(3)));
        let closing = Arc::new(Closing::new());
        assert!(!closing.wait(Duration::from_millis(3)));
        closing.close();
        assert!(closing.wait(Duration::from_secs(60)));
    });
}

#[test]
fn a_lock_may_be_waited_for_while_its_holder_waits() {
    simulate(4, || {
        let shared = Arc::new(Mutex::new(Vec::new()));
        let other = shared.clone();
        let task = spawn("holds", move || {
            let mut held = lock(&other);
            pause(Duration::from_millis(50));
            held.push(1);
        });
        pause(Duration::from_millis(10));
        lock(&shared).push(2);
        task.join().unwrap();
        assert_eq!(*lock(&shared), [1, 2]);
    });
}

#[test]
fn a_panic_reaches_who_joins() {
    simulate(5, || {
        let task = spawn("panics", || panic!("on purpose"));
        assert_eq!(task.join().unwrap_err(), "on purpose");
    });
}

#[test]
fn clocks_run_at_their_own_speed_and_stand_still_for_nobody() {
    let (kernel, running) = Kernel::start(6);
    let (slow, fast) = (kernel.group(500, 900_000), kernel.group(0, 1_100_000));
    let clocks = [kernel.clock(slow), kernel.clock(fast)];
    kernel.jump(fast, -5);
    kernel.run_until(10 * SECOND, || false);
    assert_eq!(clocks[0].monotonic(), Duration::from_micros(9_000_500));
    assert_eq!(clocks[1].monotonic(), Duration::from_secs(11));
    assert_eq!(clocks[1].wall_ms() - clocks[0].wall_ms(), 2_000 - 5);
    // A paused process goes on when its pause is over.
    let done = Arc::new(Mutex::new(None));
    let told = done.clone();
    kernel.pause_group(slow, 3 * SECOND);
    kernel.spawn_in(slow, "late", move || *told.lock() = Some(damask_sim::kernel::kernel().time()));
    kernel.run_until(20 * SECOND, || false);
    assert_eq!(*done.lock(), Some(13 * SECOND));
    kernel.end();
    drop(running);
}

/// Four tasks that take turns at a counter: who is when where.
fn race(seed: u64) -> (Vec<u32>, u64) {
    simulate(seed, || {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..4)
            .map(|n| {
                let seen = seen.clone();
                spawn("races", move || {
                    for _ in 0..5 {
                        pause(Duration::from_micros(10));
                        seen.lock().push(n);
                    }
                })
            })
            .collect();
        tasks.into_iter().for_each(|task| task.join().unwrap());
        Arc::try_unwrap(seen).unwrap().into_inner()
    })
}

#[test]
fn the_seed_decides_who_runs_when() {
    assert_eq!(race(7), race(7));
    let orders: std::collections::BTreeSet<Vec<u32>> = (0..20).map(|seed| race(seed).0).collect();
    assert!(orders.len() > 5, "other seeds, other orders");
}
