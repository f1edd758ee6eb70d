//! What a region's log entry says, as bytes. It must never depend on anything but the bytes: every
//! replica reads the same.
//!
//! ```text
//! command  version u8 = 1, epoch.conf_ver, epoch.version, tag u8, then
//!   1 write   count, record*                             (types::mutation)
//!   2 split   count, { key length, key, region, peers, peer* }*
//!   3 change  kind u8 (1 learner, 2 voter, 3 remove), peer, store, role u8
//! ```
//! Numbers without a width are varints. A split lists the new regions from left to right, each
//! with the key where it *ends*; the rightmost part keeps the region. A change is the context of
//! a Raft configuration change.

use crate::handle::{PeerChange, SplitChild};
use damask_types::codec::{DecodeError, put_var_u64, take, take_u8, take_var_u64};
use damask_types::{Epoch, Peer, PeerId, PeerRole, Record, RegionId, StoreId};

type Result<T> = std::result::Result<T, DecodeError>;

const VERSION: u8 = 1;

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
    let (kind, peer) = match change {
        PeerChange::AddLearner(peer) => (1, peer),
        PeerChange::AddVoter(peer) => (2, peer),
        PeerChange::Remove(peer) => (3, peer),
    };
    out.push(kind);
    put_peer(&mut out, &peer);
    out
}

/// Appends a peer: id, store, role (0 voter, 1 learner).
pub(crate) fn put_peer(out: &mut Vec<u8>, peer: &Peer) {
    put_var_u64(out, peer.id.0);
    put_var_u64(out, peer.store.0);
    out.push(u8::from(peer.role == PeerRole::Learner));
}

pub(crate) fn take_peer(buf: &mut &[u8]) -> Result<Peer> {
    let (id, store) = (PeerId(take_var_u64(buf)?), StoreId(take_var_u64(buf)?));
    let role = match take_u8(buf)? {
        0 => PeerRole::Voter,
        1 => PeerRole::Learner,
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
                Body::Write((0..count).map(|_| Record::take(buf)).collect::<Result<_>>()?)
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
            3 => {
                let kind = take_u8(buf)?;
                let peer = take_peer(buf)?;
                Body::Change(match kind {
                    1 => PeerChange::AddLearner(peer),
                    2 => PeerChange::AddVoter(peer),
                    3 => PeerChange::Remove(peer),
                    _ => return Err(DecodeError("change kind")),
                })
            }
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
    }
}
