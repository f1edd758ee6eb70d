//! Parameter values of COM_STMT_EXECUTE. It must never read past the packet, whatever it says.
//!
//! ```text
//!  after the command byte:
//!  statement u32 | cursor flags u8 | iterations u32
//!  if there are parameters:
//!    NULL bitmap, (n+7)/8 | types follow? u8 | [n × (type u8, flags u8)] | values
//! ```

use crate::convert::calendar::{self, DAY, SECOND};
use crate::error::{Error, Result};
use damask_types::{Datum, Decimal};
use mysql_common::constants::ColumnType as WireType;
use mysql_common::io::ParseBuf;

/// Bit of a parameter's flags: UNSIGNED.
const UNSIGNED: u8 = 0x80;
/// TIME's hours end here: 838:59:59.
const TIME_MAX: i64 = (838 * 3600 + 59 * 60 + 59) * SECOND;

/// What the protocol keeps of a prepared statement.
#[derive(Debug, Default)]
pub struct Statement {
    /// How many `?`.
    pub parameters: usize,
    /// The types bound last: type number and flags.
    types: Vec<(u8, u8)>,
    /// Bytes sent ahead by COM_STMT_SEND_LONG_DATA.
    long_data: Vec<Option<Vec<u8>>>,
    /// What went wrong with them; told at the next execution.
    long_data_error: Option<Error>,
}

impl Statement {
    /// A statement with so many `?`.
    pub fn new(parameters: usize) -> Statement {
        let long_data = vec![None; parameters];
        Statement { parameters, long_data, ..Statement::default() }
    }

    /// Bytes sent ahead that are kept.
    pub fn long_data_bytes(&self) -> usize {
        self.long_data.iter().flatten().map(Vec::len).sum()
    }

    /// Keeps bytes for a parameter: `bytes_max` for each, and `left` more in all.
    pub fn append_long_data(
        &mut self,
        parameter: usize,
        bytes: &[u8],
        bytes_max: usize,
        left: usize,
    ) {
        let Some(held) = self.long_data.get_mut(parameter) else {
            let text = "Incorrect arguments to mysqld_stmt_send_long_data";
            self.long_data_error = Some(Error { code: 1210, ..Error::unknown(text) });
            return;
        };
        let held = held.get_or_insert_default();
        if held.len() + bytes.len() > bytes_max || bytes.len() > left {
            *held = Vec::new();
            let text = "Parameter of prepared statement which is set through \
                        mysql_send_long_data() is longer than 'max_allowed_packet' bytes";
            self.long_data_error = Some(Error::packet_too_large(text));
        } else if self.long_data_error.is_none() {
            held.extend_from_slice(bytes);
        }
    }

    /// Drops bytes sent ahead.
    pub fn reset(&mut self) {
        self.long_data_error = None;
        self.long_data.iter_mut().for_each(|held| *held = None);
    }

    /// The values of an execution; `body` starts at the NULL bitmap.
    pub fn values(&mut self, body: &[u8]) -> Result<Vec<Datum>> {
        let values = match self.long_data_error.take() {
            Some(error) => Err(error),
            None => self.parse(body),
        };
        self.reset();
        values
    }

    fn parse(&mut self, body: &[u8]) -> Result<Vec<Datum>> {
        let n = self.parameters;
        if n == 0 {
            return Ok(Vec::new());
        }
        let mut buf = ParseBuf(body);
        let nulls = buf.checked_eat(n.div_ceil(8)).ok_or_else(malformed)?;
        if buf.checked_eat_u8().ok_or_else(malformed)? != 0 {
            let types = buf.checked_eat(2 * n).ok_or_else(malformed)?;
            self.types = types.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        }
        if self.types.len() != n {
            return Err(malformed());
        }
        let mut values = Vec::with_capacity(n);
        for (i, (ty, flags)) in self.types.iter().enumerate() {
            let wire = WireType::try_from(*ty).map_err(|_| {
                Error::unknown(format!("parameter {i} has an unknown type number, {ty}"))
            })?;
            values.push(match self.long_data[i].take() {
                Some(bytes) => string(wire, bytes)?,
                None if nulls[i / 8] & 1 << (i % 8) != 0 => Datum::Null,
                None => value(&mut buf, wire, flags & UNSIGNED != 0)?,
            });
        }
        Ok(values)
    }
}

