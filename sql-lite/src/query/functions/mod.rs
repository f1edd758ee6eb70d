//! MySQL's scalar functions as DataFusion functions. Each is a row of a table: a name, a rule for
//! its type, and an evaluation of one row over borrowed cells. Hot expressions never come here:
//! the planner leaves operators on like types to DataFusion.
//!
//! ```text
//!  Function { name, args, ty: types → type, eval: cells → Out }
//!       │  Udf (ScalarUDFImpl): readers per argument, one loop over rows, constants once
//!       ▼
//!  text · math · time · control · cast      the tables
//! ```

mod calendar;
mod cast;
mod chance;
mod codes;
mod control;
mod digest;
mod divisor;
mod finite;
mod math;
mod named;
mod sleep;
mod text;
mod time;

pub(crate) use chance::chance;
pub(crate) use control::unified;
pub(crate) use digest::sha256_hex;
pub(crate) use divisor::{NAME as DIVISOR, divisor};
pub(crate) use math::DIVISION_DIGITS;
pub(crate) use named::named;
pub(crate) use sleep::sleep;

use super::value::*;
use crate::convert::{Cell, Reader, prepare};
use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use damask_coprocessor::ColumnBuilder;
use damask_types::{Datum, Decimal};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

/// TIMESTAMP(µs) without zone: DATETIME.
pub(crate) const DATETIME: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);
/// TIME.
pub(crate) const TIME: DataType = DataType::Duration(TimeUnit::Microsecond);

/// What a type rule may look at.
pub(crate) struct Types<'a> {
    /// Of the arguments.
    pub types: &'a [DataType],
    /// Their values, where constant.
    pub constants: &'a [Option<&'a ScalarValue>],
}

impl Types<'_> {
    /// A constant argument as a whole number.
    pub fn number(&self, i: usize) -> Option<i64> {
        match self.constants.get(i).copied().flatten()? {
            ScalarValue::Int64(v) => *v,
            ScalarValue::UInt64(v) => v.and_then(|v| i64::try_from(v).ok()),
            _ => None,
        }
    }

    /// A constant argument as text.
    pub fn text(&self, i: usize) -> Option<&str> {
        match self.constants.get(i).copied().flatten()? {
            ScalarValue::Utf8(v) => v.as_deref(),
            _ => None,
        }
    }
}

/// Compiled patterns of one call, so that a constant one is compiled once.
#[derive(Default)]
pub(crate) struct Scratch {
    patterns: HashMap<String, Option<regex::Regex>>,
}

/// Patterns kept in one call.
const PATTERNS_MAX: usize = 64;

impl Scratch {
    /// The compiled pattern.
    pub fn pattern(&mut self, text: &str) -> Result<&regex::Regex> {
        if self.patterns.len() > PATTERNS_MAX && !self.patterns.contains_key(text) {
            self.patterns.clear();
        }
        let entry = self.patterns.entry(text.to_owned());
        let compiled = entry.or_insert_with(|| regex::Regex::new(text).ok());
        compiled.as_ref().ok_or_else(|| failure(3692, "Incorrect regular expression"))
    }
}

/// Receives one row's result.
pub(crate) struct Out<'a> {
    builder: &'a mut Output,
    ty: &'a DataType,
}

enum Output {
    Bool(arrow::array::BooleanBuilder),
    Column(ColumnBuilder),
}

impl Output {
    fn new(ty: &DataType, rows: usize) -> Result<Output> {
        match ty {
            DataType::Boolean | DataType::Null => {
                Ok(Output::Bool(arrow::array::BooleanBuilder::with_capacity(rows)))
            }
            ty => {
                let builder = ColumnBuilder::new(ty, rows);
                let builder = builder.map_err(|e| DataFusionError::External(Box::new(e)))?;
                Ok(Output::Column(builder))
            }
        }
    }
}

