//! Clients: the product's own, each in a process that may end at any moment, and the transactions
//! that they run, written down as they happen. It must never write down more than a client knows.

use crate::chance::Chance;
use crate::history::{Outcome, Read, Run};
use crate::kernel::{Micros, kernel};
use crate::net::NodeId;
use crate::nodes::Alive;
use crate::remote::Wire;
use crate::tables::{Value, encode};
use crate::work;
use crate::world::World;
use damask_env::simulation::pause;
use damask_pd::RegionCache;
use damask_txn::history as lists;
use damask_txn::{Client, Config, Error, Mode, Options, Reads, Transaction, Wait};
use damask_types::{ErrorKind, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Times that a statement is run again because what it read is not the newest any more.
const STATEMENT_RUNS_MAX: u32 = 6;
/// Longest wait of a statement for others' locks.
const LOCK_WAIT_MS: u64 = 1_500;

/// A client at work.
pub struct Session {
    /// The cluster.
    pub world: Arc<World>,
    /// The product's client.
    pub client: Client,
    /// Its place in the network.
    pub id: NodeId,
    /// Its process.
    pub alive: Alive,
    /// Its way to others.
    pub wire: Wire,
    /// Its chance.
    pub chance: Chance,
}

impl Session {
    /// Opens a client; on one of its own process's tasks.
    pub fn open(world: &Arc<World>, id: NodeId, alive: Alive, purpose: u64) -> Session {
        let wire = Wire::new(world.clone(), id, alive.clone());
        let client = client_of(&wire, config_of(world));
        let chance = Chance::new(world.plan.seed, 100 + purpose);
        world.running.lock().push((alive.clone(), client.clone()));
        Session { world: world.clone(), client, id, alive, wire, chance }
    }

    /// Waits for answers no longer than this.
    pub fn be_impatient(&self, patience: Duration) {
        self.wire.set_patience(patience);
    }

    /// Its locks are not kept alive, and copies of its requests for them arrive after `late`.
    pub fn be_forgotten(&mut self, ttl_ms: u64, late: Micros) {
        self.wire.set_late_copy(late);
        let config = Config { lock_ttl_ms: ttl_ms, ..config_of(&self.world) };
        self.client = client_of(&self.wire, config);
    }

    /// Waits a while.
    pub fn think(&mut self, most_ms: u64) {
        pause(Duration::from_micros(self.chance.between(100, most_ms * 1_000)));
    }

    /// Begins a transaction, runs `body` in it (again, if its reads are out of date) and commits.
    pub fn transact(
        &mut self,
        mut body: impl FnMut(&mut Recorded) -> Result<(), Error>,
    ) -> Option<Outcome> {
        let pessimistic = self.chance.below(100) < self.world.plan.limits.pessimistic_percent;
        let mut recorded = Recorded::begin(self, pessimistic).ok()?;
        let result = match pessimistic {
            false => body(&mut recorded),
            true => recorded.statement(&mut body),
        };
        Some(recorded.end(result))
    }

    /// A pessimistic transaction of two statements, with time between them.
    pub fn transact_in_two(
        &mut self,
        mut first: impl FnMut(&mut Recorded) -> Result<(), Error>,
        wait: Duration,
        mut second: impl FnMut(&mut Recorded) -> Result<(), Error>,
    ) -> Option<Outcome> {
        let mut recorded = Recorded::begin(self, true).ok()?;
        let result = recorded.statement(&mut first).and_then(|()| {
            pause(wait);
            recorded.statement(&mut second)
        });
        Some(recorded.end(result))
    }
}

fn config_of(world: &World) -> Config {
    let limits = &world.plan.limits;
    Config {
        request_ms: 6_000,
        lock_wait_ms: 6_000,
        lock_ttl_ms: limits.ttl_ms,
        lock_ttl_max_ms: limits.ttl_ms * 3,
        one_phase: limits.one_phase,
        async_commit: limits.async_commit,
        parallel: 2,
        background: 1,
        background_queue: 16,
        ..Config::default()
    }
}

/// On the thread of its process.
fn client_of(wire: &Wire, config: Config) -> Client {
    let (oracle, services) = (Arc::new(wire.oracle()), Arc::new(wire.clone()));
    let locate = Arc::new(RegionCache::new(Arc::new(wire.placement())));
    let clock = Arc::new(kernel().clock(kernel().here()));
    Client::new(oracle, locate, services, clock, config).expect("the configuration is valid")
}

impl Drop for Session {
    fn drop(&mut self) {
        let left = {
            let mut running = self.world.running.lock();
            let at = running.iter().position(|(alive, _)| alive.is(&self.alive));
            at.map(|at| running.swap_remove(at))
        };
        // A client that goes may wait: not under the lock.
        drop(left);
    }
}

/// A transaction, written down.
pub struct Recorded {
    world: Arc<World>,
    alive: Alive,
    at: usize,
    txn: Transaction,
    run: Run,
    lists: Vec<lists::Op>,
}

impl Recorded {
    fn begin(session: &Session, pessimistic: bool) -> Result<Recorded, Error> {
        let begun = session.world.history.lock().place();
        let mode = if pessimistic { Mode::Pessimistic } else { Mode::Optimistic };
        let txn = session.client.begin_with(Options { mode, ..Options::default() })?;
        let run = Run {
            client: session.id,
            start_ts: txn.start_ts(),
            optimistic: !pessimistic,
            begun,
            answered: 0,
            reads: Vec::new(),
            writes: BTreeMap::new(),
            outcome: Outcome::Unknown,
        };
        let (world, alive) = (session.world.clone(), session.alive.clone());
        let at = session.id.saturating_sub(crate::net::FIRST_CLIENT) as usize;
        Ok(Recorded { world, alive, at, txn, run, lists: Vec::new() })
    }

    fn statement(
        &mut self,
        body: &mut impl FnMut(&mut Recorded) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut runs = 0;
        let (writes, lists) = (self.run.writes.clone(), self.lists.len());
        loop {
            let mark = self.txn.mark();
            self.txn.begin_statement(Reads::Current)?;
            body(self)?;
            runs += 1;
            match self.txn.lock_written(&mark, Wait::Millis(LOCK_WAIT_MS)) {
                Err(Error::Outdated { .. }) if runs < STATEMENT_RUNS_MAX => {
                    self.txn.rollback_to(mark);
                    self.run.writes.clone_from(&writes);
                    self.lists.truncate(lists);
                }
                other => {
                    self.txn.release(mark);
                    return other;
                }
            }
        }
    }

    /// Reads a key.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let value = self.txn.get(key)?;
        if !self.run.writes.contains_key(key) {
            let (key, ts) = (key.to_vec(), self.txn.read_ts());
            self.run.reads.push(Read { key, ts, value: value.clone() });
        }
        Ok(value)
    }

    /// Writes a row, with a cell of the newest column.
    pub fn put_row(&mut self, key: &[u8], value: &Value) -> Result<(), Error> {
        // The last one is never dropped but for a later one.
        let added = self.world.columns_added.load(Ordering::Relaxed);
        let held = self.run.start_ts.0 as i64;
        self.put(key, encode(value, (added > 0).then_some((added, held))))
    }

    /// Writes a key.
    pub fn put(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), Error> {
        self.txn.put(key, value.clone())?;
        self.run.writes.insert(key.to_vec(), Some(value));
        Ok(())
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &[u8]) -> Result<(), Error> {
        self.txn.delete(key)?;
        self.run.writes.insert(key.to_vec(), None);
        Ok(())
    }

    /// Notes a step of a list-append transaction.
    pub fn step(&mut self, op: lists::Op) {
        self.lists.push(op);
    }

    fn end(self, result: Result<(), Error>) -> Outcome {
        let Recorded { world, alive, at, txn, mut run, lists } = self;
        let result = match result {
            Ok(()) => txn.commit(),
            Err(e) => {
                txn.rollback();
                Err(e)
            }
        };
        let outcome = match &result {
            _ if !alive.get() => Outcome::Unknown,
            Ok(ts) => Outcome::Committed(*ts),
            Err(e) => match e.kind() {
                ErrorKind::Undetermined => Outcome::Unknown,
                ErrorKind::Corrupt | ErrorKind::Poisoned | ErrorKind::Invalid => {
                    world.fail(format!("transaction {} was told: {e}", run.start_ts));
                    Outcome::Unknown
                }
                _ => Outcome::Aborted,
            },
        };
        run.outcome = outcome;
        note(&world, &run);
        let mut counts = world.counts.lock();
        let list_outcome = match outcome {
            Outcome::Committed(_) => {
                counts.committed += 1;
                lists::Outcome::Committed
            }
            Outcome::Aborted => {
                counts.aborted += 1;
                lists::Outcome::Aborted
            }
            Outcome::Unknown => {
                counts.unknown += 1;
                lists::Outcome::Unknown
            }
        };
        drop(counts);
        if let Outcome::Committed(_) = outcome
            && world.is_calm()
            && let Some(client) = world.clients.lock().get_mut(at)
        {
            client.in_calm += 1;
        }
        let mut history = world.history.lock();
        run.answered = history.place();
        history.runs.push(run);
        if !lists.is_empty() {
            history.lists.push(lists::Run { ops: lists, outcome: list_outcome });
        }
        outcome
    }
}