/// The error for a packet that ends too early or contradicts itself.
pub fn malformed() -> Error {
    Error { code: 1835, state: "HY000", message: "Malformed communication packet.".to_owned() }
}

fn value(buf: &mut ParseBuf<'_>, wire: WireType, unsigned: bool) -> Result<Datum> {
    use WireType::*;
    fn eat<const N: usize>(buf: &mut ParseBuf<'_>) -> Result<[u8; N]> {
        let bytes = buf.checked_eat(N).ok_or_else(malformed)?;
        Ok(bytes.try_into().expect("as many bytes as asked for"))
    }
    let integer = |signed: i64, plain: u64| {
        if unsigned { Datum::UInt(plain) } else { Datum::Int(signed) }
    };
    Ok(match wire {
        MYSQL_TYPE_NULL => Datum::Null,
        MYSQL_TYPE_TINY => {
            let [byte] = eat(buf)?;
            integer((byte as i8).into(), byte.into())
        }
        MYSQL_TYPE_SHORT | MYSQL_TYPE_YEAR => {
            let bytes = eat(buf)?;
            integer(i16::from_le_bytes(bytes).into(), u16::from_le_bytes(bytes).into())
        }
        MYSQL_TYPE_LONG | MYSQL_TYPE_INT24 => {
            let bytes = eat(buf)?;
            integer(i32::from_le_bytes(bytes).into(), u32::from_le_bytes(bytes).into())
        }
        MYSQL_TYPE_LONGLONG => {
            let bytes = eat(buf)?;
            integer(i64::from_le_bytes(bytes), u64::from_le_bytes(bytes))
        }
        MYSQL_TYPE_FLOAT => Datum::Double(f32::from_le_bytes(eat(buf)?).into()),
        MYSQL_TYPE_DOUBLE => Datum::Double(f64::from_le_bytes(eat(buf)?)),
        MYSQL_TYPE_DATE | MYSQL_TYPE_NEWDATE => match moment(buf)? {
            micros if micros % DAY == 0 => days(micros)?,
            micros => Datum::DateTime(micros),
        },
        MYSQL_TYPE_DATETIME
        | MYSQL_TYPE_TIMESTAMP
        | MYSQL_TYPE_DATETIME2
        | MYSQL_TYPE_TIMESTAMP2 => Datum::DateTime(moment(buf)?),
        MYSQL_TYPE_TIME | MYSQL_TYPE_TIME2 => Datum::Time(time(buf)?),
        _ => {
            let bytes = buf.checked_eat_lenenc_str().ok_or_else(malformed)?;
            string(wire, bytes.to_vec())?
        }
    })
}

/// A value sent as bytes. Text that is not UTF-8 stays bytes: many clients bind both alike.
fn string(wire: WireType, bytes: Vec<u8>) -> Result<Datum> {
    use WireType::*;
    Ok(match wire {
        MYSQL_TYPE_DECIMAL | MYSQL_TYPE_NEWDECIMAL => {
            let text = String::from_utf8_lossy(&bytes);
            match Decimal::parse(text.trim()) {
                Some(decimal) => Datum::Decimal(decimal),
                None => {
                    return Err(Error::wrong_value(format!("Incorrect DECIMAL value: '{text}'")));
                }
            }
        }
        MYSQL_TYPE_TINY_BLOB
        | MYSQL_TYPE_MEDIUM_BLOB
        | MYSQL_TYPE_LONG_BLOB
        | MYSQL_TYPE_BLOB
        | MYSQL_TYPE_GEOMETRY
        | MYSQL_TYPE_BIT
        | MYSQL_TYPE_VECTOR => Datum::Bytes(bytes),
        _ => match String::from_utf8(bytes) {
            Ok(text) => Datum::Text(text),
            Err(error) => Datum::Bytes(error.into_bytes()),
        },
    })
}

