//! `ALTER TABLE … SET COLUMN REPLICA` as the placement driver's column rules, and what the
//! optimizer asks of it. It must never promise columns that no running store serves.

use crate::nodes::Content;
use crate::placement::{Announce, Member, Members};
use damask_env::Clock;
use damask_kv::Cf;
use damask_pd::{ColumnRule, Placement, RegionStatus};
use damask_sql_lite::database::ColumnReplicas;
use damask_sql_lite::query::{TableFacts, TableSize};
use damask_types::codec::encode_key;
use damask_types::key::row_range;
use damask_types::{KeyRange, Peer, RegionId, StoreId, TableId, TableSchema};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Bytes that a row takes with its key, about, where nothing better is known.
const ROW_BYTES: f64 = 100.0;
/// Rows of a table whose size is not known yet: enough to prefer a key to a scan.
const ROWS_UNKNOWN: f64 = 1000.0;
/// A table is not measured again before this time has passed, …
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// … nor before so many times what it took: some engines can only count.
const MEASURE_COST: u32 = 50;
/// Columns that lag more are not waited for, to tell by how much.
const LAG_MAX: Duration = Duration::from_secs(1);
/// Between two looks at columns that lag.
const LAG_LOOK: Duration = Duration::from_millis(1);
/// Tables whose size is remembered.
const MEASURED_MAX: usize = 4096;

/// Column replicas by rule; sizes by what the stores hold.
///
/// A table whose replicas have all caught up once stays available (TiDB's AVAILABLE) until its rule
/// changes, or a region has no replica on a store that runs: a learner that falls behind is waited
/// for by its readers. One copy of all its regions that has caught up is read whatever the others do.
pub struct Replicas {
    pd: Arc<dyn Placement>,
    members: Members,
    /// Asked to look at once.
    announce: Announce,
    clock: Arc<dyn Clock>,
    /// Column stores of this cluster.
    stores: u32,
    /// Starts of the ranges that were complete once.
    complete: Mutex<HashSet<Vec<u8>>>,
    measured: Mutex<HashMap<TableId, Measured>>,
}

/// A table's rows, until its regions report other sizes.
#[derive(Clone, Copy)]
struct Measured {
    rows: f64,
    regions: usize,
    bytes: u64,
    /// Not again before.
    next: Duration,
}

/// Column replicas that are to apply a region's log up to an index.
struct Goal {
    region: RegionId,
    index: u64,
    stores: Vec<StoreId>,
}

/// Column stores that run.
struct Running(HashSet<StoreId>);

impl Running {
    /// A region's replicas on them.
    fn of<'a>(&'a self, status: &'a RegionStatus) -> impl Iterator<Item = &'a Peer> {
        status.region.learners().filter(|peer| self.0.contains(&peer.store))
    }
}

impl Replicas {
    /// For a cluster with so many column stores.
    pub fn new(
        pd: Arc<dyn Placement>,
        members: Members,
        announce: Announce,
        clock: Arc<dyn Clock>,
        stores: u32,
    ) -> Replicas {
        let (complete, measured) = (Mutex::default(), Mutex::default());
        Replicas { pd, members, announce, clock, stores, complete, measured }
    }

    fn is_available(&self, range: &KeyRange) -> bool {
        // Without a rule (of a dropped table that is read in the past) replicas are about to go.
        let is_wanted = self.pd.column_progress(range).wanted > 0;
        let served = || self.was_complete(range) && self.every_region_is_served(range);
        is_wanted && (served() || self.has_one_whole_copy(range))
    }

    fn was_complete(&self, range: &KeyRange) -> bool {
        let mut complete = self.complete.lock();
        if self.pd.column_progress(range).is_complete() {
            complete.insert(range.start.clone());
        }
        complete.contains(&range.start)
    }

    /// Has each region a column replica on a store that runs?
    fn every_region_is_served(&self, range: &KeyRange) -> bool {
        let running = self.running();
        self.pd.regions_in(range).iter().all(|region| running.of(region).next().is_some())
    }

