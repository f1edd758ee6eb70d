//! GET_LOCK and its like: made for one query, because they act for its session. They must never be
//! folded into a constant.

use super::super::value::{f64_of, text_of_cell};
use super::readable;
use crate::convert::{Cell, Reader};
use crate::session::SessionFacts;
use arrow::array::{ArrayRef, Int64Array, UInt64Array};
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait: a year, as a larger number of seconds makes no sense.
const SECONDS_MAX: f64 = 31_536_000.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Get,
    Release,
    IsFree,
    IsUsed,
    ReleaseAll,
}

#[derive(Debug)]
struct Named {
    kind: Kind,
    facts: SessionFacts,
    signature: Signature,
}

impl PartialEq for Named {
    fn eq(&self, other: &Named) -> bool {
        self.kind == other.kind && self.facts.connection_id == other.facts.connection_id
    }
}

impl Eq for Named {}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
    }
}

/// A function of named locks for a query of this session; `None`: it is none of them.
pub(crate) fn named(name: &str, facts: &SessionFacts) -> Option<Arc<ScalarUDF>> {
    let (kind, args) = match name {
        "get_lock" => (Kind::Get, 2),
        "release_lock" => (Kind::Release, 1),
        "is_free_lock" => (Kind::IsFree, 1),
        "is_used_lock" => (Kind::IsUsed, 1),
        "release_all_locks" => (Kind::ReleaseAll, 0),
        _ => return None,
    };
    let signature = match args {
        0 => Signature::nullary(Volatility::Volatile),
        n => Signature::any(n, Volatility::Volatile),
    };
    let facts = SessionFacts { user_variables: Default::default(), ..facts.clone() };
    Some(Arc::new(ScalarUDF::new_from_impl(Named { kind, facts, signature })))
}

fn external(error: crate::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl ScalarUDFImpl for Named {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Get => "get_lock",
            Kind::Release => "release_lock",
            Kind::IsFree => "is_free_lock",
            Kind::IsUsed => "is_used_lock",
            Kind::ReleaseAll => "release_all_locks",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::IsUsed | Kind::ReleaseAll => DataType::UInt64,
            _ => DataType::Int64,
        })
    }

    /// Acts once for each row.
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = args.args.iter().map(readable).collect::<Result<Vec<_>>>()?;
        let readers = arrays.iter().map(|(array, _)| Reader::new(array.as_ref()));
        let readers = readers.collect::<crate::Result<Vec<_>>>().map_err(external)?;
        let mut values = Vec::with_capacity(args.number_rows);
        for row in 0..args.number_rows {
            let cells = readers.iter().zip(&arrays);
            let cells: Vec<_> =
                cells.map(|(r, (_, varies))| r.cell(if *varies { row } else { 0 })).collect();
            values.push(self.act(&cells).map_err(external)?);
        }
        let array: ArrayRef = match self.kind {
            Kind::IsUsed | Kind::ReleaseAll => {
                Arc::new(values.into_iter().map(|v| v.map(|v| v as u64)).collect::<UInt64Array>())
            }
            _ => Arc::new(values.into_iter().collect::<Int64Array>()),
        };
        Ok(ColumnarValue::Array(array))
    }
}

impl Named {
    fn act(&self, cells: &[Cell<'_>]) -> crate::Result<Option<i64>> {
        let (locks, connection) = (&self.facts.named_locks, self.facts.connection_id);
        let name = cells.first().and_then(|cell| text_of_cell(*cell));
        let name = name.as_deref();
        Ok(match self.kind {
            Kind::Get => {
                let wait = self.wait(cells)?;
                let interrupt = &self.facts.interrupt;
                let taken = tokio::task::block_in_place(|| {
                    locks.acquire(connection, name, wait, interrupt)
                })?;
                Some(taken.into())
            }
            Kind::Release => locks.release(connection, name)?.map(i64::from),
            Kind::IsFree => Some(locks.holder(name)?.is_none().into()),
            Kind::IsUsed => locks.holder(name)?.map(i64::from),
            Kind::ReleaseAll => Some(locks.release_all(connection) as i64),
        })
    }

    /// How long to wait; `None`: for ever.
    fn wait(&self, cells: &[Cell<'_>]) -> crate::Result<Option<Duration>> {
        let seconds = cells.get(1).and_then(|cell| f64_of(*cell));
        let Some(seconds) = seconds else {
            let message = "Incorrect timeout value for user-level lock".to_owned();
            return Err(crate::Error { code: 1210, state: "HY000", message });
        };
        let seconds = seconds.round();
        Ok((seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(SECONDS_MAX))))
    }
}
