//! Building blocks of a result: columns by kind, values by what they are. They must never decide
//! what is shown.

use crate::outcome::ColumnMeta;
use damask_types::schema::IntWidth;
use damask_types::{ColumnType, Datum};

/// What a column of a SHOW or of a system table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A name: VARCHAR(64).
    Name,
    /// Any text. VARCHAR, because some clients take TEXT for bytes.
    Text,
    /// BIGINT.
    Int,
    /// BIGINT UNSIGNED.
    Count,
    /// DATETIME.
    Time,
    /// DOUBLE.
    Ratio,
}

/// The columns of a result.
pub(crate) type Columns = &'static [(&'static str, Kind)];

/// Characters of a [`Kind::Text`].
const TEXT_CHARS: u32 = 16_383;

impl Kind {
    /// Its SQL type.
    pub(crate) fn ty(self) -> ColumnType {
        match self {
            Kind::Name => ColumnType::VarChar { len: 64 },
            Kind::Text => ColumnType::VarChar { len: TEXT_CHARS },
            Kind::Int => ColumnType::Int { width: IntWidth::Big, unsigned: false },
            Kind::Count => ColumnType::Int { width: IntWidth::Big, unsigned: true },
            Kind::Time => ColumnType::DateTime { fsp: 0 },
            Kind::Ratio => ColumnType::Double,
        }
    }
}

/// A result before it is filtered.
pub(crate) struct Answer {
    /// One for each value of a row.
    pub(crate) columns: Vec<ColumnMeta>,
    /// The rows.
    pub(crate) rows: Vec<Vec<Datum>>,
}

impl Answer {
    /// Rows under these columns.
    pub(crate) fn new(columns: Columns, rows: Vec<Vec<Datum>>) -> Answer {
        let columns = columns.iter().map(|(name, kind)| ColumnMeta::expression(*name, kind.ty()));
        Answer { columns: columns.collect(), rows }
    }

    /// No rows under text columns of these names.
    pub(crate) fn of_names(names: &[&str]) -> Answer {
        let columns = names.iter().map(|name| ColumnMeta::expression(*name, Kind::Name.ty()));
        Answer { columns: columns.collect(), rows: Vec::new() }
    }
}

/// A text value.
pub(crate) fn text(value: impl Into<String>) -> Datum {
    Datum::Text(value.into())
}

/// A text value or NULL.
pub(crate) fn optional(value: Option<impl Into<String>>) -> Datum {
    value.map_or(Datum::Null, text)
}

/// A value of [`Kind::Int`].
pub(crate) fn int(value: i64) -> Datum {
    Datum::Int(value)
}

/// A value of [`Kind::Count`].
pub(crate) fn count(value: impl Into<u64>) -> Datum {
    Datum::UInt(value.into())
}

/// A position counted from 1.
pub(crate) fn ordinal(index: usize) -> Datum {
    Datum::UInt(index as u64 + 1)
}

/// `YES` or `NO`.
pub(crate) fn yes(value: bool) -> Datum {
    text(if value { "YES" } else { "NO" })
}
