//! From the values of the grouping columns to small group numbers. It must never give one number
//! to two different groups.

use crate::error::Result;
use crate::values::{Values, for_rows};
use arrow::array::{Array, ArrayRef, BinaryArray, Decimal128Array, Float64Array, Int64Array};
use arrow::array::{StringArray, UInt64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use std::collections::HashMap;
use std::sync::Arc;

/// Recent keys that are found without hashing; a power of two.
const CACHE: usize = 256;
/// Strings up to this length are keys as they are.
const SHORT: usize = 15;
/// Numbers below it are paired by a table, not by hashing.
const GRID: usize = 64;

/// A value of a grouping column or an extreme; ordered as the answer is, NULL first.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub enum Value {
    /// NULL.
    Null,
    /// Whole and decimal numbers, dates, times.
    Number(i128),
    /// A float, never -0.0.
    Float(f64),
    /// A string or bytes.
    Text(Vec<u8>),
}

impl Value {
    /// Ascending, NULL first, NaN last.
    pub fn order(&self, other: &Value) -> std::cmp::Ordering {
        match (self, other) {
            (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
            (a, b) => a.partial_cmp(b).expect("only floats may have no order"),
        }
    }
}

/// An array of one type out of values of that type.
pub fn array_of<'a>(
    values: impl Iterator<Item = &'a Value> + Clone,
    data_type: &DataType,
) -> Result<ArrayRef> {
    let number = |value: &Value| match value {
        Value::Number(number) => Some(*number),
        _ => None,
    };
    let text = |value: &'a Value| match value {
        Value::Text(text) => Some(text.as_slice()),
        _ => None,
    };
    Ok(match data_type {
        DataType::Float64 => {
            let float = |value: &Value| match value {
                Value::Float(float) => Some(*float),
                _ => None,
            };
            Arc::new(values.map(float).collect::<Float64Array>())
        }
        DataType::Decimal128(precision, scale) => {
            let array: Decimal128Array = values.map(number).collect();
            Arc::new(array.with_precision_and_scale(*precision, *scale)?)
        }
        DataType::UInt64 => {
            Arc::new(values.map(|v| number(v).map(|v| v as u64)).collect::<UInt64Array>())
        }
        DataType::Utf8 => {
            let valid = |text: &'a [u8]| {
                std::str::from_utf8(text).expect("the bytes came from a string column")
            };
            Arc::new(values.map(|v| text(v).map(valid)).collect::<StringArray>())
        }
        DataType::Binary => Arc::new(values.map(text).collect::<BinaryArray>()),
        // dates and times: the same bits
        DataType::Date32 => {
            let days = values.map(|v| number(v).map(|v| v as i32));
            Arc::new(days.collect::<arrow::array::Date32Array>())
        }
        other => {
            let array: Int64Array = values.map(|v| number(v).map(|v| v as i64)).collect();
            cast(&array, other)?
        }
    })
}

/// The values of one grouping column, numbered in the order they came.
#[derive(Debug)]
struct Dictionary {
    cache: Vec<(u128, u32)>,
    numbers: HashMap<u128, u32>,
    /// Strings of one byte; `u32::MAX`: not seen yet.
    bytes: Box<[u32; 256]>,
    long: HashMap<Vec<u8>, u32>,
    null: Option<u32>,
    values: Vec<Value>,
}

impl Dictionary {
    fn new() -> Dictionary {
        Dictionary {
            cache: vec![(0, u32::MAX); CACHE],
            numbers: HashMap::new(),
            bytes: Box::new([u32::MAX; 256]),
            long: HashMap::new(),
            null: None,
            values: Vec::new(),
        }
    }

    fn null(&mut self) -> u32 {
        let values = &mut self.values;
        *self.null.get_or_insert_with(|| {
            values.push(Value::Null);
            values.len() as u32 - 1
        })
    }

