//! Long chains of AND, OR, +, - and * as balanced trees: sqlparser makes a list as deep as the chain
//! is long, and all that walks an expression does so on its stack, some of it once for each level. It
//! must never change the order of the terms (but that what is taken away comes last), nor touch a
//! chain short enough to be shown as it was written. The last digit of a long sum of DOUBLE may
//! differ from that of adding from the left, and what is out of range on the way need not be.

use super::lexer::too_deep;
use crate::error::Result;
use sqlparser::ast::{BinaryOperator, Expr, Value, VisitMut, VisitorMut};
use std::ops::ControlFlow;

/// Operators of a chain of conditions that stays as it is.
const CONDITIONS: usize = 32;
/// Operators of a sum or product that stays as it is.
const SUM: usize = 64;
/// Expressions within each other: planning takes time as the cube of this.
pub const DEPTH_MAX: usize = 256;

/// Balances every chain of a statement's part; 1436 if what is left is too deep.
pub fn balance(part: &mut impl VisitMut) -> Result<()> {
    match part.visit(&mut Chains { depth: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(too_deep()),
    }
}

struct Chains {
    depth: usize,
}

impl VisitorMut for Chains {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return ControlFlow::Break(());
        }
        if let Expr::BinaryOp { op, .. } = &*expr
            && let Some(chain) = Chain::of(op)
            && chain.is_long(expr)
        {
            *expr = chain.balanced(std::mem::replace(expr, nothing()));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &mut Expr) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

fn nothing() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

/// Operators that go on from one another.
struct Chain {
    op: BinaryOperator,
    /// Takes a term away.
    inverse: Option<BinaryOperator>,
    short: usize,
}

impl Chain {
    fn of(op: &BinaryOperator) -> Option<Chain> {
        use BinaryOperator as B;
        let (op, inverse, short) = match op {
            B::And | B::Or => (op.clone(), None, CONDITIONS),
            B::Plus | B::Minus => (B::Plus, Some(B::Minus), SUM),
            B::Multiply => (B::Multiply, None, SUM),
            _ => return None,
        };
        Some(Chain { op, inverse, short })
    }

    fn has(&self, op: &BinaryOperator) -> bool {
        *op == self.op || self.inverse.as_ref() == Some(op)
    }

    /// Is it longer than it may stay, of terms that are alike (INTERVAL is no value)?
    fn is_long(&self, expr: &Expr) -> bool {
        let (mut at, mut operators) = (expr, 0);
        loop {
            match at {
                Expr::BinaryOp { left, op, right } if self.has(op) => {
                    if matches!(**right, Expr::Interval(_)) {
                        return false;
                    }
                    operators += 1;
                    at = left;
                }
                Expr::Interval(_) => return false,
                _ => return operators > self.short,
            }
        }
    }

    fn balanced(&self, expr: Expr) -> Expr {
        let (mut added, mut taken) = (Vec::new(), Vec::new());
        let mut rest = expr;
        loop {
            match rest {
                Expr::BinaryOp { left, op, right } if self.has(&op) => {
                    if op == self.op {
                        added.push(*right)
                    } else {
                        taken.push(*right)
                    }
                    rest = *left;
                }
                first => {
                    added.push(first);
                    break;
                }
            }
        }
        added.reverse();
        taken.reverse();
        let whole = join(added, &self.op).unwrap_or_else(nothing);
        match (join(taken, &self.op), &self.inverse) {
            (Some(taken), Some(inverse)) => {
                let (left, right) = (Box::new(whole), Box::new(taken));
                Expr::BinaryOp { left, op: inverse.clone(), right }
            }
            _ => whole,
        }
    }
}

/// Neighbours in pairs, and pairs of those, until one is left.
fn join(mut terms: Vec<Expr>, op: &BinaryOperator) -> Option<Expr> {
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
    terms.pop()
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
        for word in ["OR", "AND", "+", "*"] {
            let term = |n: usize| if word.len() == 1 { n.to_string() } else { format!("a = {n}") };
            let text: Vec<_> = (0..1000).map(term).collect();
            let text = text.join(&format!(" {word} "));
            let mut expr = parse(&text);
            balance(&mut expr).expect(word);
            assert!(depth(&expr) < 15, "{}", depth(&expr));
            assert_eq!(expr.to_string(), text);
        }
    }

    #[test]
    fn what_is_taken_away_is_added_up() {
        let mut expr = parse(&format!("1{}", " + 2 - 3".repeat(100)));
        balance(&mut expr).expect("balances");
        let Expr::BinaryOp { left, op: BinaryOperator::Minus, right } = &expr else {
            panic!("{expr}")
        };
        assert_eq!(left.to_string(), format!("1{}", " + 2".repeat(100)));
        assert_eq!(right.to_string(), format!("3{}", " + 3".repeat(99)));
    }

    #[test]
    fn short_chains_and_unlike_terms_stay() {
        let days = format!("d{}", " + INTERVAL 1 DAY".repeat(100));
        for text in ["a OR b OR c", "a AND b OR c AND d", "1 + 2 - 3", &days] {
            let mut expr = parse(text);
            balance(&mut expr).expect(text);
            assert_eq!(expr, parse(text));
        }
    }

    #[test]
    fn what_stays_deep_is_refused() {
        let chain = |n: usize| parse(&format!("1{}", " / 1".repeat(n)));
        assert!(balance(&mut chain(DEPTH_MAX - 1)).is_ok());
        assert_eq!(balance(&mut chain(DEPTH_MAX)).expect_err("deep").code, 1436);
    }
}