fn note(world: &World, run: &Run) {
    let (what, ts) = match run.outcome {
        Outcome::Committed(ts) => ("committed", ts.unwrap_or(Timestamp::ZERO)),
        Outcome::Aborted => ("aborted", Timestamp::ZERO),
        Outcome::Unknown => ("unknown", Timestamp::ZERO),
    };
    debug_assert!(!world.plan.limits.mix.is_empty(), "clients have something to do");
    kernel().note(what, run.client, run.start_ts.0, ts.0);
}

impl World {
    /// Starts a client's process, if it does not run.
    pub fn start_client(self: &Arc<World>, at: usize) {
        let alive = Alive::new();
        let (id, group, lives) = {
            let mut clients = self.clients.lock();
            let Some(client) = clients.get_mut(at).filter(|c| c.alive.is_none()) else { return };
            client.alive = Some(alive.clone());
            client.lives += 1;
            (client.id, client.group, client.lives)
        };
        let world = self.clone();
        world.at_work.fetch_add(1, Ordering::Relaxed);
        kernel().spawn_in(group, &format!("client-{at}"), move || {
            let purpose = id * 1000 + lives;
            let mut session = Session::open(&world, id, alive, purpose);
            while session.alive.get() && !world.is_over() && !world.has_failed() {
                session.think(world.plan.limits.think_ms);
                work::once(&mut session);
            }
            if session.alive.get() {
                session.client.flush();
                session.alive.end();
            }
            world.at_work.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
