//! Functions that make much of little.
//!
//! DataFusion counts what its operators hold, but not what a function allocates: `repeat('x', 2000000000)` takes two gigabytes in one
//! call that nothing can interrupt, and texts that are doubled twenty times need no large number. So each function whose result can
//! be larger than its arguments is wrapped: before it is called, the size of its result is estimated from the arguments, never
//! too low, and refused above [`VALUE_BYTES_MAX`] for one value and [`CALL_BYTES_MAX`] for one batch. Functions whose
//! time grows with the product of two arguments are bounded in the same way, and so are patterns, which can take long to compile.
//!
//! Names are resolved to the wrapped functions. What the planner makes of operators and of syntax (`a || b`, `[a, b]`, `x ~ 'pattern'`) is
//! replaced by a rule of the analyser.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, FieldRef, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
    Schema, TimeUnit,
};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Documentation, Expr, ExpressionPlacement, Like, LogicalPlan, Operator,
    ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, StructFieldMapping, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr as PhysicalBinary, Column};
use datafusion::prelude::SessionContext;

use super::exceeded;
use super::patterns::{check_literal_pattern, check_pattern};
use super::sizes::{PLACE_BYTES, byte_lengths};

/// Bytes of one value that a function makes: more than a message of Kafka has.
const VALUE_BYTES_MAX: u64 = 4 << 20;
/// Bytes of all values that one call makes.
const CALL_BYTES_MAX: u64 = 128 << 20;
/// Steps of one call, for functions that compare everything with everything.
const STEPS_MAX: u64 = 2_000_000_000;
/// Different patterns in one batch: each is compiled.
const PATTERNS_MAX: usize = 32;
/// A character in UTF-8, and a number as text.
const CHARACTER_BYTES_MAX: u64 = 4;
const NUMBER_BYTES_MAX: u64 = 32;
/// An element of a list, at least.
const ELEMENT_BYTES_MIN: u64 = 16;
const DAY_NANOSECONDS: i128 = 86_400 * 1_000_000_000;

/// How large a result can become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// The first argument, as often as the second says.
    Repeat,
    /// As many characters as the second argument says.
    Pad,
    /// All arguments together.
    Sum,
    /// All arguments together, and the first between them.
    SumWithSeparator,
    /// The first argument, in which the third stands for the second.
    Replace,
    /// The same with a pattern, and with parts of what matches.
    ReplacePattern,
    /// Elements as text, and the other arguments between them.
    ListToText,
    TextToList,
    /// A list of so many elements as the second argument says, or of the first argument's length.
    Resize,
    RepeatElement,
    /// From one number or time to another.
    Range,
    /// The first argument, in which the third stands for each element.
    ReplaceElement,
    /// Not larger than the arguments; the second is a pattern.
    Pattern,
    /// Compares each byte or element of the first argument with each of the second.
    Pairs,
}

/// Functions that are wrapped, by the names that they have in a registry.
const BOUNDED: [(&str, Growth); 36] = [
    ("repeat", Growth::Repeat),
    ("lpad", Growth::Pad),
    ("rpad", Growth::Pad),
    ("concat", Growth::Sum),
    ("concat_ws", Growth::SumWithSeparator),
    ("overlay", Growth::Sum),
    ("encode", Growth::Sum),
    ("replace", Growth::Replace),
    ("regexp_replace", Growth::ReplacePattern),
    ("regexp_like", Growth::Pattern),
    ("regexp_match", Growth::Pattern),
    ("regexp_count", Growth::Pattern),
    ("regexp_instr", Growth::Pattern),
    ("array_to_string", Growth::ListToText),
    ("string_to_array", Growth::TextToList),
    ("array_repeat", Growth::RepeatElement),
    ("array_resize", Growth::Resize),
    ("range", Growth::Range),
    ("generate_series", Growth::Range),
    ("array_replace", Growth::Sum),
    ("array_replace_n", Growth::ReplaceElement),
    ("array_replace_all", Growth::ReplaceElement),
    ("array_append", Growth::Sum),
    ("array_prepend", Growth::Sum),
    ("array_concat", Growth::Sum),
    ("array_union", Growth::Sum),
    ("arrays_zip", Growth::Sum),
    ("make_array", Growth::Sum),
    ("map", Growth::Sum),
    ("make_map", Growth::Sum),
    ("struct", Growth::Sum),
    ("named_struct", Growth::Sum),
    ("to_char", Growth::SumWithSeparator),
    ("array_has_all", Growth::Pairs),
    ("array_has_any", Growth::Pairs),
    ("levenshtein", Growth::Pairs),
];