    fn code(&mut self, key: u128, value: impl FnOnce() -> Value) -> u32 {
        let mixed = (key as u64 ^ (key >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let slot = (mixed >> 56) as usize % CACHE;
        let (cached, code) = self.cache[slot];
        if cached == key && code != u32::MAX {
            return code;
        }
        let values = &mut self.values;
        let code = *self.numbers.entry(key).or_insert_with(|| {
            values.push(value());
            values.len() as u32 - 1
        });
        self.cache[slot] = (key, code);
        code
    }

    fn number(&mut self, number: i128) -> u32 {
        self.code(number as u128, || Value::Number(number))
    }

    fn text(&mut self, text: &[u8]) -> u32 {
        if let [byte] = text {
            let code = self.bytes[*byte as usize];
            if code != u32::MAX {
                return code;
            }
            self.values.push(Value::Text(text.to_vec()));
            let code = self.values.len() as u32 - 1;
            self.bytes[*byte as usize] = code;
            return code;
        }
        if text.len() <= SHORT {
            let mut key = [0u8; 16];
            key[..text.len()].copy_from_slice(text);
            key[SHORT] = text.len() as u8;
            return self.code(u128::from_le_bytes(key), || Value::Text(text.to_vec()));
        }
        if let Some(code) = self.long.get(text) {
            return *code;
        }
        self.values.push(Value::Text(text.to_vec()));
        let code = self.values.len() as u32 - 1;
        self.long.insert(text.to_vec(), code);
        code
    }

    fn float(&mut self, float: f64) -> u32 {
        let float = float + 0.0; // -0.0 is 0.0
        let float = if float.is_nan() { f64::NAN } else { float };
        self.code(float.to_bits().into(), || Value::Float(float))
    }

    fn value(&mut self, value: &Value) -> u32 {
        match value {
            Value::Null => self.null(),
            Value::Number(number) => self.number(*number),
            Value::Float(float) => self.float(*float),
            Value::Text(text) => self.text(text),
        }
    }

    /// Writes the code of each row under the mask.
    fn codes(
        &mut self,
        array: &dyn Array,
        mask: Option<&BooleanBuffer>,
        out: &mut [u32],
    ) -> Result<()> {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        macro_rules! each {
            (|$row:ident| $code:expr) => {
                match nulls {
                    None => for_rows(array.len(), mask, |$row| out[$row] = $code),
                    Some(nulls) => for_rows(array.len(), mask, |$row| {
                        out[$row] = if nulls.is_null($row) { self.null() } else { $code };
                    }),
                }
            };
        }
        match Values::of(array)? {
            Values::I64(values) => each!(|row| self.number(values[row].into())),
            Values::U64(values) => each!(|row| self.number(values[row].into())),
            Values::I32(values) => each!(|row| self.number(values[row].into())),
            Values::I128(values) => each!(|row| self.number(values[row])),
            Values::F64(values) => each!(|row| self.float(values[row])),
            Values::Texts(texts) => each!(|row| self.text(texts.get(row))),
        }
        Ok(())
    }
}

/// Pairs of numbers, numbered in the order they came.
#[derive(Clone, Debug, Default)]
struct Pairs {
    /// Of two small numbers; `u32::MAX`: not seen yet.
    grid: Vec<u32>,
    large: HashMap<(u32, u32), u32>,
    all: Vec<(u32, u32)>,
}

impl Pairs {
    fn number(&mut self, pair: (u32, u32)) -> u32 {
        let next = self.all.len() as u32;
        let (a, b) = (pair.0 as usize, pair.1 as usize);
        let number = match a < GRID && b < GRID {
            true => {
                if self.grid.is_empty() {
                    self.grid = vec![u32::MAX; GRID * GRID];
                }
                let slot = &mut self.grid[a * GRID + b];
                *slot = if *slot == u32::MAX { next } else { *slot };
                *slot
            }
            false => *self.large.entry(pair).or_insert(next),
        };
        if number == next {
            self.all.push(pair);
        }
        number
    }
}

/// All groups so far.
#[derive(Debug)]
pub struct Groups {
    columns: Vec<Dictionary>,
    /// Pairs of the first two columns' codes, then of their number and the next column's code.
    levels: Vec<Pairs>,
}

impl Groups {
    /// Of some number of columns, at least one.
    pub fn new(columns: usize) -> Groups {
        Groups {
            columns: (0..columns).map(|_| Dictionary::new()).collect(),
            levels: vec![Pairs::default(); columns - 1],
        }
    }

    /// Groups.
    pub fn len(&self) -> usize {
        self.levels.last().map_or(self.columns[0].values.len(), |level| level.all.len())
    }

    /// Writes the group of each row under the mask.
    pub fn number(
        &mut self,
        arrays: &[ArrayRef],
        mask: Option<&BooleanBuffer>,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let rows = arrays[0].len();
        out.clear();
        out.resize(rows, 0);
        self.columns[0].codes(&arrays[0], mask, out)?;
        let mut codes = vec![0; if arrays.len() > 1 { rows } else { 0 }];
        for (index, level) in self.levels.iter_mut().enumerate() {
            self.columns[index + 1].codes(&arrays[index + 1], mask, &mut codes)?;
            for_rows(rows, mask, |row| out[row] = level.number((out[row], codes[row])));
        }
        Ok(())
    }

    /// The values of a group.
    pub fn values(&self, group: usize) -> Vec<Value> {
        let mut number = group as u32;
        let mut codes = vec![0; self.columns.len()];
        for (index, level) in self.levels.iter().enumerate().rev() {
            (number, codes[index + 1]) = level.all[number as usize];
        }
        codes[0] = number;
        let codes = codes.iter().zip(&self.columns);
        codes.map(|(code, column)| column.values[*code as usize].clone()).collect()
    }

    /// The number of a group with these values, new if need be.
    pub fn find(&mut self, values: &[Value]) -> u32 {
        let mut codes = self.columns.iter_mut().zip(values).map(|(c, value)| c.value(value));
        let mut number = codes.next().expect("a group has a column");
        for (level, code) in self.levels.iter_mut().zip(codes) {
            number = level.number((number, code));
        }
        number
    }
}
