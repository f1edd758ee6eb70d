//! The network of a cluster in one process: envelopes go straight to the receiving store's
//! inbox. A store that stopped, or was cut off, gets nothing; nobody is told.

use damask_raftstore::{Envelope, StoreHandle, Transport};
use damask_types::StoreId;
use parking_lot::RwLock;
use std::collections::{HashMap, HashSet};

/// Stores by id.
#[derive(Default)]
pub struct Network {
    stores: RwLock<HashMap<StoreId, StoreHandle>>,
    cut: RwLock<HashSet<StoreId>>,
}

impl Network {
    /// Delivers to this store from now on.
    pub fn attach(&self, id: StoreId, handle: StoreHandle) {
        self.stores.write().insert(id, handle);
    }

    /// Delivers nothing more to it.
    pub fn detach(&self, id: StoreId) {
        self.stores.write().remove(&id);
    }

    /// Cuts a store off in both directions, or heals it: a fault for tests.
    pub fn set_cut(&self, id: StoreId, cut: bool) {
        let mut set = self.cut.write();
        if cut {
            set.insert(id)
        } else {
            set.remove(&id)
        };
    }

    /// Is this store cut off?
    pub fn is_cut(&self, id: StoreId) -> bool {
        self.cut.read().contains(&id)
    }
}

impl Transport for Network {
    fn send(&self, to: StoreId, mut envelopes: Vec<Envelope>) {
        {
            let cut = self.cut.read();
            if !cut.is_empty() {
                envelopes.retain(|e| !cut.contains(&e.from.store) && !cut.contains(&to));
            }
        }
        let handle = self.stores.read().get(&to).cloned();
        if let Some(handle) = handle
            && !envelopes.is_empty()
        {
            handle.receive(envelopes);
        }
    }
}