/// Puts the wrapped functions in the place of the others, and the rule for operators behind all others.
pub(super) fn bound(session: &SessionContext) {
    for (name, growth) in BOUNDED {
        if let Ok(inner) = session.udf(name) {
            session.register_udf(ScalarUDF::new_from_impl(Bounded { inner, growth }));
        }
    }
    session.add_analyzer_rule(Arc::new(BoundExpressions));
}

/// Functions that only the planner calls, so that no registry has them: whoever finds functions by their names needs them.
pub(in crate::query) fn unnamed() -> Vec<Arc<ScalarUDF>> {
    vec![Arc::new(ScalarUDF::new_from_impl(ConcatOperator::new()))]
}

/// A function that is asked only for what is not too large.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

/// Everything is as in the function itself, but for what it would be simplified to: that is not bounded.
impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.inner().return_type(arg_types)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let inner = Arc::new(self.inner.inner().with_updated_config(config)?);
        Some(ScalarUDF::new_from_impl(Self { inner, growth: self.growth }))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.inner().return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.inner().is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let call = Call { name: self.inner.name(), args: &args.args, rows: rows_of(&args) };
        call.check(self.growth)?;
        self.inner.inner().invoke_with_args(args)
    }

    fn short_circuits(&self) -> bool {
        self.inner.inner().short_circuits()
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(arg_types)
    }

    fn struct_field_mapping(&self, literal_args: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.inner.inner().struct_field_mapping(literal_args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.inner().documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner.inner().placement(args)
    }
}

/// The rows that a call makes: one, if nothing differs between them.
fn rows_of(args: &ScalarFunctionArgs) -> usize {
    let is_scalar = |value: &ColumnarValue| matches!(value, ColumnarValue::Scalar(_));
    if args.args.iter().all(is_scalar) { 1 } else { args.number_rows }
}

/// A call that is about to be made.
struct Call<'a> {
    name: &'a str,
    args: &'a [ColumnarValue],
    rows: usize,
}

/// One number for all rows, or one for each.
enum Numbers {
    All(u64),
    Each(Vec<u64>),
}

impl Numbers {
    fn at(&self, row: usize) -> u64 {
        match self {
            Self::All(number) => *number,
            Self::Each(numbers) => numbers.get(row).copied().unwrap_or(0),
        }
    }
}

/// How many bytes the result of a row has.
type Estimate = Box<dyn Fn(usize) -> u64>;

