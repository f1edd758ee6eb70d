//! MySQL's syntax and names, rewritten into what DataFusion plans, before any type is known:
//! names in lower case, session values as constants, conditions that are not boolean wrapped,
//! MySQL's functions by the names of ours. What needs types is in `operators`. It must never
//! change a query that runs the same without it.

mod checks;
mod functions;
mod literals;
mod select;
mod tuples;
mod with;

use crate::error::{Error, Result};
use crate::query::QueryContext;
use crate::statement::UNITS;
use damask_types::Datum;
use literals::{bits, literal, typed_text};
use sqlparser::ast::*;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// The hidden column that holds a row's handle.
pub const HANDLE_COLUMN: &str = "_damask_handle";

/// What a rewrite found out on its way.
#[derive(Debug, Default)]
pub struct Found {
    /// The hidden handle column is named somewhere.
    pub handle: bool,
    /// Tables and what they are called, both in lower case: hints name the latter.
    pub aliases: Vec<(String, String)>,
    /// What columns are called as written, by their names in lower case.
    pub columns: HashMap<String, String>,
}

/// Rewrites a query in place.
pub fn query(context: &QueryContext<'_>, query: &mut Query) -> Result<Found> {
    let mut rewriter = Rewriter { context, found: Found::default(), scopes: Vec::new() };
    match query.visit(&mut rewriter) {
        ControlFlow::Continue(()) => Ok(rewriter.found),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rewriter<'a> {
    context: &'a QueryContext<'a>,
    found: Found,
    /// Tables of the SELECTs around, the innermost last.
    scopes: Vec<tuples::Scope<'a>>,
}

type Flow = ControlFlow<Error>;

fn lower(ident: &mut Ident) {
    if ident.value.bytes().any(|b| b.is_ascii_uppercase()) || !ident.value.is_ascii() {
        ident.value = ident.value.to_lowercase();
    }
    // Whatever the quotes were: a name from here on.
    ident.quote_style = Some('`');
}

fn lower_name(name: &mut ObjectName) {
    for part in &mut name.0 {
        if let ObjectNamePart::Identifier(ident) = part {
            lower(ident);
        }
    }
}

fn lower_alias(alias: &mut Option<TableAlias>) {
    if let Some(alias) = alias {
        lower(&mut alias.name);
        alias.columns.iter_mut().for_each(|c| lower(&mut c.name));
    }
}

impl VisitorMut for Rewriter<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> Flow {
        if let Some(with) = &mut query.with {
            for cte in &mut with.cte_tables {
                let mut alias = Some(cte.alias.clone());
                lower_alias(&mut alias);
                cte.alias = alias.expect("it was just put there");
            }
        }
        query.locks.clear();
        match checks::order(query).and_then(|()| with::prepare(query)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> Flow {
        for item in &select.projection {
            if let SelectItem::ExprWithAlias { alias, .. } = item {
                let written = &alias.value;
                self.found.columns.entry(written.to_lowercase()).or_insert(written.clone());
            }
        }
        self.scopes.push(tuples::Scope::new(self.context, &select.from));
        let checked = checks::select(select);
        match checked.and_then(|()| select::prepare(self.context, select)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_select(&mut self, select: &mut Select) -> Flow {
        select::finish(select);
        self.scopes.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> Flow {
        lower_name(relation);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> Flow {
        if let Err(error) = checks::factor(self.context, factor) {
            return ControlFlow::Break(error);
        }
        match factor {
            TableFactor::Table { name, alias, index_hints, partitions, with_hints, .. } => {
                lower_alias(alias);
                let table = name.0.last().and_then(|part| part.as_ident());
                if let (Some(table), Some(alias)) = (table, alias) {
                    let names = (table.value.to_lowercase(), alias.name.value.clone());
                    self.found.aliases.push(names);
                }
                index_hints.clear();
                partitions.clear();
                with_hints.clear();
            }
            TableFactor::Derived { alias, .. } | TableFactor::NestedJoin { alias, .. } => {
                lower_alias(alias);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> Flow {
        let is_unit = |name: &str| matches!(name, "timestampdiff" | "timestampadd" | "get_format");
        if let Expr::Function(function) = expr {
            // A unit is parsed as a column: make it a text before names are looked at.
            let name = function.name.to_string().to_ascii_lowercase();
            if is_unit(&name) {
                functions::unit_to_text(function);
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> Flow {
        match self.rewrite(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Rewriter<'_> {
    fn rewrite(&mut self, expr: &mut Expr) -> Result<()> {
        match expr {
            Expr::Identifier(ident) => {
                if let Some(value) = self.variable(std::slice::from_ref(ident))? {
                    *expr = value;
                    return Ok(());
                }
                if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("current_user") {
                    *expr = text(&self.context.session.user_at_host());
                    return Ok(());
                }
                lower(ident);
                self.found.handle |= ident.value == HANDLE_COLUMN;
            }
            Expr::CompoundIdentifier(idents) => {
                if let Some(value) = self.variable(idents)? {
                    *expr = value;
                    return Ok(());
                }
                idents.iter_mut().for_each(lower);
                self.found.handle |= idents.last().is_some_and(|i| i.value == HANDLE_COLUMN);
            }
            Expr::Value(value) => {
                if let Some(new) = literal(value)? {
                    *expr = new;
                }
            }
            Expr::Function(function) => {
                let new = match functions::default_column(function) {
                    Some(column) => Some(self.default_of(&column)?),
                    None => functions::rewrite(self.context, function)?,
                };
                if let Some(new) = new {
                    *expr = new;
                }
            }
            _ => {
                if let Some(new) = self.shape(expr)? {
                    *expr = new;
                }
            }
        }
        Ok(())
    }

    /// DEFAULT(column), of the innermost SELECT that has it.
    fn default_of(&self, column: &[Ident]) -> Result<Expr> {
        match self.scopes.iter().rev().find_map(|scope| scope.default_of(column)) {
            Some(value) => Ok(constant(&value?)),
            None => {
                let name = column.iter().map(|i| i.value.as_str()).collect::<Vec<_>>().join(".");
                Err(Error::unknown_column(format!("Unknown column '{name}' in 'field list'")))
            }
        }
    }

    /// `@x`, `@@x`, `@@session.x`, `@@global.x` as constants; `None`: not a variable.
    fn variable(&self, idents: &[Ident]) -> Result<Option<Expr>> {
        let first = &idents[0];
        if first.quote_style.is_some() {
            return Ok(None);
        }
        let Some(name) = first.value.strip_prefix('@') else { return Ok(None) };
        let Some(name) = name.strip_prefix('@') else {
            let variables = &self.context.session.user_variables;
            let value = variables.get(&name.to_lowercase());
            return Ok(Some(constant(value.unwrap_or(&Datum::Null))));
        };
        let variables = self.context.variables;
        let (global, name) = match (name.to_ascii_lowercase().as_str(), idents.get(1)) {
            ("global", Some(second)) => (true, second.value.as_str()),
            ("session" | "local", Some(second)) => (false, second.value.as_str()),
            _ => (false, name),
        };
        let value = if global { variables.get_global(name) } else { variables.get(name) };
        match value {
            Some(value) => Ok(Some(constant(&value))),
            None => Err(Error::unknown_variable(format!("Unknown system variable '{name}'"))),
        }
    }

    /// Everything but names, literals and calls.
    fn shape(&self, expr: &mut Expr) -> Result<Option<Expr>> {
        let take = |e: &mut Box<Expr>| std::mem::replace(&mut **e, null());
        Ok(match expr {
            Expr::BinaryOp { left, op, right } => {
                let pipes = self.context.variables.sql_mode().has("PIPES_AS_CONCAT");
                let (left, mut right) = (take(left), take(right));
                if divides(op) {
                    right = divisor(self.context, right);
                }
                binary(left, op.clone(), right, pipes)?
            }
            Expr::UnaryOp { op: UnaryOperator::Not | UnaryOperator::BangNot, expr } => {
                let inner = Box::new(as_bool(take(expr)));
                Some(Expr::UnaryOp { op: UnaryOperator::Not, expr: inner })
            }
            Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner } if !is_number(inner) => {
                Some(operation(number(0), BinaryOperator::Minus, take(inner)))
            }
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } => Some(take(expr)),
            Expr::UnaryOp { op: UnaryOperator::BitwiseNot, expr } => {
                Some(call("__bit_not", vec![bits(take(expr))]))
            }
            Expr::Between { expr, negated, low, high } => {
                let value = take(expr);
                let low = operation(value.clone(), BinaryOperator::GtEq, take(low));
                let high = operation(value, BinaryOperator::LtEq, take(high));
                let both = nested(operation(low, BinaryOperator::And, high));
                Some(if *negated { not(both) } else { both })
            }
            Expr::InList { expr, list, negated } if matches!(**expr, Expr::Tuple(_)) => {
                tuples::in_list(expr, list, *negated)?
            }
            Expr::InSubquery { expr, subquery, negated } => match &**expr {
                Expr::Tuple(values) => Some(tuples::as_value(values, subquery, *negated)?),
                _ => None,
            },
            Expr::Case { operand, conditions, else_result, .. } => {
                let operand = operand.take();
                for when in conditions.iter_mut() {
                    let condition = std::mem::replace(&mut when.condition, null());
                    when.condition = match &operand {
                        Some(operand) => {
                            operation((**operand).clone(), BinaryOperator::Eq, condition)
                        }
                        None => as_bool(condition),
                    };
                }
                let _ = else_result;
                None
            }
            Expr::Like { pattern, escape_char, .. } => {
                if let Some(escape) = escape_char.take() {
                    let pattern = &mut **pattern;
                    *pattern = like_pattern(std::mem::replace(pattern, null()), escape)?;
                }
                None
            }
            Expr::RLike { negated, expr, pattern, .. } => {
                let found = call("__regexp", vec![take(expr), take(pattern)]);
                Some(if *negated { not(found) } else { found })
            }
            Expr::IsTrue(e) => Some(Expr::IsTrue(Box::new(as_bool(take(e))))),
            Expr::IsNotTrue(e) => Some(Expr::IsNotTrue(Box::new(as_bool(take(e))))),
            Expr::IsFalse(e) => Some(Expr::IsFalse(Box::new(as_bool(take(e))))),
            Expr::IsNotFalse(e) => Some(Expr::IsNotFalse(Box::new(as_bool(take(e))))),
            Expr::IsUnknown(e) => Some(Expr::IsNull(Box::new(take(e)))),
            Expr::IsNotUnknown(e) => Some(Expr::IsNotNull(Box::new(take(e)))),
            Expr::Collate { expr, collation } => {
                checks::collation(collation)?;
                Some(take(expr))
            }
            Expr::Prefixed { value, .. } => Some(take(value)),
            Expr::Cast { expr, data_type, .. } => Some(cast(take(expr), data_type)?),
            Expr::Convert { expr, data_type: Some(ty), .. } => Some(cast(take(expr), ty)?),
            Expr::Convert { expr, charset, .. } => {
                charset.as_ref().map_or(Ok(()), checks::charset)?;
                Some(call("__cast_char", vec![take(expr)]))
            }
            Expr::TypedString(typed) => typed_text(typed)?,
            expr => spelled_call(expr)?,
        })
    }
}

/// Functions whose arguments are written with words of their own.
fn spelled_call(expr: &mut Expr) -> Result<Option<Expr>> {
    let take = |e: &mut Box<Expr>| std::mem::replace(&mut **e, null());
    Ok(match expr {
        Expr::Extract { field, expr, .. } => {
            let unit = field.to_string().to_uppercase();
            if !UNITS.contains(&unit.as_str()) {
                return Err(Error::parse(format!("EXTRACT knows no unit '{unit}'")));
            }
            Some(call("__extract", vec![text(&unit), take(expr)]))
        }
        Expr::Ceil { expr, .. } => Some(call("ceiling", vec![take(expr)])),
        Expr::Floor { expr, .. } => Some(call("floor", vec![take(expr)])),
        Expr::Position { expr, r#in } => Some(call("locate", vec![take(expr), take(r#in)])),
        Expr::Substring { expr, substring_from, substring_for, .. } => {
            let mut args = vec![take(expr)];
            args.push(substring_from.as_mut().map_or_else(|| number(1), take));
            args.extend(substring_for.as_mut().map(take));
            Some(call("substring", args))
        }
        Expr::Trim { expr, trim_where, trim_what, .. } => {
            let name = match trim_where {
                Some(TrimWhereField::Leading) => "ltrim",
                Some(TrimWhereField::Trailing) => "rtrim",
                _ => "trim",
            };
            let mut args = vec![take(expr)];
            args.extend(trim_what.as_mut().map(take));
            Some(call(name, args))
        }
        _ => None,
    })
}

/// Rewrites an operation on rewritten operands; `None` never happens for one that was taken apart.
fn binary(left: Expr, op: BinaryOperator, right: Expr, pipes: bool) -> Result<Option<Expr>> {
    use BinaryOperator as B;
    let interval = |x: Expr, interval: Interval, name: &str| {
        let unit = interval.leading_field.map(|f| f.to_string().to_uppercase());
        call(name, vec![x, *interval.value, text(&unit.unwrap_or_default())])
    };
    Ok(Some(match (op, left, right) {
        (B::Plus, x, Expr::Interval(i)) | (B::Plus, Expr::Interval(i), x) => {
            interval(x, i, "__date_add")
        }
        (B::Minus, x, Expr::Interval(i)) => interval(x, i, "__date_sub"),
        (B::StringConcat, x, y) if pipes => call("concat", vec![x, y]),
        (B::StringConcat | B::Or, x, y) => operation(as_bool(x), B::Or, as_bool(y)),
        (B::And | B::PGOverlap, x, y) => operation(as_bool(x), B::And, as_bool(y)),
        (B::Xor, x, y) => nested(operation(as_bool(x), B::NotEq, as_bool(y))),
        (B::BitwiseAnd, x, y) => call("__bit_and", vec![bits(x), bits(y)]),
        (B::BitwiseOr, x, y) => call("__bit_or", vec![bits(x), bits(y)]),
        (B::BitwiseXor, x, y) => call("__bit_xor", vec![bits(x), bits(y)]),
        (B::PGBitwiseShiftLeft, x, y) => call("__shift_left", vec![bits(x), bits(y)]),
        (B::PGBitwiseShiftRight, x, y) => call("__shift_right", vec![bits(x), bits(y)]),
        (op @ (B::Eq | B::NotEq | B::Spaceship), Expr::Tuple(row), Expr::Subquery(query))
        | (op @ (B::Eq | B::NotEq | B::Spaceship), Expr::Subquery(query), Expr::Tuple(row)) => {
            tuples::with_row(&row, &query, &op)?
        }
        (op @ (B::Eq | B::NotEq | B::Spaceship), x, y) => match tuples::compared(&x, &y, &op)? {
            Some(expr) => expr,
            None => operation(x, op, y),
        },
        (op, x, y) => operation(x, op, y),
    }))
}

/// A pattern with an escape of its own as one with `\`.
fn like_pattern(pattern: Expr, escape: ValueWithSpan) -> Result<Expr> {
    let escape = escape.value.into_string().unwrap_or_default();
    if escape.chars().count() > 1 {
        let message = "Incorrect arguments to ESCAPE".to_owned();
        return Err(Error { code: 1210, state: "HY000", message });
    }
    Ok(match escape.as_str() {
        "\\" => pattern,
        escape => call("__like_pattern", vec![pattern, text(escape)]),
    })
}

/// CAST by one of our functions.
fn cast(expr: Expr, ty: &DataType) -> Result<Expr> {
    use DataType as T;
    let name = |name: &str, args: Vec<Expr>| Ok(call(name, args));
    let fsp = |n: &Option<u64>| number(n.unwrap_or(0) as i64);
    let decimal = |info: &ExactNumberInfo| match info {
        ExactNumberInfo::None => (10, 0),
        ExactNumberInfo::Precision(p) => (*p as i64, 0),
        ExactNumberInfo::PrecisionAndScale(p, s) => (*p as i64, *s),
    };
    let length = |n: &Option<CharacterLength>| match n {
        Some(CharacterLength::IntegerLength { length, .. }) => Some(*length as i64),
        _ => None,
    };
    match ty {
        T::Signed | T::SignedInteger | T::Int(_) | T::Integer(_) | T::BigInt(_) => {
            name("__cast_signed", vec![bits(expr)])
        }
        T::SmallInt(_) | T::TinyInt(_) | T::MediumInt(_) => name("__cast_signed", vec![bits(expr)]),
        T::Unsigned | T::UnsignedInteger => name("__cast_unsigned", vec![bits(expr)]),
        T::BigIntUnsigned(_) | T::IntUnsigned(_) => name("__cast_unsigned", vec![bits(expr)]),
        T::Char(n) | T::Character(n) | T::Varchar(n) | T::Nvarchar(n) => {
            let mut args = vec![expr];
            args.extend(length(n).map(number));
            name("__cast_char", args)
        }
        T::Text | T::String(_) | T::JSON => name("__cast_char", vec![expr]),
        T::Binary(_) | T::Varbinary(_) | T::Blob(_) => name("__cast_binary", vec![expr]),
        T::Decimal(info) | T::Dec(info) | T::Numeric(info) => {
            let (precision, scale) = decimal(info);
            name("__cast_decimal", vec![expr, number(precision), number(scale)])
        }
        T::Double(_) | T::DoublePrecision | T::Float(_) | T::Real => {
            name("__cast_double", vec![expr])
        }
        T::Date => name("__cast_date", vec![expr]),
        T::Datetime(n) | T::Timestamp(n, _) => name("__cast_datetime", vec![expr, fsp(n)]),
        T::Time(n, _) => name("__cast_time", vec![expr, fsp(n)]),
        T::Custom(custom, _) if custom.to_string().eq_ignore_ascii_case("year") => {
            name("__cast_signed", vec![expr])
        }
        other => Err(Error::parse(format!("You cannot CAST to {other}"))),
    }
}

/// Is the expression boolean whatever its operands are?
fn is_bool(expr: &Expr) -> bool {
    use BinaryOperator as B;
    match expr {
        Expr::BinaryOp { op, .. } => matches!(
            op,
            B::Eq | B::NotEq | B::Lt | B::LtEq | B::Gt | B::GtEq | B::Spaceship | B::And | B::Or
        ),
        Expr::UnaryOp { op, .. } => *op == UnaryOperator::Not,
        Expr::Nested(inner) => is_bool(inner),
        Expr::Value(value) => matches!(value.value, Value::Boolean(_)),
        Expr::Function(f) => matches!(f.name.to_string().as_str(), "__truth" | "__regexp"),
        Expr::IsTrue(_) | Expr::IsNotTrue(_) | Expr::IsFalse(_) | Expr::IsNotFalse(_) => true,
        Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::InList { .. } | Expr::InSubquery { .. } => {
            true
        }
        Expr::Like { .. } | Expr::Exists { .. } | Expr::Between { .. } => true,
        Expr::AnyOp { .. } | Expr::AllOp { .. } => true,
        _ => false,
    }
}

/// The expression as a condition.
fn as_bool(expr: Expr) -> Expr {
    if is_bool(&expr) {
        return expr;
    }
    if let Expr::Value(ValueWithSpan { value: Value::Number(n, _), .. }) = &expr {
        let truth = n.parse::<f64>().is_ok_and(|v| v != 0.0);
        return value_of(Value::Boolean(truth));
    }
    call("__truth", vec![expr])
}

fn value_of(value: Value) -> Expr {
    Expr::Value(value.with_empty_span())
}

fn null() -> Expr {
    value_of(Value::Null)
}

fn number(n: i64) -> Expr {
    value_of(Value::Number(n.to_string(), false))
}

fn text(s: &str) -> Expr {
    value_of(Value::SingleQuotedString(s.to_owned()))
}

fn divides(op: &BinaryOperator) -> bool {
    use BinaryOperator as B;
    matches!(op, B::Divide | B::Modulo | B::MyIntegerDivide)
}

/// What is divided by: where it may be zero, that is an error or worth a warning.
fn divisor(context: &QueryContext<'_>, expr: Expr) -> Expr {
    match () {
        () if is_number_but_0(&expr) => expr,
        () if context.session.strict_division => call("__nonzero", vec![expr]),
        () if context.variables.sql_mode().error_for_division_by_zero() => {
            call(crate::query::functions::DIVISOR, vec![expr])
        }
        () => expr,
    }
}

fn is_number_but_0(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(expr) | Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
            is_number_but_0(expr)
        }
        Expr::Value(ValueWithSpan { value: Value::Number(n, _), .. }) => {
            n.parse::<f64>().is_ok_and(|n| n != 0.0)
        }
        _ => false,
    }
}

fn is_number(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(ValueWithSpan { value: Value::Number(..), .. }))
}

fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

fn not(expr: Expr) -> Expr {
    Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) }
}

fn operation(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::with_quote('`', name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// A value of the session as an expression.
pub(super) fn constant(value: &Datum) -> Expr {
    match value {
        Datum::Null => null(),
        Datum::Int(v) => number(*v),
        Datum::UInt(v) => value_of(Value::Number(v.to_string(), false)),
        Datum::Double(v) => call("__cast_double", vec![text(&v.to_string())]),
        Datum::Decimal(v) => {
            let digits = v.unscaled.unsigned_abs().to_string().len().max(usize::from(v.scale));
            let (precision, scale) = (digits.clamp(1, 38) as i64, i64::from(v.scale));
            call("__cast_decimal", vec![text(&v.to_string()), number(precision), number(scale)])
        }
        Datum::Text(v) => text(v),
        Datum::Bytes(v) => {
            let hex: String = v.iter().map(|b| format!("{b:02x}")).collect();
            value_of(Value::HexStringLiteral(hex))
        }
        Datum::Date(v) => call("__date", vec![number((*v).into())]),
        Datum::DateTime(v) => {
            let fsp = crate::convert::calendar::natural_fsp(*v);
            call("__datetime", vec![number(*v), number(fsp.into())])
        }
        Datum::Time(v) => {
            let fsp = crate::convert::calendar::natural_fsp(*v);
            call("__time", vec![number(*v), number(fsp.into())])
        }
    }
}
