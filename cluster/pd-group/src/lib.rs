//! A placement driver and an oracle as one Raft group: what a member is, wherever it runs (in the
//! cluster's process, on a simulated node). It must never let two leaders answer for one moment.
//!
//! ```text
//!   member 1..n: Store { one region; log; Registers "state", "bound" }
//!                    │ elected in term T: barrier, load                 save, may_serve
//!                    └──► Led { T, Pd, LocalOracle } ── Line (term T) ──► propose, lease
//! ```
//!
//! Invariants:
//! * a leader saves only in its own term, so a deposed one extends no window, of ids or of time;
//! * it answers with what it has taken only if its lease lasts after that: the next leader, which
//!   begins above the saved bound, was not there yet;
//! * a new leader first applies everything of earlier terms, and begins with what they saved;
//!   regions, leaders and loads it learns from reports, and it plans when it has heard of all;
//! * a member that has voted never begins empty again.
//!
//! Who looks for the leader
//! and asks again is elsewhere: `cluster::pd_group` in one process, the simulator on its network.
//!
//! Reading order: `registers`, `member`.

pub mod member;
pub mod registers;

pub use damask_raftstore::{Error, Result};
pub use member::{Led, Line, Member, MemberStatus, OnLead, Options};
pub use registers::Registers;

use damask_env::Disk;
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use std::io;
use std::sync::Arc;

/// The one region of the group. Its stores are no stores of the cluster.
pub const GROUP: RegionId = RegionId(1);
/// It never changes.
pub const EPOCH: Epoch = Epoch { conf_ver: 1, version: 1 };
/// Says, on each member's disk, that every member was made, and how many they are. Without it none
/// has ever run.
pub const MADE: &str = "group";

/// The group's region with so many members, each a voter.
pub fn region(members: u64) -> Region {
    let peer = |n| Peer { id: PeerId(n), store: StoreId(n), role: PeerRole::Voter };
    let peers = (1..=members).map(peer).collect();
    Region { id: GROUP, range: KeyRange::all(), epoch: EPOCH, peers }
}

/// How many members a group was made of, by one member's disk; `None`: it was never made.
///
/// # Errors
/// The disk fails, or the file is damaged.
pub fn made(disk: &dyn Disk) -> Result<Option<u64>> {
    match disk.map(MADE) {
        Ok(content) => {
            let members = serde_json::from_slice(&content);
            let damaged = |e| Error::corrupt(format!("the file {MADE} is damaged: {e}"));
            Ok(Some(members.map_err(damaged)?))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(MADE, &e)),
    }
}

/// Makes every member's part of a new group, each on its own disk, before any of them runs. If a
/// group was made there before, nothing is done. How many members the group has.
///
/// # Errors
/// A disk fails.
pub fn make(disks: &[Arc<dyn Disk>]) -> Result<u64> {
    // What cannot be read is told when the member starts.
    let mut found = disks.iter().filter_map(|disk| made(disk.as_ref()).unwrap_or_default());
    if let Some(members) = found.next() {
        return Ok(members);
    }
    let members = disks.len() as u64;
    for (n, disk) in (1..).zip(disks) {
        let registers = Registers::open(disk.clone())?;
        damask_raftstore::bootstrap(&registers, StoreId(n), region(members))?;
    }
    for disk in disks {
        let content = members.to_string();
        disk.replace(MADE, content.as_bytes()).map_err(|e| Error::io(MADE, &e))?;
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    //! What is made is made once, and damage of it is named.

    use super::*;
    use damask_env::MemoryDisk;
    use damask_types::ErrorKind;

    #[test]
    fn a_group_is_made_once() {
        let disk = || -> Arc<dyn Disk> { Arc::new(MemoryDisk::new()) };
        let mut disks: Vec<_> = (0..3).map(|_| disk()).collect();
        assert_eq!(made(disks[0].as_ref()).expect("empty"), None);
        assert_eq!(make(&disks).expect("made"), 3);
        let content = disks[1].map(registers::FILE).expect("made").to_vec();
        // An empty disk among them, or more of them: it is the group that it was.
        disks[0] = disk();
        disks.push(disk());
        assert_eq!(make(&disks).expect("there"), 3);
        assert_eq!(disks[1].map(registers::FILE).expect("made").to_vec(), content);
        assert_eq!(made(disks[0].as_ref()).expect("still empty"), None);
        disks[2].replace(MADE, b"3 or so").expect("written");
        let damaged = made(disks[2].as_ref()).expect_err("damaged");
        assert_eq!(damaged.kind(), ErrorKind::Corrupt);
    }
}
