//! MySQL's functions by the names of ours, and those that the session answers as constants. It
//! must never rename what has a window.

use super::{as_bool, call, constant, divisor, nested, null, number, operation, text};
use crate::convert::calendar::{DAY, SECOND};
use crate::error::{Error, Result};
use crate::query::QueryContext;
use crate::statement::params;
use damask_types::{Datum, Timestamp};
use sqlparser::ast::*;

const AGGREGATES: [&str; 20] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "group_concat",
    "std",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "variance",
    "var_pop",
    "var_samp",
    "bit_and",
    "bit_or",
    "bit_xor",
    "any_value",
    "approx_count_distinct",
    "approx_percentile",
    "json_arrayagg",
];

/// Is it an aggregate when it has no window?
pub(super) fn is_aggregate(name: &ObjectName) -> bool {
    let name = name.to_string();
    AGGREGATES.iter().any(|a| name.eq_ignore_ascii_case(a))
}

/// MySQL's name → the name planned.
fn renamed(name: &str) -> &str {
    match name {
        "ucase" => "upper",
        "lcase" => "lower",
        "substr" | "mid" => "substring",
        "character_length" => "char_length",
        "octet_length" => "length",
        "ceil" => "ceiling",
        "power" => "pow",
        "day" => "dayofmonth",
        "ifnull" => "coalesce",
        "sha" => "sha1",
        "std" | "stddev" => "stddev_pop",
        "variance" => "var_pop",
        "any_value" => "first_value",
        "date" => "__cast_date",
        "time" => "__cast_time",
        "position" => "locate",
        "approx_count_distinct" => "approx_distinct",
        other => other,
    }
}

/// The first argument, a bare unit name, as a text in upper case.
pub(super) fn unit_to_text(function: &mut Function) {
    let FunctionArguments::List(list) = &mut function.args else { return };
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(unit))) = list.args.first_mut() else {
        return;
    };
    if let Expr::Identifier(ident) = unit {
        let name = ident.value.to_uppercase();
        *unit = text(name.strip_prefix("SQL_TSI_").unwrap_or(&name));
    }
}

fn arguments(function: &Function) -> Option<Vec<Expr>> {
    match &function.args {
        FunctionArguments::None => Some(Vec::new()),
        FunctionArguments::List(list) => {
            let args = list.args.iter().map(|arg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e.clone()),
                _ => None,
            });
            args.collect()
        }
        FunctionArguments::Subquery(_) => None,
    }
}

/// The call in another form; `None`: the (renamed) call itself stands.
pub(super) fn rewrite(ctx: &QueryContext<'_>, function: &mut Function) -> Result<Option<Expr>> {
    let name = match function.name.0.as_slice() {
        [ObjectNamePart::Identifier(ident)] => ident.value.to_ascii_lowercase(),
        _ => function.name.to_string().replace('`', "").to_ascii_lowercase(),
    };
    if let Some(args) = arguments(function)
        && function.over.is_none()
    {
        if let Some(value) = session_value(ctx, &name, &args)? {
            return Ok(Some(value));
        }
        if let Some(new) = reshaped(ctx, &name, args)? {
            return Ok(Some(new));
        }
    }
    match name.as_str() {
        "group_concat" => group_concat(function),
        "count" => count_of_several(function),
        name => rename(function, renamed(name)),
    }
    Ok(None)
}

fn rename(function: &mut Function, name: &str) {
    function.name = ObjectName::from(vec![Ident::with_quote('`', name)]);
}

/// What the session knows.
fn session_value(ctx: &QueryContext<'_>, name: &str, args: &[Expr]) -> Result<Option<Expr>> {
    let facts = ctx.session;
    let offset = ctx.variables.time_zone_offset_us();
    let local = facts.now_us + offset;
    let fsp = || match args.first() {
        Some(Expr::Value(v)) => v.value.to_string().parse::<u32>().unwrap_or(0).min(6),
        _ => 0,
    };
    let cut = |micros: i64| {
        let unit = 10i64.pow(6 - fsp());
        micros.div_euclid(unit) * unit
    };
    let moment = |micros: i64| call("__datetime", vec![number(cut(micros)), number(fsp().into())]);
    let clock = |micros: i64| {
        call("__time", vec![number(cut(micros.rem_euclid(DAY))), number(fsp().into())])
    };
    let datum = match name {
        "version" => Datum::Text(crate::variables::VERSION.to_owned()),
        "database" | "schema" => match ctx.database {
            Some(name) => Datum::Text(name.to_owned()),
            None => Datum::Null,
        },
        "user" | "current_user" | "session_user" | "system_user" => {
            Datum::Text(facts.user_at_host())
        }
        "current_role" => Datum::Text("NONE".to_owned()),
        "connection_id" => Datum::UInt(facts.connection_id.into()),
        "last_insert_id" if args.is_empty() => Datum::UInt(facts.last_insert_id),
        "row_count" => Datum::Int(facts.row_count),
        "found_rows" => Datum::UInt(facts.found_rows),
        "tidb_version" => Datum::Text(crate::variables::VERSION_COMMENT.to_owned()),
        "now" | "current_timestamp" | "localtime" | "localtimestamp" | "sysdate" => {
            return Ok(Some(moment(local)));
        }
        "utc_timestamp" => return Ok(Some(moment(facts.now_us))),
        "curdate" | "current_date" => Datum::Date(local.div_euclid(DAY) as i32),
        "utc_date" => Datum::Date(facts.now_us.div_euclid(DAY) as i32),
        "curtime" | "current_time" => return Ok(Some(clock(local))),
        "utc_time" => return Ok(Some(clock(facts.now_us))),
        "unix_timestamp" if args.is_empty() => Datum::Int(facts.now_us.div_euclid(SECOND)),
        _ => return Ok(None),
    };
    Ok(Some(constant(&datum)))
}

