//! Statements of pessimistic transactions, as a session runs them. It must never hide an error.

use damask_txn::{Client, Error, Isolation, Mode, Options, Reads, Transaction, Wait};

pub const PESSIMISTIC: Options =
    Options { mode: Mode::Pessimistic, isolation: Isolation::RepeatableRead };
pub const LONG: Wait = Wait::Millis(20_000);

pub fn begin(client: &Client) -> Transaction {
    client.begin_with(PESSIMISTIC).expect("begins")
}

/// Runs a statement as a session does: again as long as what it read is outdated.
pub fn statement_waiting<T>(
    txn: &mut Transaction,
    wait: Wait,
    mut body: impl FnMut(&mut Transaction) -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        let mark = txn.mark();
        txn.begin_statement(Reads::Current)?;
        let done = body(txn).and_then(|value| txn.lock_written(&mark, wait).map(|()| value));
        match done {
            Err(Error::Outdated { .. }) => txn.rollback_to(mark),
            Err(e) => {
                txn.rollback_to(mark);
                return Err(e);
            }
            Ok(value) => {
                txn.release(mark);
                return Ok(value);
            }
        }
    }
}

pub fn statement<T>(
    txn: &mut Transaction,
    body: impl FnMut(&mut Transaction) -> Result<T, Error>,
) -> Result<T, Error> {
    statement_waiting(txn, LONG, body)
}

pub fn put(txn: &mut Transaction, key: &str, value: &str) {
    statement(txn, |txn| txn.put(key, value)).expect("locked");
}

pub fn lock(txn: &mut Transaction, key: &str, wait: Wait) -> Result<(), Error> {
    statement_waiting(txn, wait, |txn| txn.lock(key))
}
