//! Faults with witnesses: a leader that does not know yet that it leads no more, somebody who goes
//! on reading from it, and somebody who writes to its successor. It must never let a witness outlive
//! the storm by more than one request.

use crate::clients::Session;
use crate::columns;
use crate::history::Latest;
use crate::kernel::{Micros, kernel};
use crate::net::FIRST_CLIENT;
use crate::nodes::{Alive, Life, crash};
use crate::stale;
use crate::tables::{REGISTERS, Value, WITH_COLUMNS, key};
use crate::work::{REGISTER_KEYS, scan_range};
use crate::world::World;
use damask_env::simulation::pause;
use damask_types::key::{decode_row_key, row_range};
use damask_types::{KeyRange, Region, TableId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The first witness.
const FIRST_WITNESS: u64 = FIRST_CLIENT + 800;
/// Until the reader knows the way to the leader.
const WARM_UP: Micros = 25_000;
/// Shorter than this, no successor is elected.
const RIVALRY_MIN: Micros = 900_000;
/// Whoever reads what is safe asks again after this time.
const READER_PATIENCE: Duration = Duration::from_millis(60);
/// A writer goes on to the next leader after this time.
const WRITER_PATIENCE: Duration = Duration::from_millis(60);

impl World {
    /// Makes one of these leaders an old one, with witnesses.
    pub fn rival(self: &Arc<World>, led: &[(Arc<Life>, Region)], time: Micros, pick: u64) {
        let row = key(REGISTERS, ((pick >> 4) % REGISTER_KEYS as u64) as i64);
        let found = led.iter().find(|(_, region)| region.range.contains(&row));
        let Some((leader, region)) = found.cloned() else { return };
        let time = time.max(RIVALRY_MIN);
        let end = kernel().time() + WARM_UP + time;
        self.readers(pick, end, &row);
        let world = self.clone();
        kernel().after(WARM_UP, move || {
            if world.is_calm() {
                return;
            }
            world.witness(pick ^ 1, end, row, write);
            match pick % 3 {
                // Reads are served on other threads than the one that would hear of it.
                0 => kernel().stall(leader.group, "raft", time),
                1 => world.change_sides(&leader, &region, time),
                _ => {
                    let alone = leader.handle.id();
                    for other in world.store_ids().into_iter().filter(|other| *other != alone) {
                        world.cut(alone.0, other.0, time);
                        world.cut(other.0, alone.0, time);
                    }
                }
            }
        });
    }

    /// A follower hears nothing of the leader and wants to be one; another one, which has promised
    /// the leader its vote, loses power and comes back without hearing from the leader.
    fn change_sides(self: &Arc<World>, leader: &Arc<Life>, region: &Region, time: Micros) {
        let old = leader.handle.id();
        let others: Vec<_> = region.voters().filter(|peer| peer.store != old).collect();
        let [one, other] = others[..] else { return };
        let apart = move |world: &Arc<World>, a: u64, b: u64| {
            world.cut(a, b, time);
            world.cut(b, a, time);
        };
        apart(self, old.0, one.store.0);
        let (world, follower) = (self.clone(), other.store);
        kernel().after(time / 2, move || {
            if !world.is_calm() {
                apart(&world, old.0, follower.0);
                crash(&world, follower, 1);
            }
        });
    }

    /// Somebody reads the columns of a region's tables now.
    pub fn read_columns(self: &Arc<World>, pick: u64, range: &KeyRange) {
        let inside = |table: &TableId| row_range(*table).intersect(range).is_some();
        let tables: Vec<TableId> = WITH_COLUMNS.into_iter().filter(inside).collect();
        let Some(table) = tables.get(pick as usize % tables.len().max(1)).copied() else { return };
        let end = kernel().time();
        self.witness(pick, end, key(table, 0), |world, pick, _, row| {
            let mut session = open(world, pick);
            if let (Some((table, _)), Ok(ts)) = (decode_row_key(row), session.client.timestamp()) {
                columns::read(&mut session, table, ts);
            }
            session.client.flush();
        });
    }

    /// Somebody reads a row's newest version, and somebody else what is called safe.
    pub fn readers(self: &Arc<World>, pick: u64, end: Micros, row: &[u8]) {
        self.witness(pick, end, row.to_vec(), read);
        if self.plan.limits.resolved_ms > 0 {
            self.witness(pick ^ 3, end, row.to_vec(), read_boldest);
        }
    }

    /// Somebody does something for a while.
    pub fn witness(
        self: &Arc<World>,
        pick: u64,
        end: Micros,
        row: Vec<u8>,
        body: fn(&Arc<World>, u64, Micros, &[u8]),
    ) {
        let world = self.clone();
        let group = kernel().group(pick % 1_000_000, 1_000_000);
        self.at_work.fetch_add(1, Ordering::Relaxed);
        kernel().spawn_in(group, "witness", move || {
            body(&world, pick, end, &row);
            world.at_work.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Has a witness seen enough?
    pub fn witnessed(&self, end: Micros) -> bool {
        kernel().time() >= end || self.is_calm() || self.has_failed()
    }
}

/// A witness's own client.
pub fn open(world: &Arc<World>, pick: u64) -> Session {
    Session::open(world, FIRST_WITNESS + pick % 64, Alive::new(), 800 + pick % 4_096)
}

/// Reads by the way that was right at first.
fn read(world: &Arc<World>, pick: u64, end: Micros, row: &[u8]) {
    let mut session = open(world, pick);
    while !world.witnessed(end) {
        let begun = world.history.lock().place();
        if let Ok(value) = session.client.get_latest(row) {
            let mut history = world.history.lock();
            let answered = history.place();
            history.latest.push(Latest { key: row.to_vec(), value, begun, answered });
        }
        session.think(4);
    }
    session.client.flush();
}

/// Reads a row, from one replica after another, at what the boldest of them calls safe.
fn read_boldest(world: &Arc<World>, pick: u64, end: Micros, row: &[u8]) {
    let mut session = open(world, pick);
    session.be_impatient(READER_PATIENCE);
    let mut after = row.to_vec();
    after.push(0);
    let range = KeyRange::new(row.to_vec(), after);
    while !world.witnessed(end) {
        if let Some(txn) = stale::boldest(world, row).and_then(|ts| stale::begin(&session, ts)) {
            scan_range(&session, &range, txn.snapshot(), false);
            txn.rollback();
        }
        session.think(4);
    }
    session.client.flush();
}

/// Writes by a way that is asked for anew each time.
pub fn write(world: &Arc<World>, pick: u64, end: Micros, row: &[u8]) {
    let mut round = pick;
    while !world.witnessed(end) {
        round = round.wrapping_add(0x9E37_79B9);
        let mut session = open(world, round);
        session.be_impatient(WRITER_PATIENCE);
        let value = world.history.lock().place() as i64;
        session.transact(|txn| txn.put_row(row, &Value::Number(value)));
        session.client.flush();
        pause(Duration::from_millis(3));
    }
}
