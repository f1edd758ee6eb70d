//! What every engine must do, for anyone who brings one: call [`suite`] in a test. It panics with
//! the case's name at the first difference. It must never know which backend it runs.
//!
//! ```text
//! suite(|dir| MyEngine::open(dir))                 contract, reopen, live copies, loads, bad bytes
//! process_suite("my_test", |dir| ..)               killed, disk full and freed, no more files
//! disk_suite! { name => |dir| MyEngine::open(dir); }   the n-th call fails, power cut at every sync
//! crash_suite(MyEngine::new, |e, keep| ..)         engines that can say what a crash leaves
//! Faulty::new(engine, nth, kind)                   an engine whose n-th operation fails
//! ```

mod cases;
mod corruption;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub mod disk;
mod durability;
mod faulty;
#[cfg(test)]
pub(crate) mod history;
#[cfg(target_os = "linux")]
mod processes;

pub use faulty::Faulty;
#[cfg(target_os = "linux")]
pub use processes::process_suite;

use crate::engine::{Cf, Engine, Pair, Snapshot, WriteBatch};
use crate::error::Result;
use damask_types::ErrorKind;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs every case on fresh folders. `open` is called with a folder that does not exist, or that
/// an earlier call made; an engine without files ignores it.
pub fn suite<E: Engine>(open: impl Fn(&Path) -> Result<E>) {
    for (name, case) in cases::ALL {
        eprintln!("case {name}");
        let scratch = Scratch::new();
        let engine = open(&scratch.path("engine")).expect("opens");
        case(&engine);
    }
    let scratch = Scratch::new();
    let probe = open(&scratch.path("engine")).expect("opens").capabilities();
    if probe.persistent {
        durability::reopen(&open);
        durability::copy_of_a_live_folder(&open);
        durability::load(&open);
        corruption::flipped_bytes(&open);
    }
    if probe.checkpoint {
        durability::checkpoint(&open);
    } else {
        let engine = open(&scratch.path("none")).expect("opens");
        let refused = engine.checkpoint(&scratch.path("checkpoint")).expect_err("it said so");
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }
}

/// Checks an engine's own crash model: `crash(engine, keep)` is the engine after a crash that kept
/// the first `keep` batches written since the last sync.
pub fn crash_suite<E: Engine>(make: impl Fn() -> E, crash: impl Fn(&E, usize) -> E) {
    durability::crash_model(&make, &crash);
}

/// A folder that is removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        Scratch::below(&std::env::temp_dir())
    }

    pub fn below(folder: &Path) -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("damask-kv-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary folder is writable");
        Scratch(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that stays is no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An owned pair.
type Owned = (Vec<u8>, Vec<u8>);

fn owned(pair: Option<Pair<'_>>) -> Option<Owned> {
    pair.map(|(key, value)| (key.to_vec(), value.to_vec()))
}

/// All pairs of a range, forward.
fn dump(snapshot: &dyn Snapshot, cf: Cf, start: &[u8], end: &[u8]) -> Vec<Owned> {
    let mut cursor = snapshot.cursor(cf, start, end).expect("a cursor");
    let mut pairs = Vec::new();
    let mut at = owned(cursor.seek(start).expect("seek"));
    while let Some(pair) = at {
        pairs.push(pair);
        at = owned(cursor.next().expect("next"));
    }
    pairs
}

/// All pairs of all families.
fn dump_all(engine: &dyn Engine) -> Vec<Vec<Owned>> {
    let snapshot = engine.snapshot();
    Cf::ALL.map(|cf| dump(&*snapshot, cf, &[], &[])).into()
}

fn write(engine: &dyn Engine, fill: impl FnOnce(&mut WriteBatch)) {
    let mut batch = WriteBatch::default();
    fill(&mut batch);
    engine.write(batch).expect("writes");
}

fn get(engine: &dyn Engine, cf: Cf, key: &[u8]) -> Option<Vec<u8>> {
    engine.snapshot().get(cf, key).expect("reads").map(|value| value.to_vec())
}

/// A small generator (xorshift64*), so that every run sees the same cases.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
