//! The turns of a store as the product's driver makes them, and its threads: the log's syncs, the
//! applies, the compaction; and the network between stores. It must never do in another order what
//! the driver does in one.

use super::chance::hash_bytes;
use super::faults::FaultKind;
use super::store::{Node, Running};
use super::world::{Happening, World};
use crate::apply::ApplyTask;
use crate::error::Error;
use crate::handle::Envelope;
use crate::local_read::View;
use crate::machine::StateMachine;
use crate::store_core::{Event, Turn};
use damask_types::{RegionId, StoreId};

/// Old envelopes kept to be replayed.
const OLD_ENVELOPES: usize = 256;

impl World {
    /// A turn as the driver makes it: events first, then the clock, then ticks, then the events.
    pub(super) fn on_turn(&mut self, id: StoreId, life: u64) -> Result<(), String> {
        let now = self.now;
        let node = self.node(id);
        let until = node.paused_until.max(node.stalled_until);
        let clock = node.clock;
        let Some(running) = node.running.as_mut().filter(|_| node.life == life) else {
            return Ok(());
        };
        if running.turn_at != now {
            return Ok(()); // an earlier one has done it
        }
        if until > now {
            running.turn_at = until;
            self.schedule(until - now, Happening::Turn(id, life));
            return Ok(());
        }
        let next = running.core.begin(clock.local(now));
        let events = std::mem::take(&mut running.inbox);
        let count = events.len() as u64;
        let bad = |e: Error| format!("store {id} stops: {e}");
        for event in events {
            running.core.step(event).map_err(bad)?;
        }
        let mut turns = Vec::new();
        loop {
            turns.push(running.core.finish().map_err(bad)?);
            if !running.core.has_more() {
                break;
            }
        }
        let ticks = running.core.ticks();
        running.turn_at = u64::MAX;
        self.note("turn", id, count, ticks);
        self.watch_leaders(id);
        self.node(id).note_sleep();
        for turn in turns {
            self.carry(id, life, turn);
        }
        let wait = clock.global(next).saturating_sub(now).max(1);
        self.wake(id, wait);
        Ok(())
    }

    fn watch_leaders(&mut self, id: StoreId) {
        let led = self.nodes[&id].replicas().into_iter().filter(|s| s.is_leader);
        let mut watch = self.watch.lock();
        led.for_each(|s| watch.leads(s.region.id, s.term, id));
    }

    /// What a turn asks for, in the driver's order.
    fn carry(&mut self, id: StoreId, life: u64, turn: Turn) {
        let Turn { views, sends, write, applies, maintain, .. } = turn;
        self.publish(id, views);
        sends.into_iter().for_each(|envelope| self.send(envelope));
        let running = self.node(id).running.as_mut().expect("it had a turn");
        running.writes.extend(write);
        let committed = !applies.is_empty();
        if committed {
            let mut watch = self.watch.lock();
            for task in &applies {
                if let ApplyTask::Entries { region, entries, .. } = task {
                    entries.iter().for_each(|entry| watch.committed(*region, entry));
                }
            }
            drop(watch);
            let running = self.node(id).running.as_mut().expect("it had a turn");
            running.applies.push_back(applies);
        }
        self.start_sync(id);
        self.start_apply(id);
        let running = self.node(id).running.as_mut().expect("it had a turn");
        if maintain && !std::mem::replace(&mut running.maintaining, true) {
            let delay = self.chance.between(100, 50_000);
            self.schedule(delay, Happening::Maintain(id, life));
        }
    }

    fn publish(&mut self, id: StoreId, views: Vec<(RegionId, Option<View>)>) {
        for (region, view) in &views {
            if let Some(view) = view {
                self.check_lease(id, *region, view);
            }
        }
        let running = self.node(id).running.as_mut().expect("it had a turn");
        for (region, view) in &views {
            match view {
                Some(view) => drop(running.views.insert(*region, view.clone())),
                None => drop(running.views.remove(region)),
            }
        }
        running.local.publish(views);
    }

    /// No other store may have a lease on a part of what this one is about to read by its own.
    fn check_lease(&mut self, id: StoreId, region: RegionId, view: &View) {
        let now = self.now;
        let holds = |node: &Node, view: &View| node.clock.local(now) < view.until;
        if !holds(&self.nodes[&id], view) {
            return;
        }
        let mut found = None;
        for (other, node) in self.nodes.iter().filter(|(other, _)| **other != id) {
            let Some(running) = &node.running else { continue };
            let shares = |(_, v): &(&RegionId, &View)| {
                let common = v.region.range.intersect(&view.region.range);
                common.is_some() && holds(node, v)
            };
            found = found.or(running.views.iter().find(shares).map(|(r, v)| (*other, *r, v.term)));
        }
        if let Some((other, its, term)) = found {
            self.fail(format!(
                "two leases: store {id} on region {region} in term {}, store {other} on region \
                 {its} in term {term}",
                view.term
            ));
        }
    }

