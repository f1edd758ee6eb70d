//! The packets of answers, as bytes. It must never send a flag for what the server does not do.
//!
//! ```text
//!  OK   00 | affected lenenc | insert id lenenc | status u16 | warnings u16 | [info lenenc]
//!  EOF  FE | warnings u16 | status u16                         (before CLIENT_DEPRECATE_EOF)
//!  EOF  FE | 00 | 00 | status u16 | warnings u16               (with it)
//!  ERR  FF | code u16 | '#' | state, 5 bytes | message
//!
//!  column definition
//!       "def", schema, table, org_table, name, org_name, each lenenc
//!       0C | character set u16 | length u32 | type u8 | flags u16 | decimals u8 | 00 00
//! ```

use crate::error::Error;
use crate::outcome::{ColumnMeta, Done, Status};
use damask_types::ColumnType;
use damask_types::schema::IntWidth;
use mysql_common::constants::{CapabilityFlags, ColumnFlags, ColumnType as WireType, StatusFlags};
use mysql_common::io::BufMutExt;

/// utf8mb4_general_ci: known to every client, old or new.
pub const TEXT_CHARSET: u8 = 45;
/// The `binary` character set.
const BINARY_CHARSET: u16 = 63;
/// Bytes of a character at most.
const CHARACTER_BYTES_MAX: u32 = 4;
/// "No fixed number of decimals".
const DECIMALS_FLOATING: u8 = 31;

/// The status flags of an answer.
pub fn status_flags(status: Status, more: bool) -> StatusFlags {
    let mut flags = StatusFlags::empty();
    flags.set(StatusFlags::SERVER_STATUS_IN_TRANS, status.in_transaction);
    flags.set(StatusFlags::SERVER_STATUS_AUTOCOMMIT, status.autocommit);
    flags.set(StatusFlags::SERVER_MORE_RESULTS_EXISTS, more);
    flags
}

/// OK.
pub fn put_ok(out: &mut Vec<u8>, done: &Done, status: Status, more: bool) {
    out.push(0x00);
    out.put_lenenc_int(done.affected_rows);
    out.put_lenenc_int(done.last_insert_id);
    out.extend_from_slice(&status_flags(status, more).bits().to_le_bytes());
    out.extend_from_slice(&status.warnings.to_le_bytes());
    if !done.info.is_empty() {
        out.put_lenenc_str(done.info.as_bytes());
    }
}

/// The end of rows or of column definitions.
pub fn put_eof(out: &mut Vec<u8>, status: Status, more: bool, capabilities: CapabilityFlags) {
    let flags = status_flags(status, more).bits().to_le_bytes();
    out.push(0xFE);
    if capabilities.contains(CapabilityFlags::CLIENT_DEPRECATE_EOF) {
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&flags);
        out.extend_from_slice(&status.warnings.to_le_bytes());
    } else {
        out.extend_from_slice(&status.warnings.to_le_bytes());
        out.extend_from_slice(&flags);
    }
}

/// ERR. Before a client has said what it speaks there is no SQLSTATE.
pub fn put_error(out: &mut Vec<u8>, error: &Error, with_state: bool) {
    out.push(0xFF);
    out.extend_from_slice(&error.code.to_le_bytes());
    if with_state {
        out.push(b'#');
        out.extend_from_slice(error.state.as_bytes());
    }
    out.extend_from_slice(error.message.as_bytes());
}

/// A column definition.
pub fn put_column(out: &mut Vec<u8>, column: &ColumnMeta) {
    let mut shape = Shape::of(column.ty.as_ref());
    shape.flags.set(ColumnFlags::NOT_NULL_FLAG, !column.nullable);
    shape.flags.set(ColumnFlags::PRI_KEY_FLAG, column.primary_key);
    shape.flags.set(ColumnFlags::UNIQUE_KEY_FLAG, column.unique_key && !column.primary_key);
    shape.flags.set(ColumnFlags::AUTO_INCREMENT_FLAG, column.auto_increment);
    let names =
        [&column.database, &column.table, &column.org_table, &column.name, &column.org_name];
    put_definition(out, names.map(String::as_str), &shape);
}

/// The definition of a `?`.
pub fn put_parameter(out: &mut Vec<u8>) {
    let shape = Shape::new(WireType::MYSQL_TYPE_VAR_STRING, 0).binary();
    put_definition(out, ["", "", "", "?", ""], &shape);
}

