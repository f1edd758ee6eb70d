//! The plain oracle: a counter. It forgets at a restart, so it is for tests and as a floor in
//! benches, and must never serve stored data.

use crate::error::Error;
use crate::{Oracle, check_count};
use damask_types::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter.
#[derive(Debug)]
pub struct MemoryOracle {
    next: AtomicU64,
}

impl MemoryOracle {
    /// Begins with this timestamp.
    pub fn new(first: u64) -> MemoryOracle {
        MemoryOracle { next: AtomicU64::new(first) }
    }

    /// Skips forward, to at least `ts`: time passes.
    pub fn advance_to(&self, ts: Timestamp) {
        self.next.fetch_max(ts.0, Ordering::SeqCst);
    }
}

impl Default for MemoryOracle {
    /// Begins at the first millisecond of 1970.
    fn default() -> MemoryOracle {
        MemoryOracle::new(Timestamp::compose(1, 0).0)
    }
}

impl Oracle for MemoryOracle {
    fn get(&self, n: u32) -> Result<Timestamp, Error> {
        check_count(n)?;
        Ok(Timestamp(self.next.fetch_add(u64::from(n), Ordering::SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn conforms() {
        crate::testing::suite(|| Arc::new(MemoryOracle::default()));
    }
}
