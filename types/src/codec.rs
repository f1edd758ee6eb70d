//! Byte primitives: big-endian integers, varints, length-prefixed bytes, and the memcomparable
//! forms of TiKV (`components/tikv_util/src/codec`). Decoders take from the front of a slice and
//! must never panic or allocate more than the input's length.

use crate::ts::Timestamp;

/// Bytes that are not what the format says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad encoding: {0}")]
pub struct DecodeError(pub &'static str);

/// The result of a decoder.
pub type Result<T> = std::result::Result<T, DecodeError>;

const SIGN: u64 = 1 << 63;
/// Bytes of payload in one group of the memcomparable byte form.
pub const GROUP: usize = 8;

/// Takes `n` bytes from the front.
pub fn take<'a>(buf: &mut &'a [u8], n: usize) -> Result<&'a [u8]> {
    if buf.len() < n {
        return Err(DecodeError("unexpected end"));
    }
    let (head, tail) = buf.split_at(n);
    *buf = tail;
    Ok(head)
}

/// Takes one byte.
pub fn take_u8(buf: &mut &[u8]) -> Result<u8> {
    Ok(take(buf, 1)?[0])
}

/// Takes a big-endian u64.
pub fn take_u64(buf: &mut &[u8]) -> Result<u64> {
    let bytes = take(buf, 8)?;
    Ok(u64::from_be_bytes(bytes.try_into().expect("took 8 bytes")))
}

/// Takes a big-endian u32.
pub fn take_u32(buf: &mut &[u8]) -> Result<u32> {
    let bytes = take(buf, 4)?;
    Ok(u32::from_be_bytes(bytes.try_into().expect("took 4 bytes")))
}

/// LEB128, as protobuf's and Go's unsigned varint.
pub fn put_var_u64(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Takes an unsigned varint of at most 10 bytes.
pub fn take_var_u64(buf: &mut &[u8]) -> Result<u64> {
    let mut v = 0u64;
    for shift in (0..64).step_by(7) {
        let b = take_u8(buf)?;
        if shift == 63 && b > 1 {
            return Err(DecodeError("varint overflow"));
        }
        v |= u64::from(b & 0x7f) << shift;
        if b < 0x80 {
            return Ok(v);
        }
    }
    Err(DecodeError("varint too long"))
}

/// Zigzag, then LEB128: Go's signed varint.
pub fn put_var_i64(out: &mut Vec<u8>, v: i64) {
    put_var_u64(out, ((v << 1) ^ (v >> 63)) as u64);
}

/// Takes a signed varint.
pub fn take_var_i64(buf: &mut &[u8]) -> Result<i64> {
    let v = take_var_u64(buf)?;
    Ok(((v >> 1) as i64) ^ -((v & 1) as i64))
}

/// `compact_bytes`: length as a signed varint, then the bytes.
pub fn put_compact_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_var_i64(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

/// Takes `compact_bytes`.
pub fn take_compact_bytes<'a>(buf: &mut &'a [u8]) -> Result<&'a [u8]> {
    let n = take_var_i64(buf)?;
    let n = usize::try_from(n).map_err(|_| DecodeError("negative length"))?;
    take(buf, n)
}

/// Sortable i64: the sign bit flipped, big-endian.
pub fn put_i64_sorted(out: &mut Vec<u8>, v: i64) {
    out.extend_from_slice(&((v as u64) ^ SIGN).to_be_bytes());
}

/// Takes a sortable i64.
pub fn take_i64_sorted(buf: &mut &[u8]) -> Result<i64> {
    Ok((take_u64(buf)? ^ SIGN) as i64)
}

/// Sortable f64: negative numbers inverted, others with the sign bit set. -0.0 equals 0.0.
pub fn put_f64_sorted(out: &mut Vec<u8>, v: f64) {
    let v = if v == 0.0 { 0.0 } else { v };
    let bits = v.to_bits();
    let sorted = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    out.extend_from_slice(&sorted.to_be_bytes());
}

/// Takes a sortable f64.
pub fn take_f64_sorted(buf: &mut &[u8]) -> Result<f64> {
    let sorted = take_u64(buf)?;
    Ok(f64::from_bits(if sorted & SIGN != 0 { sorted ^ SIGN } else { !sorted }))
}

/// Sortable bytes: groups of 8, each zero padded and followed by the marker `0xFF - pad`; a
/// length that is a multiple of 8 (0 too) ends with an all-pad group.
///
/// ```text
/// ""         00 00 00 00 00 00 00 00 F7
/// "abc"      61 62 63 00 00 00 00 00 FA
/// "12345678" 31 32 33 34 35 36 37 38 FF 00 00 00 00 00 00 00 00 F7
/// ```
pub fn put_bytes_sorted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve((bytes.len() / GROUP + 1) * (GROUP + 1));
    let mut chunks = bytes.chunks_exact(GROUP);
    for chunk in &mut chunks {
        out.extend_from_slice(chunk);
        out.push(0xFF);
    }
    let rest = chunks.remainder();
    let pad = GROUP - rest.len();
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0u8; GROUP][..pad]);
    out.push(0xFF - pad as u8);
}

/// Takes sortable bytes, appending them to `out`.
pub fn take_bytes_sorted(buf: &mut &[u8], out: &mut Vec<u8>) -> Result<()> {
    loop {
        let group = take(buf, GROUP + 1)?;
        let pad = usize::from(0xFF - group[GROUP]);
        if pad == 0 {
            out.extend_from_slice(&group[..GROUP]);
            continue;
        }
        if pad > GROUP || group[GROUP - pad..GROUP].iter().any(|b| *b != 0) {
            return Err(DecodeError("bad group padding"));
        }
        out.extend_from_slice(&group[..GROUP - pad]);
        return Ok(());
    }
}

/// The engine form of a user key, without a version.
pub fn encode_key(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity((raw.len() / GROUP + 1) * (GROUP + 1) + 8);
    put_bytes_sorted(&mut out, raw);
    out
}

/// The user key of an engine key without a version.
pub fn decode_key(encoded: &[u8]) -> Result<Vec<u8>> {
    let mut buf = encoded;
    let mut out = Vec::with_capacity(encoded.len());
    take_bytes_sorted(&mut buf, &mut out)?;
    if buf.is_empty() { Ok(out) } else { Err(DecodeError("bytes after key")) }
}

/// Appends a version so that newer sorts first: big-endian `!ts`.
pub fn put_ts_desc(out: &mut Vec<u8>, ts: Timestamp) {
    out.extend_from_slice(&(!ts.0).to_be_bytes());
}

/// The engine form of a user key at a version.
pub fn encode_key_ts(raw: &[u8], ts: Timestamp) -> Vec<u8> {
    let mut out = encode_key(raw);
    put_ts_desc(&mut out, ts);
    out
}

/// Splits an engine key into the encoded key and its version.
pub fn split_key_ts(key: &[u8]) -> Result<(&[u8], Timestamp)> {
    if key.len() < 8 {
        return Err(DecodeError("key without version"));
    }
    let (head, mut tail) = key.split_at(key.len() - 8);
    Ok((head, Timestamp(!take_u64(&mut tail)?)))
}
