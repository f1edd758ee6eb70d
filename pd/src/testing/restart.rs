//! What a placement driver must still know after a restart, and what it must forget: a public
//! suite. It must never ask for more than the seam promises.

use super::{region, report, stores};
use crate::seam::Placement;
use crate::values::*;
use damask_types::{KeyRange, RegionId, StoreId};
use std::sync::Arc;

/// Opens the driver on its storage: each call is a restart. The one before is dropped by then.
pub type Reopen = Box<dyn Fn() -> Arc<dyn Placement>>;

/// Runs every check, each on new storage.
///
/// # Panics
/// With the first promise that is broken.
pub fn restart_suite(make: impl Fn() -> Reopen) {
    identity_and_ids(&make());
    stores_and_what_is_asked_of_them(&make());
    rules(&make());
    marks_never_fall(&make());
    routing_is_rebuilt(&make());
}

fn identity_and_ids(open: &Reopen) {
    let cluster = open().cluster_id();
    let mut last = 0;
    for round in 0..5 {
        let pd = open();
        assert_eq!(pd.cluster_id(), cluster);
        for n in [1, 700, 3, 1500] {
            let ids = pd.alloc_ids(n).expect("ids");
            assert!(ids.start >= last, "round {round}: {} was given out before", ids.start);
            last = ids.end;
        }
    }
}

fn stores_and_what_is_asked_of_them(open: &Reopen) {
    let labels = [("host".to_owned(), "a".to_owned())].into();
    let settings = StoreSettings { intent: Intent::Drain, labels };
    {
        let pd = open();
        assert!(pd.set_store(StoreId(2), settings.clone()).is_err(), "it is not registered");
        for store in stores(1) {
            pd.register_store(store).expect("registers");
        }
        pd.set_store(StoreId(2), settings.clone()).expect("sets");
        pd.set_initialised(StoreId(3)).expect("notes");
        assert!(pd.bootstrap(&region(1, b"", b"", 1)).expect("bootstraps"));
    }
    let pd = open();
    assert_eq!(pd.stores(), stores(1));
    assert!(pd.is_initialised(StoreId(3)) && !pd.is_initialised(StoreId(2)));
    assert_eq!(pd.bootstrapped(), Some(region(1, b"", b"", 1)));
    let of = |id: usize| pd.store_statuses()[id - 1].settings.clone();
    assert_eq!((of(1), of(2)), (StoreSettings::default(), settings));
    pd.set_store(StoreId(2), StoreSettings::default()).expect("sets");
    last_to_serve(pd.as_ref());
    drop(pd);
    assert_eq!(open().store_statuses()[1].settings, StoreSettings::default());
}

/// Somebody must be able to lead; columns never do.
fn last_to_serve(pd: &dyn Placement) {
    let rows = pd.stores().into_iter().filter(|s| s.kind == StoreKind::Row).map(|s| s.id);
    let rows: Vec<StoreId> = rows.collect();
    let (last, others) = rows.split_last().expect("there are rows");
    let leave = |store| {
        pd.set_store(store, StoreSettings { intent: Intent::Evict, ..StoreSettings::default() })
    };
    others.iter().for_each(|store| leave(*store).expect("others serve"));
    let refused = leave(*last).expect_err("nobody else could lead");
    assert!(refused.to_string().contains("the last row store that serves"), "{refused}");
    for store in pd.stores().into_iter().filter(|s| s.kind != StoreKind::Row) {
        leave(store.id).expect("it leads nothing");
    }
    pd.stores().iter().for_each(|store| {
        pd.set_store(store.id, StoreSettings::default()).expect("serves again");
    });
}

fn rules(open: &Reopen) {
    let rule = ColumnRule { range: KeyRange::new("a", "b"), replicas: 1 };
    open().set_column_rule(rule.clone()).expect("sets");
    assert_eq!(open().column_rules(), std::slice::from_ref(&rule));
    open().remove_column_rule(&rule.range).expect("removes");
    assert!(open().column_rules().is_empty());
}

fn marks_never_fall(open: &Reopen) {
    assert_eq!(open().mark(Mark::SafePoint), 0);
    assert_eq!(open().raise(Mark::SafePoint, 7), Ok(7));
    let pd = open();
    assert_eq!((pd.mark(Mark::SafePoint), pd.mark(Mark::TimestampBound)), (7, 0));
    assert_eq!(pd.raise(Mark::SafePoint, 3), Ok(7), "never lowered");
    assert_eq!(pd.raise(Mark::TimestampBound, u64::MAX), Ok(u64::MAX));
    drop(pd);
    let pd = open();
    assert_eq!((pd.mark(Mark::SafePoint), pd.mark(Mark::TimestampBound)), (7, u64::MAX));
}

fn routing_is_rebuilt(open: &Reopen) {
    let (left, right) = (region(2, b"", b"k", 2), region(1, b"k", b"", 2));
    let learn = |pd: &dyn Placement| {
        for store in stores(1) {
            pd.register_store(store).expect("registers");
        }
        pd.region_heartbeat(report(&left, 10)).expect("takes");
        pd.region_heartbeat(report(&right, 20)).expect("takes");
        let loads: Vec<Load> = pd.store_statuses().into_iter().map(|s| s.load).collect();
        (pd.regions(), loads)
    };
    let before = learn(open().as_ref());
    let pd = open();
    assert!(pd.regions().is_empty() && pd.route(b"a").is_none(), "only reports say who leads");
    assert!(pd.operators().is_empty());
    assert_eq!(learn(pd.as_ref()), before);
    let leader = pd.route(b"z").and_then(|route| route.leader);
    assert_eq!(leader, Some(right.peers[0]));
    assert_eq!(pd.regions().iter().map(|r| r.region.id).collect::<Vec<_>>(), [2, 1].map(RegionId));
}
