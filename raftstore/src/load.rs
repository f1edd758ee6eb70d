//! How busy the regions of a store are, and where a busy one should be cut: requests and bytes by
//! region, and a few of the key ranges that they touch. It must never make one request wait for
//! another, but to write down a range that was chosen.
//!
//! ```text
//!  request ─► Counter { requests, bytes, reservoir of ranges }      a few atomic additions
//!                 │ a window ends (`close`: whoever reports, once a second or less often)
//!                 ▼
//!             Detector ─► RegionLoad { rates, split_key }           pure: `detector.rs`
//! ```
//! Every request of a window has the same chance to be in its reservoir (algorithm R); the chance
//! comes from a seed and the request's number.

mod detector;

use damask_types::{KeyRange, RegionId};
use detector::{Detector, Span, Window};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// When a busy region is cut, as TiKV's `split` section (load-base-split).
#[derive(Clone, Debug, PartialEq)]
pub struct LoadConfig {
    /// Requests a second, reads and proposals together, from which a region is busy (TiKV's
    /// `qps-threshold`, of reads); 0: no region is cut for its load, and no key range is kept.
    pub requests_min: u64,
    /// Or so many bytes a second, read and proposed (TiKV's `byte-threshold`).
    pub bytes_min: u64,
    /// Windows in a row in which it must be busy before a key is looked for (`detect-times`).
    pub windows: usize,
    /// Shortest window.
    pub window: Duration,
    /// Key ranges kept of a window (`sample-num`).
    pub samples: usize,
    /// Ranges beside a key, of all windows together, without which it is not judged
    /// (`sample-threshold`).
    pub samples_min: usize,
    /// The two sides may differ by this part of both (`split-balance-score`).
    pub balance_max: f64,
    /// This part of the ranges may be cut in two by the key (`split-contained-score`).
    pub contained_max: f64,
    /// Makes the choice of ranges differ between runs.
    pub seed: u64,
}

impl Default for LoadConfig {
    fn default() -> LoadConfig {
        LoadConfig {
            requests_min: 3000,
            bytes_min: 30 << 20,
            windows: 10,
            window: Duration::from_secs(1),
            samples: 20,
            samples_min: 100,
            balance_max: 0.25,
            contained_max: 0.5,
            seed: 0,
        }
    }
}

impl LoadConfig {
    /// Explains what cannot work.
    pub(crate) fn wrong(&self) -> Option<&'static str> {
        let part = |value: f64| (0.0..=1.0).contains(&value);
        let kept = self.samples.saturating_mul(self.windows);
        if self.window.is_zero() || self.windows < 2 {
            Some("load.window must not be zero, and load.windows at least 2")
        } else if self.samples == 0 || self.samples_min > kept {
            Some("load.samples_min must not be above samples * windows, and samples not zero")
        } else if !part(self.balance_max) || !part(self.contained_max) {
            Some("load.balance_max and load.contained_max are parts of one")
        } else {
            None
        }
    }
}

/// How busy a region was in its last window, a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionLoad {
    /// Requests that read.
    pub reads: u64,
    /// Bytes that they have read.
    pub read_bytes: u64,
    /// Proposals.
    pub writes: u64,
    /// Bytes of them.
    pub write_bytes: u64,
    /// It was busy for long, and this key parts its load evenly. Stays until its range is another,
    /// or it is busy no more.
    pub split_key: Option<Vec<u8>>,
}

/// What happened in one region since the last window.
#[derive(Default)]
struct Counter {
    requests: AtomicU64,
    writes: AtomicU64,
    read_bytes: AtomicU64,
    write_bytes: AtomicU64,
    /// The ranges that were chosen so far, in no order.
    spans: Mutex<Vec<Span>>,
}

/// One region's past.
struct Known {
    detector: Detector,
    load: RegionLoad,
}

/// The load of every region that a store leads.
pub(crate) struct Loads {
    config: LoadConfig,
    counters: RwLock<HashMap<RegionId, Arc<Counter>>>,
    closed: Mutex<Closed>,
}

