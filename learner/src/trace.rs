//! Traces: what a learner was told, kept in a file, to be told again to any column store
//! (`replay`). It must never fail the learner that it listens to, nor tell of a call that failed.
//!
//! ```text
//! trace  = "DMSKTRC1" | record ...                                 numbers of 4 bytes are
//! record = bytes of the body u32 | crc32 of the body u32 | body    little-endian
//! body   = 1 | table i64 varint | the schema as JSON, nothing if it was dropped     an answer
//!        | 2 | batches: n, {region, index, term | effects: n, {                     apply
//!                0 | n, {record} or 1 | n, {state}}}
//!        | 3 | state | replaced: n, {state} | chunks: n, {bytes}                    import
//!        | 4 | state                                                                destroy
//! ```
//! Numbers are varints, bytes a varint length and the bytes, records those of `types::mutation`; a
//! state is the bytes of a region's mark without locks and values (`mark`). A record is written
//! once its call is done, so schemas stand before the rows that needed them. A file may end in the
//! middle of a record: there the recording stopped.

mod record;
mod replay;

pub use record::{OnEnd, Recorder};
pub use replay::{Replay, ReplayPlan, checksum, replay};

use crate::error::{Error, Result};
use crate::mark;
use crate::region::{Hidden, Slot};
use damask_raftstore::{Applied, ApplyBatch, Effect, RegionState, SnapshotChunks};
use damask_types::codec::{
    self, DecodeError, put_var_i64, put_var_u64, take_u8, take_var_i64, take_var_u64,
};
use damask_types::{Record, RegionId, TableId, TableSchema};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"DMSKTRC1";
/// Length and checksum in front of a body.
const HEAD_BYTES: usize = 8;
const SCHEMA: u8 = 1;
const APPLY: u8 = 2;
const IMPORT: u8 = 3;
const DESTROY: u8 = 4;

/// One record.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Schema(TableId, Option<Arc<TableSchema>>),
    Apply(Vec<ApplyBatch>),
    Import(RegionState, Vec<RegionState>, SnapshotChunks),
    Destroy(RegionState),
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_var_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_state(out: &mut Vec<u8>, state: &RegionState) {
    let slot = Slot::new(state.clone());
    put_bytes(out, &mark::encode(&slot.seen.lock(), &Hidden::default()));
}

fn put_states(out: &mut Vec<u8>, states: &[RegionState]) {
    put_var_u64(out, states.len() as u64);
    states.iter().for_each(|state| put_state(out, state));
}

fn put_batch(out: &mut Vec<u8>, batch: &ApplyBatch) {
    put_var_u64(out, batch.region.0);
    put_var_u64(out, batch.applied.index);
    put_var_u64(out, batch.applied.term);
    put_var_u64(out, batch.effects.len() as u64);
    for effect in &batch.effects {
        match effect {
            Effect::Write(records) => {
                out.push(0);
                put_var_u64(out, records.len() as u64);
                records.iter().for_each(|record| record.put(out));
            }
            Effect::Regions(states) => {
                out.push(1);
                put_states(out, states);
            }
        }
    }
}

fn put_schema(
    out: &mut Vec<u8>,
    table: TableId,
    schema: Option<&TableSchema>,
) -> std::result::Result<(), String> {
    out.push(SCHEMA);
    put_var_i64(out, table.0);
    match schema {
        Some(schema) => serde_json::to_writer(out, schema).map_err(|e| e.to_string()),
        None => Ok(()),
    }
}

fn put_apply(out: &mut Vec<u8>, batches: &[&ApplyBatch]) {
    out.push(APPLY);
    put_var_u64(out, batches.len() as u64);
    batches.iter().for_each(|batch| put_batch(out, batch));
}

fn put_import(
    out: &mut Vec<u8>,
    state: &RegionState,
    replaced: &[RegionState],
    chunks: &SnapshotChunks,
) {
    out.push(IMPORT);
    put_state(out, state);
    put_states(out, replaced);
    put_var_u64(out, chunks.len() as u64);
    chunks.iter().for_each(|chunk| put_bytes(out, chunk));
}

fn put_destroy(out: &mut Vec<u8>, state: &RegionState) {
    out.push(DESTROY);
    put_state(out, state);
}

