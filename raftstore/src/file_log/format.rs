//! The bytes of a log segment. It encodes and decodes; it opens no file.
//!
//! ```text
//! segment   {number, 16 hex digits}.log
//!   0   8   magic "DMSKLOG2"
//!   8   8   number, LE
//!  16   …   records
//! record    one per sync
//!   0   4   n, bytes of payload, LE
//!   4   8   sequence, LE: one more than the record before, over all segments
//!  12   4   crc32 of the 12 bytes before, LE
//!  16   n   payload: operations
//!   …   4   crc32 of header and payload, LE
//!   …   4   end mark "\x0aEND"
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
//!
//! A crash cuts the last write short: bytes are missing, or the file system gives zeros in place of
//! sectors that it had no time to write. Nothing in a record makes it end in zeros, so what has its
//! end mark was written whole, and is damaged if its checksum is wrong. The header has a checksum of
//! its own, so that a length is believed only if it is right.

use crate::error::{Error, Result};
use crate::log_store::{EntryKind, HardState, LogEntry, LogOp};
use crate::machine::Applied;
use damask_types::RegionId;
use damask_types::codec::{DecodeError, put_var_u64, take, take_u8, take_var_u64};

pub(super) const MAGIC: &[u8; 8] = b"DMSKLOG2";
pub(super) const SEGMENT_HEADER: usize = 16;
pub(super) const RECORD_HEADER: usize = 16;
const RECORD_TRAILER: usize = 8;
const END: &[u8; 4] = b"\x0aEND";
/// The file system writes no less than this at a time, aligned.
const SECTOR: usize = 512;

/// What is found where a record should begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A good one; the next begins `bytes` later.
    Record { sequence: u64, payload: &'a [u8], bytes: usize },
    /// The end of the file.
    End,
    /// A write that a crash cut short.
    Torn,
    /// Bytes that nobody wrote.
    Damaged,
}

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

/// Fills in a record's header, once its payload is complete, and adds its trailer.
pub(super) fn seal(piece: &mut Vec<u8>, record: usize, sequence: u64) -> Result<()> {
    let len = u32::try_from(piece.len() - record - RECORD_HEADER)
        .map_err(|_| Error::Invalid("a log record above 4 GiB".to_owned()))?;
    let header = &mut piece[record..record + RECORD_HEADER];
    header[..4].copy_from_slice(&len.to_le_bytes());
    header[4..12].copy_from_slice(&sequence.to_le_bytes());
    let crc = crc32fast::hash(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32fast::hash(&piece[record..]);
    piece.extend_from_slice(&crc.to_le_bytes());
    piece.extend_from_slice(END);
    Ok(())
}

/// The record at `at` of a segment.
pub(super) fn find_record(segment: &[u8], at: usize) -> Found<'_> {
    let rest = &segment[at..];
    if rest.is_empty() {
        return Found::End;
    }
    let unfinished = |end: usize| match is_torn(segment, at, end) {
        true => Found::Torn,
        false => Found::Damaged,
    };
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("4 bytes"));
    let Some((header, body)) = rest.split_at_checked(RECORD_HEADER) else { return Found::Torn };
    if crc32fast::hash(&header[..12]) != number(&header[12..]) {
        return unfinished(at + RECORD_HEADER);
    }
    let len = number(&header[..4]) as usize;
    let sequence = u64::from_le_bytes(header[4..12].try_into().expect("8 bytes"));
    let bytes = RECORD_HEADER + len + RECORD_TRAILER;
    let Some(trailer) = body.get(len..len + RECORD_TRAILER) else { return Found::Torn };
    let whole = crc32fast::hash(&rest[..RECORD_HEADER + len]) == number(&trailer[..4]);
    if !whole || &trailer[4..] != END {
        return unfinished(at + bytes);
    }
    Found::Record { sequence, payload: &body[..len], bytes }
}

/// Is the segment's header only partly there?
pub(super) fn is_header_torn(segment: &[u8]) -> bool {
    is_torn(segment, 0, SEGMENT_HEADER)
}

/// Was what lies in `at..end` written in part only? Then the file ends before, or is all zeros from
/// `at` on, or from the beginning of one of its sectors on.
fn is_torn(segment: &[u8], at: usize, end: usize) -> bool {
    if segment.len() < end {
        return true;
    }
    let written = segment.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    written <= at || written.next_multiple_of(SECTOR) < end
}
