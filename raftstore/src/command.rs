//! What a region's log entry says, as bytes. It must never depend on anything but the bytes: every
//! replica reads the same.
//!
//! ```text
//! command  version u8 = 1, epoch.conf_ver, epoch.version, tag u8, then
//!   1 write   count, record*                             (types::mutation)
//!   2 split   count, { key length, key, region, peers, peer* }*
//!   3 change  kind u8 (1 learner, 2 voter, 3 remove), peer, store, role u8
//!   4 prepare min index, region                        (the target; wire.rs)
//!   5 commit  commit, region (the source), min index, count, { term, kind u8, context, data }*
//!   6 rollback  commit
//!   7 refuse  region id (the source)
//!   8 joint   count, { kind u8, peer }*                  (as 3; all at once)
//!   9 leave                                            (the joint configuration)
//! ```
//! Numbers without a width are varints. A split lists the new regions from left to right, each
//! with the key where it *ends*; the rightmost part keeps the region. A change is the context of
//! a Raft configuration change.

use crate::handle::{PeerChange, SplitChild};
use crate::log_store::{EntryKind, LogEntry};
use crate::wire::{put_bytes, put_region, take_region};
use damask_types::codec::{DecodeError, put_var_u64, take, take_u8, take_var_u64};
use damask_types::{Epoch, Peer, PeerId, PeerRole, Record, Region, RegionId, StoreId};

type Result<T> = std::result::Result<T, DecodeError>;

const VERSION: u8 = 1;
/// About the bytes of the smallest record: room is made for no more of them than there can be.
const RECORD_BYTES: usize = 16;

/// A decoded entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The description under which it was made: checked again when it is applied.
    pub epoch: Epoch,
    /// What to do.
    pub body: Body,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Transaction records.
    Write(Vec<Record>),
    /// New regions on the left, each ending at its key.
    Split {
        /// Strictly increasing, strictly inside the region.
        keys: Vec<Vec<u8>>,
        /// One per key.
        children: Vec<SplitChild>,
    },
    /// A change of one replica.
    Change(PeerChange),
    /// The region is about to become a part of `target`.
    Prepare {
        /// The neighbour as it is, and must still be then.
        target: Region,
        /// Entries below are committed, and durable on every replica.
        min_index: u64,
    },
    /// This region takes in a neighbour.
    Commit(MergeCommit),
    /// The region is not merged after all.
    Rollback {
        /// The entry that prepared it.
        commit: u64,
    },
    /// This region will not take the neighbour in: only its version grows.
    Refuse {
        /// The neighbour.
        source: RegionId,
    },
    /// Changes of several replicas in one step: the voters before and those after decide together
    /// until the configuration is left.
    Joint(Vec<PeerChange>),
    /// Only the voters after the change decide from here on.
    Leave,
}

/// What an entry does to a region's replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    One(PeerChange),
    Joint(Vec<PeerChange>),
    Leave,
}

/// A merge's commit, in the target's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeCommit {
    /// The source as its prepare has left it.
    pub source: Region,
    /// The entry that prepared it.
    pub commit: u64,
    /// The source's entries up to that one, which some replicas may lack.
    pub entries: Vec<LogEntry>,
}

fn head(epoch: Epoch, tag: u8) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_var_u64(&mut out, epoch.conf_ver);
    put_var_u64(&mut out, epoch.version);
    out.push(tag);
    out
}

/// A write's bytes.
pub fn encode_write(epoch: Epoch, records: &[Record]) -> Vec<u8> {
    let mut out = head(epoch, 1);
    put_var_u64(&mut out, records.len() as u64);
    records.iter().for_each(|record| record.put(&mut out));
    out
}

