//! A region's mark: what must be durable together with its rows, so that a crash in the middle of a
//! transaction loses neither the lock nor the long value. It must never be trusted unchecked.
//!
//! ```text
//! 2 (format) | crc32 of the rest, u32 little-endian
//! region, conf_ver, version: varint | start, end: bytes | peers: n, {id, store: varint; role u8}
//! applied index, term: varint | tombstone u8
//! tables: n, {i64 varint} | locks: n, {record 1} | values: n, {record 3} | merge state
//! ```
//! Format 1 has no merge state (`damask_raftstore::MergeState::put` draws it). Bytes are a varint
//! length and the bytes; records are those of `types::mutation`.

use crate::error::{Error, Result};
use crate::region::{Hidden, Seen};
use damask_raftstore::{Applied, MergeState, RegionState};
use damask_types::codec::{
    self, DecodeError, put_var_i64, put_var_u64, take_var_i64, take_var_u64,
};
use damask_types::{
    Epoch, KeyRange, Lock, Peer, PeerId, PeerRole, Record, Region, RegionId, StoreId, TableId,
    Timestamp,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

const FORMAT: u8 = 2;
const FORMAT_WITHOUT_MERGE: u8 = 1;

/// A decoded mark.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub state: RegionState,
    pub tables: BTreeSet<TableId>,
    pub locks: BTreeMap<Vec<u8>, Box<Lock>>,
    pub values: HashMap<(Vec<u8>, Timestamp), Vec<u8>>,
}

pub(crate) fn encode(seen: &Seen, hidden: &Hidden) -> Vec<u8> {
    let state = &seen.state;
    let region = &state.region;
    let mut out = vec![FORMAT, 0, 0, 0, 0];
    put_var_u64(&mut out, region.id.0);
    put_var_u64(&mut out, region.epoch.conf_ver);
    put_var_u64(&mut out, region.epoch.version);
    for key in [&region.range.start, &region.range.end] {
        put_var_u64(&mut out, key.len() as u64);
        out.extend_from_slice(key);
    }
    put_var_u64(&mut out, region.peers.len() as u64);
    for peer in &region.peers {
        put_var_u64(&mut out, peer.id.0);
        put_var_u64(&mut out, peer.store.0);
        out.push(match peer.role {
            PeerRole::Voter => 0,
            PeerRole::Learner => 1,
            PeerRole::Incoming => 2,
            PeerRole::Demoting => 3,
        });
    }
    put_var_u64(&mut out, state.applied.index);
    put_var_u64(&mut out, state.applied.term);
    out.push(u8::from(state.tombstone));
    put_var_u64(&mut out, hidden.tables.len() as u64);
    hidden.tables.iter().for_each(|table| put_var_i64(&mut out, table.0));
    put_var_u64(&mut out, seen.locks.len() as u64);
    for (key, lock) in &seen.locks {
        Record::Lock { key: key.clone(), lock: Lock::clone(lock) }.put(&mut out);
    }
    put_var_u64(&mut out, hidden.values.len() as u64);
    for ((key, start_ts), value) in &hidden.values {
        let (key, value) = (key.clone(), value.clone());
        Record::Value { key, start_ts: *start_ts, value }.put(&mut out);
    }
    state.merge.put(&mut out);
    let crc = crc32fast::hash(&out[5..]);
    out[1..5].copy_from_slice(&crc.to_le_bytes());
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Mark> {
    let checked = || {
        let (&format, rest) = bytes.split_first().ok_or(DecodeError("empty"))?;
        if !(FORMAT_WITHOUT_MERGE..=FORMAT).contains(&format) {
            return Err(DecodeError("unknown format"));
        }
        let (crc, rest) = rest.split_at_checked(4).ok_or(DecodeError("too short"))?;
        if crc != crc32fast::hash(rest).to_le_bytes() {
            return Err(DecodeError("the checksum does not match"));
        }
        take_mark(format, rest)
    };
    checked().map_err(|e| Error::Corrupt { what: "a region's mark", detail: e.to_string() })
}

fn take_bytes<'a>(buf: &mut &'a [u8]) -> codec::Result<&'a [u8]> {
    let n = take_var_u64(buf)?;
    codec::take(buf, usize::try_from(n).map_err(|_| DecodeError("length"))?)
}

