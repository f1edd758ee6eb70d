//! The two seams: what a client needs to find a key, and what the rest of the cluster needs of a
//! placement driver (in process, or behind a wire). No implementation lives here.

use crate::error::Result;
use crate::values::*;
use damask_types::{KeyRange, Peer, Region, RegionId, StoreId};
use std::ops::Range;

/// Finds keys for a client; may be out of date, then a store says so and the client says it here.
pub trait Locate: Send + Sync {
    /// The region that holds `key`, as far as known.
    fn locate(&self, key: &[u8]) -> Option<Route>;
    /// The regions that cover `range`, in key order; empty when a part of it is unknown.
    fn locate_range(&self, range: &KeyRange) -> Vec<Route>;
    /// Newer descriptions, from a store's "epoch does not match".
    fn update(&self, regions: Vec<Region>);
    /// A store said who leads; `None`: not the one we thought.
    fn set_leader(&self, region: RegionId, leader: Option<Peer>);
    /// What is known of the region is wrong: ask again.
    fn invalidate(&self, region: RegionId);
}

/// A placement driver.
pub trait Placement: Send + Sync {
    /// Which cluster this is; never changes.
    fn cluster_id(&self) -> u64;
    /// Announces the first region, which holds every key. False: it was done before, and nothing
    /// has changed.
    fn bootstrap(&self, first: &Region) -> Result<bool>;
    /// The region that was announced, as it was then.
    fn bootstrapped(&self) -> Option<Region>;
    /// This store's disk holds data now. From then on an empty disk under its id is a loss, and
    /// must not be taken for a new store: a replica that forgets its votes can elect a leader
    /// without the data. Noted by itself for stores whose replicas a leader reports as caught up.
    fn set_initialised(&self, store: StoreId) -> Result<()>;
    /// Has it held data, at any time before?
    fn is_initialised(&self, store: StoreId) -> bool;
    /// `n` ids that nobody has and nobody will have; for regions and peers alike.
    fn alloc_ids(&self, n: u64) -> Result<Range<u64>>;
    /// A store starts; one that is known may have a new address, never another kind.
    fn register_store(&self, store: StoreInfo) -> Result<()>;
    /// Every store, by id.
    fn stores(&self) -> Vec<StoreInfo>;
    /// Time has come this far, in milliseconds on a clock of the caller's that never goes back:
    /// the cluster is planned for, operators that took too long are given up. Never called: no
    /// store is ever silent, and nothing is balanced.
    fn tick(&self, now_ms: u64) -> Result<()>;
    /// A store reports about itself: it is there.
    fn store_heartbeat(&self, report: StoreReport) -> Result<()>;
    /// A leader reports; the answer is its next step. Repeated until a report shows it done.
    fn region_heartbeat(&self, report: RegionReport) -> Result<Option<Step>>;
    /// What a store is meant to do, and where it stands. Durable.
    fn set_store(&self, store: StoreId, settings: StoreSettings) -> Result<()>;
    /// Every store by id, with what it carries.
    fn store_statuses(&self) -> Vec<StoreStatus>;
    /// Has something done by hand; it begins with the region's next report.
    fn order(&self, order: &Order) -> Result<()>;
    /// Operators in flight, then some that have ended.
    fn operators(&self) -> Vec<OperatorStatus>;
    /// A value that only grows; 0 at first.
    fn mark(&self, mark: Mark) -> u64;
    /// Raises a mark, never lowers it: its value now, which is durable.
    fn raise(&self, mark: Mark, to: u64) -> Result<u64>;
    /// Ids for `n` new regions, split off this one.
    fn ask_split(&self, region: &Region, n: usize) -> Result<Vec<SplitIds>>;
    /// Where a key lives.
    fn route(&self, key: &[u8]) -> Option<Route>;
    /// Every region known, in key order.
    fn regions(&self) -> Vec<RegionStatus>;
    /// Those that overlap a range, in key order.
    fn regions_in(&self, range: &KeyRange) -> Vec<RegionStatus>;
    /// Wants column replicas for a range; replaces the rule for exactly this range. It must not
    /// overlap another rule's range. No replicas = no rule.
    fn set_column_rule(&self, rule: ColumnRule) -> Result<()>;
    /// Removes the rule for exactly this range, if there is one.
    fn remove_column_rule(&self, range: &KeyRange) -> Result<()>;
    /// Every rule, in key order.
    fn column_rules(&self) -> Vec<ColumnRule>;
    /// How far the rule that holds `range` is carried out in it.
    fn column_progress(&self, range: &KeyRange) -> ColumnProgress;
}