impl Out<'_> {
    pub fn null(&mut self) {
        match self.builder {
            Output::Bool(b) => b.append_null(),
            Output::Column(b) => b.push_null(),
        }
    }

    pub fn bool(&mut self, v: bool) {
        match self.builder {
            Output::Bool(b) => b.append_value(v),
            Output::Column(_) => self.int(v.into()),
        }
    }

    pub fn int(&mut self, v: i64) {
        self.cell(Cell::Int(v));
    }

    pub fn text(&mut self, v: &str) {
        self.cell(Cell::Text(v));
    }

    /// What is not finite is NULL.
    pub fn double(&mut self, v: f64) {
        if v.is_finite() { self.cell(Cell::Double(v)) } else { self.null() }
    }

    /// Any value, converted to the result's type; what does not fit is NULL.
    pub fn cell(&mut self, cell: Cell<'_>) {
        let Output::Column(builder) = &mut *self.builder else {
            return match truth_of(cell) {
                Some(v) => self.bool(v),
                None => self.null(),
            };
        };
        let pushed = match (builder, cell) {
            (b @ ColumnBuilder::Text(_), Cell::Text(v)) => {
                let ColumnBuilder::Text(b) = b else { return };
                b.append_value(v);
                return;
            }
            (b, Cell::Null) => {
                b.push_null();
                return;
            }
            (b, cell) => {
                let datum = converted(cell, self.ty);
                b.push_datum(&datum).is_ok()
            }
        };
        if !pushed {
            self.null();
        }
    }
}

/// A cell as a datum of an Arrow type; NULL where no conversion exists.
pub(crate) fn converted(cell: Cell<'_>, ty: &DataType) -> Datum {
    let datum = match ty {
        DataType::Int64 => i128_of(cell).and_then(|v| i64::try_from(v).ok()).map(Datum::Int),
        DataType::UInt64 => i128_of(cell).and_then(|v| u64::try_from(v).ok()).map(Datum::UInt),
        DataType::Float64 => f64_of(cell).map(Datum::Double),
        DataType::Decimal128(precision, scale) => decimal_of(cell)
            .and_then(|d| d.rescale(*scale as u8))
            .filter(|d| d.unscaled.unsigned_abs() < 10u128.pow(u32::from(*precision)))
            .map(Datum::Decimal),
        DataType::Utf8 => text_of_cell(cell).map(|t| Datum::Text(t.into_owned())),
        DataType::Binary => match cell {
            Cell::Bytes(v) => Some(Datum::Bytes(v.to_vec())),
            cell => text_of_cell(cell).map(|t| Datum::Bytes(t.into_owned().into_bytes())),
        },
        DataType::Date32 => moment_of(cell)
            .map(|m| Datum::Date(m.micros.div_euclid(crate::convert::calendar::DAY) as i32)),
        ty if *ty == DATETIME => moment_of(cell).map(|m| Datum::DateTime(m.micros)),
        ty if *ty == TIME => time_of(cell).map(Datum::Time),
        _ => None,
    };
    datum.unwrap_or(Datum::Null)
}

/// Evaluates one row.
pub(crate) type Eval = fn(&[Cell<'_>], &mut Out<'_>, &mut Scratch) -> Result<()>;

/// A function.
#[derive(Clone, Copy)]
pub(crate) struct Function {
    /// Lower case.
    pub name: &'static str,
    /// Fewest and most arguments.
    pub args: (usize, usize),
    /// Its type.
    pub ty: fn(&Types<'_>) -> Result<DataType>,
    /// NULL in, NULL out, without a call.
    pub strict: bool,
    /// One row.
    pub eval: Eval,
}

/// An error with a MySQL number inside a DataFusion plan.
pub(crate) fn failure(code: u16, message: impl Into<String>) -> DataFusionError {
    let state = match code {
        1690 => "22003",
        1365 => "22012",
        1582 | 1305 | 1104 => "42000",
        1242 => "21000",
        1317 => "70100",
        _ => "HY000",
    };
    let error = crate::Error { code, state, message: message.into() };
    DataFusionError::External(Box::new(error))
}

/// A function as DataFusion sees it.
struct Udf {
    function: Function,
    signature: Signature,
}

impl std::fmt::Debug for Udf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.function.name)
    }
}

impl PartialEq for Udf {
    fn eq(&self, other: &Udf) -> bool {
        self.function.name == other.function.name
    }
}

impl Eq for Udf {}

impl Hash for Udf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.name.hash(state);
    }
}

