//! String functions. Positions count characters from 1; lengths in bytes only where MySQL's do.
//! None may build a string longer than [`TEXT_MAX`].

use super::*;
use sha1::{Digest, Sha1};

/// Longest result, in bytes; longer is NULL, as with max_allowed_packet.
const TEXT_MAX: usize = 64 << 20;

const ANY: usize = 256;

const fn function(name: &'static str, least: usize, most: usize, eval: Eval) -> Function {
    Function { name, args: (least, most), ty: text_type, strict: true, eval }
}

const fn number(name: &'static str, least: usize, most: usize, eval: Eval) -> Function {
    Function { name, args: (least, most), ty: int, strict: true, eval }
}

fn s<'a>(cell: &Cell<'a>) -> std::borrow::Cow<'a, str> {
    text_of_cell(*cell).unwrap_or_default()
}

fn n(cell: &Cell<'_>) -> i64 {
    i64_of(*cell).unwrap_or_default()
}

fn bytes<'a>(cell: &Cell<'a>) -> std::borrow::Cow<'a, [u8]> {
    match cell {
        Cell::Bytes(v) => std::borrow::Cow::Borrowed(*v),
        Cell::Text(v) => std::borrow::Cow::Borrowed(v.as_bytes()),
        cell => std::borrow::Cow::Owned(s(cell).into_owned().into_bytes()),
    }
}

/// Byte range of characters `from..from + len`.
fn slice(text: &str, from: usize, len: usize) -> &str {
    if text.is_ascii() {
        let from = from.min(text.len());
        return &text[from..from.saturating_add(len).min(text.len())];
    }
    let mut starts = text.char_indices().map(|(i, _)| i).chain([text.len()]);
    let Some(start) = starts.nth(from) else { return "" };
    let end = match len {
        0 => start,
        len => starts.nth(len - 1).unwrap_or(text.len()),
    };
    &text[start..end]
}

