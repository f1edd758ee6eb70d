//! AVG of DECIMAL, rounded half away from zero, as MySQL does; DataFusion's own is cut. A sum must
//! never wrap: one that does not fit 128 bits is an error.

use arrow::array::*;
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, UInt64Type, i256};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use std::collections::HashSet;
use std::sync::Arc;

/// Sums travel between the parts of an aggregation as this, whatever their scale is.
const SUM: DataType = DataType::Decimal128(38, 0);

/// What is sent from one part of an aggregation to another: how many and their sum; of distinct
/// ones the values themselves.
pub(super) fn state_fields(name: &str, distinct: bool) -> Vec<FieldRef> {
    let field = |part: &str, ty| Arc::new(Field::new(format!("{name}[{part}]"), ty, true));
    match distinct {
        true => {
            let item = Arc::new(Field::new_list_field(SUM, true));
            vec![field("values", DataType::List(item))]
        }
        false => vec![field("count", DataType::UInt64), field("sum", SUM)],
    }
}

/// How sums become means.
#[derive(Clone, Debug)]
pub(super) struct Mean {
    /// 10 to the digits that a mean has more than a value.
    more: i128,
    ty: DataType,
}

impl Mean {
    /// Means of values of a scale, as this DECIMAL.
    pub fn new(scale: i8, ty: DataType) -> Mean {
        let own = match ty {
            DataType::Decimal128(_, own) => own,
            _ => scale,
        };
        let digits = u32::try_from(own - scale).unwrap_or(0);
        Mean { more: 10i128.pow(digits), ty }
    }

    pub fn accumulator(self, distinct: bool) -> Box<dyn Accumulator> {
        match distinct {
            true => Box::new(DistinctMean { mean: self, values: HashSet::new() }),
            false => Box::new(OneMean { mean: self, sum: 0, count: 0 }),
        }
    }

    pub fn groups(self) -> Box<dyn GroupsAccumulator> {
        Box::new(GroupedMeans { mean: self, sums: Vec::new(), counts: Vec::new() })
    }

    /// `sum / count`, rounded half away from zero.
    fn of(&self, sum: i128, count: u64) -> Result<i128> {
        let count = i128::from(count);
        let round = |quotient: i128, rest: i128| match rest.abs() * 2 >= count {
            true => quotient + sum.signum(),
            false => quotient,
        };
        if let Some(scaled) = sum.checked_mul(self.more) {
            return Ok(round(scaled / count, scaled % count));
        }
        let (more, wide) = (i256::from_i128(self.more), i256::from_i128(count));
        let scaled = i256::from_i128(sum).wrapping_mul(more);
        let parts = (scaled.wrapping_div(wide).to_i128(), scaled.wrapping_rem(wide).to_i128());
        match parts {
            (Some(quotient), Some(rest)) => Ok(round(quotient, rest)),
            _ => Err(overflow()),
        }
    }

    fn scalar(&self, sum: i128, count: u64) -> Result<ScalarValue> {
        let DataType::Decimal128(precision, scale) = self.ty else {
            return exec_err!("a mean as {}", self.ty);
        };
        let mean = if count == 0 { None } else { Some(self.of(sum, count)?) };
        Ok(ScalarValue::Decimal128(mean, precision, scale))
    }
}

fn overflow() -> datafusion::common::DataFusionError {
    exec_datafusion_err!("Overflow: AVG of DECIMAL")
}

/// The values that are not NULL.
fn values(array: &dyn Array) -> impl Iterator<Item = i128> + '_ {
    array.as_primitive::<Decimal128Type>().iter().flatten()
}

fn sum_of(array: &dyn Array) -> Result<i128> {
    let mut sum = 0i128;
    for value in values(array) {
        sum = sum.checked_add(value).ok_or_else(overflow)?;
    }
    Ok(sum)
}

/// One mean.
#[derive(Debug)]
struct OneMean {
    mean: Mean,
    sum: i128,
    count: u64,
}

