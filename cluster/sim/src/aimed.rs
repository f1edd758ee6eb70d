//! Faults that aim: chains of events around one region, in which one rule of the product is all
//! that stands between a client and a wrong answer. It must never count on a chain to come to its
//! end: any other fault may break it, and then nothing has happened.
//!
//! ```text
//!   late answers   the last acknowledgements reach a leader when others elect; it is read from
//!   forgetful      one stands for election where nothing happens, its voter restarts; leader read
//!   slow split     the leader is the last to apply a split; others elect for the child; it is read
//!   early vote     a store votes in a region that it does not have yet, and restarts
//!   late merge     a replica lacks the last entries of a region when another one takes it in
//!   column rush    rows are stored slowly while many read their columns
//!   late lock      a lock runs out, and a late copy of its request takes it above another commit
//! ```

use crate::columns;
use crate::faults::REGIONS_MAX;
use crate::kernel::{Micros, kernel};
use crate::nodes::{Life, crash};
use crate::plan::FaultKind;
use crate::rivals::{open, write};
use crate::tables::{BANK, ITEMS, LISTS, QUIET, REGISTERS, WITH_COLUMNS, key};
use crate::work::{self, ACCOUNTS, REGISTER_KEYS, fleeting};
use crate::world::World;
use damask_env::simulation::pause;
use damask_raftstore::PeerChange;
use damask_types::key::{decode_row_key, row_range};
use damask_types::{Region, RegionId, StoreId, TableId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Until witnesses know their way.
const WARM_UP: Micros = 25_000;
/// What is proposed in this time is what is acknowledged late.
const LAST_WORDS: Micros = 9_000;
/// A split's regions are known after it.
const SPLIT_TIME: Micros = 60_000;
/// Between two looks of a chain at what it waits for, and looks at most.
const LOOK_EVERY: Micros = 1_000;
/// See [`LOOK_EVERY`].
const LOOKS_MAX: u32 = 3_000;
/// After so many ticks a store makes a replica for a region that it does not know.
const EARLY_TICKS: u64 = 7;
/// Restarts of a voter while another replica stands for election.
const RESTARTS: u64 = 5;
/// Readers of a rush.
const RUSH_READERS: u64 = 3;
/// A lock that is not kept alive lives so long, milliseconds.
const BRIEF_TTL_MS: u64 = 120;
/// A late copy of its request comes after this time, and its owner goes on soon after that.
const LATE_COPY: Micros = 300_000;
/// See [`LATE_COPY`].
const LATE_COPY_SPREAD: Micros = 25_000;
/// Until readers of columns have been told that they may read.
const LEAVE_AFTER: Micros = 40_000;
/// In which columns leave their store.
const LEAVE_TIME: Micros = 800_000;
/// Attempts of a row that shall come and go.
const FLEETING_TRIES_MAX: u32 = 6;

type Led = (Arc<Life>, Region);

impl World {
    /// A fault of this module.
    pub fn aim(self: &Arc<World>, kind: FaultKind, time: Micros, pick: u64) {
        match kind {
            FaultKind::LateAnswers => self.late_answers(pick),
            FaultKind::Forgetful => self.forgetful(pick, true),
            FaultKind::SlowSplit => self.slow_split(pick),
            FaultKind::EarlyVote => self.early_vote(pick),
            FaultKind::LateMerge => self.late_merge(time, pick, true),
            FaultKind::LateLock => self.late_lock(pick),
            _ => self.column_rush(time, pick),
        }
    }

    /// One such chain at a time: they cut what another one needs. False: there is one.
    pub fn takes_aim(&self, time: Micros) -> bool {
        let now = kernel().time();
        let free = self.aimed_until.load(Ordering::Relaxed) <= now;
        if free {
            self.aimed_until.store(now + time, Ordering::Relaxed);
        }
        free
    }

    fn tick(&self) -> Micros {
        self.plan.limits.tick_ms * 1_000
    }

    /// For so long, at least, followers wait for a leader.
    fn patience(&self) -> Micros {
        self.plan.limits.election_ticks * self.tick()
    }

    fn leader_of(&self, row: &[u8]) -> Option<Led> {
        self.led().into_iter().find(|(_, region)| region.range.contains(row))
    }

    /// Neither hears the other.
    pub fn part(self: &Arc<World>, a: StoreId, b: StoreId, time: Micros) {
        self.cut(a.0, b.0, time);
        self.cut(b.0, a.0, time);
    }

    /// Goes on as soon as something holds.
    fn when(
        self: &Arc<World>,
        looks: u32,
        holds: impl Fn(&World) -> bool + 'static,
        then: impl FnOnce(&Arc<World>) + 'static,
    ) {
        self.later(LOOK_EVERY, move |world| {
            if world.is_calm() {
                return;
            }
            match holds(world) {
                true => then(world),
                false if looks > 0 => world.when(looks - 1, holds, then),
                false => {}
            }
        });
    }

    fn in_storm(self: &Arc<World>, time: Micros, what: impl FnOnce(&Arc<World>) + 'static) {
        self.later(time, move |world| {
            if !world.is_calm() {
                what(world);
            }
        });
    }

    /// As soon as somebody else leads a row's region, somebody writes the row there. Not before: a
    /// write that the old leader has begun would keep its readers waiting.
    fn write_to_successor(self: &Arc<World>, old: StoreId, row: &[u8], pick: u64, end: Micros) {
        let (led, row) = (row.to_vec(), row.to_vec());
        let elsewhere =
            move |(life, region): &Led| life.handle.id() != old && region.range.contains(&led);
        let successor = move |world: &World| world.led().iter().any(&elsewhere);
        self.when(LOOKS_MAX, successor, move |world| world.witness(pick, end, row, write));
    }

    /// What a leader said last is acknowledged, but it hears that late: when it is not heard any
    /// more, and others may lead.
    fn late_answers(self: &Arc<World>, pick: u64) {
        let row_of = |n: u64| key(REGISTERS, (n % REGISTER_KEYS as u64) as i64);
        let (row, other) = (row_of(pick >> 4), row_of((pick >> 4) + 1));
        let Some((leader, _)) = self.leader_of(&row) else { return };
        let (old, patience) = (leader.handle.id(), self.patience());
        if !self.takes_aim(WARM_UP + 4 * patience) {
            return;
        }
        let late = patience * (60 + (pick >> 12) % 40) / 100;
        let end = kernel().time() + WARM_UP + 3 * patience;
        self.readers(pick, end, &row);
        self.witness(pick ^ 1, end, other, write);
        self.in_storm(WARM_UP, move |world| {
            world.write_to_successor(old, &row, pick ^ 2, end);
            let others: Vec<_> = world.store_ids().into_iter().filter(|id| *id != old).collect();
            for other in &others {
                world.net.delay(other.0, old.0, late);
            }
            world.in_storm(LAST_WORDS, move |world| {
                for other in others {
                    world.cut(old.0, other.0, 3 * patience);
                    world.later(3 * patience, move |world| world.net.delay(other.0, old.0, 0));
                }
            });
        });
    }

    /// Somebody stands for election in a group in which nothing happens, and who has promised the
    /// leader not to vote restarts. `splits`: the group of a table that nobody else writes may have
    /// to be made first.
    fn forgetful(self: &Arc<World>, pick: u64, splits: bool) {
        let row = key(QUIET, 0);
        let Some((leader, region)) = self.leader_of(&row) else { return };
        if region.range.start != row {
            if splits {
                self.split(&leader, &region, vec![row]);
                self.in_storm(SPLIT_TIME, move |world| world.forgetful(pick, false));
            }
            return;
        }
        let (old, patience) = (leader.handle.id(), self.patience());
        let mut others: Vec<_> = region.voters().map(|p| p.store).filter(|s| *s != old).collect();
        if (pick >> 8).is_multiple_of(2) {
            others.reverse();
        }
        let [one, voter] = others[..] else { return };
        let stands = patience * 23 / 10;
        let lasts = stands + (RESTARTS + 1) * patience * 3 / 2;
        if !self.takes_aim(WARM_UP + lasts) {
            return;
        }
        let end = kernel().time() + lasts;
        self.readers(pick, end, &row);
        self.in_storm(WARM_UP, move |world| {
            world.part(old, one, lasts);
            world.write_to_successor(old, &row, pick ^ 1, end);
            world.in_storm(stands, move |world| world.restart_voter(old, voter, RESTARTS));
        });
    }

    /// It is asked for its vote at some time that is not known: each restart hits that by chance.
    fn restart_voter(self: &Arc<World>, old: StoreId, voter: StoreId, times: u64) {
        let patience = self.patience();
        self.part(old, voter, patience);
        crash(self, voter, 1);
        if times > 1 {
            self.in_storm(patience * 3 / 2, move |world| {
                world.restart_voter(old, voter, times - 1)
            });
        }
    }

    /// A leader's replica is the last one to apply a split: others elect for the new region what
    /// they like, and the leader still takes its keys for its own.
    fn slow_split(self: &Arc<World>, pick: u64) {
        let handle = ((pick >> 4) % REGISTER_KEYS as u64) as i64;
        let (row, at) = (key(REGISTERS, handle), key(REGISTERS, handle + 1));
        let patience = self.patience();
        let lasts = patience * 7 / 2;
        if !self.takes_aim(WARM_UP + lasts) {
            return;
        }
        self.readers(pick, kernel().time() + WARM_UP + lasts, &row);
        self.in_storm(WARM_UP, move |world| {
            let Some((leader, region)) = world.leader_of(&row) else { return };
            if !region.range.contains(&at) || world.led().len() > REGIONS_MAX {
                return;
            }
            kernel().stall(leader.group, "apply", lasts);
            world.split(&leader, &region, vec![at]);
            let end = kernel().time() + lasts;
            world.write_to_successor(leader.handle.id(), &row, pick ^ 1, end);
        });
    }

    /// A store that has not applied a split votes in the new region, and restarts; then the other
    /// one asks for its vote.
    fn early_vote(self: &Arc<World>, pick: u64) {
        let mut led = self.led();
        if led.len() > REGIONS_MAX {
            return;
        }
        led.retain(|(_, region)| region.voters().count() == 3);
        let Some((leader, region)) = led.get(pick as usize % led.len().max(1)).cloned() else {
            return;
        };
        let inside = |at: &Vec<u8>| region.range.contains(at) && region.range.start != *at;
        let keys = [BANK, LISTS, ITEMS, REGISTERS].into_iter();
        let keys: Vec<_> =
            keys.flat_map(|t| (0..12).map(move |n| key(t, n))).filter(inside).collect();
        let Some(at) = keys.get((pick >> 8) as usize % keys.len().max(1)).cloned() else { return };
        let first = leader.handle.id();
        let mut others: Vec<_> = region.voters().map(|p| p.store).filter(|s| *s != first).collect();
        if (pick >> 20).is_multiple_of(2) {
            others.reverse();
        }
        let [second, early] = others[..] else { return };
        let Some(life) = self.life(early) else { return };
        let lasts = 9 * self.patience();
        if !self.takes_aim(lasts) {
            return;
        }
        kernel().stall(life.group, "apply", lasts);
        self.split(&leader, &region, vec![at.clone()]);
        let child = move |world: &World, store: StoreId| -> Option<RegionId> {
            let all = world.life(store)?.handle.replicas();
            let led = all.iter().find(|s| s.is_leader && s.region.range.end == at)?;
            Some(led.region.id)
        };
        let (leads, then_leads) = (child.clone(), child);
        let heard = EARLY_TICKS * self.tick();
        self.when(
            LOOKS_MAX / 10,
            move |world| leads(world, first).is_some(),
            move |world| {
                world.in_storm(heard, move |world| {
                    world.part(first, second, lasts);
                    world.part(first, early, lasts);
                    let elected = move |world: &World| then_leads(world, second).is_some();
                    world.when(LOOKS_MAX, elected, move |world| {
                        crash(world, early, 1);
                        world.part(second, early, lasts);
                        world.net.mend(first.0, early.0);
                        world.net.mend(early.0, first.0);
                    });
                });
            },
        );
    }

    /// One replica hears nothing of the last writes of a region, nor of its merge. `splits`: there
    /// may be nothing to be merged yet.
    fn late_merge(self: &Arc<World>, time: Micros, pick: u64, splits: bool) {
        let pairs = self.neighbours();
        if pairs.is_empty() && splits {
            self.split_some(pick);
            return self.in_storm(SPLIT_TIME, move |world| world.late_merge(time, pick, false));
        }
        let Some((leader, region, into)) = pairs.get(pick as usize % pairs.len().max(1)) else {
            return;
        };
        let (target, others) = match self.led().into_iter().find(|(_, r)| r.id == *into) {
            Some((life, _)) => (life.handle.id(), self.store_ids()),
            None => return,
        };
        let (source, range) = (leader.handle.id(), region.range.clone());
        let behind = region.voters().map(|p| p.store).filter(|s| *s != source && *s != target);
        let behind: Vec<_> = behind.collect();
        let Some(late) = behind.get((pick >> 8) as usize % behind.len().max(1)).copied() else {
            return;
        };
        let lasts = time.clamp(150_000, 600_000);
        others.into_iter().filter(|id| *id != late).for_each(|id| self.part(id, late, lasts));
        let touched = |table: &TableId| row_range(*table).intersect(&range).is_some();
        let tables = [BANK, LISTS, ITEMS, REGISTERS].into_iter().filter(touched);
        let end = kernel().time() + 40_000;
        for (n, table) in tables.enumerate() {
            self.witness(pick ^ (n as u64 + 1), end, key(table, 0), write_some);
        }
        let (region, into) = (region.id, *into);
        self.in_storm(6_000 + (pick >> 16) % 20_000, move |world| {
            let led = world.led();
            if let Some((life, region)) = led.iter().find(|(_, r)| r.id == region) {
                world.merge(life, region, into);
            }
        });
    }

    /// Somebody holds an account's lock for longer than it lives, somebody else writes the
    /// account meanwhile, and a late copy of the first one's request takes the lock again before
    /// he goes on.
    fn late_lock(self: &Arc<World>, pick: u64) {
        let end = kernel().time() + LATE_COPY;
        let from = key(BANK, (pick >> 4) as i64 % ACCOUNTS);
        self.witness(pick, end, from.clone(), |world, pick, _, row| {
            let Some((_, from)) = decode_row_key(row) else { return };
            let to = (from + 1 + (pick >> 12) as i64 % (ACCOUNTS - 1)) % ACCOUNTS;
            let mut session = open(world, pick);
            session.be_forgotten(BRIEF_TTL_MS, LATE_COPY);
            let late = LATE_COPY + (pick >> 20) % LATE_COPY_SPREAD;
            work::slow_transfer(&mut session, (from, to), Duration::from_micros(late));
            session.client.flush();
        });
        self.in_storm(BRIEF_TTL_MS * 500, move |world| {
            world.witness(pick ^ 1, end, from, |world, pick, end, row| {
                let Some((_, from)) = decode_row_key(row) else { return };
                let mut session = open(world, pick);
                let to = (from + ACCOUNTS / 2) % ACCOUNTS;
                while !world.witnessed(end) && !work::transfer_between(&mut session, (from, to)) {
                    session.think(5);
                }
                session.client.flush();
            });
        });
    }

    /// A part of a region is split off, and its columns leave their store or are replaced, while
    /// readers of the whole have been told that they may read, and have not read yet.
    pub fn leave_after_split(self: &Arc<World>, pick: u64, readers: u64) {
        let led = self.led();
        let table = WITH_COLUMNS[(pick >> 18) as usize % WITH_COLUMNS.len()];
        let at = key(table, 1 + ((pick >> 22) % 6) as i64);
        let holds = |(_, region): &&Led| region.range.contains(&at) && region.range.start != at;
        let Some((life, region)) = led.iter().find(holds).cloned() else { return };
        let Some(learner) = region.learners().next().map(|peer| peer.store) else { return };
        if led.len() > REGIONS_MAX || !self.takes_aim(LEAVE_TIME) {
            return;
        }
        self.pace(learner).hold(readers);
        let read = row_range(table).intersect(&region.range).unwrap_or(row_range(table));
        (0..readers).for_each(|n| self.read_columns(pick.rotate_left(n as u32), &read));
        self.in_storm(LEAVE_AFTER, move |world| {
            world.split(&life, &region, vec![at.clone()]);
            let (there, led) = (at.clone(), at);
            let is_split = move |world: &World| {
                let life = world.life(learner);
                let all = life.map(|life| life.handle.replicas()).unwrap_or_default();
                all.iter().any(|status| status.region.range.start == there)
            };
            world.when(LOOKS_MAX / 10, is_split, move |world| match (pick >> 30) % 2 {
                0 => world.leave(&led, learner),
                _ => {
                    let others = world.store_ids().into_iter().filter(|other| *other != learner);
                    others.for_each(|other| world.cut(other.0, learner.0, LEAVE_TIME));
                }
            });
        });
    }

    /// A region that begins there loses its columns.
    fn leave(self: &Arc<World>, at: &[u8], learner: StoreId) {
        let led = self.led();
        let Some((life, part)) = led.iter().find(|(_, part)| part.range.start == at) else {
            return;
        };
        if let Some(peer) = part.peer_on(learner).copied() {
            let change = PeerChange::Remove(peer);
            life.handle.change_peer(part.id, part.epoch, change, Box::new(|_| {}));
        }
    }

    /// Many read the columns of a table that is written, while they are stored slowly.
    fn column_rush(self: &Arc<World>, time: Micros, pick: u64) {
        let table = WITH_COLUMNS[(pick >> 8) as usize % WITH_COLUMNS.len()];
        let end = kernel().time() + time.clamp(150_000, 500_000);
        for id in self.store_ids() {
            self.pace(id).rush(end);
        }
        for n in 0..RUSH_READERS {
            self.witness(pick ^ n, end, key(table, 0), |world, pick, end, row| {
                let Some((table, _)) = decode_row_key(row) else { return };
                let mut session = open(world, pick);
                while !world.witnessed(end) {
                    if let Ok(ts) = session.client.timestamp() {
                        columns::read_at_once(&mut session, table, ts);
                    }
                    session.think(2);
                }
                session.client.flush();
            });
        }
        self.witness(pick ^ RUSH_READERS, end, key(table, 0), write_some);
    }

    /// Rows that come now and go after `time`, so that nothing is left of them but in columns that
    /// did not hear of it.
    pub fn fleeting_rows(self: &Arc<World>, pick: u64, time: Micros) {
        let end = kernel().time() + time;
        self.witness(pick, end, key(ITEMS, 0), |world, pick, end, _| {
            let mut session = open(world, pick);
            for handle in fleeting(pick) {
                work::set_item(&mut session, handle, Some(handle));
            }
            while kernel().time() < end && !world.is_calm() {
                pause(Duration::from_millis(5));
            }
            for handle in fleeting(pick) {
                let gone = |_: &u32| work::set_item(&mut session, handle, None);
                (0..FLEETING_TRIES_MAX).find(gone);
            }
            session.client.flush();
        });
    }
}

/// Writes to a row's table.
fn write_some(world: &Arc<World>, pick: u64, end: Micros, row: &[u8]) {
    let Some((table, _)) = decode_row_key(row) else { return };
    let mut session = open(world, pick);
    while !world.witnessed(end) {
        work::write_some(&mut session, table);
        session.think(2);
    }
    session.client.flush();
}
