//! One record of a log segment: what one sync made durable. It says of bytes whether they are a
//! record, what a crash left of one, or damage, and takes none of the three for another.
//!
//! ```text
//! record
//!   0   1   0xd0, + 1 if the payload is compressed, + 2 if the body has blank sectors
//!   1   4   n, bytes of the body, LE
//!   5   8   sequence, LE: one more than the record before, over all segments
//!  13   4   crc32 of the 13 bytes before, LE
//!  17   1   0x5d
//!  18   n   body: payload, then (if it has any) the blank sectors
//!   …   1   0xe7
//!   …   4   crc32 of header and body, LE
//!   …   1   0x7e
//! payload, compressed: bytes uncompressed u32 LE, an LZ4 block
//! blanks    0xb7, number of the sector in the file u32 LE, for each; their count u32 LE, its
//!           complement u32 LE, crc32 of all this LE
//! ```
//! A crash leaves any of the sectors of the last write, and zeros in place of the others: they go
//! to the disk in no order, into room that was reserved, or was not there. So each sector's part of
//! a record, once written, has a byte that is not zero: header, trailer and list of blanks begin
//! and end with one, and a whole sector of zeros inside of a payload is in that list. A bad record
//! with a part that is all zeros, and not in the list, is a write cut short, if no other record
//! follows; any other bad record was whole once, and is damaged. A length is believed only if the
//! header's own checksum is right.

use crate::error::{Error, Result};
use damask_types::codec::DecodeError;
use std::borrow::Cow;

pub(super) const RECORD_HEADER: usize = 18;
const RECORD_TRAILER: usize = 6;
/// What is written whole or not at all.
const SECTOR: usize = 512;

const PACKED: u8 = 1;
const BLANKS: u8 = 2;
const BEGIN: u8 = 0xd0;
const HEADER_END: u8 = 0x5d;
const TRAILER: u8 = 0xe7;
const END: u8 = 0x7e;
const BLANKS_BEGIN: u8 = 0xb7;
/// Behind the list of blanks: count, complement, checksum.
const BLANKS_TAIL: usize = 12;

/// What is found where a record should begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A good one; the next begins `bytes` later.
    Record { sequence: u64, payload: Cow<'a, [u8]>, bytes: usize },
    /// Zeros up to the end of the file, or that end.
    End,
    /// A write that a crash cut short.
    Torn,
    /// Bytes that nobody wrote.
    Damaged,
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    packed: bool,
    blanks: bool,
    /// Bytes of the body.
    pub body: usize,
    pub sequence: u64,
}

impl Header {
    /// Of the bytes where a record begins; `None` if they are not a header.
    pub fn parse(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; RECORD_HEADER] = bytes.get(..RECORD_HEADER)?.try_into().ok()?;
        let flags = bytes[0] ^ BEGIN;
        if flags & !(PACKED | BLANKS) != 0
            || bytes[RECORD_HEADER - 1] != HEADER_END
            || crc32fast::hash(&bytes[..13]) != number(&bytes[13..17])
        {
            return None;
        }
        let sequence = u64::from_le_bytes(bytes[5..13].try_into().expect("8 bytes"));
        let body = number(&bytes[1..5]) as usize;
        Some(Header { packed: flags & PACKED != 0, blanks: flags & BLANKS != 0, body, sequence })
    }

    /// May entries be read in place?
    pub fn is_packed(&self) -> bool {
        self.packed
    }

    /// The payload, of the body.
    pub fn unpack<'a>(&self, body: &'a [u8]) -> std::result::Result<Cow<'a, [u8]>, DecodeError> {
        let payload = match self.blanks {
            true => &body[..list_of_blanks(body).map_err(|_| DecodeError("blank sectors"))?.0],
            false => body,
        };
        if !self.packed {
            return Ok(Cow::Borrowed(payload));
        }
        const WRONG: DecodeError = DecodeError("compressed payload");
        let (len, packed) = payload.split_at_checked(4).ok_or(WRONG)?;
        let mut out = vec![0; number(len) as usize];
        match lz4_flex::block::decompress_into(packed, &mut out) {
            Ok(len) if len == out.len() => Ok(Cow::Owned(out)),
            _ => Err(WRONG),
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("4 bytes"))
}

/// Makes a record of `bytes[record..]`: room for a header, then the payload, which is compressed if
/// it has at least `pack_min` bytes and loses an eighth by that. `offset` is the place of `bytes`
/// in the file.
pub(super) fn seal(
    bytes: &mut Vec<u8>,
    record: usize,
    offset: u64,
    sequence: u64,
    pack_min: usize,
) -> Result<()> {
    let start = record + RECORD_HEADER;
    let mut flags = 0;
    if bytes.len() - start >= pack_min
        && let Some(packed) = pack(&bytes[start..])
    {
        bytes.truncate(start);
        bytes.extend_from_slice(&packed);
        flags |= PACKED;
    }
    if put_blanks(bytes, start, offset) {
        flags |= BLANKS;
    }
    let len = u32::try_from(bytes.len() - start)
        .map_err(|_| Error::Invalid("a log record above 4 GiB".to_owned()))?;
    let header = &mut bytes[record..start];
    header[0] = BEGIN | flags;
    header[1..5].copy_from_slice(&len.to_le_bytes());
    header[5..13].copy_from_slice(&sequence.to_le_bytes());
    let crc = crc32fast::hash(&header[..13]);
    header[13..17].copy_from_slice(&crc.to_le_bytes());
    header[17] = HEADER_END;
    let crc = crc32fast::hash(&bytes[record..]);
    bytes.push(TRAILER);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.push(END);
    Ok(())
}

