//! The end of something, which its threads can wait for. A wait ends early only when the owner
//! closes, never by chance: a pause that is cut short by nothing would become a busy loop.

use crate::condition::Condvar;
use parking_lot::Mutex;
use std::time::Duration;

/// Open until it is closed, once and for all. Threads share it by `Arc`.
#[derive(Debug, Default)]
pub struct Closing {
    closed: Mutex<bool>,
    changed: Condvar,
}

impl Closing {
    /// Not closed yet.
    pub fn new() -> Closing {
        Closing::default()
    }

    /// Ends every wait, now and later.
    pub fn close(&self) {
        *self.closed.lock() = true;
        self.changed.notify_all();
    }

    /// Has it been closed?
    pub fn is_closed(&self) -> bool {
        *self.closed.lock()
    }

    /// Waits for so long, or until it is closed: true, if it is.
    pub fn wait(&self, at_most: Duration) -> bool {
        let mut closed = self.closed.lock();
        self.changed.wait_while_for(&mut closed, |closed| !*closed, at_most);
        *closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_wait_lasts_until_its_time_or_the_end() {
        let closing = Arc::new(Closing::new());
        assert!(!closing.is_closed() && !closing.wait(Duration::from_millis(1)));
        let waits = closing.clone();
        let waiting = crate::spawn("waits", move || assert!(waits.wait(Duration::from_secs(60))));
        closing.close();
        waiting.join().expect("it was closed");
        assert!(closing.is_closed() && closing.wait(Duration::from_secs(60)));
    }
}
