//! What becomes of a store that finds damage in what it keeps while it runs. A row store that the
//! others can do without takes itself out: it is cut off and answers nobody, so that its regions
//! elect other leaders and clients find them. It must never take out a store that a region's
//! majority needs: that one goes on, and names the damage to whoever meets it.

use crate::network::Network;
use crate::placement::Members;
use arrow::array::RecordBatch;
use damask_coprocessor::{
    Endpoint, EndpointError, FoldWork, MaskedPart, Part, RegionContext, ScanSpec,
};
use damask_deltatree::Predicate;
use damask_raftstore::Error as RegionError;
use damask_txn::request::{Context, Request, RequestError, Response};
use damask_txn::{Service, TxnServer};
use damask_types::{ErrorKind, KeyRange, Region, StoreId};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Decides which row stores may leave.
pub struct Ward {
    network: Arc<Network>,
    members: Members,
    /// One decision at a time: two stores must not leave because of each other's presence.
    deciding: Mutex<()>,
}

impl Ward {
    /// For the stores of one cluster.
    pub fn new(network: Arc<Network>, members: Members) -> Ward {
        Ward { network, members, deciding: Mutex::new(()) }
    }

    /// Cuts a store off if each of its regions has a majority that is well without it.
    fn take_out(&self, id: StoreId) -> bool {
        let members = self.members.read();
        let is_well = |store: StoreId| {
            store != id && members.get(&store).is_some_and(|member| member.failed().is_none())
        };
        let suffice = |region: &Region| {
            let left = region.voters().filter(|peer| is_well(peer.store)).count();
            // Between two sets of voters each would have to be asked for itself.
            left * 2 > region.voters().count() && !region.is_joint()
        };
        let own = members.get(&id).map(|member| member.handle.replicas()).unwrap_or_default();
        let may_leave = !own.is_empty() && own.iter().all(|status| suffice(&status.region));
        if may_leave {
            self.network.set_cut(id, true);
        }
        may_leave
    }
}

/// What was found to be wrong with one store, once.
pub struct Fault {
    store: StoreId,
    ward: Arc<Ward>,
    may_leave: bool,
    detail: OnceLock<String>,
    out: AtomicBool,
}

impl Fault {
    /// Of a row store.
    pub fn of_rows(store: StoreId, ward: Arc<Ward>) -> Fault {
        Fault { store, ward, may_leave: true, detail: OnceLock::new(), out: AtomicBool::new(false) }
    }

    /// Of a column store: nobody votes there, so it only says what is wrong.
    pub fn of_columns(store: StoreId, ward: Arc<Ward>) -> Fault {
        Fault { may_leave: false, ..Fault::of_rows(store, ward) }
    }

    /// Why the store cannot be relied on, if so.
    pub fn get(&self) -> Option<String> {
        self.detail.get().cloned()
    }

    /// Keeps the first thing found, and takes the store out if that is possible.
    pub fn found(&self, detail: &str) {
        let _one = self.ward.deciding.lock();
        if self.detail.set(detail.to_owned()).is_err() {
            return;
        }
        let out = self.may_leave && self.ward.take_out(self.store);
        self.out.store(out, Ordering::Release);
        tracing::error!(store = %self.store, out_of_service = out, "{detail}");
    }

    /// Has the store been taken out?
    pub fn is_out(&self) -> bool {
        self.out.load(Ordering::Acquire)
    }

    /// The store has stopped: one that starts in its place is heard again, whatever is still found
    /// by those who read this one.
    pub fn discharge(&self) {
        let _one = self.ward.deciding.lock();
        self.detail.get_or_init(|| "the store has stopped".to_owned());
        if self.out.swap(false, Ordering::AcqRel) {
            self.ward.network.set_cut(self.store, false);
        }
    }

    /// Looks at an error on its way to a caller. Is it that of a store which is out, so that the
    /// caller should ask elsewhere instead?
    fn look_at(&self, kind: ErrorKind, error: &dyn std::fmt::Display) -> bool {
        if kind == ErrorKind::Corrupt {
            self.found(&error.to_string());
        }
        self.is_out()
    }

    fn refusal(&self) -> Option<RegionError> {
        self.is_out().then_some(RegionError::Stopped)
    }
}

/// A store's service or endpoint, as long as the store is in service.
pub struct Guarded<T> {
    inner: T,
    fault: Arc<Fault>,
}

impl<T> Guarded<T> {
    /// Looks at what `inner` answers.
    pub fn new(inner: T, fault: Arc<Fault>) -> Guarded<T> {
        Guarded { inner, fault }
    }
}

impl Service for Guarded<Arc<TxnServer>> {
    fn call(&self, context: Context, request: Request) -> Result<Response, RequestError> {
        if let Some(refusal) = self.fault.refusal() {
            return Err(refusal.into());
        }
        self.inner.call(context, request).map_err(|e| {
            let RequestError::Region(error) = &e else { return e };
            match self.fault.look_at(error.kind(), error) {
                // What it proposed before that may be applied elsewhere.
                true => RegionError::Undetermined(error.to_string()).into(),
                false => e,
            }
        })
    }
}

impl<E: Endpoint> Guarded<E> {
    /// Asks, while the store is in service.
    fn ask<T>(&self, ask: impl FnOnce(&E) -> Result<T, EndpointError>) -> Result<T, EndpointError> {
        if let Some(refusal) = self.fault.refusal() {
            return Err(refusal.into());
        }
        ask(&self.inner).map_err(|e| {
            if self.fault.look_at(e.kind(), &e) { RegionError::Stopped.into() } else { e }
        })
    }

    fn watch<I>(&self, part: I) -> Watched<I> {
        Watched { part, fault: self.fault.clone() }
    }
}

impl<E: Endpoint> Endpoint for Guarded<E> {
    fn open(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
    ) -> Result<Vec<Part>, EndpointError> {
        let parts = self.ask(|inner| inner.open(context, ranges, spec))?;
        Ok(parts.into_iter().map(|part| Box::new(self.watch(part)) as Part).collect())
    }

    fn select(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        filter: &[Predicate],
    ) -> Result<Option<Vec<MaskedPart>>, EndpointError> {
        let parts = self.ask(|inner| inner.select(context, ranges, spec, filter))?;
        let watched = |part| Box::new(self.watch(part)) as MaskedPart;
        Ok(parts.map(|parts| parts.into_iter().map(watched).collect()))
    }

    fn ordered(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        filter: &[Predicate],
    ) -> Result<Option<Part>, EndpointError> {
        let part = self.ask(|inner| inner.ordered(context, ranges, spec, filter))?;
        Ok(part.map(|part| Box::new(self.watch(part)) as Part))
    }

    fn fold(
        &self,
        context: RegionContext,
        ranges: &[KeyRange],
        spec: &Arc<ScanSpec>,
        work: &FoldWork,
    ) -> Result<Option<RecordBatch>, EndpointError> {
        self.ask(|inner| inner.fold(context, ranges, spec, work))
    }
}

/// A part whose rows may turn out to be damaged. Some of them have left already: the scan fails, and
/// says why; the next one is served elsewhere.
struct Watched<I> {
    part: I,
    fault: Arc<Fault>,
}

impl<T, I: Iterator<Item = Result<T, EndpointError>>> Iterator for Watched<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let item = self.part.next();
        if let Some(Err(e)) = &item {
            self.fault.look_at(e.kind(), e);
        }
        item
    }
}
