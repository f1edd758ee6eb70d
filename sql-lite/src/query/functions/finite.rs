//! What DataFusion's own arithmetic of DOUBLE gives, unless it is past all numbers: 1690. It must
//! never copy a column.

use super::failure;
use arrow::array::{Array, AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// What it is called.
pub(super) const NAME: &str = "__finite";

#[derive(Debug, PartialEq, Eq, Hash)]
struct Finite {
    signature: Signature,
}

/// `__finite(x)`.
pub(super) fn finite() -> ScalarUDF {
    let signature = Signature::exact(vec![DataType::Float64], Volatility::Immutable);
    ScalarUDF::new_from_impl(Finite { signature })
}

/// 1690 of DOUBLE.
pub(super) fn out_of_range() -> datafusion::common::DataFusionError {
    failure(1690, "DOUBLE value is out of range")
}

fn is_finite(array: &Float64Array) -> bool {
    match array.nulls() {
        None => array.values().iter().all(|v| v.is_finite()),
        Some(_) => array.iter().flatten().all(f64::is_finite),
    }
}

impl ScalarUDFImpl for Finite {
    fn name(&self) -> &'static str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(value) = args.args.pop() else { return exec_err!("{NAME} of nothing") };
        let fine = match &value {
            ColumnarValue::Scalar(ScalarValue::Float64(v)) => v.is_none_or(f64::is_finite),
            ColumnarValue::Scalar(_) => true,
            ColumnarValue::Array(array) => is_finite(array.as_primitive::<Float64Type>()),
        };
        if fine { Ok(value) } else { Err(out_of_range()) }
    }
}