impl Call<'_> {
    fn check(&self, growth: Growth) -> Result<()> {
        let Some(estimate) = self.estimate(growth)? else { return Ok(()) };
        let mut total = 0_u64;
        for row in 0..self.rows {
            let bytes = estimate(row);
            total = total.saturating_add(bytes);
            if bytes > VALUE_BYTES_MAX {
                return Err(exceeded(
                    "value_bytes",
                    format!(
                        "{} would make a value of about {bytes} bytes, more than {VALUE_BYTES_MAX}",
                        self.name
                    ),
                ));
            }
            if total > CALL_BYTES_MAX {
                return Err(exceeded(
                    "value_bytes",
                    format!("{} would make values of more than {CALL_BYTES_MAX} bytes at once", self.name),
                ));
            }
        }
        Ok(())
    }

    /// Bytes of the result of a row, never too few; `None` if they are no more than those of the arguments. What else is bounded by
    /// arguments is checked here too.
    fn estimate(&self, growth: Growth) -> Result<Option<Estimate>> {
        let lengths = |at: usize| self.lengths(at);
        let estimate: Estimate = match growth {
            Growth::Repeat => {
                let (text, count) = (lengths(0)?, self.counts(1)?);
                Box::new(move |row| text.at(row).saturating_mul(count.at(row)))
            }
            Growth::Pad => {
                let (text, count) = (lengths(0)?, self.counts(1)?);
                Box::new(move |row| text.at(row).max(count.at(row).saturating_mul(CHARACTER_BYTES_MAX)))
            }
            Growth::Sum | Growth::SumWithSeparator => {
                let all: Vec<Numbers> = (0..self.args.len()).map(lengths).collect::<Result<_>>()?;
                let between = if growth == Growth::SumWithSeparator { all.len() as u64 } else { 0 };
                Box::new(move |row| {
                    let sum: u64 = all.iter().map(|lengths| lengths.at(row)).fold(0, u64::saturating_add);
                    let separator = all.first().map_or(0, |lengths| lengths.at(row));
                    // What `encode` makes of bytes has twice as many.
                    sum.saturating_mul(2).saturating_add(separator.saturating_mul(between))
                })
            }
            Growth::Replace => {
                let (text, from, to) = (lengths(0)?, lengths(1)?, lengths(2)?);
                Box::new(move |row| {
                    let (text, from, to) = (text.at(row), from.at(row), to.at(row));
                    // An empty text is found before each character, and at the end.
                    let found = text.checked_div(from).unwrap_or(text + 1);
                    text.saturating_add(found.saturating_mul(to.saturating_sub(from)))
                })
            }
            Growth::ReplacePattern => {
                self.check_patterns()?;
                let (text, to) = (lengths(0)?, lengths(2)?);
                Box::new(move |row| {
                    let (text, to) = (text.at(row), to.at(row));
                    // Each match is of one byte, or empty; and each part of it may stand in every two bytes of what replaces it.
                    let parts = text.saturating_mul(to / 2);
                    text.saturating_add((text + 1).saturating_mul(to)).saturating_add(parts)
                })
            }
            Growth::ListToText => {
                let (list, separator, null) = (lengths(0)?, lengths(1)?, lengths(2)?);
                Box::new(move |row| {
                    let each = NUMBER_BYTES_MAX + separator.at(row) + null.at(row);
                    // Each element has its place beside its bytes.
                    (list.at(row) / PLACE_BYTES + 1).saturating_mul(each).saturating_add(list.at(row))
                })
            }
            Growth::TextToList => {
                let text = lengths(0)?;
                Box::new(move |row| text.at(row).saturating_mul(ELEMENT_BYTES_MIN))
            }
            Growth::RepeatElement => {
                let (element, count) = (lengths(0)?, self.counts(1)?);
                Box::new(move |row| element.at(row).max(ELEMENT_BYTES_MIN).saturating_mul(count.at(row)))
            }
            Growth::Resize => {
                let (list, count, element) = (lengths(0)?, self.counts(1)?, lengths(2)?);
                Box::new(move |row| {
                    let added = element.at(row).max(ELEMENT_BYTES_MIN).saturating_mul(count.at(row));
                    list.at(row).saturating_add(added)
                })
            }
            Growth::ReplaceElement => {
                let (list, to) = (lengths(0)?, lengths(2)?);
                Box::new(move |row| {
                    let elements = list.at(row) / PLACE_BYTES + 1;
                    list.at(row).saturating_add(elements.saturating_mul(to.at(row)))
                })
            }
            Growth::Range => {
                let counts = self.elements_of_range()?;
                Box::new(move |row| counts.at(row).saturating_mul(8))
            }
            Growth::Pattern => {
                self.check_patterns()?;
                return Ok(None);
            }
            Growth::Pairs => {
                self.check_steps()?;
                return Ok(None);
            }
        };
        Ok(Some(estimate))
    }

    /// Bytes of an argument; none if it is not there.
    fn lengths(&self, at: usize) -> Result<Numbers> {
        Ok(match self.args.get(at) {
            None => Numbers::All(0),
            Some(ColumnarValue::Array(array)) => Numbers::Each(byte_lengths(array)),
            Some(ColumnarValue::Scalar(value)) => {
                Numbers::All(byte_lengths(&value.to_array()?).first().copied().unwrap_or(0))
            }
        })
    }

    /// An argument that is a number, if it is positive.
    fn counts(&self, at: usize) -> Result<Numbers> {
        let counts = |array: &ArrayRef| -> Result<Vec<u64>> {
            let numbers = cast(array, &DataType::Int64)?;
            let numbers = numbers.as_primitive::<Int64Type>();
            Ok(numbers.iter().map(|number| u64::try_from(number.unwrap_or(0)).unwrap_or(0)).collect())
        };
        Ok(match self.args.get(at) {
            None => Numbers::All(0),
            Some(ColumnarValue::Array(array)) => Numbers::Each(counts(array)?),
            Some(ColumnarValue::Scalar(value)) => {
                Numbers::All(counts(&value.to_array()?)?.first().copied().unwrap_or(0))
            }
        })
    }

    /// How many elements `range(stop)`, or `range(start, stop)` with or without a step, has.
    fn elements_of_range(&self) -> Result<Numbers> {
        let arrays = ColumnarValue::values_to_arrays(self.args)?;
        let first = arrays.first().map_or(&DataType::Null, |array| array.data_type());
        let is_date = matches!(first, DataType::Date32 | DataType::Date64);
        let one = if first.is_integer() { 1 } else { DAY_NANOSECONDS };
        let numbers = arrays.iter().map(|array| numbers_or_nanoseconds(array, is_date));
        let numbers: Vec<Vec<i128>> = numbers.collect::<Result<_>>()?;
        let rows = arrays.first().map_or(0, |array| array.len());
        let count = |row: usize| -> u64 {
            let number = |at: usize| numbers.get(at).and_then(|column| column.get(row)).copied();
            let (start, stop, step) = match numbers.len() {
                0 => (0, 0, one),
                1 => (0, number(0).unwrap_or(0), one),
                _ => (number(0).unwrap_or(0), number(1).unwrap_or(0), number(2).unwrap_or(one)),
            };
            // A step of nothing is refused by the function.
            let steps = (stop - start).checked_div(step).map(|steps| steps.max(0));
            steps.map_or(0, |steps| u64::try_from(steps).unwrap_or(u64::MAX).saturating_add(1))
        };
        Ok(Numbers::Each((0..rows).map(count).collect()))
    }

    fn check_steps(&self) -> Result<()> {
        let (first, second) = (self.lengths(0)?, self.lengths(1)?);
        let steps = (0..self.rows).map(|row| first.at(row).saturating_mul(second.at(row)));
        if steps.fold(0, u64::saturating_add) <= STEPS_MAX {
            return Ok(());
        }
        Err(exceeded("steps", format!("{} would compare more than {STEPS_MAX} times", self.name)))
    }

    fn check_patterns(&self) -> Result<()> {
        let Some(patterns) = self.args.get(1) else { return Ok(()) };
        let patterns = match patterns {
            ColumnarValue::Array(array) => array.clone(),
            ColumnarValue::Scalar(value) => value.to_array()?,
        };
        let patterns = cast(&patterns, &DataType::LargeUtf8)?;
        let different: HashSet<&str> = patterns.as_string::<i64>().iter().flatten().collect();
        if different.len() > PATTERNS_MAX {
            return Err(exceeded(
                "patterns",
                format!("{}: more than {PATTERNS_MAX} different patterns; use a literal", self.name),
            ));
        }
        different.into_iter().try_for_each(check_pattern)
    }
}

