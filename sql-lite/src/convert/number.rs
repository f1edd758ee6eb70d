//! Numbers as MySQL prints them. It must never allocate for an integer.
//!
//! A floating number takes its shortest digits that read back the same (FLOAT: at most six), in
//! plain notation while the point stays within 15 places of the digits, else as `d.ddde[-]x`.

use damask_types::Decimal;
use std::io::Write;

/// Significant digits MySQL shows of a FLOAT.
const FLOAT_DIGITS: usize = 6;
/// Farthest place of the decimal point in plain notation, either way.
const PLAIN_POINT_MAX: i32 = 15;

/// An unsigned integer in decimal.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A signed integer in decimal.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    put_u64(out, value.unsigned_abs());
}

/// A fixed-point number with all digits of its scale.
pub fn put_decimal(out: &mut Vec<u8>, value: Decimal) {
    let all = value.unscaled.unsigned_abs();
    let (Ok(small), 0..=18) = (u64::try_from(all), value.scale) else {
        write!(out, "{value}").expect("a vector takes all bytes");
        return;
    };
    if value.unscaled < 0 {
        out.push(b'-');
    }
    let mut unit = 10u64.pow(u32::from(value.scale));
    put_u64(out, small / unit);
    if value.scale > 0 {
        out.push(b'.');
        let fraction = small % unit;
        for _ in 0..value.scale {
            unit /= 10;
            out.push(b'0' + (fraction / unit % 10) as u8);
        }
    }
}

/// A DOUBLE; what is not finite prints nothing and gives false.
pub fn put_double(out: &mut Vec<u8>, value: f64) -> bool {
    if !value.is_finite() {
        return false;
    }
    let mut digits = [0u8; 32];
    let mut cursor = std::io::Cursor::new(&mut digits[..]);
    write!(cursor, "{:e}", value.abs()).expect("17 digits and an exponent fit");
    let len = cursor.position() as usize;
    put_scientific(out, value < 0.0, &digits[..len]);
    true
}

/// A FLOAT: six significant digits; what is not finite prints nothing and gives false.
pub fn put_float(out: &mut Vec<u8>, value: f64) -> bool {
    if !value.is_finite() {
        return false;
    }
    let mut digits = [0u8; 32];
    let mut cursor = std::io::Cursor::new(&mut digits[..]);
    write!(cursor, "{:.*e}", FLOAT_DIGITS - 1, value.abs()).expect("6 digits and an exponent fit");
    let len = cursor.position() as usize;
    put_scientific(out, value < 0.0, &digits[..len]);
    true
}

/// Lays out `d[.ddd]e[-]x`.
fn put_scientific(out: &mut Vec<u8>, negative: bool, text: &[u8]) {
    let e = text.iter().position(|b| *b == b'e').expect("an exponent is printed");
    let exponent: i32 = std::str::from_utf8(&text[e + 1..])
        .ok()
        .and_then(|x| x.parse().ok())
        .expect("an exponent is a number");
    let mut digits = [0u8; 24];
    let mut len = 0;
    for b in text[..e].iter().filter(|b| **b != b'.') {
        digits[len] = *b;
        len += 1;
    }
    while len > 1 && digits[len - 1] == b'0' {
        len -= 1;
    }
    let digits = &digits[..len];
    if digits == b"0" {
        // Negative zero too: MySQL stores it, and prints `-0`.
        out.extend_from_slice(if negative { b"-0" } else { b"0" });
        return;
    }
    if negative {
        out.push(b'-');
    }
    let point = exponent + 1;
    if !(1 - PLAIN_POINT_MAX..=PLAIN_POINT_MAX).contains(&point) {
        out.push(digits[0]);
        if len > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        out.push(b'e');
        put_i64(out, i64::from(exponent));
    } else if point <= 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + point.unsigned_abs() as usize, b'0');
        out.extend_from_slice(digits);
    } else {
        let whole = point as usize;
        out.extend_from_slice(&digits[..whole.min(len)]);
        if whole >= len {
            out.resize(out.len() + whole - len, b'0');
        } else {
            out.push(b'.');
            out.extend_from_slice(&digits[whole..]);
        }
    }
}
