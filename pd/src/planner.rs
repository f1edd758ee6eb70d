//! Decides what regions should do next, from a view of the cluster. Pure: no lock, no clock, no id
//! of its own making; the same view and seed give the same answer.
//!
//! ```text
//!   a report ──► check_region   split at rules · voters · columns · split by size, keys, load
//!   a tick   ──► plan           the same for every region, then leaders off stores · hot writes ·
//!                               hot reads · regions · leaders · merges
//! ```
//!
//! It ends: each balancer lowers a sum of squares, and those that come later never touch what
//! earlier ones count (hot regions are left to the hot balancers, replicas are not moved for the
//! sake of leaders). So without faults no replica and no leader goes to and fro.

mod balance;
mod columns;
mod hot;
mod merge;
mod split;
mod voters;

pub(crate) use columns::{column_replicas, covers};
pub(crate) use merge::steps as merge_steps;

use crate::operator::{Operator, OperatorKind};
use crate::view::{Draft, RegionFacts, View};
use damask_types::Region;

/// What one region should do, from its own report: repair comes before all but the edges of rules.
pub fn check_region(view: &View<'_>, region: &Region, facts: &RegionFacts) -> Option<Operator> {
    if view.is_busy(region.id) {
        return None;
    }
    let draft = Draft::new(*view);
    let operator = check(&draft, region, facts)?;
    draft.has_room(operator.kind.group()).then_some(operator)
}

fn check(draft: &Draft<'_>, region: &Region, facts: &RegionFacts) -> Option<Operator> {
    let (view, make) = (&draft.view, |(kind, steps): (OperatorKind, Vec<_>)| {
        Operator::new(&draft.view, region, kind, steps)
    });
    split::at_rules(view, region)
        .or_else(|| voters::check(draft, region, facts))
        .or_else(|| columns::check(draft, region, facts))
        .or_else(|| split::check(view, region, facts))
        .map(make)
}

/// What the cluster should do: at most one operator a region, within the limits. The seed says
/// which of equals comes first.
pub fn plan(view: &View<'_>, seed: u64) -> Vec<Operator> {
    let mut draft = Draft::new(*view);
    for (region, facts) in view.regions.iter().filter(|(_, facts)| facts.leader.is_some()) {
        if draft.is_busy(region.id) {
            continue;
        }
        if let Some(operator) = check(&draft, region, facts) {
            draft.add(operator);
        }
    }
    if view.is_known() {
        let regions: Vec<_> = view.regions.iter().collect();
        let turn = if regions.is_empty() { 0 } else { seed as usize % regions.len() };
        let (late, early) = regions.split_at(turn);
        let turned = [early, late].concat();
        balance::leaders_off(&mut draft, &turned);
        hot::writes(&mut draft, &turned);
        hot::reads(&mut draft, &turned);
        balance::regions(&mut draft, &turned);
        balance::leaders(&mut draft, &turned);
        merge::neighbours(&mut draft, &regions);
    }
    draft.planned
}

/// A region with what reports say of it, as the balancers go through them.
type Known<'a> = &'a (Region, RegionFacts);

#[cfg(test)]
mod tests;
