//! Regions and Raft messages as bytes. Decoders must never panic on what a peer sent.
//!
//! ```text
//! region   version u8 = 1, id, start, end, conf_ver, version, count, peer*   (peer: command.rs)
//! merge    u8 (0 none, 1: region, min index, commit), count, { region, into, version }*,
//!          forgotten, into (0 none)
//! message  version u8 = 1, type u8, to, from, term, log term, index, commit, commit term,
//!          reject u8, reject hint, priority (zigzag), context,
//!          count, { kind u8, term, index, context, data }*,
//!          snapshot u8 (0 none, 1: index, term, length, region, merge)
//! ```
//! Numbers are varints; keys, contexts and data have their length in front. In place of a message,
//! no bytes at all are a notice, "in this epoch you are not in the region"; [`MERGED`] with a
//! region's id is another one, "your region has become a part of that one", and [`HOPELESS`] with
//! the index of a prepare a third, "what it has prepared can never be". The content that a message
//! with a snapshot speaks of goes before it:
//!
//! ```text
//! chunk    [`CHUNK`], stream, number, last u8, message, data      (data: snapshot.rs)
//! here     [`HERE`], stream, chunks that are here without a gap
//! ```

use crate::command::{put_peer, take_bytes, take_peer};
use crate::merge::{Absorbed, MergeState, Prepared};
use damask_types::codec::{
    DecodeError, put_var_i64, put_var_u64, take_u8, take_var_i64, take_var_u64,
};
use damask_types::{Epoch, KeyRange, PeerRole, Region, RegionId};
use raft::eraftpb::{
    ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata,
};

type Result<T> = std::result::Result<T, DecodeError>;

const VERSION: u8 = 1;
/// First byte of the notice that a region was merged; no version of a message.
const MERGED: u8 = 0xFE;
/// First byte of the notice that a merge can never be.
const HOPELESS: u8 = 0xFD;
/// First byte of a part of a region's content, and of its acknowledgement.
const CHUNK: u8 = 0xFC;
const HERE: u8 = 0xFB;

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_var_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a region.
pub fn put_region(out: &mut Vec<u8>, region: &Region) {
    out.push(VERSION);
    put_var_u64(out, region.id.0);
    put_bytes(out, &region.range.start);
    put_bytes(out, &region.range.end);
    put_var_u64(out, region.epoch.conf_ver);
    put_var_u64(out, region.epoch.version);
    put_var_u64(out, region.peers.len() as u64);
    region.peers.iter().for_each(|peer| put_peer(out, peer));
}

/// Takes a region.
pub fn take_region(buf: &mut &[u8]) -> Result<Region> {
    if take_u8(buf)? != VERSION {
        return Err(DecodeError("region version"));
    }
    let id = RegionId(take_var_u64(buf)?);
    let range = KeyRange { start: take_bytes(buf)?.to_vec(), end: take_bytes(buf)?.to_vec() };
    let epoch = Epoch { conf_ver: take_var_u64(buf)?, version: take_var_u64(buf)? };
    let count = take_var_u64(buf)?;
    let peers = (0..count).map(|_| take_peer(buf)).collect::<Result<_>>()?;
    Ok(Region { id, range, epoch, peers })
}

/// Appends what merges have left.
pub fn put_merge(out: &mut Vec<u8>, merge: &MergeState) {
    match &merge.prepared {
        None => out.push(0),
        Some(Prepared { target, min_index, commit }) => {
            out.push(1);
            put_region(out, target);
            put_var_u64(out, *min_index);
            put_var_u64(out, *commit);
        }
    }
    put_var_u64(out, merge.absorbed.len() as u64);
    for Absorbed { region, into, version } in &merge.absorbed {
        [region.0, into.0, *version].into_iter().for_each(|n| put_var_u64(out, n));
    }
    put_var_u64(out, merge.forgotten);
    put_var_u64(out, merge.into.map_or(0, |id| id.0));
}