/// A write's bytes taken apart: its head with the tag, how many records, and those.
pub fn write_parts(write: &[u8]) -> Result<(&[u8], u64, &[u8])> {
    let mut rest = write.get(1..).unwrap_or_default();
    take_var_u64(&mut rest)?;
    take_var_u64(&mut rest)?;
    take_u8(&mut rest)?;
    let head = &write[..write.len() - rest.len()];
    let count = take_var_u64(&mut rest)?;
    Ok((head, count, rest))
}

/// A split's bytes.
pub fn encode_split(epoch: Epoch, keys: &[Vec<u8>], children: &[SplitChild]) -> Vec<u8> {
    let mut out = head(epoch, 2);
    put_var_u64(&mut out, keys.len() as u64);
    for (key, child) in keys.iter().zip(children) {
        put_var_u64(&mut out, key.len() as u64);
        out.extend_from_slice(key);
        put_var_u64(&mut out, child.region.0);
        put_var_u64(&mut out, child.peers.len() as u64);
        child.peers.iter().for_each(|peer| put_var_u64(&mut out, peer.0));
    }
    out
}

/// A change's bytes.
pub fn encode_change(epoch: Epoch, change: PeerChange) -> Vec<u8> {
    let mut out = head(epoch, 3);
    put_change(&mut out, change);
    out
}

fn put_change(out: &mut Vec<u8>, change: PeerChange) {
    let (kind, peer) = match change {
        PeerChange::AddLearner(peer) => (1, peer),
        PeerChange::AddVoter(peer) => (2, peer),
        PeerChange::Remove(peer) => (3, peer),
    };
    out.push(kind);
    put_peer(out, &peer);
}

fn take_change(buf: &mut &[u8]) -> Result<PeerChange> {
    let kind = take_u8(buf)?;
    let peer = take_peer(buf)?;
    Ok(match kind {
        1 => PeerChange::AddLearner(peer),
        2 => PeerChange::AddVoter(peer),
        3 => PeerChange::Remove(peer),
        _ => return Err(DecodeError("change kind")),
    })
}

/// Bytes of the command that changes several replicas at once.
pub fn encode_joint(epoch: Epoch, changes: &[PeerChange]) -> Vec<u8> {
    let mut out = head(epoch, 8);
    put_var_u64(&mut out, changes.len() as u64);
    changes.iter().for_each(|change| put_change(&mut out, *change));
    out
}

/// Bytes of the command that leaves a joint configuration.
pub fn encode_leave(epoch: Epoch) -> Vec<u8> {
    head(epoch, 9)
}

/// Bytes of the command that begins a merge.
pub fn encode_prepare(epoch: Epoch, target: &Region, min_index: u64) -> Vec<u8> {
    let mut out = head(epoch, 4);
    put_var_u64(&mut out, min_index);
    put_region(&mut out, target);
    out
}

/// Bytes of the command that ends a merge; `epoch` is the target's.
pub fn encode_commit(epoch: Epoch, merge: &MergeCommit) -> Vec<u8> {
    let mut out = head(epoch, 5);
    put_var_u64(&mut out, merge.commit);
    put_region(&mut out, &merge.source);
    put_var_u64(&mut out, merge.entries.first().map_or(merge.commit + 1, |e| e.index));
    put_var_u64(&mut out, merge.entries.len() as u64);
    for entry in &merge.entries {
        put_var_u64(&mut out, entry.term);
        out.push(u8::from(entry.kind == EntryKind::Change));
        put_bytes(&mut out, &entry.context);
        put_bytes(&mut out, &entry.data);
    }
    out
}

/// Bytes of the command that takes a prepare back.
pub fn encode_rollback(epoch: Epoch, commit: u64) -> Vec<u8> {
    let mut out = head(epoch, 6);
    put_var_u64(&mut out, commit);
    out
}

/// Bytes of the command by which a target declines; `epoch` is the target's.
pub fn encode_refuse(epoch: Epoch, source: RegionId) -> Vec<u8> {
    let mut out = head(epoch, 7);
    put_var_u64(&mut out, source.0);
    out
}

