//! A disk in memory that knows what a power cut would leave: what was synced stays, of the rest a
//! prefix, or any of its sectors. It can also fill up, fail the n-th operation, and flip a bit.
//!
//! Names follow `open`, `replace` and `remove` at once and survive a crash (the folder sync is
//! assumed); only file contents distinguish written from synced.

use crate::disk::{Content, Disk, File};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Bytes that are on the disk all together or not at all.
const SECTOR: usize = 512;

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// The operation with this number (counting from 0: open, append, allocate, sync, read,
    /// truncate, replace) fails, once.
    pub fail_at: Option<u64>,
    /// Bytes that fit on the disk.
    pub capacity: Option<u64>,
}

#[derive(Debug, Default)]
struct Contents {
    /// With the room that was reserved, in zeros.
    bytes: Vec<u8>,
    /// Where the next append goes.
    written: usize,
    /// What of this a power cut leaves for certain.
    synced: usize,
    /// The size of the file that a power cut leaves for certain.
    size_synced: usize,
}

impl Contents {
    fn durable(bytes: Vec<u8>) -> Contents {
        let len = bytes.len();
        Contents { bytes, written: len, synced: len, size_synced: len }
    }
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

    /// What a power cut would leave: of each file the synced part and `keep(unsynced bytes)` more;
    /// in room that was reserved and synced whole sectors of them.
    pub fn crash_image(&self, mut keep: impl FnMut(usize) -> usize) -> MemoryDisk {
        let state = self.state.lock();
        let mut files = BTreeMap::new();
        for (name, file) in &state.files {
            let file = file.lock();
            let unsynced = file.written - file.synced;
            let mut len = file.synced + keep(unsynced).min(unsynced);
            if len < file.written.min(file.size_synced) {
                len = (len / SECTOR * SECTOR).max(file.synced);
            }
            let mut bytes = file.bytes[..len].to_vec();
            bytes.resize(len.max(file.size_synced), 0);
            files.insert(name.clone(), Arc::new(Mutex::new(Contents::durable(bytes))));
        }
        let state = State { files, ..State::default() };
        MemoryDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// As `crash_image`, where the unsynced sectors went to the disk in any order: those (counted
    /// over all files) for which `keep` says so are there, zeros in place of the others.
    pub fn crash_sectors(&self, mut keep: impl FnMut(usize) -> bool) -> MemoryDisk {
        let state = self.state.lock();
        let (mut files, mut count) = (BTreeMap::new(), 0);
        for (name, file) in &state.files {
            let file = file.lock();
            let (mut bytes, mut len) = (file.bytes.clone(), file.size_synced.max(file.synced));
            let mut at = file.synced;
            while at < file.written {
                let end = (at + 1).next_multiple_of(SECTOR).min(file.written);
                if keep(count) {
                    len = len.max(end);
                } else {
                    bytes[at..end].fill(0);
                }
                (at, count) = (end, count + 1);
            }
            bytes.truncate(len);
            files.insert(name.clone(), Arc::new(Mutex::new(Contents::durable(bytes))));
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
        let more = |file: &Contents| (file.written + bytes.len()).saturating_sub(file.bytes.len());
        let growth = more(&self.contents.lock());
        self.disk.operation(growth)?;
        let mut file = self.contents.lock();
        let inside = bytes.len() - more(&file);
        let at = file.written;
        file.bytes[at..at + inside].copy_from_slice(&bytes[..inside]);
        file.bytes.extend_from_slice(&bytes[inside..]);
        file.written += bytes.len();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.operation(0)?;
        let mut contents = self.contents.lock();
        contents.synced = contents.written;
        contents.size_synced = contents.bytes.len();
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

    fn allocate(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let growth = len.saturating_sub(self.contents.lock().bytes.len());
        self.disk.operation(growth)?;
        let mut contents = self.contents.lock();
        let len = len.max(contents.bytes.len());
        contents.bytes.resize(len, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.contents.lock().written as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.operation(0)?;
        let mut contents = self.contents.lock();
        let len = len as usize;
        contents.bytes.truncate(len);
        contents.written = contents.written.min(len);
        contents.synced = contents.synced.min(len);
        contents.size_synced = contents.size_synced.min(len);
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.operation(0)?;
        let contents = self.state.lock().files.entry(name.to_owned()).or_default().clone();
        {
            let mut file = contents.lock();
            file.written = file.bytes.len();
        }
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
        let contents = Contents::durable(bytes.to_vec());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_keeps_reserved_room_once_synced_and_sectors_in_any_order() {
        let disk = MemoryDisk::new();
        let file = disk.open("a").expect("opens");
        file.append(&[1; 600]).expect("appends");
        file.allocate(4096).expect("reserves");
        assert_eq!(disk.crash_image(|_| 0).files(), [("a".to_owned(), 0)]);
        file.sync().expect("syncs");
        file.append(&[2; 1000]).expect("appends");
        assert_eq!((file.len().expect("known"), disk.files()[0].1), (1600, 4096));
        let bytes = |image: MemoryDisk| image.map("a").expect("it is there").to_vec();
        let prefix = bytes(disk.crash_image(|unsynced| unsynced / 2));
        let expected = [vec![1; 600], vec![2; 424], vec![0; 3072]].concat();
        assert_eq!(prefix, expected);
        // Sectors: 600..1024, 1024..1536, 1536..1600.
        let middle = bytes(disk.crash_sectors(|sector| sector == 1));
        let expected = [vec![1; 600], vec![0; 424], vec![2; 512], vec![0; 2560]].concat();
        assert_eq!(middle, expected);
        file.truncate(700).expect("cuts");
        assert_eq!(bytes(disk.crash_image(|_| 0)), [vec![1; 600], vec![0; 100]].concat());
    }
}