/// The column of DEFAULT(column).
pub(super) fn default_column(function: &Function) -> Option<Vec<Ident>> {
    if !function.name.to_string().eq_ignore_ascii_case("default") {
        return None;
    }
    match arguments(function)?.pop()? {
        Expr::Identifier(ident) => Some(vec![ident]),
        Expr::CompoundIdentifier(idents) => Some(idents),
        _ => None,
    }
}

fn wrong_count(name: &str) -> Error {
    let message = format!("Incorrect parameter count in the call to native function '{name}'");
    Error { code: 1582, state: "42000", message }
}

/// Calls that are something else.
fn reshaped(ctx: &QueryContext<'_>, name: &str, mut args: Vec<Expr>) -> Result<Option<Expr>> {
    let zone = || number(ctx.variables.time_zone_offset_us());
    let shift = |name: &str, mut args: Vec<Expr>| match (args.pop(), args.pop()) {
        (Some(Expr::Interval(i)), Some(x)) => {
            let unit = i.leading_field.map(|f| f.to_string().to_uppercase());
            Ok(call(name, vec![x, *i.value, text(&unit.unwrap_or_default())]))
        }
        (Some(days), Some(x)) => Ok(call(name, vec![x, days, text("DAY")])),
        _ => Err(wrong_count(name)),
    };
    Ok(Some(match (name, args.len()) {
        ("if", 3) => {
            let otherwise = args.pop().unwrap_or_else(null);
            let then = args.pop().unwrap_or_else(null);
            let condition = as_bool(args.pop().unwrap_or_else(null));
            case(condition, then, otherwise)
        }
        ("nullif", 2) => {
            let other = args.pop().unwrap_or_else(null);
            let value = args.pop().unwrap_or_else(null);
            case(operation(value.clone(), BinaryOperator::Eq, other), null(), value)
        }
        ("if", _) | ("nullif", _) => return Err(wrong_count(name)),
        ("isnull", 1) => nested(Expr::IsNull(Box::new(args.remove(0)))),
        ("mod", 2) => {
            let right = divisor(ctx, args.pop().unwrap_or_else(null));
            let left = args.pop().unwrap_or_else(null);
            nested(operation(left, BinaryOperator::Modulo, right))
        }
        ("date_add" | "adddate", 2) => shift("__date_add", args)?,
        ("date_sub" | "subdate", 2) => shift("__date_sub", args)?,
        ("timestampadd", 3) => {
            let unit = args.remove(0);
            let amount = args.remove(0);
            call("__date_add", vec![args.remove(0), amount, unit])
        }
        ("unix_timestamp", 1) => {
            args.push(zone());
            call(name, args)
        }
        ("from_unixtime", 1 | 2) => {
            args.insert(1, zone());
            call(name, args)
        }
        // The time of a timestamp of the oracle.
        ("tidb_parse_tso", 1) => match params::literal(&args[0]) {
            Some(Datum::Int(ts)) if ts > 0 => {
                let ms = Timestamp(ts as u64).physical_ms() as i64;
                let local = ms * (SECOND / 1_000) + ctx.variables.time_zone_offset_us();
                call("__datetime", vec![number(local), number(6)])
            }
            _ => null(),
        },
        ("last_insert_id", 1) => call("__cast_unsigned", args),
        ("char_length" | "character_length", 1) => call("char_length", args),
        ("log", 1) => call("ln", args),
        _ => return Ok(None),
    }))
}

fn case(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    Expr::Case {
        case_token: sqlparser::ast::helpers::attached_token::AttachedToken::empty(),
        end_token: sqlparser::ast::helpers::attached_token::AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: then }],
        else_result: Some(Box::new(otherwise)),
    }
}

/// `GROUP_CONCAT(x, y ORDER BY z SEPARATOR s)` as `string_agg(text, s ORDER BY z)`.
fn group_concat(function: &mut Function) {
    rename(function, "string_agg");
    let FunctionArguments::List(list) = &mut function.args else { return };
    let mut separator = ",".to_owned();
    list.clauses.retain(|clause| match clause {
        FunctionArgumentClause::Separator(value) => {
            if let Some(s) = value.value.clone().into_string() {
                separator = s;
            }
            false
        }
        _ => true,
    });
    let values = std::mem::take(&mut list.args).into_iter().filter_map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e),
        _ => None,
    });
    let mut values: Vec<Expr> = values.collect();
    let value = match values.len() {
        1 => call("__cast_char", vec![values.remove(0)]),
        _ => call("concat", values),
    };
    let argument = |e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e));
    list.args = vec![argument(value), argument(text(&separator))];
}

/// `COUNT(DISTINCT a, b)` counts tuples.
fn count_of_several(function: &mut Function) {
    rename(function, "count");
    let several = arguments(function).filter(|args| args.len() > 1);
    if let (Some(args), FunctionArguments::List(list)) = (several, &mut function.args) {
        let tuple = call("__tuple", args);
        list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(tuple))];
    }
}
