//! Windows of a region's load in, a key at which to cut it out, or none. Pure: the same windows
//! give the same key. It must never choose a key that leaves the load as it is.
//!
//! ```text
//!  ranges of all windows   ──  ────        ─   ────── ──    ─
//!  candidate                        ▲
//!                          left: 2  │ cut in two: 1    right: 3
//! ```
//! Every range's beginning is a candidate. Of those that leave about as many ranges on either side
//! (`balance_max`), and cut few in two (`contained_max`), the best is taken. It must hold for the
//! older and for the newer half of the windows as well: a load that moves through the keys, as of
//! one who appends, is not parted by any key for long.

use super::{LoadConfig, RegionLoad};
use damask_types::KeyRange;
use std::time::Duration;

/// Each half of the windows alone may be less even than all of them, but not by more than this.
const STEADY_MAX: f64 = 0.6;

/// Keys that a request has touched: `low..end`, without an upper bound if `end` is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub low: Vec<u8>,
    pub end: Vec<u8>,
}

enum Side {
    Left,
    Right,
    Both,
}

impl Span {
    /// Half open; of equal bounds: that key alone.
    pub fn range(low: &[u8], end: &[u8]) -> Span {
        match low == end && !low.is_empty() {
            true => Span::keys(low, low),
            false => Span { low: low.to_vec(), end: end.to_vec() },
        }
    }

    /// With both ends.
    pub fn keys(low: &[u8], high: &[u8]) -> Span {
        Span { low: low.to_vec(), end: [high, &[0]].concat() }
    }

    fn side(&self, key: &[u8]) -> Side {
        if self.low.as_slice() >= key {
            Side::Right
        } else if !self.end.is_empty() && self.end.as_slice() <= key {
            Side::Left
        } else {
            Side::Both
        }
    }
}

/// What happened in a region in some time.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub passed: Duration,
    pub reads: u64,
    pub writes: u64,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub spans: Vec<Span>,
}

/// How many ranges lie where, of a candidate.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    left: usize,
    right: usize,
    both: usize,
}

impl Count {
    fn of<'a>(spans: impl Iterator<Item = &'a Span>, key: &[u8]) -> Count {
        let mut count = Count::default();
        for span in spans {
            match span.side(key) {
                Side::Left => count.left += 1,
                Side::Right => count.right += 1,
                Side::Both => count.both += 1,
            }
        }
        count
    }

    fn add(self, other: Count) -> Count {
        Count {
            left: self.left + other.left,
            right: self.right + other.right,
            both: self.both + other.both,
        }
    }

    /// By which part of both the sides differ: 0 is even, 1 is all on one side.
    fn imbalance(&self) -> f64 {
        let sum = self.left + self.right;
        if sum == 0 { 1.0 } else { self.left.abs_diff(self.right) as f64 / sum as f64 }
    }

    /// The part of all ranges that would be cut in two.
    fn contained(&self) -> f64 {
        let sum = self.left + self.right + self.both;
        if sum == 0 { 1.0 } else { self.both as f64 / sum as f64 }
    }
}

/// One region's windows in which it was busy.
#[derive(Default)]
pub(super) struct Detector {
    range: Option<KeyRange>,
    busy: Vec<Vec<Span>>,
    found: Option<Vec<u8>>,
}

impl Detector {
    /// Takes a window in, and says what it was like.
    pub fn observe(&mut self, config: &LoadConfig, range: &KeyRange, window: Window) -> RegionLoad {
        let ms = window.passed.as_millis().max(1);
        let rate = |n: u64| u64::try_from(u128::from(n) * 1000 / ms).unwrap_or(u64::MAX);
        let mut load = RegionLoad {
            reads: rate(window.reads),
            read_bytes: rate(window.read_bytes),
            writes: rate(window.writes),
            write_bytes: rate(window.write_bytes),
            split_key: None,
        };
        if self.range.as_ref() != Some(range) {
            // Some of the window may be of the range that it had before.
            *self = Detector { range: Some(range.clone()), ..Detector::default() };
            return load;
        }
        let requests = load.reads.saturating_add(load.writes);
        let bytes = load.read_bytes.saturating_add(load.write_bytes);
        let is_busy = requests >= config.requests_min || bytes >= config.bytes_min;
        if config.requests_min == 0 || !is_busy {
            (self.busy, self.found) = (Vec::new(), None);
            return load;
        }
        self.busy.push(window.spans);
        if self.busy.len() >= config.windows {
            self.found = choose(config, range, &self.busy);
            self.busy.clear();
        }
        load.split_key.clone_from(&self.found);
        load
    }
}

/// The key that parts these ranges best, if any does well.
fn choose(config: &LoadConfig, range: &KeyRange, windows: &[Vec<Span>]) -> Option<Vec<u8>> {
    let (older, newer) = windows.split_at(windows.len() / 2);
    let lows = windows.iter().flatten().map(|span| span.low.as_slice());
    let mut candidates: Vec<&[u8]> = lows.collect();
    candidates.retain(|key| *key > range.start.as_slice() && range.contains(key));
    candidates.sort_unstable();
    candidates.dedup();
    let mut best: Option<(f64, &[u8])> = None;
    for key in candidates {
        let halves = [older, newer].map(|half| Count::of(half.iter().flatten(), key));
        let all = halves[0].add(halves[1]);
        let (imbalance, contained) = (all.imbalance(), all.contained());
        let known = all.left + all.right >= config.samples_min;
        let steady = halves.iter().all(|half| half.imbalance() <= STEADY_MAX);
        let parts = imbalance < config.balance_max && contained < config.contained_max;
        let score = imbalance + contained;
        if known && steady && parts && best.is_none_or(|(least, _)| score < least) {
            best = Some((score, key));
        }
    }
    best.map(|(_, key)| key.to_vec())
}
