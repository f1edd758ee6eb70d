//! A forward scan that walks the lock and the write family in step, in blocks.
//! It must never hold more than one block, nor allocate per row.
//!
//! ```text
//! write  a!9 a!4 a!1 | b!7 | c!12 c!8 ...      cursor: at most NEAR `next`s, then one `seek`
//! lock         b                               its key is kept aside; most scans meet none
//! default  a!3 ...                             opened at the first long value
//! ```

use super::{Read, Rows, Visibility, blocked, encoded_bounds, missing_value};
use crate::engine::{Cf, Cursor, Snapshot};
use crate::error::Result;
use damask_types::codec::{self, decode_key, put_ts_desc, split_key_ts};
use damask_types::{KeyRange, Lock, Timestamp, WriteKind, WriteRef};

/// Steps before a seek: versions of a key mostly lie in the same block of a file.
const NEAR: usize = 8;
/// A block ends when it holds this many bytes, even below its row limit.
const BLOCK_BYTES_MAX: usize = 8 << 20;

/// The next thing at the write cursor.
enum Step {
    /// A value was appended for the key.
    Row,
    /// The key has no value at the timestamp.
    Skipped,
    /// The range is done.
    End,
}

/// A scan of a range at a timestamp; call [`Scan::next_block`] until it adds nothing.
pub struct Scan<'a> {
    snapshot: &'a dyn Snapshot,
    visibility: Visibility,
    write: Box<dyn Cursor + 'a>,
    lock: Box<dyn Cursor + 'a>,
    default: Option<Box<dyn Cursor + 'a>>,
    end: Vec<u8>,
    /// The encoded key of the lock at the lock cursor; empty when no lock is left.
    lock_key: Vec<u8>,
    /// The encoded user key that is being read; scratch.
    current: Vec<u8>,
    seek: Vec<u8>,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(
        snapshot: &'a dyn Snapshot,
        range: &KeyRange,
        visibility: Visibility,
    ) -> Result<Scan<'a>> {
        let (start, mut end) = encoded_bounds(range);
        if range.is_empty() {
            end = start.clone();
        }
        let mut write = snapshot.cursor(Cf::Write, &start, &end)?;
        let mut lock = snapshot.cursor(Cf::Lock, &start, &end)?;
        write.seek(&start)?;
        let lock_key = lock.seek(&start)?.map(|(key, _)| key.to_vec()).unwrap_or_default();
        Ok(Scan {
            snapshot,
            visibility,
            write,
            lock,
            default: None,
            end,
            lock_key,
            current: Vec::new(),
            seek: Vec::new(),
        })
    }

    /// Appends up to `rows_max` pairs to `out` and says how many; 0 = the range is done. Rows that
    /// came before a blocking lock are in `out` too.
    pub fn next_block(&mut self, rows_max: usize, out: &mut Rows) -> Result<Read<usize>> {
        let before = out.len();
        let bytes = out.bytes();
        while out.len() - before < rows_max && out.bytes() - bytes < BLOCK_BYTES_MAX {
            if !self.lock_key.is_empty()
                && let Some(lock) = self.pass_lock()?
            {
                return Ok(lock);
            }
            match self.step(out).inspect_err(|_| out.unseal())? {
                Step::Row | Step::Skipped => {}
                Step::End if self.lock_key.is_empty() => break,
                Step::End => {}
            }
        }
        Ok(Read::Ok(out.len() - before))
    }

    /// Checks the lock if the write cursor has reached its key; moves on if it does not block.
    fn pass_lock(&mut self) -> Result<Option<Read<usize>>> {
        while !self.lock_key.is_empty() {
            if let Some((key, _)) = self.write.current()
                && split_key_ts(key)?.0 < self.lock_key.as_slice()
            {
                return Ok(None);
            }
            let key = decode_key(&self.lock_key)?;
            if let Some((_, value)) = self.lock.current() {
                let lock = Lock::decode(value)?;
                if self.visibility.blocked_by(&key, &lock) {
                    return Ok(Some(blocked(&key, lock)));
                }
            }
            self.lock_key.clear();
            if let Some((key, _)) = self.lock.next()? {
                self.lock_key.extend_from_slice(key);
            }
        }
        Ok(None)
    }

    /// Reads the user key at the write cursor and moves to the next one. After an error a pair may
    /// be half appended.
    fn step(&mut self, out: &mut Rows) -> Result<Step> {
        let Some((key, _)) = self.write.current() else { return Ok(Step::End) };
        let (prefix, mut commit_ts) = split_key_ts(key)?;
        self.current.clear();
        self.current.extend_from_slice(prefix);
        let mut steps = 0;
        let mut found = false;
        loop {
            if commit_ts <= self.visibility.ts {
                let (_, value) = self.write.current().expect("positioned: its key was just read");
                let write = WriteRef::decode(value)?;
                match write.kind {
                    WriteKind::Put if write.is_current_at(self.visibility.ts) => {
                        codec::take_bytes_sorted(&mut self.current.as_slice(), &mut out.keys)?;
                        match write.short_value {
                            Some(short) => out.values.extend_from_slice(short),
                            None => {
                                let start_ts = write.start_ts;
                                self.append_long_value(start_ts, out)?;
                            }
                        }
                        out.seal();
                        found = true;
                        break;
                    }
                    WriteKind::Put | WriteKind::Delete => break,
                    WriteKind::Lock | WriteKind::Rollback => {}
                }
            }
            let near = steps < NEAR || commit_ts <= self.visibility.ts;
            steps += 1;
            let next = if near {
                self.write.next()?
            } else {
                self.seek.clear();
                self.seek.extend_from_slice(&self.current);
                put_ts_desc(&mut self.seek, self.visibility.ts);
                self.write.seek(&self.seek)?
            };
            match next {
                Some((key, _)) => {
                    let (prefix, ts) = split_key_ts(key)?;
                    if prefix != self.current.as_slice() {
                        return Ok(Step::Skipped);
                    }
                    commit_ts = ts;
                }
                None => return Ok(Step::Skipped),
            }
        }
        self.leave_key()?;
        Ok(if found { Step::Row } else { Step::Skipped })
    }

    /// Moves the write cursor behind the last version of the current key.
    fn leave_key(&mut self) -> Result<()> {
        for _ in 0..NEAR {
            match self.write.next()? {
                Some((key, _)) if key.starts_with(&self.current) => {}
                _ => return Ok(()),
            }
        }
        self.seek.clear();
        self.seek.extend_from_slice(&self.current);
        self.seek.extend_from_slice(&[0xFF; 9]);
        self.write.seek(&self.seek)?;
        Ok(())
    }

    fn append_long_value(&mut self, start_ts: Timestamp, out: &mut Rows) -> Result<()> {
        self.seek.clear();
        self.seek.extend_from_slice(&self.current);
        put_ts_desc(&mut self.seek, start_ts);
        let cursor = match &mut self.default {
            Some(cursor) => {
                for _ in 0..NEAR {
                    match cursor.current() {
                        Some((key, _)) if key < self.seek.as_slice() => cursor.next()?,
                        _ => break,
                    };
                }
                cursor
            }
            none => none.insert(self.snapshot.cursor(Cf::Default, &self.current, &self.end)?),
        };
        let here = cursor.current().is_some_and(|(key, _)| key == self.seek.as_slice());
        if !here {
            cursor.seek(&self.seek)?;
        }
        match cursor.current() {
            Some((key, value)) if key == self.seek.as_slice() => {
                out.values.extend_from_slice(value);
                Ok(())
            }
            _ => Err(missing_value(&decode_key(&self.current)?, start_ts)),
        }
    }
}
