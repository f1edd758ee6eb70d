//! A disk that is a folder of the machine's file system. Writes go to the page cache; only `sync`,
//! `replace` and `sync_folder` make anything durable.
#![allow(unsafe_code)] // one mmap

use crate::disk::{Content, Disk, File};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs;
use std::io::{self, Write};
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes a folder and those above it, if needed. The name of each new one is durable on return: a
/// file's sync says nothing of the folders that lead to it.
///
/// # Errors
/// The file system refuses, or cannot sync.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    if let Some(above) = above {
        make_folder(above)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

/// A folder.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// Opens a folder, making it if needed.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let root = root.into();
        make_folder(&root)?;
        Ok(RealDisk { root })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.root.join(name);
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        Ok(path)
    }
}

struct RealFile {
    file: fs::File,
    /// Where the next append goes: before the end of the file, if room is reserved.
    len: AtomicU64,
}

impl File for RealFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let at = self.len.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        self.file.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let from = self.len.load(Ordering::SeqCst);
        let more = len.saturating_sub(from);
        if more == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), from, more) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            done => Ok(done?),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::SeqCst))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len.store(len, Ordering::SeqCst);
        Ok(())
    }
}

struct Mapped(memmap2::Mmap);

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.path(name)?;
        let mut options = fs::OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).read(true).open(path)?;
        let len = AtomicU64::new(file.metadata()?.len());
        Ok(Arc::new(RealFile { file, len }))
    }

    fn map(&self, name: &str) -> io::Result<Content> {
        let file = fs::File::open(self.root.join(name))?;
        if file.metadata()?.len() == 0 {
            return Ok(Arc::new(Vec::new()));
        }
        // SAFETY: `Disk::map` demands that the file is not changed while mapped: stable files are
        // written once, under a new name, and removed only by unlinking, which keeps the pages.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Arc::new(Mapped(map)))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name)?;
        let temporary = path.with_extension("tmp");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&temporary, &path)?;
        let folder = path.parent().expect("a path below the root has a parent");
        fs::File::open(folder)?.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.root.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let path = self.root.join(folder);
        make_folder(&path)?;
        fs::File::open(path)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_go_into_reserved_room() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = RealDisk::open(folder.path()).expect("it can be opened");
        let file = disk.open("a").expect("it can be made");
        file.append(b"one").expect("appends");
        file.allocate(4096).expect("a hint");
        file.append(b"two").expect("appends");
        file.allocate(2).expect("less than there is");
        assert_eq!(file.len().expect("known"), 6);
        assert_eq!(file.read_at(0, 6).expect("reads"), b"onetwo");
        let on_disk = disk.map("a").expect("maps");
        assert!(on_disk.starts_with(b"onetwo") && on_disk[6..].iter().all(|byte| *byte == 0));
        file.truncate(6).expect("cuts");
        file.append(b"three").expect("appends");
        file.sync().expect("syncs");
        let again = disk.open("a").expect("opens");
        assert_eq!(again.len().expect("known"), 11);
        assert_eq!(again.read_at(0, 11).expect("reads"), b"onetwothree");
    }
}
