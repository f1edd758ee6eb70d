//! Replicated stores that fall and come back, and the money that is moved meanwhile. It must never
//! keep what a power cut takes.

use damask_env::MemoryDisk;
use damask_kv::{GcSafePoint, MemoryEngine};
use damask_txn::testing::replicated::{Parts, Replicated};
use damask_txn::{Client, Error, Gc};
use damask_types::{StoreId, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub const STORES: u64 = 3;
/// Leaders change quickly.
pub const TICK: Duration = Duration::from_millis(10);
/// Accounts, and what each begins with.
pub const ACCOUNTS: u64 = 6;
pub const START: u64 = 100;

/// The cluster, and what its stores keep over a crash.
pub struct Falls {
    pub cluster: Arc<Replicated>,
    kept: Arc<Mutex<BTreeMap<StoreId, (MemoryDisk, MemoryEngine)>>>,
}

impl Falls {
    pub fn start(tick: Duration) -> Falls {
        let kept = Arc::<Mutex<BTreeMap<StoreId, (MemoryDisk, MemoryEngine)>>>::default();
        let parts = Arc::clone(&kept);
        let open = Box::new(move |id| {
            let new = || (MemoryDisk::new(), MemoryEngine::with_crashes());
            let (disk, engine) = parts.lock().entry(id).or_insert_with(new).clone();
            Parts { disk: Arc::new(disk), engine: Arc::new(engine) }
        });
        Falls { cluster: Replicated::start(STORES, tick, open), kept }
    }

    /// A store that is cut off loses its power, and starts again: of what was not synced a half is
    /// left.
    pub fn cut_power(&self, id: StoreId) {
        let image = {
            let kept = self.kept.lock();
            let (disk, engine) = &kept[&id];
            // The rows first: they must not be ahead of the log.
            let engine = engine.crash(engine.unsynced() / 2).expect("made with crashes");
            (disk.crash_image(|unsynced| unsynced / 2), engine)
        };
        self.cluster.stop(id);
        self.kept.lock().insert(id, image);
        self.cluster.restart(id, false);
    }

    /// So much later whatever a dead client has left is over, and is collected.
    pub fn end_all(&self, client: &Client) {
        let now = client.timestamp().expect("a timestamp");
        let later = Timestamp::compose(now.physical_ms() + 1_000_000, 0);
        self.cluster.oracle().advance_to(later);
        let gc = Gc::new(Arc::new(GcSafePoint::new()));
        let now = client.timestamp().expect("a timestamp");
        gc.advance(client, now, Duration::ZERO, None).expect("advances");
    }
}

pub fn account(n: u64) -> Vec<u8> {
    format!("account{n}").into_bytes()
}

pub fn balance(value: Option<impl AsRef<[u8]>>) -> u64 {
    let value = value.expect("an account");
    u64::from_le_bytes(value.as_ref().try_into().expect("a balance"))
}

/// A number below `n`.
pub fn below(seed: &mut u64, n: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % n
}

pub fn open_accounts(client: &Client) {
    let mut txn = client.begin().expect("begins");
    for n in 0..ACCOUNTS {
        txn.put(account(n), START.to_le_bytes()).expect("fits");
    }
    txn.commit().expect("commits");
}

/// Moves 1 from one account to another one, if it is there.
pub fn transfer(client: &Client, from: u64, to: u64) -> Result<Option<Timestamp>, Error> {
    let mut txn = client.begin()?;
    let (a, b) = (balance(txn.get(&account(from))?), balance(txn.get(&account(to))?));
    if a > 0 {
        txn.put(account(from), (a - 1).to_le_bytes())?;
        txn.put(account(to), (b + 1).to_le_bytes())?;
    }
    txn.commit()
}
