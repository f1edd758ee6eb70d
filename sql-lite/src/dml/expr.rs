//! Simple expressions over one row: columns, constants, comparisons, `+ - *`, AND, OR, NOT, IN,
//! IS NULL. Whatever might mean something else than plain comparison of equal types is not
//! compiled, and is left to the query engine. It must never guess.

mod constant;

use crate::convert::calendar::DAY;
use crate::error::{Error, Result};
use crate::value::{Rules, leading_number, temporal};
use constant::constant;
use damask_types::{ColumnType, Datum, Decimal, TableSchema};
use sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    UnaryOperator,
};
use std::cmp::Ordering;

/// Deepest expression that is compiled here.
const DEPTH_MAX: usize = 64;

/// What names mean.
pub(super) struct Scope<'a> {
    /// The table of the columns.
    pub table: &'a TableSchema,
    /// What the table is called; `None`: no columns may be named.
    pub name: Option<&'a str>,
    /// `AS new(a, b)` of an INSERT, and VALUES(column): the row that could not be inserted.
    pub new: Option<NewRow<'a>>,
    /// The session's zone and the statement's time.
    pub rules: Rules,
}

/// How the row that could not be inserted is called.
#[derive(Clone, Copy)]
pub(super) struct NewRow<'a> {
    /// Its alias and the aliases of its columns, with their positions.
    pub alias: Option<(&'a str, &'a [(String, usize)])>,
}

impl<'a> Scope<'a> {
    /// Constants only, without the statement's time.
    pub fn constants(table: &'a TableSchema) -> Scope<'a> {
        let rules = Rules { strict: true, offset_us: 0, now_us: i64::MIN };
        Scope { table, name: None, new: None, rules }
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.table.columns.iter().position(|c| c.name.eq_ignore_ascii_case(name))
    }

    fn resolve(&self, idents: &[Ident]) -> Option<Node> {
        let name = self.name?;
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        let alias = self.new.and_then(|new| new.alias);
        match idents {
            [column] => {
                let of_new = alias.and_then(|(_, columns)| {
                    columns.iter().find(|(name, _)| same(name, &column.value))
                });
                match of_new {
                    Some((_, at)) => Some(Node::New(*at)),
                    None => self.column(&column.value).map(Node::Column),
                }
            }
            [table, column] if alias.is_some_and(|(alias, _)| same(alias, &table.value)) => {
                let (_, columns) = alias?;
                match columns.iter().find(|(name, _)| same(name, &column.value)) {
                    Some((_, at)) => Some(Node::New(*at)),
                    None if columns.is_empty() => self.column(&column.value).map(Node::New),
                    None => None,
                }
            }
            [table, column] if same(name, &table.value) => {
                self.column(&column.value).map(Node::Column)
            }
            [database, table, column] => {
                let own = same(&self.table.database, &database.value);
                let own = own && same(&self.table.name, &table.value) && same(name, &table.value);
                if own { self.column(&column.value).map(Node::Column) } else { None }
            }
            _ => None,
        }
    }
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn of(op: &BinaryOperator) -> Option<Comparison> {
        Some(match op {
            BinaryOperator::Eq => Comparison::Equal,
            BinaryOperator::NotEq => Comparison::NotEqual,
            BinaryOperator::Lt => Comparison::Less,
            BinaryOperator::LtEq => Comparison::LessOrEqual,
            BinaryOperator::Gt => Comparison::Greater,
            BinaryOperator::GtEq => Comparison::GreaterOrEqual,
            _ => return None,
        })
    }

    /// The same with its sides exchanged.
    fn flipped(self) -> Comparison {
        match self {
            Comparison::Less => Comparison::Greater,
            Comparison::LessOrEqual => Comparison::GreaterOrEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterOrEqual => Comparison::LessOrEqual,
            same => same,
        }
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Equal => order.is_eq(),
            Comparison::NotEqual => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// `+ - *`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
}

/// A compiled expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Const(Datum),
    /// Of the row.
    Column(usize),
    /// Of the row that could not be inserted.
    New(usize),
    Compare(Comparison, Box<Node>, Box<Node>),
    In(Box<Node>, Vec<Datum>, bool),
    IsNull(Box<Node>, bool),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Compute(Arithmetic, Box<Node>, Box<Node>),
}

/// What values an expression has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Int,
    UInt,
    Decimal,
    Double,
    /// Compares in its own way.
    Float,
    Text,
    Bytes,
    Date,
    DateTime,
    Timestamp,
    Time,
}

