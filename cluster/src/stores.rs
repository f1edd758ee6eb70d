//! The stores that run: started together, stopped one by one, and started again when the disk that
//! stopped them has room. It must never start one again by itself that stopped for another reason:
//! what it keeps may be damaged, and a failed sync may have lost what a second one calls written.

use crate::cluster::Parts;
use crate::nodes::{self, Error, Node, Shared};
use crate::reads::ask_leader;
use crate::schemas::CatalogSchemas;
use crate::space::WhileRoom;
use crate::topology::{self, FIRST_COLUMN_STORE};
use damask_env::{Clock, Closing, Task, spawn};
use damask_pd::Placement;
use damask_types::{ErrorKind, StoreId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Until the first region has a leader.
const LEADER_WAIT: Duration = Duration::from_secs(30);
/// Between two looks for the first region's leader.
const LEADER_POLL: Duration = Duration::from_millis(2);
/// Between two looks for stores that a full disk has stopped.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks until one that stops again and again is tried again, at most; they double up to it.
const LOOKS_MAX: u32 = 64;

/// Stores by id, running or stopped by themselves.
pub struct Stores {
    shared: Arc<Shared>,
    parts: Arc<Parts>,
    schemas: Arc<CatalogSchemas>,
    /// Held while one starts or stops, so that these come in an order.
    nodes: Mutex<HashMap<StoreId, Node>>,
}

impl Stores {
    /// Starts every store. One that held data and cannot be opened (damaged, lost, unreadable) is
    /// left out like one that crashed, as long as the others can have a majority.
    ///
    /// # Errors
    /// If too few can be started, or a new one cannot.
    pub fn start(
        shared: &Arc<Shared>,
        parts: &Arc<Parts>,
        schemas: &Arc<CatalogSchemas>,
        progress: &mut impl FnMut(&str),
    ) -> Result<Arc<Stores>, Error> {
        let (shared, parts, schemas) = (shared.clone(), parts.clone(), schemas.clone());
        let stores = Stores { shared, parts, schemas, nodes: Mutex::default() };
        let (config, pd) = (&stores.shared.config, &stores.parts.pd);
        let mut take = |word: &str, id: StoreId| match stores.start_store(id) {
            Ok(()) => {
                progress(&format!("{word} store {id}"));
                Ok(())
            }
            Err(e) if pd.is_initialised(id) => {
                progress(&format!("{word} store {id} does not run: {e}"));
                stores.parts.down.write().insert(id, e.to_string());
                Ok(())
            }
            Err(e) => Err(format!("{word} store {id}: {e}")),
        };
        // The first voter asks for votes as soon as it runs: the others run before it.
        for id in topology::row_stores(config).rev() {
            take("row", id)?;
        }
        let running = config.stores - stores.parts.down.read().len();
        if running < topology::voters(config) / 2 + 1 {
            return Err(without(&stores.parts, "too few row stores can be started"));
        }
        wait_for_leader(pd.as_ref(), stores.shared.clock.as_ref())
            .map_err(|()| without(&stores.parts, "the first region has no leader"))?;
        for id in topology::column_stores(config) {
            take("column", id)?;
        }
        Ok(Arc::new(stores))
    }

    /// What `look` finds in a store that was not stopped.
    pub fn look<T>(&self, id: StoreId, look: impl FnOnce(&Node) -> T) -> Option<T> {
        self.nodes.lock().get(&id).map(look)
    }

    /// Starts a stopped store, with its data.
    ///
    /// # Errors
    /// If its files cannot be opened.
    pub fn start_store(&self, id: StoreId) -> Result<(), Error> {
        self.open(&mut self.nodes.lock(), id)
    }

    /// Stops one; its data stays.
    pub fn stop_store(&self, id: StoreId) {
        self.close(&mut self.nodes.lock(), id);
    }

    /// Stops all.
    pub fn stop(&self) {
        let mut nodes = self.nodes.lock();
        // Columns first: they lean on the rows.
        let mut ids: Vec<_> = nodes.keys().copied().collect();
        ids.sort_by_key(|id| std::cmp::Reverse(id.0));
        for id in ids {
            self.close(&mut nodes, id);
        }
    }

    fn open(&self, nodes: &mut HashMap<StoreId, Node>, id: StoreId) -> Result<(), Error> {
        let node = if id.0 >= FIRST_COLUMN_STORE {
            let ask = ask_leader(self.parts.pd.clone(), self.parts.clone());
            nodes::start_columns(&self.shared, id, self.schemas.clone(), ask)?
        } else {
            nodes::start_rows(&self.shared, id)?
        };
        let parts = &self.parts;
        parts.members.write().insert(id, node.member.clone());
        parts.endpoints.write().insert(id, node.endpoint.clone());
        if let Some(service) = node.service.clone() {
            let service = Arc::new(WhileRoom { service, room: parts.room.clone() });
            parts.services.write().insert(id, service);
        }
        parts.down.write().remove(&id);
        nodes.insert(id, node);
        Ok(())
    }

    fn close(&self, nodes: &mut HashMap<StoreId, Node>, id: StoreId) {
        self.parts.members.write().remove(&id);
        self.parts.services.write().remove(&id);
        self.parts.endpoints.write().remove(&id);
        if let Some(mut node) = nodes.remove(&id) {
            node.stop();
        }
    }

    /// Starts those again that a full disk has stopped, once there is room, until `closing` is closed.
    pub fn revive(self: &Arc<Stores>, closing: Arc<Closing>) -> Task {
        let stores = self.clone();
        spawn("revive", move || {
            let mut patients = HashMap::new();
            while !closing.wait(LOOK_EVERY) {
                if !stores.parts.room.is_little() {
                    stores.revive_once(&mut patients);
                }
            }
        })
    }

    fn revive_once(&self, patients: &mut HashMap<StoreId, Patient>) {
        let mut nodes = self.nodes.lock();
        for (id, node) in nodes.iter() {
            if node.member.handle.failed().is_some_and(|e| e.kind() == ErrorKind::NoSpace) {
                patients.entry(*id).or_default().stopped = true;
            }
        }
        for (id, patient) in patients {
            if !patient.is_due() {
                continue;
            }
            self.close(&mut nodes, *id);
            match self.open(&mut nodes, *id) {
                Ok(()) => {
                    patient.stopped = false;
                    tracing::info!(store = %id, "there is room again: the store goes on");
                }
                Err(e) => {
                    tracing::warn!(store = %id, "there is room, but the store does not start: {e}");
                    self.parts.down.write().insert(*id, e.to_string());
                }
            }
        }
    }
}

/// A store that a full disk has stopped before.
#[derive(Default)]
struct Patient {
    stopped: bool,
    /// Looks from one try to the next.
    pause: u32,
    looks: u32,
}

impl Patient {
    /// Is it to be tried at this look? Less and less often.
    fn is_due(&mut self) -> bool {
        if !self.stopped || self.looks < self.pause {
            self.looks += 1;
            return false;
        }
        self.looks = 0;
        self.pause = (self.pause * 2).clamp(1, LOOKS_MAX);
        true
    }
}

/// What is wrong, and which stores do not run.
fn without(parts: &Parts, what: &str) -> Error {
    let down = parts.down.read();
    let reasons = down.iter().map(|(id, reason)| format!("\n  row store {id}: {reason}"));
    format!("{what}{}", reasons.collect::<String>()).into()
}

fn wait_for_leader(pd: &dyn Placement, clock: &dyn Clock) -> Result<(), ()> {
    let pause = Closing::new(); // nobody closes it
    let deadline = clock.monotonic() + LEADER_WAIT;
    while clock.monotonic() < deadline {
        if pd.route(b"m").is_some_and(|route| route.leader.is_some()) {
            return Ok(());
        }
        pause.wait(LEADER_POLL);
    }
    Err(())
}
