//! Whole tables read from column stores at a timestamp, region by region, as a query would. It must
//! never take a part twice nor leave one out: what cannot be read now is not read at all.

use crate::clients::Session;
use crate::faults::COLUMNS_ADDED_MAX;
use crate::history::Scan;
use crate::nodes::{FIRST_COLUMN_STORE, Life};
use crate::tables::{Added, LISTS, Value, WITH_COLUMNS, added_column, column, encode, key};
use crate::work::{check_table, some_ts};
use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use damask_deltatree::types::storage_schema;
use damask_deltatree::{HandleRange, ScanRequest};
use damask_learner::ReadError;
use damask_pd::{Placement, Route};
use damask_raftstore::Error as RegionError;
use damask_types::key::row_range;
use damask_types::{ErrorKind, KeyLock, KeyRange, Peer, Region, TableId, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A column store's answer is not waited for any longer.
const PATIENCE: Duration = Duration::from_millis(3_500);
/// Attempts to read one region.
const ATTEMPTS_MAX: u32 = 12;

/// Why a part is not read.
enum Refused {
    Locked(Vec<KeyLock>),
    Later,
    Broken(String),
}

type Rows = Vec<(i64, (Value, Added))>;

/// Reads some table at some timestamp.
pub fn read_some(session: &mut Session) {
    let Some(ts) = some_ts(session) else { return };
    let Some(table) = session.chance.pick(&WITH_COLUMNS).copied() else { return };
    if read(session, table, ts).is_none() {
        session.world.counts.lock().column_refusals += 1;
    }
}

/// Reads a table at a timestamp; `None`: it cannot be read now.
pub fn read(session: &mut Session, table: TableId, ts: Timestamp) -> Option<()> {
    read_within(session, table, ts, ATTEMPTS_MAX)
}

/// Reads a table at a timestamp if that can be done at the first attempt.
pub fn read_at_once(session: &mut Session, table: TableId, ts: Timestamp) -> Option<()> {
    read_within(session, table, ts, 1)
}

fn read_within(
    session: &mut Session,
    table: TableId,
    ts: Timestamp,
    attempts_max: u32,
) -> Option<()> {
    let whole = row_range(table);
    let dropped = |session: &Session| session.world.columns_dropped.load(Ordering::Relaxed);
    let mut rows = BTreeMap::new();
    let mut rest = whole.clone();
    let mut attempts = 0;
    // Ends: each round reads a part, or is one of the attempts.
    while !rest.is_empty() {
        let Some((part, found)) = read_first(session, table, ts, &rest) else {
            attempts += 1;
            if attempts >= attempts_max || !session.alive.get() || session.world.has_failed() {
                return None;
            }
            session.think(20 << attempts.min(4));
            continue;
        };
        for (handle, row) in found {
            if let Some(other) = rows.insert(handle, row.clone()) {
                let why = format!("row {handle} comes twice, as {other:?} and as {row:?}");
                session.world.fail(format!("columns of {table} at {ts}: {why}"));
            }
        }
        if part.end.is_empty() || part.end >= whole.end {
            break;
        }
        rest.start = part.end;
    }
    if !session.alive.get() {
        return None;
    }
    // Nobody asks for a column that is dropped meanwhile.
    let dropped = dropped(session);
    let encoded = |(handle, (value, added)): (i64, (Value, Added))| {
        (key(table, handle), encode(&value, added.filter(|(number, _)| *number > dropped)))
    };
    let pairs: Vec<_> = rows.into_iter().map(encoded).collect();
    session.world.counts.lock().column_scans += 1;
    check_table(session, table, ts, &pairs, "columns");
    let KeyRange { start, end } = whole;
    let scan = Scan { start, end, ts, pairs, columns: true, dropped };
    session.world.history.lock().scans.push(scan);
    Some(())
}

/// Reads the first region of a range; what part that is.
fn read_first(
    session: &mut Session,
    table: TableId,
    ts: Timestamp,
    rest: &KeyRange,
) -> Option<(KeyRange, Rows)> {
    let route = session.wire.placement().route(&rest.start)?;
    let part = route.region.range.intersect(rest)?;
    let answer = ask(session, &route, table, ts, &part);
    match answer {
        Ok(rows) => Some((part, rows)),
        Err(Refused::Later) => None,
        Err(Refused::Locked(locks)) => {
            // Only the end of their transactions helps: the wait is the caller's.
            drop(session.client.resolve_locks(&locks, ts));
            None
        }
        Err(Refused::Broken(why)) => {
            let store = column_learner(&route.region).map(|peer| peer.store);
            if !store.is_some_and(|store| session.world.found_rot(store)) {
                session.world.fail(format!("columns of {table} at {ts}: {why}"));
            }
            None
        }
    }
}

/// Who has the region's columns: not a row store's replica that is to vote later.
fn column_learner(region: &Region) -> Option<Peer> {
    region.learners().find(|peer| peer.store.0 >= FIRST_COLUMN_STORE).copied()
}

fn ask(
    session: &Session,
    route: &Route,
    table: TableId,
    ts: Timestamp,
    part: &KeyRange,
) -> Result<Rows, Refused> {
    let learner = column_learner(&route.region).ok_or(Refused::Later)?;
    let (id, epoch, part) = (route.region.id, route.region.epoch, part.clone());
    let dropped = session.world.columns_dropped.load(Ordering::Relaxed);
    let work = move |life: &Life| -> Result<Rows, Refused> {
        let reader = life.reader.as_ref().ok_or(Refused::Later)?;
        let view = reader.view(id, epoch, std::slice::from_ref(&part), ts);
        let view = view.map_err(|e| match e {
            ReadError::Locked(locks) => Refused::Locked(locks),
            ReadError::Region(RegionError::Invalid(why)) => Refused::Broken(why),
            ReadError::Region(_) | ReadError::Timeout { .. } => Refused::Later,
            ReadError::Store { kind: ErrorKind::TooOld, .. } => Refused::Later,
            ReadError::Store { detail, .. } => Refused::Broken(detail),
        })?;
        life.pace.hesitate();
        let request = request(table, view.handles.clone(), ts, dropped);
        let parts = view.snapshot.scan(&request, 1).map_err(|e| Refused::Broken(e.to_string()))?;
        let mut rows = Vec::new();
        for batch in parts.into_iter().flatten() {
            let batch = batch.map_err(|e| Refused::Broken(e.to_string()))?;
            take_rows(table, &batch, dropped, &mut rows).ok_or_else(|| {
                Refused::Broken(format!("a batch of another form: {:?}", batch.schema()))
            })?;
        }
        Ok(rows)
    };
    match session.wire.ask(learner.store, PATIENCE, work) {
        Ok(answer) => answer,
        Err(_) => Err(Refused::Later),
    }
}

fn request(table: TableId, ranges: Vec<HandleRange>, ts: Timestamp, dropped: u64) -> ScanRequest {
    let mut fields = vec![Field::new("handle", DataType::Int64, true)];
    let added: Vec<_> = (dropped + 1..=COLUMNS_ADDED_MAX).map(added_column).collect();
    let stored = storage_schema(std::iter::once(&column(table)).chain(&added));
    fields.extend(stored.fields().iter().map(|field| field.as_ref().clone()));
    let null = |field: &Field| -> ArrayRef { new_null_array(field.data_type(), 1) };
    ScanRequest {
        ranges,
        ts,
        defaults: fields.iter().map(null).collect(),
        schema: Arc::new(Schema::new(fields)),
        prune: Vec::new(),
        batch_rows: 7,
    }
}

/// The cell of a column that was added and not dropped: a row has one at most.
fn added(batch: &RecordBatch, dropped: u64, at: usize) -> Option<Added> {
    for number in dropped + 1..=COLUMNS_ADDED_MAX {
        let column = batch.column(1 + (number - dropped) as usize);
        let cells = column.as_any().downcast_ref::<Int64Array>()?;
        if cells.is_valid(at) {
            return Some(Some((number, cells.value(at))));
        }
    }
    Some(None)
}

fn take_rows(table: TableId, batch: &RecordBatch, dropped: u64, rows: &mut Rows) -> Option<()> {
    let handles = batch.column(0).as_any().downcast_ref::<Int64Array>()?;
    let values = batch.column(1).as_any();
    for at in 0..batch.num_rows() {
        let value = match table == LISTS {
            true => Value::Text(values.downcast_ref::<StringArray>()?.value(at).to_owned()),
            false => Value::Number(values.downcast_ref::<Int64Array>()?.value(at)),
        };
        rows.push((handles.value(at), (value, added(batch, dropped, at)?)));
    }
    Some(())
}
