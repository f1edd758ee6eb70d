//! How scans move: a few steps among the versions of a key, then one seek; and no seek at all where
//! keys have few versions. No test here may depend on what a backend does with a step.

use super::*;
use crate::engine::{Cursor, Pair, Snapshot};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keys of each history.
const KEYS: usize = 20;

#[derive(Default)]
struct Counts {
    steps: AtomicUsize,
    seeks: AtomicUsize,
    gets: AtomicUsize,
}

/// Counts what is asked of the write family, and gets of any.
struct Counting {
    snapshot: Arc<dyn Snapshot>,
    counts: Arc<Counts>,
}

impl Snapshot for Counting {
    fn get(&self, cf: Cf, key: &[u8]) -> crate::Result<Option<bytes::Bytes>> {
        self.counts.gets.fetch_add(1, Ordering::Relaxed);
        self.snapshot.get(cf, key)
    }

    fn cursor<'a>(
        &'a self,
        cf: Cf,
        start: &[u8],
        end: &[u8],
    ) -> crate::Result<Box<dyn Cursor + 'a>> {
        let cursor = self.snapshot.cursor(cf, start, end)?;
        let counts = (cf == Cf::Write).then_some(&*self.counts);
        Ok(Box::new(Walk { cursor, counts }))
    }
}

struct Walk<'a> {
    cursor: Box<dyn Cursor + 'a>,
    counts: Option<&'a Counts>,
}

impl Walk<'_> {
    fn sought(&self) {
        if let Some(counts) = self.counts {
            counts.seeks.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn stepped(&self) {
        if let Some(counts) = self.counts {
            counts.steps.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Cursor for Walk<'_> {
    fn seek(&mut self, key: &[u8]) -> crate::Result<Option<Pair<'_>>> {
        self.sought();
        self.cursor.seek(key)
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> crate::Result<Option<Pair<'_>>> {
        self.sought();
        self.cursor.seek_for_prev(key)
    }

    fn seek_to_last(&mut self) -> crate::Result<Option<Pair<'_>>> {
        self.sought();
        self.cursor.seek_to_last()
    }

    fn next(&mut self) -> crate::Result<Option<Pair<'_>>> {
        self.stepped();
        self.cursor.next()
    }

    fn prev(&mut self) -> crate::Result<Option<Pair<'_>>> {
        self.stepped();
        self.cursor.prev()
    }

    fn current(&self) -> Option<Pair<'_>> {
        self.cursor.current()
    }
}

/// Steps and seeks of a scan at `at` over keys with `versions` versions each, committed at 5, 15, …
fn moves(versions: u64, at: u64, reverse: bool) -> (usize, usize) {
    let mut history = History::default();
    for key in 0..KEYS {
        for version in 0..versions {
            let value = version.to_string();
            let (start, commit) = (version * 10 + 1, version * 10 + 5);
            history = history.commit(&format!("k{key:02}"), start, commit, Some(value.as_bytes()));
        }
    }
    let counts = Arc::new(Counts::default());
    let snapshot = history.reader().snapshot;
    let reader = MvccReader::new(Arc::new(Counting { snapshot, counts: counts.clone() }));
    let Read::Ok(rows) = reader.scan(&KeyRange::all(), ts(at), 100, reverse).expect("scans") else {
        panic!("nothing is locked");
    };
    let newest = ((at - 5) / 10).min(versions - 1).to_string();
    assert_eq!(rows.len(), KEYS);
    assert!(rows.iter().all(|(_, value)| value == newest.as_bytes()), "{versions} at {at}");
    assert_eq!(counts.gets.load(Ordering::Relaxed), 0, "short values are in the records");
    (counts.steps.load(Ordering::Relaxed), counts.seeks.load(Ordering::Relaxed))
}

#[test]
fn few_versions_are_stepped_over() {
    for reverse in [false, true] {
        for (versions, at) in [(1, 1_000), (3, 1_000), (3, 5), (7, 35)] {
            let (steps, seeks) = moves(versions, at, reverse);
            assert_eq!(seeks, 1, "{versions} versions, reverse {reverse}: {seeks} seeks");
            assert!(steps <= KEYS * versions as usize, "{steps} steps");
        }
    }
}

#[test]
fn many_versions_are_jumped_over() {
    for (reverse, at) in [(false, 5), (false, 505), (false, 9_999), (true, 5), (true, 505)] {
        let (steps, seeks) = moves(200, at, reverse);
        // One to the version, one out of the key; before each at most NEAR steps.
        assert!(seeks <= 2 * KEYS + 1, "reverse {reverse} at {at}: {seeks} seeks");
        let most = KEYS * 2 * (crate::mvcc::reverse::NEAR + 1);
        assert!(steps <= most, "reverse {reverse} at {at}: {steps} steps of {most}");
    }
}
