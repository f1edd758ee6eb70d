//! Latches: commands that share a key take turns, in the order in which they came. It must never
//! be held by a command whose records are applied, nor let go before they are.
//!
//! ```text
//!   keys ─hash─► slots, sorted, no duplicates     every command climbs in the same order: no cycle
//!   slot { held, queue of waiters }               a release hands the slot to the first waiter
//! ```

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// Slots; keys that share one wait for each other needlessly.
const SLOTS: usize = 1 << 14;

/// All latches of one store.
pub struct Latches {
    slots: Box<[Mutex<Slot>]>,
}

#[derive(Default)]
struct Slot {
    held: bool,
    queue: VecDeque<Arc<Waiter>>,
}

/// One waiting command.
#[derive(Default)]
struct Waiter {
    granted: Mutex<bool>,
    changed: Condvar,
}

/// Slots held by one command, until dropped; on any thread.
pub struct Guard {
    latches: Arc<Latches>,
    /// Held slots.
    slots: Vec<u32>,
}

impl Default for Latches {
    fn default() -> Latches {
        Latches { slots: (0..SLOTS).map(|_| Mutex::default()).collect() }
    }
}

impl Latches {
    /// Takes the slots of these keys, waiting behind those who came before; `None` when one of
    /// them was not let go for `patience`.
    pub fn acquire<'k>(
        self: &Arc<Latches>,
        keys: impl Iterator<Item = &'k [u8]>,
        patience: Duration,
    ) -> Option<Guard> {
        let mut wanted: Vec<u32> = keys.map(slot_of).collect();
        wanted.sort_unstable();
        wanted.dedup();
        // What is held so far is let go by the guard, whatever happens.
        let mut guard =
            Guard { latches: Arc::clone(self), slots: Vec::with_capacity(wanted.len()) };
        for slot in wanted {
            if !self.take(slot, patience) {
                return None;
            }
            guard.slots.push(slot);
        }
        Some(guard)
    }

    fn take(&self, slot: u32, patience: Duration) -> bool {
        let waiter = {
            let mut slot = self.slots[slot as usize].lock();
            if !slot.held {
                slot.held = true;
                return true;
            }
            let waiter = Arc::new(Waiter::default());
            slot.queue.push_back(Arc::clone(&waiter));
            waiter
        };
        let mut granted = waiter.granted.lock();
        waiter.changed.wait_while_for(&mut granted, |granted| !*granted, patience);
        if *granted {
            return true;
        }
        drop(granted);
        // Out of patience. The order of locks is slot, then waiter, as in `release`.
        let mut slot = self.slots[slot as usize].lock();
        slot.queue.retain(|other| !Arc::ptr_eq(other, &waiter));
        *waiter.granted.lock()
    }

    fn release(&self, slot: u32) {
        let mut slot = self.slots[slot as usize].lock();
        match slot.queue.pop_front() {
            Some(next) => {
                *next.granted.lock() = true;
                next.changed.notify_one();
            }
            None => {
                slot.held = false;
                slot.queue = VecDeque::new();
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slots.iter().for_each(|slot| self.latches.release(*slot));
    }
}

fn slot_of(key: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    (hasher.finish() as usize % SLOTS) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_env::spawn;
    use std::sync::atomic::{AtomicU32, Ordering};

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
        let slot = slot_of(b"k") as usize;
        let mut tasks = Vec::new();
        for i in 0..5 {
            let (latches2, order) = (latches.clone(), order.clone());
            tasks.push(spawn("test", move || {
                let _guard = latches2.acquire(keys(&["k"]).into_iter(), LONG).expect("taken");
                order.lock().push(i);
            }));
            while latches.slots[slot].lock().queue.len() <= i {
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
}
