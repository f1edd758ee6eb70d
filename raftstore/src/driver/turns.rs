//! The turns of a store: on its raft thread, or on the thread of a caller. They must never go on
//! after an error, and never let what happened earlier reach the core later.
//!
//! ```text
//!  raft thread     inbox ─► turn ─► writer, apply thread (or it does their work itself) ─► inbox
//!  caller alone    proposal ─► turn: sync ─► turn: apply ─► turn: answer
//! ```
//! A thread does what is another's only while that one has no task; what follows from it goes
//! through the inbox, behind whatever the other has said. A caller's thread does all, and nothing
//! goes through the inbox, only while nothing is in it: so nothing that happened earlier is on its
//! way, and each follows from the one before. Whoever runs a turn holds the lock of `Shared::raft`.

use super::{Shared, message_bytes, panicked};
use crate::apply::{Applier, ApplyTask};
use crate::cells::Tally;
use crate::error::Result;
use crate::handle::Transport;
use crate::log_store::LogStore;
use crate::options::{OnChange, Without};
use crate::store_core::{Event, StoreCore, Turn, WriteTask};
use crate::threads::{send_all, task_bytes, write};
use damask_env::channel::{Receiver, RecvTimeoutError, Sender};
use damask_env::lock;
use damask_types::RegionId;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Events taken in one turn.
const TURN_EVENTS_MAX: usize = 4096;
/// Turns that one proposal takes of its caller's thread: three, if it is alone.
const TURNS_HERE_MAX: usize = 16;
/// For so many ticks after a message to or from another store, neither the raft thread nor a
/// caller's does the I/O of a turn: a slow disk must not keep the raft thread from its heartbeats.
const ALONE_TICKS: u64 = 50;
/// Bytes of entries that are applied where the turn is.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// The core, and where its turns lead.
pub(super) struct Raft {
    pub shared: Arc<Shared>,
    pub core: StoreCore,
    pub transport: Arc<dyn Transport>,
    pub on_change: Option<OnChange>,
    pub log: Arc<dyn LogStore>,
    pub applier: Arc<Mutex<Applier>>,
    pub writer: Sender<WriteTask>,
    pub apply: Sender<Vec<ApplyTask>>,
    pub maintenance: Sender<()>,
    /// Nobody waits for this turn to end.
    pub idle: bool,
    /// On a caller's thread: what is to be stepped next.
    pub here: Option<Vec<Event>>,
    /// The tick of the last message to or from another store.
    pub talked: Option<u64>,
}

/// The raft thread.
pub(super) fn run(shared: &Arc<Shared>, events: &Receiver<Event>) -> Result<()> {
    // A panic inside raft-rs for a log that cannot be read has its reason in the group.
    let result = catch_unwind(AssertUnwindSafe(|| turns(shared, events)));
    let raft = lock(&shared.raft).take();
    // It leads nothing any more.
    shared.local.clear();
    shared.safe.clear();
    shared.statuses.write().clear();
    match result {
        Ok(result) => result,
        Err(panic) => {
            let reason = raft.and_then(|raft| raft.core.take_failure());
            Err(reason.unwrap_or_else(|| panicked(panic.as_ref())))
        }
    }
}

