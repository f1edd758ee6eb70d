//! Deletes the data of dropped tables and indexes in the background, in small transactions. It
//! must never touch a table that the catalog still has. What is left when the process ends is
//! noted in the catalog, and taken up again at the next start.

use crate::catalog::{Catalog, Garbage};
use crate::error::Result;
use crate::failure;
use damask_env::{Task, spawn};
use damask_txn::Client;
use damask_types::key::{index_prefix, table_prefix};
use damask_types::{IndexId, KeyRange, TableId};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Jobs that may wait; more are left for the next start.
const JOBS_MAX: usize = 1_024;
/// Keys of one transaction.
const BATCH: usize = 2_000;
/// Failures in a row after which a job is left for the next start.
const FAILURES_MAX: u32 = 10;

/// The collector: one thread.
pub struct Collector {
    jobs: Mutex<Option<SyncSender<Garbage>>>,
    stop: Arc<AtomicBool>,
    task: Mutex<Option<Task>>,
}

impl Collector {
    /// Starts it, with what earlier processes left.
    pub fn start(catalog: Arc<Catalog>, client: Client) -> Collector {
        let (sender, receiver) = sync_channel(JOBS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = spawn("sql-collect", move || {
            let worker = Worker { catalog, client, stop: stopped };
            worker.run(&receiver);
        });
        Collector { jobs: Mutex::new(Some(sender)), stop, task: Mutex::new(Some(task)) }
    }

    fn send(&self, job: Garbage) {
        if let Some(jobs) = &*self.jobs.lock() {
            // A full queue: the job is found again at the next start.
            let _ = jobs.try_send(job);
        }
    }

    /// A table is gone from the catalog.
    pub fn table(&self, id: TableId) {
        self.send(Garbage::Table(id));
    }

    /// An index is gone from the catalog.
    pub fn index(&self, table: TableId, index: IndexId) {
        self.send(Garbage::Index(table, index));
    }

    /// Stops after the batch at hand.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.jobs.lock().take();
        if let Some(task) = self.task.lock().take() {
            let _ = task.join();
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker {
    catalog: Arc<Catalog>,
    client: Client,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn run(&self, jobs: &Receiver<Garbage>) {
        match self.catalog.garbage() {
            Ok(left) => left.into_iter().for_each(|job| self.job(job)),
            Err(error) => {
                tracing::warn!(%error, "what dropped tables and indexes left cannot be listed")
            }
        }
        while let Ok(job) = jobs.recv() {
            self.job(job);
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn job(&self, job: Garbage) {
        if self.stopped() {
            return;
        }
        let view = self.catalog.view();
        let range = match job {
            Garbage::Table(id) if view.table_by_id(id).is_some() => return,
            Garbage::Table(id) => KeyRange::prefix(&table_prefix(id)),
            Garbage::Index(table, index) => {
                let table_of_it = view.table_by_id(table);
                if table_of_it.is_some_and(|t| t.indexes.iter().any(|i| i.id == index)) {
                    return;
                }
                KeyRange::prefix(&index_prefix(table, index))
            }
        };
        let all = self.delete(&range);
        let done = all.and_then(|all| if all { self.catalog.collected(job) } else { Ok(()) });
        if let Err(error) = done {
            tracing::warn!(%error, "the data of a dropped table or index is left for later");
        }
    }

    /// `false` if stopped before the end.
    fn delete(&self, range: &KeyRange) -> Result<bool> {
        let mut failures = 0;
        // Ends: each turn deletes keys, fails (counted), or finds none.
        while !self.stopped() {
            match self.delete_batch(range) {
                Ok(0) => return Ok(true),
                Ok(_) => failures = 0,
                Err(error) if failures >= FAILURES_MAX => return Err(error),
                Err(_) => failures += 1,
            }
        }
        Ok(false)
    }

    fn delete_batch(&self, range: &KeyRange) -> Result<usize> {
        let mut txn = failure::catalog(self.client.begin())?;
        let pairs = failure::catalog(txn.scan(range, BATCH, false))?;
        let count = pairs.len();
        for (key, _) in pairs {
            failure::catalog(txn.delete(key))?;
        }
        failure::catalog(txn.commit())?;
        Ok(count)
    }
}
