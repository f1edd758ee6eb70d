//! What runs before DataFusion's type coercion: choices (CASE, UNION) get MySQL's common type,
//! lists and patterns are compared as MySQL does, aggregates of texts add numbers, a number becomes text
//! with the digits that are shown. It must run on plans as the SQL planner made them, before any
//! other rule and before a result's types are told.

use super::functions::{DATETIME, TIME, call, unified};
use super::operators::{Class, Operand, arithmetic, class, compare, in_list};
use super::types::{self, Inputs};
use arrow::datatypes::{DataType, Field, FieldRef};
use damask_types::ColumnType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError, Result, TableReference};
use datafusion::logical_expr::expr::{
    AggregateFunction, BinaryExpr, Case, Cast, Like, ScalarFunction,
};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Distinct, Expr, ExprSchemable, LogicalPlan, Operator, Projection, Union, lit,
};
use std::sync::Arc;

/// Gives every choice of a plan its type.
pub(crate) fn unify(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(rewrite)?.data)
}

/// The plan with its columns as they are shown: no DECIMAL keeps more digits.
pub(crate) fn rounded(plan: LogicalPlan) -> Result<LogicalPlan> {
    let shown = |at: usize| -> Option<DataType> {
        let kept = plan.schema().field(at).data_type();
        match (types::of_column(&plan, at)?, kept) {
            (ColumnType::Decimal { precision, scale }, DataType::Decimal128(_, kept))
                if (scale as i8) < *kept =>
            {
                Some(DataType::Decimal128(precision, scale as i8))
            }
            _ => None,
        }
    };
    let types: Vec<_> = (0..plan.schema().fields().len()).map(shown).collect();
    converted(plan, types)
}

/// The plan with these columns converted (`None`: as they are).
fn converted(plan: LogicalPlan, types: Vec<Option<DataType>>) -> Result<LogicalPlan> {
    if types.iter().all(Option::is_none) {
        return Ok(plan);
    }
    let columns = plan.schema().iter().zip(types).map(|((relation, field), to)| {
        let column = Expr::Column(Column::new(relation.cloned(), field.name()));
        match to {
            Some(to) => {
                let column = chosen(column, field.data_type(), &to, &[&plan]);
                column.alias_qualified(relation.cloned(), field.name())
            }
            None => column,
        }
    });
    let columns = columns.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?))
}

/// Inputs of one type for each column.
fn union(mut all: Union) -> Result<LogicalPlan> {
    for input in &mut all.inputs {
        *input = Arc::new(rounded(input.as_ref().clone())?);
    }
    let ty = |input: &Arc<LogicalPlan>, at| input.schema().field(at).data_type().clone();
    let width = all.schema.fields().len();
    if all.inputs.iter().any(|input| input.schema().fields().len() != width) {
        return Ok(LogicalPlan::Union(all));
    }
    let common = |at: usize| {
        let types: Vec<_> = all.inputs.iter().map(|input| ty(input, at)).collect();
        match types.iter().all(|ty| *ty == types[0]) {
            true => types[0].clone(),
            false => unified(&types),
        }
    };
    let common: Vec<_> = (0..width).map(common).collect();
    for input in &mut all.inputs {
        let to = common.iter().enumerate();
        let to = to.map(|(at, to)| (ty(input, at) != *to).then(|| to.clone()));
        *input = Arc::new(converted(input.as_ref().clone(), to.collect())?);
    }
    let field = |(at, (relation, field)): (usize, (Option<&TableReference>, &FieldRef))| {
        let nullable = all.inputs.iter().any(|input| input.schema().field(at).is_nullable());
        let field = Field::new(field.name(), common[at].clone(), nullable);
        (relation.cloned(), Arc::new(field))
    };
    let fields = all.schema.iter().enumerate().map(field).collect();
    let schema = DFSchema::new_with_metadata(fields, all.schema.metadata().clone())?;
    Ok(LogicalPlan::Union(Union { schema: Arc::new(schema), ..all }))
}

fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(
            scan.table_name.clone(),
            &scan.source.schema(),
        )?);
    }
    let inputs: Vec<LogicalPlan> = plan.inputs().into_iter().cloned().collect();
    let inputs: Vec<&LogicalPlan> = inputs.iter().collect();
    let grouped = matches!(plan, LogicalPlan::Aggregate(_));
    let names = NamePreserver::new(&plan);
    let changed = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let mut expr = expr.transform_up(|expr| one(expr, &schema, &inputs))?;
        if grouped && !is_aggregate(&expr.data) {
            expr = expr.transform_data(|expr| Ok(as_shown(expr, &inputs)))?;
        }
        Ok(expr.update_data(|expr| name.restore(expr)))
    })?;
    changed.map_data(|plan| match plan.recompute_schema()? {
        LogicalPlan::Union(all) => union(all),
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let input = rounded(Arc::unwrap_or_clone(input))?;
            Ok(LogicalPlan::Distinct(Distinct::All(Arc::new(input))))
        }
        plan => Ok(plan),
    })
}

fn is_aggregate(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_aggregate(&alias.expr),
        Expr::AggregateFunction(_) | Expr::GroupingSet(_) => true,
        _ => false,
    }
}

fn one(expr: Expr, schema: &DFSchema, inputs: Inputs<'_>) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Case(case) => self::case(case, schema, inputs),
        Expr::InList(list) => {
            let ty = list.expr.get_type(schema)?;
            let same = |item: &Expr| item.get_type(schema).is_ok_and(|t| t == ty);
            match list.list.iter().all(same) {
                true => Ok(Transformed::no(Expr::InList(list))),
                false => Ok(Transformed::yes(in_list(list, schema)?)),
            }
        }
        Expr::Like(like) => self::like(like, schema, inputs),
        Expr::BinaryExpr(binary) if is_comparison(binary.op) => comparison(binary, schema),
        Expr::BinaryExpr(binary) if is_arithmetic(binary.op) => calculation(binary, schema),
        Expr::Cast(cast) => read_text(cast, schema),
        Expr::ScalarFunction(mut f) => match (whole_operator(f.name()), f.args.as_mut_slice()) {
            (Some(op), [left, right]) if !(is_whole(left, schema)? && is_whole(right, schema)?) => {
                let take = |expr: &mut Expr| Operand::new(std::mem::replace(expr, lit(0)), schema);
                Ok(Transformed::yes(arithmetic(take(left)?, op, take(right)?)))
            }
            (Some(_), _) => Ok(Transformed::no(Expr::ScalarFunction(f))),
            (None, _) => text_call(f, schema, inputs),
        },
        Expr::AggregateFunction(f) if matches!(f.func.name(), "sum" | "avg") => {
            aggregate(f, schema)
        }
        other => Ok(Transformed::no(other)),
    }
}

fn is_comparison(op: Operator) -> bool {
    use Operator as O;
    matches!(op, O::Eq | O::NotEq | O::IsNotDistinctFrom | O::Lt | O::LtEq | O::Gt | O::GtEq)
}

fn is_arithmetic(op: Operator) -> bool {
    matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply)
}

/// The operator that is planned as this function where both operands are whole numbers.
fn whole_operator(name: &str) -> Option<Operator> {
    match name {
        "__add" => Some(Operator::Plus),
        "__subtract" => Some(Operator::Minus),
        "__multiply" => Some(Operator::Multiply),
        _ => None,
    }
}

/// Is it still a whole number (or NULL)? Sums of sums are not walked again.
fn is_whole(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    if let Expr::ScalarFunction(f) = expr
        && whole_operator(f.name()).is_some()
    {
        return Ok(true);
    }
    let class = class(&expr.get_type(schema)?);
    Ok(matches!(class, Class::Null | Class::Bool | Class::Int | Class::UInt))
}

/// Operands that became texts when a choice got its type.
fn calculation(binary: BinaryExpr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let text = |expr: &Expr| match expr {
        // What was made of operands that were looked at.
        Expr::BinaryExpr(_) => Ok(false),
        expr => Ok::<_, DataFusionError>(is_string(&expr.get_type(schema)?)),
    };
    if !(text(&binary.left)? || text(&binary.right)?) {
        return Ok(Transformed::no(Expr::BinaryExpr(binary)));
    }
    let left = Operand::new(*binary.left, schema)?;
    let right = Operand::new(*binary.right, schema)?;
    Ok(Transformed::yes(arithmetic(left, binary.op, right)))
}

fn is_string(ty: &DataType) -> bool {
    matches!(class(ty), Class::Text | Class::Binary)
}