fn chars(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

fn substring(text: &str, position: i64, len: Option<i64>) -> &str {
    let count = chars(text) as i64;
    let from = match position {
        0 => return "",
        p if p > 0 => p - 1,
        p if -p > count => return "",
        p => count + p,
    };
    let len = len.unwrap_or(i64::MAX).clamp(0, (count - from).max(0));
    slice(text, from as usize, len as usize)
}

fn concat(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let text: String = args.iter().map(s).collect();
    out.text(&text);
    Ok(())
}

fn concat_ws(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    if args[0] == Cell::Null {
        out.null();
        return Ok(());
    }
    let parts: Vec<_> = args[1..].iter().filter(|a| **a != Cell::Null).map(s).collect();
    out.text(&parts.join(&s(&args[0])));
    Ok(())
}

fn pad(args: &[Cell<'_>], out: &mut Out<'_>, left: bool) {
    let (text, fill) = (s(&args[0]), args.get(2).map_or(" ".into(), s));
    let (want, have) = (n(&args[1]), chars(&text));
    let Ok(want) = usize::try_from(want) else { return out.null() };
    if want.saturating_mul(4) > TEXT_MAX || (want > have && fill.is_empty()) {
        return out.null();
    }
    if want <= have {
        return out.text(slice(&text, 0, want));
    }
    let fill: String = fill.chars().cycle().take(want - have).collect();
    match left {
        true => out.text(&(fill + &text)),
        false => out.text(&(text.into_owned() + &fill)),
    }
}

fn locate(needle: &str, text: &str, from: i64) -> i64 {
    let Ok(from) = usize::try_from(from - 1) else { return 0 };
    if from > chars(text) {
        return 0;
    }
    let skipped = slice(text, 0, from).len();
    match text[skipped..].find(needle) {
        Some(at) => chars(&text[..skipped + at]) as i64 + 1,
        None => 0,
    }
}

fn trim(args: &[Cell<'_>], out: &mut Out<'_>, start: bool, end: bool) {
    let (text, what) = (s(&args[0]), args.get(1).map_or(" ".into(), s));
    let mut rest = &*text;
    if !what.is_empty() {
        while let Some(r) = rest.strip_prefix(&*what).filter(|_| start) {
            rest = r;
        }
        while let Some(r) = rest.strip_suffix(&*what).filter(|_| end) {
            rest = r;
        }
    }
    out.text(rest);
}

fn hex(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    match args[0] {
        Cell::Text(_) | Cell::Bytes(_) | Cell::Date(_) | Cell::DateTime(_) | Cell::Time(_) => {
            let text: String = bytes(&args[0]).iter().map(|b| format!("{b:02X}")).collect();
            out.text(&text);
        }
        cell => out.text(&format!("{:X}", bits_of(cell).unwrap_or_default())),
    }
    Ok(())
}

fn unhex(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let text = s(&args[0]);
    let text = if text.len() % 2 == 1 { format!("0{text}") } else { text.into_owned() };
    let digits = text.as_bytes().chunks(2);
    let decoded: Option<Vec<u8>> =
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    match decoded {
        Some(decoded) => out.cell(Cell::Bytes(&decoded)),
        None => out.null(),
    }
    Ok(())
}

fn radix(mut v: u64, base: u32) -> String {
    if v == 0 {
        return "0".into();
    }
    let mut digits = Vec::new();
    while v > 0 {
        let digit = char::from_digit((v % u64::from(base)) as u32, base).unwrap_or('0');
        digits.push(digit.to_ascii_uppercase());
        v /= u64::from(base);
    }
    digits.iter().rev().collect()
}

fn conv(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let (from, to) = (n(&args[1]), n(&args[2]));
    let base = |b: i64| u32::try_from(b.abs()).ok().filter(|b| (2..=36).contains(b));
    let (Some(from), Some(base_to)) = (base(from), base(to)) else {
        out.null();
        return Ok(());
    };
    let text = s(&args[0]);
    let text = text.trim();
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |t| (true, t));
    let mut value = 0u64;
    for digit in digits.chars().map_while(|c| c.to_digit(from)) {
        value = value.saturating_mul(from.into()).saturating_add(digit.into());
    }
    let value = if negative { value.wrapping_neg() } else { value };
    match to < 0 && (value as i64) < 0 {
        true => out.text(&format!("-{}", radix((value as i64).unsigned_abs(), base_to))),
        false => out.text(&radix(value, base_to)),
    }
    Ok(())
}

fn format_number(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let scale = n(&args[1]).clamp(0, SCALE_MAX.into()) as u8;
    let Some(value) = decimal_of(args[0]).and_then(|d| d.rescale(scale)) else {
        out.null();
        return Ok(());
    };
    let text = value.to_string();
    let (sign, rest) = text.strip_prefix('-').map_or(("", text.as_str()), |t| ("-", t));
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let mut grouped = String::from(sign);
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(c);
    }
    if !fraction.is_empty() {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    out.text(&grouped);
    Ok(())
}

fn substring_index(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let (text, delimiter, count) = (s(&args[0]), s(&args[1]), n(&args[2]));
    if delimiter.is_empty() || count == 0 {
        out.text("");
        return Ok(());
    }
    let wanted = count.unsigned_abs() as usize;
    let at = match count > 0 {
        true => text.match_indices(&*delimiter).nth(wanted - 1).map(|(at, _)| at),
        false => text.rmatch_indices(&*delimiter).nth(wanted - 1).map(|(at, d)| at + d.len()),
    };
    match (at, count > 0) {
        (None, _) => out.text(&text),
        (Some(at), true) => out.text(&text[..at]),
        (Some(at), false) => out.text(&text[at..]),
    }
    Ok(())
}

fn insert(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let (text, position, len, new) = (s(&args[0]), n(&args[1]), n(&args[2]), s(&args[3]));
    let count = chars(&text) as i64;
    if position < 1 || position > count {
        out.text(&text);
        return Ok(());
    }
    let from = (position - 1) as usize;
    let removed = if len < 0 { count } else { len.min(count - position + 1) } as usize;
    let head = slice(&text, 0, from);
    let tail = slice(&text, from + removed, usize::MAX);
    out.text(&format!("{head}{new}{tail}"));
    Ok(())
}

fn repeat(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let (text, times) = (s(&args[0]), n(&args[1]).max(0) as usize);
    match text.len().saturating_mul(times) > TEXT_MAX {
        true => out.null(),
        false => out.text(&text.repeat(times)),
    }
    Ok(())
}

fn char_of(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let mut built = Vec::new();
    for code in args.iter().filter_map(|a| bits_of(*a)) {
        let code = code as u32;
        let bytes = code.to_be_bytes();
        let skip = (code.leading_zeros() / 8).min(3) as usize;
        built.extend_from_slice(&bytes[skip..]);
    }
    out.cell(Cell::Bytes(&built));
    Ok(())
}

fn sha1_hex(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let digest = Sha1::digest(bytes(&args[0]));
    let text: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    out.text(&text);
    Ok(())
}

fn regexp_replace(args: &[Cell<'_>], out: &mut Out<'_>, scratch: &mut Scratch) -> Result<()> {
    let pattern = scratch.pattern(&s(&args[1]))?;
    out.text(&pattern.replace_all(&s(&args[0]), &*s(&args[2])));
    Ok(())
}

fn regexp_substr(args: &[Cell<'_>], out: &mut Out<'_>, scratch: &mut Scratch) -> Result<()> {
    let text = s(&args[0]);
    match scratch.pattern(&s(&args[1]))?.find(&text) {
        Some(found) => out.text(found.as_str()),
        None => out.null(),
    }
    Ok(())
}

fn regexp(args: &[Cell<'_>], out: &mut Out<'_>, scratch: &mut Scratch) -> Result<()> {
    let found = scratch.pattern(&s(&args[1]))?.is_match(&s(&args[0]));
    out.bool(found);
    Ok(())
}

fn find_in_set(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let (needle, list) = (s(&args[0]), s(&args[1]));
    let at = match list.is_empty() {
        true => None,
        false => list.split(',').position(|item| item == needle),
    };
    out.int(at.map_or(0, |at| at as i64 + 1));
    Ok(())
}

fn quote(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    if args[0] == Cell::Null {
        out.text("NULL");
        return Ok(());
    }
    let mut quoted = String::from("'");
    for c in s(&args[0]).chars() {
        match c {
            '\'' | '\\' => quoted.extend(['\\', c]),
            '\0' => quoted.push_str("\\0"),
            '\x1a' => quoted.push_str("\\Z"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    out.text(&quoted);
    Ok(())
}

/// All arguments as one value that differs when any of them does: COUNT(DISTINCT a, b).
fn tuple(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let mut text = String::new();
    for arg in args {
        let part = s(arg);
        text.push_str(&format!("{}:{part}", part.len()));
    }
    out.text(&text);
    Ok(())
}

/// A LIKE pattern with an escape character of its own (none, when empty) as one with `\`.
fn like_pattern(args: &[Cell<'_>], out: &mut Out<'_>, _: &mut Scratch) -> Result<()> {
    let (pattern, escape) = (s(&args[0]), s(&args[1]));
    let escape = escape.chars().next();
    let mut changed = String::with_capacity(pattern.len() + 8);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let literal = (Some(c) == escape).then(|| chars.next().unwrap_or(c));
        match literal {
            Some(c @ ('%' | '_' | '\\')) => changed.extend(['\\', c]),
            Some(c) => changed.push(c),
            None if c == '\\' => changed.push_str("\\\\"),
            None => changed.push(c),
        }
    }
    out.text(&changed);
    Ok(())
}

fn binary(_: &Types<'_>) -> Result<DataType> {
    Ok(DataType::Binary)
}

/// Letter by letter: one without an upper case of one letter (ß) stays, as in MySQL.
fn upper(text: &str) -> String {
    let one = |c: char| {
        let mut upper = c.to_uppercase();
        match (upper.next(), upper.next()) {
            (Some(upper), None) => upper,
            _ => c,
        }
    };
    text.chars().map(one).collect()
}

/// Letter by letter; of a lower case of several letters the first counts (İ gives i), as in MySQL.
fn lower(text: &str) -> String {
    text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect()
}

pub(super) const TABLE: &[Function] = &[
    function("concat", 1, ANY, concat),
    Function { strict: false, ..function("concat_ws", 2, ANY, concat_ws) },
    function("__tuple", 1, ANY, tuple),
    function("substring", 2, 3, |a, o, _| {
        o.text(substring(&s(&a[0]), n(&a[1]), a.get(2).map(n)));
        Ok(())
    }),
    function("left", 2, 2, |a, o, _| {
        o.text(slice(&s(&a[0]), 0, n(&a[1]).max(0) as usize));
        Ok(())
    }),
    function("right", 2, 2, |a, o, _| {
        let text = s(&a[0]);
        let count = chars(&text);
        let len = (n(&a[1]).max(0) as usize).min(count);
        o.text(slice(&text, count - len, len));
        Ok(())
    }),
    function("lpad", 2, 3, |a, o, _| {
        pad(a, o, true);
        Ok(())
    }),
    function("rpad", 2, 3, |a, o, _| {
        pad(a, o, false);
        Ok(())
    }),
    function("trim", 1, 2, |a, o, _| {
        trim(a, o, true, true);
        Ok(())
    }),
    function("ltrim", 1, 2, |a, o, _| {
        trim(a, o, true, false);
        Ok(())
    }),
    function("rtrim", 1, 2, |a, o, _| {
        trim(a, o, false, true);
        Ok(())
    }),
    function("upper", 1, 1, |a, o, _| {
        o.text(&upper(&s(&a[0])));
        Ok(())
    }),
    function("lower", 1, 1, |a, o, _| {
        o.text(&lower(&s(&a[0])));
        Ok(())
    }),
    function("replace", 3, 3, |a, o, _| {
        let from = s(&a[1]);
        match from.is_empty() {
            true => o.text(&s(&a[0])),
            false => o.text(&s(&a[0]).replace(&*from, &s(&a[2]))),
        }
        Ok(())
    }),
    function("reverse", 1, 1, |a, o, _| {
        o.text(&s(&a[0]).chars().rev().collect::<String>());
        Ok(())
    }),
    function("space", 1, 1, |a, o, _| {
        let len = n(&a[0]).max(0) as usize;
        if len > TEXT_MAX {
            o.null()
        } else {
            o.text(&" ".repeat(len))
        }
        Ok(())
    }),
    function("repeat", 2, 2, repeat),
    function("insert", 4, 4, insert),
    function("__like_pattern", 2, 2, like_pattern),
    function("hex", 1, 1, hex),
    Function { ty: binary, ..function("unhex", 1, 1, unhex) },
    function("bin", 1, 1, |a, o, _| {
        o.text(&format!("{:b}", bits_of(a[0]).unwrap_or_default()));
        Ok(())
    }),
    function("oct", 1, 1, |a, o, _| {
        o.text(&format!("{:o}", bits_of(a[0]).unwrap_or_default()));
        Ok(())
    }),
    function("conv", 3, 3, conv),
    function("format", 2, 3, format_number),
    function("substring_index", 3, 3, substring_index),
    Function { strict: false, ..function("quote", 1, 1, quote) },
    Function { ty: binary, strict: false, ..function("char", 1, ANY, char_of) },
    function("sha1", 1, 1, sha1_hex),
    function("regexp_replace", 3, 3, regexp_replace),
    function("regexp_substr", 2, 2, regexp_substr),
    number("regexp_like", 2, 3, regexp),
    Function { ty: boolean, ..number("__regexp", 2, 2, regexp) },
    number("length", 1, 1, |a, o, _| {
        o.int(bytes(&a[0]).len() as i64);
        Ok(())
    }),
    number("bit_length", 1, 1, |a, o, _| {
        o.int(bytes(&a[0]).len() as i64 * 8);
        Ok(())
    }),
    number("char_length", 1, 1, |a, o, _| {
        o.int(match a[0] {
            Cell::Bytes(v) => v.len() as i64,
            _ => chars(&s(&a[0])) as i64,
        });
        Ok(())
    }),
    number("locate", 2, 3, |a, o, _| {
        o.int(locate(&s(&a[0]), &s(&a[1]), a.get(2).map_or(1, n)));
        Ok(())
    }),
    number("instr", 2, 2, |a, o, _| {
        o.int(locate(&s(&a[1]), &s(&a[0]), 1));
        Ok(())
    }),
    number("strcmp", 2, 2, |a, o, _| {
        o.int(s(&a[0]).cmp(&s(&a[1])) as i64);
        Ok(())
    }),
    number("ascii", 1, 1, |a, o, _| {
        o.int(bytes(&a[0]).first().map_or(0, |b| i64::from(*b)));
        Ok(())
    }),
    number("ord", 1, 1, |a, o, _| {
        let text = s(&a[0]);
        let first = text.chars().next().map_or("", |c| &text[..c.len_utf8()]);
        o.int(first.bytes().fold(0, |code, b| code << 8 | i64::from(b)));
        Ok(())
    }),
    number("find_in_set", 2, 2, find_in_set),
];
