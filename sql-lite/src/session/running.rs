//! A statement from its text to its last row: what PROCESSLIST shows of it, and the sign and the
//! clock that end it early. It must never touch the statement that follows.

use super::live::Live;
use crate::error::Result;
use crate::interrupt::Reason;
use crate::outcome::{Done, LocalInfile, Outcome, RowBatch, RowSource};
use damask_env::Clock;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::AbortHandle;

/// A running statement; dropped when it ended.
pub struct Running {
    live: Arc<Live>,
    clock: Arc<dyn Clock>,
    /// Which statement of the connection it is.
    number: u64,
    timer: Option<AbortHandle>,
}

impl Running {
    /// A statement begins.
    pub fn begin(live: Arc<Live>, clock: Arc<dyn Clock>, text: &str, now_ms: u64) -> Running {
        let number = live.begin(text, now_ms);
        Running { live, clock, number, timer: None }
    }

    /// It may run for so long (max_execution_time).
    pub fn limit(&mut self, runtime: &tokio::runtime::Handle, time: Duration) {
        let (live, number) = (self.live.clone(), self.number);
        let timer = runtime.spawn(async move {
            tokio::time::sleep(time).await;
            live.raise(number, Reason::TimeUp);
        });
        self.timer = Some(timer.abort_handle());
    }

    /// The outcome, which goes on running while its rows are read or its file is sent. `found`: how
    /// many rows a query has without its LIMIT, if that was asked.
    pub fn over(self, outcome: Outcome, found: Option<u64>) -> Outcome {
        match outcome {
            Outcome::Done(done) => Outcome::Done(done),
            Outcome::Rows(mut rows) => {
                self.live.found_rows.store(found.unwrap_or(0), Ordering::Relaxed);
                let counts = found.is_none();
                rows.source = Box::new(RunningRows { source: rows.source, running: self, counts });
                Outcome::Rows(rows)
            }
            Outcome::LocalInfile(load) => {
                Outcome::LocalInfile(Box::new(RunningLoad { load, running: self }))
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
        self.live.end(self.number, self.clock.wall_ms());
    }
}

struct RunningRows {
    source: Box<dyn RowSource>,
    running: Running,
    /// Its rows are those that FOUND_ROWS tells of.
    counts: bool,
}

impl RowSource for RunningRows {
    fn next(&mut self) -> Result<Option<RowBatch>> {
        self.running.live.interrupt.check()?;
        let batch = self.source.next()?;
        if let (true, Some(batch)) = (self.counts, &batch) {
            let rows = match batch {
                RowBatch::Datums(rows) => rows.len(),
                RowBatch::Columns(batch) => batch.num_rows(),
            };
            self.running.live.found_rows.fetch_add(rows as u64, Ordering::Relaxed);
        }
        Ok(batch)
    }
}

struct RunningLoad {
    load: Box<dyn LocalInfile>,
    running: Running,
}

impl LocalInfile for RunningLoad {
    fn file_name(&self) -> &str {
        self.load.file_name()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.running.live.interrupt.check()?;
        self.load.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<Done> {
        self.running.live.interrupt.check()?;
        self.load.finish()
    }
}