/// Takes what merges have left.
pub fn take_merge(buf: &mut &[u8]) -> Result<MergeState> {
    let prepared = match take_u8(buf)? {
        0 => None,
        1 => {
            let target = take_region(buf)?;
            let (min_index, commit) = (take_var_u64(buf)?, take_var_u64(buf)?);
            Some(Prepared { target, min_index, commit })
        }
        _ => return Err(DecodeError("merge state")),
    };
    let mut absorbed = Vec::new();
    for _ in 0..take_var_u64(buf)? {
        let (region, into) = (RegionId(take_var_u64(buf)?), RegionId(take_var_u64(buf)?));
        absorbed.push(Absorbed { region, into, version: take_var_u64(buf)? });
    }
    let forgotten = take_var_u64(buf)?;
    let into = Some(take_var_u64(buf)?).filter(|id| *id != 0).map(RegionId);
    Ok(MergeState { prepared, absorbed, forgotten, into })
}

/// The notice that a region was merged into another one.
pub(crate) fn encode_merged(into: RegionId) -> Vec<u8> {
    notice(MERGED, into.0)
}

/// The notice that the merge which this entry has prepared can never be.
pub(crate) fn encode_hopeless(commit: u64) -> Vec<u8> {
    notice(HOPELESS, commit)
}

fn notice(kind: u8, number: u64) -> Vec<u8> {
    let mut out = vec![kind];
    put_var_u64(&mut out, number);
    out
}

fn number_of(bytes: &[u8], kind: u8) -> Option<u64> {
    let (_, mut rest) = bytes.split_first().filter(|(first, _)| **first == kind)?;
    take_var_u64(&mut rest).ok().filter(|_| rest.is_empty())
}

/// Who has taken the region in, if that is what the bytes say.
pub(crate) fn decode_merged(bytes: &[u8]) -> Option<RegionId> {
    number_of(bytes, MERGED).map(RegionId)
}

/// Which prepare it was, if that is what the bytes say.
pub(crate) fn decode_hopeless(bytes: &[u8]) -> Option<u64> {
    number_of(bytes, HOPELESS)
}

/// A part of a region's content, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotChunk {
    /// Which export of which leader.
    pub stream: u64,
    pub at: u64,
    pub last: bool,
    /// raft-rs's, for when all are there.
    pub message: Vec<u8>,
    pub data: Vec<u8>,
}

pub(crate) fn encode_chunk(chunk: &SnapshotChunk) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunk.message.len() + chunk.data.len() + 32);
    out.push(CHUNK);
    put_var_u64(&mut out, chunk.stream);
    put_var_u64(&mut out, chunk.at);
    out.push(u8::from(chunk.last));
    put_bytes(&mut out, &chunk.message);
    put_bytes(&mut out, &chunk.data);
    out
}

/// `None`: the bytes are something else.
pub(crate) fn decode_chunk(bytes: &[u8]) -> Option<Result<SnapshotChunk>> {
    let (_, mut rest) = bytes.split_first().filter(|(first, _)| **first == CHUNK)?;
    let buf = &mut rest;
    let mut take = || {
        let (stream, at) = (take_var_u64(buf)?, take_var_u64(buf)?);
        let last = take_u8(buf)? != 0;
        let (message, data) = (take_bytes(buf)?.to_vec(), take_bytes(buf)?.to_vec());
        let chunk = SnapshotChunk { stream, at, last, message, data };
        if buf.is_empty() { Ok(chunk) } else { Err(DecodeError("bytes after chunk")) }
    };
    Some(take())
}

/// So many chunks of the stream are here, without a gap.
pub(crate) fn encode_chunks_here(stream: u64, count: u64) -> Vec<u8> {
    let mut out = vec![HERE];
    put_var_u64(&mut out, stream);
    put_var_u64(&mut out, count);
    out
}

/// Stream and count, if that is what the bytes say.
pub(crate) fn decode_chunks_here(bytes: &[u8]) -> Option<(u64, u64)> {
    let (_, mut rest) = bytes.split_first().filter(|(first, _)| **first == HERE)?;
    let (stream, count) = (take_var_u64(&mut rest).ok()?, take_var_u64(&mut rest).ok()?);
    rest.is_empty().then_some((stream, count))
}

