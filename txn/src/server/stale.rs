//! Reads at a safe timestamp, and how it moves. It must never look at locks before `max_ts` is at
//! the timestamp, nor at the snapshot before the table of locks.
//!
//! ```text
//!   advance   oracle ─► max_ts ─► led here? ─► table of locks ─► snapshot ─► store: still led?
//!   read      safe point ─► safe here? ─► snapshot ─► safe here? ─► versions ─► safe point again
//! ```
//! A read of this kind touches neither `max_ts` nor locks: nothing at or below its timestamp can
//! change any more, on any replica.

use super::{Result, TxnServer, check_keys, request_error, version_of};
use crate::percolator::decide;
use crate::request::{Context, Request, Response};
use crate::resolved::{Advance, LOCKS_MAX, Pushed, Span, disjoint, under_locks, under_unfinished};
use damask_env::{Mistake, mistaken};
use damask_kv::MvccReader;
use damask_raftstore::{Error as RegionError, Resolved};
use damask_types::codec::encode_key;
use damask_types::{Epoch, RegionId, Timestamp};
use parking_lot::Mutex;
use std::collections::HashMap;

/// Locks in the way that one round names.
const HELD_MAX: usize = 64;

/// What rounds remember of those before.
#[derive(Default)]
pub(super) struct Rounds(Mutex<State>);

#[derive(Default)]
struct State {
    /// As published last, with the version and the term.
    last: HashMap<RegionId, (u64, u64, Timestamp)>,
    pushed: Pushed,
    /// Where the next look begins, in the engine's form.
    from: Vec<u8>,
}

impl TxnServer {
    /// One round: finds out how far the regions that are led here are resolved, and has their
    /// replicas told. To be called from time to time; one at a time works.
    ///
    /// # Errors
    /// There is no oracle, or it does not answer, or the engine fails: nothing moves.
    pub fn advance(&self) -> std::result::Result<Advance, RegionError> {
        let mut state = self.rounds.0.lock();
        let state = &mut *state;
        // The order is the proof, see `resolved`.
        let ts = self.manager.now().ok_or(RegionError::Busy("the oracle does not answer"))?;
        let reading = self.manager.begin_read(ts)?;
        let led = self.replica.led();
        let terms: HashMap<RegionId, (u64, Epoch)> =
            led.iter().map(|p| (p.region.id, (p.term, p.region.epoch))).collect();
        let spans = led.iter().map(|permit| {
            let now = (permit.region.epoch.version, permit.term);
            let last = state.last.get(&permit.region.id).filter(|l| (l.0, l.1) == now);
            Span::new(&permit.region, ts, last.map_or(Timestamp::ZERO, |l| l.2))
        });
        let mut spans = disjoint(spans.collect());
        let unfinished = self.manager.unfinished(reading);
        let snapshot = self.engine.snapshot();
        let unfinished = unfinished.into_iter().map(|(key, limit)| (encode_key(&key), limit));
        if !mistaken(Mistake::ResolvedPastUnfinished) {
            under_unfinished(&mut spans, unfinished);
        }
        // From where the last look has ended to the end, and the rest.
        let middle = spans.partition_point(|span| *span.start() < *state.from);
        spans.rotate_left(middle);
        let front = spans.len() - middle;
        let (front, back) = spans.split_at_mut(front);
        let mut locks_max = LOCKS_MAX;
        let mut looked = under_locks(&*snapshot, front, &state.pushed, &mut locks_max)?;
        if looked == front.len() && (locks_max > 0 || looked == 0) {
            looked += under_locks(&*snapshot, back, &state.pushed, &mut locks_max)?;
        }
        state.from = spans.get(looked).map_or(Vec::new(), |span| span.start().to_vec());
        let left = spans.len() - looked;
        spans.truncate(looked);
        if mistaken(Mistake::ResolvedTsLate)
            && let Some(late) = self.manager.now()
        {
            spans.iter_mut().filter(|span| span.ts == ts).for_each(|span| span.ts = late);
        }
        self.replica.resolved(found(&spans, &terms));
        state.last.clear();
        state.last.extend(spans.iter().map(|span| {
            (span.region, (span.version, terms[&span.region].0, span.ts.max(span.last)))
        }));
        let held = spans.into_iter().filter_map(|span| span.held).take(HELD_MAX).collect();
        Ok(Advance { ts, regions: looked, left, held })
    }

    /// These transactions commit above a timestamp, or never: they are in no round's way up to
    /// there, whatever their locks say.
    pub fn pushed(&self, start_ts: &[Timestamp], above: Timestamp) {
        let mut state = self.rounds.0.lock();
        start_ts.iter().for_each(|start_ts| state.pushed.add(*start_ts, above));
    }

    /// Up to where this store's replica of a region may be read without asking; ZERO: it may not.
    pub fn safe_ts(&self, region: RegionId) -> Timestamp {
        self.replica.safe_ts(region)
    }

    pub(super) fn read_stale(&self, context: Context, request: Request) -> Result<Response> {
        let Context { region, epoch } = context;
        let ts = match &request {
            Request::Get { .. } | Request::BatchGet { .. } | Request::Scan { .. } => {
                version_of(&request)
            }
            _ => {
                let detail = "only what reads a version can be asked of any replica".to_owned();
                return Err(RegionError::Invalid(detail).into());
            }
        };
        self.not_collected(ts)?;
        let mut snapshot = None;
        let mut take = || snapshot = Some(self.engine.snapshot());
        // Held until everything is read: the content stays.
        let permit = self.replica.read_stale(region, epoch, ts, &mut take)?;
        check_keys(&permit.region, &request)?;
        let not_ready = RegionError::DataIsNotReady { region, ts, safe_ts: Timestamp::ZERO };
        let reader = MvccReader::new(snapshot.ok_or(not_ready)?).settled();
        let decision = decide(&reader, request).map_err(request_error)?;
        debug_assert!(decision.records.is_empty(), "a read writes nothing");
        self.not_collected(ts)?;
        Ok(decision.response)
    }
}

/// What is no news is told again: a replica may have missed it, or have been restarted.
fn found(spans: &[Span], led: &HashMap<RegionId, (u64, Epoch)>) -> Vec<Resolved> {
    let one = |span: &Span| {
        let (term, epoch) = led[&span.region];
        Resolved { region: span.region, epoch, term, ts: span.ts.max(span.last) }
    };
    spans.iter().map(one).collect()
}