    /// Onto the network, which may lose, double, delay and reorder it.
    fn send(&mut self, envelope: Envelope) {
        let has = |kind| self.faults.contains(&kind);
        let (loses, delays, doubles) =
            (has(FaultKind::Loss), has(FaultKind::Delay), has(FaultKind::Duplicate));
        if self.faults.contains(&FaultKind::Replay) && self.chance.permille(30) {
            if self.old.len() == OLD_ENVELOPES {
                let at = self.chance.below(OLD_ENVELOPES as u64) as usize;
                self.old.swap_remove(at);
            }
            self.old.push(envelope.clone());
        }
        let copies = if doubles && self.chance.permille(60) { 2 } else { 1 };
        for _ in 0..copies {
            if loses && self.chance.permille(60) {
                self.counts.lock().lost += 1;
                continue;
            }
            let slow = delays && self.chance.permille(120);
            let far = slow && self.chance.permille(200);
            let most = if far {
                1_500_000
            } else if slow {
                120_000
            } else {
                1_500
            };
            let delay = self.chance.between(100, most);
            self.schedule(delay, Happening::Deliver(Box::new(envelope.clone())));
        }
    }

    pub(super) fn on_deliver(&mut self, envelope: Envelope) {
        let (from, to) = (envelope.from.store, envelope.to.store);
        if self.cut.contains(&(from, to)) || !self.nodes.contains_key(&to) {
            self.counts.lock().stopped += 1;
            return;
        }
        self.note("deliver", to, envelope.region.0, hash_bytes(&envelope.message) % 100_000);
        self.tell(to, Event::Messages(vec![envelope]));
    }

    fn disk_delay(&mut self, id: StoreId, least: u64, most: u64) -> u64 {
        let now = self.now;
        let (times, until) = self.nodes[&id].slow;
        let times = if until > now { times } else { 1 };
        let paused = self.nodes[&id].paused_until.saturating_sub(now);
        paused + times * self.chance.between(least, most)
    }

    /// One sync for all turns that came during the last one.
    fn start_sync(&mut self, id: StoreId) {
        let node = self.node(id);
        let life = node.life;
        let Some(running) = &mut node.running else { return };
        if running.writing.is_some() || running.writes.is_empty() {
            return;
        }
        let tasks: Vec<_> = running.writes.drain(..).collect();
        let sync = tasks.iter().any(|task| task.sync);
        running.writing = Some((running.log.appended(), tasks));
        let delay = if sync { self.disk_delay(id, 200, 3_000) } else { 1 };
        self.schedule(delay, Happening::Synced(id, life));
    }

    fn running(&mut self, id: StoreId, life: u64) -> Option<&mut Running> {
        let node = self.nodes.get_mut(&id).filter(|n| n.life == life)?;
        node.running.as_mut()
    }

    /// Later, if the process stands still now.
    fn postponed(&mut self, id: StoreId, what: Happening) -> Option<Happening> {
        let paused = self.nodes[&id].paused_until;
        if paused <= self.now {
            return Some(what);
        }
        let delay = paused - self.now;
        self.schedule(delay, what);
        None
    }

    pub(super) fn on_synced(&mut self, id: StoreId, life: u64) -> Result<(), String> {
        if self.postponed(id, Happening::Synced(id, life)).is_none() {
            return Ok(());
        }
        let Some(running) = self.running(id, life) else { return Ok(()) };
        let (appended, tasks) = running.writing.take().expect("a sync was at work");
        if tasks.iter().any(|task| task.sync) {
            if std::mem::take(&mut self.node(id).sync_fails) {
                self.stop_for_failure(id);
                return Ok(());
            }
            let running = self.running(id, life).expect("above");
            running.log.synced_to(appended).map_err(|e| format!("a sync: {e}"))?;
        }
        let mut turn = 0;
        for task in tasks {
            turn = task.turn;
            task.held.into_iter().for_each(|envelope| self.send(envelope));
        }
        self.note("synced", id, turn, appended);
        self.tell(id, Event::Persisted(turn));
        self.start_sync(id);
        Ok(())
    }

    fn start_apply(&mut self, id: StoreId) {
        let node = self.node(id);
        let life = node.life;
        let Some(running) = &mut node.running else { return };
        if running.applying || running.applies.is_empty() {
            return;
        }
        running.applying = true;
        let delay = self.disk_delay(id, 20, 1_500);
        self.schedule(delay, Happening::Applied(id, life));
    }

    pub(super) fn on_applied(&mut self, id: StoreId, life: u64) -> Result<(), String> {
        if self.postponed(id, Happening::Applied(id, life)).is_none() {
            return Ok(());
        }
        let Some(running) = self.running(id, life) else { return Ok(()) };
        running.applying = false;
        let tasks = running.applies.pop_front().expect("a task was at work");
        let count = tasks.len() as u64;
        let reports = running.applier.run(tasks);
        let reports = reports.map_err(|e| format!("store {id} applies: {e}"))?;
        self.note("applied", id, count, 0);
        self.tell(id, Event::Reports(reports));
        self.start_apply(id);
        Ok(())
    }

    pub(super) fn on_maintain(&mut self, id: StoreId, life: u64) -> Result<(), String> {
        if self.postponed(id, Happening::Maintain(id, life)).is_none() {
            return Ok(());
        }
        let Some(running) = self.running(id, life) else { return Ok(()) };
        running.maintaining = false;
        let points = running.machine.sync().map_err(|e| format!("store {id} syncs: {e}"))?;
        self.note("maintained", id, points.len() as u64, 0);
        self.tell(id, Event::Synced(points));
        Ok(())
    }
}