impl Event {
    fn take(mut buf: &[u8]) -> std::result::Result<Event, String> {
        let buf = &mut buf;
        let damaged = |e: DecodeError| e.to_string();
        let event = match take_u8(buf).map_err(damaged)? {
            SCHEMA => {
                let table = TableId(take_var_i64(buf).map_err(damaged)?);
                let json = std::mem::take(buf);
                let schema = (!json.is_empty()).then(|| serde_json::from_slice(json));
                Event::Schema(table, schema.transpose().map_err(|e| e.to_string())?.map(Arc::new))
            }
            APPLY => Event::Apply(many(buf, take_batch)?),
            IMPORT => {
                let (state, replaced) = (take_state(buf)?, many(buf, take_state)?);
                let chunk = |buf: &mut &[u8]| take_bytes(buf).map(<[u8]>::to_vec);
                Event::Import(state, replaced, many(buf, chunk)?)
            }
            DESTROY => Event::Destroy(take_state(buf)?),
            other => return Err(format!("a record of kind {other}")),
        };
        match buf.is_empty() {
            true => Ok(event),
            false => Err(format!("{} bytes after a record's end", buf.len())),
        }
    }
}

fn take_number(buf: &mut &[u8]) -> std::result::Result<u64, String> {
    take_var_u64(buf).map_err(|e| e.to_string())
}

fn take_bytes<'a>(buf: &mut &'a [u8]) -> std::result::Result<&'a [u8], String> {
    let n = usize::try_from(take_number(buf)?).map_err(|e| e.to_string())?;
    codec::take(buf, n).map_err(|e| e.to_string())
}

fn many<T>(
    buf: &mut &[u8],
    mut one: impl FnMut(&mut &[u8]) -> std::result::Result<T, String>,
) -> std::result::Result<Vec<T>, String> {
    let n = take_number(buf)?;
    (0..n).map(|_| one(buf)).collect()
}

fn take_state(buf: &mut &[u8]) -> std::result::Result<RegionState, String> {
    mark::decode(take_bytes(buf)?).map(|mark| mark.state).map_err(|e| e.to_string())
}

fn take_batch(buf: &mut &[u8]) -> std::result::Result<ApplyBatch, String> {
    let region = RegionId(take_number(buf)?);
    let applied = Applied { index: take_number(buf)?, term: take_number(buf)? };
    let record = |buf: &mut &[u8]| Record::take(buf).map_err(|e| e.to_string());
    let effect = |buf: &mut &[u8]| match take_u8(buf).map_err(|e| e.to_string())? {
        0 => many(buf, record).map(Effect::Write),
        1 => many(buf, take_state).map(Effect::Regions),
        other => Err(format!("an effect of kind {other}")),
    };
    Ok(ApplyBatch { region, applied, effects: many(buf, effect)? })
}

fn corrupt(detail: impl ToString) -> Error {
    Error::Corrupt { what: "a trace", detail: detail.to_string() }
}

/// The records of a trace, in order.
pub(crate) struct Events<'a> {
    rest: &'a [u8],
    /// The file ends in the middle of a record.
    pub incomplete: bool,
}

impl<'a> Events<'a> {
    pub(crate) fn new(trace: &'a [u8]) -> Result<Events<'a>> {
        let rest = trace.strip_prefix(MAGIC).ok_or_else(|| corrupt("not a trace"))?;
        Ok(Events { rest, incomplete: false })
    }

    /// The next one; `None`: the recording stopped.
    pub(crate) fn next_event(&mut self) -> Result<Option<Event>> {
        let Some((head, rest)) = self.rest.split_first_chunk::<HEAD_BYTES>() else {
            self.incomplete = !self.rest.is_empty();
            return Ok(None);
        };
        let [a, b, c, d, crc @ ..] = *head;
        let Some((body, rest)) = rest.split_at_checked(u32::from_le_bytes([a, b, c, d]) as usize)
        else {
            self.incomplete = true;
            return Ok(None);
        };
        if crc32fast::hash(body).to_le_bytes() != crc {
            return Err(corrupt("a record's checksum does not match"));
        }
        self.rest = rest;
        Event::take(body).map(Some).map_err(corrupt)
    }
}
