//! The sign that tells a running statement to end: KILL, and max_execution_time. Whoever works for
//! long looks at it between two pieces of work, or waits on it. It must never end a statement by
//! force, nor outlast the statement it was meant for: only the end of a connection stays.
//!
//! ```text
//!  KILL QUERY ──┐             check()    loops over rows and pages
//!  KILL ────────┼─► raise ──► raised()   the stream of a query's batches
//!  time is up ──┘             pause()    SLEEP
//!                  begin (next statement) takes the sign down, but not that of KILL
//! ```

use crate::error::{Error, Result};
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Why a statement is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It has run for max_execution_time.
    TimeUp = 1,
    /// KILL QUERY.
    Query = 2,
    /// KILL: the connection ends with it.
    Connection = 3,
}

/// The sign of one connection.
#[derive(Debug, Default)]
pub struct Interrupt {
    /// 0, or a `Reason`.
    raised: AtomicU8,
    /// Held while the sign changes, so that a pause does not miss it.
    changing: Mutex<()>,
    paused: Condvar,
    waiting: Notify,
}

impl Interrupt {
    /// A statement begins: a sign for the one before is taken down.
    pub fn begin(&self) {
        let connection = Reason::Connection as u8;
        let lower = |raised| (raised != connection).then_some(0);
        // Unchanged when the connection is to end.
        let _ = self.raised.fetch_update(Ordering::AcqRel, Ordering::Acquire, lower);
    }

    /// Raises the sign; a stronger reason stays.
    pub fn raise(&self, reason: Reason) {
        let _changing = self.changing.lock();
        self.raised.fetch_max(reason as u8, Ordering::AcqRel);
        self.paused.notify_all();
        self.waiting.notify_waiters();
    }

    /// Why to end, if so.
    pub fn reason(&self) -> Option<Reason> {
        match self.raised.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Reason::TimeUp),
            2 => Some(Reason::Query),
            _ => Some(Reason::Connection),
        }
    }

    /// Is the connection to end?
    pub fn ends_connection(&self) -> bool {
        self.reason() == Some(Reason::Connection)
    }

    /// 1317 or 3024 once the sign is up.
    pub fn check(&self) -> Result<()> {
        match self.reason() {
            None => Ok(()),
            Some(reason) => Err(error(reason)),
        }
    }

    /// Waits until the sign is up; never ends otherwise.
    pub async fn raised(&self) -> Error {
        // Ends: a turn waits for a change.
        loop {
            let changed = self.waiting.notified();
            if let Some(reason) = self.reason() {
                return error(reason);
            }
            changed.await;
        }
    }

    /// Blocks for a time, or until the sign is up.
    pub fn pause(&self, time: Duration) -> Result<()> {
        let mut changing = self.changing.lock();
        let up = |_: &mut ()| self.reason().is_none();
        let _ = self.paused.wait_while_for(&mut changing, up, time);
        drop(changing);
        self.check()
    }
}

fn error(reason: Reason) -> Error {
    match reason {
        Reason::TimeUp => Error {
            code: 3024,
            state: "HY000",
            message: "Query execution was interrupted, maximum statement execution time exceeded"
                .to_owned(),
        },
        Reason::Query | Reason::Connection => Error::interrupted("Query execution was interrupted"),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // real threads wait for one another
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_sign_is_for_one_statement_unless_the_connection_ends() {
        let sign = Interrupt::default();
        assert!(sign.check().is_ok());
        sign.raise(Reason::TimeUp);
        assert_eq!(sign.check().expect_err("raised").code, 3024);
        sign.raise(Reason::Query);
        assert_eq!(sign.check().expect_err("raised").code, 1317);
        sign.raise(Reason::TimeUp);
        assert_eq!(sign.reason(), Some(Reason::Query), "the stronger stays");
        sign.begin();
        assert!(sign.check().is_ok());
        sign.raise(Reason::Connection);
        sign.begin();
        assert!(sign.ends_connection());
    }

    #[test]
    fn a_pause_and_a_wait_end_at_once() {
        let sign = Arc::new(Interrupt::default());
        let other = sign.clone();
        let pausing = std::thread::spawn(move || other.pause(Duration::from_secs(600)));
        let other = sign.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let waiting = std::thread::spawn(move || runtime.block_on(other.raised()));
        sign.raise(Reason::Query);
        assert_eq!(pausing.join().expect("joins").expect_err("raised").code, 1317);
        assert_eq!(waiting.join().expect("joins").code, 1317);
        sign.begin();
        assert!(sign.pause(Duration::ZERO).is_ok());
    }
}
