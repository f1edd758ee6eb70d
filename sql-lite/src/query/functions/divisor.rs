//! A divisor on its way into a division: each zero is worth a warning (1365). Made for one query,
//! because its session gets the warnings. It must never change a value.

use super::readable;
use crate::convert::Reader;
use crate::query::value::f64_of;
use crate::session::{Level, Notes};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type,
};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Its name in a plan.
pub(crate) const NAME: &str = "__divisor";

#[derive(Debug)]
struct Divisor {
    notes: Arc<Notes>,
    signature: Signature,
}

impl PartialEq for Divisor {
    fn eq(&self, other: &Divisor) -> bool {
        Arc::ptr_eq(&self.notes, &other.notes)
    }
}

impl Eq for Divisor {}

impl Hash for Divisor {
    fn hash<H: Hasher>(&self, state: &mut H) {
        NAME.hash(state);
    }
}

/// The function of a query whose session gets these warnings.
pub(crate) fn divisor(notes: Arc<Notes>) -> Arc<ScalarUDF> {
    // Not immutable: it tells of what it sees, and must see the rows of the query alone.
    let signature = Signature::any(1, Volatility::Stable);
    Arc::new(ScalarUDF::new_from_impl(Divisor { notes, signature }))
}

impl ScalarUDFImpl for Divisor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(value) = args.args.pop() else {
            return Err(super::failure(1582, "Incorrect parameter count in a division"));
        };
        let zeros = zeros(&value)?;
        if zeros > 0 {
            self.notes.push(Level::Warning, 1365, "Division by 0", zeros);
        }
        Ok(value)
    }
}

/// How many values are zero.
fn zeros(value: &ColumnarValue) -> Result<u64> {
    fn count<T: ArrowPrimitiveType>(array: &dyn Array) -> u64 {
        let zero = T::Native::default();
        array.as_primitive::<T>().iter().flatten().filter(|v| *v == zero).count() as u64
    }
    let (array, _) = readable(value)?;
    Ok(match array.data_type() {
        DataType::Null => 0,
        DataType::Int64 => count::<Int64Type>(&array),
        DataType::UInt64 => count::<UInt64Type>(&array),
        DataType::Float64 => count::<Float64Type>(&array),
        DataType::Decimal128(..) => count::<Decimal128Type>(&array),
        _ => {
            let reader = Reader::new(array.as_ref());
            let reader = reader.map_err(|e| DataFusionError::External(Box::new(e)))?;
            let zero = |row: &usize| f64_of(reader.cell(*row)) == Some(0.0);
            (0..array.len()).filter(zero).count() as u64
        }
    })
}
