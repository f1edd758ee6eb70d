//! Garbage collection under load: the safe point that advances, the stores that remove versions
//! below it in small pieces, and a journal of what was ever applied, by which reads at old
//! timestamps are judged when those versions are gone. It must never remove anything itself.

use crate::clients::Session;
use crate::history::{Truth, Version};
use crate::kernel::kernel;
use crate::net::FIRST_CLIENT;
use crate::nodes::Alive;
use crate::world::World;
use damask_env::channel::{self, RecvTimeoutError, Sender};
use damask_env::simulation::pause;
use damask_kv::gc::Budget;
use damask_raftstore::{ApplyBatch, Effect, RowMachine};
use damask_txn::gc::Gc;
use damask_types::key::Hex;
use damask_types::{ErrorKind, KeyRange, Record, Timestamp, WriteKind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two looks of a store at the safe point.
const COLLECT_EVERY: Duration = Duration::from_millis(70);
/// Between two advances of it.
const ADVANCE_EVERY: Duration = Duration::from_millis(150);
/// Between two pieces; each is a write of its own.
const PIECE_PAUSE: Duration = Duration::from_micros(300);
/// A piece: a delete and what it hides do not fit into one.
const PIECE: Budget = Budget { records_max: 64, removals_max: 1 };

/// Every version that any replica has applied.
#[derive(Default)]
pub struct Journal {
    versions: BTreeMap<Vec<u8>, BTreeMap<Timestamp, Version>>,
    values: BTreeMap<(Vec<u8>, Timestamp), Vec<u8>>,
}

impl Journal {
    /// Entries that a replica applies; what it applies differently from another one.
    pub fn note(&mut self, batches: &[ApplyBatch]) -> Option<String> {
        let effects = batches.iter().flat_map(|batch| &batch.effects);
        let records = effects.filter_map(|effect| match effect {
            Effect::Write(records) => Some(records),
            Effect::Regions(_) => None,
        });
        let mut differs = None;
        for record in records.flatten() {
            match record {
                Record::Value { key, start_ts, value } => {
                    self.values.insert((key.clone(), *start_ts), value.clone());
                }
                Record::Write { key, commit_ts, write } => {
                    let value = match write.kind {
                        WriteKind::Put => match &write.short_value {
                            Some(short) => Some(short.clone()),
                            None => self.values.get(&(key.clone(), write.start_ts)).cloned(),
                        },
                        WriteKind::Delete => None,
                        WriteKind::Lock | WriteKind::Rollback => continue,
                    };
                    let version =
                        Version { commit_ts: *commit_ts, start_ts: write.start_ts, value };
                    let versions = self.versions.entry(key.clone()).or_default();
                    let there = versions.entry(*commit_ts).or_insert_with(|| version.clone());
                    if *there != version {
                        differs = Some(format!("applied {version:?}, elsewhere {there:?}"));
                    }
                }
                _ => {}
            }
        }
        differs
    }

    /// As the judge of what was read. `left`: what the stores hold in the end.
    ///
    /// # Errors
    /// They hold something else, or lack what a read at or above the safe point sees.
    pub fn judge(&self, left: &Truth, safe_point: Timestamp) -> Result<Truth, String> {
        let mut all = Truth::default();
        for (key, versions) in &self.versions {
            let here = left.0.get(key).map_or(&[][..], Vec::as_slice);
            let seen_at = versions.range(..=safe_point).next_back().map(|(ts, _)| *ts);
            for (ts, version) in versions {
                let seen = *ts > safe_point || (Some(*ts) == seen_at && version.value.is_some());
                if seen && !here.contains(version) {
                    return Err(format!("{version:?} is gone; the safe point is {safe_point}"));
                }
            }
            all.0.insert(key.clone(), versions.values().cloned().collect());
            let (was, is) = (all.at(key, safe_point), left.at(key, safe_point));
            if was != is {
                let key = Hex(key);
                return Err(format!(
                    "key {key} at the safe point {safe_point} was {was:?}, and is {is:?}"
                ));
            }
        }
        for (key, versions) in &left.0 {
            let known = self.versions.get(key);
            for version in versions {
                if known.and_then(|known| known.get(&version.commit_ts)) != Some(version) {
                    return Err(format!("{version:?} is there, and nobody has applied it"));
                }
            }
        }
        Ok(all)
    }
}

/// Removes a store's old versions until the sender is dropped.
pub fn start(world: &Arc<World>, alive: &Alive, rows: Arc<RowMachine>) -> Sender<()> {
    let (stop, stopped) = channel::bounded(1);
    let (world, alive) = (world.clone(), alive.clone());
    let body = move || {
        let mut done = Timestamp::ZERO;
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(COLLECT_EVERY) {
            let wanted = world.safe_point.get();
            let mut range = KeyRange::all();
            // Ends: each piece leaves less of the range.
            while wanted != done && alive.get() {
                match rows.collect(&range, wanted, PIECE) {
                    Ok(Some(resume)) => range.start = resume,
                    Ok(None) => done = wanted,
                    Err(e) => return world.fail(format!("garbage collection: {e}")),
                }
                pause(PIECE_PAUSE);
            }
        }
    };
    drop(damask_env::spawn("collect", body));
    stop
}

impl World {
    /// Advances the safe point until clients end.
    pub fn advance_safe_point(self: &Arc<World>) {
        let life_ms = self.plan.limits.life_ms;
        if life_ms == 0 {
            return;
        }
        let world = self.clone();
        self.at_work.fetch_add(1, Ordering::Relaxed);
        kernel().spawn_in(self.placement.group, "safe-point", move || {
            let session = Session::open(&world, FIRST_CLIENT + 700, Alive::new(), 700);
            let gc = Gc::new(Arc::new(world.safe_point.clone()));
            while !world.is_over() && !world.has_failed() {
                pause(ADVANCE_EVERY);
                let Ok(now) = session.client.timestamp() else { continue };
                let clients = world.running.lock().clone();
                let oldest = clients
                    .iter()
                    .filter(|(alive, _)| alive.get())
                    .filter_map(|(_, client)| client.oldest_running())
                    .min();
                let life = Duration::from_millis(life_ms);
                match gc.advance(&session.client, now, life, oldest) {
                    Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Invalid) => {
                        world.fail(format!("the safe point: {e}"));
                    }
                    Ok(advanced) => {
                        kernel().note("safe point", 0, advanced.safe_point.0, 0);
                    }
                    Err(_) => {}
                }
            }
            session.client.flush();
            world.at_work.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