fn pack(payload: &[u8]) -> Option<Vec<u8>> {
    let raw = u32::try_from(payload.len()).ok()?;
    let mut out = vec![0; 4 + lz4_flex::block::get_maximum_output_size(payload.len())];
    out[..4].copy_from_slice(&raw.to_le_bytes());
    let len = 4 + lz4_flex::block::compress_into(payload, &mut out[4..]).ok()?;
    out.truncate(len);
    // Less than an eighth is not worth unpacking it at every read.
    (len + payload.len() / 8 <= payload.len()).then_some(out)
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// Adds the list of sectors of zeros in `bytes[start..]`, if there are any.
fn put_blanks(bytes: &mut Vec<u8>, start: usize, offset: u64) -> bool {
    let first = (offset + start as u64).next_multiple_of(SECTOR as u64);
    let mut at = (first - offset) as usize;
    let mut blanks = Vec::new();
    while at + SECTOR <= bytes.len() {
        if is_zero(&bytes[at..at + SECTOR]) {
            blanks.push(((offset + at as u64) / SECTOR as u64) as u32);
        }
        at += SECTOR;
    }
    if blanks.is_empty() {
        return false;
    }
    let list = bytes.len();
    bytes.push(BLANKS_BEGIN);
    blanks.iter().for_each(|sector| bytes.extend_from_slice(&sector.to_le_bytes()));
    let count = blanks.len() as u32;
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&(!count).to_le_bytes());
    let crc = crc32fast::hash(&bytes[list..]);
    bytes.extend_from_slice(&crc.to_le_bytes());
    true
}

/// Where in a body the list of blank sectors begins, and the list. If it cannot be right: from
/// where on the body is wrong.
fn list_of_blanks(body: &[u8]) -> std::result::Result<(usize, Vec<u32>), usize> {
    let tail_at = body.len().saturating_sub(BLANKS_TAIL);
    let tail = &body[tail_at..];
    if tail.len() < BLANKS_TAIL || number(&tail[..4]) != !number(&tail[4..8]) {
        return Err(tail_at);
    }
    let bytes = 1 + 4 * number(&tail[..4]) as usize;
    let start = tail_at.checked_sub(bytes).ok_or(tail_at)?;
    let list = &body[start..tail_at + 8];
    if list[0] != BLANKS_BEGIN || crc32fast::hash(list) != number(&tail[8..]) {
        return Err(start);
    }
    Ok((start, list[1..bytes].chunks_exact(4).map(number).collect()))
}

/// The record at `at` of a segment, whose sequence (if known) must be this.
pub(super) fn find(segment: &[u8], at: usize, sequence: Option<u64>) -> Found<'_> {
    if is_zero(&segment[at..]) {
        return Found::End;
    }
    let bad = |from: usize, end: usize, blanks: &[u32]| {
        let torn = is_torn(segment, from, end, blanks) && !is_followed(segment, at + 1, sequence);
        if torn { Found::Torn } else { Found::Damaged }
    };
    let start = at + RECORD_HEADER;
    let Some(header) = Header::parse(&segment[at..]) else { return bad(at, start, &[]) };
    let (stop, end) = (start + header.body, start + header.body + RECORD_TRAILER);
    let Some(trailer) = segment.get(stop..end) else { return bad(at, end, &[]) };
    let body = &segment[start..stop];
    let crc = crc32fast::hash(&segment[at..stop]);
    if trailer[0] == TRAILER && trailer[5] == END && number(&trailer[1..5]) == crc {
        return match header.unpack(body) {
            Ok(payload) => Found::Record { sequence: header.sequence, payload, bytes: end - at },
            Err(_) => Found::Damaged,
        };
    }
    match header.blanks.then(|| list_of_blanks(body)) {
        None => bad(at, end, &[]),
        Some(Ok((_, blanks))) => bad(at, end, &blanks),
        // Which sectors are blank by right is not known.
        Some(Err(from)) => bad(start + from, end, &[]),
    }
}

/// Was what lies in `at..end` written in part only? Then the file ends before, or a sector's part
/// of it is all zeros and not one of `blanks`.
pub(super) fn is_torn(segment: &[u8], at: usize, end: usize, blanks: &[u32]) -> bool {
    if segment.len() < end {
        return true;
    }
    let mut from = at;
    while from < end {
        let to = (from + 1).next_multiple_of(SECTOR).min(end);
        let sector = u32::try_from(from / SECTOR);
        let blank = sector.is_ok_and(|sector| blanks.binary_search(&sector).is_ok());
        if is_zero(&segment[from..to]) && !blank {
            return true;
        }
        from = to;
    }
    false
}

/// Does a record that is later than this sequence begin at `from` or behind it? Then what is before
/// was synced: a record is written only after that.
pub(super) fn is_followed(segment: &[u8], from: usize, sequence: Option<u64>) -> bool {
    (from..segment.len()).any(|at| {
        segment[at] & !(PACKED | BLANKS) == BEGIN
            && Header::parse(&segment[at..])
                .is_some_and(|header| sequence.is_none_or(|known| header.sequence > known))
    })
}

#[cfg(test)]
mod tests;
