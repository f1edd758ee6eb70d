//! An engine whose n-th operation fails. It must never fail halfway: a failed write wrote nothing,
//! and after a failed sync everything fails until the engine is made anew.

use crate::engine::{
    Capabilities, Cf, Cursor, Engine, Estimate, Ingestion, Pair, Snapshot, WriteBatch,
};
use crate::error::{Error, Result};
use bytes::Bytes;
use damask_types::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

struct Plan {
    /// Operations until the failure; beyond zero it wraps and never fails again.
    left: AtomicU64,
    kind: ErrorKind,
    failed: AtomicBool,
    poisoned: AtomicBool,
}

impl Plan {
    fn check(&self, op: &'static str) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::new(op, ErrorKind::Poisoned, "an injected sync failure"));
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) != 0 {
            return Ok(());
        }
        self.failed.store(true, Ordering::Release);
        if op == "sync" && self.kind != ErrorKind::NoSpace {
            self.poisoned.store(true, Ordering::Release);
        }
        Err(Error::new(op, self.kind, "injected"))
    }
}

/// Wraps an engine. Writes, syncs, estimates, checkpoints, loads and their
/// pairs, gets, cursors and their steps count.
pub struct Faulty<E> {
    engine: E,
    plan: Arc<Plan>,
}

impl<E: Engine> Faulty<E> {
    /// Fails operation number `nth` (from 0) once, with `kind`. A test tries `nth` = 0, 1, …
    /// until [`Faulty::has_failed`] stays false.
    pub fn new(engine: E, nth: u64, kind: ErrorKind) -> Faulty<E> {
        let plan = Plan {
            left: AtomicU64::new(nth),
            kind,
            failed: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
        };
        Faulty { engine, plan: Arc::new(plan) }
    }

    /// Has the failure been met?
    pub fn has_failed(&self) -> bool {
        self.plan.failed.load(Ordering::Acquire)
    }

    /// What it wraps.
    pub fn inner(&self) -> &E {
        &self.engine
    }
}

impl<E: Engine> Engine for Faulty<E> {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::new(FaultySnapshot { snapshot: self.engine.snapshot(), plan: self.plan.clone() })
    }

    fn write(&self, batch: WriteBatch) -> Result<()> {
        self.plan.check("write")?;
        self.engine.write(batch)
    }

    fn sync(&self) -> Result<()> {
        self.plan.check("sync")?;
        self.engine.sync()
    }

    fn estimate(&self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Estimate> {
        self.plan.check("estimate")?;
        self.engine.estimate(cf, start, end)
    }

    fn checkpoint(&self, into: &Path) -> Result<()> {
        self.plan.check("checkpoint")?;
        self.engine.checkpoint(into)
    }

    fn ingest(&self, cf: Cf) -> Result<Box<dyn Ingestion + '_>> {
        self.plan.check("ingest")?;
        Ok(Box::new(FaultyIngestion { load: self.engine.ingest(cf)?, plan: &self.plan }))
    }

    fn capabilities(&self) -> Capabilities {
        self.engine.capabilities()
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        self.engine.statistics()
    }
}

struct FaultyIngestion<'a> {
    load: Box<dyn Ingestion + 'a>,
    plan: &'a Plan,
}

impl Ingestion for FaultyIngestion<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.plan.check("ingest")?;
        self.load.put(key, value)
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        self.plan.check("ingest")?;
        self.load.finish()
    }
}

struct FaultySnapshot {
    snapshot: Arc<dyn Snapshot>,
    plan: Arc<Plan>,
}

impl Snapshot for FaultySnapshot {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        self.plan.check("get")?;
        self.snapshot.get(cf, key)
    }

    fn cursor<'a>(&'a self, cf: Cf, start: &[u8], end: &[u8]) -> Result<Box<dyn Cursor + 'a>> {
        self.plan.check("cursor")?;
        let cursor = self.snapshot.cursor(cf, start, end)?;
        Ok(Box::new(FaultyCursor { cursor, plan: &self.plan }))
    }
}

struct FaultyCursor<'a> {
    cursor: Box<dyn Cursor + 'a>,
    plan: &'a Plan,
}

impl Cursor for FaultyCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        self.plan.check("read")?;
        self.cursor.seek(key)
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<Option<Pair<'_>>> {
        self.plan.check("read")?;
        self.cursor.seek_for_prev(key)
    }

    fn seek_to_last(&mut self) -> Result<Option<Pair<'_>>> {
        self.plan.check("read")?;
        self.cursor.seek_to_last()
    }

    fn next(&mut self) -> Result<Option<Pair<'_>>> {
        self.plan.check("read")?;
        self.cursor.next()
    }

    fn prev(&mut self) -> Result<Option<Pair<'_>>> {
        self.plan.check("read")?;
        self.cursor.prev()
    }

    fn current(&self) -> Option<Pair<'_>> {
        self.cursor.current()
    }
}
