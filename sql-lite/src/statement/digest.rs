//! A statement without its values, so that statements of one shape look alike: words in lower case,
//! names in backquotes, `?` for every literal. It must never show a value.

use super::lexer::lex;
use super::parser::RESERVED;
use crate::variables::SqlMode;
use sqlparser::tokenizer::Token;

/// The statement's shape; what cannot be read has none, nor has what reads differently where `\`
/// is a character like any other: a value might look like a name.
pub fn normalized(sql: &str) -> String {
    let no_escapes = SqlMode::parse("NO_BACKSLASH_ESCAPES").expect("a mode");
    let [escapes, plain] = [SqlMode::default(), no_escapes].map(|mode| shape(sql, mode));
    match (escapes, plain) {
        (Some(one), Some(other)) if one != other => String::new(),
        (Some(shape), _) | (None, Some(shape)) => shape,
        (None, None) => String::new(),
    }
}

fn shape(sql: &str, mode: SqlMode) -> Option<String> {
    let lexed = lex(sql, 0, mode).ok()?;
    let mut parts = Vec::with_capacity(lexed.tokens.len());
    for token in lexed.tokens {
        parts.push(match token.token {
            Token::EOF => continue,
            Token::Word(w) if w.quote_style.is_none() && is_word(&w.value) => {
                w.value.to_lowercase()
            }
            Token::Word(w) => format!("`{}`", w.value.to_lowercase()),
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::HexStringLiteral(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::Placeholder(_) => "?".to_owned(),
            other => other.to_string(),
        });
    }
    Some(parts.join(" "))
}

/// Words of the language that are no names, reserved or not.
fn is_word(word: &str) -> bool {
    const MORE: [&str; 12] = [
        "BEGIN",
        "COMMIT",
        "DO",
        "DUPLICATE",
        "END",
        "NOWAIT",
        "OFFSET",
        "ROLLBACK",
        "SHARE",
        "SKIP",
        "LOCKED",
        "VALUE",
    ];
    let upper = word.to_ascii_uppercase();
    word.starts_with('@')
        || RESERVED.binary_search(&upper.as_str()).is_ok()
        || MORE.contains(&upper.as_str())
}

#[cfg(test)]
mod tests {
    use super::normalized;

    #[test]
    fn values_are_left_out_and_shapes_are_alike() {
        let one = normalized("UPDATE t SET v = v + 1 WHERE id = 10 AND s IN ('a', \"b\", 0x41)");
        assert_eq!(one, "update `t` set `v` = `v` + ? where `id` = ? and `s` in ( ? , ? , ? )");
        assert_eq!(normalized("update T  set v=v+7 where ID=3"), {
            normalized("UPDATE t SET v = v + 1 WHERE id = 10")
        });
        assert!(!normalized("SELECT 'secret' /* secret */").contains("secret"));
        // Of which mode a statement is cannot be known: either way it shows no value.
        assert_eq!(normalized(r"SELECT 'it\'s' FROM t"), "select ? from `t`");
        assert_eq!(normalized(r"SELECT 'c:\' FROM t"), "select ? from `t`");
        let shape = "select ? , `b` , ? , `c` , ?";
        assert_eq!(normalized(r"SELECT 'a\' , b , 'secret' , c , '\'"), shape);
    }
}