impl Kind {
    fn of_type(ty: &ColumnType) -> Kind {
        match ty {
            ColumnType::Int { unsigned: true, .. } => Kind::UInt,
            ColumnType::Bool | ColumnType::Int { .. } => Kind::Int,
            ColumnType::Float => Kind::Float,
            ColumnType::Double => Kind::Double,
            ColumnType::Decimal { .. } => Kind::Decimal,
            ty if ty.is_text() => Kind::Text,
            ty if ty.is_binary() => Kind::Bytes,
            ColumnType::Date => Kind::Date,
            ColumnType::DateTime { .. } => Kind::DateTime,
            ColumnType::Timestamp { .. } => Kind::Timestamp,
            _ => Kind::Time,
        }
    }

    fn of_datum(datum: &Datum) -> Kind {
        match datum {
            Datum::Null => Kind::Null,
            Datum::Int(_) => Kind::Int,
            Datum::UInt(_) => Kind::UInt,
            Datum::Double(_) => Kind::Double,
            Datum::Decimal(_) => Kind::Decimal,
            Datum::Text(_) => Kind::Text,
            Datum::Bytes(_) => Kind::Bytes,
            Datum::Date(_) => Kind::Date,
            Datum::DateTime(_) => Kind::DateTime,
            Datum::Time(_) => Kind::Time,
        }
    }

    fn numeric(self) -> bool {
        matches!(self, Kind::Null | Kind::Int | Kind::UInt | Kind::Decimal | Kind::Double)
    }
}

/// Compiles an expression; `None` when it is not a simple one.
pub(super) fn compile(expr: &Expr, scope: &Scope<'_>) -> Option<Node> {
    compile_in(expr, scope, 0).map(|(node, _)| node)
}

/// Compiles a condition into its parts, all of which must hold.
pub(super) fn conjuncts(expr: &Expr, scope: &Scope<'_>) -> Option<Vec<Node>> {
    let (node, kind) = compile_in(expr, scope, 0)?;
    if !kind.numeric() {
        return None;
    }
    let (mut parts, mut rest) = (Vec::new(), vec![node]);
    while let Some(node) = rest.pop() {
        match node {
            Node::And(a, b) => rest.extend([*b, *a]),
            part => parts.push(part),
        }
    }
    Some(parts)
}

fn compile_in(expr: &Expr, scope: &Scope<'_>, depth: usize) -> Option<(Node, Kind)> {
    if depth > DEPTH_MAX {
        return None;
    }
    if let Some(datum) = constant(expr, scope) {
        let kind = Kind::of_datum(&datum);
        return Some((Node::Const(datum), kind));
    }
    let inner = |expr: &Expr| compile_in(expr, scope, depth + 1);
    let number = |expr: &Expr| inner(expr).filter(|(_, kind)| kind.numeric()).map(|(n, _)| n);
    let truth = |node| Some((node, Kind::Int));
    let column = |node: Node| {
        let (Node::Column(at) | Node::New(at)) = node else { return None };
        Some((node, Kind::of_type(&scope.table.columns[at].ty)))
    };
    match expr {
        Expr::Nested(expr) => inner(expr),
        Expr::Identifier(ident) => column(scope.resolve(std::slice::from_ref(ident))?),
        Expr::CompoundIdentifier(idents) => column(scope.resolve(idents)?),
        Expr::Function(function) => column(values_of(function, scope)?),
        Expr::IsNull(expr) => truth(Node::IsNull(Box::new(inner(expr)?.0), false)),
        Expr::IsNotNull(expr) => truth(Node::IsNull(Box::new(inner(expr)?.0), true)),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => truth(Node::Not(Box::new(number(expr)?))),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            truth(Node::And(Box::new(number(left)?), Box::new(number(right)?)))
        }
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
            truth(Node::Or(Box::new(number(left)?), Box::new(number(right)?)))
        }
        Expr::BinaryOp { left, op, right } => {
            let (left, right) = (inner(left)?, inner(right)?);
            match Comparison::of(op) {
                Some(op) => truth(compare_nodes(op, left, right, scope)?),
                None => compute_nodes(op, left, right),
            }
        }
        Expr::Between { expr, negated, low, high } => {
            let (value, low, high) = (inner(expr)?, inner(low)?, inner(high)?);
            let low = compare_nodes(Comparison::GreaterOrEqual, value.clone(), low, scope)?;
            let high = compare_nodes(Comparison::LessOrEqual, value, high, scope)?;
            let both = Node::And(Box::new(low), Box::new(high));
            truth(if *negated { Node::Not(Box::new(both)) } else { both })
        }
        Expr::InList { expr, list, negated } => {
            let (value, _) = inner(expr)?;
            let (Node::Column(at) | Node::New(at)) = value else { return None };
            let ty = &scope.table.columns[at].ty;
            let item = |e| coerce(constant(e, scope)?, ty, &scope.rules);
            let list = list.iter().map(item).collect::<Option<_>>()?;
            truth(Node::In(Box::new(value), list, *negated))
        }
        _ => None,
    }
}

