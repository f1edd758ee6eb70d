//! Little-endian numbers in and out of byte strings, with every read bounds-checked. It must
//! never panic on bad bytes.

use crate::error::{Error, Result};
use damask_types::ErrorKind;

/// Every block starts at a multiple of this: one cache line, and the alignment of any SIMD load.
pub const ALIGN: usize = 64;

/// No operation and no file has a larger number: nobody counts that far, and what is counted on
/// from here never overflows.
pub const NUMBER_MAX: u64 = u64::MAX >> 2;

/// Appends numbers to a byte string.
pub trait Put {
    /// One byte.
    fn put_u8(&mut self, v: u8);
    /// Four bytes.
    fn put_u32(&mut self, v: u32);
    /// Eight bytes.
    fn put_u64(&mut self, v: u64);
    /// A length (u32) and the bytes.
    fn put_bytes(&mut self, v: &[u8]);
    /// Zeros up to the next multiple of [`ALIGN`].
    fn pad(&mut self);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, v: u8) {
        self.push(v);
    }
    fn put_u32(&mut self, v: u32) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    fn put_u64(&mut self, v: u64) {
        self.extend_from_slice(&v.to_le_bytes());
    }
    fn put_bytes(&mut self, v: &[u8]) {
        self.put_u32(v.len() as u32);
        self.extend_from_slice(v);
    }
    fn pad(&mut self) {
        self.resize(self.len().next_multiple_of(ALIGN), 0);
    }
}

/// Reads numbers from a byte string; `file` names it in errors.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    file: &'a str,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8], file: &'a str) -> Reader<'a> {
        Reader { bytes, at: 0, file }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| corrupt(self.file, "it ends too early"))?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("4 bytes were taken")))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("8 bytes were taken")))
    }

    /// A length and the bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    /// A length and text.
    pub fn text(&mut self) -> Result<&'a str> {
        let file = self.file;
        std::str::from_utf8(self.bytes()?).map_err(|_| corrupt(file, "a name is not UTF-8"))
    }

    /// A number that was counted.
    pub fn number(&mut self) -> Result<u64> {
        match self.u64()? {
            number @ ..=NUMBER_MAX => Ok(number),
            other => Err(corrupt(self.file, format!("nobody counts to {other}"))),
        }
    }

    /// A count that cannot be larger than the bytes that are left.
    pub fn count(&mut self) -> Result<usize> {
        let count = self.u32()? as usize;
        if count > self.remaining() {
            return Err(corrupt(self.file, "a count is larger than the file"));
        }
        Ok(count)
    }
}

/// The error for wrong stored bytes; names the file.
pub fn corrupt(file: &str, what: impl std::fmt::Display) -> Error {
    Error::new("read", ErrorKind::Corrupt, format!("{file}: {what}"))
}

/// The error for a failed disk operation on a file.
pub fn io_error(op: &'static str, file: &str, e: std::io::Error) -> Error {
    let kind = match e.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    Error::new(op, kind, format!("{file}: {e}"))
}
