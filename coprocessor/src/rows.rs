//! The row side of an endpoint: read index on the leader, an engine snapshot, a lock check, then
//! blocks of versions decoded into Arrow. It must never return a part before locks are checked.

use crate::decode::{ColumnBuilder, RowBatchBuilder};
use crate::spec::*;
use arrow::array::{RecordBatch, RecordBatchOptions};
use damask_kv::mvcc::{MvccReader, Read, Rows};
use damask_kv::{Cf, Engine, Snapshot};
use damask_raftstore::{Done, Error as RegionError, ReadPermit};
use damask_types::codec::{DecodeError, decode_key, encode_key, split_key_ts};
use damask_types::key::{self, decode_handle, decode_index_key, decode_row_key};
use damask_types::{Datum, Epoch, ErrorKind, KeyRange, RegionId, Timestamp};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// How long one open waits for its region's read index.
const READ_INDEX_WAIT: Duration = Duration::from_secs(5);
/// Locks reported at once.
const LOCKS_MAX: usize = 256;
/// A region is split into parts only when its handles span more than this.
const PART_HANDLES_MIN: i64 = 4096;

/// Lets a read of a store's rows happen, and speak for all that was there (`damask-txn`'s server).
pub trait Admission: Send + Sync + 'static {
    /// Announces a read at `ts`, before its snapshot is taken; refuses it when an unfinished write
    /// could commit at or below `ts`, or (`TooOld`) when versions there may have been collected.
    fn begin(&self, ranges: &[KeyRange], ts: Timestamp) -> Result<(), EndpointError>;
    /// Asked after each part of what was read: has nothing been collected meanwhile (`TooOld`)?
    fn confirm(&self, ts: Timestamp) -> Result<(), EndpointError>;
    /// These ranges of a region are read from now on: for who splits what is busy.
    fn note(&self, _region: RegionId, _ranges: &[KeyRange]) {}
    /// Such reads have found so many bytes.
    fn note_bytes(&self, _region: RegionId, _bytes: u64) {}
}

/// Asks a store for permission to read a region.
pub type ReadIndex = Box<dyn Fn(RegionId, Epoch, Done<ReadPermit>) + Send + Sync>;

/// Rows of one store.
pub struct RowEndpoint {
    engine: Arc<dyn Engine>,
    read_index: ReadIndex,
    admission: Option<Arc<dyn Admission>>,
}

impl RowEndpoint {
    /// Reads `engine` as `read_index` (the store's) permits. Only for a store whose transactions
    /// all take two phases and whose versions are all kept; else see [`RowEndpoint::admitted_by`].
    pub fn new(engine: Arc<dyn Engine>, read_index: ReadIndex) -> RowEndpoint {
        RowEndpoint { engine, read_index, admission: None }
    }

    /// Asks before and after each read.
    pub fn admitted_by(self, admission: Arc<dyn Admission>) -> RowEndpoint {
        RowEndpoint { admission: Some(admission), ..self }
    }

    /// A snapshot in which everything acknowledged before the call is applied. It is taken on the
    /// store's own thread, so that the region cannot change between permit and snapshot.
    fn snapshot(&self, context: RegionContext) -> Result<Arc<dyn Snapshot>, EndpointError> {
        let (send, receive) = sync_channel(1);
        let engine = self.engine.clone();
        let done: Done<ReadPermit> = Box::new(move |permit| {
            // The receiver may have given up: then nobody wants the answer.
            let _ = send.send(permit.map(|_| engine.snapshot()));
        });
        (self.read_index)(context.region, context.epoch, done);
        match receive.recv_timeout(READ_INDEX_WAIT) {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(RegionError::Busy("no read index in time").into()),
        }
    }
}