/// The replicas as Raft sees them.
pub(crate) fn conf_state(region: &Region) -> ConfState {
    let with = |roles: &[PeerRole]| -> Vec<u64> {
        let peers = region.peers.iter().filter(|p| roles.contains(&p.role));
        peers.map(|p| p.id.0).collect()
    };
    let before = with(&[PeerRole::Voter, PeerRole::Demoting]);
    ConfState {
        voters: with(&[PeerRole::Voter, PeerRole::Incoming]),
        learners: with(&[PeerRole::Learner]),
        voters_outgoing: if region.is_joint() { before } else { Vec::new() },
        learners_next: with(&[PeerRole::Demoting]),
        auto_leave: false,
    }
}

/// A message's bytes. A snapshot's data is a region as `put_region` wrote it.
pub(crate) fn encode_message(m: &Message) -> Vec<u8> {
    let payload: usize = m.entries.iter().map(|e| e.data.len() + e.context.len() + 24).sum();
    let mut out = Vec::with_capacity(64 + payload);
    out.extend_from_slice(&[VERSION, m.msg_type as u8]);
    for number in [m.to, m.from, m.term, m.log_term, m.index, m.commit, m.commit_term] {
        put_var_u64(&mut out, number);
    }
    out.push(u8::from(m.reject));
    put_var_u64(&mut out, m.reject_hint);
    put_var_i64(&mut out, m.priority);
    put_bytes(&mut out, &m.context);
    put_var_u64(&mut out, m.entries.len() as u64);
    for entry in &m.entries {
        out.push(entry.entry_type as u8);
        put_var_u64(&mut out, entry.term);
        put_var_u64(&mut out, entry.index);
        put_bytes(&mut out, &entry.context);
        put_bytes(&mut out, &entry.data);
    }
    match &m.snapshot {
        Some(snapshot) if !snapshot.is_empty() => {
            let metadata = snapshot.metadata.clone().unwrap_or_default();
            out.push(1);
            put_var_u64(&mut out, metadata.index);
            put_var_u64(&mut out, metadata.term);
            put_bytes(&mut out, &snapshot.data);
        }
        _ => out.push(0),
    }
    out
}