/// The types that evaluation reads: strings as Utf8, narrow numbers wide.
fn plain(ty: &DataType) -> DataType {
    use DataType as D;
    match ty {
        D::Utf8View | D::LargeUtf8 => D::Utf8,
        D::BinaryView | D::LargeBinary | D::FixedSizeBinary(_) => D::Binary,
        D::Int8 | D::Int16 | D::Int32 => D::Int64,
        D::UInt8 | D::UInt16 | D::UInt32 => D::UInt64,
        D::Float16 | D::Float32 => D::Float64,
        D::Timestamp(..) => DATETIME,
        D::Duration(_) | D::Time64(_) | D::Time32(_) => TIME,
        D::Dictionary(_, value) => plain(value),
        other => other.clone(),
    }
}

impl ScalarUDFImpl for Udf {
    fn name(&self) -> &str {
        self.function.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    // Names are made of calls at every level: long ones would cost the cube of a formula's length.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let mut left = NAMED_NODES_MAX;
        if args.iter().all(|arg| is_short(arg, &mut left)) {
            let names = args.iter().map(|arg| arg.schema_name().to_string());
            return Ok(format!("{}({})", self.function.name, names.collect::<Vec<_>>().join(",")));
        }
        let hash = |seed: u64| {
            let mut hasher = std::hash::DefaultHasher::new();
            (seed, args).hash(&mut hasher);
            hasher.finish()
        };
        Ok(format!("{}(#{:016x}{:016x})", self.function.name, hash(1), hash(2)))
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let types: Vec<_> = types.iter().map(plain).collect();
        (self.function.ty)(&Types { types: &types, constants: &[] })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let (least, most) = self.function.args;
        if !(least..=most).contains(&args.arg_fields.len()) {
            let name = self.function.name;
            let text = "Incorrect parameter count in the call to native function";
            return Err(failure(1582, format!("{text} '{name}'")));
        }
        let types: Vec<_> = args.arg_fields.iter().map(|f| plain(f.data_type())).collect();
        let ty = (self.function.ty)(&Types { types: &types, constants: args.scalar_arguments })?;
        Ok(Arc::new(Field::new(self.function.name, ty, true)))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(types.iter().map(plain).collect())
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        // A conversion to the type that is there already.
        if args.len() == 1 {
            let ty = info.get_data_type(&args[0])?;
            let same = matches!(
                (self.function.name, ty),
                ("__truth", DataType::Boolean)
                    | ("__cast_date", DataType::Date32)
                    | ("__cast_signed" | "__number", DataType::Int64)
                    | ("__cast_double" | "__double", DataType::Float64)
                    | ("__cast_char", DataType::Utf8)
            );
            if same {
                let arg = args.into_iter().next();
                return Ok(ExprSimplifyResult::Simplified(arg.expect("there is one argument")));
            }
        }
        Ok(ExprSimplifyResult::Original(args))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(readable).collect::<Result<Vec<_>>>()?;
        let ty = args.return_field.data_type();
        let array = self.run(&arrays, rows, ty)?;
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)),
            false => Ok(ColumnarValue::Array(array)),
        }
    }
}

/// Parts of a call that is named by them, and not by their hash.
const NAMED_NODES_MAX: usize = 24;

/// Has the expression few parts? Takes them from `left`.
fn is_short(expr: &Expr, left: &mut usize) -> bool {
    let walked = expr.apply(|_| {
        Ok(match left.checked_sub(1) {
            Some(rest) => {
                *left = rest;
                TreeNodeRecursion::Continue
            }
            None => TreeNodeRecursion::Stop,
        })
    });
    !matches!(walked, Ok(TreeNodeRecursion::Stop) | Err(_))
}

/// An argument as an array that a reader reads (a constant has one row), and whether it varies.
fn readable(value: &ColumnarValue) -> Result<(ArrayRef, bool)> {
    let (array, varies) = match value {
        ColumnarValue::Array(array) => (array.clone(), true),
        ColumnarValue::Scalar(scalar) => (scalar.to_array()?, false),
    };
    let prepared = prepare(array.as_ref()).map_err(|e| DataFusionError::External(Box::new(e)))?;
    Ok((prepared.unwrap_or(array), varies))
}

