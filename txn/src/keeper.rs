//! Heartbeats: the primaries of pessimistic transactions, and of commits that take long, are kept
//! alive. It must never keep alive what its client has left: it lives in the client, and ends with
//! it; and no transaction lives longer than the configuration allows.

use crate::region::{Core, Failed};
use crate::request::Request;
use damask_env::{Task, spawn};
use damask_types::Timestamp;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How often the keeper looks at least; more often when locks live shorter.
const TICK_MAX: Duration = Duration::from_millis(500);

/// One transaction with locks.
#[derive(Clone)]
struct Beat {
    primary: Vec<u8>,
    /// When the transaction began, and when its lock was last made to live longer.
    began: Duration,
    last: Duration,
}

/// The transactions with locks, and the thread that keeps them alive.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    task: Option<Task>,
}

pub(crate) struct Shared {
    core: Arc<Core>,
    alive: Mutex<HashMap<Timestamp, Beat>>,
}

impl Keeper {
    pub fn new(core: Arc<Core>) -> Keeper {
        let shared = Arc::new(Shared { core, alive: Mutex::default() });
        let task = spawn("txn-keeper", {
            let shared = Arc::clone(&shared);
            move || shared.run()
        });
        Keeper { shared, task: Some(task) }
    }

    /// Keeps the transaction alive until the guard is dropped.
    pub fn watch(&self, start_ts: Timestamp, primary: &[u8], began: Duration) -> Watch {
        let last = self.shared.core.clock.monotonic();
        let beat = Beat { primary: primary.to_vec(), began, last };
        self.shared.alive.lock().insert(start_ts, beat);
        Watch { shared: Arc::clone(&self.shared), start_ts }
    }
}

/// A transaction that is kept alive.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    start_ts: Timestamp,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.alive.lock().remove(&self.start_ts);
    }
}

impl Shared {
    fn run(&self) {
        let due = Duration::from_millis(self.core.config.lock_ttl_ms / 3);
        let oldest = Duration::from_millis(self.core.config.transaction_ms_max);
        let tick = TICK_MAX.min(due / 2).max(Duration::from_millis(1));
        while !self.core.closing.wait(tick) {
            let mut alive = self.alive.lock();
            let now = self.core.clock.monotonic();
            let mut late = Vec::new();
            for (start_ts, beat) in alive.iter_mut() {
                let young = now.saturating_sub(beat.began) < oldest;
                if young && now.saturating_sub(beat.last) >= due {
                    beat.last = now;
                    late.push((*start_ts, beat.clone()));
                }
            }
            drop(alive);
            for (start_ts, beat) in late {
                self.beat(start_ts, beat, now);
            }
        }
    }

    /// Once: the next tick tries again. Fails when the primary is not prewritten yet, or the
    /// transaction has ended.
    fn beat(&self, start_ts: Timestamp, beat: Beat, now: Duration) {
        let age_ms = now.saturating_sub(beat.began).as_millis() as u64;
        let ttl_ms = age_ms + self.core.config.lock_ttl_max_ms;
        let mut backoff = self.core.brief_backoff();
        let Some(route) = self.core.locate.locate(&beat.primary) else { return };
        let request = Request::HeartBeat { primary: beat.primary, start_ts, ttl_ms };
        if let Err(Failed::Fatal(e)) = self.core.call(&route, request, &mut backoff) {
            tracing::debug!(%start_ts, error = %e, "a heartbeat was lost");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.core.closing.set();
        if let Some(Err(panic)) = self.task.take().map(Task::join) {
            tracing::error!(panic, "the keeper panicked");
        }
    }
}
