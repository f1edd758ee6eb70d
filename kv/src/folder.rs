//! Folders that are there whole or not at all, and names that survive a power cut: a file's name is
//! on the disk after an fsync of its folder, not of the file. It must never remove a folder that has
//! its name already.

use crate::error::{Error, Result};
use damask_types::ErrorKind;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Added to the name of a folder that is not whole yet.
const PARTIAL: &str = ".partial";

/// Puts the names in a folder on the disk.
pub(crate) fn sync_names(folder: &Path) -> Result<()> {
    // Only there can a folder be opened, and does its sync mean anything.
    let synced = if cfg!(unix) { File::open(folder).and_then(|f| f.sync_all()) } else { Ok(()) };
    synced.map_err(|e| Error::new("open", kind_of(&e), format!("{}: {e}", folder.display())))
}

/// Puts the name of a file or folder on the disk.
pub(crate) fn sync_name(path: &Path) -> Result<()> {
    match path.parent() {
        Some(folder) if folder != Path::new("") => sync_names(folder),
        Some(_) => sync_names(Path::new(".")),
        // The root has no name.
        None => Ok(()),
    }
}

/// Makes a folder that has its name only when it is whole: `make` gets another one, beside it.
pub(crate) fn make_whole(
    op: &'static str,
    path: &Path,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let failed = |e: io::Error| Error::new(op, kind_of(&e), format!("{}: {e}", path.display()));
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = Path::new(&partial);
    let clean = match fs::remove_dir_all(partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
        _ => Ok(()),
    };
    let made = clean.and_then(|()| make(partial));
    let done = made.and_then(|()| fs::rename(partial, path).map_err(failed));
    if done.is_err() {
        // What stays is removed by the next try.
        let _ = fs::remove_dir_all(partial);
    }
    done?;
    sync_name(path)
}

/// What the caller of a failed call must do.
pub(crate) fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::NoSpace
        }
        _ => ErrorKind::Io,
    }
}
