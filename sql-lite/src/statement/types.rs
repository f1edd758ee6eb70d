//! Column types as they are written: names, synonyms, lengths, signs. What MySQL has and this
//! server has not is refused by name (1235), never silently changed.

use super::parser::P;
use crate::error::{Error, Result};
use damask_types::ColumnType;
use damask_types::schema::IntWidth;
use sqlparser::tokenizer::Token;

impl P<'_> {
    pub(super) fn data_type(&mut self) -> Result<ColumnType> {
        let word = match &self.parser.peek_token_ref().token {
            Token::Word(w) if w.quote_style.is_none() => w.value.to_ascii_uppercase(),
            _ => return self.fail(),
        };
        self.parser.next_token();
        let ty = self.named_type(&word)?;
        self.charset_options(&ty)?;
        Ok(ty)
    }

    pub(super) fn named_type(&mut self, word: &str) -> Result<ColumnType> {
        let int = |width| Ok(width);
        let width = match word {
            "TINYINT" | "INT1" => int(IntWidth::Tiny),
            "SMALLINT" | "INT2" => int(IntWidth::Small),
            "MEDIUMINT" | "INT3" | "MIDDLEINT" => int(IntWidth::Medium),
            "INT" | "INTEGER" | "INT4" => int(IntWidth::Normal),
            "BIGINT" | "INT8" => int(IntWidth::Big),
            other => Err(other),
        };
        if let Ok(width) = width {
            let len = self.optional_length()?;
            let unsigned = self.sign()?;
            let boolean = width == IntWidth::Tiny && len == Some(1) && !unsigned;
            return Ok(if boolean {
                ColumnType::Bool
            } else {
                ColumnType::Int { width, unsigned }
            });
        }
        match word {
            "BOOL" | "BOOLEAN" => Ok(ColumnType::Bool),
            "SERIAL" => Ok(ColumnType::Int { width: IntWidth::Big, unsigned: true }),
            "FLOAT" | "FLOAT4" => self.float(),
            "DOUBLE" | "REAL" | "FLOAT8" => {
                self.word("PRECISION");
                self.precision_scale()?;
                self.sign()?;
                Ok(ColumnType::Double)
            }
            "DECIMAL" | "DEC" | "NUMERIC" | "FIXED" => self.decimal(),
            "DATE" => Ok(ColumnType::Date),
            "DATETIME" => Ok(ColumnType::DateTime { fsp: self.fsp()? }),
            "TIMESTAMP" => Ok(ColumnType::Timestamp { fsp: self.fsp()? }),
            "TIME" => Ok(ColumnType::Time { fsp: self.fsp()? }),
            "JSON" | "ENUM" | "SET" | "YEAR" | "BIT" | "GEOMETRY" | "POINT" | "LINESTRING"
            | "POLYGON" | "VECTOR" | "UUID" | "INET6" => self.unsupported(&format!("type {word}")),
            _ => self.string_type(word),
        }
    }

    pub(super) fn string_type(&mut self, word: &str) -> Result<ColumnType> {
        let len = |n: Option<u64>, default: u64, max: u64, what: &str| -> Result<u32> {
            let n = n.unwrap_or(default);
            if n > max {
                let message =
                    format!("Column length too big for column (max = {max}); use {what} instead");
                return Err(Error { code: 1074, state: "42000", message });
            }
            Ok(n as u32)
        };
        Ok(match word {
            "CHAR" | "CHARACTER" | "NCHAR" if !self.peek("VARYING") => {
                ColumnType::Char { len: len(self.optional_length()?, 1, 255, "TEXT")? }
            }
            "VARCHAR" | "VARCHARACTER" | "NVARCHAR" | "CHAR" | "CHARACTER" | "NCHAR" => {
                self.word("VARYING");
                let Some(n) = self.optional_length()? else { return self.fail() };
                ColumnType::VarChar { len: len(Some(n), 0, 16_383, "TEXT")? }
            }
            "BINARY" => ColumnType::Binary { len: len(self.optional_length()?, 1, 255, "BLOB")? },
            "VARBINARY" => {
                let Some(n) = self.optional_length()? else { return self.fail() };
                ColumnType::VarBinary { len: len(Some(n), 0, 65_532, "BLOB")? }
            }
            "TINYTEXT" => ColumnType::Text { bytes_max: 255 },
            "TEXT" => ColumnType::Text { bytes_max: sized(self.optional_length()?, 4) },
            "MEDIUMTEXT" | "LONG" => ColumnType::Text { bytes_max: 16_777_215 },
            "LONGTEXT" => ColumnType::Text { bytes_max: u32::MAX },
            "TINYBLOB" => ColumnType::Blob { bytes_max: 255 },
            "BLOB" => ColumnType::Blob { bytes_max: sized(self.optional_length()?, 1) },
            "MEDIUMBLOB" => ColumnType::Blob { bytes_max: 16_777_215 },
            "LONGBLOB" => ColumnType::Blob { bytes_max: u32::MAX },
            _ => return self.fail(),
        })
    }

    /// UNSIGNED, SIGNED, ZEROFILL (which implies UNSIGNED).
    pub(super) fn sign(&mut self) -> Result<bool> {
        let mut unsigned = false;
        while let Some(word) = self.one_of(&["UNSIGNED", "SIGNED", "ZEROFILL"]) {
            unsigned |= word != "SIGNED";
        }
        Ok(unsigned)
    }

    pub(super) fn precision_scale(&mut self) -> Result<Option<(u64, Option<u64>)>> {
        if !self.symbol(&Token::LParen) {
            return Ok(None);
        }
        let precision = self.number()?;
        let scale = if self.symbol(&Token::Comma) { Some(self.number()?) } else { None };
        self.expect_symbol(&Token::RParen)?;
        Ok(Some((precision, scale)))
    }

    pub(super) fn float(&mut self) -> Result<ColumnType> {
        let precision = self.precision_scale()?;
        self.sign()?;
        let double = matches!(precision, Some((25..=53, None)));
        Ok(if double { ColumnType::Double } else { ColumnType::Float })
    }

    pub(super) fn decimal(&mut self) -> Result<ColumnType> {
        let (precision, scale) = self.precision_scale()?.unwrap_or((10, None));
        let precision = if precision == 0 { 10 } else { precision };
        let scale = scale.unwrap_or(0);
        self.sign()?;
        if precision > 65 || scale > 30 {
            let message = format!("Too-big precision {precision} specified. Maximum is 65.");
            return Err(Error { code: 1426, state: "42000", message });
        }
        if scale > precision {
            let message = "For float(M,D), double(M,D) or decimal(M,D), M must be >= D.".to_owned();
            return Err(Error { code: 1427, state: "42000", message });
        }
        if precision > u64::from(damask_types::datum::DECIMAL_PRECISION_MAX) {
            return self.unsupported("DECIMAL with more than 38 digits");
        }
        Ok(ColumnType::Decimal { precision: precision as u8, scale: scale as u8 })
    }

    pub(super) fn fsp(&mut self) -> Result<u8> {
        let fsp = self.optional_length()?.unwrap_or(0);
        if fsp > 6 {
            let message = format!("Too-big precision {fsp} specified. Maximum is 6.");
            return Err(Error { code: 1426, state: "42000", message });
        }
        Ok(fsp as u8)
    }

    pub(super) fn charset_options(&mut self, ty: &ColumnType) -> Result<()> {
        while ty.is_text() {
            if self.words(&["CHARACTER", "SET"]) || self.word("CHARSET") || self.word("COLLATE") {
                self.collation()?;
            } else if self.one_of(&["ASCII", "UNICODE", "BINARY"]).is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// TEXT(n) and BLOB(n) take the smallest type that holds n characters of so many bytes.
fn sized(len: Option<u64>, bytes: u64) -> u32 {
    match len.map(|n| n.saturating_mul(bytes)) {
        None => 65_535,
        Some(n) if n <= 255 => 255,
        Some(n) if n <= 65_535 => 65_535,
        Some(n) if n <= 16_777_215 => 16_777_215,
        Some(_) => u32::MAX,
    }
}
