//! The group as one placement driver and one oracle: finds who leads, asks again when that changes,
//! and gives up in words when nobody does. It must never give out an answer of a leader whose lease
//! has ended after it was taken.
//!
//! ```text
//!   question ─► who was elected last? ─► its answer ─► does its lease last? ──yes──► answer
//!       ▲                                                   └─no─► pause, up to Setup::patience
//!       └───────────────────────────────────────────────────────────┘
//! ```
//! Questions that change something may be asked twice: each names the state that it wants, and ids
//! that nobody got are lost. Reports are not asked again: the next round brings them. What may be
//! out of date anyway (routes, statuses) is answered without asking the group; of regions a new
//! leader's answers count once it has heard of all, until then its predecessor's.

use super::{Group, Led};
use damask_pd::{
    ColumnProgress, ColumnRule, Error, Mark, OperatorStatus, Order, Pd, Placement, RegionReport,
    RegionStatus, Result, Route, SplitIds, Step, StoreInfo, StoreReport, StoreSettings,
    StoreStatus,
};
use damask_tso::Oracle;
use damask_types::{ErrorKind, KeyRange, Region, StoreId, Timestamp};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// For how long, at most, a predecessor is asked for regions.
pub(super) const BEFORE_MAX: Duration = Duration::from_secs(10);
/// First pause between two questions; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Does it know every region, and who leads each?
pub(super) fn knows_all(pd: &Pd) -> bool {
    let regions = pd.regions();
    let mut next = Some(Vec::new());
    for status in &regions {
        if status.leader.is_none() || next.as_ref() != Some(&status.region.range.start) {
            return false;
        }
        let end = &status.region.range.end;
        next = (!end.is_empty()).then(|| end.clone());
    }
    next.is_none()
}

impl Group {
    fn led(&self) -> Arc<Led> {
        self.latest().expect("a group is given out when it has its first leader")
    }

    /// Who is asked for regions.
    fn view(&self) -> Arc<Led> {
        let led = self.led();
        let Some((before, until)) = self.seen.read().before.clone() else { return led };
        if self.now() < until && !knows_all(&led.pd) {
            return before;
        }
        let mut seen = self.seen.write();
        if seen.latest.as_ref().is_some_and(|latest| latest.term == led.term) {
            seen.before = None;
        }
        led
    }

    /// Asks who was elected last; `Err`: it leads no more.
    fn once<T>(&self, ask: impl FnOnce(&Pd) -> T) -> std::result::Result<T, String> {
        let led = self.latest().ok_or("nobody has been elected yet")?;
        led.answer(ask)
            .map_err(|e| format!("member {} of term {} led last: {e}", led.member, led.term))
    }

