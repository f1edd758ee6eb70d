//! Data files in Lance's format 2.1: written once through the disk, read from their mapped bytes.
//! It must never serve a file whose checksum is wrong; Lance itself has none.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use damask_deltatree::{Error, Result};
use damask_env::{Content, Disk, File};
use damask_types::ErrorKind;
use futures::executor::block_on;
use lance_core::cache::LanceCache;
use lance_encoding::BufferScheduler;
use lance_encoding::decoder::{
    DecoderConfig, DecoderPlugins, FilterExpression, RequestedRows, SchedulerDecoderConfig,
    schedule_and_decode_blocking,
};
use lance_encoding::encoder::EncodedBatch;
use lance_file::reader::EncodedBatchReaderExt;
use lance_file::versions::v2_1;
use lance_file::writer::FileWriterOptions;
use lance_io::object_writer::WriteResult;
use lance_io::traits::Writer;
use parking_lot::Mutex;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

pub(crate) type LanceSchema = lance_core::datatypes::Schema;

/// The store's own columns, first in every file and schema.
pub(crate) const HANDLE: &str = "handle";
/// See [`HANDLE`].
pub(crate) const VERSION: &str = "version";
/// See [`HANDLE`].
pub(crate) const DELETED: &str = "deleted";
/// How many there are.
pub(crate) const OWN: usize = 3;
/// Bytes that are collected before they go to the disk.
const APPEND_BYTES: usize = 1 << 20;
/// Rows decoded at a time when a whole column is read.
const COLUMN_ROWS: u32 = 65_536;

/// The fields of the store's own columns.
pub(crate) fn own_fields() -> Vec<Field> {
    vec![
        Field::new(HANDLE, DataType::Int64, false),
        Field::new(VERSION, DataType::UInt64, false),
        Field::new(DELETED, DataType::Boolean, false),
    ]
}

/// Wrong bytes of a file.
pub(crate) fn corrupt(file: &str, what: impl std::fmt::Display) -> Error {
    Error::new("read", ErrorKind::Corrupt, format!("{file}: {what}"))
}

/// A disk that fails.
pub(crate) fn io_error(op: &'static str, file: &str, e: &io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    Error::new(op, kind, format!("{file}: {e}"))
}

/// An error of Lance that is not the disk's.
pub(crate) fn lance_error(op: &'static str, e: lance_core::Error) -> Error {
    Error::new(op, ErrorKind::Invalid, format!("lance: {e}"))
}

/// What was written, shared with Lance's writer, which takes the sink itself.
#[derive(Default)]
struct Sunk {
    buffer: Vec<u8>,
    bytes: u64,
    crc: crc32fast::Hasher,
    error: Option<io::Error>,
}

/// Lance's output into a file of the disk.
struct Sink {
    file: Arc<dyn File>,
    sunk: Arc<Mutex<Sunk>>,
}

impl Sink {
    fn flush(&self, sunk: &mut Sunk) -> io::Result<()> {
        let written = self.file.append(&sunk.buffer);
        sunk.crc.update(&sunk.buffer);
        sunk.buffer.clear();
        written.inspect_err(|e| sunk.error = Some(io::Error::new(e.kind(), e.to_string())))
    }
}

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut sunk = self.sunk.lock();
        sunk.buffer.extend_from_slice(bytes);
        sunk.bytes += bytes.len() as u64;
        if sunk.buffer.len() >= APPEND_BYTES {
            self.flush(&mut sunk)?;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sunk = self.sunk.lock();
        Poll::Ready(self.flush(&mut sunk))
    }
}

#[async_trait::async_trait]
impl Writer for Sink {
    async fn tell(&mut self) -> lance_core::Result<usize> {
        Ok(self.sunk.lock().bytes as usize)
    }

    async fn shutdown(&mut self) -> lance_core::Result<WriteResult> {
        let mut sunk = self.sunk.lock();
        self.flush(&mut sunk)?;
        Ok(WriteResult { size: sunk.bytes as usize, e_tag: None })
    }
}

/// Where a file's bytes are and what they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    /// Its name on the disk.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// CRC-32 of all of it.
    pub crc: u32,
}

/// A file being written.
pub(crate) struct DataWriter {
    name: String,
    file: Arc<dyn File>,
    sunk: Arc<Mutex<Sunk>>,
    writer: v2_1::Writer,
}

impl DataWriter {
    pub fn create(disk: &dyn Disk, name: String, schema: &LanceSchema) -> Result<DataWriter> {
        let file = disk.open(&name).map_err(|e| io_error("write", &name, &e))?;
        let sunk = Arc::new(Mutex::new(Sunk::default()));
        let sink = Box::new(Sink { file: file.clone(), sunk: sunk.clone() });
        let writer = v2_1::create_writer(sink, schema.clone(), FileWriterOptions::default());
        let writer = writer.map_err(|e| lance_error("write", e))?;
        Ok(DataWriter { name, file, sunk, writer })
    }

