//! In which clause of a query a name stands, as MySQL's 1052 and 1054 say it. It looks at the query
//! as written, after planning failed: it must never decide whether a name is right.

use super::QueryContext;
use crate::statement::object_name;
use sqlparser::ast::*;
use std::ops::ControlFlow;

const FIELD_LIST: &str = "field list";

/// A clause, and its expressions.
type Clause<'q> = (&'static str, Vec<&'q Expr>);

/// The first clause, in the order in which MySQL resolves them, that names a column (`c` or `t.c`)
/// which none of the same SELECT's tables has; of an ambiguous name, the first that names it.
pub(super) fn of(
    ctx: &QueryContext<'_>,
    query: &Query,
    name: &str,
    ambiguous: bool,
) -> &'static str {
    let mut finder = Finder { ctx, name, ambiguous, first: None };
    match query.visit(&mut finder) {
        ControlFlow::Break(clause) => clause,
        ControlFlow::Continue(()) => finder.first.unwrap_or(FIELD_LIST),
    }
}

struct Finder<'a> {
    ctx: &'a QueryContext<'a>,
    name: &'a str,
    ambiguous: bool,
    /// Where the name stands at all.
    first: Option<&'static str>,
}

impl Visitor for Finder<'_> {
    type Break = &'static str;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<&'static str> {
        let mut selects = Vec::new();
        leaves(&query.body, &mut selects);
        for select in &selects {
            for clause in clauses(select) {
                self.look(select, clause)?;
            }
        }
        let order = query.order_by.as_ref().map(|order| &order.kind);
        if let (Some(OrderByKind::Expressions(exprs)), [select, ..]) = (order, selects.as_slice()) {
            let exprs = exprs.iter().map(|order| &order.expr).collect();
            self.look(select, ("order clause", exprs))?;
        }
        ControlFlow::Continue(())
    }
}

impl Finder<'_> {
    fn look(&mut self, select: &Select, (clause, exprs): Clause<'_>) -> ControlFlow<&'static str> {
        if !exprs.into_iter().any(|expr| names(expr, self.name)) {
            return ControlFlow::Continue(());
        }
        self.first.get_or_insert(clause);
        match self.ambiguous || !self.has_column(select) {
            true => ControlFlow::Break(clause),
            false => ControlFlow::Continue(()),
        }
    }

    /// Has a catalog table of this SELECT the column?
    fn has_column(&self, select: &Select) -> bool {
        let (table, column) = split(self.name);
        let factors = select.from.iter().flat_map(|from| {
            std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
        });
        factors.into_iter().any(|factor| {
            let TableFactor::Table { name, alias, .. } = factor else { return false };
            let Some(name) = object_name(name) else { return false };
            let called = alias.as_ref().map_or(&name.table, |alias| &alias.name.value);
            if table.is_some_and(|table| !called.eq_ignore_ascii_case(table)) {
                return false;
            }
            let database = name.database.as_deref().or(self.ctx.database);
            let schema = database.and_then(|d| self.ctx.catalog.table(d, &name.table));
            schema.is_some_and(|schema| schema.column(column).is_some())
        })
    }
}

fn leaves<'q>(body: &'q SetExpr, out: &mut Vec<&'q Select>) {
    match body {
        SetExpr::Select(select) => out.push(select),
        SetExpr::SetOperation { left, right, .. } => {
            leaves(left, out);
            leaves(right, out);
        }
        // A query of its own is visited as one.
        _ => {}
    }
}

/// In MySQL's order.
fn clauses(select: &Select) -> Vec<Clause<'_>> {
    let fields = select.projection.iter().filter_map(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    });
    let on = select.from.iter().flat_map(|from| &from.joins).filter_map(|join| {
        use JoinOperator as J;
        let (J::Join(constraint)
        | J::Inner(constraint)
        | J::Left(constraint)
        | J::LeftOuter(constraint)
        | J::Right(constraint)
        | J::RightOuter(constraint)
        | J::CrossJoin(constraint)
        | J::StraightJoin(constraint)) = &join.join_operator
        else {
            return None;
        };
        match constraint {
            JoinConstraint::On(expr) => Some(expr),
            _ => None,
        }
    });
    let groups = match &select.group_by {
        GroupByExpr::Expressions(exprs, _) => exprs.iter().collect(),
        GroupByExpr::All(_) => Vec::new(),
    };
    vec![
        (FIELD_LIST, fields.collect()),
        ("where clause", select.selection.iter().collect()),
        ("on clause", on.collect()),
        ("group statement", groups),
        ("having clause", select.having.iter().collect()),
    ]
}

/// `t.c` as table and column.
fn split(name: &str) -> (Option<&str>, &str) {
    match name.rsplit_once('.') {
        Some((table, column)) => (Some(table), column),
        None => (None, name),
    }
}

/// Does an expression name the column, outside of its subqueries?
fn names(expr: &Expr, name: &str) -> bool {
    let (table, column) = split(name);
    let mut names = Names { table, column, depth: 0 };
    expr.visit(&mut names).is_break()
}

struct Names<'a> {
    table: Option<&'a str>,
    column: &'a str,
    /// Subqueries around.
    depth: usize,
}

impl Visitor for Names<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let same = |ident: &Ident, name: &str| ident.value.eq_ignore_ascii_case(name);
        let found = self.depth == 0
            && match expr {
                Expr::Identifier(ident) => self.table.is_none() && same(ident, self.column),
                Expr::CompoundIdentifier(idents) => {
                    let mut parts = idents.iter().rev();
                    let column = parts.next().is_some_and(|ident| same(ident, self.column));
                    let table = parts.next();
                    column && self.table.is_none_or(|name| table.is_some_and(|t| same(t, name)))
                }
                _ => false,
            };
        if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
