//! Reads in the past from any replica: stores that move the safe timestamps of what they lead, and
//! clients that read at them, from rows and from columns. It must never look at what is there to
//! choose a timestamp, but only at what is called safe.

use crate::clients::Session;
use crate::columns;
use crate::kernel::kernel;
use crate::nodes::{Alive, Life};
use crate::tables::{BANK, ITEMS, LISTS, REGISTERS, WITH_COLUMNS};
use crate::work::{scan_rows, some_ts};
use crate::world::World;
use damask_env::simulation::pause;
use damask_txn::{Error, Transaction, TxnServer};
use damask_types::key::row_range;
use damask_types::{ErrorKind, KeyLock, StoreId, TableId, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// A lock that is older than this, in milliseconds, is asked about.
const HELD_MS_MAX: u64 = 250;
/// What stores' own clients draw their chance by.
const PURPOSE: u64 = 600;
/// So many times in a thousand the timestamp is one that some replica calls safe.
const SAFE_PERMILLE: u64 = 800;

/// Moves a store's safe timestamps until its process ends, or clients do.
pub fn start(world: &Arc<World>, id: StoreId, alive: &Alive, server: Arc<TxnServer>) {
    let (world, alive) = (world.clone(), alive.clone());
    let interval = Duration::from_millis(world.plan.limits.resolved_ms);
    if interval.is_zero() {
        return;
    }
    let body = move || {
        let session = Session::open(&world, id.0, alive, PURPOSE + id.0);
        while session.alive.get() && !world.is_over() && !world.has_failed() {
            pause(interval);
            advance(&session, id, &server);
        }
    };
    drop(damask_env::spawn("resolved-ts", body));
}

/// One round, as the product's nodes do it.
fn advance(session: &Session, id: StoreId, server: &TxnServer) {
    let advance = match server.advance() {
        Ok(advance) => advance,
        Err(e) => {
            let broken = matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Invalid);
            if broken && session.alive.get() && !session.world.found_rot(id) {
                session.world.fail(format!("safe timestamps of store {id}: {e}"));
            }
            return;
        }
    };
    kernel().note("resolved", id.0, advance.ts.0, advance.regions as u64);
    let old = |lock: &KeyLock| {
        lock.lock.start_ts.physical_ms().saturating_add(HELD_MS_MAX) < advance.ts.physical_ms()
    };
    let held: Vec<KeyLock> = advance.held.into_iter().filter(old).collect();
    if !held.is_empty()
        && let Ok(pushed) = session.client.push_locks(&held, advance.ts)
    {
        server.pushed(&pushed, advance.ts);
    }
}

/// Up to where some replica of a part of the table may be read without asking; or any timestamp
/// that is over.
fn past_ts(session: &mut Session, table: TableId) -> Option<Timestamp> {
    if !session.chance.permille(SAFE_PERMILLE) {
        return some_ts(session);
    }
    let lives = session.world.lives();
    let life = session.chance.pick(&lives)?;
    let server = life.server.as_ref()?;
    let mut regions = life.handle.replicas();
    regions.retain(|status| status.region.range.intersect(&row_range(table)).is_some());
    let ts = server.safe_ts(session.chance.pick(&regions)?.region.id);
    (ts > Timestamp::ZERO).then_some(ts)
}

/// The newest timestamp that any replica of a row's region calls safe.
pub fn boldest(world: &World, row: &[u8]) -> Option<Timestamp> {
    let safe_of = |life: &Arc<Life>| {
        let server = life.server.as_ref()?;
        let mut replicas = life.handle.replicas().into_iter();
        let of = replicas.find(|status| status.region.range.contains(row))?;
        Some(server.safe_ts(of.region.id))
    };
    world.lives().iter().filter_map(safe_of).max().filter(|ts| *ts > Timestamp::ZERO)
}

/// A transaction that reads at a timestamp that somebody has called safe, or that is over.
pub fn begin(session: &Session, ts: Timestamp) -> Option<Transaction> {
    match session.client.begin_stale(ts) {
        Ok(txn) => Some(txn),
        Err(Error::Invalid(why)) => {
            session.world.fail(format!("a read at {ts}: {why}"));
            None
        }
        Err(_) => None,
    }
}

/// Reads some table in the past, once or again, and perhaps its columns at the same timestamp.
pub fn read_some(session: &mut Session) {
    let tables = [BANK, LISTS, ITEMS, REGISTERS];
    let Some(table) = session.chance.pick(&tables).copied() else { return };
    let Some(ts) = past_ts(session, table) else { return };
    let Some(txn) = begin(session, ts) else { return };
    for _ in 0..session.chance.between(1, 3) {
        let (before, _) = session.client.stale_reads();
        let reverse = session.chance.permille(300);
        let read = scan_rows(session, table, txn.snapshot(), reverse);
        let (served, _) = session.client.stale_reads();
        let mut counts = session.world.counts.lock();
        counts.stale_scans += u64::from(read.is_some());
        counts.stale_served += served - before;
    }
    if session.world.plan.limits.columns > 0
        && WITH_COLUMNS.contains(&table)
        && session.chance.permille(400)
    {
        columns::read_at_once(session, table, ts);
    }
    txn.rollback();
}
