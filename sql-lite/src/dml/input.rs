//! Values on their way into rows: defaults, conversion with the statement's strictness, the
//! statement's time. It must never read or write rows.

use crate::error::{Error, Result};
use crate::session::{Level, SessionFacts, Warnings};
use crate::value::{self, Rules};
use crate::variables::Variables;
use damask_types::row::decode_value;
use damask_types::schema::DefaultValue;
use damask_types::{ColumnSchema, ColumnType, Datum};

/// A time (UTC microseconds) as a value of a column with CURRENT_TIMESTAMP.
pub fn now(column: &ColumnSchema, now_us: i64, offset_us: i64) -> Datum {
    let cut = |us: i64, fsp: u8| {
        let unit = 10i64.pow(u32::from(6 - fsp.min(6)));
        us.div_euclid(unit) * unit
    };
    let local = now_us + offset_us;
    match &column.ty {
        ColumnType::Timestamp { fsp } => Datum::DateTime(cut(now_us, *fsp)),
        ColumnType::DateTime { fsp } => Datum::DateTime(cut(local, *fsp)),
        _ => Datum::DateTime(cut(local, 0)),
    }
}

/// DEFAULT(column): what the column gets where nothing is said, as an expression in the session's
/// zone. 1364 if it has none.
pub(crate) fn default_of(column: &ColumnSchema, now_us: i64, offset_us: i64) -> Result<Datum> {
    let value = match &column.default {
        Some(DefaultValue::CurrentTimestamp) => now(column, now_us, offset_us),
        Some(DefaultValue::Constant(Some(bytes))) => decode_value(&column.ty, bytes)
            .map_err(|e| Error::unknown(format!("the default of '{}': {e}", column.name)))?,
        _ if column.auto_increment => Datum::Int(0),
        _ if column.nullable => Datum::Null,
        _ => {
            let message = format!("Field '{}' doesn't have a default value", column.name);
            return Err(Error::no_default(message));
        }
    };
    Ok(match (&column.ty, value) {
        (ColumnType::Timestamp { .. }, Datum::DateTime(us)) => Datum::DateTime(us + offset_us),
        (_, value) => value,
    })
}

/// How a statement turns values into cells.
#[derive(Clone, Copy)]
pub(super) struct Input {
    /// Conversions.
    pub rules: Rules,
    /// NULL for a NOT NULL column becomes a zero with a warning.
    pub adjust_null: bool,
    /// 0 in an AUTO_INCREMENT column asks for a new value.
    pub zero_generates: bool,
}

impl Input {
    /// Of a statement; `ignore`: what would be an error becomes a warning.
    pub fn new(variables: &Variables, facts: &SessionFacts, ignore: bool) -> Input {
        let mode = variables.sql_mode();
        let rules = Rules {
            strict: mode.strict() && !ignore,
            offset_us: variables.time_zone_offset_us(),
            now_us: facts.now_us,
        };
        let zero_generates = !mode.has("NO_AUTO_VALUE_ON_ZERO");
        Input { rules, adjust_null: ignore, zero_generates }
    }

    /// The statement's time as a value of a column.
    pub fn now(&self, column: &ColumnSchema) -> Datum {
        now(column, self.rules.now_us, self.rules.offset_us)
    }

    /// What a column gets that is not named, or set to DEFAULT. NULL in an AUTO_INCREMENT column
    /// asks for a new value.
    pub fn default(&self, column: &ColumnSchema, warnings: &mut Warnings) -> Result<Datum> {
        match &column.default {
            Some(DefaultValue::CurrentTimestamp) => Ok(self.now(column)),
            Some(DefaultValue::Constant(Some(bytes))) => {
                decode_value(&column.ty, bytes).map_err(|e| {
                    Error::unknown(format!("the default of column '{}': {e}", column.name))
                })
            }
            _ if column.auto_increment || column.nullable => Ok(Datum::Null),
            _ => {
                let name = &column.name;
                let error =
                    Error::no_default(format!("Field '{name}' doesn't have a default value"));
                if self.rules.strict {
                    return Err(error);
                }
                warnings.demote(error);
                Ok(value::zero(&column.ty))
            }
        }
    }

    /// A value for a column. `source`: its type where known. `row` counts from 1.
    pub fn cell(
        &self,
        value: Datum,
        source: Option<&ColumnType>,
        column: &ColumnSchema,
        row: u64,
        warnings: &mut Warnings,
    ) -> Result<Datum> {
        if value.is_null() && !column.nullable {
            if column.auto_increment {
                return Ok(Datum::Null);
            }
            if self.adjust_null {
                let message = format!("Column '{}' cannot be null", column.name);
                warnings.push(Level::Warning, 1048, message);
                return Ok(value::zero(&column.ty));
            }
        }
        value::convert(value, source, column, row, self.rules, warnings)
    }

    /// Does this value of an AUTO_INCREMENT column ask for a new one?
    pub fn generates(&self, value: &Datum) -> bool {
        match value {
            Datum::Null => true,
            Datum::Int(0) | Datum::UInt(0) => self.zero_generates,
            _ => false,
        }
    }
}
