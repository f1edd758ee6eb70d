//! Reads at one timestamp over all regions. They must never answer past a lock that could still
//! commit below the timestamp.

use crate::backoff::{Backoff, Wait};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::options::ReadFrom;
use crate::region::{Core, Failed};
use crate::request::{Request, Response, SCAN_PAIRS_MAX};
use crate::resolve::locks_of;
use damask_types::{KeyLock, KeyRange, Timestamp};
use std::time::Duration;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Encounters with a live lock before it is pushed: most commit within that time, and a push costs
/// a write.
const PUSH_AFTER: u32 = 2;

/// What one read has learned about locks, and whom it may ask.
#[derive(Clone, Default)]
struct Seen {
    bypass: Vec<Timestamp>,
    from: ReadFrom,
}

impl Seen {
    fn new(from: ReadFrom) -> Seen {
        Seen { bypass: Vec::new(), from }
    }
}

/// Reads at one timestamp.
#[derive(Clone)]
pub struct SnapshotReader {
    client: Client,
    ts: Timestamp,
    from: ReadFrom,
}

impl SnapshotReader {
    pub(crate) fn new(client: Client, ts: Timestamp) -> SnapshotReader {
        SnapshotReader { client, ts, from: ReadFrom::Leader }
    }

    /// The same reads, of whom is said. All replicas answer alike, or not at all.
    pub fn from(mut self, from: ReadFrom) -> SnapshotReader {
        self.from = from;
        self
    }

    /// The timestamp.
    pub fn ts(&self) -> Timestamp {
        self.ts
    }

    /// A key's value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.client.core().get(key, self.ts, self.from)
    }

    /// Several keys' values, in the order of the keys. Regions are asked side by side.
    pub fn batch_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let core = self.client.core();
        let mut sorted: Vec<(usize, Vec<u8>)> = keys.iter().cloned().enumerate().collect();
        sorted.sort_unstable_by(|a, b| a.1.cmp(&b.1));
        let groups =
            core.group(sorted, |item| &item.1, |item| item.1.len(), &mut core.backoff())?;
        let (ts, from) = (self.ts, self.from);
        let items = groups.into_iter().map(|group| group.items).collect();
        let read = move |core: &Core, items| core.batch_get(items, ts, from);
        let answers = self.client.side_by_side(items, read);
        let mut values = vec![None; keys.len()];
        for answer in answers {
            for (at, value) in answer? {
                values[at] = value;
            }
        }
        Ok(values)
    }

    /// Up to `limit` pairs of the range, in key order or from the end.
    pub fn scan(&self, range: &KeyRange, limit: usize, reverse: bool) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        let mut rest = range.clone();
        // Ends: each page leaves less of the range.
        while pairs.len() < limit {
            let wanted = (limit - pairs.len()).min(SCAN_PAIRS_MAX);
            let (page, left) = self.page(&rest, wanted, reverse)?;
            pairs.extend(page);
            match left {
                Some(left) => rest = left,
                None => break,
            }
        }
        Ok(pairs)
    }

    /// Up to `limit` pairs from the beginning (or end) of the range, and what is left of it.
    pub(crate) fn page(
        &self,
        range: &KeyRange,
        limit: usize,
        reverse: bool,
    ) -> Result<(Vec<Pair>, Option<KeyRange>)> {
        let limit = limit.clamp(1, SCAN_PAIRS_MAX);
        self.client.core().scan_page(range, self.ts, limit, reverse, self.from)
    }
}

impl Core {
    pub fn get(&self, key: &[u8], ts: Timestamp, from: ReadFrom) -> Result<Option<Vec<u8>>> {
        let mut backoff = self.backoff();
        let mut seen = Seen::new(from);
        // Ends: every turn answers or takes time from the back-off.
        loop {
            let route = self.locate(key, &mut backoff)?;
            let request = Request::Get { key: key.to_vec(), ts, bypass: seen.bypass.clone() };
            match self.ask(&route, request, &mut seen, &mut backoff) {
                Ok(Response::Value(value)) => return Ok(value),
                Ok(other) => return Err(Error::unexpected("get", other)),
                Err(failed) => self.read_failed(failed, ts, &mut seen, &mut backoff)?,
            }
        }
    }

    /// Values with their places, of items sorted by key.
    fn batch_get(
        &self,
        items: Vec<(usize, Vec<u8>)>,
        ts: Timestamp,
        from: ReadFrom,
    ) -> Result<Vec<(usize, Option<Vec<u8>>)>> {
        let mut backoff = self.backoff();
        let mut seen = Seen::new(from);
        let mut values = Vec::with_capacity(items.len());
        let mut work = vec![items];
        while let Some(items) = work.pop() {
            let groups = self.group(items, |item| &item.1, |item| item.1.len(), &mut backoff)?;
            for group in groups {
                let keys = group.items.iter().map(|item| item.1.clone()).collect();
                let request = Request::BatchGet { keys, ts, bypass: seen.bypass.clone() };
                match self.ask(&group.route, request, &mut seen, &mut backoff) {
                    Ok(Response::Values(found)) if found.len() == group.items.len() => {
                        let places = group.items.into_iter().map(|item| item.0);
                        values.extend(places.zip(found));
                    }
                    Ok(other) => return Err(Error::unexpected("batch get", other)),
                    Err(failed) => {
                        self.read_failed(failed, ts, &mut seen, &mut backoff)?;
                        work.push(group.items);
                    }
                }
            }
        }
        Ok(values)
    }

