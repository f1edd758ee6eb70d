//! How much memory queries may hold: each its own quota (`tidb_mem_quota_query`), all of a process
//! together half of the machine's. What sorts (and most that groups) spills to files first
//! (`tidb_enable_tmp_storage_on_oom`), up to a limit of its own. It must never count what has been
//! given back, nor let a query wait for another's memory.
//!
//! ```text
//!  operator ─ reservation ─► Quota (one query) ─► Shared (all queries)
//!                              │ too much            │ too much
//!                              └──── the operator spills, or the query ends with 8175
//! ```

use super::QueryContext;
use crate::error::Error;
use arrow::array::RecordBatch;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::DiskManager;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

/// What all queries may hold where the size of the machine is not known.
const SHARED_BYTES_DEFAULT: usize = 4 << 30;
/// Files of spilled rows, of all queries together.
const SPILL_BYTES_MAX: u64 = 2 << 30;

/// The memory of all queries of a process.
#[derive(Debug)]
pub(super) struct Shared {
    used: AtomicUsize,
    bytes_max: usize,
}

impl Shared {
    /// Half of the machine's memory.
    pub fn of_machine() -> Arc<Shared> {
        let bytes_max = machine_bytes().map_or(SHARED_BYTES_DEFAULT, |bytes| bytes / 2);
        Arc::new(Shared { used: AtomicUsize::new(0), bytes_max })
    }
}

/// The machine's memory; `None` where the system does not say.
fn machine_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: usize = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The surroundings of all queries: where they spill.
pub(super) fn surroundings() -> Arc<RuntimeEnv> {
    let files = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::OsTmpDirectory)
        .with_max_temp_directory_size(SPILL_BYTES_MAX);
    let built = RuntimeEnvBuilder::new().with_disk_manager_builder(files).build_arc();
    built.expect("an environment is made without looking outside")
}

/// In place of files, for who may not spill.
static NO_FILES: LazyLock<Arc<DiskManager>> = LazyLock::new(|| {
    let built = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled).build();
    Arc::new(built.expect("nothing is made"))
});

/// What a query runs in: its operators take their memory from the query's quota.
pub(super) fn task(ctx: &QueryContext<'_>) -> Arc<TaskContext> {
    let task = TaskContext::from(ctx.services.state.as_ref());
    let quota = Quota {
        used: AtomicUsize::new(0),
        bytes_max: usize::try_from(ctx.variables.number("tidb_mem_quota_query"))
            .ok()
            .filter(|bytes| *bytes > 0)
            .unwrap_or(usize::MAX),
        shared: ctx.services.memory.clone(),
    };
    let surroundings = task.runtime_env();
    let disk_manager = match ctx.variables.number("tidb_enable_tmp_storage_on_oom") {
        0 => NO_FILES.clone(),
        _ => surroundings.disk_manager.clone(),
    };
    let memory_pool = Arc::new(quota);
    let own = RuntimeEnv { memory_pool, disk_manager, ..(*surroundings).clone() };
    Arc::new(task.with_runtime(Arc::new(own)))
}

/// The error of a query that needs more than it may have.
pub(super) fn exhausted() -> Error {
    let message = "Out Of Memory Quota! The query needs more memory than tidb_mem_quota_query or \
        the server allows; narrow it, or raise the quota";
    Error { code: 8175, state: "HY000", message: message.to_owned() }
}

/// The memory of one query.
#[derive(Debug)]
struct Quota {
    used: AtomicUsize,
    bytes_max: usize,
    shared: Arc<Shared>,
}

/// Adds unless the sum is over the limit.
fn add(used: &AtomicUsize, bytes: usize, bytes_max: usize) -> bool {
    let sum = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= bytes_max);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok()
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "quota of {} bytes", self.bytes_max)
    }
}

impl MemoryPool for Quota {
    fn name(&self) -> &str {
        "quota"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
        self.shared.used.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::Relaxed);
        self.shared.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, _: &MemoryReservation, additional: usize) -> Result<()> {
        let refused = || Err(DataFusionError::ResourcesExhausted(exhausted().message));
        if !add(&self.used, additional, self.bytes_max) {
            return refused();
        }
        if !add(&self.shared.used, additional, self.shared.bytes_max) {
            self.used.fetch_sub(additional, Ordering::Relaxed);
            return refused();
        }
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max.min(self.shared.bytes_max))
    }
}

/// Counts the batches that an operator above keeps until its end, without counting them itself.
pub(super) fn counted(
    input: SendableRecordBatchStream,
    context: &TaskContext,
) -> SendableRecordBatchStream {
    let held = MemoryConsumer::new("kept").register(context.memory_pool());
    let count = move |batch: Result<RecordBatch>| {
        let batch = batch?;
        held.try_grow(batch.get_array_memory_size())?;
        Ok(batch)
    };
    Box::pin(RecordBatchStreamAdapter::new(input.schema(), input.map(count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(bytes_max: usize, shared: &Arc<Shared>) -> Arc<dyn MemoryPool> {
        Arc::new(Quota { used: AtomicUsize::new(0), bytes_max, shared: shared.clone() })
    }

    #[test]
    fn a_query_has_its_quota_and_all_share_the_machine() {
        let shared = Arc::new(Shared { used: AtomicUsize::new(0), bytes_max: 150 });
        let (one, two) = (quota(100, &shared), quota(100, &shared));
        let a = MemoryConsumer::new("a").register(&one);
        let b = MemoryConsumer::new("b").register(&two);
        assert!(a.try_grow(100).is_ok());
        assert!(a.try_grow(1).is_err(), "over its own quota");
        assert!(b.try_grow(51).is_err(), "over what all may hold");
        assert_eq!(two.reserved(), 0, "what was refused is not counted");
        assert!(b.try_grow(50).is_ok());
        drop((a, b));
        assert_eq!(shared.used.load(Ordering::Relaxed), 0);
    }
}
