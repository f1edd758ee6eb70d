//! The placement driver's process as everybody reaches it: the product's own driver while it runs,
//! nobody while it is down, and after a crash what it has saved. It must never answer from memory
//! of a life that has ended.

use damask_pd::{
    ColumnProgress, ColumnRule, Config, Error, Mark, OperatorStatus, Order, Pd, Persist, Placement,
    RegionReport, RegionStatus, Result, Route, SplitIds, Step, StoreInfo, StoreReport,
    StoreSettings, StoreStatus,
};
use damask_types::{KeyRange, Region, StoreId};
use parking_lot::{Mutex, RwLock};
use std::ops::Range;
use std::sync::Arc;

/// What the driver's disk holds.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Persist for Kept {
    fn save(&self, bytes: &[u8]) -> std::result::Result<(), String> {
        *self.0.lock() = bytes.to_vec();
        Ok(())
    }
}

/// The driver, while it runs.
pub struct SimPd {
    running: RwLock<Option<Arc<Pd>>>,
    kept: Kept,
    config: Config,
}

impl SimPd {
    /// The driver of a new cluster.
    pub fn new(config: Config) -> Result<SimPd> {
        let kept = Kept::default();
        let pd = Pd::open(config.clone(), 1, None, Box::new(kept.clone()))?;
        Ok(SimPd { running: RwLock::new(Some(Arc::new(pd))), kept, config })
    }

    /// Does it run?
    pub fn runs(&self) -> bool {
        self.running.read().is_some()
    }

    /// Its process ends.
    pub fn crash(&self) {
        *self.running.write() = None;
    }

    /// Its process begins again, with what it had saved. No news if it runs.
    pub fn restart(&self) -> Result<()> {
        let mut running = self.running.write();
        if running.is_none() {
            let saved = self.kept.0.lock().clone();
            let pd = Pd::open(self.config.clone(), 1, Some(&saved), Box::new(self.kept.clone()))?;
            *running = Some(Arc::new(pd));
        }
        Ok(())
    }

    fn up(&self) -> Result<Arc<Pd>> {
        let running = self.running.read().clone();
        running.ok_or_else(|| Error::Unavailable("it does not run".to_owned()))
    }
}

impl Placement for SimPd {
    fn cluster_id(&self) -> u64 {
        self.up().map_or(0, |pd| pd.cluster_id())
    }

    fn bootstrap(&self, first: &Region) -> Result<bool> {
        self.up()?.bootstrap(first)
    }

    fn bootstrapped(&self) -> Option<Region> {
        self.up().ok()?.bootstrapped()
    }

    fn set_initialised(&self, store: StoreId) -> Result<()> {
        self.up()?.set_initialised(store)
    }

    fn is_initialised(&self, store: StoreId) -> bool {
        self.up().is_ok_and(|pd| pd.is_initialised(store))
    }

    fn alloc_ids(&self, n: u64) -> Result<Range<u64>> {
        self.up()?.alloc_ids(n)
    }

    fn register_store(&self, store: StoreInfo) -> Result<()> {
        self.up()?.register_store(store)
    }

    fn stores(&self) -> Vec<StoreInfo> {
        self.up().map_or_else(|_| Vec::new(), |pd| pd.stores())
    }

    fn tick(&self, now_ms: u64) -> Result<()> {
        self.up()?.tick(now_ms)
    }

    fn store_heartbeat(&self, report: StoreReport) -> Result<()> {
        self.up()?.store_heartbeat(report)
    }

    fn region_heartbeat(&self, report: RegionReport) -> Result<Option<Step>> {
        self.up()?.region_heartbeat(report)
    }

    fn set_store(&self, store: StoreId, settings: StoreSettings) -> Result<()> {
        self.up()?.set_store(store, settings)
    }

    fn store_statuses(&self) -> Vec<StoreStatus> {
        self.up().map_or_else(|_| Vec::new(), |pd| pd.store_statuses())
    }

    fn order(&self, order: &Order) -> Result<()> {
        self.up()?.order(order)
    }

    fn operators(&self) -> Vec<OperatorStatus> {
        self.up().map_or_else(|_| Vec::new(), |pd| pd.operators())
    }

    fn mark(&self, mark: Mark) -> u64 {
        self.up().map_or(0, |pd| pd.mark(mark))
    }

    fn raise(&self, mark: Mark, to: u64) -> Result<u64> {
        self.up()?.raise(mark, to)
    }

    fn ask_split(&self, region: &Region, n: usize) -> Result<Vec<SplitIds>> {
        self.up()?.ask_split(region, n)
    }

    fn route(&self, key: &[u8]) -> Option<Route> {
        self.up().ok()?.route(key)
    }

    fn regions(&self) -> Vec<RegionStatus> {
        self.up().map_or_else(|_| Vec::new(), |pd| pd.regions())
    }

    fn regions_in(&self, range: &KeyRange) -> Vec<RegionStatus> {
        self.up().map_or_else(|_| Vec::new(), |pd| pd.regions_in(range))
    }

    fn set_column_rule(&self, rule: ColumnRule) -> Result<()> {
        self.up()?.set_column_rule(rule)
    }

    fn remove_column_rule(&self, range: &KeyRange) -> Result<()> {
        self.up()?.remove_column_rule(range)
    }

    fn column_rules(&self) -> Vec<ColumnRule> {
        self.up().map_or_else(|_| Vec::new(), |pd| pd.column_rules())
    }

    fn column_progress(&self, range: &KeyRange) -> ColumnProgress {
        self.up().map_or_else(|_| ColumnProgress::default(), |pd| pd.column_progress(range))
    }
}