fn days(micros: i64) -> Result<Datum> {
    let days = i32::try_from(micros.div_euclid(DAY));
    days.map(Datum::Date).map_err(|_| malformed())
}

/// `len u8 | year u16, month, day | [hour, minute, second | [micros u32]]`.
fn moment(buf: &mut ParseBuf<'_>) -> Result<i64> {
    let len = buf.checked_eat_u8().ok_or_else(malformed)?;
    let bytes = buf.checked_eat(len.into()).ok_or_else(malformed)?;
    let (date, clock, micros) = match len {
        0 => return Err(Error::wrong_value("Incorrect datetime value: '0000-00-00 00:00:00'")),
        4 => (bytes, [0; 3], 0),
        7 => (bytes, [bytes[4], bytes[5], bytes[6]], 0),
        11 => {
            let micros = u32::from_le_bytes([bytes[7], bytes[8], bytes[9], bytes[10]]);
            (bytes, [bytes[4], bytes[5], bytes[6]], micros)
        }
        _ => return Err(malformed()),
    };
    let year = i64::from(u16::from_le_bytes([date[0], date[1]]));
    let (month, day) = (u32::from(date[2]), u32::from(date[3]));
    let [hour, minute, second] = clock.map(i64::from);
    let date_fits = year <= 9999 && calendar::is_date(year, month, day);
    if !date_fits || hour > 23 || minute > 59 || second > 59 || micros > 999_999 {
        return Err(Error::wrong_value(format!(
            "Incorrect datetime value: '{year:04}-{month:02}-{day:02} \
             {hour:02}:{minute:02}:{second:02}'"
        )));
    }
    let seconds = hour * 3600 + minute * 60 + second;
    let of_day = seconds * SECOND + i64::from(micros);
    Ok(calendar::days_from_civil(year, month, day) * DAY + of_day)
}

