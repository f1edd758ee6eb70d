//! A copy of a running engine's folder, by links: fjall's tables and versions never change once they
//! have a name, so only journals are copied, and of those only what was written. It must never be
//! called while a batch is written.
//!
//! ```text
//! 1  journals        what was written so far and is in no table
//! 2  each family     its current version and the tables, again if the version was replaced meanwhile
//! ```
//!
//! In this order: what a flush takes out of a journal after 1 is in a table before 2, and fjall passes
//! over what is in both.

use super::KEYSPACES;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The file that fjall takes for the sign of a whole engine, and the one that it locks.
const MARKER: &str = "version";
const LOCK: &str = "lock";
/// In a family's folder: the file with the number of the version, and the tables' folder.
const CURRENT: &str = "current";
const TABLES: &str = "tables";
/// Bytes of a journal that are read at once; if all of them are zero they stay a hole.
const CHUNK: usize = 64 << 10;
/// Flushes and merges that may get in the way of one family.
const TRIES_MAX: usize = 1000;

/// Makes of the folder `from` of a running engine, whose journal was just flushed, the folder `to`.
pub(super) fn link(from: &Path, to: &Path) -> io::Result<()> {
    let keyspaces = to.join(KEYSPACES);
    fs::create_dir_all(&keyspaces)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "jnl") {
            // A journal goes when all of it is in tables.
            absent_is_fine(copy_journal(&path, &inside(to, &path)?))?;
        }
    }
    for entry in fs::read_dir(from.join(KEYSPACES))? {
        let family = entry?.path();
        link_family(&family, &inside(&keyspaces, &family)?)?;
    }
    File::create_new(to.join(LOCK))?;
    write_synced(&to.join(MARKER), &fs::read(from.join(MARKER))?)?;
    sync_names(&keyspaces)?;
    sync_names(to)
}

/// A file's or folder's place in another folder.
fn inside(folder: &Path, path: &Path) -> io::Result<std::path::PathBuf> {
    path.file_name().map(|name| folder.join(name)).ok_or(io::ErrorKind::InvalidInput.into())
}

fn link_family(from: &Path, to: &Path) -> io::Result<()> {
    for _ in 0..TRIES_MAX {
        let current = fs::read(from.join(CURRENT))?;
        absent_is_fine(fs::remove_dir_all(to))?;
        fs::create_dir_all(to.join(TABLES))?;
        let version = current.first_chunk().map(|number| u64::from_le_bytes(*number));
        let version = format!("v{}", version.ok_or(io::ErrorKind::UnexpectedEof)?);
        // What a version does not need any more is removed after it was replaced.
        absent_is_fine(link_or_copy(&from.join(&version), &to.join(&version)))?;
        for table in fs::read_dir(from.join(TABLES))? {
            let table = table?.path();
            absent_is_fine(link_or_copy(&table, &inside(&to.join(TABLES), &table)?))?;
        }
        if fs::read(from.join(CURRENT))? == current {
            write_synced(&to.join(CURRENT), &current)?;
            sync_names(&to.join(TABLES))?;
            return sync_names(to);
        }
    }
    Err(io::Error::other(format!("{} never stands still", from.display())))
}

/// A file that never changes under another name; copied where file systems have no links, or differ.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(e) if is_no_link(&e) => {
            fs::copy(from, to)?;
            File::open(to)?.sync_all()
        }
        done => done,
    }
}

fn is_no_link(e: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(e.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

/// Copies what is not zero; the rest is a hole, as in a journal that was just made.
fn copy_journal(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = File::create_new(to)?;
    copy.set_len(source.metadata()?.len())?;
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let read = match source.read(&mut chunk)? {
            0 => break,
            read => read,
        };
        if chunk[..read].iter().any(|byte| *byte != 0) {
            copy.seek(SeekFrom::Start(at))?;
            copy.write_all(&chunk[..read])?;
        }
        at += read as u64;
    }
    copy.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_names(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
