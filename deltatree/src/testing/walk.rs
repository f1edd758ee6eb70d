//! Random changes, each followed by reads in several ways; open snapshots keep what they saw, a
//! reopened store has what was synced. It must give the same run for the same seed.

use super::Opener;
use super::model::{Cell, Model, Numbers, TABLE, Version, array, batch, handle_of, request, scan};
use super::pushed;
use crate::error::Result;
use crate::store::{ColumnSnapshot, ColumnStore, HandleRange, Prune};
use damask_types::{ErrorKind, Timestamp};
use std::sync::Arc;

const HANDLES: u64 = 150;
const STEPS: usize = 300;
/// Open snapshots are read again after so many steps.
const KEPT_STEPS: usize = 60;

pub(super) fn ranges(numbers: &mut Numbers) -> Vec<HandleRange> {
    if numbers.below(3) == 0 {
        return vec![HandleRange::ALL];
    }
    let mut edges: Vec<i64> =
        (0..2 + 2 * numbers.below(3)).map(|_| numbers.below(HANDLES + 20) as i64 - 10).collect();
    edges.sort_unstable();
    edges.dedup();
    let pairs = edges.chunks_exact(2);
    pairs.map(|pair| HandleRange { first: pair[0], last: pair[1] }).collect()
}

/// Reads a snapshot in several ways and compares with the model.
fn check(
    snapshot: &dyn ColumnSnapshot,
    model: &Model,
    numbers: &mut Numbers,
    oldest: u64,
    now: u64,
) -> Result<()> {
    let pushed_down = numbers.below(3) as usize;
    let random = oldest + numbers.below(now + 2 - oldest);
    for (index, ts) in [u64::MAX, now, random].into_iter().enumerate() {
        let ranges = ranges(numbers);
        let expected = model.read(&ranges, ts);
        let mut request = request(&ranges, ts, [1, 7, 4096][numbers.below(3) as usize]);
        let seen = scan(snapshot, &request, 1 + numbers.below(4) as usize)?;
        assert_eq!(seen, expected, "read at {ts} of {ranges:?}");
        assert_eq!(snapshot.count(&ranges, Timestamp(ts))?, expected.len() as u64, "count at {ts}");

        let low = numbers.below(1000) as i64;
        let high = low + numbers.below(100) as i64;
        let one = |v: i64| Some(array(1, &[Cell::Int(v)]));
        request.prune = vec![Prune { column: 1, min: one(low), max: one(high) }];
        let seen = scan(snapshot, &request, 2)?;
        for row in &expected {
            let matches = matches!(row[1], Cell::Int(a) if low <= a && a <= high);
            let found = seen.binary_search_by_key(&handle_of(row), handle_of).is_ok();
            assert!(!matches || found, "pruning lost {row:?}");
        }
        for row in &seen {
            let known = expected.binary_search_by_key(&handle_of(row), handle_of);
            assert!(known.is_ok_and(|at| expected[at] == *row), "pruning made up {row:?}");
        }
        request.prune.clear();
        if index == pushed_down {
            pushed::check(snapshot, &expected, &request, numbers)?;
        }
    }
    Ok(())
}

/// Makes versions the way a cluster does, and some that only a replay does.
pub(super) struct Writer {
    pub numbers: Numbers,
    pub now: u64,
    pub safe_point: u64,
    /// Applied after the safe point: may come again.
    recent: Vec<Version>,
    used: std::collections::HashSet<(i64, u64)>,
}

impl Writer {
    pub fn new(seed: u64) -> Writer {
        let used = std::collections::HashSet::new();
        Writer { numbers: Numbers(seed), now: 10, safe_point: 0, recent: Vec::new(), used }
    }

    pub fn versions(&mut self) -> Vec<Version> {
        let numbers = &mut self.numbers;
        let with_second = numbers.below(3) > 0;
        let dense = numbers.below(4) == 0;
        let start = numbers.below(HANDLES);
        let mut versions = Vec::new();
        for i in 0..1 + numbers.below(40) {
            let handle = if dense { start + i } else { numbers.below(HANDLES) } as i64;
            let late = numbers.below(6) == 0 && self.now > self.safe_point + 2;
            let version = match late {
                true => self.safe_point + 1 + numbers.below(self.now - self.safe_point),
                false => {
                    self.now += 1 + numbers.below(3);
                    self.now
                }
            };
            if !self.used.insert((handle, version)) {
                continue;
            }
            let a = (numbers.below(5) > 0).then(|| numbers.below(1000) as i64);
            let b = (numbers.below(5) > 0).then(|| format!("text {}", numbers.below(1 << 40)));
            let row = (numbers.below(5) > 0).then_some((a, with_second.then_some(b)));
            versions.push(Version { handle, version, row });
        }
        if with_second && versions.iter().all(|v| v.row.is_none()) {
            versions.clear();
        }
        self.recent.extend(versions.iter().cloned());
        versions
    }

