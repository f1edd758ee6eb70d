//! The bytes of a log segment. It encodes and decodes; it opens no file.
//!
//! ```text
//! segment   {number, 16 hex digits}.log
//!   0   8   magic "DMSKLOG1"
//!   8   8   number, LE
//!  16   …   records
//! record    one per sync
//!   0   4   bytes of payload, LE
//!   4   4   crc32 of sequence and payload, LE
//!   8   8   sequence, LE: one more than the record before, over all segments
//!  16   …   payload: operations
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

use crate::error::{Error, Result};
use crate::log_store::{EntryKind, HardState, LogEntry, LogOp};
use crate::machine::Applied;
use damask_types::RegionId;
use damask_types::codec::{DecodeError, put_var_u64, take, take_u8, take_var_u64};

pub(super) const MAGIC: &[u8; 8] = b"DMSKLOG1";
pub(super) const SEGMENT_HEADER: usize = 16;
pub(super) const RECORD_HEADER: usize = 16;
/// Sequences further ahead than this are taken for chance when looking for a later record.
const SEQUENCE_WINDOW: u64 = 1 << 20;

/// An operation as found in a file.
pub(super) enum Stored<'a> {
    Entries { rewrite: bool, entries: Vec<StoredEntry<'a>> },
    Hard(HardState),
    Compact(Applied),
    Reset(Applied),
    Restoring(Applied),
    Destroy,
    State { hard: HardState, truncated: Applied, restoring: Option<Applied> },
}

/// An entry in place.
pub(super) struct StoredEntry<'a> {
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

pub(super) fn put_entry(out: &mut Vec<u8>, entry: &LogEntry) {
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

pub(super) fn take_entry(buf: &mut &[u8]) -> std::result::Result<LogEntry, DecodeError> {
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
pub(super) fn put_entries_head(out: &mut Vec<u8>, group: RegionId, rewrite: bool, count: usize) {
    out.push(if rewrite { 8 } else { 1 });
    put_var_u64(out, group.0);
    put_var_u64(out, count as u64);
}

/// Any operation but `Append`.
pub(super) fn put_op(out: &mut Vec<u8>, group: RegionId, op: &LogOp) {
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

pub(super) fn put_state(
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

/// Takes one operation of a payload.
pub(super) fn take_op<'a>(
    buf: &mut &'a [u8],
) -> std::result::Result<(RegionId, Stored<'a>), DecodeError> {
    fn position(buf: &mut &[u8]) -> std::result::Result<Applied, DecodeError> {
        Ok(Applied { index: take_var_u64(buf)?, term: take_var_u64(buf)? })
    }
    fn hard(buf: &mut &[u8]) -> std::result::Result<HardState, DecodeError> {
        let (term, vote, commit) = (take_var_u64(buf)?, take_var_u64(buf)?, take_var_u64(buf)?);
        Ok(HardState { term, vote, commit })
    }
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
        2 => Stored::Hard(hard(buf)?),
        3 => Stored::Compact(position(buf)?),
        4 => Stored::Reset(position(buf)?),
        5 => Stored::Restoring(position(buf)?),
        6 => Stored::Destroy,
        7 => {
            let (hard, truncated, restoring) = (hard(buf)?, position(buf)?, position(buf)?);
            let restoring = (restoring.index != 0).then_some(restoring);
            Stored::State { hard, truncated, restoring }
        }
        _ => return Err(DecodeError("operation tag")),
    };
    Ok((group, op))
}

/// Fills in a record's header once its payload is complete.
pub(super) fn seal(record: &mut [u8], sequence: u64) -> Result<()> {
    let len = u32::try_from(record.len() - RECORD_HEADER)
        .map_err(|_| Error::Invalid("a log record above 4 GiB".to_owned()))?;
    record[8..16].copy_from_slice(&sequence.to_le_bytes());
    let crc = crc32fast::hash(&record[8..]);
    record[..4].copy_from_slice(&len.to_le_bytes());
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// The record at the front: sequence and payload. `None` if there is no valid one.
pub(super) fn open_record(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let header = bytes.get(..RECORD_HEADER)?;
    let len = u32::from_le_bytes(header[..4].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(header[4..8].try_into().ok()?);
    let sequence = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let payload = bytes.get(RECORD_HEADER..RECORD_HEADER.checked_add(len)?)?;
    let right = crc32fast::hash(&bytes[8..RECORD_HEADER + len]) == crc;
    right.then_some((sequence, payload))
}

/// Is there a valid record anywhere after the front, at or after `sequence`? Then what is at the
/// front is damage, not a write that a crash cut short.
pub(super) fn later_record(bytes: &[u8], sequence: u64) -> bool {
    let plausible = |at: usize| {
        let Some(header) = bytes.get(at..at + RECORD_HEADER) else { return false };
        let len = u32::from_le_bytes(header[..4].try_into().expect("4 bytes")) as usize;
        let found = u64::from_le_bytes(header[8..].try_into().expect("8 bytes"));
        let ahead = found.checked_sub(sequence).is_some_and(|d| d < SEQUENCE_WINDOW);
        ahead && bytes.len() - at - RECORD_HEADER >= len
    };
    (1..bytes.len()).any(|at| plausible(at) && open_record(&bytes[at..]).is_some())
}