/// Numbers as they are, times and intervals in nanoseconds, of any time there is.
fn numbers_or_nanoseconds(array: &ArrayRef, of_dates: bool) -> Result<Vec<i128>> {
    let unit = match array.data_type() {
        DataType::Interval(_) => {
            let intervals = cast(array, &DataType::Interval(IntervalUnit::MonthDayNano))?;
            let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
            return intervals
                .iter()
                .map(|step| step_nanoseconds(step.unwrap_or_default(), of_dates))
                .collect();
        }
        DataType::Date32 => DAY_NANOSECONDS,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    };
    let numbers = cast(array, &DataType::Int64)?;
    let numbers = numbers.as_primitive::<Int64Type>().iter();
    Ok(numbers.map(|number| i128::from(number.unwrap_or(0)) * unit).collect())
}

/// A month is taken for 28 days, so that there are never too few steps. A step that goes forward by one part and back by another
/// may not come nearer to the end at all.
fn step_nanoseconds(step: IntervalMonthDayNano, of_dates: bool) -> Result<i128> {
    let parts = [i64::from(step.months), i64::from(step.days), step.nanoseconds];
    if parts.iter().any(|part| *part > 0) && parts.iter().any(|part| *part < 0) {
        return exec_err!("a step of a range goes forward or back, and not both by its parts");
    }
    let [months, days, nanoseconds] = parts.map(i128::from);
    // To a date, less than a day adds nothing.
    let nanoseconds = if of_dates { nanoseconds - nanoseconds % DAY_NANOSECONDS } else { nanoseconds };
    Ok((months * 28 + days) * DAY_NANOSECONDS + nanoseconds)
}

