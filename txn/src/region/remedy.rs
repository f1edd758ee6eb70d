//! What a client does about a region error: what it notes of the world, how it waits, when it gives
//! up. It must never call an outcome known that is not, and does nothing itself.
//!
//! The table is client-go's (`internal/locate/region_request.go`), but for `Stale`: here it is said
//! only of what was never proposed, or whose place in the log another entry has.

use crate::backoff::Wait;
use crate::error::Error;
use damask_raftstore::Error as RegionError;
use damask_types::{ErrorKind, Peer, Region};

/// What was learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// Who leads the region; `None`: not the one we thought.
    Leader(Option<Peer>),
    /// Newer descriptions.
    Regions(Vec<Region>),
    /// What we know of the region is wrong.
    Forget,
}

/// What is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Wait(Wait),
    GiveUp(Error),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remedy {
    pub notes: Vec<Note>,
    /// The request may have had its effect.
    pub unknown: bool,
    pub then: Then,
}

/// `misled`: this operation was told newer descriptions before.
pub(super) fn remedy(error: &RegionError, asked: Peer, misled: bool) -> Remedy {
    let known = |notes, wait| Remedy { notes, unknown: false, then: Then::Wait(wait) };
    let unknown = |notes, then| Remedy { notes, unknown: true, then };
    let give_up = |error| Remedy { notes: vec![], unknown: false, then: Then::GiveUp(error) };
    match error {
        RegionError::NotLeader { leader, .. } => {
            let hint = leader.filter(|leader| leader.store != asked.store);
            let wait = if hint.is_some() { Wait::Hint } else { Wait::Region };
            known(vec![Note::Leader(hint)], wait)
        }
        RegionError::EpochNotMatch { current } if !current.is_empty() => {
            let mut notes = vec![Note::Regions(current.clone())];
            // The store may be the one that is behind: then someone else must be asked.
            if misled {
                notes.push(Note::Leader(None));
            }
            known(notes, Wait::Hint)
        }
        // One that is merged goes, or is taken back: then the same region answers, or its target.
        RegionError::EpochNotMatch { .. }
        | RegionError::RegionNotFound(_)
        | RegionError::KeyNotInRegion { .. }
        | RegionError::Merging(_) => known(vec![Note::Forget], Wait::Region),
        RegionError::Stopped | RegionError::DataIsNotReady { .. } => {
            known(vec![Note::Leader(None)], Wait::Region)
        }
        RegionError::Stale => known(vec![], Wait::Stale),
        RegionError::Busy(_) => known(vec![], Wait::Busy),
        RegionError::Undetermined(_) => unknown(vec![], Then::Wait(Wait::Remote)),
        RegionError::TooLarge { bytes, limit } => {
            give_up(Error::TooLarge { what: "a command", bytes: *bytes, limit: *limit })
        }
        RegionError::Invalid(detail) => give_up(Error::Invalid(detail.clone())),
        RegionError::DiskFull(detail) => {
            give_up(Error::Storage { kind: ErrorKind::NoSpace, detail: detail.clone() })
        }
        RegionError::Storage { kind: ErrorKind::Invalid, detail } => {
            give_up(Error::Invalid(detail.clone()))
        }
        RegionError::Storage { kind: ErrorKind::Corrupt, detail } => {
            let (kind, detail) = (ErrorKind::Corrupt, detail.clone());
            unknown(vec![], Then::GiveUp(Error::Storage { kind, detail }))
        }
        RegionError::Storage { kind, .. } => {
            let wait = if *kind == ErrorKind::NoSpace { Wait::Space } else { Wait::Remote };
            unknown(vec![Note::Leader(None)], Then::Wait(wait))
        }
    }
}

#[cfg(test)]
mod tests {
    //! Every region error by name, and what follows from it.

    use super::*;
    use damask_types::{Epoch, KeyRange, PeerId, PeerRole, RegionId, StoreId, Timestamp};

    const REGION: RegionId = RegionId(7);

    fn peer(store: u64) -> Peer {
        Peer { id: PeerId(70 + store), store: StoreId(store), role: PeerRole::Voter }
    }

    /// What store 1 was asked, and has answered.
    fn after(error: &RegionError) -> Remedy {
        remedy(error, peer(1), false)
    }

    fn waits(notes: Vec<Note>, wait: Wait) -> Remedy {
        Remedy { notes, unknown: false, then: Then::Wait(wait) }
    }

