//! sqlparser's MySQL dialect with its mistakes put right: DIV and MOD bind as `*` does, `!` is NOT,
//! GROUP BY … WITH ROLLUP, units of two parts (`HOUR_MINUTE`) in INTERVAL and EXTRACT. It must never
//! accept what MySQL refuses beyond what sqlparser does.

use sqlparser::ast::{BinaryOperator, CastKind, DataType, DateTimeField, Expr, Ident, Interval};
use sqlparser::dialect::{Dialect, MySqlDialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;
use std::any::TypeId;

/// MySQL's units of time.
pub const UNITS: [&str; 20] = [
    "MICROSECOND",
    "SECOND",
    "MINUTE",
    "HOUR",
    "DAY",
    "WEEK",
    "MONTH",
    "QUARTER",
    "YEAR",
    "SECOND_MICROSECOND",
    "MINUTE_MICROSECOND",
    "MINUTE_SECOND",
    "HOUR_MICROSECOND",
    "HOUR_SECOND",
    "HOUR_MINUTE",
    "DAY_MICROSECOND",
    "DAY_SECOND",
    "DAY_MINUTE",
    "DAY_HOUR",
    "YEAR_MONTH",
];

/// The dialect.
#[derive(Debug, Default)]
pub struct Dialected(MySqlDialect);

macro_rules! same {
    ($($name:ident),* $(,)?) => { $( fn $name(&self) -> bool { self.0.$name() } )* };
}

impl Dialected {
    fn next_is_mod(parser: &Parser) -> bool {
        matches!(&parser.peek_token_ref().token, Token::Word(w)
            if w.quote_style.is_none() && w.value.eq_ignore_ascii_case("mod"))
    }
}

impl Dialect for Dialected {
    // The parser asks for the type in some places: it is to see MySQL.
    fn dialect(&self) -> TypeId {
        TypeId::of::<MySqlDialect>()
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        self.0.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.0.is_identifier_part(ch)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        self.0.is_delimited_identifier_start(ch)
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        self.0.identifier_quote_style(identifier)
    }

    fn is_table_factor_alias(&self, explicit: bool, kw: &Keyword, parser: &mut Parser) -> bool {
        self.0.is_table_factor_alias(explicit, kw, parser)
    }

    same!(
        supports_string_literal_backslash_escape,
        supports_string_literal_concatenation,
        ignores_wildcard_escapes,
        supports_numeric_prefix,
        supports_bitwise_shift_operators,
        supports_multiline_comment_hints,
        require_interval_qualifier,
        supports_limit_comma,
        supports_create_table_select,
        supports_insert_set,
        supports_user_host_grantee,
        supports_table_hints,
        requires_single_line_comment_whitespace,
        supports_match_against,
        supports_select_modifiers,
        supports_set_names,
        supports_comma_separated_set_assignments,
        supports_update_order_by,
        supports_data_type_signed_suffix,
        supports_cross_join_constraint,
        supports_double_ampersand_operator,
        supports_binary_kw_as_cast,
        supports_comment_optimizer_hint,
        supports_constraint_keyword_without_name,
        supports_key_column_option,
    );

    // WITH CUBE and WITH TOTALS are refused where SELECT is rewritten.
    fn supports_group_by_with_modifier(&self) -> bool {
        true
    }

    // Which units there are is looked at where EXTRACT is rewritten.
    fn allow_extract_custom(&self) -> bool {
        true
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let is_binary = matches!(&parser.peek_token_ref().token, Token::Word(w)
            if w.quote_style.is_none() && w.keyword == Keyword::BINARY);
        if is_binary {
            return Some(binary(parser));
        }
        let is_interval = matches!(&parser.peek_token_ref().token, Token::Word(w)
            if w.quote_style.is_none() && w.keyword == Keyword::INTERVAL);
        is_interval.then(|| interval(parser))
    }

    fn supports_bang_not_operator(&self) -> bool {
        true
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        Dialected::next_is_mod(parser).then(|| Ok(self.prec_value(Precedence::MulDivModOp)))
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        expr: &Expr,
        precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        let op = if parser.parse_keyword(Keyword::DIV) {
            BinaryOperator::MyIntegerDivide
        } else if Dialected::next_is_mod(parser) {
            parser.next_token();
            BinaryOperator::Modulo
        } else {
            return None;
        };
        let right = parser.parse_subexpr(precedence);
        Some(right.map(|right| Expr::BinaryOp {
            left: Box::new(expr.clone()),
            op,
            right: Box::new(right),
        }))
    }
}

/// `BINARY value`: of one operand, before any operator.
fn binary(parser: &mut Parser) -> Result<Expr, ParserError> {
    parser.next_token();
    let value = parser.parse_prefix()?;
    Ok(Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(value),
        data_type: DataType::Binary(None),
        array: false,
        format: None,
    })
}

/// `INTERVAL value UNIT`.
fn interval(parser: &mut Parser) -> Result<Expr, ParserError> {
    parser.next_token();
    let value = Box::new(parser.parse_expr()?);
    let unit = parser.next_token();
    let name = match &unit.token {
        Token::Word(w) if w.quote_style.is_none() => {
            UNITS.iter().find(|unit| w.value.eq_ignore_ascii_case(unit))
        }
        _ => None,
    };
    let Some(name) = name else {
        parser.prev_token();
        return parser.expected("a unit of time", unit);
    };
    Ok(Expr::Interval(Interval {
        value,
        leading_field: Some(DateTimeField::Custom(Ident::new(*name))),
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    }))
}
