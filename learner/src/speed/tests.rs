//! What is timed is done: every row of every shape is in the store afterwards.

use super::*;
use damask_deltatree::{Config, DeltaTree};
use damask_env::MemoryDisk;

#[test]
fn every_row_of_a_run_is_stored() {
    for shape in Shape::ALL {
        for two_phase in [false, true] {
            let workload = Workload { shape, two_phase };
            let disk = Arc::new(MemoryDisk::default());
            let store = Arc::new(DeltaTree::open(disk, Config::small()).unwrap());
            let mut ingest = Ingest::new(store.clone(), shape).unwrap();
            let now = || Duration::ZERO;
            let taken = ingest.run(&workload.inserts(1050), &now).unwrap();
            assert_eq!(taken.rows, 1050);
            let updates = workload.updates(300, 1050);
            let taken = ingest.run(&updates, &now).unwrap();
            assert!((250..=300).contains(&taken.rows), "{taken:?}");
            let snapshot = store.snapshot(workload::TABLE).unwrap();
            let count = |ts| snapshot.count(&[HandleRange::ALL], Timestamp(ts)).unwrap();
            assert_eq!((count(9), count(10), count(1000)), (0, 1050, 1050));
            assert_eq!(ingest.machine.stats().locks, 0, "every lock was followed by its commit");
            let forgetful = Arc::new(Forgetful::default());
            let taken = Ingest::new(forgetful, shape).unwrap().run(&updates, &now).unwrap();
            assert!(taken.rows >= 250 && taken.bytes > 0);
        }
    }
}