/// mysql_common 0.38.2 reads this packet well but writes length before character set.
fn put_definition(out: &mut Vec<u8>, names: [&str; 5], shape: &Shape) {
    /// Bytes from the character set to the end.
    const FIXED_BYTES: u8 = 12;
    out.put_lenenc_str(b"def");
    for name in names {
        out.put_lenenc_str(name.as_bytes());
    }
    out.push(FIXED_BYTES);
    out.extend_from_slice(&shape.charset.to_le_bytes());
    out.extend_from_slice(&shape.length.to_le_bytes());
    out.push(shape.wire as u8);
    out.extend_from_slice(&shape.flags.bits().to_le_bytes());
    out.extend_from_slice(&[shape.decimals, 0, 0]);
}

/// How a type looks on the wire.
struct Shape {
    wire: WireType,
    /// Characters of its longest text, times 4 for text.
    length: u32,
    charset: u16,
    decimals: u8,
    flags: ColumnFlags,
}

impl Shape {
    /// Of a column's type; `None` is the NULL literal's.
    fn of(ty: Option<&ColumnType>) -> Shape {
        use ColumnType as T;
        use WireType::*;
        let Some(ty) = ty else {
            return Shape::new(MYSQL_TYPE_NULL, 0).binary();
        };
        let characters = |n: u32| n.saturating_mul(CHARACTER_BYTES_MAX);
        let fraction = |fsp: u8| if fsp == 0 { 0 } else { 1 + u32::from(fsp) };
        match ty {
            T::Bool => Shape::new(MYSQL_TYPE_TINY, 1).number(),
            T::Int { width, unsigned } => {
                let (wire, signed_length, unsigned_length) = match width {
                    IntWidth::Tiny => (MYSQL_TYPE_TINY, 4, 3),
                    IntWidth::Small => (MYSQL_TYPE_SHORT, 6, 5),
                    IntWidth::Medium => (MYSQL_TYPE_INT24, 9, 8),
                    IntWidth::Normal => (MYSQL_TYPE_LONG, 11, 10),
                    IntWidth::Big => (MYSQL_TYPE_LONGLONG, 20, 20),
                };
                let length = if *unsigned { unsigned_length } else { signed_length };
                let mut shape = Shape::new(wire, length).number();
                shape.flags.set(ColumnFlags::UNSIGNED_FLAG, *unsigned);
                shape
            }
            T::Float => Shape::new(MYSQL_TYPE_FLOAT, 12).number().decimals(DECIMALS_FLOATING),
            T::Double => Shape::new(MYSQL_TYPE_DOUBLE, 22).number().decimals(DECIMALS_FLOATING),
            T::Decimal { precision, scale } => {
                let length = u32::from(*precision) + 1 + u32::from(*scale > 0);
                Shape::new(MYSQL_TYPE_NEWDECIMAL, length).number().decimals(*scale)
            }
            T::Char { len } => Shape::new(MYSQL_TYPE_STRING, characters(*len)),
            T::VarChar { len } => Shape::new(MYSQL_TYPE_VAR_STRING, characters(*len)),
            T::Text { bytes_max } => Shape::new(MYSQL_TYPE_BLOB, characters(*bytes_max)).blob(),
            T::Binary { len } => Shape::new(MYSQL_TYPE_STRING, *len).binary(),
            T::VarBinary { len } => Shape::new(MYSQL_TYPE_VAR_STRING, *len).binary(),
            T::Blob { bytes_max } => Shape::new(MYSQL_TYPE_BLOB, *bytes_max).binary().blob(),
            T::Date => Shape::new(MYSQL_TYPE_DATE, 10).binary(),
            T::DateTime { fsp } => {
                Shape::new(MYSQL_TYPE_DATETIME, 19 + fraction(*fsp)).binary().decimals(*fsp)
            }
            T::Timestamp { fsp } => {
                let mut shape = Shape::new(MYSQL_TYPE_TIMESTAMP, 19 + fraction(*fsp));
                shape.flags.insert(ColumnFlags::TIMESTAMP_FLAG);
                shape.binary().decimals(*fsp)
            }
            T::Time { fsp } => {
                Shape::new(MYSQL_TYPE_TIME, 10 + fraction(*fsp)).binary().decimals(*fsp)
            }
        }
    }

    fn new(wire: WireType, length: u32) -> Shape {
        Shape {
            wire,
            length,
            charset: TEXT_CHARSET.into(),
            decimals: 0,
            flags: ColumnFlags::empty(),
        }
    }

    fn decimals(mut self, decimals: u8) -> Shape {
        self.decimals = decimals;
        self
    }

    fn binary(mut self) -> Shape {
        self.charset = BINARY_CHARSET;
        self.flags.insert(ColumnFlags::BINARY_FLAG);
        self
    }

    fn number(self) -> Shape {
        let mut shape = self.binary();
        shape.flags.insert(ColumnFlags::NUM_FLAG);
        shape
    }

    fn blob(mut self) -> Shape {
        self.flags.insert(ColumnFlags::BLOB_FLAG);
        self
    }
}