impl Endpoint for RowEndpoint {
    fn open(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
    ) -> Result<Vec<Part>, EndpointError> {
        if let Some(admission) = &self.admission {
            admission.begin(ranges, spec.ts).map_err(refused)?;
        }
        let reader = MvccReader::new(self.snapshot(context)?);
        let mut locks = Vec::new();
        for range in ranges {
            let room = LOCKS_MAX - locks.len();
            locks.extend(reader.scan_locks(range, |lock| lock.blocks_read(spec.ts), room)?);
            if locks.len() >= LOCKS_MAX {
                break;
            }
        }
        if !locks.is_empty() {
            return Err(EndpointError::Locked(locks));
        }
        if let Some(admission) = &self.admission {
            admission.note(context.region, ranges);
        }
        let pieces = split(&*reader.snapshot, ranges, spec)?;
        let part = |ranges| -> Result<Part, EndpointError> {
            Ok(Box::new(RowPart {
                reader: reader.clone(),
                region: context.region,
                ts: spec.ts,
                ranges,
                left: spec.limit.unwrap_or(usize::MAX),
                batch_rows: spec.batch_rows.max(1),
                decoder: Decoder::new(spec)?,
                block: Rows::default(),
                admission: self.admission.clone(),
                failed: false,
            }))
        };
        pieces.into_iter().map(part).collect()
    }
}

/// Splits one wide range of rows into `spec.parts` of about equal spans of handles.
fn split(
    snapshot: &dyn Snapshot,
    ranges: &[KeyRange],
    spec: &ScanSpec,
) -> Result<Vec<Vec<KeyRange>>, EndpointError> {
    let whole = || Ok(vec![ranges.to_vec()]);
    let [range] = ranges else { return whole() };
    if spec.parts < 2 || spec.source != Source::Rows || spec.limit.is_some() {
        return whole();
    }
    let end = if range.end.is_empty() { Vec::new() } else { encode_key(&range.end) };
    let start = encode_key(&range.start);
    let mut cursor = snapshot.cursor(Cf::Write, &start, &end)?;
    let handle = |pair: Option<damask_kv::Pair<'_>>| -> Result<Option<i64>, EndpointError> {
        let Some((key, _)) = pair else { return Ok(None) };
        let (key, _) = split_key_ts(key)?;
        Ok(decode_row_key(&decode_key(key)?).map(|(_, handle)| handle))
    };
    let first = handle(cursor.seek(&start)?)?;
    let upper = if end.is_empty() { vec![0xFF; 32] } else { end.clone() };
    let last = handle(cursor.seek_for_prev(&upper)?)?;
    let (Some(first), Some(last)) = (first, last) else { return whole() };
    let span = i128::from(last) - i128::from(first);
    if span < i128::from(PART_HANDLES_MIN) {
        return whole();
    }
    let parts = spec.parts as i128;
    let mut pieces = Vec::with_capacity(spec.parts);
    let mut from = range.start.clone();
    for i in 1..parts {
        let at = key::row_key(spec.table.id, (i128::from(first) + span * i / parts) as i64);
        pieces.push(vec![KeyRange::new(from, at.clone())]);
        from = at;
    }
    pieces.push(vec![KeyRange::new(from, range.end.clone())]);
    Ok(pieces)
}

/// Turns pairs into batches.
enum Decoder {
    /// Rows.
    Rows(RowBatchBuilder),
    /// Index entries: for each field, the position in the index, or the handle.
    Index {
        columns: usize,
        slots: Vec<Option<usize>>,
        builders: Vec<ColumnBuilder>,
        spec: Arc<ScanSpec>,
    },
    /// Only how many.
    Count(Arc<ScanSpec>),
}

