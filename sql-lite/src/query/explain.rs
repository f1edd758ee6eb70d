//! EXPLAIN: one row for each operator, indented, with the rows expected (and, analysed, the rows
//! and the time measured). Fragments say which engine they read, and why. It must never run a
//! query that is only explained.

use super::QueryContext;
use super::failure::error;
use crate::error::Result;
use crate::outcome::{ColumnMeta, Rows};
use damask_types::{ColumnType, Datum};
use datafusion::common::stats::Precision;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::metrics::MetricValue;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan, execute_stream};
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;

struct Shown<'a>(&'a dyn ExecutionPlan);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt_as(DisplayFormatType::Default, f)
    }
}

pub(super) fn rows(ctx: &QueryContext<'_>, plan: LogicalPlan, analyze: bool) -> Result<Rows> {
    let runner = super::run::Runner::new(ctx);
    let plan = super::run::physical(&runner, &plan)?;
    if analyze {
        let task = runner.task.clone();
        let plan = plan.clone();
        let work = async {
            let mut batches = execute_stream(plan, task)?;
            while let Some(batch) = batches.next().await {
                batch?;
            }
            Ok(())
        };
        super::run::wait(&ctx.services.runtime, &ctx.session.interrupt, work)?.map_err(error)?;
    }
    let text = || ColumnType::VarChar { len: 16_383 };
    let mut columns =
        vec![ColumnMeta::expression("id", text()), ColumnMeta::expression("estRows", text())];
    if analyze {
        columns.push(ColumnMeta::expression("actRows", text()));
        columns.push(ColumnMeta::expression("time", text()));
    }
    columns.push(ColumnMeta::expression("info", text()));
    let mut lines = Vec::new();
    walk(&plan, 0, analyze, &mut lines);
    Ok(Rows::of(columns, lines))
}

fn walk(plan: &Arc<dyn ExecutionPlan>, depth: usize, analyze: bool, out: &mut Vec<Vec<Datum>>) {
    if [super::stop::NAME, super::bounds::NAME].contains(&plan.name()) {
        plan.children().into_iter().for_each(|input| walk(input, depth, analyze, out));
        return;
    }
    let name = plan.name().trim_end_matches("Exec");
    let info = Shown(plan.as_ref()).to_string();
    let short = info.split_once(": ").filter(|(head, _)| *head == plan.name());
    let info = short.map_or(info.as_str(), |(_, tail)| tail);
    let info = if info == plan.name() { "" } else { info };
    let indent = match depth {
        0 => String::new(),
        depth => format!("{}└─", "  ".repeat(depth - 1)),
    };
    let expected = plan.partition_statistics(None).map(|s| s.num_rows);
    let expected = match expected {
        Ok(Precision::Exact(n) | Precision::Inexact(n)) => Datum::Text(n.to_string()),
        _ => Datum::Text("?".to_owned()),
    };
    let mut row = vec![Datum::Text(format!("{indent}{name}")), expected];
    let mut waited = String::new();
    if analyze {
        let metrics = plan.metrics();
        let found = metrics.as_ref().and_then(|m| m.output_rows());
        row.push(found.map_or(Datum::Null, |n| Datum::Text(n.to_string())));
        let nanos = metrics.and_then(|m| {
            m.sum(|metric| matches!(metric.value(), MetricValue::ElapsedCompute(_)))
                .map(|v| v.as_usize())
        });
        let time = nanos.map(|n| format!("{:.3}ms", n as f64 / 1e6));
        row.push(time.map_or(Datum::Null, Datum::Text));
        waited = waits(plan);
    }
    row.push(Datum::Text(format!("{info}{waited}")));
    out.push(row);
    for child in plan.children() {
        walk(child, depth + 1, analyze, out);
    }
}

/// What an operator measured beside its own work: `, name 1.234ms` for each (how long a column
/// read waited for its replica to be fresh enough).
fn waits(plan: &Arc<dyn ExecutionPlan>) -> String {
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    for metric in plan.metrics().iter().flat_map(|metrics| metrics.iter()) {
        if let MetricValue::Time { name, time } = metric.value()
            && name.ends_with("wait")
        {
            *named.entry(name.replace('_', " ")).or_default() += time.value();
        }
    }
    let shown = named.iter().map(|(name, nanos)| format!(", {name} {:.3}ms", *nanos as f64 / 1e6));
    shown.collect()
}
