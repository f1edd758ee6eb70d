//! Where readers wait until a prewrite has left the table, and hear of it. Nobody may ever wait for
//! what has left already, and who leaves while nobody waits must not take a lock.
//!
//! ```text
//!   reader   readers ↑             ═ fence ═   under the lock: gone?   no: wait
//!   writer   out of the table      ═ fence ═   readers?                some: lock, wake
//! ```
//! One of them sees the other (Dekker). Who is seen to wait either has not looked yet, or lets go
//! of the lock by waiting: a wake-up under the lock is not lost between its look and its wait.

use crate::sync::{AtomicUsize, Condvar, Mutex, Ordering, fence, wait_for};
use std::time::Duration;

/// How often a waiting reader looks again.
const LOOKS_MAX: usize = 64;

/// Readers that wait.
pub(crate) struct Exit {
    readers: AtomicUsize,
    lock: Mutex<()>,
    left: Condvar,
}

impl Default for Exit {
    fn default() -> Exit {
        Exit { readers: AtomicUsize::new(0), lock: Mutex::new(()), left: Condvar::new() }
    }
}

impl Exit {
    /// Somebody is out of the table.
    pub(crate) fn leave(&self) {
        fence(Ordering::SeqCst);
        if self.readers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock());
            self.left.notify_all();
        }
    }

    /// Waits until `is_clear`, which is asked now and after each leaving, or until no leaving is
    /// heard of for as long as `patience`.
    pub(crate) fn wait_until(&self, patience: Duration, is_clear: impl Fn() -> bool) {
        self.readers.fetch_add(1, Ordering::SeqCst);
        // With the fence of who leaves: that one sees this reader, or this reader sees it gone.
        fence(Ordering::SeqCst);
        let mut guard = self.lock.lock();
        for _ in 0..LOOKS_MAX {
            // Under the lock: who leaves later than this look takes it, and wakes.
            if is_clear() || wait_for(&self.left, &mut guard, patience) {
                break;
            }
        }
        drop(guard);
        self.readers.fetch_sub(1, Ordering::SeqCst);
    }
}
