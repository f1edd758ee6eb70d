//! How full the file system of a folder is. It must never change anything.

use std::io;
use std::path::Path;

/// A file system's size, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total: u64,
    /// Free for this process.
    pub free: u64,
}

/// Asks the file system that a folder is on.
pub fn space(folder: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_no_more_free_than_in_all() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let found = space(folder.path()).expect("it exists");
        assert!(found.total > 0 && found.free <= found.total, "{found:?}");
        let missing = space(&folder.path().join("missing")).expect_err("no such folder");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
