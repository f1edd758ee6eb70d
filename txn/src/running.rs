//! The transactions of a client that have begun and not ended: garbage collection keeps what they
//! read. It must never miss one, not even between its timestamp and its first read.

use damask_types::Timestamp;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The open transactions by start.
#[derive(Default)]
pub(crate) struct Running {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: BTreeMap<Timestamp, usize>,
    /// A timestamp that was given out: every later one is above it.
    seen: Timestamp,
}

impl Running {
    /// Counts a transaction that has no timestamp yet: it is taken here, between two looks at the
    /// set, so that [`Running::oldest`] is at or below it at any time.
    pub fn begin<E>(
        self: &Arc<Running>,
        take: impl FnOnce() -> Result<Timestamp, E>,
    ) -> Result<Open, E> {
        let seen = self.state.lock().seen;
        let before = self.at(seen);
        let start_ts = take()?;
        let mut state = self.state.lock();
        state.seen = state.seen.max(start_ts);
        *state.open.entry(start_ts).or_default() += 1;
        drop(state);
        drop(before);
        Ok(Open { running: Arc::clone(self), start_ts })
    }

    /// Counts a transaction with this start.
    pub fn at(self: &Arc<Running>, start_ts: Timestamp) -> Open {
        *self.state.lock().open.entry(start_ts).or_default() += 1;
        Open { running: Arc::clone(self), start_ts }
    }

    /// No open transaction began before it. `None`: none is open.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.state.lock().open.first_key_value().map(|(ts, _)| *ts)
    }
}

/// An open transaction.
pub(crate) struct Open {
    running: Arc<Running>,
    start_ts: Timestamp,
}

impl Open {
    pub fn start_ts(&self) -> Timestamp {
        self.start_ts
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.running.state.lock();
        if let Some(count) = state.open.get_mut(&self.start_ts) {
            *count -= 1;
            if *count == 0 {
                state.open.remove(&self.start_ts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_never_above_a_transaction_that_is_beginning() {
        let running = Arc::new(Running::default());
        assert_eq!(running.oldest(), None);
        let take = |ts| move || Ok::<_, ()>(Timestamp(ts));
        let first = running.begin(take(10)).expect("begins");
        let second = running
            .begin(|| {
                assert_eq!(running.oldest(), Some(Timestamp(10)));
                Ok::<_, ()>(Timestamp(20))
            })
            .expect("begins");
        drop(first);
        assert_eq!(running.oldest(), Some(Timestamp(20)));
        drop(second);
        assert_eq!(running.oldest(), None);
        // Nobody knows yet what it will get: at least the newest that was seen.
        let third = running.begin(|| {
            assert_eq!(running.oldest(), Some(Timestamp(20)));
            Ok::<_, ()>(Timestamp(30))
        });
        assert_eq!(running.oldest(), Some(Timestamp(30)));
        drop(third);
        running.begin(|| Err::<Timestamp, _>(())).err().expect("no timestamp");
        assert_eq!(running.oldest(), None);
        let (one, two) = (running.at(Timestamp(5)), running.at(Timestamp(5)));
        drop(one);
        assert_eq!(running.oldest(), Some(Timestamp(5)));
        drop(two);
        assert_eq!(running.oldest(), None);
    }
}
