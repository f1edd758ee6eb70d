//! Which fragments become one, and what of them is garbage. It must never drop a delete mark while
//! an older version of its row stays behind.

use crate::rows::Run;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// Rows in a hundred that are garbage, from which on a fragment is written again.
pub(crate) const GARBAGE_PERCENT: usize = 25;
/// Fragments of one shape that become one when no older one is much larger.
pub(crate) const FRAGMENTS_MERGED: usize = 4;
/// How much larger than the younger together the oldest of them may be.
const SIZE_RATIO_PERCENT: usize = 120;

/// Whether a row of a group is needed by a read at or after the safe point. `others` are the runs
/// of the table outside of the group.
pub(crate) fn needed(run: &Run, row: usize, others: &[Arc<Run>], safe_point: u64) -> bool {
    if run.end(row).is_some_and(|end| end <= safe_point) {
        return false;
    }
    if !run.deleted.value(row) || run.versions[row] > safe_point {
        return true;
    }
    let (handle, version) = (run.handles[row], run.versions[row]);
    others.iter().any(|other| {
        let first = other.handles.partition_point(|found| *found < handle);
        let same = other.handles[first..].iter().take_while(|found| **found == handle).count();
        (first..first + same).any(|row| !other.is_dead(row) && other.versions[row] < version)
    })
}

/// Rows that writing a run again on its own would drop.
fn garbage(runs: &[Arc<Run>], number: usize, safe_point: u64) -> usize {
    let run = &runs[number];
    let others = without(runs, &[number]);
    let dropped = |row: &usize| run.is_dead(*row) || !needed(run, *row, &others, safe_point);
    (0..run.len()).filter(dropped).count()
}

/// The runs whose numbers are not among some.
pub(crate) fn without(runs: &[Arc<Run>], some: &[usize]) -> Vec<Arc<Run>> {
    let others = runs.iter().enumerate().filter(|(number, _)| !some.contains(number));
    others.map(|(_, run)| run.clone()).collect()
}

/// The numbers of the stored runs that should become one run, out of `runs`, whose first `stored`
/// are in files.
pub(crate) fn pick(runs: &[Arc<Run>], stored: usize, safe_point: u64) -> Option<Vec<usize>> {
    let mut shapes: Vec<SchemaRef> = Vec::new();
    for run in &runs[..stored] {
        if !shapes.contains(&run.shape()) {
            shapes.push(run.shape());
        }
    }
    for shape in shapes {
        let mut alike: Vec<usize> =
            (0..stored).filter(|number| runs[*number].shape() == shape).collect();
        alike.sort_by_key(|number| std::cmp::Reverse(runs[*number].len()));
        let sizes: Vec<usize> = alike.iter().map(|number| runs[*number].len()).collect();
        if let Some(start) = tier(&sizes) {
            return Some(alike.split_off(start));
        }
    }
    (0..stored)
        .map(|number| vec![number])
        .find(|one| garbage(runs, one[0], safe_point) * 100 > runs[one[0]].len() * GARBAGE_PERCENT)
}

/// Of sizes, largest first: where those begin that should become one.
pub(crate) fn tier(sizes: &[usize]) -> Option<usize> {
    let last = sizes.len().checked_sub(FRAGMENTS_MERGED)?;
    (0..=last).find(|start| {
        let younger: usize = sizes[start + 1..].iter().sum();
        sizes[*start] * 100 <= younger * SIZE_RATIO_PERCENT
    })
}