impl Accumulator for OneMean {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let array = arrays[0].as_ref();
        self.sum = self.sum.checked_add(sum_of(array)?).ok_or_else(overflow)?;
        self.count += (array.len() - array.null_count()) as u64;
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.count += states[0].as_primitive::<UInt64Type>().iter().flatten().sum::<u64>();
        self.sum = self.sum.checked_add(sum_of(states[1].as_ref())?).ok_or_else(overflow)?;
        Ok(())
    }

    fn retract_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let array = arrays[0].as_ref();
        self.sum = self.sum.checked_sub(sum_of(array)?).ok_or_else(overflow)?;
        self.count -= (array.len() - array.null_count()) as u64;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.mean.scalar(self.sum, self.count)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let sum = ScalarValue::Decimal128(Some(self.sum), 38, 0);
        Ok(vec![ScalarValue::UInt64(Some(self.count)), sum])
    }

    fn size(&self) -> usize {
        size_of::<OneMean>()
    }
}

/// The mean of the distinct values.
#[derive(Debug)]
struct DistinctMean {
    mean: Mean,
    values: HashSet<i128>,
}

impl Accumulator for DistinctMean {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        self.values.extend(values(arrays[0].as_ref()));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for list in states[0].as_list::<i32>().iter().flatten() {
            self.values.extend(values(list.as_ref()));
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut sum = 0i128;
        for value in &self.values {
            sum = sum.checked_add(*value).ok_or_else(overflow)?;
        }
        self.mean.scalar(sum, self.values.len() as u64)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let value = |v: &i128| ScalarValue::Decimal128(Some(*v), 38, 0);
        let values: Vec<_> = self.values.iter().map(value).collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&values, &SUM))])
    }

    fn size(&self) -> usize {
        size_of::<DistinctMean>() + self.values.capacity() * size_of::<i128>()
    }
}

/// One mean for each group.
#[derive(Debug)]
struct GroupedMeans {
    mean: Mean,
    sums: Vec<i128>,
    counts: Vec<u64>,
}

impl GroupedMeans {
    fn add(
        &mut self,
        groups: &[usize],
        array: &ArrayRef,
        kept: impl Fn(usize) -> bool,
        count: impl Fn(usize) -> u64,
    ) -> Result<()> {
        let sums = array.as_primitive::<Decimal128Type>();
        let (nulls, sums) = (sums.nulls(), sums.values());
        for (row, group) in groups.iter().enumerate() {
            if nulls.is_none_or(|n| n.is_valid(row)) && kept(row) {
                let sum = self.sums[*group].checked_add(sums[row]);
                self.sums[*group] = sum.ok_or_else(overflow)?;
                self.counts[*group] += count(row);
            }
        }
        Ok(())
    }
}

impl GroupsAccumulator for GroupedMeans {
    fn update_batch(
        &mut self,
        arrays: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.sums.resize(total, 0);
        self.counts.resize(total, 0);
        let kept = |row: usize| filter.is_none_or(|f| f.is_valid(row) && f.value(row));
        self.add(groups, &arrays[0], kept, |_| 1)
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        groups: &[usize],
        _: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.sums.resize(total, 0);
        self.counts.resize(total, 0);
        let counts = states[0].as_primitive::<UInt64Type>().values();
        self.add(groups, &states[1], |_| true, |row| counts[row])
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        let counts = emit_to.take_needed(&mut self.counts);
        let nulls = NullBuffer::from_iter(counts.iter().map(|count| *count > 0));
        let mean = |(sum, count): (&i128, &u64)| match *count {
            0 => Ok(0),
            count => self.mean.of(*sum, count),
        };
        let means = sums.iter().zip(&counts).map(mean).collect::<Result<Vec<_>>>()?;
        let array = Decimal128Array::new(means.into(), Some(nulls));
        Ok(Arc::new(array.with_data_type(self.mean.ty.clone())))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let counts = emit_to.take_needed(&mut self.counts);
        let sums = emit_to.take_needed(&mut self.sums);
        let sums = Decimal128Array::new(sums.into(), None).with_data_type(SUM);
        Ok(vec![Arc::new(UInt64Array::from(counts)), Arc::new(sums)])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.counts.capacity() * size_of::<u64>()
    }
}
