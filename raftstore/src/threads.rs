//! What the threads of a store do beside the raft thread: sync the log, apply, compact. They must
//! never decide anything, and an error of one ends it, which stops the store.

use crate::apply::{Applier, ApplyTask};
use crate::cells::{Tally, is_quiet};
use crate::error::Result;
use crate::handle::{Envelope, Transport};
use crate::log_store::LogStore;
use crate::machine::StateMachine;
use crate::store_core::{Event, WriteTask};
use damask_env::channel::{Receiver, Sender};
use damask_env::{Mistake, mistaken};
use damask_types::StoreId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tasks applied in one write.
const APPLY_TASKS_MAX: usize = 256;

/// The way to the core. It knows whether anything is on it: sent, and not stepped yet.
#[derive(Clone)]
pub(crate) struct Inbox {
    sender: Sender<Event>,
    unstepped: Arc<Tally>,
}

impl Inbox {
    pub fn new(sender: Sender<Event>) -> Inbox {
        Inbox { sender, unstepped: Arc::default() }
    }

    pub fn send(&self, event: Event) {
        self.unstepped.raise();
        // Without a receiver the store has stopped: the event is dropped, and its answer says so.
        let _ = self.sender.send(event);
    }

    /// So many events that came out of it are stepped.
    pub fn stepped(&self, events: usize) {
        self.unstepped.lower(events);
    }

    pub fn is_empty(&self) -> bool {
        self.unstepped.is_none()
    }

    /// Have the threads of these tasks none, and is all that they have said stepped?
    pub fn is_quiet(&self, tasks: &[&Tally]) -> bool {
        is_quiet(tasks, &self.unstepped)
    }
}

/// To each store, all that is for it.
pub(crate) fn send_all(transport: &dyn Transport, envelopes: Vec<Envelope>) {
    let mut by_store: BTreeMap<StoreId, Vec<Envelope>> = BTreeMap::new();
    for envelope in envelopes {
        by_store.entry(envelope.to.store).or_default().push(envelope);
    }
    for (store, envelopes) in by_store {
        transport.send(store, envelopes);
    }
}

/// Bytes of entries in tasks.
pub(crate) fn task_bytes(tasks: &[ApplyTask]) -> usize {
    let bytes = |task: &ApplyTask| match task {
        ApplyTask::Entries { entries, .. } => entries.iter().map(|e| e.size()).sum(),
        _ => 0,
    };
    tasks.iter().map(bytes).sum()
}

/// Syncs the log, then sends what was held; what to say then.
pub(crate) fn write(
    task: WriteTask,
    log: &dyn LogStore,
    transport: &dyn Transport,
) -> Result<Event> {
    let WriteTask { turn, sync, mut held } = task;
    if mistaken(Mistake::AckBeforeSync) {
        send_all(transport, std::mem::take(&mut held));
    }
    if sync {
        log.sync()?;
    }
    send_all(transport, held);
    Ok(Event::Persisted(turn))
}

/// Turns that came during a sync share the next. `pending` counts the tasks in `writes` or at work.
pub(crate) fn write_loop(
    writes: &Receiver<WriteTask>,
    log: &dyn LogStore,
    transport: &dyn Transport,
    pending: &Tally,
    inbox: &Inbox,
) -> Result<()> {
    while let Ok(mut all) = writes.recv() {
        let mut tasks = 1;
        for task in writes.try_iter() {
            all.turn = task.turn;
            all.sync |= task.sync;
            all.held.extend(task.held);
            tasks += 1;
        }
        inbox.send(write(all, log, transport)?);
        // Only now: who sees none pending may speak to the inbox after what was said above.
        pending.lower(tasks);
    }
    Ok(())
}

/// Applies what is committed, a few tasks in one write. `pending` counts what is in `tasks` or at
/// work, `applying` its bytes.
pub(crate) fn apply_loop(
    tasks: &Receiver<Vec<ApplyTask>>,
    applier: &Mutex<Applier>,
    pending: &Tally,
    applying: &AtomicUsize,
    inbox: &Inbox,
) -> Result<()> {
    while let Ok(mut batch) = tasks.recv() {
        let mut taken = 1;
        while batch.len() < APPLY_TASKS_MAX
            && let Ok(more) = tasks.try_recv()
        {
            batch.extend(more);
            taken += 1;
        }
        let bytes = task_bytes(&batch);
        let reports = applier.lock().run(batch)?;
        applying.fetch_sub(bytes, Ordering::Relaxed);
        inbox.send(Event::Reports(reports));
        // Only now, as in `write_loop`.
        pending.lower(taken);
    }
    Ok(())
}

/// Makes the machine durable, so that the log may be compacted, and purges the log.
pub(crate) fn maintain_loop(
    works: &Receiver<()>,
    machine: &dyn StateMachine,
    log: &dyn LogStore,
    inbox: &Inbox,
) -> Result<()> {
    while works.recv().is_ok() {
        let points = machine.sync()?;
        inbox.send(Event::Synced(points));
        // Compactions of earlier rounds free files now.
        log.purge()?;
    }
    Ok(())
}
