//! One request to one region, and the region errors it may meet. It must never send a key to a
//! region that is not known to hold it, nor call an unknown outcome "nothing happened".

mod remedy;

use crate::backoff::{Backoff, Closing, Wait};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::request::{Context, KeyError, Request, RequestError, Response, Service};
use crate::resolve::Outcomes;
use crate::running::Running;
use damask_env::Clock;
use damask_kv::BelowSafePoint;
use damask_pd::{Locate, Route};
use damask_raftstore::Error as RegionError;
use damask_tso::Oracle;
use damask_types::{ErrorKind, Peer, StoreId, Timestamp};
use remedy::{Note, Remedy, Then, remedy};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The stores that can be reached.
pub trait Services: Send + Sync {
    /// The server end on a store; `None` if it is not known or not running.
    fn service(&self, store: StoreId) -> Option<Arc<dyn Service>>;
}

/// What every part of the client works with.
pub(crate) struct Core {
    pub oracle: Arc<dyn Oracle>,
    pub locate: Arc<dyn Locate>,
    pub services: Arc<dyn Services>,
    pub clock: Arc<dyn Clock>,
    pub config: Config,
    pub outcomes: Outcomes,
    pub closing: Closing,
    pub running: Arc<Running>,
    pub stale: StaleReads,
}

/// What became of requests that any replica could answer.
#[derive(Default)]
pub(crate) struct StaleReads {
    /// Whose turn it is.
    turn: AtomicU64,
    pub served: AtomicU64,
    /// The leader was asked after all.
    pub refused: AtomicU64,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// What was learned is noted and the wait is over: find the region again. Nothing happened,
    /// unless the back-off is marked as unknown.
    Again,
    /// Keys refused it.
    Keys(Vec<KeyError>),
    /// Trying again will not help, or the time is over.
    Fatal(Error),
}

/// Items with keys in one region.
pub(crate) struct Group<T> {
    pub route: Route,
    pub items: Vec<T>,
}