    fn running(&self) -> Running {
        let members = self.members.read();
        let runs = |member: &Member| {
            member.failed().is_none() && matches!(member.content, Content::Columns(_))
        };
        Running(members.iter().filter(|(_, member)| runs(member)).map(|(id, _)| *id).collect())
    }

    /// Has each region a column replica that runs and has caught up, whatever became of the others?
    fn has_one_whole_copy(&self, range: &KeyRange) -> bool {
        let (running, regions) = (self.running(), self.pd.regions_in(range));
        let mut reached = range.start.clone();
        let whole = regions.iter().all(|status| {
            let is_next = status.region.range.start <= reached;
            reached.clone_from(&status.region.range.end);
            let ready = |peer: &Peer| !status.pending.contains(&peer.id);
            is_next && status.leader.is_some() && running.of(status).any(ready)
        });
        let to_the_end = reached.is_empty() || !range.end.is_empty() && reached >= range.end;
        whole && !regions.is_empty() && to_the_end
    }

    /// What is committed now in the regions of a range, and who that runs is to have it; `None`: a
    /// region has no leader or no such column replica.
    fn goals(&self, range: &KeyRange) -> Option<Vec<Goal>> {
        let running = self.running();
        let goal = |status: &RegionStatus| {
            let (region, leader) = (status.region.id, status.leader?.store);
            let member = self.members.read().get(&leader).cloned()?;
            let index = member.handle.replica(region)?.commit;
            let stores: Vec<_> = running.of(status).map(|peer| peer.store).collect();
            (!stores.is_empty()).then_some(Goal { region, index, stores })
        };
        self.pd.regions_in(range).iter().map(goal).collect()
    }

    fn is_reached(&self, goal: &Goal) -> bool {
        self.applied(goal).is_some_and(|index| index >= goal.index)
    }

    /// Up to where all of them have it; `None`: one has no replica, or does not run.
    fn applied(&self, goal: &Goal) -> Option<u64> {
        let members = self.members.read();
        let applied = |store| Some(members.get(store)?.handle.replica(goal.region)?.applied.index);
        goal.stores.iter().map(applied).collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    /// Rows in the columns, of every version that is still kept in the delta.
    fn column_rows(&self, table: &TableSchema) -> Option<f64> {
        if !self.columns_ready(table) {
            return None;
        }
        let mut rows = 0;
        let members: Vec<_> = self.members.read().values().cloned().collect();
        for member in members {
            if let Content::Columns(columns) = &member.content {
                let stats = columns.stats(table.id).ok()?;
                rows += stats.stable_rows + stats.delta_rows;
            }
        }
        Some(rows as f64 / f64::from(table.column_replicas))
    }

    /// Keys of a region's part of the table, as an engine that holds it counts them.
    fn row_keys(&self, status: &RegionStatus, range: &KeyRange) -> Option<u64> {
        let part = status.region.range.intersect(range)?;
        let form = |key: &[u8]| if key.is_empty() { Vec::new() } else { encode_key(key) };
        let (start, end) = (form(&part.start), form(&part.end));
        let held: Vec<Member> = {
            let members = self.members.read();
            let peers = status.leader.iter().chain(status.region.voters());
            peers.filter_map(|peer| members.get(&peer.store).cloned()).collect()
        };
        held.iter().find_map(|member| match &member.content {
            Content::Rows(engine) => Some(engine.estimate(Cf::Write, &start, &end).ok()?.keys),
            Content::Columns(_) => None,
        })
    }

    fn measure(&self, table: &TableSchema, regions: &[RegionStatus]) -> f64 {
        let range = row_range(table.id);
        let rows = |status: &RegionStatus| match self.row_keys(status, &range) {
            Some(keys) => keys as f64,
            None => status.bytes as f64 / ROW_BYTES,
        };
        self.column_rows(table).unwrap_or_else(|| regions.iter().map(rows).sum())
    }
}

impl ColumnReplicas for Replicas {
    fn set(&self, range: KeyRange, replicas: u32) -> Result<(), String> {
        if replicas > self.stores {
            let nodes = if self.stores == 1 { "node" } else { "nodes" };
            return Err(format!(
                "{replicas} were asked for, each on a column node of its own, and the cluster has \
                 {} column {nodes} (--columns)",
                self.stores
            ));
        }
        self.complete.lock().remove(&range.start);
        let rule = ColumnRule { range, replicas };
        self.pd.set_column_rule(rule).map_err(|e| e.to_string())?;
        self.announce.hurry();
        Ok(())
    }