fn turns(shared: &Shared, events: &Receiver<Event>) -> Result<()> {
    let mut next = match lock(&shared.raft).as_mut() {
        Some(raft) => {
            let next = raft.core.begin(shared.clock.monotonic());
            raft.finish()?;
            raft.due(next)
        }
        None => return Ok(()),
    };
    let mut taken = Vec::new();
    loop {
        match events.recv_timeout(next.saturating_sub(shared.clock.monotonic())) {
            Ok(event) => taken.push(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if !shared.config.without.batching {
            taken.extend(events.try_iter().take(TURN_EVENTS_MAX));
        }
        let mut raft = lock(&shared.raft);
        // None: a turn on a caller's thread has failed.
        let Some(raft) = raft.as_mut() else { return Ok(()) };
        let count = taken.len();
        let Some(due) = raft.turn(&mut taken)? else { return Ok(()) };
        next = due;
        shared.inbox.stepped(count);
    }
}

impl Shared {
    /// Steps an event and all that follows from it on this thread. Gives it back if the raft
    /// thread is to do that: the store is not alone, or has other work.
    pub(super) fn serve(&self, event: Event) -> Option<Event> {
        if !self.inbox.is_empty() {
            return Some(event);
        }
        let Some(mut raft) = self.raft.try_lock() else { return Some(event) };
        // Again, under the lock: what was in it is stepped.
        let free = |raft: &&mut Raft| raft.is_free();
        let Some(running) = raft.as_mut().filter(free) else { return Some(event) };
        let failed = match catch_unwind(AssertUnwindSafe(|| running.serve(event))) {
            Ok(Ok(())) => return None,
            Ok(Err(e)) => e,
            Err(panic) => {
                let reason = running.core.take_failure();
                reason.unwrap_or_else(|| panicked(panic.as_ref()))
            }
        };
        let stopped = raft.take();
        drop(raft);
        self.local.clear();
        self.safe.clear();
        self.statuses.write().clear();
        self.fail(failed);
        // Whoever waits is answered after the reason is known.
        drop(stopped);
        None
    }
}

impl Raft {
    /// When a turn must come, if nothing happens before.
    fn due(&self, tick: Duration) -> Duration {
        if self.core.has_more() { Duration::ZERO } else { tick }
    }

    /// Steps events. When the next turn is due; `None`: the store is to stop.
    fn turn(&mut self, taken: &mut Vec<Event>) -> Result<Option<Duration>> {
        self.idle = taken.len() <= 1;
        let applying = self.shared.applying.load(Ordering::Relaxed);
        self.core.overloaded = applying > self.shared.config.apply_bytes_max;
        let ticks = self.core.ticks();
        // Not before the events were received: leases count on it.
        let next = self.core.begin(self.shared.clock.monotonic());
        for event in taken.drain(..) {
            match &event {
                Event::Stop => return Ok(None),
                Event::Messages(m) => {
                    self.shared.messages.fetch_sub(message_bytes(m), Ordering::Relaxed);
                    self.talked = Some(ticks);
                }
                _ => {}
            }
            self.core.step(event)?;
        }
        self.finish()?;
        if self.core.ticks() > ticks {
            self.core.refresh(&mut self.shared.statuses.write());
        }
        Ok(Some(self.due(next)))
    }

    /// Has nothing to do, nothing to hear, and nobody to talk to.
    fn is_free(&self) -> bool {
        let Shared { pending_writes, pending_applies, config, inbox, .. } = &*self.shared;
        let quiet = inbox.is_quiet(&[pending_writes, pending_applies]);
        let idle = quiet && !self.core.has_more();
        idle && config.without == Without::default() && self.is_alone()
    }

    fn is_alone(&self) -> bool {
        self.talked.is_none_or(|tick| self.core.ticks() - tick > ALONE_TICKS)
    }

    /// Steps an event on the thread of its sender, and what follows from it.
    fn serve(&mut self, event: Event) -> Result<()> {
        let mut taken = vec![event];
        self.here = Some(Vec::new());
        for _ in 0..TURNS_HERE_MAX {
            self.turn(&mut taken)?;
            taken.append(self.here.as_mut().expect("set above"));
            if taken.is_empty() && !self.core.has_more() {
                break;
            }
        }
        self.here = None;
        if taken.is_empty() && self.core.has_more() {
            // The raft thread does not know.
            taken.push(Event::Reports(Vec::new()));
        }
        taken.into_iter().for_each(|event| self.shared.inbox.send(event));
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let Turn { views, safe, sends, write, applies, changed, removed, maintain } =
            self.core.finish()?;
        self.shared.local.publish(views);
        self.shared.safe.publish(safe);
        if !sends.is_empty() || write.as_ref().is_some_and(|write| !write.held.is_empty()) {
            self.talked = Some(self.core.ticks());
        }
        match write {
            Some(mut write) if self.shared.config.without.early_sends => {
                write.held.splice(0..0, sends);
                self.write(write)?;
            }
            write => {
                send_all(self.transport.as_ref(), sends);
                write.map_or(Ok(()), |write| self.write(write))?;
            }
        }
        if !applies.is_empty() {
            self.apply(applies)?;
        }
        self.announce(changed, removed, maintain);
        Ok(())
    }

    /// May this thread do what another is for, of which it has `pending` tasks?
    fn may_inline(&self, pending: &Tally) -> bool {
        // What the other thread has said goes first: through the inbox, or it is stepped.
        let in_order = match self.here {
            None => pending.is_none(),
            Some(_) => self.shared.inbox.is_quiet(&[pending]),
        };
        self.idle && in_order && self.is_alone()
    }

    /// What was done in the place of another thread is stepped next.
    fn done(&mut self, event: Event) {
        match &mut self.here {
            Some(next) => next.push(event),
            None => self.shared.inbox.send(event),
        }
    }

    fn write(&mut self, task: WriteTask) -> Result<()> {
        let Shared { pending_writes: pending, config, .. } = &*self.shared;
        if config.without.log_thread || self.may_inline(pending) {
            let event = write(task, self.log.as_ref(), self.transport.as_ref())?;
            self.done(event);
            return Ok(());
        }
        pending.raise();
        // A closed channel means that its thread failed, which stops this one as well.
        let _ = self.writer.send(task);
        Ok(())
    }

    fn apply(&mut self, tasks: Vec<ApplyTask>) -> Result<()> {
        let Shared { pending_applies, applying, config, .. } = &*self.shared;
        let bytes = task_bytes(&tasks);
        let entries = |task: &ApplyTask| matches!(task, ApplyTask::Entries { .. });
        let small = bytes <= INLINE_BYTES_MAX && tasks.iter().all(entries);
        if config.without.apply_thread || small && self.may_inline(pending_applies) {
            let reports = lock(&self.applier).run(tasks)?;
            self.done(Event::Reports(reports));
            return Ok(());
        }
        applying.fetch_add(bytes, Ordering::Relaxed);
        pending_applies.raise();
        // As in `write`.
        let _ = self.apply.send(tasks);
        Ok(())
    }

    fn announce(&self, changed: BTreeSet<RegionId>, removed: Vec<RegionId>, maintain: bool) {
        if maintain {
            // Full: one is at work, and one waits. That is enough.
            let _ = self.maintenance.try_send(());
        }
        for id in removed {
            self.shared.statuses.write().remove(&id);
        }
        for id in changed {
            let Some(status) = self.core.status(id) else { continue };
            self.shared.statuses.write().insert(id, status.clone());
            if let Some(on_change) = &self.on_change {
                on_change(status);
            }
        }
    }
}
