//! GET_LOCK and its like: locks by name, held by connections of this server, whatever their
//! transactions do. It must never keep a lock of a connection that has ended.
//!
//! Other servers of the same cluster do not know them.

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use damask_env::{Clock, RealClock};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Locks held at a time, by all connections.
const LOCKS_MAX: usize = 65_536;
/// Characters of a name at most, as in MySQL.
const NAME_CHARS_MAX: usize = 64;
/// Between two looks at the sign to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Who holds a lock.
#[derive(Debug)]
struct Held {
    connection: u32,
    /// Times that it was taken and not released.
    times: u64,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<String, Held>,
    /// What each connection waits for.
    waiting: HashMap<u32, String>,
}

/// The named locks of one server.
#[derive(Debug)]
pub struct NamedLocks {
    state: Mutex<State>,
    released: Condvar,
    clock: Time,
}

struct Time(Arc<dyn Clock>);

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Time")
    }
}

impl Default for NamedLocks {
    fn default() -> NamedLocks {
        NamedLocks::new(Arc::new(RealClock::default()))
    }
}

/// A name as locks are told apart: without regard to case.
fn folded(name: Option<&str>) -> Result<String> {
    let wrong = |name: &str| Error {
        code: 3057,
        state: "42000",
        message: format!("Incorrect user-level lock name '{name}'."),
    };
    match name {
        None => Err(wrong("NULL")),
        Some(name) if name.is_empty() || name.chars().count() > NAME_CHARS_MAX => Err(wrong(name)),
        Some(name) => Ok(name.to_lowercase()),
    }
}

impl State {
    /// Would a connection that waits for this name wait for itself?
    fn closes_circle(&self, connection: u32, name: &str) -> bool {
        let mut seen = HashSet::new();
        let mut name = name;
        // Ends: each turn sees another connection.
        while let Some(held) = self.held.get(name) {
            if held.connection == connection {
                return true;
            }
            if !seen.insert(held.connection) {
                return false;
            }
            match self.waiting.get(&held.connection) {
                Some(next) => name = next,
                None => return false,
            }
        }
        false
    }

    /// Takes the lock if it is free, or held by this connection already.
    fn take(&mut self, connection: u32, name: &str) -> Result<bool> {
        let full = self.held.len() >= LOCKS_MAX;
        match self.held.get_mut(name) {
            Some(held) if held.connection == connection => {
                held.times += 1;
                Ok(true)
            }
            Some(_) => Ok(false),
            None if full => Err(Error::unknown(format!("more than {LOCKS_MAX} named locks"))),
            None => {
                self.held.insert(name.to_owned(), Held { connection, times: 1 });
                Ok(true)
            }
        }
    }
}

impl NamedLocks {
    /// No lock is held; waits are measured by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> NamedLocks {
        NamedLocks { state: Mutex::default(), released: Condvar::new(), clock: Time(clock) }
    }

    /// GET_LOCK: takes a lock, waiting for it so long (`None`: for ever); false: not within that.
    ///
    /// # Errors
    /// 3057 for a name that is none, 3058 if who holds it waits for this connection, 1317 when the
    /// statement is told to end.
    pub fn acquire(
        &self,
        connection: u32,
        name: Option<&str>,
        wait: Option<Duration>,
        interrupt: &Interrupt,
    ) -> Result<bool> {
        let name = folded(name)?;
        let deadline = wait.map(|wait| self.clock.0.monotonic().saturating_add(wait));
        let mut state = self.state.lock();
        let taken = loop {
            match state.take(connection, &name) {
                Ok(false) => {}
                done => break done,
            }
            let left = deadline.map(|end| end.saturating_sub(self.clock.0.monotonic()));
            if left.is_some_and(|left| left.is_zero()) {
                break Ok(false);
            }
            if let Err(error) = interrupt.check() {
                break Err(error);
            }
            if state.closes_circle(connection, &name) {
                break Err(deadlock());
            }
            state.waiting.insert(connection, name.clone());
            let slice = left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
            self.released.wait_for(&mut state, slice);
        };
        state.waiting.remove(&connection);
        taken
    }

    /// RELEASE_LOCK: true if it was released (once), false if another holds it, `None` if nobody
    /// does.
    pub fn release(&self, connection: u32, name: Option<&str>) -> Result<Option<bool>> {
        let name = folded(name)?;
        let mut state = self.state.lock();
        let Some(held) = state.held.get_mut(&name) else { return Ok(None) };
        if held.connection != connection {
            return Ok(Some(false));
        }
        held.times -= 1;
        if held.times == 0 {
            state.held.remove(&name);
            self.released.notify_all();
        }
        Ok(Some(true))
    }

    /// RELEASE_ALL_LOCKS: releases what a connection holds; how often it had taken them.
    pub fn release_all(&self, connection: u32) -> u64 {
        let mut state = self.state.lock();
        let mut times = 0;
        state.held.retain(|_, held| {
            let own = held.connection == connection;
            times += if own { held.times } else { 0 };
            !own
        });
        if times > 0 {
            self.released.notify_all();
        }
        times
    }

    /// IS_USED_LOCK: the connection that holds a lock.
    pub fn holder(&self, name: Option<&str>) -> Result<Option<u32>> {
        let name = folded(name)?;
        Ok(self.state.lock().held.get(&name).map(|held| held.connection))
    }
}