    /// One page from one region: its pairs, and what is left of the range.
    pub fn scan_page(
        &self,
        range: &KeyRange,
        ts: Timestamp,
        limit: usize,
        reverse: bool,
        from: ReadFrom,
    ) -> Result<(Vec<Pair>, Option<KeyRange>)> {
        if range.is_empty() || limit == 0 {
            return Ok((Vec::new(), None));
        }
        let mut backoff = self.backoff();
        let mut seen = Seen::new(from);
        // Ends: every turn answers or takes time from the back-off.
        loop {
            let route = match reverse {
                false => self.locate(&range.start, &mut backoff)?,
                true => self.locate_last(range, &mut backoff)?,
            };
            let Some(part) = route.region.range.intersect(range) else {
                backoff.wait(Wait::Region, &"a route does not hold its key")?;
                continue;
            };
            let bypass = seen.bypass.clone();
            let request = Request::Scan { range: part.clone(), ts, limit, reverse, bypass };
            match self.ask(&route, request, &mut seen, &mut backoff) {
                Ok(Response::Pairs(pairs)) => {
                    let left = left_of(range, &part, &pairs, limit, reverse);
                    return Ok((pairs, left));
                }
                Ok(other) => return Err(Error::unexpected("scan", other)),
                Err(failed) => self.read_failed(failed, ts, &mut seen, &mut backoff)?,
            }
        }
    }

    /// One request of a read: of any replica while that may do, else of the leader.
    fn ask(
        &self,
        route: &damask_pd::Route,
        request: Request,
        seen: &mut Seen,
        backoff: &mut Backoff<'_>,
    ) -> std::result::Result<Response, Failed> {
        if seen.from == ReadFrom::Any {
            match self.ask_any(route, request.clone()) {
                Ok(Some(response)) => return Ok(response),
                Ok(None) => seen.from = ReadFrom::Leader,
                Err(e) => return Err(Failed::Fatal(e)),
            }
        }
        self.call(route, request, backoff)
    }

    /// The last region that overlaps the range.
    fn locate_last(&self, range: &KeyRange, backoff: &mut Backoff<'_>) -> Result<damask_pd::Route> {
        loop {
            match self.locate.locate_range(range).pop() {
                Some(route) => return Ok(route),
                None => backoff.wait(Wait::Region, &"no region is known for a range")?,
            }
        }
    }

    /// A read found no answer: resolves the locks in its way, if that is why.
    fn read_failed(
        &self,
        failed: Failed,
        ts: Timestamp,
        seen: &mut Seen,
        backoff: &mut Backoff<'_>,
    ) -> Result<()> {
        let locks: Vec<KeyLock> = match failed {
            Failed::Again => return Ok(()),
            Failed::Fatal(e) => return Err(e),
            Failed::Keys(errors) => locks_of(errors)?,
        };
        let push = backoff.attempts_of(Wait::Lock) >= PUSH_AFTER;
        let caller = if push { ts } else { Timestamp::ZERO };
        let resolution = self.resolve(&locks, caller, backoff)?;
        seen.bypass.extend(resolution.bypass);
        match resolution.alive {
            Some((holder, left)) => backoff.wait_lock(holder, left.min(Duration::from_secs(1))),
            None => backoff.turn(&"locks of transactions that had ended"),
        }
    }
}

/// What is left of `range` after a page of its `part`.
fn left_of(
    range: &KeyRange,
    part: &KeyRange,
    pairs: &[Pair],
    limit: usize,
    reverse: bool,
) -> Option<KeyRange> {
    let left = match (pairs.last(), reverse) {
        (Some((last, _)), false) if pairs.len() >= limit => {
            KeyRange { start: KeyRange::point(last).end, end: range.end.clone() }
        }
        (Some((last, _)), true) if pairs.len() >= limit => {
            if last.is_empty() {
                return None;
            }
            KeyRange { start: range.start.clone(), end: last.clone() }
        }
        (_, false) if part.end.is_empty() => return None,
        (_, false) => KeyRange { start: part.end.clone(), end: range.end.clone() },
        (_, true) if part.start.is_empty() => return None,
        (_, true) => KeyRange { start: range.start.clone(), end: part.start.clone() },
    };
    (!left.is_empty()).then_some(left)
}
