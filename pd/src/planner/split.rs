//! Where a region is cut: at the edges of column rules, when it is too large, when it is too busy.
//! It must never make a key up: where parts of one size begin, and which key parts what is asked of
//! a region, only its store knows.

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

/// Too many bytes or keys, unless the store has found none to split at; or too much to do, and
/// the store has found a key that parts that.
pub(super) fn check(
    view: &View<'_>,
    region: &Region,
    facts: &RegionFacts,
) -> Option<(OperatorKind, Vec<Step>)> {
    let config = view.config;
    let times = (facts.bytes / config.region_bytes_max).max(facts.keys / config.region_keys_max);
    let too_large = facts.bytes > config.region_bytes_max;
    if (too_large || facts.keys > config.region_keys_max) && !facts.unsplittable {
        let kind = if too_large { OperatorKind::SplitBySize } else { OperatorKind::SplitByKeys };
        // As many as leave each part below the limits, in one command.
        let parts = usize::try_from(times).unwrap_or(usize::MAX).saturating_add(1);
        return Some((kind, vec![Step::Split(parts.clamp(2, config.split_parts_max))]));
    }
    let inside = |key: &&Vec<u8>| **key > region.range.start && region.range.contains(key);
    let key = facts.split_key.as_ref().filter(|_| config.split_by_load).filter(inside)?;
    Some((OperatorKind::SplitByLoad, vec![Step::SplitAt(vec![key.clone()])]))
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
