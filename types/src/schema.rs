//! Tables, columns, indexes as the catalog stores them (JSON under [`catalog`] keys) and as row
//! codec, learner and column store read them. It must never hold a name that is not also stored.
//!
//! A table's rows are keyed by an i64 *handle*: the primary key itself when it is one integer
//! column other than BIGINT UNSIGNED, else a hidden row id, with the primary key a unique index.

use crate::ids::{ColumnId, IndexId, TableId};
use crate::ts::Timestamp;
use serde::{Deserialize, Serialize};

/// Bytes of an integer type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IntWidth {
    /// TINYINT, 1 byte.
    Tiny,
    /// SMALLINT, 2 bytes.
    Small,
    /// MEDIUMINT, 3 bytes.
    Medium,
    /// INT, 4 bytes.
    Normal,
    /// BIGINT, 8 bytes.
    Big,
}

impl IntWidth {
    /// Bits of the type.
    pub fn bits(self) -> u32 {
        match self {
            IntWidth::Tiny => 8,
            IntWidth::Small => 16,
            IntWidth::Medium => 24,
            IntWidth::Normal => 32,
            IntWidth::Big => 64,
        }
    }
}

/// A column's type. Every integer is computed in 64 bits; the width bounds what is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ColumnType {
    /// TINYINT(1), BOOL: shown so by clients, holds -128..=127.
    Bool,
    /// The integer types.
    Int {
        /// Bytes stored.
        width: IntWidth,
        /// UNSIGNED.
        unsigned: bool,
    },
    /// 4-byte IEEE.
    Float,
    /// 8-byte IEEE.
    Double,
    /// Fixed point; precision at most 38.
    Decimal {
        /// All digits.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// CHAR(n): trailing blanks are dropped on write, as MySQL shows them on read.
    Char {
        /// Characters.
        len: u32,
    },
    /// VARCHAR(n).
    VarChar {
        /// Characters.
        len: u32,
    },
    /// TINYTEXT, TEXT, MEDIUMTEXT, LONGTEXT.
    Text {
        /// Bytes at most.
        bytes_max: u32,
    },
    /// BINARY(n): padded with 0x00 on write.
    Binary {
        /// Bytes.
        len: u32,
    },
    /// VARBINARY(n).
    VarBinary {
        /// Bytes.
        len: u32,
    },
    /// TINYBLOB, BLOB, MEDIUMBLOB, LONGBLOB.
    Blob {
        /// Bytes at most.
        bytes_max: u32,
    },
    /// DATE.
    Date,
    /// DATETIME(fsp), without a zone.
    DateTime {
        /// Digits of the second's fraction, 0..=6.
        fsp: u8,
    },
    /// TIMESTAMP(fsp): stored in UTC, shown in the session's zone.
    Timestamp {
        /// Digits of the second's fraction, 0..=6.
        fsp: u8,
    },
    /// TIME(fsp).
    Time {
        /// Digits of the second's fraction, 0..=6.
        fsp: u8,
    },
}

impl ColumnType {
    /// Text: values are `Datum::Text`.
    pub fn is_text(&self) -> bool {
        matches!(
            self,
            ColumnType::Char { .. } | ColumnType::VarChar { .. } | ColumnType::Text { .. }
        )
    }

    /// Binary strings: values are `Datum::Bytes`.
    pub fn is_binary(&self) -> bool {
        use ColumnType::*;
        matches!(self, Binary { .. } | VarBinary { .. } | Blob { .. })
    }

    /// Values are `Datum::Int` or `Datum::UInt`.
    pub fn is_integer(&self) -> bool {
        matches!(self, ColumnType::Bool | ColumnType::Int { .. })
    }

    /// Values are `Datum::UInt`.
    pub fn is_unsigned(&self) -> bool {
        matches!(self, ColumnType::Int { unsigned: true, .. })
    }
}