fn compare_nodes(
    op: Comparison,
    left: (Node, Kind),
    right: (Node, Kind),
    scope: &Scope<'_>,
) -> Option<Node> {
    // A constant stands on the right.
    let (op, left, right) = match &left.0 {
        Node::Const(_) => (op.flipped(), right, left),
        _ => (op, left, right),
    };
    let right = match (&left.0, right) {
        (Node::Column(at) | Node::New(at), (Node::Const(datum), _)) => {
            let datum = coerce(datum, &scope.table.columns[*at].ty, &scope.rules)?;
            return Some(Node::Compare(op, Box::new(left.0), Box::new(Node::Const(datum))));
        }
        (_, right) => right,
    };
    let comparable = left.1.numeric() && right.1.numeric()
        || left.1 == right.1 && left.1 != Kind::Float
        || left.1 == Kind::Null
        || right.1 == Kind::Null;
    comparable.then(|| Node::Compare(op, Box::new(left.0), Box::new(right.0)))
}

fn compute_nodes(
    op: &BinaryOperator,
    left: (Node, Kind),
    right: (Node, Kind),
) -> Option<(Node, Kind)> {
    let arithmetic = match op {
        BinaryOperator::Plus => Arithmetic::Add,
        BinaryOperator::Minus => Arithmetic::Subtract,
        BinaryOperator::Multiply => Arithmetic::Multiply,
        _ => return None,
    };
    if !left.1.numeric() || !right.1.numeric() {
        return None;
    }
    let either = |kind| left.1 == kind || right.1 == kind;
    let kind = [Kind::Double, Kind::Decimal, Kind::UInt].into_iter().find(|k| either(*k));
    let node = Node::Compute(arithmetic, Box::new(left.0), Box::new(right.0));
    Some((node, kind.unwrap_or(Kind::Int)))
}

/// The only argument of a call.
pub(super) fn only_argument(function: &Function) -> Option<&Expr> {
    let FunctionArguments::List(list) = &function.args else { return None };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))] => Some(expr),
        _ => None,
    }
}

/// Is it a call of this function?
pub(super) fn is_call(function: &Function, name: &str) -> bool {
    let name_of = function.name.0.last().and_then(|part| part.as_ident());
    function.name.0.len() == 1 && name_of.is_some_and(|i| i.value.eq_ignore_ascii_case(name))
}

/// VALUES(column).
fn values_of(function: &Function, scope: &Scope<'_>) -> Option<Node> {
    scope.new?;
    if !is_call(function, "VALUES") {
        return None;
    }
    let name = match only_argument(function)? {
        Expr::Identifier(ident) => ident,
        Expr::CompoundIdentifier(idents) => idents.last()?,
        _ => return None,
    };
    scope.column(&name.value).map(Node::New)
}

