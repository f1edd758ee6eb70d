//! The placement driver as another process reaches it: alone, or by its group's members, of which
//! the one that leads is looked for over the network. It must never answer from memory of a life
//! that has ended, nor say that nobody was asked when nobody has answered.

use crate::chance::Chance;
use crate::kernel::{Group, Micros, kernel};
use crate::members::{PdLife, member_ids};
use crate::net::{NodeId, PLACEMENT};
use crate::remote::{Process, Wire};
use crate::world::World;
use damask_env::simulation::pause;
use damask_pd::{
    ColumnProgress, ColumnRule, Config, Error, Mark, OperatorStatus, Order, Pd, Persist, Placement,
    RegionReport, RegionStatus, Result, Route, SplitIds, Step, StoreInfo, StoreReport,
    StoreSettings, StoreStatus,
};
use damask_pd_group::Led;
use damask_types::{KeyRange, Region, StoreId};
use parking_lot::{Mutex, RwLock};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a member of the group is waited for.
const MEMBER_PATIENCE: Duration = Duration::from_millis(150);
/// How long the group is asked, one member after the other; or a driver alone, again and again.
const GROUP_PATIENCE: Duration = Duration::from_millis(400);
/// Between two members.
const NEXT_MEMBER: Micros = 3_000;
/// So many times in a thousand one looks for the leader anew, although one was known.
const LOOK_PERMILLE: u64 = 120;

/// What a driver alone answers with in one life; nothing between two.
type Running = Arc<RwLock<Option<Arc<Pd>>>>;

/// What the driver's disk holds.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Persist for Kept {
    fn save(&self, bytes: &[u8]) -> std::result::Result<(), String> {
        *self.0.lock() = bytes.to_vec();
        Ok(())
    }
}

/// A driver alone, while it runs.
pub struct SimPd {
    running: Running,
    kept: Kept,
    config: Config,
}

impl SimPd {
    /// The driver of a new cluster.
    pub fn new(config: Config) -> Result<SimPd> {
        let kept = Kept::default();
        let pd = Pd::open(config.clone(), 1, None, Box::new(kept.clone()))?;
        Ok(SimPd { running: Arc::new(RwLock::new(Some(Arc::new(pd)))), kept, config })
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

    /// What answers, while it runs.
    pub fn up(&self) -> Result<Arc<Pd>> {
        let running = self.running.read().clone();
        running.ok_or_else(|| Error::Unavailable("it does not run".to_owned()))
    }
}

/// One life of a driver alone.
struct Serving {
    pd: Arc<Pd>,
    running: Running,
    group: Group,
}

impl Process for Serving {
    fn group(&self) -> Group {
        self.group
    }

    fn is_alive(&self) -> bool {
        self.running.read().as_ref().is_some_and(|pd| Arc::ptr_eq(pd, &self.pd))
    }

    fn hesitate(&self) {}
}

/// A driver alone, if it runs.
fn serving(world: &World) -> Option<Arc<Serving>> {
    let SimPd { running, .. } = &world.placement.alone.as_ref()?.pd;
    let pd = running.read().clone()?;
    Some(Arc::new(Serving { pd, running: running.clone(), group: world.placement.group }))
}

/// What a member says.
enum Said<T> {
    Answer(T),
    /// It does not lead (any more), and knows who does or not.
    Elsewhere(Option<NodeId>),
}

/// The placement driver, behind the network.
#[derive(Clone)]
pub struct RemotePd(Wire);

impl RemotePd {
    /// On a process's way to others.
    pub fn new(wire: Wire) -> RemotePd {
        RemotePd(wire)
    }

    /// Asks whoever leads, and again, until the patience is over. `ask` returns nothing if it
    /// leads no more.
    pub fn ask_leader<T: Send + 'static>(
        &self,
        patience: Duration,
        ask: impl Fn(&Led) -> Option<T> + Send + Sync + 'static,
    ) -> Option<T> {
        let Wire { world, alive, hint, .. } = &self.0;
        let members = member_ids(world.plan.limits.pds);
        let (end, ask) = (kernel().time() + patience.as_micros() as u64, Arc::new(ask));
        let known = hint.load(Ordering::Relaxed);
        let mut to = match known == 0 || kernel().draw(|chance| chance.permille(LOOK_PERMILLE)) {
            true => kernel().draw(|chance| chance.pick(&members).copied())?,
            false => known,
        };
        // Ends with its patience.
        loop {
            let (ask, id) = (ask.clone(), to);
            let work = move |life: &PdLife| {
                let answer = life.led().and_then(|led| ask(&led));
                answer.map_or_else(|| Said::Elsewhere(life.leader()), Said::Answer)
            };
            let find = move |world: &World| world.placement.life(id);
            let next = match self.0.call(to, MEMBER_PATIENCE, find, work) {
                Ok(Said::Answer(answer)) => {
                    hint.store(to, Ordering::Relaxed);
                    return Some(answer);
                }
                Ok(Said::Elsewhere(leader)) => leader.filter(|leader| *leader != to),
                Err(_) => None,
            };
            let other = |chance: &mut Chance| chance.pick(&members).copied();
            to = next.or_else(|| kernel().draw(other))?;
            if kernel().time() >= end || !alive.get() {
                return None;
            }
            pause(Duration::from_micros(NEXT_MEMBER));
        }
    }

