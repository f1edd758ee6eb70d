//! SLEEP: made for one query, because it must wake when that query is told to end. It must never
//! sleep through a KILL.

use super::super::value::f64_of;
use super::readable;
use crate::convert::Reader;
use crate::interrupt::Interrupt;
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// Longest sleep: a year, as a larger number of seconds makes no sense.
const SECONDS_MAX: f64 = 31_536_000.0;

#[derive(Debug)]
struct Sleep {
    interrupt: Arc<Interrupt>,
    signature: Signature,
}

impl PartialEq for Sleep {
    fn eq(&self, other: &Sleep) -> bool {
        Arc::ptr_eq(&self.interrupt, &other.interrupt)
    }
}

impl Eq for Sleep {}

impl Hash for Sleep {
    fn hash<H: Hasher>(&self, state: &mut H) {
        "sleep".hash(state);
    }
}

/// `sleep(seconds)` of a query with this sign.
pub(crate) fn sleep(interrupt: Arc<Interrupt>) -> Arc<ScalarUDF> {
    let signature = Signature::any(1, Volatility::Volatile);
    Arc::new(ScalarUDF::new_from_impl(Sleep { interrupt, signature }))
}

impl ScalarUDFImpl for Sleep {
    fn name(&self) -> &'static str {
        "sleep"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    /// Sleeps once for each row.
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let external = |e: crate::Error| DataFusionError::External(Box::new(e));
        let [seconds] = args.args.as_slice() else {
            return Err(super::failure(1582, "Incorrect parameter count in the call to 'sleep'"));
        };
        let (array, varies) = readable(seconds)?;
        let reader = Reader::new(array.as_ref()).map_err(external)?;
        for row in 0..args.number_rows {
            let seconds = f64_of(reader.cell(if varies { row } else { 0 }));
            let Some(seconds) = seconds.filter(|seconds| *seconds >= 0.0) else {
                return Err(super::failure(1210, "Incorrect arguments to sleep."));
            };
            let time = Duration::from_secs_f64(seconds.min(SECONDS_MAX));
            tokio::task::block_in_place(|| self.interrupt.pause(time)).map_err(external)?;
        }
        let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; args.number_rows]));
        Ok(ColumnarValue::Array(zeros))
    }
}
