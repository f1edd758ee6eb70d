//! Pages in RocksDB: small pairs in a family with a log, large pages in a family whose files are
//! written beside the database and taken over whole, so that RocksDB itself rewrites nothing of
//! them. It must never count a byte under two causes.

use super::pages::{Cause, Change, Loading, Pages, count};
use crate::error::{Error, Result};
use crate::store::Written;
use damask_types::ErrorKind;
use parking_lot::Mutex;
use rocksdb::statistics::Ticker;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    Direction, IngestExternalFileOptions, IteratorMode, LogLevel, Options, SstFileWriter,
    WriteBatch, WriteOptions,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const LARGE: &str = "large";
const FOLDER: &str = "loads";
/// A page is a value; blocks only group small ones.
const BLOCK_BYTES: usize = 64 << 10;
/// RocksDB's own cache: the decoded columns above it are the cache that counts.
const BLOCK_CACHE_BYTES: usize = 32 << 20;
const WRITE_BUFFER_BYTES: usize = 64 << 20;
const FILE_BYTES: u64 = 256 << 20;

/// Pages in a RocksDB of their own.
pub(super) struct RocksPages {
    db: DB,
    path: PathBuf,
    /// Holds the counters.
    options: Options,
    family: Options,
    loaded: Mutex<Written>,
    loads: AtomicU64,
}

fn classify(op: &'static str, e: rocksdb::Error) -> Error {
    let kind = match e.kind() {
        rocksdb::ErrorKind::Corruption => ErrorKind::Corrupt,
        rocksdb::ErrorKind::InvalidArgument => ErrorKind::Invalid,
        _ => ErrorKind::Io,
    };
    Error::new(op, kind, e)
}

fn io(e: std::io::Error) -> Error {
    Error::new("load", ErrorKind::Io, e)
}

fn family_options(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(BLOCK_BYTES);
    table.set_format_version(6);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options
}

impl RocksPages {
    /// Opens or makes the database in a folder.
    pub fn open(path: &Path) -> Result<RocksPages> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_stats_dump_period_sec(0);
        options.enable_statistics();
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let family = family_options(&cache);
        let mut large = family_options(&cache);
        large.set_disable_auto_compactions(true);
        let families = [
            ColumnFamilyDescriptor::new("default", family_options(&cache)),
            ColumnFamilyDescriptor::new(LARGE, large),
        ];
        let db =
            DB::open_cf_descriptors(&options, path, families).map_err(|e| classify("open", e))?;
        let folder = path.join(FOLDER);
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
            _ => std::fs::create_dir_all(&folder).map_err(io)?,
        }
        let (loaded, loads) = (Mutex::default(), AtomicU64::new(0));
        Ok(RocksPages { db, path: path.to_owned(), options, family, loaded, loads })
    }

    fn large(&self) -> &ColumnFamily {
        self.db.cf_handle(LARGE).expect("the family was opened")
    }
}

impl Pages for RocksPages {
    fn get(&self, large: bool, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = match large {
            true => self.db.get_cf(self.large(), key),
            false => self.db.get(key),
        };
        found.map_err(|e| classify("read", e))
    }

    fn list(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut pairs = Vec::new();
        for pair in self.db.iterator(IteratorMode::From(prefix, Direction::Forward)) {
            let (key, value) = pair.map_err(|e| classify("read", e))?;
            if !key.starts_with(prefix) {
                break;
            }
            pairs.push((key.into_vec(), value.into_vec()));
        }
        Ok(pairs)
    }

    fn commit(&self, changes: Vec<Change>) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in &changes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(|e| classify("commit", e))
    }

    fn load(&self, cause: Cause) -> Result<Box<dyn Loading + '_>> {
        Ok(Box::new(RocksLoading { pages: self, cause, writer: None, files: Vec::new() }))
    }

    fn remove(&self, large: bool, start: &[u8], end: &[u8]) -> Result<()> {
        let removed = match large {
            // the files of a run hold nothing else, so no key is left
            true => self.db.delete_file_in_range_cf(self.large(), start, end),
            false => {
                let mut batch = WriteBatch::default();
                batch.delete_range(start, end);
                self.db.write(batch)
            }
        };
        removed.map_err(|e| classify("remove", e))
    }

    fn next(&self, large: bool, start: &[u8]) -> Result<Option<Vec<u8>>> {
        let from = IteratorMode::From(start, Direction::Forward);
        let mut pairs = match large {
            true => self.db.iterator_cf(self.large(), from),
            false => self.db.iterator(from),
        };
        match pairs.next() {
            None => Ok(None),
            Some(pair) => Ok(Some(pair.map_err(|e| classify("read", e))?.0.into_vec())),
        }
    }

    fn written(&self) -> Written {
        let mut written = *self.loaded.lock();
        written.log += self.options.get_ticker_count(Ticker::WalFileBytes);
        written.flush += self.options.get_ticker_count(Ticker::FlushWriteBytes);
        written.compaction += self.options.get_ticker_count(Ticker::CompactWriteBytes);
        written
    }

    fn disk_bytes(&self) -> u64 {
        let mut bytes = 0;
        let Ok(entries) = std::fs::read_dir(&self.path) else { return 0 };
        for entry in entries.flatten() {
            bytes += entry.metadata().map_or(0, |m| if m.is_file() { m.len() } else { 0 });
        }
        bytes
    }
}

/// Files of one run.
struct RocksLoading<'a> {
    pages: &'a RocksPages,
    cause: Cause,
    writer: Option<SstFileWriter<'a>>,
    files: Vec<PathBuf>,
}

impl RocksLoading<'_> {
    fn close(&mut self) -> Result<()> {
        match self.writer.take() {
            Some(mut writer) => writer.finish().map_err(|e| classify("load", e)),
            None => Ok(()),
        }
    }
}

impl Loading for RocksLoading<'_> {
    fn put(&mut self, key: &[u8], page: &[u8]) -> Result<()> {
        if self.writer.as_ref().is_some_and(|writer| writer.file_size() >= FILE_BYTES) {
            self.close()?;
        }
        if self.writer.is_none() {
            let number = self.pages.loads.fetch_add(1, Ordering::Relaxed);
            let path = self.pages.path.join(FOLDER).join(format!("{number}.sst"));
            let writer = SstFileWriter::create(&self.pages.family);
            writer.open(&path).map_err(|e| classify("load", e))?;
            self.writer = Some(writer);
            self.files.push(path);
        }
        let writer = self.writer.as_mut().expect("opened above");
        writer.put(key, page).map_err(|e| classify("load", e))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.close()?;
        let mut bytes = 0;
        for file in &self.files {
            bytes += std::fs::metadata(file).map_err(io)?.len();
        }
        if !self.files.is_empty() {
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            let files = std::mem::take(&mut self.files);
            let pages = self.pages;
            pages
                .db
                .ingest_external_file_cf_opts(pages.large(), &options, files)
                .map_err(|e| classify("load", e))?;
        }
        count(&mut self.pages.loaded.lock(), self.cause, bytes);
        Ok(())
    }
}

impl Drop for RocksLoading<'_> {
    fn drop(&mut self) {
        // what stays is removed at the next open
        self.files.iter().for_each(|file| drop(std::fs::remove_file(file)));
    }
}
