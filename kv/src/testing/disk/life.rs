//! What an engine is made to do while its disk misbehaves, what it may hold afterwards, and folders
//! for it. It must never accept a state that is not a prefix.

use super::watch::Progress;
use crate::engine::{Cf, Engine, WriteBatch};
use crate::error::Result;
use crate::memory::MemoryEngine;
use crate::testing::{Owned, Random, Scratch};
use std::path::Path;
use std::sync::atomic::Ordering;

/// Pairs of a load, and bytes of their values.
const LOADED: u64 = 40;
const LOADED_BYTES: usize = 100;

/// All pairs of all families.
pub(super) type Pairs = Vec<Vec<Owned>>;

/// Steps of a life, each a batch or a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    /// How many.
    pub steps: u64,
    /// Every so many there is a sync.
    pub sync_every: u64,
    /// Every so many there is a load instead of a batch; 0: never.
    pub load_every: u64,
    /// Bytes of each value, of which nothing can be compressed.
    pub value_bytes: usize,
}

impl Life {
    /// The n-th step: touches all families, replaces, and removes what an earlier one wrote.
    fn step(&self, engine: &dyn Engine, n: u64) -> Result<()> {
        if self.is_load(n) {
            let mut load = engine.ingest(Cf::Default)?;
            for i in 0..LOADED {
                load.put(format!("load{n:04}{i:04}").as_bytes(), &[n as u8; LOADED_BYTES])?;
            }
            return load.finish().map(drop);
        }
        let mut random = Random(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut batch = WriteBatch::default();
        for cf in Cf::ALL {
            let value: Vec<u8> = (0..self.value_bytes).map(|_| random.next() as u8).collect();
            batch.put(cf, format!("key{n:04}"), value);
            batch.put(cf, "last", n.to_be_bytes());
            if n % 5 == 4 {
                batch.delete(cf, format!("key{:04}", n - 1));
            }
            if n % 7 == 6 {
                batch.delete_range(cf, format!("key{:04}", n - 4), format!("key{:04}", n - 2));
            }
        }
        engine.write(batch)
    }

    fn is_load(&self, n: u64) -> bool {
        self.load_every > 0 && n % self.load_every == self.load_every - 1
    }

    /// Steps `from..to`; `acknowledged` is called after each sync, with the steps that it covers.
    pub fn live(
        &self,
        engine: &dyn Engine,
        (from, to): (u64, u64),
        progress: &Progress,
        mut acknowledged: impl FnMut(u64),
    ) -> Result<()> {
        for n in from..to {
            progress.begun.store(n + 1, Ordering::SeqCst);
            self.step(engine, n)?;
            if n % self.sync_every == self.sync_every - 1 {
                engine.sync()?;
            } else if !self.is_load(n) {
                continue;
            }
            progress.synced.store(n + 1, Ordering::SeqCst);
            acknowledged(n + 1);
        }
        Ok(())
    }

    /// What there is after 0, 1, ... steps.
    pub fn states(&self) -> Vec<Pairs> {
        let model = MemoryEngine::new();
        let mut states = vec![read_all(&model).expect("memory")];
        for n in 0..self.steps {
            self.step(&model, n).expect("memory");
            states.push(read_all(&model).expect("memory"));
        }
        states
    }

    /// One more, on what `left` steps left.
    pub fn go_on(&self, engine: &dyn Engine, left: u64) -> Result<()> {
        self.step(engine, left)?;
        engine.sync()
    }
}

/// All pairs, or the error that was met.
pub(super) fn read_all(engine: &dyn Engine) -> Result<Pairs> {
    let snapshot = engine.snapshot();
    let mut all = Vec::new();
    for cf in Cf::ALL {
        let mut cursor = snapshot.cursor(cf, &[], &[])?;
        let mut pairs = Vec::new();
        let mut pair = cursor.seek(&[])?;
        while let Some((key, value)) = pair {
            pairs.push((key.to_vec(), value.to_vec()));
            pair = cursor.next()?;
        }
        all.push(pairs);
    }
    Ok(all)
}

/// How many steps left this: all of a prefix, in every family, and nothing else.
///
/// # Panics
/// If there are fewer than were synced, or it is no prefix.
pub(super) fn steps_left(
    found: &Pairs,
    states: &[Pairs],
    (synced, begun): (u64, u64),
    what: &dyn std::fmt::Display,
) -> u64 {
    if let Some(left) = (synced..=begun).find(|n| states[*n as usize] == *found) {
        return left;
    }
    let other = states.iter().position(|state| state == found);
    let keys: Vec<usize> = found.iter().map(Vec::len).collect();
    panic!(
        "{what}: {synced} steps were synced and {begun} begun; there is {}, with {keys:?} keys",
        other.map_or("no prefix at all".to_owned(), |n| format!("what {n} left")),
    );
}

/// In memory if there is such a place: a disk would only make it slow.
pub(super) fn scratch() -> Scratch {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { Scratch::below(memory) } else { Scratch::new() }
}