fn take_peer(buf: &mut &[u8]) -> codec::Result<Peer> {
    Ok(Peer {
        id: PeerId(take_var_u64(buf)?),
        store: StoreId(take_var_u64(buf)?),
        role: match codec::take_u8(buf)? {
            0 => PeerRole::Voter,
            1 => PeerRole::Learner,
            2 => PeerRole::Incoming,
            3 => PeerRole::Demoting,
            _ => return Err(DecodeError("role")),
        },
    })
}

fn take_mark(format: u8, mut buf: &[u8]) -> codec::Result<Mark> {
    let buf = &mut buf;
    let id = RegionId(take_var_u64(buf)?);
    let epoch = Epoch { conf_ver: take_var_u64(buf)?, version: take_var_u64(buf)? };
    let range = KeyRange::new(take_bytes(buf)?, take_bytes(buf)?);
    let n = take_var_u64(buf)?;
    let peers = (0..n).map(|_| take_peer(buf)).collect::<codec::Result<_>>()?;
    let applied = Applied { index: take_var_u64(buf)?, term: take_var_u64(buf)? };
    let tombstone = codec::take_u8(buf)? != 0;
    let n = take_var_u64(buf)?;
    let tables = (0..n).map(|_| take_var_i64(buf).map(TableId)).collect::<codec::Result<_>>()?;
    let mut mark = Mark {
        state: RegionState {
            region: Region { id, range, epoch, peers },
            applied,
            tombstone,
            merge: MergeState::default(),
        },
        tables,
        locks: BTreeMap::new(),
        values: HashMap::new(),
    };
    for _ in 0..take_var_u64(buf)? {
        let Record::Lock { key, lock } = Record::take(buf)? else {
            return Err(DecodeError("not a lock"));
        };
        mark.locks.insert(key, Box::new(lock));
    }
    for _ in 0..take_var_u64(buf)? {
        let Record::Value { key, start_ts, value } = Record::take(buf)? else {
            return Err(DecodeError("not a value"));
        };
        mark.values.insert((key, start_ts), value);
    }
    if format != FORMAT_WITHOUT_MERGE {
        mark.state.merge = MergeState::take(buf)?;
    }
    if buf.is_empty() { Ok(mark) } else { Err(DecodeError("bytes after the end")) }
}

#[cfg(test)]
mod garbage;

#[cfg(test)]
mod tests {
    use super::*;
    use damask_types::LockKind;

    #[test]
    fn golden_bytes_round_trip_and_every_flipped_bit() {
        let region = Region {
            id: RegionId(2),
            range: KeyRange::new(b"a".to_vec(), b"".to_vec()),
            epoch: Epoch { conf_ver: 3, version: 4 },
            peers: vec![Peer { id: PeerId(5), store: StoreId(6), role: PeerRole::Learner }],
        };
        let applied = Applied { index: 300, term: 7 };
        let lock = Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(8), 9);
        let seen = Seen {
            state: RegionState { region, applied, tombstone: false, merge: MergeState::default() },
            locks: BTreeMap::from([(b"k".to_vec(), Box::new(lock))]),
            generation: 0,
            ready: true,
        };
        let mut hidden = Hidden::default();
        hidden.note_table(TableId(1));
        hidden.values.insert((b"k".to_vec(), Timestamp(8)), b"v".to_vec());
        let bytes = encode(&seen, &hidden);
        let golden = [
            2, 3, 4, 1, b'a', 0, 1, 5, 6, 1, 0xAC, 2, 7, 0, 1, 2, // region, applied, table
            1, 1, 1, b'k', 5, b'P', 2, b'p', 8, 9, // a lock
            1, 3, 1, b'k', 8, 1, b'v', // a value
            0, 0, 0, 0, // no merge
        ];
        assert_eq!(bytes[5..], golden);
        let mark = decode(&bytes).expect("valid");
        assert_eq!((&mark.state, &mark.locks), (&seen.state, &seen.locks));
        assert_eq!((&mark.tables, &mark.values), (&hidden.tables, &hidden.values));
        let mut old = bytes[..bytes.len() - 4].to_vec();
        old[0] = FORMAT_WITHOUT_MERGE;
        let crc = crc32fast::hash(&old[5..]);
        old[1..5].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&old).expect("of the format before"), mark);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad).map_err(|e| e.kind()), Err(damask_types::ErrorKind::Corrupt));
        }
        (0..bytes.len()).for_each(|n| assert!(decode(&bytes[..n]).is_err(), "{n} bytes"));
    }
}
