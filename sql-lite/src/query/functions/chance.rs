//! RAND and UUID: a value of its own for each row, so each call in a query is a function of its
//! own. They must never be folded into a constant.

use super::{failure, readable};
use crate::convert::Reader;
use crate::query::value::i64_of;
use arrow::array::{ArrayRef, Float64Array, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};
use parking_lot::Mutex;
use rand::RngCore;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// MySQL's generator works below this.
const MODULUS: u64 = 0x3FFF_FFFF;

/// MySQL's linear generator: the same seed gives the same numbers there.
#[derive(Clone, Copy, Debug)]
struct Generator {
    one: u64,
    two: u64,
}

impl Generator {
    fn seeded(seed: u32) -> Generator {
        let one = seed.wrapping_mul(0x10001).wrapping_add(55_555_555);
        let two = seed.wrapping_mul(0x1000_0001);
        Generator { one: u64::from(one) % MODULUS, two: u64::from(two) % MODULUS }
    }

    fn next(&mut self) -> f64 {
        self.one = (self.one * 3 + self.two) % MODULUS;
        self.two = (self.one + self.two + 33) % MODULUS;
        self.one as f64 / MODULUS as f64
    }
}

fn random() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "what is not seeded must not repeat")]
    rand::rng().next_u64()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Rand,
    Uuid,
}

/// One call in a query.
#[derive(Debug)]
struct Chance {
    kind: Kind,
    signature: Signature,
    /// Tells calls apart.
    id: u64,
    /// Of a constant seed: the numbers go on from batch to batch.
    seeded: Mutex<Option<Generator>>,
}

impl PartialEq for Chance {
    fn eq(&self, other: &Chance) -> bool {
        self.id == other.id
    }
}

impl Eq for Chance {}

impl Hash for Chance {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

/// `rand` or `uuid`, for one call; `None`: neither.
pub(crate) fn chance(name: &str) -> Option<Arc<ScalarUDF>> {
    let kind = match name {
        "rand" => Kind::Rand,
        "uuid" => Kind::Uuid,
        _ => return None,
    };
    let counts = vec![TypeSignature::Nullary, TypeSignature::Any(1)];
    let signature = Signature::one_of(counts, Volatility::Volatile);
    let chance = Chance { kind, signature, id: random(), seeded: Mutex::new(None) };
    Some(Arc::new(ScalarUDF::new_from_impl(chance)))
}

fn uuid() -> String {
    let (high, low) = (random(), random());
    // Version 4, variant 1 (RFC 9562).
    let (high, low) = (high & !0xF000 | 0x4000, low >> 2 | 1 << 63);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xFFFF,
        high & 0xFFFF,
        low >> 48,
        low & 0xFFFF_FFFF_FFFF
    )
}

impl ScalarUDFImpl for Chance {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Rand => "rand",
            Kind::Uuid => "uuid",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Rand => DataType::Float64,
            Kind::Uuid => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let array: ArrayRef = match (self.kind, args.args.as_slice()) {
            (Kind::Uuid, []) => Arc::new((0..rows).map(|_| Some(uuid())).collect::<StringArray>()),
            (Kind::Rand, []) => {
                let unit = |_| (random() >> 11) as f64 / (1u64 << 53) as f64;
                Arc::new(Float64Array::from_iter_values((0..rows).map(unit)))
            }
            (Kind::Rand, [seed]) => Arc::new(self.seeded(seed, rows)?),
            _ => {
                let text = "Incorrect parameter count in the call to native function";
                return Err(failure(1582, format!("{text} '{}'", self.name())));
            }
        };
        Ok(ColumnarValue::Array(array))
    }
}

impl Chance {
    fn seeded(&self, seed: &ColumnarValue, rows: usize) -> Result<Float64Array> {
        let (array, varies) = readable(seed)?;
        let reader = Reader::new(array.as_ref());
        let reader = reader.map_err(|e| DataFusionError::External(Box::new(e)))?;
        let from = |row| Generator::seeded(i64_of(reader.cell(row)).unwrap_or_default() as u32);
        if varies {
            return Ok(Float64Array::from_iter_values((0..rows).map(|row| from(row).next())));
        }
        let mut seeded = self.seeded.lock();
        let generator = seeded.get_or_insert_with(|| from(0));
        Ok(Float64Array::from_iter_values((0..rows).map(|_| generator.next())))
    }
}