impl Udf {
    fn run(&self, arrays: &[(ArrayRef, bool)], rows: usize, ty: &DataType) -> Result<ArrayRef> {
        let readers = arrays.iter().map(|(array, _)| Reader::new(array.as_ref()));
        let readers = readers.collect::<crate::Result<Vec<_>>>();
        let readers = readers.map_err(|e| DataFusionError::External(Box::new(e)))?;
        let mut output = Output::new(ty, rows)?;
        let mut scratch = Scratch::default();
        let mut cells: Vec<Cell<'_>> = Vec::with_capacity(readers.len());
        for row in 0..rows {
            cells.clear();
            let read = readers.iter().zip(arrays);
            cells.extend(read.map(|(r, (_, varies))| r.cell(if *varies { row } else { 0 })));
            let mut out = Out { builder: &mut output, ty };
            if self.function.strict && cells.contains(&Cell::Null) {
                out.null();
            } else {
                (self.function.eval)(&cells, &mut out, &mut scratch)?;
            }
        }
        let array: ArrayRef = match &mut output {
            Output::Bool(b) if *ty == DataType::Null => {
                let rows = b.finish().len();
                Arc::new(arrow::array::NullArray::new(rows))
            }
            Output::Bool(b) => Arc::new(b.finish()),
            Output::Column(b) => b.finish(),
        };
        Ok(array)
    }
}

/// Every function, built once.
pub(crate) static ALL: LazyLock<HashMap<&'static str, Arc<ScalarUDF>>> = LazyLock::new(|| {
    let tables = [text::TABLE, math::TABLE, time::TABLE, control::TABLE, cast::TABLE, codes::TABLE];
    let functions = tables.into_iter().flatten().map(|function| {
        let volatility = match function.name {
            "uuid" | "rand" => Volatility::Volatile,
            _ => Volatility::Immutable,
        };
        let signature = match function.args.1 {
            0 => Signature::nullary(volatility),
            _ => Signature::user_defined(volatility),
        };
        let udf = ScalarUDF::new_from_impl(Udf { function: *function, signature });
        (function.name, Arc::new(udf))
    });
    let finite = (finite::NAME, Arc::new(finite::finite()));
    functions.chain([finite]).collect()
});

/// A call of one of ours.
pub(crate) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let udf = ALL.get(name).expect("the planner names functions that exist");
    Expr::ScalarFunction(datafusion::logical_expr::expr::ScalarFunction::new_udf(udf.clone(), args))
}

pub(crate) fn int(_: &Types<'_>) -> Result<DataType> {
    Ok(DataType::Int64)
}

pub(crate) fn unsigned(_: &Types<'_>) -> Result<DataType> {
    Ok(DataType::UInt64)
}

pub(crate) fn double(_: &Types<'_>) -> Result<DataType> {
    Ok(DataType::Float64)
}

pub(crate) fn text_type(_: &Types<'_>) -> Result<DataType> {
    Ok(DataType::Utf8)
}

pub(crate) fn date(_: &Types<'_>) -> Result<DataType> {
    Ok(DataType::Date32)
}

pub(crate) fn datetime(_: &Types<'_>) -> Result<DataType> {
    Ok(DATETIME)
}

pub(crate) fn time_type(_: &Types<'_>) -> Result<DataType> {
    Ok(TIME)
}

pub(crate) fn boolean(_: &Types<'_>) -> Result<DataType> {
    Ok(DataType::Boolean)
}

/// The scale and whole digits of a number type as DECIMAL.
pub(crate) fn digits_of(ty: &DataType) -> Option<(u8, u8)> {
    match ty {
        DataType::Boolean => Some((1, 0)),
        DataType::Int64 | DataType::UInt64 => Some((20, 0)),
        DataType::Decimal128(p, s) => Some((p.saturating_sub(*s as u8), *s as u8)),
        _ => None,
    }
}

/// A DECIMAL of whole and fraction digits, within what Arrow holds.
pub(crate) fn decimal(whole: u8, scale: u8) -> DataType {
    let scale = scale.min(SCALE_MAX);
    DataType::Decimal128((whole.saturating_add(scale)).clamp(1, 38), scale as i8)
}

pub(crate) fn decimal_cell<'a>(unscaled: i128, scale: u8) -> Cell<'a> {
    Cell::Decimal(Decimal { unscaled, scale })
}