    /// Asks until somebody leads.
    fn ask<T>(&self, ask: impl Fn(&Pd) -> T) -> std::result::Result<T, String> {
        let deadline = self.now() + self.setup.patience;
        let mut pause = PAUSE_MIN;
        loop {
            match self.once(&ask) {
                Ok(answer) => return Ok(answer),
                Err(why) if self.now() >= deadline => {
                    return Err(format!("no member of its group leads ({why})"));
                }
                Err(_) if self.closing.wait(pause) => return Err("the cluster stops".to_owned()),
                Err(_) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }

    fn change<T>(&self, ask: impl Fn(&Pd) -> Result<T>) -> Result<T> {
        self.ask(ask).unwrap_or_else(|why| Err(Error::Unavailable(why)))
    }

    fn report<T>(&self, ask: impl FnOnce(&Pd) -> Result<T>) -> Result<T> {
        self.once(ask).unwrap_or_else(|why| Err(Error::Unavailable(why)))
    }
}

impl Oracle for Group {
    fn get(&self, n: u32) -> std::result::Result<Timestamp, damask_tso::Error> {
        let moved = |e: &damask_tso::Error| e.kind() == ErrorKind::Reroute;
        let mut deadline = None;
        let mut pause = PAUSE_MIN;
        loop {
            // The oracle itself asks whether its lease lasts, after it has taken.
            let led = self.latest();
            let answer = led.map(|led| led.oracle.get(n)).unwrap_or_else(|| {
                Err(damask_tso::Error::new(ErrorKind::Reroute, "nobody has been elected yet"))
            });
            let Err(e) = answer else { return answer };
            if !moved(&e) {
                return Err(e);
            }
            // The clock is read only when something is wrong.
            let now = self.now();
            let deadline = *deadline.get_or_insert(now + self.setup.patience);
            if now >= deadline || self.closing.wait(pause) {
                let detail = format!("no member of its group leads ({})", e.detail);
                return Err(damask_tso::Error::new(ErrorKind::Retry, detail));
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Placement for Group {
    fn cluster_id(&self) -> u64 {
        self.led().pd.cluster_id()
    }

    fn bootstrap(&self, first: &Region) -> Result<bool> {
        self.change(|pd| pd.bootstrap(first))
    }

    fn bootstrapped(&self) -> Option<Region> {
        self.led().pd.bootstrapped()
    }

    fn set_initialised(&self, store: StoreId) -> Result<()> {
        self.change(|pd| pd.set_initialised(store))
    }

    fn is_initialised(&self, store: StoreId) -> bool {
        self.led().pd.is_initialised(store)
    }

    fn alloc_ids(&self, n: u64) -> Result<Range<u64>> {
        self.change(|pd| pd.alloc_ids(n))
    }

    fn register_store(&self, store: StoreInfo) -> Result<()> {
        self.change(|pd| pd.register_store(store.clone()))
    }

    fn stores(&self) -> Vec<StoreInfo> {
        self.led().pd.stores()
    }

    fn tick(&self, now_ms: u64) -> Result<()> {
        self.report(|pd| pd.tick(now_ms))
    }

    fn store_heartbeat(&self, report: StoreReport) -> Result<()> {
        self.report(|pd| pd.store_heartbeat(report))
    }

    fn region_heartbeat(&self, report: RegionReport) -> Result<Option<Step>> {
        self.report(|pd| pd.region_heartbeat(report))
    }

    fn set_store(&self, store: StoreId, settings: StoreSettings) -> Result<()> {
        self.change(|pd| pd.set_store(store, settings.clone()))
    }

    fn store_statuses(&self) -> Vec<StoreStatus> {
        self.led().pd.store_statuses()
    }

    fn order(&self, order: &Order) -> Result<()> {
        self.change(|pd| pd.order(order))
    }

    fn operators(&self) -> Vec<OperatorStatus> {
        self.led().pd.operators()
    }

    fn mark(&self, mark: Mark) -> u64 {
        self.led().pd.mark(mark)
    }

    fn raise(&self, mark: Mark, to: u64) -> Result<u64> {
        self.change(|pd| pd.raise(mark, to))
    }

    fn ask_split(&self, region: &Region, n: usize) -> Result<Vec<SplitIds>> {
        self.report(|pd| pd.ask_split(region, n))
    }

    fn route(&self, key: &[u8]) -> Option<Route> {
        let route = self.led().pd.route(key);
        let known = route.as_ref().is_some_and(|route| route.leader.is_some());
        if known { route } else { self.view().pd.route(key).or(route) }
    }

    fn regions(&self) -> Vec<RegionStatus> {
        self.view().pd.regions()
    }

    fn regions_in(&self, range: &KeyRange) -> Vec<RegionStatus> {
        self.view().pd.regions_in(range)
    }

    fn set_column_rule(&self, rule: ColumnRule) -> Result<()> {
        self.change(|pd| pd.set_column_rule(rule.clone()))
    }

    fn remove_column_rule(&self, range: &KeyRange) -> Result<()> {
        self.change(|pd| pd.remove_column_rule(range))
    }

    fn column_rules(&self) -> Vec<ColumnRule> {
        self.led().pd.column_rules()
    }

    fn column_progress(&self, range: &KeyRange) -> ColumnProgress {
        self.led().pd.column_progress(range)
    }
}
