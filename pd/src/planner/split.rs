//! Where a region is cut: at the edges of column rules, when it is too large, when it is too busy.
//! It must never choose the middle key: only the store can.

use crate::operator::OperatorKind;
use crate::values::{ColumnRule, Step};
use crate::view::{RegionFacts, View};
use damask_types::{KeyRange, Region};
use std::collections::BTreeMap;
use std::ops::Bound;

/// A region that crosses edges of rules is cut there, before all else: a replica of columns never
/// holds rows outside of its rule.
pub(super) fn at_rules(view: &View<'_>, region: &Region) -> Option<(OperatorKind, Vec<Step>)> {
    let edges = rule_edges(view.rules, &region.range);
    (!edges.is_empty()).then(|| (OperatorKind::SplitAtRule, vec![Step::SplitAt(edges)]))
}

/// Too many bytes, or too much traffic; unless the store has found no key to split at.
pub(super) fn check(view: &View<'_>, facts: &RegionFacts) -> Option<(OperatorKind, Vec<Step>)> {
    let config = view.config;
    if facts.unsplittable {
        return None;
    }
    let flow = facts.flow.read.saturating_add(facts.flow.write);
    if facts.bytes > config.region_bytes_max {
        return Some((OperatorKind::SplitBySize, vec![Step::Split]));
    }
    let busy = config.split_flow > 0 && flow > config.split_flow;
    busy.then(|| (OperatorKind::SplitByLoad, vec![Step::Split]))
}

/// Edges of rules strictly inside of `range`, ascending.
pub(super) fn rule_edges(rules: &BTreeMap<Vec<u8>, ColumnRule>, range: &KeyRange) -> Vec<Vec<u8>> {
    let inside =
        |key: &[u8]| !key.is_empty() && key > range.start.as_slice() && range.contains(key);
    if range.is_empty() {
        return Vec::new();
    }
    // Rules do not overlap: of those that begin before the range, only the last can end in it.
    let before = rules.range(..=range.start.clone()).next_back();
    let end = match range.end.is_empty() {
        true => Bound::Unbounded,
        false => Bound::Excluded(range.end.clone()),
    };
    let within = rules.range((Bound::Excluded(range.start.clone()), end));
    let mut edges: Vec<Vec<u8>> = before
        .into_iter()
        .chain(within)
        .flat_map(|(_, rule)| [&rule.range.start, &rule.range.end])
        .filter(|key| inside(key))
        .cloned()
        .collect();
    edges.sort();
    edges.dedup();
    edges
}