/// What a column gets when an INSERT does not name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DefaultValue {
    /// A constant, in the row codec's value form ([`crate::row::encode_value`]); `None` = NULL.
    Constant(Option<Vec<u8>>),
    /// CURRENT_TIMESTAMP.
    CurrentTimestamp,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnSchema {
    /// Never reused.
    pub id: ColumnId,
    /// As written; compared without case.
    pub name: String,
    /// Its type.
    pub ty: ColumnType,
    /// May it be NULL?
    pub nullable: bool,
    /// `None`: no default (an error when a NOT NULL column is left out).
    pub default: Option<DefaultValue>,
    /// What rows written before ADD COLUMN have: value form, `None` = NULL.
    pub origin_default: Option<Vec<u8>>,
    /// AUTO_INCREMENT.
    pub auto_increment: bool,
    /// ON UPDATE CURRENT_TIMESTAMP.
    pub on_update_now: bool,
    /// COMMENT.
    pub comment: String,
}

/// How far a new index has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexState {
    /// Kept by writes, being filled, not yet read.
    WriteOnly,
    /// Complete.
    Public,
}

/// A secondary index, or a primary key that is not the handle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSchema {
    /// Never reused.
    pub id: IndexId,
    /// "PRIMARY" for the primary key.
    pub name: String,
    /// Its columns in order.
    pub columns: Vec<ColumnId>,
    /// At most one row per key without NULLs.
    pub unique: bool,
    /// Is it the PRIMARY KEY?
    pub primary: bool,
    /// May it be read?
    pub state: IndexState,
    /// It was filled later than its table: reads at lower versions would miss entries. ZERO: it
    /// is as old as its table.
    #[serde(default)]
    pub readable_from: Timestamp,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// Changes at TRUNCATE.
    pub id: TableId,
    /// Its database.
    pub database: String,
    /// As written; compared without case.
    pub name: String,
    /// Raised by every change of this schema.
    pub version: u64,
    /// In display order.
    pub columns: Vec<ColumnSchema>,
    /// The column that is the handle; `None` = hidden row id.
    pub handle_column: Option<ColumnId>,
    /// Without the primary key when that is the handle.
    pub indexes: Vec<IndexSchema>,
    /// Column replicas asked for.
    pub column_replicas: u32,
    /// The highest ids given so far: columns and indexes are never reused.
    pub max_column_id: ColumnId,
    /// See `max_column_id`.
    pub max_index_id: IndexId,
    /// COMMENT.
    pub comment: String,
}

impl TableSchema {
    /// Finds a column without regard to case.
    pub fn column(&self, name: &str) -> Option<&ColumnSchema> {
        self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name))
    }

    /// Finds a column by id.
    pub fn column_by_id(&self, id: ColumnId) -> Option<&ColumnSchema> {
        self.columns.iter().find(|c| c.id == id)
    }

    /// A column's position.
    pub fn position(&self, id: ColumnId) -> Option<usize> {
        self.columns.iter().position(|c| c.id == id)
    }
}

/// Where the catalog lives: values are JSON.
pub mod catalog {
    use crate::ids::TableId;

    /// Every catalog key starts so.
    pub const PREFIX: &[u8] = b"m";

    /// `mv`: the schema version, raised by every DDL; decimal text.
    pub fn version_key() -> Vec<u8> {
        b"mv".to_vec()
    }

    /// `mn`: the next free table id; decimal text.
    pub fn next_id_key() -> Vec<u8> {
        b"mn".to_vec()
    }

    /// `md{name in lower case}`: a database.
    pub fn database_key(name: &str) -> Vec<u8> {
        [b"md", name.to_ascii_lowercase().as_bytes()].concat()
    }

    /// `mt{id, big-endian}`: a [`super::TableSchema`].
    pub fn table_key(id: TableId) -> Vec<u8> {
        [b"mt".as_slice(), &id.0.to_be_bytes()].concat()
    }

    /// `ma{id, big-endian}`: the next value of a table's AUTO_INCREMENT; decimal text.
    pub fn auto_increment_key(id: TableId) -> Vec<u8> {
        [b"ma".as_slice(), &id.0.to_be_bytes()].concat()
    }

    /// `mr{id, big-endian}`: the next hidden row id; decimal text.
    pub fn row_id_key(id: TableId) -> Vec<u8> {
        [b"mr".as_slice(), &id.0.to_be_bytes()].concat()
    }
}