/// Bounds what the planner makes of operators and of syntax, which does not ask the registry.
#[derive(Debug)]
struct BoundExpressions;

impl AnalyzerRule for BoundExpressions {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let bounded = plan.transform_down_with_subqueries(|node| {
            let names = NamePreserver::new(&node);
            node.map_expressions(|expression| {
                let name = names.save(&expression);
                Ok(expression.transform_up(bounded)?.update_data(|expression| name.restore(expression)))
            })
        });
        Ok(bounded?.data)
    }

    fn name(&self) -> &str {
        "bound_expressions"
    }
}

fn bounded(expression: Expr) -> Result<Transformed<Expr>> {
    match expression {
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            let growth = BOUNDED.iter().find(|(name, _)| *name == func.name()).map(|(_, growth)| *growth);
            let is_bounded = (func.inner().as_ref() as &dyn std::any::Any).is::<Bounded>();
            match growth {
                Some(growth) if !is_bounded => {
                    let func = Arc::new(ScalarUDF::new_from_impl(Bounded { inner: func, growth }));
                    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args })))
                }
                _ => Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args }))),
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
            let func = Arc::new(ScalarUDF::new_from_impl(ConcatOperator::new()));
            Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: vec![*left, *right] })))
        }
        Expr::BinaryExpr(BinaryExpr {
            op:
                Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch,
            ref right,
            ..
        }) => {
            check_literal_pattern(right)?;
            Ok(Transformed::no(expression))
        }
        Expr::SimilarTo(Like { ref pattern, .. }) => {
            check_literal_pattern(pattern)?;
            Ok(Transformed::no(expression))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// The operator `||` of texts, bounded.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ConcatOperator {
    signature: Signature,
}

impl ConcatOperator {
    fn new() -> Self {
        // The types were made equal before.
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ConcatOperator {
    fn name(&self) -> &str {
        "||"
    }

    /// As the operator's, so that columns keep their names.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let sides: Vec<String> = args.iter().map(|side| side.schema_name().to_string()).collect();
        Ok(sides.join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [left, right] => BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_result_type(),
            _ => Ok(DataType::Null),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let is_nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, is_nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let call = Call { name: self.name(), args: &args.args, rows: rows_of(&args) };
        call.check(Growth::Sum)?;
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let field =
            |(at, array): (usize, &ArrayRef)| Field::new(at.to_string(), array.data_type().clone(), true);
        let schema = Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>());
        let rows = columns.first().map_or(0, |column| column.len());
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)?;
        let side = |at: usize| Arc::new(Column::new(&at.to_string(), at)) as Arc<dyn PhysicalExpr>;
        let joined = PhysicalBinary::new(side(0), Operator::StringConcat, side(1)).evaluate(&batch)?;
        match joined {
            ColumnarValue::Array(array) if is_scalar => {
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
            }
            other => Ok(other),
        }
    }
}
