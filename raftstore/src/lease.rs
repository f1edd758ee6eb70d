//! A leader's lease: the time for which no other leader can exist, by promises of a quorum. It
//! knows no clock: times are given, of one monotonic clock.
//!
//! ```text
//!  send (start) ───────── acknowledged ──────────────── start + length     election time
//!    │  followers reset their timers after this moment        │   drift, a tick   │
//!    ├──────────────── reads without a question ──────────────┤  ◄─────────────►  │ earliest vote
//! ```
//! It starts when the message was sent, not when it was acknowledged. Once a follower has been told
//! to start an election at once, its term has no lease any more: the message may arrive late.

use std::collections::VecDeque;
use std::time::Duration;

/// Sent and not yet committed positions that are remembered; later ones renew less often.
const MARKS_MAX: usize = 1024;

/// The lease of one replica, valid in one term.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    length: Duration,
    term: u64,
    until: Duration,
    revoked: u64,
    marks: VecDeque<(u64, Duration)>,
}

impl Lease {
    /// `length`: below the time for which followers promise not to vote, by their clocks. Zero:
    /// there is never a lease.
    pub fn new(length: Duration) -> Lease {
        Lease { length, ..Lease::default() }
    }

    /// The entries of `term` up to `index` leave now.
    pub fn sent(&mut self, term: u64, index: u64, now: Duration) {
        self.enter(term);
        if self.marks.len() < MARKS_MAX {
            self.marks.push_back((index, now));
        }
    }

    /// A quorum has acknowledged everything up to `index`; `extend`: it may make the lease longer.
    pub fn committed(&mut self, term: u64, index: u64, extend: bool) {
        self.enter(term);
        let mut start = None;
        while let Some((_, sent)) = self.marks.pop_front_if(|(at, _)| *at <= index) {
            start = Some(sent);
        }
        if let Some(start) = start.filter(|_| extend) {
            self.confirmed(term, start);
        }
    }

    /// A quorum has acknowledged what was sent at `start`.
    pub fn confirmed(&mut self, term: u64, start: Duration) {
        self.enter(term);
        if self.revoked < term && !self.length.is_zero() {
            self.until = self.until.max(start + self.length);
        }
    }

    /// Somebody may become leader at any time from now on: never again in this term.
    pub fn revoke(&mut self, term: u64) {
        self.enter(term);
        self.revoked = self.revoked.max(term);
        self.until = Duration::ZERO;
    }

    /// It leads no more, or in another term; or its keys may soon be another leader's, and what was
    /// sent before does not count if they are not.
    pub fn end(&mut self) {
        self.until = Duration::ZERO;
        self.marks.clear();
    }

    /// When it ends; `None` if it never began in this term.
    pub fn until(&self, term: u64) -> Option<Duration> {
        (self.term == term && !self.until.is_zero()).then_some(self.until)
    }

    fn enter(&mut self, term: u64) {
        if self.term != term {
            self.end();
            self.term = term;
        }
    }
}

#[cfg(test)]
mod tests {
    //! When a lease begins and ends; it must never be longer than what was promised.

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn it_starts_at_the_sending_of_the_last_position_that_is_committed() {
        let mut lease = Lease::new(ms(100));
        assert_eq!(lease.until(6), None);
        lease.sent(6, 10, ms(5));
        lease.sent(6, 12, ms(20));
        lease.sent(6, 15, ms(30));
        lease.committed(6, 9, true);
        assert_eq!(lease.until(6), None);
        lease.committed(6, 14, true);
        assert_eq!(lease.until(6), Some(ms(120)));
        // While a split is on its way, nothing makes it longer, not even later.
        lease.committed(6, 15, false);
        lease.committed(6, 16, true);
        assert_eq!(lease.until(6), Some(ms(120)));
        assert_eq!(lease.until(7), None, "of another term");
    }

    #[test]
    fn it_ends_with_the_term_and_for_the_term_when_revoked() {
        let mut lease = Lease::new(ms(100));
        lease.confirmed(6, ms(5));
        lease.sent(6, 10, ms(6));
        lease.revoke(6);
        lease.committed(6, 10, true);
        lease.confirmed(6, ms(50));
        assert_eq!(lease.until(6), None);
        lease.sent(7, 11, ms(60));
        lease.committed(7, 11, true);
        assert_eq!(lease.until(7), Some(ms(160)));
        lease.end();
        assert_eq!(lease.until(7), None);
        let mut never = Lease::new(Duration::ZERO);
        never.confirmed(6, ms(5));
        assert_eq!(never.until(6), None);
    }
}