/// Is it only records, or nothing: no change of the region?
pub fn is_plain(entry: &LogEntry) -> bool {
    let is_write = || Command::decode(&entry.data).is_ok_and(|c| matches!(c.body, Body::Write(_)));
    entry.kind == EntryKind::Normal && (entry.data.is_empty() || is_write())
}

fn take_commit(buf: &mut &[u8]) -> Result<MergeCommit> {
    let commit = take_var_u64(buf)?;
    let source = take_region(buf)?;
    let first = take_var_u64(buf)?;
    let end = first.checked_add(take_var_u64(buf)?);
    let end = end.filter(|end| Some(*end) == commit.checked_add(1));
    let end = end.ok_or(DecodeError("a merge's entries do not end at its commit"))?;
    let mut entries = Vec::new();
    for index in first..end {
        let term = take_var_u64(buf)?;
        let kind = match take_u8(buf)? {
            0 => EntryKind::Normal,
            1 => EntryKind::Change,
            _ => return Err(DecodeError("entry kind")),
        };
        let (context, data) = (take_bytes(buf)?.to_vec(), take_bytes(buf)?.to_vec());
        entries.push(LogEntry { index, term, kind, data, context });
    }
    Ok(MergeCommit { source, commit, entries })
}

/// Appends a peer: id, store, role (0 voter, 1 learner, 2 incoming, 3 demoting).
pub(crate) fn put_peer(out: &mut Vec<u8>, peer: &Peer) {
    put_var_u64(out, peer.id.0);
    put_var_u64(out, peer.store.0);
    out.push(match peer.role {
        PeerRole::Voter => 0,
        PeerRole::Learner => 1,
        PeerRole::Incoming => 2,
        PeerRole::Demoting => 3,
    });
}

pub(crate) fn take_peer(buf: &mut &[u8]) -> Result<Peer> {
    let (id, store) = (PeerId(take_var_u64(buf)?), StoreId(take_var_u64(buf)?));
    let role = match take_u8(buf)? {
        0 => PeerRole::Voter,
        1 => PeerRole::Learner,
        2 => PeerRole::Incoming,
        3 => PeerRole::Demoting,
        _ => return Err(DecodeError("peer role")),
    };
    Ok(Peer { id, store, role })
}

pub(crate) fn take_bytes<'a>(buf: &mut &'a [u8]) -> Result<&'a [u8]> {
    let len = usize::try_from(take_var_u64(buf)?).map_err(|_| DecodeError("length"))?;
    take(buf, len)
}

