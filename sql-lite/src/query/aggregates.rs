//! SUM and AVG with MySQL's types: whole numbers are added exactly, as DECIMAL, and a mean is
//! rounded (`averages`). Everything else is DataFusion's own. A sum must never wrap.

mod averages;

use arrow::array::*;
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Int64Type, UInt64Type};
use averages::Mean;
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::functions_aggregate::average::Avg;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF,
    Signature, Volatility,
};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

/// SUM of whole numbers: more digits than any table has rows for.
const SUM_TYPE: DataType = DataType::Decimal128(32, 0);

/// SUM or AVG around DataFusion's.
#[derive(Debug)]
struct Exact {
    inner: Box<dyn AggregateUDFImpl>,
    signature: Signature,
    is_sum: bool,
}

impl PartialEq for Exact {
    fn eq(&self, other: &Exact) -> bool {
        self.is_sum == other.is_sum
    }
}

impl Eq for Exact {}

impl Hash for Exact {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.is_sum.hash(state);
    }
}

impl Exact {
    /// How a mean of DECIMAL is made; `None`: it is no such.
    fn mean(&self, args: &AccumulatorArgs<'_>) -> Result<Option<Mean>> {
        let DataType::Decimal128(_, scale) = args.expr_fields[0].data_type() else {
            return Ok(None);
        };
        if self.is_sum {
            return Ok(None);
        }
        let ty = self.inner.return_type(&[args.expr_fields[0].data_type().clone()])?;
        Ok(Some(Mean::new(*scale, ty)))
    }
}

fn is_whole(ty: &DataType) -> bool {
    matches!(ty, DataType::Int64 | DataType::UInt64)
}

