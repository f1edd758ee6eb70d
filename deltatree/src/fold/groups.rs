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
    long: HashMap<Vec<u8>, u32>,
    null: Option<u32>,
    values: Vec<Value>,
}

impl Dictionary {
    fn new() -> Dictionary {
        Dictionary {
            cache: vec![(0, u32::MAX); CACHE],
            numbers: HashMap::new(),
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

    fn text(&mut self, text: &[u8]) -> u32 {
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

    fn value(&mut self, value: &Value) -> u32 {
        match value {
            Value::Null => self.null(),
            Value::Number(number) => self.code(*number as u128, || value.clone()),
            Value::Float(float) => self.code(float.to_bits().into(), || value.clone()),
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
        let values = Values::of(array)?;
        let number = |n: i128| (n as u128, Value::Number(n));
        for_rows(array.len(), mask, |row| {
            if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                out[row] = self.null();
                return;
            }
            let (key, value) = match values {
                Values::I64(values) => number(values[row].into()),
                Values::U64(values) => number(values[row].into()),
                Values::I32(values) => number(values[row].into()),
                Values::I128(values) => number(values[row]),
                Values::F64(values) => {
                    let float = values[row] + 0.0; // -0.0 is 0.0
                    let float = if float.is_nan() { f64::NAN } else { float };
                    (float.to_bits().into(), Value::Float(float))
                }
                Values::Texts(texts) => {
                    out[row] = self.text(texts.get(row));
                    return;
                }
            };
            out[row] = self.code(key, || value);
        });
        Ok(())
    }
}

/// All groups so far.
#[derive(Debug)]
pub struct Groups {
    columns: Vec<Dictionary>,
    /// By the first two columns' codes, then by that number and the next column's code.
    pairs: Vec<HashMap<(u32, u32), u32>>,
    last: Vec<((u32, u32), u32)>,
    /// The codes of each group.
    codes: Vec<Vec<u32>>,
}

impl Groups {
    /// Of some number of columns, at least one.
    pub fn new(columns: usize) -> Groups {
        Groups {
            columns: (0..columns).map(|_| Dictionary::new()).collect(),
            pairs: vec![HashMap::new(); columns - 1],
            last: vec![((u32::MAX, u32::MAX), 0); columns - 1],
            codes: Vec::new(),
        }
    }

    /// Groups.
    pub fn len(&self) -> usize {
        match self.pairs.is_empty() {
            true => self.columns[0].values.len(),
            false => self.codes.len(),
        }
    }

    fn pair(&mut self, level: usize, pair: (u32, u32)) -> u32 {
        if self.last[level].0 == pair {
            return self.last[level].1;
        }
        let next = self.pairs[level].len() as u32;
        let number = *self.pairs[level].entry(pair).or_insert(next);
        self.last[level] = (pair, number);
        number
    }

    fn group(&mut self, codes: impl Fn(usize) -> u32) -> u32 {
        let mut number = codes(0);
        for level in 0..self.pairs.len() {
            number = self.pair(level, (number, codes(level + 1)));
        }
        if !self.pairs.is_empty() && number as usize == self.codes.len() {
            self.codes.push((0..self.columns.len()).map(codes).collect());
        }
        number
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
        if arrays.len() == 1 {
            return Ok(());
        }
        let mut others = vec![vec![0; rows]; arrays.len() - 1];
        for (index, codes) in others.iter_mut().enumerate() {
            self.columns[index + 1].codes(&arrays[index + 1], mask, codes)?;
        }
        for_rows(rows, mask, |row| {
            let first = out[row];
            out[row] = self.group(|column| match column {
                0 => first,
                _ => others[column - 1][row],
            });
        });
        Ok(())
    }

    /// The values of a group.
    pub fn values(&self, group: usize) -> Vec<Value> {
        match self.pairs.is_empty() {
            true => vec![self.columns[0].values[group].clone()],
            false => {
                let codes = self.codes[group].iter().zip(&self.columns);
                codes.map(|(code, column)| column.values[*code as usize].clone()).collect()
            }
        }
    }

    /// The number of a group with these values, new if need be.
    pub fn find(&mut self, values: &[Value]) -> u32 {
        let columns = self.columns.iter_mut().zip(values);
        let codes: Vec<u32> = columns.map(|(column, value)| column.value(value)).collect();
        self.group(|column| codes[column])
    }
}
