//! The bytes of a log segment. It encodes and decodes operations and entries; it opens no file.
//! What makes a record of them is in `record.rs`.
//!
//! ```text
//! segment   {number, 16 hex digits}.log
//!   0   8   magic "DMSKLOG3"
//!   8   8   number, LE
//!  16   …   records; zeros up to the end of the file
//! payload of a record: operations
//! operation tag u8, group varint, then
//!   1 append     count, entry*
//!   2 hard       term, vote, commit
//!   3 compact    index, term
//!   4 reset      index, term
//!   5 restoring  index, term
//!   6 destroy
//!   7 state      hard; truncated index, term; restoring index, term (0 0 = none)
//!   8 rewrite    count, entry*      (the same entries, moved here from an older segment)
//! entry     kind u8, index, term, context length, context, data length, data
//! ```
//! Numbers without a width are varints. A new segment's first record starts with a `state` of
//! every group, so that older segments matter only for the entries they hold.

#[cfg(any(feature = "rocksdb", feature = "raft-engine"))]
use crate::log_store::GroupLog;
use crate::log_store::{EntryKind, HardState, LogEntry, LogOp};
use crate::machine::Applied;
use damask_types::RegionId;
use damask_types::codec::{DecodeError, put_var_u64, take, take_u8, take_var_u64};

const MAGIC: &[u8; 8] = b"DMSKLOG3";
pub(super) const SEGMENT_HEADER: usize = 16;
#[cfg(any(feature = "rocksdb", feature = "raft-engine"))]
const STATE_VERSION: u8 = 1;

/// An operation as found in a file.
pub(crate) enum Stored<'a> {
    Entries { rewrite: bool, entries: Vec<StoredEntry<'a>> },
    Hard(HardState),
    Compact(Applied),
    Reset(Applied),
    Restoring(Applied),
    Destroy,
    State { hard: HardState, truncated: Applied, restoring: Option<Applied> },
}

/// An entry in place.
pub(crate) struct StoredEntry<'a> {
    pub index: u64,
    pub term: u64,
    /// Its bytes, a part of the payload.
    pub bytes: &'a [u8],
}

pub(super) fn segment_name(folder: &str, number: u64) -> String {
    format!("{folder}/{number:016x}.log")
}

pub(super) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

pub(super) fn segment_header(number: u64) -> [u8; SEGMENT_HEADER] {
    let mut out = [0; SEGMENT_HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..].copy_from_slice(&number.to_le_bytes());
    out
}

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &LogEntry) {
    out.push(match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::Change => 1,
    });
    put_var_u64(out, entry.index);
    put_var_u64(out, entry.term);
    for bytes in [&entry.context, &entry.data] {
        put_var_u64(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

pub(crate) fn take_entry(buf: &mut &[u8]) -> std::result::Result<LogEntry, DecodeError> {
    let kind = match take_u8(buf)? {
        0 => EntryKind::Normal,
        1 => EntryKind::Change,
        _ => return Err(DecodeError("entry kind")),
    };
    let (index, term) = (take_var_u64(buf)?, take_var_u64(buf)?);
    let context = take_bytes(buf)?.to_vec();
    Ok(LogEntry { index, term, kind, context, data: take_bytes(buf)?.to_vec() })
}

fn take_bytes<'a>(buf: &mut &'a [u8]) -> std::result::Result<&'a [u8], DecodeError> {
    let len = usize::try_from(take_var_u64(buf)?).map_err(|_| DecodeError("length"))?;
    take(buf, len)
}

fn put_position(out: &mut Vec<u8>, at: Applied) {
    put_var_u64(out, at.index);
    put_var_u64(out, at.term);
}

fn put_hard(out: &mut Vec<u8>, hard: HardState) {
    put_var_u64(out, hard.term);
    put_var_u64(out, hard.vote);
    put_var_u64(out, hard.commit);
}

/// Tag and group of an operation that holds entries; the entries follow one by one.
pub(crate) fn put_entries_head(out: &mut Vec<u8>, group: RegionId, rewrite: bool, count: usize) {
    out.push(if rewrite { 8 } else { 1 });
    put_var_u64(out, group.0);
    put_var_u64(out, count as u64);
}

