//! A column store's background work, when its files are damaged and when they only fail.

use super::*;
use damask_deltatree::store::{ChangeBatch, ColumnSnapshot, HandleRange, Mark, TableStats};
use damask_types::TableId;
use std::sync::mpsc;

/// Fails in the way that is next; says when it was asked.
struct Failing {
    failures: Mutex<Vec<ErrorKind>>,
    asked: Mutex<mpsc::Sender<()>>,
}

impl ColumnStore for Failing {
    fn maintain(&self, _: Timestamp, _: u64) -> damask_deltatree::Result<bool> {
        self.asked.lock().send(()).expect("the test listens");
        match self.failures.lock().pop() {
            Some(kind) => {
                Err(damask_deltatree::Error::new("maintain", kind, "pack 7 is not as it was"))
            }
            None => Ok(false),
        }
    }
    fn apply(&self, _: &ChangeBatch) -> damask_deltatree::Result<()> {
        Ok(())
    }
    fn clear(&self, _: TableId, _: HandleRange) -> damask_deltatree::Result<()> {
        Ok(())
    }
    fn sync(&self, _: &[Mark]) -> damask_deltatree::Result<()> {
        Ok(())
    }
    fn marks(&self) -> damask_deltatree::Result<Vec<Mark>> {
        Ok(Vec::new())
    }
    fn snapshot(&self, _: TableId) -> damask_deltatree::Result<Arc<dyn ColumnSnapshot>> {
        unreachable!("nobody reads here")
    }
    fn stats(&self, _: TableId) -> damask_deltatree::Result<TableStats> {
        Ok(TableStats::default())
    }
}

#[test]
fn damage_ends_the_maintenance_and_other_failures_do_not() {
    let (sender, asked) = mpsc::channel();
    // From the last to the first.
    let failures = Mutex::new(vec![ErrorKind::Corrupt, ErrorKind::NoSpace]);
    let store = Arc::new(Failing { failures, asked: Mutex::new(sender) });
    let ward = Arc::new(Ward::new(Arc::default(), Arc::default()));
    let fault = Arc::new(Fault::of_columns(StoreId(101), ward));
    let (stop, task) = maintain(StoreId(101), store, GcSafePoint::new(), fault.clone());
    let wait = || asked.recv_timeout(Duration::from_secs(60));
    wait().expect("the first round");
    assert!(fault.get().is_none(), "a full disk may have room again");
    wait().expect("the second round");
    task.join().expect("it ended by itself");
    assert!(wait().is_err(), "nothing is tried on damaged files");
    assert!(fault.get().expect("it is said").contains("pack 7"));
    drop(stop);
}