    /// Versions that were applied before.
    fn again(&mut self) -> Vec<Version> {
        let with_second = self.numbers.below(2) == 0;
        let (numbers, recent) = (&mut self.numbers, &self.recent);
        let pick = |_| recent.get(numbers.below(recent.len().max(1) as u64) as usize).cloned();
        let picked: Vec<Version> = (0..10).filter_map(pick).collect();
        let alike = |v: &Version| v.row.as_ref().is_none_or(|r| r.1.is_some() == with_second);
        picked.into_iter().filter(alike).collect()
    }

    pub fn range(&mut self) -> HandleRange {
        let first = self.numbers.below(HANDLES) as i64;
        HandleRange { first, last: first + self.numbers.below(HANDLES / 2) as i64 }
    }

    pub fn move_safe_point(&mut self) -> u64 {
        self.safe_point += self.numbers.below(self.now - self.safe_point + 1);
        let safe_point = self.safe_point;
        self.recent.retain(|v| v.version > safe_point);
        safe_point
    }
}

/// A snapshot, what it must give, and between which timestamps.
type Kept = (Arc<dyn ColumnSnapshot>, Model, u64, u64);

struct Walk<'a> {
    open: &'a Opener,
    store: Arc<dyn ColumnStore>,
    writer: Writer,
    model: Model,
    kept: Vec<Kept>,
}

/// A store may ask for maintenance before it takes more, once.
fn apply(store: &dyn ColumnStore, safe_point: u64, versions: &[Version]) -> Result<()> {
    match store.apply(&batch(versions)) {
        Err(e) if e.kind() == ErrorKind::Retry => {
            store.maintain(Timestamp(safe_point), u64::MAX)?;
            store.apply(&batch(versions))
        }
        applied => applied,
    }
}

impl Walk<'_> {
    fn step(&mut self) -> Result<()> {
        let Walk { store, writer, model, .. } = self;
        match writer.numbers.below(12) {
            0..=5 => {
                let versions = writer.versions();
                apply(&**store, writer.safe_point, &versions)?;
                model.apply(&versions);
            }
            6 => {
                let versions = writer.again();
                apply(&**store, writer.safe_point, &versions)?;
                model.apply(&versions);
            }
            7 if writer.numbers.below(4) == 0 => {
                let range = writer.range();
                store.clear(TABLE, range)?;
                model.clear(range);
            }
            8 => {
                let safe_point = match writer.numbers.below(3) {
                    0 => writer.move_safe_point(),
                    _ => writer.safe_point,
                };
                store.maintain(Timestamp(safe_point), 1 << writer.numbers.below(30))?;
            }
            9 => store.sync(&[(1, writer.now.to_le_bytes().to_vec())])?,
            10 if writer.numbers.below(4) == 0 => {
                store.sync(&[])?;
                // no snapshot lives longer than its store, and one store at a time has the place
                self.check_kept()?;
                self.store = Arc::new(crate::MemoryColumnStore::new());
                self.store = (self.open)();
            }
            _ => {}
        }
        Ok(())
    }

    fn check_kept(&mut self) -> Result<()> {
        for (snapshot, model, oldest, now) in std::mem::take(&mut self.kept) {
            check(&*snapshot, &model, &mut self.writer.numbers, oldest, now)?;
        }
        Ok(())
    }

    fn run(&mut self, number: usize) -> Result<()> {
        self.step()?;
        let snapshot = self.store.snapshot(TABLE)?;
        let (oldest, now) = (self.writer.safe_point, self.writer.now);
        check(&*snapshot, &self.model, &mut self.writer.numbers, oldest, now)?;
        if number.is_multiple_of(10) {
            self.kept.push((snapshot, self.model.clone(), oldest, now));
        }
        match number % KEPT_STEPS == KEPT_STEPS - 1 {
            true => self.check_kept(),
            false => Ok(()),
        }
    }
}

/// A walk from a seed.
pub(super) fn random_walk(open: &Opener, seed: u64) {
    let (store, writer, model) = (open(), Writer::new(seed), Model::default());
    let mut walk = Walk { open, store, writer, model, kept: Vec::new() };
    for number in 0..STEPS {
        walk.run(number).unwrap_or_else(|e| panic!("seed {seed}, step {number}: {e}"));
    }
}
