//! A folder on a disk that fails and loses power when it is told to, for stores that are no
//! engines: their suites have models of their own. It needs [`crate::disk_calls`]'s calls in the
//! program, and must never touch a call for a file of another folder.

use super::model::Tear;
use super::watch::{Kind, Plan, Progress, Watching};
use crate::testing::Scratch;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EIO: i32 = 5;

/// What of the writes that were not synced is there after a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// Nothing of them.
    Lost,
    /// All of them.
    Kept,
    /// Of each file the changed sectors up to some place, by this seed.
    Prefix(u64),
    /// Of each file some of the changed sectors, by this seed.
    Scattered(u64),
}

/// The folder; it goes when this is dropped.
pub struct WatchedFolder {
    watching: Watching,
    scratch: Scratch,
}

impl Default for WatchedFolder {
    fn default() -> WatchedFolder {
        WatchedFolder::watch(super::life::scratch())
    }
}

impl WatchedFolder {
    fn watch(scratch: Scratch) -> WatchedFolder {
        let watching = Watching::start(&scratch.path(""), Arc::<Progress>::default());
        watching.keep_names();
        let folder = WatchedFolder { watching, scratch };
        folder.fail_at(None);
        folder
    }

    /// Where the store may make its own.
    pub fn path(&self) -> PathBuf {
        self.scratch.path("store")
    }

    /// Lets the n-th call from now on that writes, syncs, or changes a name or length fail, once.
    pub fn fail_at(&self, nth: Option<u64>) {
        let kinds = Kind::Write as u8 | Kind::Sync as u8 | Kind::Shape as u8;
        let nth = nth.unwrap_or(u64::MAX);
        self.watching.fail(Plan { kinds, nth, error: EIO, lasting: false });
    }

    /// Such calls since the last `fail_at`.
    pub fn calls(&self) -> u64 {
        self.watching.calls()
    }

    /// What a power cut now would leave, as a folder of its own.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn after_power_cut(&self, unsynced: Unsynced) -> WatchedFolder {
        let (how, seed) = match unsynced {
            Unsynced::Lost => (Tear::Lost, 0),
            Unsynced::Kept => (Tear::Kept, 0),
            Unsynced::Prefix(seed) => (Tear::Prefix, seed),
            Unsynced::Scattered(seed) => (Tear::Scattered, seed),
        };
        let scratch = super::life::scratch();
        let image = self.watching.image(how, seed);
        image.write_to(&scratch.path("")).expect("there is space");
        WatchedFolder::watch(scratch)
    }

    /// Its files and their bytes, by name.
    ///
    /// # Errors
    /// Of the system.
    pub fn files(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut files = Vec::new();
        list(&self.scratch.path(""), &mut files)?;
        files.sort();
        Ok(files)
    }

    /// Flips a bit of a file behind the store's back.
    ///
    /// # Errors
    /// Of the system.
    pub fn flip(&self, file: &Path, bit: u64) -> io::Result<()> {
        let opened = File::options().read(true).write(true).open(file)?;
        let mut byte = [0];
        opened.read_exact_at(&mut byte, bit / 8)?;
        byte[0] ^= 1 << (bit % 8);
        opened.write_all_at(&byte, bit / 8)
    }
}

fn list(folder: &Path, files: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let (path, about) = entry.and_then(|e| Ok((e.path(), e.metadata()?)))?;
        match about.is_dir() {
            true => list(&path, files)?,
            false => files.push((path, about.len())),
        }
    }
    Ok(())
}
