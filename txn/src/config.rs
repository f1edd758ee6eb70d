//! Limits of the client, as plain data. Nothing here may depend on a cluster's state.

use damask_types::StoreId;

/// How a client behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Longest wait of one operation for regions to answer, milliseconds; above the time that an
    /// election and a restart take.
    pub request_ms: u64,
    /// Longest wait for other transactions' locks, milliseconds; above `lock_ttl_max_ms`, so that
    /// a crashed transaction's locks expire first.
    pub lock_wait_ms: u64,
    /// Lifetime of a lock of a small transaction without a heartbeat, milliseconds (TiDB: 3 s).
    pub lock_ttl_ms: u64,
    /// The same for a large one, milliseconds (TiDB: 20 s).
    pub lock_ttl_max_ms: u64,
    /// Mutations of one prewrite, bytes: one log entry each.
    pub batch_bytes: usize,
    /// Keys of one request: bounds the time for which its latches are held.
    pub batch_keys: usize,
    /// A transaction's buffer, bytes (TiDB: 100 MiB); as much again may be kept for its savepoints.
    pub transaction_bytes_max: usize,
    /// A key and its value, bytes (TiDB: 6 MiB).
    pub entry_bytes_max: usize,
    /// Longest life of a pessimistic transaction, milliseconds: then its locks are no longer kept
    /// alive (TiDB: 1 h).
    pub transaction_ms_max: u64,
    /// A transaction that fits into one request to one region is committed by that request.
    pub one_phase: bool,
    /// A small transaction is committed when its last key is prewritten.
    pub async_commit: bool,
    /// Keys of a transaction committed so: the primary's lock names them all (TiDB: 256).
    pub async_keys_max: usize,
    /// Bytes of these keys (TiDB: 4 KiB).
    pub async_key_bytes_max: usize,
    /// The store beside this client: asked first, where any replica may answer. Without it, and for
    /// regions that have no voter there, they take turns.
    pub nearest: Option<StoreId>,
    /// Threads for requests that go out side by side; 0: one after the other.
    pub parallel: usize,
    /// Threads that commit secondary keys after the answer.
    pub background: usize,
    /// Transactions that wait for these; then the caller commits its own secondaries.
    pub background_queue: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            request_ms: 20_000,
            lock_wait_ms: 25_000,
            lock_ttl_ms: 3_000,
            lock_ttl_max_ms: 20_000,
            batch_bytes: 512 << 10,
            batch_keys: 8_192,
            transaction_bytes_max: 100 << 20,
            entry_bytes_max: 6 << 20,
            transaction_ms_max: 3_600_000,
            one_phase: true,
            async_commit: true,
            async_keys_max: 256,
            async_key_bytes_max: 4 << 10,
            nearest: None,
            parallel: 4,
            background: 2,
            background_queue: 1_024,
        }
    }
}

impl Config {
    /// What is wrong with it, in words.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("request_ms", self.request_ms),
            ("lock_wait_ms", self.lock_wait_ms),
            ("lock_ttl_ms", self.lock_ttl_ms),
            ("batch_bytes", self.batch_bytes as u64),
            ("batch_keys", self.batch_keys as u64),
            ("entry_bytes_max", self.entry_bytes_max as u64),
            ("transaction_ms_max", self.transaction_ms_max),
            ("background", self.background as u64),
            ("background_queue", self.background_queue as u64),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} must not be 0"));
        }
        if self.lock_ttl_max_ms < self.lock_ttl_ms {
            return Err("lock_ttl_max_ms is below lock_ttl_ms".to_owned());
        }
        if self.transaction_bytes_max < self.entry_bytes_max {
            return Err("transaction_bytes_max is below entry_bytes_max".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_mistakes_are_named() {
        Config::default().validate().expect("valid");
        let bad = Config { batch_keys: 0, ..Config::default() };
        assert_eq!(bad.validate(), Err("batch_keys must not be 0".to_owned()));
        let bad = Config { lock_ttl_max_ms: 1, ..Config::default() };
        assert!(bad.validate().expect_err("refused").contains("lock_ttl_max_ms"));
    }
}
