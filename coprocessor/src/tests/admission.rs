//! Scans of rows ask before their snapshot and after each batch; what was refused is not read.

use super::*;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Notes what it is asked, and refuses from some point on.
#[derive(Default)]
struct Gate {
    asked: Mutex<Vec<(Vec<KeyRange>, Timestamp)>>,
    locked: AtomicBool,
    confirmed: AtomicU64,
    confirms_max: AtomicU64,
    /// A row that appears when the gate is asked: a snapshot taken before would miss it.
    engine: Option<Arc<MemoryEngine>>,
}

impl Admission for Gate {
    fn begin(&self, ranges: &[KeyRange], ts: Timestamp) -> Result<(), EndpointError> {
        self.asked.lock().push((ranges.to_vec(), ts));
        if let Some(engine) = &self.engine {
            let [v, s] = cells(7);
            let mut changes = WriteBatch::default();
            let row = encode_row(&[(ColumnId(2), &v), (ColumnId(3), &s)]);
            put(&mut changes, &row_key(TABLE, 7_000), row);
            engine.write(changes).expect("writes");
        }
        match self.locked.load(Ordering::SeqCst) {
            false => Ok(()),
            true => {
                let lock = Lock::new(LockKind::Put, row_key(TABLE, 1), Timestamp(3), 1);
                Err(EndpointError::Locked(vec![KeyLock { key: row_key(TABLE, 1), lock }]))
            }
        }
    }

    fn confirm(&self, ts: Timestamp) -> Result<(), EndpointError> {
        assert_eq!(ts, TS);
        let before = self.confirmed.fetch_add(1, Ordering::SeqCst);
        match before < self.confirms_max.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(EndpointError::storage(ErrorKind::Invalid, "collected")),
        }
    }
}

fn open(gate: &Arc<Gate>, engine: Arc<MemoryEngine>) -> Result<Vec<Part>, EndpointError> {
    let endpoint = row_endpoint(engine).admitted_by(gate.clone());
    endpoint.open(context(), &[row_range(TABLE)], &Arc::new(spec(Source::Rows)))
}

#[test]
fn a_scan_is_announced_before_its_snapshot() {
    let engine = engine(10);
    let gate = Gate { engine: Some(engine.clone()), ..Gate::default() };
    gate.confirms_max.store(u64::MAX, Ordering::SeqCst);
    let gate = Arc::new(gate);
    let found = handles(open(&gate, engine).expect("opens"));
    assert!(found.contains(&7_000), "what came with the announcement is seen: {found:?}");
    assert_eq!(*gate.asked.lock(), [(vec![row_range(TABLE)], TS)]);
}

#[test]
fn an_unfinished_write_refuses_the_scan() {
    let gate = Arc::new(Gate::default());
    gate.locked.store(true, Ordering::SeqCst);
    let Err(EndpointError::Locked(locks)) = open(&gate, engine(10)) else { panic!("not refused") };
    assert_eq!(locks[0].key, row_key(TABLE, 1));
}

#[test]
fn a_batch_read_while_versions_were_collected_is_not_handed_out() {
    let gate = Arc::new(Gate::default());
    gate.confirms_max.store(2, Ordering::SeqCst);
    let mut parts = open(&gate, engine(1_000)).expect("opens");
    let part = &mut parts[0];
    assert_eq!(part.next().expect("a batch").expect("confirmed").num_rows(), 100);
    assert_eq!(part.next().expect("a batch").expect("confirmed").num_rows(), 100);
    assert!(part.next().expect("an error").is_err());
    assert!(part.next().is_none(), "and nothing after it");
}