/// A conversion of what was a number when it was planned, and became a text.
fn read_text(cast: Cast, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if !is_string(&cast.expr.get_type(schema)?) {
        return Ok(Transformed::no(Expr::Cast(cast)));
    }
    let name = match cast.field.data_type() {
        DataType::Float64 => "__double",
        DataType::Int64 => "__cast_signed",
        DataType::UInt64 => "__cast_unsigned",
        DataType::Date32 => "__cast_date",
        ty if *ty == DATETIME => "__cast_datetime",
        ty if *ty == TIME => "__cast_time",
        DataType::Decimal128(precision, scale) => {
            let (precision, scale) = (lit(i64::from(*precision)), lit(i64::from(*scale)));
            let decimal = call("__cast_decimal", vec![*cast.expr, precision, scale]);
            return Ok(Transformed::yes(decimal));
        }
        _ => return Ok(Transformed::no(Expr::Cast(cast))),
    };
    Ok(Transformed::yes(call(name, vec![*cast.expr])))
}

/// The operand of a comparison without the conversion it was planned with, if that was of a number
/// that became a text.
fn unread(expr: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
    match expr {
        Expr::ScalarFunction(f) if f.name() == "__double" && f.args.len() == 1 => {
            let arg = &f.args[0];
            Ok(is_string(&arg.get_type(schema)?).then(|| arg.clone()))
        }
        _ => Ok(None),
    }
}

/// Operands that became unlike when a choice got its type.
fn comparison(binary: BinaryExpr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    // Both texts now, at least one of them a number before.
    if let (Some(left), Some(right)) =
        (unread(&binary.left, schema)?, unread(&binary.right, schema)?)
        && matches!((&left, &right), (Expr::Column(_), _) | (_, Expr::Column(_)))
    {
        let (left, right) = (Operand::new(left, schema)?, Operand::new(right, schema)?);
        return Ok(Transformed::yes(compare(left, binary.op, right)?));
    }
    let (left, right) = (binary.left.get_type(schema)?, binary.right.get_type(schema)?);
    let (l, r) = (class(&left), class(&right));
    if l == r || l == Class::Null || r == Class::Null {
        return Ok(Transformed::no(Expr::BinaryExpr(binary)));
    }
    let number = |class| {
        matches!(class, Class::Bool | Class::Int | Class::UInt)
            || matches!(class, Class::Decimal | Class::Double)
    };
    if number(l) && number(r) {
        return Ok(Transformed::no(Expr::BinaryExpr(binary)));
    }
    let left = Operand { expr: *binary.left, ty: left };
    let right = Operand { expr: *binary.right, ty: right };
    Ok(Transformed::yes(compare(left, binary.op, right)?))
}

/// A number with the digits that are shown: a quotient without those kept to go on calculating.
fn as_shown(expr: Expr, inputs: Inputs<'_>) -> Transformed<Expr> {
    match types::shown_decimal(&expr, inputs) {
        Some(ColumnType::Decimal { precision, scale }) => {
            let to = DataType::Decimal128(precision, scale as i8);
            Transformed::yes(Expr::Cast(Cast::new(Box::new(expr), to)))
        }
        _ => Transformed::no(expr),
    }
}

/// A number that becomes a text.
fn as_text(expr: Expr, ty: &DataType, inputs: Inputs<'_>) -> Transformed<Expr> {
    match class(ty) {
        Class::Decimal => as_shown(expr, inputs),
        Class::Double if types::of(&expr, inputs) == Some(ColumnType::Float) => {
            Transformed::yes(call("__float_text", vec![expr]))
        }
        _ => Transformed::no(expr),
    }
}

fn text_call(
    mut f: ScalarFunction,
    schema: &DFSchema,
    inputs: Inputs<'_>,
) -> Result<Transformed<Expr>> {
    let is_number = |arg: &Expr| -> Result<bool> {
        let constant = matches!(arg, Expr::Literal(..));
        Ok(!constant && matches!(class(&arg.get_type(schema)?), Class::Decimal | Class::Double))
    };
    let numbers = f.args.iter().map(is_number).collect::<Result<Vec<_>>>()?;
    if f.name() == "__float_text" || !numbers.contains(&true) {
        return Ok(Transformed::no(Expr::ScalarFunction(f)));
    }
    let result = Expr::ScalarFunction(f.clone()).get_type(schema)?;
    if !matches!(class(&result), Class::Text | Class::Binary) {
        return Ok(Transformed::no(Expr::ScalarFunction(f)));
    }
    let mut changed = false;
    for arg in &mut f.args {
        let ty = arg.get_type(schema)?;
        let shown = as_text(std::mem::replace(arg, lit(0)), &ty, inputs);
        changed |= shown.transformed;
        *arg = shown.data;
    }
    Ok(Transformed::new_transformed(Expr::ScalarFunction(f), changed))
}