/// `len u8 | negative u8, days u32, hour, minute, second | [micros u32]`.
fn time(buf: &mut ParseBuf<'_>) -> Result<i64> {
    let len = buf.checked_eat_u8().ok_or_else(malformed)?;
    let bytes = buf.checked_eat(len.into()).ok_or_else(malformed)?;
    if len == 0 {
        return Ok(0);
    }
    if len != 8 && len != 12 {
        return Err(malformed());
    }
    let days = i64::from(u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]));
    let [hour, minute, second] = [bytes[5], bytes[6], bytes[7]].map(i64::from);
    let mut micros = (days * 86_400 + hour * 3600 + minute * 60 + second) * SECOND;
    if len == 12 {
        let fraction = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        micros += i64::from(fraction);
    }
    if micros > TIME_MAX {
        return Err(Error::wrong_value("Incorrect time value"));
    }
    Ok(if bytes[0] != 0 { -micros } else { micros })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(ty: WireType, flags: u8, bytes: &[u8]) -> Result<Datum> {
        let mut body = vec![0, 1, ty as u8, flags];
        body.extend_from_slice(bytes);
        Ok(Statement::new(1).values(&body)?.remove(0))
    }

    #[test]
    fn every_type_is_read() {
        use WireType::*;
        let is = |ty, flags, bytes: &[u8], value| assert_eq!(one(ty, flags, bytes), Ok(value));
        is(MYSQL_TYPE_TINY, 0, &[0xFF], Datum::Int(-1));
        is(MYSQL_TYPE_TINY, UNSIGNED, &[0xFF], Datum::UInt(255));
        is(MYSQL_TYPE_SHORT, 0, &[0xFE, 0xFF], Datum::Int(-2));
        is(MYSQL_TYPE_LONG, UNSIGNED, &[0xFF; 4], Datum::UInt(u32::MAX.into()));
        is(MYSQL_TYPE_LONGLONG, 0, &[0xFF; 8], Datum::Int(-1));
        is(MYSQL_TYPE_LONGLONG, UNSIGNED, &[0xFF; 8], Datum::UInt(u64::MAX));
        is(MYSQL_TYPE_FLOAT, 0, &1.5f32.to_le_bytes(), Datum::Double(1.5));
        is(MYSQL_TYPE_DOUBLE, 0, &0.1f64.to_le_bytes(), Datum::Double(0.1));
        is(
            MYSQL_TYPE_NEWDECIMAL,
            0,
            b"\x05-1.50",
            Datum::Decimal(Decimal::parse("-1.50").unwrap()),
        );
        is(MYSQL_TYPE_VAR_STRING, 0, "\u{2}é".as_bytes(), Datum::Text("é".into()));
        is(MYSQL_TYPE_STRING, 0, &[1, 0xFF], Datum::Bytes(vec![0xFF]));
        is(MYSQL_TYPE_BLOB, 0, b"\x01a", Datum::Bytes(b"a".to_vec()));
        is(MYSQL_TYPE_DATE, 0, &[4, 0xB2, 0x07, 1, 2], Datum::Date(1));
        is(MYSQL_TYPE_DATETIME, 0, &[7, 0xB2, 0x07, 1, 1, 0, 0, 1], Datum::DateTime(SECOND));
        let micros = [11, 0xB2, 0x07, 1, 1, 0, 0, 0, 7, 0, 0, 0];
        is(MYSQL_TYPE_TIMESTAMP, 0, &micros, Datum::DateTime(7));
        is(MYSQL_TYPE_TIME, 0, &[8, 1, 1, 0, 0, 0, 0, 0, 1], Datum::Time(-DAY - SECOND));
        is(MYSQL_TYPE_TIME, 0, &[0], Datum::Time(0));
        is(MYSQL_TYPE_NULL, 0, &[], Datum::Null);
    }

    #[test]
    fn impossible_dates_are_refused() {
        for date in [[0xE9, 0x07, 2, 29], [0xE8, 0x07, 13, 1], [0, 0, 0, 0]] {
            let mut bytes = vec![4];
            bytes.extend_from_slice(&date);
            assert_eq!(one(WireType::MYSQL_TYPE_DATE, 0, &bytes).unwrap_err().code, 1292);
        }
    }

    #[test]
    fn types_are_kept_and_nulls_and_long_data_need_no_value() {
        let mut statement = Statement::new(3);
        let tiny = WireType::MYSQL_TYPE_TINY as u8;
        let blob = WireType::MYSQL_TYPE_BLOB as u8;
        statement.append_long_data(2, b"ab", 3, 3);
        statement.append_long_data(2, b"c", 3, 3);
        let first = [0b010, 1, tiny, 0, tiny, 0, blob, 0, 5];
        let expected = vec![Datum::Int(5), Datum::Null, Datum::Bytes(b"abc".to_vec())];
        assert_eq!(statement.values(&first), Ok(expected));
        let second = [0b100, 0, 6, 7];
        assert_eq!(statement.values(&second), Ok(vec![Datum::Int(6), Datum::Int(7), Datum::Null]));
        statement.append_long_data(2, b"abcd", 3, 9);
        assert_eq!(statement.values(&second).unwrap_err().code, 1153);
        assert!(statement.values(&second).is_ok());
    }

    #[test]
    fn long_data_of_all_parameters_is_bounded() {
        let mut statement = Statement::new(3);
        let total = 5;
        for parameter in 0..3 {
            let left = total - statement.long_data_bytes();
            statement.append_long_data(parameter, b"ab", 4, left);
            assert!(statement.long_data_bytes() <= total);
        }
        assert_eq!(statement.values(&[0, 0]).unwrap_err().code, 1153);
        assert_eq!(statement.long_data_bytes(), 0, "the failed execution gives them back");
    }

    #[test]
    fn a_packet_cut_anywhere_is_an_error() {
        let whole = [0, 1, WireType::MYSQL_TYPE_DATETIME as u8, 0, 7, 0xB2, 0x07, 1, 1, 0, 0, 1];
        assert!(Statement::new(1).values(&whole).is_ok());
        for len in 0..whole.len() {
            assert!(Statement::new(1).values(&whole[..len]).is_err(), "{len} bytes");
        }
    }
}