impl AggregateUDFImpl for Exact {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        use DataType as D;
        let [ty] = types else {
            return exec_err!("Incorrect parameter count in the call to '{}'", self.name());
        };
        let whole = matches!(
            ty,
            D::Boolean
                | D::Int8
                | D::Int16
                | D::Int32
                | D::Int64
                | D::UInt8
                | D::UInt16
                | D::UInt32
                | D::UInt64
        );
        Ok(vec![match ty {
            D::UInt64 if self.is_sum => D::UInt64,
            _ if whole && self.is_sum => D::Int64,
            _ if whole => D::Decimal128(20, 0),
            D::Decimal128(..) => ty.clone(),
            _ => D::Float64,
        }])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match self.is_sum && is_whole(&types[0]) {
            true => Ok(SUM_TYPE),
            false => self.inner.return_type(types),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if let Some(mean) = self.mean(&args)? {
            return Ok(mean.accumulator(args.is_distinct));
        }
        match self.is_sum && is_whole(args.expr_fields[0].data_type()) {
            true => Ok(Box::new(WholeSum::default())),
            false => self.inner.accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if let DataType::Decimal128(..) = args.input_fields[0].data_type()
            && !self.is_sum
        {
            return Ok(averages::state_fields(args.name, args.is_distinct));
        }
        match self.is_sum && is_whole(args.input_fields[0].data_type()) {
            true => Ok(vec![Arc::new(Field::new(format!("{}[sum]", args.name), SUM_TYPE, true))]),
            false => self.inner.state_fields(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        if let DataType::Decimal128(..) = args.expr_fields[0].data_type()
            && !self.is_sum
        {
            return !args.is_distinct;
        }
        match self.is_sum && is_whole(args.expr_fields[0].data_type()) {
            true => !args.is_distinct,
            false => self.inner.groups_accumulator_supported(args),
        }
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        if let Some(mean) = self.mean(&args)? {
            return Ok(mean.groups());
        }
        match self.is_sum && is_whole(args.expr_fields[0].data_type()) {
            true => Ok(Box::new(GroupedSums::default())),
            false => self.inner.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if let Some(mean) = self.mean(&args)? {
            return Ok(mean.accumulator(args.is_distinct));
        }
        match self.is_sum && is_whole(args.expr_fields[0].data_type()) {
            true => Ok(Box::new(WholeSum::default())),
            false => self.inner.create_sliding_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// The sum of a chunk, by halves of 32 bits: each half's sum cannot overflow below 2^31 values.
fn sum_signed(values: &[i64]) -> i128 {
    let (mut high, mut low) = (0i64, 0u64);
    for v in values {
        high += v >> 32;
        low += u64::from(*v as u32);
    }
    (i128::from(high) << 32) + i128::from(low)
}

fn sum_unsigned(values: &[u64]) -> i128 {
    let (mut high, mut low) = (0u64, 0u64);
    for v in values {
        high += v >> 32;
        low += u64::from(*v as u32);
    }
    (i128::from(high) << 32) + i128::from(low)
}

/// Sum and number of the values that are not NULL.
fn sum_of(array: &dyn Array) -> Result<(i128, u64)> {
    let count = (array.len() - array.null_count()) as u64;
    let slow = |get: &dyn Fn(usize) -> i128| -> i128 {
        (0..array.len()).filter(|i| array.is_valid(*i)).map(get).sum()
    };
    let sum = match array.data_type() {
        DataType::Int64 => {
            let values = array.as_primitive::<Int64Type>().values();
            match array.null_count() {
                0 => sum_signed(values),
                _ => slow(&|i| values[i].into()),
            }
        }
        DataType::UInt64 => {
            let values = array.as_primitive::<UInt64Type>().values();
            match array.null_count() {
                0 => sum_unsigned(values),
                _ => slow(&|i| values[i].into()),
            }
        }
        DataType::Decimal128(..) => {
            let values = array.as_primitive::<Decimal128Type>().values();
            slow(&|i| values[i])
        }
        other => return exec_err!("a whole sum over {other}"),
    };
    Ok((sum, count))
}

fn scalar(sum: i128, count: u64) -> ScalarValue {
    ScalarValue::Decimal128((count > 0).then_some(sum), 32, 0)
}

/// One sum.
#[derive(Debug, Default)]
struct WholeSum {
    sum: i128,
    count: u64,
}

impl Accumulator for WholeSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = sum_of(values[0].as_ref())?;
        self.sum += sum;
        self.count += count;
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = sum_of(values[0].as_ref())?;
        self.sum -= sum;
        self.count -= count;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(scalar(self.sum, self.count))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![scalar(self.sum, self.count)])
    }

    fn size(&self) -> usize {
        size_of::<WholeSum>()
    }
}

/// One sum for each group.
#[derive(Debug, Default)]
struct GroupedSums {
    sums: Vec<i128>,
    seen: Vec<bool>,
}

impl GroupedSums {
    fn add(
        &mut self,
        groups: &[usize],
        valid: impl Fn(usize) -> bool,
        value: impl Fn(usize) -> i128,
    ) {
        for (row, group) in groups.iter().enumerate() {
            if valid(row) {
                self.sums[*group] += value(row);
                self.seen[*group] = true;
            }
        }
    }
}

impl GroupsAccumulator for GroupedSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.sums.resize(total, 0);
        self.seen.resize(total, false);
        let array = &values[0];
        let nulls = array.logical_nulls();
        let kept = |row: usize| filter.is_none_or(|f| f.is_valid(row) && f.value(row));
        let valid = |row: usize| nulls.as_ref().is_none_or(|n| n.is_valid(row)) && kept(row);
        match array.data_type() {
            DataType::Int64 => {
                let values = array.as_primitive::<Int64Type>().values();
                self.add(groups, valid, |row| values[row].into());
            }
            DataType::UInt64 => {
                let values = array.as_primitive::<UInt64Type>().values();
                self.add(groups, valid, |row| values[row].into());
            }
            DataType::Decimal128(..) => {
                let values = array.as_primitive::<Decimal128Type>().values();
                self.add(groups, valid, |row| values[row]);
            }
            other => return exec_err!("a whole sum over {other}"),
        }
        Ok(())
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.update_batch(values, groups, filter, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        let seen = emit_to.take_needed(&mut self.seen);
        let array = Decimal128Array::new(sums.into(), Some(NullBuffer::from(seen)));
        Ok(Arc::new(array.with_data_type(SUM_TYPE)))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.seen.capacity()
    }
}

/// Every aggregate by name: DataFusion's, with ours in place of SUM and AVG.
pub(crate) static ALL: LazyLock<HashMap<String, Arc<AggregateUDF>>> = LazyLock::new(|| {
    let mut all = HashMap::new();
    for udaf in datafusion::functions_aggregate::all_default_aggregate_functions() {
        for alias in udaf.aliases() {
            all.insert(alias.clone(), udaf.clone());
        }
        all.insert(udaf.name().to_owned(), udaf);
    }
    let signature = || Signature::user_defined(Volatility::Immutable);
    let sum = Exact { inner: Box::new(Sum::new()), signature: signature(), is_sum: true };
    let avg = Exact { inner: Box::new(Avg::new()), signature: signature(), is_sum: false };
    all.insert("sum".to_owned(), Arc::new(AggregateUDF::from(sum)));
    all.insert("avg".to_owned(), Arc::new(AggregateUDF::from(avg)));
    all
});