/// Converts an expression to a choice's type.
fn chosen(expr: Expr, from: &DataType, to: &DataType, inputs: Inputs<'_>) -> Expr {
    if from == to {
        return expr;
    }
    let native = |expr: Expr| Expr::Cast(Cast::new(Box::new(expr), to.clone()));
    match (class(from), class(to)) {
        (Class::Null, _) => native(expr),
        (_, Class::Text) => call("__cast_char", vec![as_text(expr, from, inputs).data]),
        (_, Class::Binary) => call("__cast_binary", vec![as_text(expr, from, inputs).data]),
        (Class::Text, Class::Double) => call("__cast_double", vec![expr]),
        _ => native(expr),
    }
}

fn case(mut case: Case, schema: &DFSchema, inputs: Inputs<'_>) -> Result<Transformed<Expr>> {
    let branches = case.when_then_expr.iter().map(|(_, then)| then);
    let branches = branches.chain(&case.else_expr);
    let types = branches.map(|b| b.get_type(schema)).collect::<Result<Vec<_>>>()?;
    let plain = |ty: &DataType| !matches!(ty, DataType::Timestamp(..) | DataType::Duration(_));
    let to = unified(&types);
    let uniform = types.iter().all(|ty| *ty == to);
    let known = plain(&to) || to == DATETIME || to == TIME;
    if uniform || !known || to == DataType::Null {
        return Ok(Transformed::no(Expr::Case(case)));
    }
    let mut types = types.into_iter();
    for (_, then) in &mut case.when_then_expr {
        let from = types.next().expect("one type for each branch");
        **then = chosen(std::mem::replace(&mut **then, lit(0)), &from, &to, inputs);
    }
    if let (Some(other), Some(from)) = (&mut case.else_expr, types.next()) {
        **other = chosen(std::mem::replace(&mut **other, lit(0)), &from, &to, inputs);
    }
    Ok(Transformed::yes(Expr::Case(case)))
}

fn like(mut like: Like, schema: &DFSchema, inputs: Inputs<'_>) -> Result<Transformed<Expr>> {
    let mut changed = false;
    for side in [&mut like.expr, &mut like.pattern] {
        let ty = side.get_type(schema)?;
        if !matches!(class(&ty), Class::Text | Class::Null) {
            let expr = std::mem::replace(&mut **side, lit(0));
            **side = call("__cast_char", vec![as_text(expr, &ty, inputs).data]);
            changed = true;
        }
    }
    Ok(Transformed::new_transformed(Expr::Like(like), changed))
}

/// Texts and moments are added as numbers; a distinct whole number as DECIMAL.
fn aggregate(mut f: AggregateFunction, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Some(arg) = f.params.args.first_mut() else {
        return Ok(Transformed::no(Expr::AggregateFunction(f)));
    };
    let ty = arg.get_type(schema)?;
    let take = |arg: &mut Expr| std::mem::replace(arg, lit(0));
    match class(&ty) {
        Class::Text | Class::Binary => *arg = call("__cast_double", vec![take(arg)]),
        Class::Date | Class::DateTime | Class::Time => *arg = call("__number", vec![take(arg)]),
        Class::Int | Class::UInt | Class::Bool if f.params.distinct => {
            let inner = match class(&ty) {
                Class::Bool => Expr::Cast(Cast::new(Box::new(take(arg)), DataType::Int64)),
                _ => take(arg),
            };
            *arg = Expr::Cast(Cast::new(Box::new(inner), DataType::Decimal128(20, 0)));
        }
        _ => return Ok(Transformed::no(Expr::AggregateFunction(f))),
    }
    Ok(Transformed::yes(Expr::AggregateFunction(f)))
}
