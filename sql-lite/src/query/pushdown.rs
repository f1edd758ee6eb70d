//! DataFusion's rules that push filters down a physical plan, kept away from the plans that they
//! get wrong. It must never change a plan itself.
//!
//! DataFusion 54.1 finds a filter's column in the input of an operator by its name
//! (`FilterRemapper::try_remap`). Over a join of two tables with a column of the same name it takes
//! the first: `… t RIGHT JOIN j … WHERE t.id IS NULL` then asks `j.id IS NULL`. Filters that a query
//! says itself have been pushed down already, in the logical plan, where columns have their tables.

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use std::collections::HashSet;
use std::sync::Arc;

/// How the names of those rules begin: there is one before and one after the others.
const PUSHES: &str = "FilterPushdown";

/// DataFusion's physical rules.
pub(super) fn rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let careful = |rule: Arc<dyn PhysicalOptimizerRule + Send + Sync>| match rule.name() {
        name if name.starts_with(PUSHES) => Arc::new(Careful(rule)),
        _ => rule,
    };
    PhysicalOptimizer::new().rules.into_iter().map(careful).collect()
}

/// Leaves plans alone in which two columns of one operator have the same name.
#[derive(Debug)]
struct Careful(Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for Careful {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if repeats_a_name(&plan) { Ok(plan) } else { self.0.optimize(plan, config) }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

fn repeats_a_name(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let schema = plan.schema();
    let mut names = HashSet::new();
    !schema.fields().iter().all(|field| names.insert(field.name()))
        || plan.children().into_iter().any(repeats_a_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_rules_are_there() {
        let rules = rules();
        assert_eq!(rules.len(), PhysicalOptimizer::new().rules.len());
        let careful = |rule: &&Arc<_>| format!("{rule:?}").starts_with("Careful");
        assert_eq!(rules.iter().filter(careful).count(), 2);
    }
}
