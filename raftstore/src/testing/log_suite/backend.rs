//! Where a log store under test lives: on a disk in memory that can break, in a folder, or nowhere.
//! Nothing here looks into a store.

use crate::error::Result;
use crate::log_store::LogStore;
use damask_env::{Disk, Fault, MemoryDisk};
use std::path::PathBuf;
use std::sync::Arc;

/// How many of a file's n unsynced bytes survive.
pub type Keep<'a> = &'a mut dyn FnMut(usize) -> usize;

/// The storage of a log store under test. What it cannot do stays as it is here.
pub trait LogBackend {
    /// Opens what is there; the store before has been dropped.
    fn open(&self) -> Result<Arc<dyn LogStore>>;
    /// Is anything there once a store is dropped?
    fn is_durable(&self) -> bool;
    /// Does opening take milliseconds? Then what fails is a sample.
    fn is_slow(&self) -> bool {
        false
    }
    /// What a power cut now would leave; `None`: this storage cannot lose what was written.
    fn power_cut(&self, _: Keep<'_>) -> Option<Box<dyn LogBackend>> {
        None
    }
    /// As `power_cut`, where the sectors that were not synced went to the disk in any order: those
    /// for which the function says so (given how many came before) are there, the others are zeros.
    fn power_cut_by_sectors(
        &self,
        _: &mut dyn FnMut(usize) -> bool,
    ) -> Option<Box<dyn LogBackend>> {
        None
    }
    /// Lets the given operation of the disk from now on fail, once (`None`: none). False: cannot.
    fn fail_at(&self, _: Option<u64>) -> bool {
        false
    }
    /// Operations of the disk since the last `fail_at`.
    fn operations(&self) -> u64 {
        0
    }
    /// Flips the given bit of what is stored, modulo all there are; again: flips it back.
    /// False: cannot, or nothing is stored.
    fn flip(&self, _: u64) -> bool {
        false
    }
    /// Bits that `flip` can flip.
    fn bits(&self) -> u64 {
        0
    }
}

/// A store whose content is gone when it is dropped.
pub struct InMemory<O>(pub O);

impl<O: Fn() -> Arc<dyn LogStore>> LogBackend for InMemory<O> {
    fn open(&self) -> Result<Arc<dyn LogStore>> {
        Ok((self.0)())
    }

    fn is_durable(&self) -> bool {
        false
    }
}

/// A store over [`Disk`], on one in memory.
#[derive(Clone)]
pub struct OnMemoryDisk<O> {
    disk: MemoryDisk,
    open: O,
}

impl<O> OnMemoryDisk<O>
where
    O: Fn(Arc<dyn Disk>) -> Result<Arc<dyn LogStore>> + Clone + 'static,
{
    /// On an empty disk.
    pub fn new(open: O) -> OnMemoryDisk<O> {
        OnMemoryDisk { disk: MemoryDisk::new(), open }
    }
}

impl<O> LogBackend for OnMemoryDisk<O>
where
    O: Fn(Arc<dyn Disk>) -> Result<Arc<dyn LogStore>> + Clone + 'static,
{
    fn open(&self) -> Result<Arc<dyn LogStore>> {
        (self.open)(Arc::new(self.disk.clone()))
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn power_cut(&self, keep: Keep<'_>) -> Option<Box<dyn LogBackend>> {
        let disk = self.disk.crash_image(keep);
        Some(Box::new(OnMemoryDisk { disk, open: self.open.clone() }))
    }

    fn power_cut_by_sectors(
        &self,
        keep: &mut dyn FnMut(usize) -> bool,
    ) -> Option<Box<dyn LogBackend>> {
        let disk = self.disk.crash_sectors(keep);
        Some(Box::new(OnMemoryDisk { disk, open: self.open.clone() }))
    }

    fn fail_at(&self, n: Option<u64>) -> bool {
        self.disk.set_fault(Fault { fail_at: n, capacity: None });
        true
    }

    fn operations(&self) -> u64 {
        self.disk.operations()
    }

    fn flip(&self, at: u64) -> bool {
        let bits = self.bits();
        if bits == 0 {
            return false;
        }
        let mut left = at % bits;
        for (name, len) in self.disk.files() {
            let inside = len as u64 * 8;
            if left < inside {
                return self.disk.flip(&name, (left / 8) as usize, (left % 8) as u8);
            }
            left -= inside;
        }
        false
    }

    fn bits(&self) -> u64 {
        self.disk.files().iter().map(|(_, len)| *len as u64 * 8).sum()
    }
}

/// A store that brings its own I/O, in a folder of the machine: its process may end, the power does
/// not go.
pub struct InFolder<O> {
    /// Empty at first.
    pub folder: PathBuf,
    /// Opens what is in it.
    pub open: O,
    /// Removes the folder when dropped.
    pub guard: Box<dyn std::any::Any>,
}

impl<O: Fn(&std::path::Path) -> Result<Arc<dyn LogStore>>> LogBackend for InFolder<O> {
    fn open(&self) -> Result<Arc<dyn LogStore>> {
        (self.open)(&self.folder)
    }

    fn is_durable(&self) -> bool {
        true
    }
}
