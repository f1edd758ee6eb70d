//! A counter behind one hot key, as `UPDATE … SET n = n + 1` in a pessimistic transaction does it:
//! for tests that lose nothing and for measurements. It must never read what it has not locked.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::options::{Mode, Options, Reads, Wait};

/// A waiter's patience, milliseconds.
const WAIT_MS: u64 = 50_000;

/// The counter's value.
///
/// # Errors
/// `Invalid` if what is there is no counter.
pub fn read_count(client: &Client, key: &[u8]) -> Result<u64> {
    decode(client.get_latest(key)?)
}

fn decode(value: Option<Vec<u8>>) -> Result<u64> {
    let Some(value) = value else { return Ok(0) };
    match value.as_slice().try_into() {
        Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
        Err(_) => Err(Error::Invalid(format!("a counter of {} bytes", value.len()))),
    }
}

/// Adds one; how often the statement ran.
pub fn count_up(client: &Client, key: &[u8]) -> Result<u32> {
    let options = Options { mode: Mode::Pessimistic, ..Options::default() };
    let mut txn = client.begin_with(options)?;
    let mut runs = 0;
    // Ends: who holds the lock is not outdated again.
    loop {
        runs += 1;
        txn.begin_statement(Reads::Current)?;
        let mark = txn.mark();
        let count = decode(txn.get(key)?)? + 1;
        txn.put(key, count.to_le_bytes())?;
        match txn.lock_written(&mark, Wait::Millis(WAIT_MS)) {
            Ok(()) => break,
            Err(Error::Outdated { .. }) => txn.rollback_to(mark),
            Err(e) => return Err(e),
        }
    }
    txn.commit()?;
    Ok(runs)
}

/// Adds `each` from each of so many clients, side by side.
pub fn count_up_together(client: &Client, key: &[u8], clients: usize, each: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let work = || (0..each).try_for_each(|_| count_up(client, key).map(drop));
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|t| t.join().expect("a client does not panic"))
    })
}
