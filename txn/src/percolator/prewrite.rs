//! The first phase (`tikv: src/storage/txn/actions/prewrite.rs`, optimistic). It must leave no
//! lock where a newer version, a rollback of its own or another's lock stands.

use super::{Decision, Error, LOCKS_NAMED_MAX, Result};
use crate::request::{KeyError, Mutation, Response};
use damask_kv::{Cf, Cursor, MvccReader};
use damask_types::codec::{self, put_bytes_sorted};
use damask_types::mutation::{SHORT_VALUE_MAX, WriteRef};
use damask_types::{KeyLock, Lock, LockKind, Record, Timestamp, WriteKind};
use std::collections::HashSet;

/// What all keys of the request share.
pub(super) struct Batch {
    pub primary: Vec<u8>,
    pub start_ts: Timestamp,
    pub ttl_ms: u64,
    pub txn_size: u64,
}

/// Locks every key, or none: then the error names the locks of others, or the first other cause.
pub(super) fn prewrite(
    reader: &MvccReader,
    mutations: Vec<Mutation>,
    batch: &Batch,
) -> Result<Decision> {
    check_request(&mutations, batch)?;
    let mut probe = Probe::new(reader, &mutations)?;
    let mut locked = Vec::new();
    let mut records = Vec::with_capacity(mutations.len());
    for mutation in mutations {
        probe.set_key(mutation.key());
        if let Some(lock) = probe.lock()? {
            if lock.start_ts != batch.start_ts {
                let key = mutation.into_key();
                locked.push(KeyError::Locked(Box::new(KeyLock { key, lock })));
                if locked.len() >= LOCKS_NAMED_MAX {
                    break;
                }
                continue;
            }
            if lock.kind != LockKind::Pessimistic {
                continue; // The same prewrite came before.
            }
        }
        check_versions(reader, &mut probe, &mutation, batch.start_ts)?;
        if locked.is_empty() {
            put_lock(mutation, batch, &mut records);
        }
    }
    if !locked.is_empty() {
        return Err(Error::Keys(locked));
    }
    Ok(Decision { records, response: Response::Ok })
}

fn check_request(mutations: &[Mutation], batch: &Batch) -> Result<()> {
    if batch.start_ts == Timestamp::ZERO || batch.start_ts == Timestamp::MAX {
        return Err(Error::Invalid(format!("no transaction starts at {}", batch.start_ts)));
    }
    let rising = mutations.is_sorted_by(|a, b| a.key() < b.key());
    let mut seen = HashSet::new();
    if !rising && !mutations.iter().all(|m| seen.insert(m.key())) {
        return Err(Error::Invalid("a key comes twice in one prewrite".to_owned()));
    }
    Ok(())
}

/// Refuses if the key has a version (or a rollback of this transaction) that forbids the lock.
fn check_versions(
    reader: &MvccReader,
    probe: &mut Probe<'_>,
    mutation: &Mutation,
    start_ts: Timestamp,
) -> Result<()> {
    let Some((commit_ts, write)) = probe.newest()? else { return Ok(()) };
    let rolled_back = write.kind == WriteKind::Rollback || write.overlapped_rollback;
    if commit_ts > start_ts || (commit_ts == start_ts && rolled_back) {
        let conflict_start_ts = write.start_ts;
        let key = mutation.key().to_vec();
        let conflict_commit_ts = commit_ts;
        return Err(KeyError::WriteConflict {
            key,
            start_ts,
            conflict_start_ts,
            conflict_commit_ts,
        }
        .into());
    }
    let Mutation::Insert { key, .. } = mutation else { return Ok(()) };
    let exists = match write.kind {
        WriteKind::Put => true,
        WriteKind::Delete => false,
        WriteKind::Lock | WriteKind::Rollback => exists_below(reader, key, commit_ts)?,
    };
    if exists {
        return Err(KeyError::AlreadyExists { key: key.clone() }.into());
    }
    Ok(())
}

/// Is the newest Put or Delete below `ts` a Put?
fn exists_below(reader: &MvccReader, key: &[u8], ts: Timestamp) -> Result<bool> {
    let mut versions = reader.versions(key)?;
    let mut at = versions.seek(ts.prev())?;
    while let Some((_, write)) = at {
        match write.kind {
            WriteKind::Put => return Ok(true),
            WriteKind::Delete => return Ok(false),
            WriteKind::Lock | WriteKind::Rollback => at = versions.next()?,
        }
    }
    Ok(false)
}

fn put_lock(mutation: Mutation, batch: &Batch, records: &mut Vec<Record>) {
    let (kind, key, value) = match mutation {
        Mutation::Put { key, value } | Mutation::Insert { key, value } => {
            (LockKind::Put, key, Some(value))
        }
        Mutation::Delete { key } => (LockKind::Delete, key, None),
        Mutation::Lock { key } => (LockKind::Lock, key, None),
    };
    let mut lock = Lock::new(kind, batch.primary.clone(), batch.start_ts, batch.ttl_ms);
    lock.txn_size = batch.txn_size;
    if key == batch.primary {
        // Not zero: readers may push it (`check_txn_status`).
        lock.min_commit_ts = batch.start_ts.next();
    }
    match value {
        Some(value) if value.len() > SHORT_VALUE_MAX => {
            let start_ts = batch.start_ts;
            records.push(Record::Value { key: key.clone(), start_ts, value });
        }
        short => lock.short_value = short,
    }
    records.push(Record::Lock { key, lock });
}

/// Looks at one key after another with one cursor and one buffer.
struct Probe<'a> {
    reader: &'a MvccReader,
    writes: Box<dyn Cursor + 'a>,
    /// `enc(key)`, with room for a version.
    encoded: Vec<u8>,
}

impl<'a> Probe<'a> {
    fn new(reader: &'a MvccReader, mutations: &[Mutation]) -> Result<Probe<'a>> {
        let keys = || mutations.iter().map(Mutation::key);
        let start = codec::encode_key(keys().min().unwrap_or_default());
        let mut end = codec::encode_key(keys().max().unwrap_or_default());
        end.extend_from_slice(&[0xFF; 9]); // behind the oldest version of the last key
        let writes = reader.snapshot.cursor(Cf::Write, &start, &end)?;
        Ok(Probe { reader, writes, encoded: Vec::with_capacity(64) })
    }

    fn set_key(&mut self, key: &[u8]) {
        self.encoded.clear();
        put_bytes_sorted(&mut self.encoded, key);
    }

    fn lock(&self) -> Result<Option<Lock>> {
        match self.reader.snapshot.get(Cf::Lock, &self.encoded)? {
            Some(bytes) => Ok(Some(Lock::decode(&bytes).map_err(damask_kv::Error::from)?)),
            None => Ok(None),
        }
    }

    /// The key's newest write record of any kind.
    fn newest(&mut self) -> Result<Option<(Timestamp, WriteRef<'_>)>> {
        let Some((found, value)) = self.writes.seek(&self.encoded)? else { return Ok(None) };
        let (found, ts) = codec::split_key_ts(found).map_err(damask_kv::Error::from)?;
        if found != self.encoded {
            return Ok(None);
        }
        Ok(Some((ts, WriteRef::decode(value).map_err(damask_kv::Error::from)?)))
    }
}