impl Decoder {
    fn new(spec: &Arc<ScanSpec>) -> Result<Decoder, EndpointError> {
        if spec.columns.is_empty() {
            return Ok(Decoder::Count(spec.clone()));
        }
        let Source::Index(id) = spec.source else {
            let rows = spec.batch_rows;
            let builder =
                RowBatchBuilder::new(&spec.table, &spec.columns, spec.schema.clone(), rows)?;
            return Ok(Decoder::Rows(builder));
        };
        let missing = || EndpointError::storage(ErrorKind::Invalid, "a column is not in the index");
        let index = spec.table.indexes.iter().find(|i| i.id == id).ok_or_else(missing)?;
        let slots = spec.columns.iter().map(|column| match column {
            ScanColumn::Handle => Ok(None),
            ScanColumn::Column(id) if spec.table.handle_column == Some(*id) => Ok(None),
            ScanColumn::Column(id) => {
                index.columns.iter().position(|c| c == id).map(Some).ok_or_else(missing)
            }
        });
        let slots = slots.collect::<Result<_, _>>()?;
        let fields = spec.schema.fields().iter();
        let builders = fields.map(|f| ColumnBuilder::new(f.data_type(), spec.batch_rows));
        let builders = builders.collect::<Result<_, DecodeError>>()?;
        Ok(Decoder::Index { columns: index.columns.len(), slots, builders, spec: spec.clone() })
    }

    fn decode(&mut self, block: &Rows) -> Result<RecordBatch, EndpointError> {
        match self {
            Decoder::Rows(builder) => {
                for (key, value) in block.iter() {
                    let (_, handle) = decode_row_key(key).ok_or(DecodeError("not a row key"))?;
                    builder.push(handle, value)?;
                }
                Ok(builder.finish()?)
            }
            Decoder::Index { columns, slots, builders, spec } => {
                for (key, value) in block.iter() {
                    let (datums, handle) = decode_index_key(key, *columns)?;
                    let handle = handle.map_or_else(|| decode_handle(value), Ok)?;
                    push_entry(builders, slots, &datums, handle)?;
                }
                let columns = builders.iter_mut().map(ColumnBuilder::finish).collect();
                Ok(RecordBatch::try_new(spec.schema.clone(), columns)?)
            }
            Decoder::Count(spec) => counted(spec, block.len()),
        }
    }
}

fn push_entry(
    builders: &mut [ColumnBuilder],
    slots: &[Option<usize>],
    datums: &[Datum],
    handle: i64,
) -> Result<(), DecodeError> {
    for (builder, slot) in builders.iter_mut().zip(slots) {
        match slot {
            Some(i) => builder.push_datum(&datums[*i])?,
            None => builder.push_handle(handle)?,
        }
    }
    Ok(())
}

/// A batch of `rows` rows without columns.
pub(crate) fn counted(spec: &ScanSpec, rows: usize) -> Result<RecordBatch, EndpointError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(spec.schema.clone(), Vec::new(), &options)?)
}

/// Some ranges of one snapshot. The scan starts again at each batch, one seek each, so that
/// nothing borrows the snapshot between batches.
struct RowPart {
    reader: MvccReader,
    region: RegionId,
    ts: Timestamp,
    /// What is left, ascending.
    ranges: Vec<KeyRange>,
    left: usize,
    batch_rows: usize,
    decoder: Decoder,
    block: Rows,
    admission: Option<Arc<dyn Admission>>,
    failed: bool,
}

impl RowPart {
    /// Fills the block from the ranges that are left.
    fn fill(&mut self) -> Result<(), EndpointError> {
        self.block.clear();
        let want = self.batch_rows.min(self.left);
        let mut done = 0;
        while done < self.ranges.len() && self.block.len() < want {
            let range = &self.ranges[done];
            if is_point(range) {
                if let Some(value) = unlocked(self.reader.get(&range.start, self.ts)?)? {
                    self.block.push(&range.start, &value);
                }
                done += 1;
                continue;
            }
            let mut scan = self.reader.scanner(range, self.ts)?;
            let mut finished = false;
            while self.block.len() < want {
                let room = want - self.block.len();
                if unlocked(scan.next_block(room, &mut self.block)?)? == 0 {
                    finished = true;
                    break;
                }
            }
            drop(scan);
            if finished {
                done += 1;
            } else if let Some((key, _)) =
                self.block.len().checked_sub(1).map(|i| self.block.get(i))
            {
                self.ranges[done].start = KeyRange::point(key).end;
            }
        }
        self.ranges.drain(..done);
        self.left -= self.block.len();
        let Some(admission) = &self.admission else { return Ok(()) };
        admission.note_bytes(self.region, self.block.bytes() as u64);
        admission.confirm(self.ts).map_err(refused)
    }
}

