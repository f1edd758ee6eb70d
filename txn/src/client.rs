//! The client: begins transactions, reads, resolves locks, and owns the threads that work for
//! them. It must never need an async runtime: whoever calls it waits in it.

use crate::backoff::Closing;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::keeper::Keeper;
use crate::options::{Options, ReadFrom};
use crate::region::{Core, Services, StaleReads};
use crate::resolve::Outcomes;
use crate::snapshot::SnapshotReader;
use crate::transaction::Transaction;
use crate::workers::{Job, Workers};
use damask_env::Clock;
use damask_env::channel::unbounded;
use damask_pd::Locate;
use damask_tso::Oracle;
use damask_types::{ErrorKind, KeyLock, Timestamp};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Runs of [`Client::run`] before a conflict is given to the caller.
pub const RUNS_MAX: u32 = 32;
/// A transaction given from outside counts as at most this old, whatever the clocks say.
const AGE_MAX_MS: u64 = 3_600_000;

/// A client of the cluster's rows. Clones share it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    // In the order in which they are dropped: nothing is left to keep alive when the rest ends.
    background: Workers,
    parallel: Workers,
    keeper: Keeper,
}

impl Client {
    /// A client of the stores that `services` reaches.
    ///
    /// # Errors
    /// `Invalid` if the configuration makes no sense.
    pub fn new(
        oracle: Arc<dyn Oracle>,
        locate: Arc<dyn Locate>,
        services: Arc<dyn Services>,
        clock: Arc<dyn Clock>,
        config: Config,
    ) -> Result<Client> {
        config.validate().map_err(Error::Invalid)?;
        let background = Workers::new("txn-commit", config.background, config.background_queue);
        let parallel = Workers::new("txn-request", config.parallel, 0);
        let core = Arc::new(Core {
            oracle,
            locate,
            services,
            clock,
            config,
            outcomes: Outcomes::default(),
            closing: Closing::default(),
            running: Arc::default(),
            stale: StaleReads::default(),
        });
        let keeper = Keeper::new(Arc::clone(&core));
        Ok(Client { inner: Arc::new(Inner { core, background, parallel, keeper }) })
    }

    /// An optimistic transaction that reads at a new timestamp.
    pub fn begin(&self) -> Result<Transaction> {
        self.begin_with(Options::default())
    }

    /// A transaction that starts at a new timestamp.
    pub fn begin_with(&self, options: Options) -> Result<Transaction> {
        let open = self.core().running.begin(|| self.timestamp())?;
        Ok(Transaction::new(self.clone(), open, self.core().clock.monotonic(), options))
    }

    /// An optimistic transaction that reads at a timestamp taken before, by nobody else as a start.
    pub fn begin_at(&self, start_ts: Timestamp) -> Transaction {
        let clock = &self.core().clock;
        let age_ms = clock.wall_ms().saturating_sub(start_ts.physical_ms()).min(AGE_MAX_MS);
        let began = clock.monotonic().saturating_sub(Duration::from_millis(age_ms));
        let open = self.core().running.at(start_ts);
        Transaction::new(self.clone(), open, began, Options::default())
    }

    /// A transaction that only reads, at a timestamp in the past, and from any replica that is safe
    /// up to it; else from the leader. What it reads is not collected while it is open.
    ///
    /// # Errors
    /// `Invalid`: the timestamp lies in the future.
    pub fn begin_stale(&self, ts: Timestamp) -> Result<Transaction> {
        // Counted first: the safe point stays below it from here on.
        let open = self.core().running.at(ts);
        let now = self.timestamp()?;
        if ts == Timestamp::ZERO || ts > now {
            return Err(Error::Invalid(format!("nothing can be read at {ts} yet: it is {now}")));
        }
        Ok(Transaction::stale(self.clone(), open, self.core().clock.monotonic()))
    }

    /// Requests that any replica could have answered: how many one did, and how many the leader had
    /// to.
    pub fn stale_reads(&self) -> (u64, u64) {
        let stale = &self.core().stale;
        (stale.served.load(Ordering::Relaxed), stale.refused.load(Ordering::Relaxed))
    }

    /// Of these locks' transactions, those that are over or will commit above `ts`: the living are
    /// pushed, if they can be.
    pub fn push_locks(&self, locks: &[KeyLock], ts: Timestamp) -> Result<Vec<Timestamp>> {
        let core = self.core();
        Ok(core.resolve(locks, ts, &mut core.brief_backoff())?.bypass)
    }