    fn remove(&self, range: &KeyRange) -> Result<(), String> {
        self.complete.lock().remove(&range.start);
        self.pd.remove_column_rule(range).map_err(|e| e.to_string())?;
        self.announce.hurry();
        Ok(())
    }

    fn progress(&self, range: &KeyRange) -> (u32, u32) {
        let progress = self.pd.column_progress(range);
        // A replica on a store that does not run is not ready, whatever was last heard of it.
        let is_available = self.was_complete(range) && self.every_region_is_served(range);
        let ready = match is_available {
            true => progress.wanted,
            false => progress.ready.min(progress.wanted.saturating_sub(1)),
        };
        (ready as u32, progress.wanted as u32)
    }

    fn indexes(&self, range: &KeyRange) -> Option<(u64, u64)> {
        let goals = self.goals(range)?;
        let applied = goals.iter().map(|goal| self.applied(goal)).sum::<Option<u64>>()?;
        Some((applied, goals.iter().map(|goal| goal.index).sum()))
    }

    fn lag_ms(&self, range: &KeyRange) -> Option<u64> {
        if !self.every_region_is_served(range) {
            return None; // waiting for a store that does not run would only take time
        }
        let asked = self.clock.monotonic();
        let goals = self.goals(range)?;
        // Ends: after LAG_MAX at the latest.
        loop {
            let waited = self.clock.monotonic().saturating_sub(asked);
            match () {
                () if goals.iter().all(|goal| self.is_reached(goal)) => {
                    return Some(waited.as_millis() as u64);
                }
                () if waited > LAG_MAX => return None,
                () => std::thread::park_timeout(LAG_LOOK),
            }
        }
    }
}

impl TableFacts for Replicas {
    fn size(&self, table: &TableSchema) -> TableSize {
        let regions = self.pd.regions_in(&row_range(table.id));
        let bytes = regions.iter().map(|status| status.bytes).sum();
        let now = self.clock.monotonic();
        let known = self.measured.lock().get(&table.id).copied();
        let is_fresh =
            |m: &Measured| now < m.next || (m.regions, m.bytes) == (regions.len(), bytes);
        let rows = match known.filter(is_fresh) {
            Some(measured) => measured.rows,
            None => {
                let rows = self.measure(table, &regions);
                let took = self.clock.monotonic().saturating_sub(now);
                let next = now + MEASURE_EVERY.max(took * MEASURE_COST);
                let mut measured = self.measured.lock();
                if measured.len() >= MEASURED_MAX {
                    measured.clear();
                }
                measured.insert(table.id, Measured { rows, regions: regions.len(), bytes, next });
                rows
            }
        };
        TableSize { rows: rows.max(ROWS_UNKNOWN), regions: regions.len().max(1) as f64 }
    }

    fn columns_ready(&self, table: &TableSchema) -> bool {
        table.column_replicas > 0 && self.is_available(&row_range(table.id))
    }

    fn columns_stopped(&self, table: &TableSchema) -> bool {
        let regions = self.pd.regions_in(&row_range(table.id));
        let has_any = |r: &RegionStatus| r.region.learners().next().is_some();
        let running = self.running();
        regions.iter().any(|r| has_any(r) && running.of(r).next().is_none())
    }
}
