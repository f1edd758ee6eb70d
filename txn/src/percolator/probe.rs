//! Looks at one key after another with one cursor and one buffer: a command's keys lie close
//! together, so a cursor is cheaper than a read each. It must never decide anything.

use super::Result;
use damask_kv::{Cf, Cursor, MvccReader};
use damask_types::codec::{self, put_bytes_sorted};
use damask_types::mutation::WriteRef;
use damask_types::{Lock, Timestamp};

/// A view of the keys of one command.
pub(super) struct Probe<'a> {
    reader: &'a MvccReader,
    writes: Box<dyn Cursor + 'a>,
    /// `enc(key)`, with room for a version.
    encoded: Vec<u8>,
}

impl<'a> Probe<'a> {
    /// Over these keys, in any order.
    pub fn new<'k>(
        reader: &'a MvccReader,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> Result<Probe<'a>> {
        let (mut low, mut high): (Option<&[u8]>, &[u8]) = (None, &[]);
        for key in keys {
            low = Some(low.map_or(key, |low| low.min(key)));
            high = high.max(key);
        }
        let start = codec::encode_key(low.unwrap_or_default());
        let mut end = codec::encode_key(high);
        end.extend_from_slice(&[0xFF; 9]); // behind the oldest version of the last key
        let writes = reader.snapshot.cursor(Cf::Write, &start, &end)?;
        Ok(Probe { reader, writes, encoded: Vec::with_capacity(64) })
    }

    /// What follows is about this key.
    pub fn set_key(&mut self, key: &[u8]) {
        self.encoded.clear();
        put_bytes_sorted(&mut self.encoded, key);
    }

    /// The key's lock.
    pub fn lock(&self) -> Result<Option<Lock>> {
        match self.reader.snapshot.get(Cf::Lock, &self.encoded)? {
            Some(bytes) => Ok(Some(Lock::decode(&bytes).map_err(damask_kv::Error::from)?)),
            None => Ok(None),
        }
    }

    /// The key's newest write record of any kind.
    pub fn newest(&mut self) -> Result<Option<(Timestamp, WriteRef<'_>)>> {
        let Some((found, value)) = self.writes.seek(&self.encoded)? else { return Ok(None) };
        let (found, ts) = codec::split_key_ts(found).map_err(damask_kv::Error::from)?;
        if found != self.encoded {
            return Ok(None);
        }
        Ok(Some((ts, WriteRef::decode(value).map_err(damask_kv::Error::from)?)))
    }
}
