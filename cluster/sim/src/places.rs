//! Who waits where, found fast: most places are waited at once, by one task. It must never change
//! the order of those who wait.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// By the number of the place.
pub type Places = HashMap<u64, Waiters, BuildHasherDefault<PlaceHasher>>;

/// Who waits at a place, in order; mostly one.
#[derive(Default)]
pub struct Waiters {
    first: Option<(usize, u64)>,
    rest: VecDeque<(usize, u64)>,
}

impl Waiters {
    /// One more, behind the others.
    pub fn push(&mut self, waiter: (usize, u64)) {
        match self.first {
            None => self.first = Some(waiter),
            Some(_) => self.rest.push_back(waiter),
        }
    }

    /// Who came first.
    pub fn pop(&mut self) -> Option<(usize, u64)> {
        std::mem::replace(&mut self.first, self.rest.pop_front())
    }

    /// He waits no more.
    pub fn remove(&mut self, waiter: (usize, u64)) {
        if self.first == Some(waiter) {
            self.first = self.rest.pop_front();
        } else {
            self.rest.retain(|other| *other != waiter);
        }
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

/// Places are counted: one multiplication spreads them.
#[derive(Default)]
pub struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0 ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, place: u64) {
        self.0 = place.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}