    #[test]
    fn not_leader_names_whom_to_ask_at_once_or_nobody() {
        let answer = |leader| after(&RegionError::NotLeader { region: REGION, leader });
        assert_eq!(answer(Some(peer(2))), waits(vec![Note::Leader(Some(peer(2)))], Wait::Hint));
        assert_eq!(answer(None), waits(vec![Note::Leader(None)], Wait::Region));
        let itself = answer(Some(peer(1)));
        assert_eq!(itself, waits(vec![Note::Leader(None)], Wait::Region), "it says it does not");
    }

    #[test]
    fn epoch_not_match_brings_the_regions_of_now() {
        let epoch = Epoch { conf_ver: 1, version: 3 };
        let now = Region { id: REGION, range: KeyRange::all(), epoch, peers: vec![peer(1)] };
        let error = RegionError::EpochNotMatch { current: vec![now.clone()] };
        let regions = Note::Regions(vec![now]);
        assert_eq!(after(&error), waits(vec![regions.clone()], Wait::Hint));
        let again = remedy(&error, peer(1), true);
        assert_eq!(again, waits(vec![regions, Note::Leader(None)], Wait::Hint), "ask another");
        let nothing = RegionError::EpochNotMatch { current: vec![] };
        assert_eq!(after(&nothing), waits(vec![Note::Forget], Wait::Region));
    }

    #[test]
    fn what_is_somewhere_else_is_looked_for_anew() {
        let range = KeyRange::all();
        for error in [
            RegionError::RegionNotFound(REGION),
            RegionError::KeyNotInRegion { region: REGION, range },
            RegionError::Merging(REGION),
        ] {
            assert_eq!(after(&error), waits(vec![Note::Forget], Wait::Region), "{error}");
        }
        let (ts, safe_ts) = (Timestamp(9), Timestamp(8));
        let not_ready = RegionError::DataIsNotReady { region: REGION, ts, safe_ts };
        for error in [not_ready, RegionError::Stopped] {
            assert_eq!(after(&error), waits(vec![Note::Leader(None)], Wait::Region), "{error}");
        }
    }

    #[test]
    fn what_was_not_done_is_tried_again_later() {
        assert_eq!(after(&RegionError::Stale), waits(vec![], Wait::Stale));
        assert_eq!(after(&RegionError::Busy("full")), waits(vec![], Wait::Busy));
    }

    #[test]
    fn what_may_have_been_done_is_never_called_undone() {
        let lost = after(&RegionError::Undetermined("no answer".to_owned()));
        assert_eq!(lost, Remedy { unknown: true, ..waits(vec![], Wait::Remote) });
        let failed = |kind| after(&RegionError::Storage { kind, detail: "disk".to_owned() });
        let elsewhere = || vec![Note::Leader(None)];
        let (io, full) = (failed(ErrorKind::Io), failed(ErrorKind::NoSpace));
        assert_eq!(io, Remedy { unknown: true, ..waits(elsewhere(), Wait::Remote) });
        assert_eq!(full, Remedy { unknown: true, ..waits(elsewhere(), Wait::Space) });
        let corrupt = failed(ErrorKind::Corrupt);
        assert!(corrupt.unknown && matches!(corrupt.then, Then::GiveUp(_)), "{corrupt:?}");
    }

    #[test]
    fn what_can_never_work_is_given_up() {
        let gives_up = |error: RegionError| {
            let Remedy { notes, unknown: false, then: Then::GiveUp(e) } = after(&error) else {
                panic!("{error}")
            };
            assert!(notes.is_empty());
            e
        };
        let (bytes, limit) = (9, 8);
        let too_large = Error::TooLarge { what: "a command", bytes, limit };
        assert_eq!(gives_up(RegionError::TooLarge { bytes, limit }), too_large);
        let wrong = || "no such thing".to_owned();
        assert_eq!(gives_up(RegionError::Invalid(wrong())), Error::Invalid(wrong()));
        let storage = RegionError::Storage { kind: ErrorKind::Invalid, detail: wrong() };
        assert_eq!(gives_up(storage), Error::Invalid(wrong()));
        let full = gives_up(RegionError::DiskFull("nearly".to_owned()));
        assert_eq!(full.kind(), ErrorKind::NoSpace);
    }
}
