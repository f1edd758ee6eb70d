//! A disk in memory that knows what a power cut would leave: what was synced stays, of the rest a
//! prefix. It can also fill up, fail the n-th operation, and flip a bit.
//!
//! Names follow `open`, `replace` and `remove` at once and survive a crash (the folder sync is
//! assumed); only file contents distinguish written from synced.

use crate::disk::{Content, Disk, File};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// The operation with this number (counting from 0: open, append, sync, read, truncate,
    /// replace) fails, once.
    pub fail_at: Option<u64>,
    /// Bytes that fit on the disk.
    pub capacity: Option<u64>,
}

#[derive(Debug, Default)]
struct Contents {
    bytes: Vec<u8>,
    synced: usize,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Arc<Mutex<Contents>>>,
    fault: Fault,
    operations: u64,
}

/// The disk. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// Sets what goes wrong from now on; operations are counted from 0 again.
    pub fn set_fault(&self, fault: Fault) {
        let mut state = self.state.lock();
        state.fault = fault;
        state.operations = 0;
    }

    /// Operations since the last `set_fault`.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// What a power cut would leave: of each file the synced part and `keep(unsynced bytes)` more.
    pub fn crash_image(&self, mut keep: impl FnMut(usize) -> usize) -> MemoryDisk {
        let state = self.state.lock();
        let mut files = BTreeMap::new();
        for (name, file) in &state.files {
            let file = file.lock();
            let unsynced = file.bytes.len() - file.synced;
            let len = file.synced + keep(unsynced).min(unsynced);
            let contents = Contents { bytes: file.bytes[..len].to_vec(), synced: len };
            files.insert(name.clone(), Arc::new(Mutex::new(contents)));
        }
        let state = State { files, ..State::default() };
        MemoryDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Flips one bit of a file; false if there is no such byte.
    pub fn flip(&self, name: &str, offset: usize, bit: u8) -> bool {
        let state = self.state.lock();
        let Some(file) = state.files.get(name) else { return false };
        let mut file = file.lock();
        let Some(byte) = file.bytes.get_mut(offset) else { return false };
        *byte ^= 1 << (bit % 8);
        true
    }

    /// Every file with its length.
    pub fn files(&self) -> Vec<(String, usize)> {
        let state = self.state.lock();
        state.files.iter().map(|(name, file)| (name.clone(), file.lock().bytes.len())).collect()
    }

    fn operation(&self, writes: usize) -> io::Result<()> {
        let mut state = self.state.lock();
        let number = state.operations;
        state.operations += 1;
        if state.fault.fail_at == Some(number) {
            return Err(io::Error::other("injected fault"));
        }
        if let Some(capacity) = state.fault.capacity {
            let used: usize = state.files.values().map(|file| file.lock().bytes.len()).sum();
            if writes > 0 && (used + writes) as u64 > capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        Ok(())
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    contents: Arc<Mutex<Contents>>,
}

impl File for MemoryFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.disk.operation(bytes.len())?;
        self.contents.lock().bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.operation(0)?;
        let mut contents = self.contents.lock();
        contents.synced = contents.bytes.len();
        Ok(())
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.disk.operation(0)?;
        let contents = self.contents.lock();
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = start.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let bytes = contents.bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(bytes.to_vec())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.contents.lock().bytes.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.operation(0)?;
        let mut contents = self.contents.lock();
        contents.bytes.truncate(len as usize);
        contents.synced = contents.synced.min(len as usize);
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.operation(0)?;
        let contents = self.state.lock().files.entry(name.to_owned()).or_default().clone();
        Ok(Arc::new(MemoryFile { disk: self.clone(), contents }))
    }

    fn map(&self, name: &str) -> io::Result<Content> {
        self.operation(0)?;
        let file = self.state.lock().files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        let bytes = file.lock().bytes.clone();
        Ok(Arc::new(bytes))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.operation(bytes.len())?;
        let contents = Contents { bytes: bytes.to_vec(), synced: bytes.len() };
        self.state.lock().files.insert(name.to_owned(), Arc::new(Mutex::new(contents)));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state.lock().files.remove(name);
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let state = self.state.lock();
        let inside = state.files.keys().filter_map(|name| name.strip_prefix(&prefix));
        Ok(inside.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn sync_folder(&self, _folder: &str) -> io::Result<()> {
        self.operation(0)
    }
}