fn deadlock() -> Error {
    Error {
        code: 3058,
        state: "HY000",
        message: "Deadlock found when trying to get user-level lock; try rolling back \
            transaction/releasing locks and restarting lock acquisition."
            .to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // real threads wait for one another
mod tests {
    use super::*;
    use crate::interrupt::Reason;

    const NOW: Option<Duration> = Some(Duration::ZERO);

    fn get(locks: &NamedLocks, connection: u32, name: &str) -> bool {
        locks.acquire(connection, Some(name), NOW, &Interrupt::default()).expect("no error")
    }

    #[test]
    fn a_lock_has_one_holder_who_may_take_it_again() {
        let locks = NamedLocks::default();
        assert!(get(&locks, 1, "A"));
        assert!(get(&locks, 1, "a"), "again, in another case");
        assert!(!get(&locks, 2, "a"));
        assert_eq!(locks.holder(Some("a")), Ok(Some(1)));
        assert_eq!(locks.release(2, Some("a")), Ok(Some(false)));
        assert_eq!(locks.release(1, Some("a")), Ok(Some(true)));
        assert!(!get(&locks, 2, "a"), "it was taken twice");
        assert_eq!(locks.release(1, Some("a")), Ok(Some(true)));
        assert_eq!(locks.release(1, Some("a")), Ok(None));
        assert!(get(&locks, 2, "a"));
        assert!(get(&locks, 2, "b"));
        assert_eq!(locks.release_all(2), 2);
        assert_eq!(locks.holder(Some("b")), Ok(None));
        for name in [None, Some(""), Some(&*"x".repeat(65))] {
            assert_eq!(locks.holder(name).expect_err("no name").code, 3057);
        }
    }

    #[test]
    fn a_waiter_gets_what_is_released_and_hears_that_it_is_to_end() {
        let locks = Arc::new(NamedLocks::default());
        assert!(get(&locks, 1, "a"));
        let sign = Arc::new(Interrupt::default());
        let (other, its_sign) = (locks.clone(), sign.clone());
        let wait = move || other.acquire(2, Some("a"), None, &its_sign);
        let first = std::thread::spawn(wait.clone());
        sign.raise(Reason::Query);
        assert_eq!(first.join().expect("joins").expect_err("told to end").code, 1317);
        sign.begin();
        let second = std::thread::spawn(wait);
        assert_eq!(locks.release_all(1), 1);
        assert_eq!(second.join().expect("joins"), Ok(true));
    }

    #[test]
    fn the_wait_that_closes_a_circle_fails() {
        let locks = Arc::new(NamedLocks::default());
        assert!(get(&locks, 1, "a"));
        assert!(get(&locks, 2, "b"));
        let other = locks.clone();
        let first = std::thread::spawn(move || {
            let done = other.acquire(1, Some("b"), None, &Interrupt::default());
            other.release_all(1);
            done
        });
        while !locks.state.lock().waiting.contains_key(&1) {
            std::thread::yield_now();
        }
        let second = locks.acquire(2, Some("a"), None, &Interrupt::default());
        assert_eq!(second.expect_err("a circle").code, 3058);
        locks.release_all(2);
        assert_eq!(first.join().expect("joins"), Ok(true));
    }
}