    fn failed(&self, e: lance_core::Error) -> Error {
        match self.sunk.lock().error.take() {
            Some(e) => io_error("write", &self.name, &e),
            None => lance_error("write", e),
        }
    }

    /// Adds values to a column; all columns must have as many in the end.
    pub fn column(&mut self, index: usize, values: ArrayRef) -> Result<()> {
        let written = block_on(self.writer.write_column(index, values));
        written.map_err(|e| self.failed(e))
    }

    /// The file, durable; its name is so only after the folder was synced.
    pub fn finish(mut self) -> Result<FileId> {
        block_on(self.writer.finish()).map_err(|e| self.failed(e))?;
        self.file.sync().map_err(|e| io_error("write", &self.name, &e))?;
        let sunk = self.sunk.lock();
        let crc = sunk.crc.clone().finalize();
        Ok(FileId { name: self.name.clone(), bytes: sunk.bytes, crc })
    }
}

struct Mapped(Content);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The checked bytes of a file.
pub(crate) fn read_checked(disk: &dyn Disk, id: &FileId) -> Result<Bytes> {
    let content = disk.map(&id.name).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => corrupt(&id.name, "the file is missing"),
        _ => io_error("read", &id.name, &e),
    })?;
    if content.len() as u64 != id.bytes {
        return Err(corrupt(&id.name, format!("{} bytes, not {}", content.len(), id.bytes)));
    }
    if crc32fast::hash(&content) != id.crc {
        return Err(corrupt(&id.name, "the checksum is wrong"));
    }
    Ok(Bytes::from_owner(Mapped(content)))
}

/// Batches of a file, in its columns' order.
pub(crate) type FileBatches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

/// A data file that is open.
pub(crate) struct DataFile {
    /// Name, length, checksum.
    pub id: FileId,
    /// The fragment whose only file it is.
    pub fragment: u64,
    /// The user columns.
    pub shape: SchemaRef,
    encoded: EncodedBatch,
    io: Arc<BufferScheduler>,
    cache: Arc<LanceCache>,
}

impl DataFile {
    pub fn open(disk: &dyn Disk, id: FileId, fragment: u64) -> Result<DataFile> {
        let data = read_checked(disk, &id)?;
        let encoded = EncodedBatch::try_from_self_described_lance(data.clone());
        let encoded = encoded.map_err(|e| corrupt(&id.name, e))?;
        let whole = Schema::from(&*encoded.schema);
        let own = own_fields();
        let named = |(have, want): (&Arc<Field>, &Field)| have.name() == want.name();
        if whole.fields().len() < OWN || !whole.fields().iter().zip(&own).all(named) {
            return Err(corrupt(&id.name, "not a file of this store"));
        }
        let fields = whole.fields()[OWN..].iter();
        let fields = fields.map(|f| Field::new(f.name(), f.data_type().clone(), true));
        let shape = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let io = Arc::new(BufferScheduler::new(data));
        let cache = Arc::new(LanceCache::no_cache());
        Ok(DataFile { id, fragment, shape, encoded, io, cache })
    }

    /// Rows in it.
    pub fn rows(&self) -> usize {
        self.encoded.num_rows as usize
    }

    /// The columns of some positions (ascending; the store's own come first) at ascending ranges
    /// of rows, one behind the other, in batches of up to `batch_rows`.
    pub fn read(
        &self,
        columns: &[usize],
        ranges: Vec<Range<u64>>,
        batch_rows: u32,
    ) -> Result<FileBatches> {
        let name = self.id.name.clone();
        let failed = move |e: &dyn std::fmt::Display| corrupt(&name, e);
        let mut schema = (*self.encoded.schema).clone();
        schema.fields = columns.iter().map(|at| self.encoded.schema.fields[*at].clone()).collect();
        let indices = columns.iter().map(|at| self.encoded.top_level_columns[*at]);
        let config = SchedulerDecoderConfig {
            decoder_plugins: Arc::<DecoderPlugins>::default(),
            batch_size: batch_rows,
            io: self.io.clone(),
            cache: self.cache.clone(),
            decoder_config: DecoderConfig::default(),
            batch_size_bytes: None,
        };
        let batches = schedule_and_decode_blocking(
            self.encoded.page_table.clone(),
            RequestedRows::Ranges(ranges),
            FilterExpression::no_filter(),
            indices.collect(),
            Arc::new(schema),
            config,
        );
        let batches = batches.map_err(|e| failed(&e))?;
        Ok(Box::new(batches.map(move |batch| batch.map_err(|e| failed(&e)))))
    }

    /// A whole column.
    pub fn column(&self, at: usize) -> Result<ArrayRef> {
        let all = 0..self.encoded.num_rows;
        let batches = self.read(&[at], vec![all], COLUMN_ROWS)?;
        let arrays = batches.map(|batch| Ok(batch?.column(0).clone()));
        let arrays = arrays.collect::<Result<Vec<ArrayRef>>>()?;
        let arrays: Vec<_> = arrays.iter().map(|array| &**array).collect();
        Ok(concat(&arrays)?)
    }
}
