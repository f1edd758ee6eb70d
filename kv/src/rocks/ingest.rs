//! Bulk loads through files of RocksDB's own format, taken over at once. It must never take over a
//! file before everything that was written earlier is durable: else a crash would leave a hole.

use super::{RocksEngine, classify, family};
use crate::engine::{Cf, Engine, Ingestion};
use crate::error::{Error, Result};
use crate::folder::kind_of;
use crate::ingest::Ascending;
use rocksdb::{IngestExternalFileOptions, SstFileWriter};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The folder of files that are being written, inside the engine's.
const FOLDER: &str = "ingest";

/// Removes what a crash left of loads.
pub(super) fn clean(engine: &Path) -> Result<()> {
    match fs::remove_dir_all(engine.join(FOLDER)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(e)),
        _ => Ok(()),
    }
}

fn io(error: std::io::Error) -> Error {
    Error::new("ingest", kind_of(&error), error)
}

/// A load. Its files are in a folder of its own, which goes when it is dropped.
pub(super) struct RocksIngestion<'a> {
    engine: &'a RocksEngine,
    cf: Cf,
    order: Ascending,
    folder: PathBuf,
    writer: Option<SstFileWriter<'a>>,
    /// Bytes of keys and values in the open file.
    open_bytes: u64,
    files: Vec<PathBuf>,
}

impl<'a> RocksIngestion<'a> {
    pub fn new(engine: &'a RocksEngine, cf: Cf) -> Result<RocksIngestion<'a>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let folder = engine.inner.path.join(FOLDER).join(name);
        fs::create_dir_all(&folder).map_err(io)?;
        Ok(RocksIngestion {
            engine,
            cf,
            order: Ascending::default(),
            folder,
            writer: None,
            open_bytes: 0,
            files: Vec::new(),
        })
    }

    fn open(&mut self) -> Result<()> {
        let path = self.folder.join(format!("{}.sst", self.files.len()));
        let writer = SstFileWriter::create(&self.engine.inner.file_options[self.cf as usize]);
        open_file(&writer, &path)?;
        self.writer = Some(writer);
        self.files.push(path);
        self.open_bytes = 0;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        match self.writer.take() {
            Some(mut writer) => writer.finish().map_err(|e| classify("ingest", e)),
            None => Ok(()),
        }
    }
}

fn open_file(writer: &SstFileWriter<'_>, path: &Path) -> Result<()> {
    writer.open(path).map_err(|e| classify("ingest", e))
}

impl Ingestion for RocksIngestion<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.order.check(key, value)?;
        if self.open_bytes >= self.engine.inner.file_bytes {
            self.close()?;
        }
        if self.writer.is_none() {
            self.open()?;
        }
        self.open_bytes += (key.len() + value.len()) as u64;
        let writer = self.writer.as_mut().expect("opened above");
        writer.put(key, value).map_err(|e| classify("ingest", e))
    }

    fn finish(mut self: Box<Self>) -> Result<u64> {
        self.close()?;
        self.engine.sync()?;
        if !self.files.is_empty() {
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            let db = &self.engine.inner.db;
            let files = std::mem::take(&mut self.files);
            let ingest = || db.ingest_external_file_cf_opts(family(db, self.cf), &options, files);
            self.engine.change(ingest).map_err(|e| classify("ingest", e))?;
        }
        Ok(self.order.pairs())
    }
}

impl Drop for RocksIngestion<'_> {
    fn drop(&mut self) {
        // A folder that stays is removed at the next open.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
