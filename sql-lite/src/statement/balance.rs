//! Long chains of AND, OR and + as balanced trees: sqlparser makes a list as deep as the chain is
//! long, and all that walks an expression does so on its stack, some of it once for each level. It
//! must never change the order of the terms, nor touch a chain short enough to be shown as it was
//! written. (The last digit of a long sum of DOUBLE may differ from that of adding from the left.)

use sqlparser::ast::{BinaryOperator, Expr, Value, VisitMut, VisitorMut};
use std::ops::ControlFlow;

/// Operators of a chain of conditions that stays as it is.
const CONDITIONS: usize = 32;
/// Operators of a sum that stays as it is.
const SUM: usize = 256;

/// Balances every chain of a statement's part.
pub fn balance(part: &mut impl VisitMut) {
    let _: ControlFlow<()> = part.visit(&mut Chains);
}

struct Chains;

impl VisitorMut for Chains {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::BinaryOp { op, .. } = &*expr else { return ControlFlow::Continue(()) };
        let (op, short) = match op {
            BinaryOperator::And | BinaryOperator::Or => (op.clone(), CONDITIONS),
            BinaryOperator::Plus => (op.clone(), SUM),
            _ => return ControlFlow::Continue(()),
        };
        if is_long(expr, &op, short) && !(op == BinaryOperator::Plus && adds_intervals(expr)) {
            let terms = take_apart(std::mem::replace(expr, nothing()), &op);
            *expr = join(terms, &op);
        }
        ControlFlow::Continue(())
    }
}

fn nothing() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

fn is_long(expr: &Expr, chained: &BinaryOperator, short: usize) -> bool {
    let mut at = expr;
    for _ in 0..short {
        match at {
            Expr::BinaryOp { left, op, .. } if op == chained => at = left,
            _ => return false,
        }
    }
    true
}

/// `d + INTERVAL 1 DAY + INTERVAL …`: the terms are not alike.
fn adds_intervals(expr: &Expr) -> bool {
    let mut at = expr;
    while let Expr::BinaryOp { left, op: BinaryOperator::Plus, right } = at {
        if matches!(**right, Expr::Interval(_)) {
            return true;
        }
        at = left;
    }
    matches!(at, Expr::Interval(_))
}

fn take_apart(expr: Expr, chained: &BinaryOperator) -> Vec<Expr> {
    let mut terms = Vec::new();
    let mut rest = expr;
    loop {
        match rest {
            Expr::BinaryOp { left, op, right } if op == *chained => {
                terms.push(*right);
                rest = *left;
            }
            last => {
                terms.push(last);
                break;
            }
        }
    }
    terms.reverse();
    terms
}

/// Neighbours in pairs, and pairs of those, until one is left.
fn join(mut terms: Vec<Expr>, op: &BinaryOperator) -> Expr {
    while terms.len() > 1 {
        let mut pairs = Vec::with_capacity(terms.len().div_ceil(2));
        let mut left = terms.into_iter();
        while let Some(first) = left.next() {
            pairs.push(match left.next() {
                Some(second) => {
                    let (left, right) = (Box::new(first), Box::new(second));
                    Expr::BinaryOp { left, op: op.clone(), right }
                }
                None => first,
            });
        }
        terms = pairs;
    }
    terms.pop().unwrap_or_else(nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlparser::dialect::MySqlDialect;
    use sqlparser::parser::Parser;

    fn depth(expr: &Expr) -> usize {
        match expr {
            Expr::BinaryOp { left, right, .. } => 1 + depth(left).max(depth(right)),
            _ => 0,
        }
    }

    fn parse(text: &str) -> Expr {
        let parser = Parser::new(&MySqlDialect {}).try_with_sql(text);
        parser.and_then(|mut parser| parser.parse_expr()).expect(text)
    }

    #[test]
    fn long_chains_keep_their_terms_and_lose_their_depth() {
        for word in ["OR", "AND", "+"] {
            let term = |n: usize| if word == "+" { n.to_string() } else { format!("a = {n}") };
            let text: Vec<_> = (0..1000).map(term).collect();
            let text = text.join(&format!(" {word} "));
            let mut expr = parse(&text);
            balance(&mut expr);
            assert!(depth(&expr) < 15, "{}", depth(&expr));
            assert_eq!(expr.to_string(), text);
        }
    }

    #[test]
    fn short_chains_and_other_operators_stay() {
        for text in ["a OR b OR c", "a AND b OR c AND d", "1 + 2 + 3"] {
            let mut expr = parse(text);
            balance(&mut expr);
            assert_eq!(expr, parse(text));
        }
        let mut differences = parse(&format!("1{}", " - 1".repeat(1000)));
        balance(&mut differences);
        assert_eq!(depth(&differences), 1000);
    }
}