/// What is refused for good: neither waiting nor another store helps, so it must not look like a
/// matter of the region.
fn refused(error: EndpointError) -> EndpointError {
    match error {
        EndpointError::Region(RegionError::Storage { kind: kind @ ErrorKind::TooOld, detail }) => {
            EndpointError::Storage { kind, detail }
        }
        EndpointError::Region(RegionError::Invalid(detail)) => {
            EndpointError::Storage { kind: ErrorKind::Invalid, detail }
        }
        other => other,
    }
}

fn is_point(range: &KeyRange) -> bool {
    range.end.len() == range.start.len() + 1
        && range.end.last() == Some(&0)
        && range.end.starts_with(&range.start)
}

/// Locks were checked in the same snapshot before; one here is a broken promise of the engine.
fn unlocked<T>(read: Read<T>) -> Result<T, EndpointError> {
    match read {
        Read::Ok(value) => Ok(value),
        Read::Blocked(lock) => Err(EndpointError::Locked(vec![*lock])),
    }
}

impl Iterator for RowPart {
    type Item = Result<RecordBatch, EndpointError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.ranges.is_empty() || self.left == 0 {
            return None;
        }
        let batch = self.fill().and_then(|()| match self.block.is_empty() {
            true => Ok(None),
            false => self.decoder.decode(&self.block).map(Some),
        });
        self.failed = batch.is_err();
        batch.transpose()
    }
}

#[cfg(test)]
mod tests {
    //! A read that is refused for good is not asked for again.

    use super::*;
    use arrow::datatypes::Schema;
    use damask_kv::MemoryEngine;
    use damask_types::{TableId, TableSchema};

    struct Collected;

    impl Admission for Collected {
        fn begin(&self, _: &[KeyRange], ts: Timestamp) -> Result<(), EndpointError> {
            self.confirm(ts)
        }

        fn confirm(&self, _: Timestamp) -> Result<(), EndpointError> {
            let (kind, detail) = (ErrorKind::TooOld, "collected".to_owned());
            Err(RegionError::Storage { kind, detail }.into())
        }
    }

    #[test]
    fn below_the_safe_point_is_no_matter_of_the_region() {
        let table = TableSchema {
            id: TableId(1),
            database: "d".into(),
            name: "t".into(),
            version: 1,
            columns: Vec::new(),
            handle_column: None,
            indexes: Vec::new(),
            column_replicas: 0,
            max_column_id: damask_types::ColumnId(0),
            max_index_id: damask_types::IndexId(0),
            comment: String::new(),
        };
        let spec = ScanSpec {
            table: Arc::new(table),
            source: Source::Rows,
            columns: Vec::new(),
            schema: Arc::new(Schema::empty()),
            ts: Timestamp(5),
            prune: Vec::new(),
            limit: None,
            batch_rows: 1,
            parts: 1,
        };
        let read_index: ReadIndex = Box::new(|_, _, _| unreachable!("nothing is read"));
        let endpoint = RowEndpoint::new(Arc::new(MemoryEngine::new()), read_index)
            .admitted_by(Arc::new(Collected));
        let context = RegionContext { region: RegionId(1), epoch: Epoch::default() };
        let refused = endpoint.open(context, &[KeyRange::all()], &Arc::new(spec));
        let refused = refused.err().expect("refused");
        assert_eq!(refused.kind(), ErrorKind::TooOld);
        // A region's error is waited for and asked again; this is not.
        assert!(matches!(refused, EndpointError::Storage { .. }), "{refused}");
    }
}