    /// What the driver answers.
    pub fn ask<T: Send + 'static>(
        &self,
        ask: impl Fn(&Pd) -> T + Send + Sync + 'static,
    ) -> Result<T> {
        if self.0.world.placement.alone.is_some() {
            return self.ask_alone(ask);
        }
        let answer = self.ask_leader(GROUP_PATIENCE, move |led| led.answer(&ask).ok());
        answer.ok_or_else(|| Error::Unavailable("no member of its group leads".to_owned()))
    }

    fn ask_alone<T: Send + 'static>(
        &self,
        ask: impl Fn(&Pd) -> T + Send + Sync + 'static,
    ) -> Result<T> {
        let (end, ask) = (kernel().time() + GROUP_PATIENCE.as_micros() as u64, Arc::new(ask));
        // Ends with its patience.
        loop {
            let ask = ask.clone();
            let work = move |life: &Serving| ask(&life.pd);
            if let Ok(answer) = self.0.call(PLACEMENT, MEMBER_PATIENCE, serving, work) {
                return Ok(answer);
            }
            if kernel().time() >= end || !self.0.alive.get() {
                return Err(Error::Unavailable("the placement driver does not answer".to_owned()));
            }
            pause(Duration::from_micros(NEXT_MEMBER));
        }
    }

    fn change<T: Send + 'static>(
        &self,
        ask: impl Fn(&Pd) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        self.ask(ask)?
    }
}

impl Placement for RemotePd {
    fn cluster_id(&self) -> u64 {
        self.ask(|pd| pd.cluster_id()).unwrap_or_default()
    }

    fn bootstrap(&self, first: &Region) -> Result<bool> {
        let first = first.clone();
        self.change(move |pd| pd.bootstrap(&first))
    }

    fn bootstrapped(&self) -> Option<Region> {
        self.ask(|pd| pd.bootstrapped()).unwrap_or_default()
    }

    fn set_initialised(&self, store: StoreId) -> Result<()> {
        self.change(move |pd| pd.set_initialised(store))
    }

    fn is_initialised(&self, store: StoreId) -> bool {
        self.ask(move |pd| pd.is_initialised(store)).unwrap_or_default()
    }

    fn alloc_ids(&self, n: u64) -> Result<Range<u64>> {
        self.change(move |pd| pd.alloc_ids(n))
    }

    fn register_store(&self, store: StoreInfo) -> Result<()> {
        self.change(move |pd| pd.register_store(store.clone()))
    }

    fn stores(&self) -> Vec<StoreInfo> {
        self.ask(|pd| pd.stores()).unwrap_or_default()
    }

    fn tick(&self, now_ms: u64) -> Result<()> {
        self.change(move |pd| pd.tick(now_ms))
    }

    fn store_heartbeat(&self, report: StoreReport) -> Result<()> {
        self.change(move |pd| pd.store_heartbeat(report))
    }

    fn region_heartbeat(&self, report: RegionReport) -> Result<Option<Step>> {
        self.change(move |pd| pd.region_heartbeat(report.clone()))
    }

    fn set_store(&self, store: StoreId, settings: StoreSettings) -> Result<()> {
        self.change(move |pd| pd.set_store(store, settings.clone()))
    }

    fn store_statuses(&self) -> Vec<StoreStatus> {
        self.ask(|pd| pd.store_statuses()).unwrap_or_default()
    }

    fn order(&self, order: &Order) -> Result<()> {
        let order = order.clone();
        self.change(move |pd| pd.order(&order))
    }

    fn operators(&self) -> Vec<OperatorStatus> {
        self.ask(|pd| pd.operators()).unwrap_or_default()
    }

    fn mark(&self, mark: Mark) -> u64 {
        self.ask(move |pd| pd.mark(mark)).unwrap_or_default()
    }

    fn raise(&self, mark: Mark, to: u64) -> Result<u64> {
        self.change(move |pd| pd.raise(mark, to))
    }

    fn ask_split(&self, region: &Region, n: usize) -> Result<Vec<SplitIds>> {
        let region = region.clone();
        self.change(move |pd| pd.ask_split(&region, n))
    }

    fn route(&self, key: &[u8]) -> Option<Route> {
        let key = key.to_vec();
        self.ask(move |pd| pd.route(&key)).unwrap_or_default()
    }

    fn regions(&self) -> Vec<RegionStatus> {
        self.ask(|pd| pd.regions()).unwrap_or_default()
    }

    fn regions_in(&self, range: &KeyRange) -> Vec<RegionStatus> {
        let range = range.clone();
        self.ask(move |pd| pd.regions_in(&range)).unwrap_or_default()
    }

    fn set_column_rule(&self, rule: ColumnRule) -> Result<()> {
        self.change(move |pd| pd.set_column_rule(rule.clone()))
    }

    fn remove_column_rule(&self, range: &KeyRange) -> Result<()> {
        let range = range.clone();
        self.change(move |pd| pd.remove_column_rule(&range))
    }

    fn column_rules(&self) -> Vec<ColumnRule> {
        self.ask(|pd| pd.column_rules()).unwrap_or_default()
    }

    fn column_progress(&self, range: &KeyRange) -> ColumnProgress {
        let range = range.clone();
        self.ask(move |pd| pd.column_progress(&range)).unwrap_or_default()
    }
}