/// Parses a message; a snapshot's replicas are those of the region in it.
pub(crate) fn decode_message(bytes: &[u8]) -> Result<Message> {
    let buf = &mut &*bytes;
    if take_u8(buf)? != VERSION {
        return Err(DecodeError("message version"));
    }
    let msg_type = i32::from(take_u8(buf)?);
    if !MessageType::is_valid(msg_type) {
        return Err(DecodeError("message type")); // raft-rs aborts on it
    }
    let mut m = Message { msg_type, ..Message::default() };
    for field in [
        &mut m.to,
        &mut m.from,
        &mut m.term,
        &mut m.log_term,
        &mut m.index,
        &mut m.commit,
        &mut m.commit_term,
    ] {
        *field = take_var_u64(buf)?;
    }
    m.reject = take_u8(buf)? != 0;
    m.reject_hint = take_var_u64(buf)?;
    m.priority = take_var_i64(buf)?;
    m.context = take_bytes(buf)?.to_vec();
    for _ in 0..take_var_u64(buf)? {
        let entry_type = i32::from(take_u8(buf)?);
        if !EntryType::is_valid(entry_type) {
            return Err(DecodeError("entry type"));
        }
        let (term, index) = (take_var_u64(buf)?, take_var_u64(buf)?);
        let context = take_bytes(buf)?.to_vec();
        let data = take_bytes(buf)?.to_vec();
        m.entries.push(Entry { entry_type, term, index, data, context, sync_log: false });
    }
    if take_u8(buf)? == 1 {
        let (index, term) = (take_var_u64(buf)?, take_var_u64(buf)?);
        let data = take_bytes(buf)?.to_vec();
        let region = take_region(&mut data.as_slice())?;
        let conf_state = Some(conf_state(&region));
        let metadata = Some(SnapshotMetadata { conf_state, index, term });
        m.snapshot = Some(Snapshot { data, metadata });
    }
    if buf.is_empty() { Ok(m) } else { Err(DecodeError("bytes after message")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_types::{Peer, PeerId, StoreId};

    #[test]
    fn a_merge_state_comes_back_and_cut_bytes_do_not() {
        let range = KeyRange::new("a", "b");
        let epoch = Epoch { conf_ver: 1, version: 2 };
        let target = Region { id: RegionId(8), range, epoch, peers: Vec::new() };
        let taken = Absorbed { region: RegionId(4), into: RegionId(5), version: 300 };
        let full = MergeState {
            prepared: Some(Prepared { target, min_index: 7, commit: 9 }),
            absorbed: vec![taken],
            forgotten: 3,
            into: Some(RegionId(6)),
        };
        for state in [MergeState::default(), full] {
            let mut bytes = Vec::new();
            put_merge(&mut bytes, &state);
            assert_eq!(take_merge(&mut bytes.as_slice()), Ok(state));
            for len in 0..bytes.len() {
                assert!(take_merge(&mut &bytes[..len]).is_err());
            }
        }
        assert_eq!(decode_merged(&encode_merged(RegionId(300))), Some(RegionId(300)));
        assert_eq!(decode_hopeless(&encode_hopeless(9)), Some(9));
        assert_eq!((decode_merged(&[]), decode_merged(&encode_hopeless(9))), (None, None));
        assert!(decode_message(&encode_merged(RegionId(1))).is_err());
    }

    #[test]
    fn a_chunk_comes_back_and_cut_bytes_do_not() {
        let (message, data) = (b"m".to_vec(), b"content".to_vec());
        let chunk = SnapshotChunk { stream: 300, at: 2, last: true, message, data };
        let bytes = encode_chunk(&chunk);
        assert_eq!(decode_chunk(&bytes), Some(Ok(chunk)));
        for len in 1..bytes.len() {
            assert!(decode_chunk(&bytes[..len]).is_some_and(|cut| cut.is_err()));
        }
        assert_eq!(decode_chunks_here(&encode_chunks_here(300, 7)), Some((300, 7)));
        assert!(decode_chunk(&encode_chunks_here(300, 7)).is_none());
        assert!(decode_chunks_here(&bytes).is_none() && decode_chunks_here(&[]).is_none());
    }

    #[test]
    fn a_message_comes_back_and_cut_bytes_do_not() {
        let peer = Peer { id: PeerId(3), store: StoreId(1), role: PeerRole::Voter };
        let epoch = Epoch { conf_ver: 1, version: 2 };
        let range = KeyRange::new("a", "b");
        let region = Region { id: RegionId(8), range, epoch, peers: vec![peer] };
        let mut data = Vec::new();
        put_region(&mut data, &region);
        let metadata =
            SnapshotMetadata { conf_state: Some(conf_state(&region)), index: 9, term: 5 };
        let entry = Entry { term: 4, index: 300, data: b"x".to_vec(), ..Entry::default() };
        let mut m = Message { to: 1, from: 2, term: 7, commit: 300, ..Message::default() };
        m.set_msg_type(MessageType::MsgSnapshot);
        m.priority = -1;
        m.entries = vec![entry.clone(), entry];
        m.snapshot = Some(Snapshot { data, metadata: Some(metadata) });
        let bytes = encode_message(&m);
        assert_eq!(decode_message(&bytes), Ok(m));
        for len in 0..bytes.len() {
            assert!(decode_message(&bytes[..len]).is_err());
        }
    }

    /// raft-rs aborts on them.
    #[test]
    fn a_type_that_is_none_does_not_come_back() {
        let sound = Message { entries: vec![Entry::default()], ..Message::default() };
        assert!(decode_message(&encode_message(&sound)).is_ok());
        let mut wrong = sound.clone();
        wrong.entries[0].entry_type = 9;
        for m in [Message { msg_type: 19, ..sound }, wrong] {
            assert!(decode_message(&encode_message(&m)).is_err(), "{m:?}");
        }
    }
}