    /// No transaction of this client that is open now began before it; `None`: none is open. A
    /// transaction that is just beginning counts.
    pub fn oldest_running(&self) -> Option<Timestamp> {
        self.core().running.oldest()
    }

    /// A new timestamp.
    pub fn timestamp(&self) -> Result<Timestamp> {
        self.core().timestamp(&mut self.core().backoff())
    }

    /// The latest committed value of one key; needs no timestamp.
    pub fn get_latest(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.core().get(key, Timestamp::MAX, ReadFrom::Leader)
    }

    /// Reads at a timestamp.
    pub fn snapshot(&self, ts: Timestamp) -> SnapshotReader {
        SnapshotReader::new(self.clone(), ts)
    }

    /// Ends locks whose transactions have ended; pushes transactions that are alive above
    /// `caller_start_ts` (ZERO: does not). `Some`: one is alive; how long to wait at most before
    /// looking again. `None`: look again now.
    pub fn resolve_locks(
        &self,
        locks: &[KeyLock],
        caller_start_ts: Timestamp,
    ) -> Result<Option<Duration>> {
        let core = self.core();
        let resolution = core.resolve(locks, caller_start_ts, &mut core.backoff())?;
        // A transaction that was pushed still has its locks: a caller that cannot ignore them
        // has to wait, though not for long.
        let pushed = (!resolution.bypass.is_empty()).then_some(Duration::from_millis(1));
        Ok(resolution.alive.map(|(_, left)| left).or(pushed))
    }

    /// Runs `body` in a transaction and commits it; runs it again, in a new one, when another
    /// transaction was first. An error of `body` ends it at once, and nothing is written.
    pub fn run<T, E: From<Error>>(
        &self,
        mut body: impl FnMut(&mut Transaction) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut backoff = self.core().backoff();
        let mut runs = 0;
        loop {
            let mut txn = self.begin()?;
            let start_ts = txn.start_ts();
            let value = body(&mut txn)?;
            let Err(error) = txn.commit() else { return Ok(value) };
            runs += 1;
            if error.kind() != ErrorKind::Conflict || runs >= RUNS_MAX {
                return Err(error.into());
            }
            backoff.wait_lock(start_ts, Duration::from_millis(20)).map_err(|_| error)?;
        }
    }

    /// Waits until the secondary keys of every answered commit are committed, or left to be
    /// resolved.
    pub fn flush(&self) {
        self.inner.background.wait_idle();
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    pub(crate) fn keeper(&self) -> &Keeper {
        &self.inner.keeper
    }

    /// Runs `run` for each item, on as many threads as are idle and on this one; the answers in
    /// the order of the items.
    pub(crate) fn side_by_side<T: Send + 'static, R: Send + 'static>(
        &self,
        items: Vec<T>,
        run: impl Fn(&Core, T) -> R + Send + Sync + 'static,
    ) -> Vec<R> {
        if items.len() <= 1 {
            return items.into_iter().map(|item| run(self.core(), item)).collect();
        }
        let count = items.len();
        let run = Arc::new(run);
        let (sender, receiver) = unbounded();
        for (at, item) in items.into_iter().enumerate() {
            let (core, run, sender) = (Arc::clone(self.core()), Arc::clone(&run), sender.clone());
            let job: Job = Box::new(move || {
                let answer = run(&core, item);
                // Nobody waits only if the caller panicked.
                drop(sender.send((at, answer)));
            });
            // The last one stays here: this thread has nothing else to do.
            match if at + 1 < count { self.inner.parallel.offer(job) } else { Err(job) } {
                Ok(()) => {}
                Err(job) => job(),
            }
        }
        drop(sender);
        let mut answers: Vec<(usize, R)> = receiver.iter().collect();
        assert_eq!(answers.len(), count, "a part of a request panicked");
        answers.sort_unstable_by_key(|(at, _)| *at);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Runs work that nobody waits for; here, when too much of it is waiting.
    pub(crate) fn in_background(&self, work: impl FnOnce(&Core) + Send + 'static) {
        let core = Arc::clone(self.core());
        if let Err(job) = self.inner.background.offer(Box::new(move || work(&core))) {
            job();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What waits in the background gets one attempt each; the rest is left to be resolved.
        self.core.closing.set();
    }
}