/// A constant to compare a column of this type with; `None` when they do not compare plainly.
pub(super) fn coerce(datum: Datum, ty: &ColumnType, rules: &Rules) -> Option<Datum> {
    let number = |datum: Datum| match datum {
        Datum::Int(_) | Datum::UInt(_) | Datum::Decimal(_) | Datum::Double(_) => Some(datum),
        _ => None,
    };
    let local = |datum: &Datum| match datum {
        Datum::DateTime(us) => Some(*us),
        Datum::Date(days) => Some(i64::from(*days) * DAY),
        Datum::Text(text) => temporal::parse_datetime(text, rules.offset_us),
        _ => None,
    };
    if datum.is_null() {
        return Some(Datum::Null);
    }
    match (Kind::of_type(ty), datum) {
        (Kind::Int | Kind::UInt | Kind::Decimal, Datum::Text(text)) => {
            let decimal = Decimal::parse(text.trim())?;
            Some(Datum::Decimal(decimal))
        }
        (Kind::Double, Datum::Text(text)) => match leading_number(&text) {
            (v, true) => Some(Datum::Double(v)),
            _ => None,
        },
        (Kind::Int | Kind::UInt | Kind::Decimal | Kind::Double, datum) => number(datum),
        (Kind::Text, datum @ Datum::Text(_)) => Some(datum),
        (Kind::Bytes, Datum::Text(text)) => Some(Datum::Bytes(text.into_bytes())),
        (Kind::Bytes, datum @ Datum::Bytes(_)) => Some(datum),
        (Kind::Date, datum) => {
            let us = local(&datum)?;
            (us % DAY == 0).then(|| Datum::Date(us.div_euclid(DAY) as i32))
        }
        (Kind::DateTime, datum) => local(&datum).map(Datum::DateTime),
        (Kind::Timestamp, datum) => local(&datum).map(|us| Datum::DateTime(us - rules.offset_us)),
        (Kind::Time, datum @ Datum::Time(_)) => Some(datum),
        (Kind::Time, Datum::Text(text)) => temporal::parse_time(&text).map(Datum::Time),
        _ => None,
    }
}

/// The order of two values that compare plainly; `None` if either is NULL.
pub(super) fn compare(a: &Datum, b: &Datum) -> Option<Ordering> {
    match (a, b) {
        (Datum::Null, _) | (_, Datum::Null) => None,
        (Datum::Int(a), Datum::Int(b)) => Some(a.cmp(b)),
        (Datum::Text(a), Datum::Text(b)) => Some(a.cmp(b)),
        (Datum::Bytes(a), Datum::Bytes(b)) => Some(a.cmp(b)),
        (Datum::Date(a), Datum::Date(b)) => Some(a.cmp(b)),
        (Datum::DateTime(a), Datum::DateTime(b)) | (Datum::Time(a), Datum::Time(b)) => {
            Some(a.cmp(b))
        }
        _ => match (exact(a), exact(b)) {
            (Some(a), Some(b)) => compare_exact(a, b),
            _ => approximate(a)?.partial_cmp(&approximate(b)?),
        },
    }
}

fn compare_exact(a: Decimal, b: Decimal) -> Option<Ordering> {
    let scale = a.scale.max(b.scale);
    match (a.rescale(scale), b.rescale(scale)) {
        (Some(a), Some(b)) => Some(a.unscaled.cmp(&b.unscaled)),
        _ => a.to_f64().partial_cmp(&b.to_f64()),
    }
}

fn exact(value: &Datum) -> Option<Decimal> {
    match value {
        Datum::Int(v) => Some(Decimal { unscaled: i128::from(*v), scale: 0 }),
        Datum::UInt(v) => Some(Decimal { unscaled: i128::from(*v), scale: 0 }),
        Datum::Decimal(d) => Some(*d),
        _ => None,
    }
}

fn approximate(value: &Datum) -> Option<f64> {
    match value {
        Datum::Double(v) => Some(*v),
        value => exact(value).map(Decimal::to_f64),
    }
}

fn truth(value: &Datum) -> Option<bool> {
    match value {
        Datum::Int(v) => Some(*v != 0),
        Datum::UInt(v) => Some(*v != 0),
        Datum::Double(v) => Some(*v != 0.0),
        Datum::Decimal(v) => Some(v.unscaled != 0),
        _ => None,
    }
}

fn datum(truth: Option<bool>) -> Datum {
    truth.map_or(Datum::Null, |v| Datum::Int(i64::from(v)))
}

