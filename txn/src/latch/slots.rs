//! Latches: commands that share a key take turns, in the order in which they came. It must never
//! be held by a command whose records are applied, nor let go before they are.
//!
//! ```text
//!   keys ─hash─► slots, sorted, no duplicates     every command climbs in the same order: no cycle
//!   slot { held, queue of waiters }               a release hands the slot to the first waiter
//! ```

use crate::sync::{Condvar, Mutex, wait_for};
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
        Latches::with_slots(SLOTS)
    }
}

impl Latches {
    /// With so many slots; at least one.
    pub fn with_slots(slots: usize) -> Latches {
        Latches { slots: (0..slots.max(1)).map(|_| Mutex::new(Slot::default())).collect() }
    }

    /// Commands that wait for the slot of this key.
    pub fn waiting_for(&self, key: &[u8]) -> usize {
        self.slots[self.slot_of(key) as usize].lock().queue.len()
    }

    /// Takes the slots of these keys, waiting behind those who came before; `None` when one of
    /// them was not let go for `patience`.
    pub fn acquire<'k>(
        self: &Arc<Latches>,
        keys: impl Iterator<Item = &'k [u8]>,
        patience: Duration,
    ) -> Option<Guard> {
        let mut wanted: Vec<u32> = keys.map(|key| self.slot_of(key)).collect();
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
            let waiter = Arc::new(Waiter { granted: Mutex::new(false), changed: Condvar::new() });
            slot.queue.push_back(Arc::clone(&waiter));
            waiter
        };
        let mut granted = waiter.granted.lock();
        if !*granted {
            wait_for(&waiter.changed, &mut granted, patience);
        }
        if *granted {
            return true;
        }
        drop(granted);
        // Out of patience. The order of locks is slot, then waiter, as in `release`.
        let mut slot = self.slots[slot as usize].lock();
        slot.queue.retain(|other| !Arc::ptr_eq(other, &waiter));
        *waiter.granted.lock()
    }

    fn slot_of(&self, key: &[u8]) -> u32 {
        let mut hasher = DefaultHasher::new();
        hasher.write(key);
        (hasher.finish() as usize % self.slots.len()) as u32
    }

    fn release(&self, slot: u32) {
        let mut slot = self.slots[slot as usize].lock();
        let Some(next) = slot.queue.pop_front() else {
            slot.held = false;
            slot.queue = VecDeque::new();
            return;
        };
        *next.granted.lock() = true;
        // It wants both locks as soon as it wakes.
        drop(slot);
        next.changed.notify_one();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slots.iter().for_each(|slot| self.latches.release(*slot));
    }
}
