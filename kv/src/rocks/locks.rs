//! Where the locks of a snapshot are: mostly nowhere. Asked once for a snapshot that serves many
//! reads, it spares each of them the look-up of a lock. It must never deny a lock that is there.

use super::family;
use crate::engine::Cf;
use rocksdb::{DB, ReadOptions, Snapshot};

/// Removed locks that are stepped over in the search; beyond, nothing is known.
const SKIPS_MAX: u64 = 256;

/// The first and the last lock at a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LockSpan {
    /// There is no lock.
    None,
    /// Both ends are keys of locks.
    Within(Vec<u8>, Vec<u8>),
    /// It was too long a search, or it failed: the read itself will meet the error.
    Unknown,
}

impl LockSpan {
    /// Looks from both ends of the lock family.
    pub fn find(db: &DB, view: &Snapshot<'_>) -> LockSpan {
        let mut options = ReadOptions::default();
        options.set_snapshot(view);
        options.set_total_order_seek(true);
        options.set_max_skippable_internal_keys(SKIPS_MAX);
        let mut iter = db.raw_iterator_cf_opt(family(db, Cf::Lock), options);
        iter.seek_to_first();
        let Some(first) = iter.key().map(<[u8]>::to_vec) else {
            return if iter.status().is_ok() { LockSpan::None } else { LockSpan::Unknown };
        };
        iter.seek_to_last();
        match iter.key() {
            Some(last) => LockSpan::Within(first, last.to_vec()),
            None => LockSpan::Unknown,
        }
    }

    /// Can a lock be in `[start, end)`, or at `start`? An empty `end` has no upper bound.
    pub fn may_hold(&self, start: &[u8], end: &[u8]) -> bool {
        match self {
            LockSpan::None => false,
            LockSpan::Unknown => true,
            LockSpan::Within(first, last) => {
                let behind = start > last.as_slice();
                let before = !end.is_empty() && end <= first.as_slice() && start < first.as_slice();
                !behind && !before
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_excludes_only_what_is_outside() {
        let span = LockSpan::Within(b"d".to_vec(), b"m".to_vec());
        for (start, end, may) in [
            ("a", "a", false),
            ("d", "d", true),
            ("e", "e", true),
            ("m", "m", true),
            ("n", "n", false),
            ("ma", "", false),
            ("a", "d", false),
            ("a", "da", true),
            ("a", "", true),
            ("", "", true),
            ("m", "z", true),
            ("e", "f", true),
        ] {
            assert_eq!(span.may_hold(start.as_bytes(), end.as_bytes()), may, "[{start}, {end})");
        }
        assert!(!LockSpan::None.may_hold(b"", b""));
        assert!(LockSpan::Unknown.may_hold(b"a", b"a"));
    }
}
