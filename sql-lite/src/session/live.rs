//! Who is connected: what SHOW PROCESSLIST shows and KILL reaches. It must never hold on to a
//! session: only to what others may know of it.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One connection, as others see it.
#[derive(Debug)]
pub struct Live {
    /// CONNECTION_ID().
    pub id: u32,
    /// The user name.
    pub user: String,
    /// The peer's address.
    pub host: String,
    state: Mutex<State>,
    killed: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct State {
    database: Option<String>,
    statement: Option<String>,
    since_ms: u64,
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
}

impl Live {
    /// A statement begins.
    pub fn begin(&self, statement: &str, now_ms: u64) {
        let mut state = self.state.lock();
        state.statement = Some(statement.to_owned());
        state.since_ms = now_ms;
    }

    /// It ended.
    pub fn end(&self, database: Option<&str>, now_ms: u64) {
        let mut state = self.state.lock();
        state.statement = None;
        state.database = database.map(str::to_owned);
        state.since_ms = now_ms;
    }

    /// Has it been told to end?
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
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
        let state =
            State { database: database.map(str::to_owned), statement: None, since_ms: now_ms };
        let live = Arc::new(Live {
            id,
            user: user.to_owned(),
            host: host.to_owned(),
            state: Mutex::new(state),
            killed: AtomicBool::new(false),
        });
        self.0.lock().insert(id, live.clone());
        live
    }

    /// It left.
    pub fn remove(&self, id: u32) {
        self.0.lock().remove(&id);
    }

    /// Tells a connection to end; false if there is none.
    pub fn kill(&self, id: u32) -> bool {
        let connections = self.0.lock();
        let Some(live) = connections.get(&id) else { return false };
        live.killed.store(true, Ordering::Relaxed);
        true
    }

    /// Has it been told to end?
    pub fn is_killed(&self, id: u32) -> bool {
        self.0.lock().get(&id).is_some_and(|live| live.is_killed())
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
            }
        };
        connections.values().map(activity).collect()
    }
}
