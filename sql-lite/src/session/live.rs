//! Who is connected: what SHOW PROCESSLIST shows and KILL reaches. It must never hold on to a
//! session: only to what others may know of it.

use crate::interrupt::{Interrupt, Reason};
use damask_types::Timestamp;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// One connection, as others see it.
#[derive(Debug)]
pub struct Live {
    /// CONNECTION_ID().
    pub id: u32,
    /// The user name.
    pub user: String,
    /// The peer's address.
    pub host: String,
    /// Tells its statement to end.
    pub interrupt: Arc<Interrupt>,
    /// Rows that its last query gave, or would have given without its LIMIT: FOUND_ROWS().
    pub found_rows: AtomicU64,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    database: Option<String>,
    statement: Option<String>,
    since_ms: u64,
    /// Statements begun.
    number: u64,
    /// The transaction that asks for row locks, and perhaps waits for them.
    locking: Option<Timestamp>,
}

/// A row of SHOW PROCESSLIST.
#[derive(Clone, Debug)]
pub struct Activity {
    /// CONNECTION_ID().
    pub id: u32,
    /// The user name.
    pub user: String,
    /// The peer's address.
    pub host: String,
    /// The current database.
    pub database: Option<String>,
    /// The running statement's text; `None`: idle.
    pub statement: Option<String>,
    /// When it began, or ended: wall clock, milliseconds.
    pub since_ms: u64,
    /// Told to end.
    pub killed: bool,
    /// The transaction that asks for row locks, and perhaps waits for them.
    pub locking: Option<Timestamp>,
}

/// As long as it lives, its connection asks for row locks.
pub struct LockWait<'a>(&'a Live);

impl Drop for LockWait<'_> {
    fn drop(&mut self) {
        self.0.state.lock().locking = None;
    }
}

impl Live {
    /// A statement begins; gives its number.
    pub fn begin(&self, statement: &str, now_ms: u64) -> u64 {
        let mut state = self.state.lock();
        state.statement = Some(statement.to_owned());
        state.since_ms = now_ms;
        state.number += 1;
        self.interrupt.begin();
        state.number
    }

    /// The statement of this number ended.
    pub fn end(&self, number: u64, now_ms: u64) {
        let mut state = self.state.lock();
        if state.number == number {
            state.statement = None;
            state.since_ms = now_ms;
        }
    }

    /// Tells the statement of this number to end, if it still runs.
    pub fn raise(&self, number: u64, reason: Reason) {
        let state = self.state.lock();
        if state.number == number && state.statement.is_some() {
            self.interrupt.raise(reason);
        }
    }

    /// Its statement asks for row locks, for this transaction.
    pub fn locking(&self, transaction: Timestamp) -> LockWait<'_> {
        self.state.lock().locking = Some(transaction);
        LockWait(self)
    }

    /// The current database changed.
    pub fn set_database(&self, database: Option<&str>) {
        let mut state = self.state.lock();
        if state.database.as_deref() != database {
            state.database = database.map(str::to_owned);
        }
    }
}

/// Every connection.
#[derive(Debug, Default)]
pub struct Connections(Mutex<BTreeMap<u32, Arc<Live>>>);

impl Connections {
    /// A client was let in.
    pub fn add(
        &self,
        id: u32,
        user: &str,
        host: &str,
        database: Option<&str>,
        now_ms: u64,
    ) -> Arc<Live> {
        let database = database.map(str::to_owned);
        let state = State { database, since_ms: now_ms, ..State::default() };
        let live = Arc::new(Live {
            id,
            user: user.to_owned(),
            host: host.to_owned(),
            interrupt: Arc::default(),
            found_rows: AtomicU64::new(0),
            state: Mutex::new(state),
        });
        self.0.lock().insert(id, live.clone());
        live
    }

    /// It left.
    pub fn remove(&self, id: u32) {
        self.0.lock().remove(&id);
    }

    /// Tells a connection, or only what it runs, to end; false if there is none.
    pub fn kill(&self, id: u32, reason: Reason) -> bool {
        let live = self.0.lock().get(&id).cloned();
        live.inspect(|live| live.interrupt.raise(reason)).is_some()
    }

    /// Has it been told to end?
    pub fn is_killed(&self, id: u32) -> bool {
        self.0.lock().get(&id).is_some_and(|live| live.interrupt.ends_connection())
    }

    /// Everybody, by id.
    pub fn list(&self) -> Vec<Activity> {
        let connections = self.0.lock();
        let activity = |live: &Arc<Live>| {
            let state = live.state.lock().clone();
            Activity {
                id: live.id,
                user: live.user.clone(),
                host: live.host.clone(),
                database: state.database,
                statement: state.statement,
                since_ms: state.since_ms,
                killed: live.interrupt.reason().is_some(),
                locking: state.locking,
            }
        };
        connections.values().map(activity).collect()
    }
}