impl Core {
    pub fn backoff(&self) -> Backoff<'_> {
        self.lock_backoff(Duration::from_millis(self.config.lock_wait_ms))
    }

    /// The same with another limit for locks.
    pub fn lock_backoff(&self, lock_limit: Duration) -> Backoff<'_> {
        let limit = Duration::from_millis(self.config.request_ms);
        Backoff::new(self.clock.as_ref(), &self.closing, limit, lock_limit)
    }

    /// For work that lock resolution would do anyway.
    pub fn brief_backoff(&self) -> Backoff<'_> {
        let limit = Duration::from_millis(self.config.request_ms / 4);
        Backoff::new(self.clock.as_ref(), &self.closing, limit, limit)
    }

    /// A new timestamp.
    pub fn timestamp(&self, backoff: &mut Backoff<'_>) -> Result<Timestamp> {
        loop {
            match self.oracle.get(1) {
                Ok(ts) => return Ok(ts),
                Err(e) => match e.kind() {
                    ErrorKind::Corrupt | ErrorKind::Poisoned | ErrorKind::Invalid => {
                        return Err(Error::Storage { kind: e.kind(), detail: e.to_string() });
                    }
                    _ => backoff.wait(Wait::Remote, &e)?,
                },
            }
        }
    }

    /// The region of a key.
    pub fn locate(&self, key: &[u8], backoff: &mut Backoff<'_>) -> Result<Route> {
        loop {
            match self.locate.locate(key) {
                Some(route) => return Ok(route),
                None => backoff.wait(Wait::Region, &"no region is known for a key")?,
            }
        }
    }

    /// Cuts items (sorted by key) into groups of one region each, of limited size.
    pub fn group<T>(
        &self,
        items: Vec<T>,
        key: impl Fn(&T) -> &[u8],
        bytes: impl Fn(&T) -> usize,
        backoff: &mut Backoff<'_>,
    ) -> Result<Vec<Group<T>>> {
        let mut groups: Vec<Group<T>> = Vec::new();
        let mut size = 0;
        for item in items {
            let inside = groups.last().is_some_and(|g| g.route.region.range.contains(key(&item)));
            let full = size >= self.config.batch_bytes
                || groups.last().is_some_and(|g| g.items.len() >= self.config.batch_keys);
            if !inside || full {
                let route = match groups.last() {
                    Some(group) if inside => group.route.clone(),
                    _ => self.locate(key(&item), backoff)?,
                };
                groups.push(Group { route, items: Vec::new() });
                size = 0;
            }
            size += bytes(&item);
            groups.last_mut().expect("one was just pushed").items.push(item);
        }
        Ok(groups)
    }

    /// Sends one request, once. On a region error it notes what was learned and waits.
    pub fn call(
        &self,
        route: &Route,
        request: Request,
        backoff: &mut Backoff<'_>,
    ) -> std::result::Result<Response, Failed> {
        let region = &route.region;
        let again = |waited: Result<()>| waited.map_or_else(Failed::Fatal, |()| Failed::Again);
        let Some(peer) = pick(route, backoff.attempts()) else {
            self.locate.invalidate(region.id);
            return Err(again(backoff.wait(Wait::Region, &"the region has no voters")));
        };
        let Some(service) = self.services.service(peer.store) else {
            self.locate.set_leader(region.id, None);
            let cause = format!("store {} is not running", peer.store);
            return Err(again(backoff.wait(Wait::Region, &cause)));
        };
        let context = Context { region: region.id, epoch: region.epoch };
        match service.call(context, request) {
            Ok(response) => {
                if route.leader != Some(peer) {
                    self.locate.set_leader(region.id, Some(peer));
                }
                Ok(response)
            }
            Err(RequestError::Keys(keys)) => Err(Failed::Keys(keys)),
            Err(RequestError::BelowSafePoint(BelowSafePoint { ts, safe_point })) => {
                Err(Failed::Fatal(Error::BelowSafePoint { ts, safe_point }))
            }
            Err(RequestError::Region(e)) => Err(self.learn(route, peer, e, backoff)),
        }
    }

    /// Asks one replica, whichever it is, for a read of a version; `None`: ask the leader.
    pub fn ask_any(&self, route: &Route, request: Request) -> Result<Option<Response>> {
        let region = &route.region;
        let near = self.config.nearest.and_then(|store| region.peer_on(store));
        let turn = self.stale.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || region.voters().nth(turn as usize % region.voters().count().max(1));
        let peer = near.filter(|peer| peer.role.votes()).or_else(in_turn);
        let service = peer.and_then(|peer| self.services.service(peer.store));
        let context = Context { region: region.id, epoch: region.epoch };
        let request = Request::Stale(Box::new(request));
        let answer = match service.map(|service| service.call(context, request)) {
            Some(Ok(response)) => Some(response),
            Some(Err(RequestError::BelowSafePoint(BelowSafePoint { ts, safe_point }))) => {
                return Err(Error::BelowSafePoint { ts, safe_point });
            }
            // Whatever it is: the leader knows more of it.
            Some(Err(_)) | None => None,
        };
        let count = if answer.is_some() { &self.stale.served } else { &self.stale.refused };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    /// Notes what a region error says, and waits as long as that takes.
    fn learn(
        &self,
        route: &Route,
        asked: Peer,
        error: RegionError,
        backoff: &mut Backoff<'_>,
    ) -> Failed {
        let id = route.region.id;
        let misled = backoff.attempts_of(Wait::Hint) > 0;
        let Remedy { notes, unknown, then } = remedy(&error, asked, misled);
        for note in notes {
            match note {
                Note::Leader(leader) => self.locate.set_leader(id, leader),
                Note::Regions(current) => self.locate.update(current),
                Note::Forget => self.locate.invalidate(id),
            }
        }
        if unknown {
            backoff.mark_unknown();
        }
        match then {
            Then::GiveUp(error) => Failed::Fatal(error),
            Then::Wait(wait) => {
                backoff.wait(wait, &error).map_or_else(Failed::Fatal, |()| Failed::Again)
            }
        }
    }
}

/// Whom to ask: the leader. While there is no luck with it, every third time a voter in turn: one
/// of them may know the leader before the placement driver does.
fn pick(route: &Route, attempt: u32) -> Option<Peer> {
    let known = route.leader.filter(|leader| route.region.peer_on(leader.store).is_some());
    match known {
        Some(leader) if attempt % 3 != 2 => Some(leader),
        _ => {
            let voters = route.region.voters().count().max(1);
            let turn = if known.is_some() { attempt / 3 } else { attempt };
            route.region.voters().nth(turn as usize % voters).copied()
        }
    }
}
