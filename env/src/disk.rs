//! A disk: named files that grow at the end, with an explicit sync, and a twin in memory that
//! can crash, fill up and fail. Names are relative, `/`-separated. Never used for the row
//! engines, which bring their own I/O.

use std::io;
use std::ops::Deref;
use std::sync::Arc;

/// An open file. Dropping it does not sync.
pub trait File: Send + Sync {
    /// Adds bytes at the end. All or an error; after an error the tail is undefined.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Everything appended before is durable when it returns `Ok`. Not to be retried on error.
    fn sync(&self) -> io::Result<()>;
    /// Reads exactly `len` bytes at `offset`.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// Reserves room up to `len` bytes of the file: a sync of what is appended into it need not
    /// write down another size of the file. The room reads as zeros until then, and is a part of
    /// the file for whoever opens it later. A hint: a disk that cannot does nothing.
    fn allocate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }
    /// Bytes in the file, without room that was reserved since it was opened.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file to `len` bytes; room that was reserved is given back.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Nothing in the file.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A file's whole content, mapped or copied; immutable while held.
pub type Content = Arc<dyn Deref<Target = [u8]> + Send + Sync>;

/// A folder of files.
pub trait Disk: Send + Sync + 'static {
    /// Opens for appending and reading; creates it (and its folders) if missing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// The whole content for reading; mapped when the disk can. `NotFound` if missing. The file
    /// must not be changed while mapped.
    fn map(&self, name: &str) -> io::Result<Content>;
    /// Replaces a small file whole: after a crash it holds the old or the new bytes. Durable.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Removes; missing is fine.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Names under a folder, sorted, without the folder; missing = empty.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// New and removed names in a folder are durable when it returns.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;
}
