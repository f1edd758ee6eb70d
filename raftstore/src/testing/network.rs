//! A transport inside the process. It never delays and never reorders; it drops what a filter
//! says, or what comes from or goes to an isolated store.

use crate::driver::StoreHandle;
use crate::handle::{Envelope, Transport};
use damask_types::StoreId;
use parking_lot::RwLock;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

type Filter = Arc<dyn Fn(&Envelope) -> bool + Send + Sync>;

#[derive(Default)]
struct State {
    stores: HashMap<StoreId, StoreHandle>,
    isolated: HashSet<StoreId>,
    filter: Option<Filter>,
}

/// Connects stores of one process; clones share it.
#[derive(Clone, Default)]
pub struct LocalNetwork {
    state: Arc<RwLock<State>>,
}

impl LocalNetwork {
    /// Nobody is connected.
    pub fn new() -> LocalNetwork {
        LocalNetwork::default()
    }

    /// Connects a store, in the place of an earlier one with its id.
    pub fn connect(&self, handle: StoreHandle) {
        self.state.write().stores.insert(handle.id(), handle);
    }

    /// Disconnects a store.
    pub fn disconnect(&self, store: StoreId) {
        self.state.write().stores.remove(&store);
    }

    /// Nothing goes in or out.
    pub fn isolate(&self, store: StoreId) {
        self.state.write().isolated.insert(store);
    }

    /// One store is not isolated any more.
    pub fn rejoin(&self, store: StoreId) {
        self.state.write().isolated.remove(&store);
    }

    /// Everything goes again.
    pub fn heal(&self) {
        let mut state = self.state.write();
        state.isolated.clear();
        state.filter = None;
    }

    /// Only envelopes for which `keep` is true go through.
    pub fn set_filter(&self, keep: impl Fn(&Envelope) -> bool + Send + Sync + 'static) {
        self.state.write().filter = Some(Arc::new(keep));
    }
}

impl Transport for LocalNetwork {
    fn send(&self, to: StoreId, mut envelopes: Vec<Envelope>) {
        let (handle, filter) = {
            let state = self.state.read();
            let Some(handle) = state.stores.get(&to) else { return };
            envelopes.retain(|e| {
                !state.isolated.contains(&e.from.store) && !state.isolated.contains(&e.to.store)
            });
            (handle.clone(), state.filter.clone())
        };
        if let Some(keep) = filter {
            envelopes.retain(|e| keep(e));
        }
        if !envelopes.is_empty() {
            handle.receive(envelopes);
        }
    }
}
