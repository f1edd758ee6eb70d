//! Functions that turn values into other forms: checksums, base 64, addresses, sounds, months. They
//! must never look at a session or a clock.

use super::*;
use std::borrow::Cow;
use std::net::Ipv4Addr;

const fn function(name: &'static str, least: usize, most: usize, eval: Eval) -> Function {
    Function { name, args: (least, most), ty: text_type, strict: true, eval }
}

fn s<'a>(cell: &Cell<'a>) -> Cow<'a, str> {
    text_of_cell(*cell).unwrap_or_default()
}

fn n(cell: &Cell<'_>) -> i64 {
    i64_of(*cell).unwrap_or_default()
}

fn bytes<'a>(cell: &Cell<'a>) -> Cow<'a, [u8]> {
    match cell {
        Cell::Bytes(v) => Cow::Borrowed(*v),
        Cell::Text(v) => Cow::Borrowed(v.as_bytes()),
        cell => Cow::Owned(s(cell).into_owned().into_bytes()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Letters of a line of TO_BASE64.
const LINE: usize = 76;

fn to_base64(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let bytes = bytes(&args[0]);
    let mut text = String::with_capacity(bytes.len() * 3 / 2);
    for (i, part) in bytes.chunks(3).enumerate() {
        if i > 0 && i * 4 % LINE == 0 {
            text.push('\n');
        }
        let at = |i: usize| u32::from(part.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for letter in 0..4 {
            text.push(match letter <= part.len() {
                true => char::from(BASE64[(bits >> (18 - 6 * letter)) as usize & 63]),
                false => '=',
            });
        }
    }
    out.text(&text);
    Ok(())
}

/// NULL for what is not base 64.
fn from_base64(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let text = bytes(&args[0]);
    let letters = text.iter().filter(|b| !b.is_ascii_whitespace());
    let letters: Vec<u8> = letters.copied().collect();
    let filled = letters.iter().rev().take_while(|b| **b == b'=').count();
    let (plain, _) = letters.split_at(letters.len() - filled.min(letters.len()));
    let mut decoded = Vec::with_capacity(plain.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for letter in plain {
        let Some(value) = BASE64.iter().position(|b| b == letter) else {
            out.null();
            return Ok(());
        };
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
        }
    }
    match letters.len().is_multiple_of(4) && filled <= 2 {
        true => out.cell(Cell::Bytes(&decoded)),
        false => out.null(),
    }
    Ok(())
}

/// `a.b.c.d`, or a short form in which the last number fills the rest.
fn inet_aton(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let text = s(&args[0]);
    let parts: Option<Vec<u32>> =
        text.split('.').map(|part| part.parse::<u8>().ok().map(u32::from)).collect();
    match parts.as_deref() {
        Some([all @ .., last]) if all.len() < 4 => {
            let high = (0..3).map(|i| all.get(i).copied().unwrap_or(0));
            let value = high.fold(0u32, |value, part| value << 8 | part) << 8 | last;
            out.int(value.into());
        }
        _ => out.null(),
    }
    Ok(())
}

fn inet_ntoa(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    match u32::try_from(n(&args[0])) {
        Ok(address) => out.text(&Ipv4Addr::from(address).to_string()),
        Err(_) => out.null(),
    }
    Ok(())
}

/// A letter and at least three digits; MySQL's drops vowels first and does not cut.
fn soundex(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let code = |c: char| match c {
        'B' | 'F' | 'P' | 'V' => '1',
        'C' | 'G' | 'J' | 'K' | 'Q' | 'S' | 'X' | 'Z' => '2',
        'D' | 'T' => '3',
        'L' => '4',
        'M' | 'N' => '5',
        'R' => '6',
        _ => '0',
    };
    let text = s(&args[0]);
    let mut letters = text.chars().filter(|c| c.is_alphabetic()).map(|c| c.to_ascii_uppercase());
    let mut sound = String::new();
    if let Some(first) = letters.next() {
        sound.push(first);
        let mut last = code(first);
        for code in letters.map(code).filter(|code| *code != '0') {
            if code != last {
                sound.push(code);
            }
            last = code;
        }
        while sound.chars().count() < 4 {
            sound.push('0');
        }
    }
    out.text(&sound);
    Ok(())
}

/// Months since year 0 of `YYMM` or `YYYYMM`. 1210 for what is no month.
fn months(period: i64) -> Result<i64> {
    let (year, month) = (period / 100, period % 100);
    if !(1..=12).contains(&month) || period < 0 || year > 9999 {
        return Err(failure(1210, "Incorrect arguments to period_add"));
    }
    let year = match year {
        0..70 => year + 2000,
        70..100 => year + 1900,
        year => year,
    };
    Ok(year * 12 + month - 1)
}

fn period_add(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let sum = months(n(&args[0]))?.checked_add(n(&args[1])).filter(|months| *months >= 0);
    match sum {
        Some(months) => out.int(months / 12 * 100 + months % 12 + 1),
        None => return Err(failure(1690, "BIGINT value is out of range in 'period_add'")),
    }
    Ok(())
}

fn period_diff(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    out.int(months(n(&args[0]))? - months(n(&args[1]))?);
    Ok(())
}

/// Where a pattern is found, in characters from 1; 0: nowhere.
fn regexp_instr(args: &[Cell<'_>], out: &mut Out<'_>, scratch: &mut Scratch) -> Result<()> {
    let text = s(&args[0]);
    let found = scratch.pattern(&s(&args[1]))?.find(&text);
    out.int(found.map_or(0, |found| text[..found.start()].chars().count() as i64 + 1));
    Ok(())
}

fn is_text(args: &[Cell<'_>]) -> bool {
    matches!(args[0], Cell::Text(_))
}

pub(super) const TABLE: &[Function] = &[
    function("md5", 1, 1, |a, o, _| {
        o.text(&hex(&super::digest::md5(&bytes(&a[0]))));
        Ok(())
    }),
    function("sha2", 2, 2, |a, o, _| {
        match super::digest::sha2(&bytes(&a[0]), n(&a[1])) {
            Some(digest) => o.text(&hex(&digest)),
            None => o.null(),
        }
        Ok(())
    }),
    Function {
        ty: unsigned,
        ..function("crc32", 1, 1, |a, o, _| {
            let mut sum = flate2::Crc::new();
            sum.update(&bytes(&a[0]));
            o.int(sum.sum().into());
            Ok(())
        })
    },
    function("to_base64", 1, 1, to_base64),
    Function { ty: binary_type, ..function("from_base64", 1, 1, from_base64) },
    Function { ty: unsigned, ..function("inet_aton", 1, 1, inet_aton) },
    function("inet_ntoa", 1, 1, inet_ntoa),
    function("soundex", 1, 1, soundex),
    Function { ty: int, ..function("period_add", 2, 2, period_add) },
    Function { ty: int, ..function("period_diff", 2, 2, period_diff) },
    Function { ty: int, ..function("regexp_instr", 2, 2, regexp_instr) },
    Function {
        strict: false,
        ..function("charset", 1, 1, |a, o, _| {
            o.text(if is_text(a) { "utf8mb4" } else { "binary" });
            Ok(())
        })
    },
    Function {
        strict: false,
        ..function("collation", 1, 1, |a, o, _| {
            o.text(if is_text(a) { "utf8mb4_bin" } else { "binary" });
            Ok(())
        })
    },
];

fn binary_type(_: &Types<'_>) -> Result<DataType> {
    Ok(DataType::Binary)
}