fn compute(op: Arithmetic, a: &Datum, b: &Datum) -> Result<Datum> {
    let overflow = |what: &str| {
        Error::expression_out_of_range(format!("{what} value is out of range in an expression"))
    };
    if a.is_null() || b.is_null() {
        return Ok(Datum::Null);
    }
    let (Some(x), Some(y)) = (exact(a), exact(b)) else {
        let (Some(x), Some(y)) = (approximate(a), approximate(b)) else { return Ok(Datum::Null) };
        let v = match op {
            Arithmetic::Add => x + y,
            Arithmetic::Subtract => x - y,
            Arithmetic::Multiply => x * y,
        };
        return if v.is_finite() { Ok(Datum::Double(v)) } else { Err(overflow("DOUBLE")) };
    };
    let result = match op {
        Arithmetic::Multiply => x.unscaled.checked_mul(y.unscaled).and_then(|unscaled| {
            let scale = x.scale.checked_add(y.scale)?;
            Some(Decimal { unscaled, scale })
        }),
        _ => {
            let scale = x.scale.max(y.scale);
            let pair = x.rescale(scale).zip(y.rescale(scale));
            pair.and_then(|(x, y)| match op {
                Arithmetic::Add => x.unscaled.checked_add(y.unscaled),
                _ => x.unscaled.checked_sub(y.unscaled),
            })
            .map(|unscaled| Decimal { unscaled, scale })
        }
    };
    let limit = 10i128.pow(u32::from(damask_types::datum::DECIMAL_PRECISION_MAX));
    let fits = |d: &Decimal| d.unscaled.abs() < limit;
    match (a, b) {
        (Datum::Decimal(_), _) | (_, Datum::Decimal(_)) => {
            result.filter(fits).map(Datum::Decimal).ok_or_else(|| overflow("DECIMAL"))
        }
        (Datum::UInt(_), _) | (_, Datum::UInt(_)) => {
            let v = result.and_then(|d| u64::try_from(d.unscaled).ok());
            v.map(Datum::UInt).ok_or_else(|| overflow("BIGINT UNSIGNED"))
        }
        _ => {
            let v = result.and_then(|d| i64::try_from(d.unscaled).ok());
            v.map(Datum::Int).ok_or_else(|| overflow("BIGINT"))
        }
    }
}

impl Node {
    /// Its value for a row (and the row that could not be inserted).
    pub fn eval(&self, row: &[Datum], new: &[Datum]) -> Result<Datum> {
        Ok(match self {
            Node::Const(datum) => datum.clone(),
            Node::Column(at) => row[*at].clone(),
            Node::New(at) => new[*at].clone(),
            Node::Compute(op, a, b) => compute(*op, &a.eval(row, new)?, &b.eval(row, new)?)?,
            _ => datum(self.test(row, new)?),
        })
    }

    /// Its truth; `None` = unknown.
    pub fn test(&self, row: &[Datum], new: &[Datum]) -> Result<Option<bool>> {
        Ok(match self {
            Node::Compare(op, a, b) => {
                // The usual shape, without copies.
                let order = match (a.as_ref(), b.as_ref()) {
                    (Node::Column(at), Node::Const(b)) => compare(&row[*at], b),
                    (a, b) => compare(&a.eval(row, new)?, &b.eval(row, new)?),
                };
                order.map(|order| op.holds(order))
            }
            Node::In(value, list, negated) => {
                let value = value.eval(row, new)?;
                let found = list.iter().any(|item| compare(&value, item) == Some(Ordering::Equal));
                let unknown = value.is_null() || list.iter().any(Datum::is_null);
                if !found && unknown { None } else { Some(found != *negated) }
            }
            Node::IsNull(value, negated) => Some(value.eval(row, new)?.is_null() != *negated),
            Node::And(a, b) => match a.test(row, new)? {
                Some(false) => Some(false),
                Some(true) => b.test(row, new)?,
                None => b.test(row, new)?.filter(|b| !*b),
            },
            Node::Or(a, b) => match a.test(row, new)? {
                Some(true) => Some(true),
                Some(false) => b.test(row, new)?,
                None => b.test(row, new)?.filter(|b| *b),
            },
            Node::Not(a) => a.test(row, new)?.map(|a| !a),
            Node::Const(_) | Node::Column(_) | Node::New(_) | Node::Compute(..) => {
                truth(&self.eval(row, new)?)
            }
        })
    }

    /// The type of its values, where it is a column's.
    pub fn source<'t>(&self, table: &'t TableSchema) -> Option<&'t ColumnType> {
        match self {
            Node::Column(at) | Node::New(at) => Some(&table.columns[*at].ty),
            _ => None,
        }
    }
}

/// Do all parts hold for a row?
pub(super) fn all_hold(parts: &[Node], row: &[Datum]) -> Result<bool> {
    for part in parts {
        if part.test(row, &[])? != Some(true) {
            return Ok(false);
        }
    }
    Ok(true)
}