impl Command {
    /// Parses a command; bytes after its end are an error.
    pub fn decode(bytes: &[u8]) -> Result<Command> {
        let buf = &mut &*bytes;
        if take_u8(buf)? != VERSION {
            return Err(DecodeError("command version"));
        }
        let epoch = Epoch { conf_ver: take_var_u64(buf)?, version: take_var_u64(buf)? };
        let body = match take_u8(buf)? {
            1 => {
                let count = take_var_u64(buf)?;
                let room = count.min((buf.len() / RECORD_BYTES) as u64) as usize;
                let mut records = Vec::with_capacity(room);
                for _ in 0..count {
                    records.push(Record::take(buf)?);
                }
                Body::Write(records)
            }
            2 => {
                let (mut keys, mut children) = (Vec::new(), Vec::new());
                for _ in 0..take_var_u64(buf)? {
                    keys.push(take_bytes(buf)?.to_vec());
                    let region = RegionId(take_var_u64(buf)?);
                    let count = take_var_u64(buf)?;
                    let peers = (0..count).map(|_| Ok(PeerId(take_var_u64(buf)?)));
                    children.push(SplitChild { region, peers: peers.collect::<Result<_>>()? });
                }
                Body::Split { keys, children }
            }
            3 => Body::Change(take_change(buf)?),
            4 => {
                let min_index = take_var_u64(buf)?;
                Body::Prepare { target: take_region(buf)?, min_index }
            }
            5 => Body::Commit(take_commit(buf)?),
            6 => Body::Rollback { commit: take_var_u64(buf)? },
            7 => Body::Refuse { source: RegionId(take_var_u64(buf)?) },
            8 => {
                let count = take_var_u64(buf)?;
                Body::Joint((0..count).map(|_| take_change(buf)).collect::<Result<_>>()?)
            }
            9 => Body::Leave,
            _ => return Err(DecodeError("command tag")),
        };
        if buf.is_empty() { Ok(Command { epoch, body }) } else { Err(DecodeError("after command")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_types::key::Hex;

    const EPOCH: Epoch = Epoch { conf_ver: 3, version: 200 };

    fn golden(bytes: &[u8], hex: &str, body: Body) {
        assert_eq!(Hex(bytes).to_string(), hex);
        assert_eq!(Command::decode(bytes), Ok(Command { epoch: EPOCH, body }));
        for len in 0..bytes.len() {
            assert!(Command::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(Command::decode(&[bytes, b"x"].concat()).is_err());
    }

    #[test]
    fn bytes_are_fixed() {
        let records = vec![Record::Unlock { key: b"k".to_vec() }];
        let bytes = encode_write(EPOCH, &records);
        golden(&bytes, "0103c801010102016b", Body::Write(records));

        let keys = vec![b"m".to_vec()];
        let children =
            vec![SplitChild { region: RegionId(9), peers: vec![PeerId(10), PeerId(11)] }];
        let bytes = encode_split(EPOCH, &keys, &children);
        golden(&bytes, "0103c8010201016d09020a0b", Body::Split { keys, children });

        let peer = Peer { id: PeerId(7), store: StoreId(4), role: PeerRole::Learner };
        let bytes = encode_change(EPOCH, PeerChange::AddLearner(peer));
        golden(&bytes, "0103c8010301070401", Body::Change(PeerChange::AddLearner(peer)));

        let voter = Peer { id: PeerId(8), role: PeerRole::Voter, ..peer };
        let changes = vec![PeerChange::AddVoter(voter), PeerChange::AddLearner(peer)];
        let bytes = encode_joint(EPOCH, &changes);
        golden(&bytes, "0103c80108020208040001070401", Body::Joint(changes));
        golden(&encode_leave(EPOCH), "0103c80109", Body::Leave);
    }

    #[test]
    fn bytes_of_merges_are_fixed() {
        let range = damask_types::KeyRange::new("a", "m");
        let region = Region { id: RegionId(9), range, epoch: EPOCH, peers: Vec::new() };
        let shown = "01090161016d03c80100";
        let bytes = encode_prepare(EPOCH, &region, 6);
        let body = Body::Prepare { target: region.clone(), min_index: 6 };
        golden(&bytes, &format!("0103c8010406{shown}"), body);

        let data = encode_write(EPOCH, &[]);
        let write = LogEntry { index: 7, term: 6, data, ..LogEntry::default() };
        let kind = EntryKind::Change;
        let last = LogEntry { index: 8, term: 300, kind, context: vec![5], ..LogEntry::default() };
        assert!(is_plain(&write) && is_plain(&LogEntry::default()) && !is_plain(&last));
        let merge = MergeCommit { source: region, commit: 8, entries: vec![write, last] };
        let bytes = encode_commit(EPOCH, &merge);
        let entries = "0702060000060103c8010100ac0201010500";
        golden(&bytes, &format!("0103c8010508{shown}{entries}"), Body::Commit(merge.clone()));
        let short = MergeCommit { commit: 9, ..merge };
        assert!(Command::decode(&encode_commit(EPOCH, &short)).is_err());

        golden(&encode_rollback(EPOCH, 8), "0103c8010608", Body::Rollback { commit: 8 });
        let refuse = encode_refuse(EPOCH, RegionId(9));
        golden(&refuse, "0103c8010709", Body::Refuse { source: RegionId(9) });
    }
}