/// Any operation but `Append`.
pub(crate) fn put_op(out: &mut Vec<u8>, group: RegionId, op: &LogOp) {
    let mut head = |tag: u8| {
        out.push(tag);
        put_var_u64(out, group.0);
    };
    match op {
        LogOp::Append(_) => unreachable!("entries are placed one by one"),
        LogOp::HardState(hard) => {
            head(2);
            put_hard(out, *hard);
        }
        LogOp::CompactTo(at) => {
            head(3);
            put_position(out, *at);
        }
        LogOp::Reset(at) => {
            head(4);
            put_position(out, *at);
        }
        LogOp::Restoring(at) => {
            head(5);
            put_position(out, *at);
        }
        LogOp::Destroy => head(6),
    }
}

pub(crate) fn put_state(
    out: &mut Vec<u8>,
    group: RegionId,
    hard: HardState,
    truncated: Applied,
    restoring: Option<Applied>,
) {
    out.push(7);
    put_var_u64(out, group.0);
    put_hard(out, hard);
    put_position(out, truncated);
    put_position(out, restoring.unwrap_or_default());
}

/// A group's state as the stores on other engines keep it: positions without the last entry's.
#[cfg(any(feature = "rocksdb", feature = "raft-engine"))]
pub(crate) fn encode_state(log: &GroupLog) -> Vec<u8> {
    let mut out = vec![STATE_VERSION];
    put_hard(&mut out, log.hard);
    put_position(&mut out, log.truncated);
    put_position(&mut out, log.restoring.unwrap_or_default());
    out
}

/// The other way round; `last` is the truncated position.
#[cfg(any(feature = "rocksdb", feature = "raft-engine"))]
pub(crate) fn decode_state(mut bytes: &[u8]) -> std::result::Result<GroupLog, DecodeError> {
    let buf = &mut bytes;
    if take_u8(buf)? != STATE_VERSION {
        return Err(DecodeError("version of a group's state"));
    }
    let (hard, truncated, restoring) = (take_hard(buf)?, take_position(buf)?, take_position(buf)?);
    let restoring = (restoring.index != 0).then_some(restoring);
    Ok(GroupLog { hard, truncated, last: truncated, restoring })
}

fn take_position(buf: &mut &[u8]) -> std::result::Result<Applied, DecodeError> {
    Ok(Applied { index: take_var_u64(buf)?, term: take_var_u64(buf)? })
}

fn take_hard(buf: &mut &[u8]) -> std::result::Result<HardState, DecodeError> {
    let (term, vote, commit) = (take_var_u64(buf)?, take_var_u64(buf)?, take_var_u64(buf)?);
    Ok(HardState { term, vote, commit })
}

/// Takes one operation of a payload.
pub(crate) fn take_op<'a>(
    buf: &mut &'a [u8],
) -> std::result::Result<(RegionId, Stored<'a>), DecodeError> {
    let tag = take_u8(buf)?;
    let group = RegionId(take_var_u64(buf)?);
    let op = match tag {
        1 | 8 => {
            let count = take_var_u64(buf)?;
            let mut entries = Vec::new();
            for _ in 0..count {
                let start = *buf;
                take_u8(buf)?;
                let (index, term) = (take_var_u64(buf)?, take_var_u64(buf)?);
                take_bytes(buf)?;
                take_bytes(buf)?;
                let bytes = &start[..start.len() - buf.len()];
                entries.push(StoredEntry { index, term, bytes });
            }
            Stored::Entries { rewrite: tag == 8, entries }
        }
        2 => Stored::Hard(take_hard(buf)?),
        3 => Stored::Compact(take_position(buf)?),
        4 => Stored::Reset(take_position(buf)?),
        5 => Stored::Restoring(take_position(buf)?),
        6 => Stored::Destroy,
        7 => {
            let (hard, truncated, restoring) =
                (take_hard(buf)?, take_position(buf)?, take_position(buf)?);
            let restoring = (restoring.index != 0).then_some(restoring);
            Stored::State { hard, truncated, restoring }
        }
        _ => return Err(DecodeError("operation tag")),
    };
    Ok((group, op))
}
