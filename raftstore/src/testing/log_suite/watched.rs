//! A log store that brings its own I/O, on a folder whose disk fails and loses power: every call of
//! the C library for a file below it is watched. The test program needs `damask_kv::disk_calls!`.

use super::backend::{Keep, LogBackend};
use crate::error::Result;
use crate::log_store::LogStore;
use damask_kv::testing::disk::{Unsynced, WatchedFolder};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that a tear may be asked to keep of all files.
const PIECES: usize = 1 << 20;
/// Choices of a tear by sectors that are told apart.
const SECTORS: usize = 16;

/// The storage of such a store.
#[derive(Clone)]
pub struct OnWatchedFolder<O> {
    folder: Arc<WatchedFolder>,
    open: O,
    flips: fn(&Path) -> bool,
}

impl<O> OnWatchedFolder<O>
where
    O: Fn(&Path) -> Result<Arc<dyn LogStore>> + Clone + 'static,
{
    /// In an empty folder. `flips`: of which files a flipped bit must be named, or not matter.
    pub fn new(open: O, flips: fn(&Path) -> bool) -> OnWatchedFolder<O> {
        OnWatchedFolder { folder: Arc::default(), open, flips }
    }

    fn after(&self, unsynced: Unsynced) -> Option<Box<dyn LogBackend>> {
        let folder = Arc::new(self.folder.after_power_cut(unsynced));
        Some(Box::new(OnWatchedFolder { folder, ..self.clone() }))
    }

    fn flipped(&self) -> Vec<(PathBuf, u64)> {
        let files = self.folder.files().unwrap_or_default();
        files.into_iter().filter(|(path, _)| (self.flips)(path)).collect()
    }
}

impl<O> LogBackend for OnWatchedFolder<O>
where
    O: Fn(&Path) -> Result<Arc<dyn LogStore>> + Clone + 'static,
{
    fn open(&self) -> Result<Arc<dyn LogStore>> {
        (self.open)(&self.folder.path())
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn is_slow(&self) -> bool {
        true
    }

    /// Sectors, not bytes: `keep` only says whether it is none, all, or which place between.
    fn power_cut(&self, keep: Keep<'_>) -> Option<Box<dyn LogBackend>> {
        self.after(match keep(PIECES) {
            0 => Unsynced::Lost,
            PIECES => Unsynced::Kept,
            some => Unsynced::Prefix(some as u64),
        })
    }

    fn power_cut_by_sectors(
        &self,
        keep: &mut dyn FnMut(usize) -> bool,
    ) -> Option<Box<dyn LogBackend>> {
        let seed = (0..SECTORS).fold(1, |seed, at| seed << 1 | u64::from(keep(at)));
        self.after(Unsynced::Scattered(seed))
    }

    fn fail_at(&self, n: Option<u64>) -> bool {
        self.folder.fail_at(n);
        true
    }

    fn operations(&self) -> u64 {
        self.folder.calls()
    }

    fn flip(&self, at: u64) -> bool {
        let mut left = at % self.bits().max(1);
        for (path, len) in self.flipped() {
            if left < len * 8 {
                return self.folder.flip(&path, left).is_ok();
            }
            left -= len * 8;
        }
        false
    }

    fn bits(&self) -> u64 {
        self.flipped().iter().map(|(_, len)| len * 8).sum()
    }
}