#[derive(Default)]
struct Closed {
    /// When the last window ended.
    at: Option<Duration>,
    regions: BTreeMap<RegionId, Known>,
}

/// What a request did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Loads {
    pub fn new(config: LoadConfig) -> Loads {
        Loads { config, counters: RwLock::default(), closed: Mutex::default() }
    }

    /// A request has touched `low..end` of a region: one key if they are equal; an empty `end` is
    /// no bound.
    pub fn note(&self, region: RegionId, access: Access, low: &[u8], end: &[u8], bytes: u64) {
        self.count(region, access, bytes, || Span::range(low, end));
    }

    /// As `note`, of all keys from `low` to `high`, both of them.
    pub fn note_keys(&self, region: RegionId, access: Access, low: &[u8], high: &[u8], bytes: u64) {
        self.count(region, access, bytes, || Span::keys(low, high));
    }

    /// Reads that were noted, or are about to be, have got so many bytes more.
    pub fn note_bytes(&self, region: RegionId, bytes: u64) {
        self.counter(region).read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn counter(&self, region: RegionId) -> Arc<Counter> {
        let there = self.counters.read().get(&region).cloned();
        there.unwrap_or_else(|| self.counters.write().entry(region).or_default().clone())
    }

    fn count(&self, region: RegionId, access: Access, bytes: u64, span: impl FnOnce() -> Span) {
        let counter = self.counter(region);
        let number = counter.requests.fetch_add(1, Ordering::Relaxed);
        match access {
            Access::Read => counter.read_bytes.fetch_add(bytes, Ordering::Relaxed),
            Access::Write => {
                counter.writes.fetch_add(1, Ordering::Relaxed);
                counter.write_bytes.fetch_add(bytes, Ordering::Relaxed)
            }
        };
        let samples = self.config.samples as u64;
        let place = match number < samples {
            true => number,
            false => mix(self.config.seed ^ mix(region.0) ^ number) % (number + 1),
        };
        if place < samples && self.config.requests_min > 0 {
            let (span, mut spans) = (span(), counter.spans.lock());
            match spans.get_mut(place as usize) {
                Some(old) => *old = span,
                None => spans.push(span),
            }
        }
    }

    /// Ends the window, if it is long enough at `now`: the load of each region that is led here.
    /// What others did here is forgotten.
    pub fn close(
        &self,
        now: Duration,
        led: &[(RegionId, KeyRange)],
    ) -> BTreeMap<RegionId, RegionLoad> {
        let mut closed = self.closed.lock();
        let passed = now.saturating_sub(*closed.at.get_or_insert(now));
        if passed >= self.config.window {
            closed.at = Some(now);
            let counters = std::mem::take(&mut *self.counters.write());
            let mut before = std::mem::take(&mut closed.regions);
            for (id, range) in led {
                let past = before.remove(id).map(|known| known.detector);
                let mut detector = past.unwrap_or_default();
                let window = window(counters.get(id), passed);
                let load = detector.observe(&self.config, range, window);
                closed.regions.insert(*id, Known { detector, load });
            }
        }
        let load = |id: &RegionId| closed.regions.get(id).map(|known| known.load.clone());
        led.iter().filter_map(|(id, _)| Some((*id, load(id)?))).collect()
    }
}

/// What a counter has seen. Who still holds it may add to what nobody will look at.
fn window(counter: Option<&Arc<Counter>>, passed: Duration) -> Window {
    let Some(counter) = counter else { return Window { passed, ..Window::default() } };
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (requests, writes) = (of(&counter.requests), of(&counter.writes));
    Window {
        passed,
        reads: requests.saturating_sub(writes),
        writes,
        read_bytes: of(&counter.read_bytes),
        write_bytes: of(&counter.write_bytes),
        spans: std::mem::take(&mut *counter.spans.lock()),
    }
}

/// SplitMix64's output function.
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
