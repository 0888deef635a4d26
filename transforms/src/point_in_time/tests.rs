//! The join against a search that looks at every row of a view for every row of the spine, on random rows.
//!
//! A case that fails prints its seed, which replays it:
//! `ISOBAR_SEED=17 cargo test --release --locked --workspace --lib -- point_in_time`. `ISOBAR_SEEDS` is how many there are.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
    UInt64Array, make_comparator,
};
use arrow::compute::{SortOptions, cast, concat_batches, take};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use datafusion::catalog::MemTable;
use datafusion::common::stats::Precision;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{LogicalPlanBuilder, col};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{
    ExecutionPlan, ExecutionPlanProperties, StatisticsArgs, StatisticsContext, displayable,
};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{StreamExt, TryStreamExt};

use super::*;

const CASES: u64 = 2000;

const DAY: i128 = 86_400 * 1_000_000_000;

/// SplitMix64: one number gives all that follow.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// A column of keys, and numbers that are equal if the keys are.
struct Keys {
    column: ArrayRef,
    numbers: Vec<Option<usize>>,
}

fn key_types() -> [DataType; 9] {
    [
        DataType::Int64,
        DataType::UInt8,
        DataType::Boolean,
        DataType::Date32,
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Decimal128(12, 2),
        DataType::Timestamp(TimeUnit::Millisecond, Some("+02:00".into())),
    ]
}

fn keys(random: &mut Random, data_type: &DataType, rows: usize) -> Keys {
    let entities = 1 + random.below(5);
    let numbers: Vec<Option<usize>> =
        (0..rows).map(|_| (!random.chance(8)).then(|| random.below(entities))).collect();
    let texts = ["", "a", "a\0", "a name of more than twelve bytes", "é"];
    let column: ArrayRef = match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let column: StringArray =
                numbers.iter().map(|number| number.map(|number| texts[number])).collect();
            cast(&column, data_type).unwrap()
        }
        other => {
            let wide: Int64Array = numbers.iter().map(|number| number.map(|number| number as i64)).collect();
            let column = cast(&wide, &DataType::Int32).unwrap();
            cast(&column, other).unwrap()
        }
    };
    let is_boolean = *data_type == DataType::Boolean;
    let equal = |number: usize| if is_boolean { number.min(1) } else { number };
    Keys { column, numbers: numbers.into_iter().map(|number| number.map(equal)).collect() }
}

/// A column of times, and the instants in nanoseconds.
struct Times {
    column: ArrayRef,
    instants: Vec<Option<i128>>,
}

fn time_type(random: &mut Random) -> DataType {
    let zone = random.pick(&[None, Some("UTC"), Some("+05:30"), Some("-11:00")]).map(Into::into);
    random.pick(&[
        DataType::Date32,
        DataType::Timestamp(TimeUnit::Second, zone.clone()),
        DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
        DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Timestamp(TimeUnit::Nanosecond, zone),
    ])
}

/// Few different times, and some that differ by one tick of some unit.
fn times(random: &mut Random, rows: usize, nulls_percent: usize) -> Times {
    let data_type = time_type(random);
    let unit: i128 = match &data_type {
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => 1,
        _ => DAY,
    };
    let days = 1 + random.below(6) as i128;
    let ticks: Vec<Option<i64>> = (0..rows)
        .map(|_| {
            let day = random.below(days as usize) as i128 - days / 2;
            let further = random.pick(&[0, 0, 0, -1, 1, 999, 1_000, 1_000_000, 1_000_000_000, DAY / 2]);
            let tick = (day * DAY + further).div_euclid(unit);
            (!random.chance(nulls_percent)).then(|| i64::try_from(tick).unwrap())
        })
        .collect();
    let instants = ticks.iter().map(|tick| tick.map(|tick| i128::from(tick) * unit)).collect();
    let column: ArrayRef = match &data_type {
        DataType::Timestamp(TimeUnit::Second, zone) => {
            Arc::new(TimestampSecondArray::from(ticks).with_timezone_opt(zone.clone()))
        }
        DataType::Timestamp(TimeUnit::Millisecond, zone) => {
            Arc::new(TimestampMillisecondArray::from(ticks).with_timezone_opt(zone.clone()))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            Arc::new(TimestampMicrosecondArray::from(ticks).with_timezone_opt(zone.clone()))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            Arc::new(TimestampNanosecondArray::from(ticks).with_timezone_opt(zone.clone()))
        }
        _ => Arc::new(ticks.into_iter().map(|tick| tick.map(|tick| tick as i32)).collect::<Date32Array>()),
    };
    assert_eq!(column.data_type(), &data_type);
    Times { column, instants }
}

fn small_numbers(random: &mut Random, rows: usize) -> Int64Array {
    (0..rows).map(|_| (!random.chance(15)).then(|| random.below(3) as i64)).collect()
}

fn batch_of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns.into_iter().map(|(_, column)| column).collect(),
    )
    .unwrap()
}

/// `rows` cut into partitions, and these into batches, some of them empty.
fn cut(random: &mut Random, rows: &RecordBatch) -> Vec<Vec<RecordBatch>> {
    let mut partitions = vec![Vec::new()];
    let mut start = 0;
    while start < rows.num_rows() {
        let length = random.below(20).min(rows.num_rows() - start);
        partitions.last_mut().unwrap().push(rows.slice(start, length));
        start += length;
        if random.chance(15) {
            partitions.push(Vec::new());
        }
    }
    partitions
}

fn table(partitions: &[Vec<RecordBatch>], rows: &RecordBatch) -> Arc<dyn ExecutionPlan> {
    MemorySourceConfig::try_new_exec(partitions, rows.schema(), None).unwrap()
}

fn column(name: &str, plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn PhysicalExpr> {
    expressions::col(name, &plan.schema()).unwrap()
}

struct Spine {
    rows: RecordBatch,
    keys: [Keys; 2],
    times: Times,
}

struct View {
    rows: RecordBatch,
    keys: [Keys; 2],
    /// Which of the keys it is joined by.
    on: Vec<usize>,
    events: Times,
    knowns: Option<Times>,
    offsets: Option<Int64Array>,
    ttl: Option<Duration>,
    matching: Matching,
}

fn spine(random: &mut Random, types: &[DataType; 2]) -> Spine {
    let rows = random.pick(&[0, 1, 7, 60, 60, 60]);
    let keys = [keys(random, &types[0], rows), keys(random, &types[1], rows)];
    let times = times(random, rows, 8);
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    let rows = batch_of(vec![
        ("id", ids),
        ("k0", keys[0].column.clone()),
        ("k1", keys[1].column.clone()),
        ("t", times.column.clone()),
    ]);
    Spine { rows, keys, times }
}

fn view(random: &mut Random, types: &[DataType; 2]) -> View {
    let rows = random.pick(&[0, 1, 12, 80, 80, 80]);
    let matching = random.pick(&[
        Matching::AtOrBefore,
        Matching::AtOrBefore,
        Matching::AtOrBefore,
        Matching::Before,
        Matching::AtOrAfter,
        Matching::After,
    ]);
    let is_usual = matching == Matching::AtOrBefore;
    let keys = [keys(random, &types[0], rows), keys(random, &types[1], rows)];
    let events = times(random, rows, 8);
    let knowns = (is_usual && random.chance(60)).then(|| times(random, rows, 8));
    let offsets = random.chance(60).then(|| small_numbers(random, rows));
    let ttl = (is_usual && random.chance(60)).then(|| {
        let days = random.below(4) as u64 * DAY as u64;
        Duration::from_nanos(days + random.pick(&[0, 0, 1, 1_000, 999_999_999]))
    });
    let name = |random: &mut Random| (!random.chance(20)).then(|| random.pick(&["x", "yy", ""]));
    let names: StringArray = (0..rows).map(|_| name(random)).collect();
    let mut columns = vec![
        ("k0", keys[0].column.clone()),
        ("k1", keys[1].column.clone()),
        ("event_time", events.column.clone()),
    ];
    columns.extend(knowns.iter().map(|knowns| ("known_time", knowns.column.clone())));
    columns.extend(offsets.iter().map(|offsets| ("offset", Arc::new(offsets.clone()) as ArrayRef)));
    columns.push(("value", Arc::new(small_numbers(random, rows)) as ArrayRef));
    columns.push(("name", Arc::new(names) as ArrayRef));
    let on = random.pick(&[vec![0], vec![0], vec![1], vec![0, 1], vec![1, 0], vec![]]);
    View { rows: batch_of(columns), keys, on, events, knowns, offsets, ttl, matching }
}

/// The row of `view` that belongs to row `row` of `spine`, by looking at each.
fn searched(spine: &Spine, view: &View, row: usize) -> Option<usize> {
    let time = spine.times.instants[row]?;
    let mut found: Option<usize> = None;
    for candidate in 0..view.rows.num_rows() {
        let has_keys = view.on.iter().all(|key| {
            let wanted = spine.keys[*key].numbers[row];
            wanted.is_some() && wanted == view.keys[*key].numbers[candidate]
        });
        let Some(event) = view.events.instants[candidate] else { continue };
        let is_in_time = match view.matching {
            Matching::AtOrBefore => event <= time,
            Matching::Before => event < time,
            Matching::AtOrAfter => event >= time,
            Matching::After => event > time,
        };
        let is_known = match &view.knowns {
            Some(knowns) => knowns.instants[candidate].is_some_and(|known| known <= time),
            None => true,
        };
        let is_young = view.ttl.is_none_or(|ttl| time - event <= ttl.as_nanos() as i128);
        let may_be = has_keys && is_in_time && is_known && is_young;
        if may_be && found.is_none_or(|found| is_better(view, candidate, found)) {
            found = Some(candidate);
        }
    }
    found
}

fn is_better(view: &View, left: usize, right: usize) -> bool {
    let events = view.events.instants[left].cmp(&view.events.instants[right]);
    let is_forward = matches!(view.matching, Matching::AtOrBefore | Matching::Before);
    let mut order = if is_forward { events } else { events.reverse() };
    if let Some(knowns) = &view.knowns {
        order = order.then(knowns.instants[left].cmp(&knowns.instants[right]));
    }
    if let Some(offsets) = &view.offsets {
        let offset = |row: usize| offsets.is_valid(row).then(|| offsets.value(row));
        order = order.then(offset(left).cmp(&offset(right)));
    }
    for column in view.rows.columns() {
        let compare = make_comparator(column, column, SortOptions::default()).unwrap();
        order = order.then(compare(left, right));
    }
    order == Ordering::Greater
}

fn expected(spine: &Spine, views: &[View]) -> Vec<ArrayRef> {
    let mut columns = spine.rows.columns().to_vec();
    for view in views {
        let rows: UInt64Array =
            (0..spine.rows.num_rows()).map(|row| searched(spine, view, row).map(|row| row as u64)).collect();
        columns.extend(view.rows.columns().iter().map(|column| take(column, &rows, None).unwrap()));
    }
    columns
}

fn plan(random: &mut Random, spine: &Spine, views: &[View]) -> PointInTimeJoinExec {
    let spine = table(&cut(random, &spine.rows), &spine.rows);
    let joined = views.iter().map(|view| {
        let input = table(&cut(random, &view.rows), &view.rows);
        let key = |key: &usize| {
            let name = format!("k{key}");
            (column(&name, &spine), column(&name, &input))
        };
        JoinedView {
            on: view.on.iter().map(key).collect(),
            spine_time: column("t", &spine),
            event_time: column("event_time", &input),
            known_time: view.knowns.as_ref().map(|_| column("known_time", &input)),
            offset: view.offsets.as_ref().map(|_| column("offset", &input)),
            ttl: view.ttl,
            matching: view.matching,
            input,
        }
    });
    let joined = joined.collect();
    PointInTimeJoinExec::try_new(spine, joined, None).unwrap()
}

fn context(config: SessionConfig, memory_bytes_max: Option<usize>) -> Arc<TaskContext> {
    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(bytes) = memory_bytes_max {
        runtime = runtime.with_memory_limit(bytes, 1.0);
    }
    SessionContext::new_with_config_rt(config, runtime.build_arc().unwrap()).task_ctx()
}

async fn rows_of(plan: &dyn ExecutionPlan, context: &Arc<TaskContext>) -> Result<RecordBatch> {
    let batches: Vec<RecordBatch> = plan.execute(0, context.clone())?.try_collect().await?;
    assert_eq!(context.memory_pool().reserved(), 0, "all memory is given back");
    Ok(concat_batches(&plan.schema(), &batches)?)
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn seeds() -> std::ops::Range<u64> {
    match from_environment("ISOBAR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("ISOBAR_SEEDS").unwrap_or(CASES),
    }
}

async fn check(seed: u64) {
    let random = &mut Random(seed);
    let types = [random.pick(&key_types()), random.pick(&key_types())];
    let spine = spine(random, &types);
    let views: Vec<View> = (0..1 + random.below(3)).map(|_| view(random, &types)).collect();
    let expected = expected(&spine, &views);
    let plan = plan(random, &spine, &views);
    let config = SessionConfig::new()
        .with_batch_size(1 + random.below(40))
        .with_target_partitions(1 + random.below(4));
    let found = rows_of(&plan, &context(config.clone(), None)).await.unwrap();
    assert_eq!(found.columns(), expected, "ISOBAR_SEED={seed}");
    if seed.is_multiple_of(4) {
        let spilled = rows_of(&plan, &context(config, Some(1))).await.unwrap();
        assert_eq!(spilled.columns(), expected, "spilled: ISOBAR_SEED={seed}");
        let files = plan.metrics().unwrap().spill_count().unwrap_or(0);
        let has_rows = views.iter().any(|view| view.rows.num_rows() > 0);
        assert!(files > 0 || !has_rows || spine.rows.num_rows() == 0, "no files: ISOBAR_SEED={seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_the_one_that_a_search_of_all_rows_finds() {
    for seed in seeds() {
        check(seed).await;
    }
}

/// Rows of one key with these times; values count up.
fn observations(rows: &[(i64, i64)]) -> RecordBatch {
    let times = |times: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(times)) as ArrayRef;
    batch_of(vec![
        ("k", Arc::new(Int64Array::from(vec![7; rows.len()])) as ArrayRef),
        ("event_time", times(rows.iter().map(|row| row.0).collect())),
        ("known_time", times(rows.iter().map(|row| row.1).collect())),
        ("value", Arc::new(Int64Array::from_iter_values(0..rows.len() as i64)) as _),
    ])
}

fn questions(times: &[i64]) -> RecordBatch {
    batch_of(vec![
        ("k", Arc::new(Int64Array::from(vec![7; times.len()])) as ArrayRef),
        ("t", Arc::new(TimestampMicrosecondArray::from(times.to_vec())) as _),
    ])
}

fn simple_view(spine: &Arc<dyn ExecutionPlan>, input: &Arc<dyn ExecutionPlan>) -> JoinedView {
    JoinedView {
        on: vec![(column("k", spine), column("k", input))],
        spine_time: column("t", spine),
        event_time: column("event_time", input),
        known_time: Some(column("known_time", input)),
        offset: None,
        ttl: None,
        matching: Matching::AtOrBefore,
        input: input.clone(),
    }
}

fn simple_join(spine: &RecordBatch, view: &RecordBatch, ttl: Option<Duration>) -> PointInTimeJoinExec {
    let (spine, input) = (table(&[vec![spine.clone()]], spine), table(&[vec![view.clone()]], view));
    let view = JoinedView { ttl, ..simple_view(&spine, &input) };
    PointInTimeJoinExec::try_new(spine, vec![view], None).unwrap()
}

fn values(rows: &RecordBatch) -> Vec<Option<i64>> {
    rows["value"].as_primitive::<Int64Type>().iter().collect()
}

#[tokio::test]
async fn what_is_known_later_is_not_used_before() {
    // The second observation was corrected by the third when it was known already, and the fourth is known at last.
    let view = observations(&[(10, 10), (20, 25), (20, 40), (15, 100)]);
    let spine = questions(&[9, 10, 19, 20, 24, 25, 39, 40, 99, 100]);
    let found =
        rows_of(&simple_join(&spine, &view, None), &context(SessionConfig::new(), None)).await.unwrap();
    let expected = [None, Some(0), Some(0), Some(0), Some(0), Some(1), Some(1), Some(2), Some(2), Some(2)];
    assert_eq!(values(&found), expected);
    let ttl = Some(Duration::from_micros(9));
    let found =
        rows_of(&simple_join(&spine, &view, ttl), &context(SessionConfig::new(), None)).await.unwrap();
    let expected = [None, Some(0), Some(0), None, None, Some(1), None, None, None, None];
    assert_eq!(values(&found), expected);
}

#[tokio::test]
async fn rows_that_are_never_the_answer_are_not_searched() {
    // The newer a row is, the earlier it was known: only the newest is ever the answer.
    let upside_down: Vec<(i64, i64)> = (0..5000).map(|row| (row, 10_000 - row)).collect();
    let plan = simple_join(&questions(&[5000, 5001, 20_000]), &observations(&upside_down), None);
    let found = rows_of(&plan, &context(SessionConfig::new(), None)).await.unwrap();
    assert_eq!(values(&found), [None, Some(4999), Some(4999)]);
    let metrics = plan.metrics().unwrap();
    assert_eq!(metrics.sum_by_name("view_rows").unwrap().as_usize(), 5000);
    assert_eq!(metrics.sum_by_name("index_rows").unwrap().as_usize(), 1);
    assert_eq!(metrics.output_rows(), Some(3));
    assert_eq!(metrics.spill_count(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_fit_is_gone_through_in_passes() {
    let random = &mut Random(from_environment("ISOBAR_SEED").unwrap_or(3));
    // Chunks have 1024 rows at most with this little memory, so there are six passes.
    let rows: Vec<(i64, i64)> =
        (0..6000).map(|_| (random.below(3000) as i64, random.below(4000) as i64)).collect();
    let times: Vec<i64> = (0..4000).map(|_| random.below(5000) as i64 - 100).collect();
    let (view, spine) = (observations(&rows), questions(&times));
    for ttl in [None, Some(Duration::from_micros(20))] {
        let plan = simple_join(&spine, &view, ttl);
        let in_memory = rows_of(&plan, &context(SessionConfig::new(), None)).await.unwrap();
        let spilled = rows_of(&plan, &context(SessionConfig::new(), Some(1))).await.unwrap();
        assert_eq!(in_memory, spilled);
        for (row, value) in values(&in_memory).into_iter().enumerate() {
            let is_young = |event: i64| ttl.is_none_or(|ttl| times[row] - event <= ttl.as_micros() as i64);
            let expected = rows
                .iter()
                .zip(0_i64..)
                .filter(|((event, known), _)| {
                    *event <= times[row] && *known <= times[row] && is_young(*event)
                })
                .max();
            assert_eq!(value, expected.map(|(_, value)| value), "row {row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_behind_when_a_query_is_stopped() {
    let rows: Vec<(i64, i64)> = (0..20_000).map(|row| (row, row)).collect();
    let spine = questions(&(0..20_000).collect::<Vec<_>>());
    for memory_bytes_max in [None, Some(1)] {
        let plan = simple_join(&spine, &observations(&rows), None);
        let context = context(SessionConfig::new().with_batch_size(100), memory_bytes_max);
        let mut stream = plan.execute(0, context.clone()).unwrap();
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(values(&first), (0..100).map(Some).collect::<Vec<_>>());
        drop(stream);
        // Tasks that were running let go of what they hold when they reach their end.
        while context.memory_pool().reserved() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn without_temporary_files_too_little_memory_is_an_error() {
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(1, 1.0).with_disk_manager_builder(disk);
    let context = SessionContext::new_with_config_rt(SessionConfig::new(), runtime.build_arc().unwrap());
    let plan = simple_join(&questions(&[1]), &observations(&[(0, 0)]), None);
    let error = rows_of(&plan, &context.task_ctx()).await.unwrap_err();
    assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let rows = batch_of(vec![
        ("k", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("f", Arc::new(Float64Array::from(vec![1.0])) as _),
        ("s", Arc::new(StringArray::from(vec!["1"])) as _),
        ("t", Arc::new(TimestampMicrosecondArray::from(vec![1])) as _),
        ("event_time", Arc::new(TimestampMicrosecondArray::from(vec![1])) as _),
        ("known_time", Arc::new(TimestampMicrosecondArray::from(vec![1])) as _),
        ("n", Arc::new(Int64Array::from(vec![1])) as _),
    ]);
    let plan = table(&[vec![rows.clone()]], &rows);
    let refusal = |change: &dyn Fn(&mut JoinedView)| {
        let mut view = simple_view(&plan, &plan);
        change(&mut view);
        PointInTimeJoinExec::try_new(plan.clone(), vec![view], None).unwrap_err().strip_backtrace()
    };
    let named = |name: &str| column(name, &plan);
    let ttl = Some(Duration::from_secs(1));
    for (part, refusal) in [
        ("exact equality", refusal(&|view| view.on = vec![(named("f"), named("f"))])),
        ("have the types", refusal(&|view| view.on = vec![(named("k"), named("s"))])),
        ("cannot be compared as a time", refusal(&|view| view.event_time = named("s"))),
        ("cannot be compared with", refusal(&|view| view.event_time = named("n"))),
        ("cannot be compared with", refusal(&|view| view.known_time = Some(named("n")))),
        ("cannot be compared with", refusal(&|view| view.spine_time = named("n"))),
        ("at or before", refusal(&|view| view.matching = Matching::Before)),
        (
            "at or before",
            refusal(&|view| (view.known_time, view.ttl, view.matching) = (None, ttl, Matching::After)),
        ),
        (
            "needs times",
            refusal(&|view| {
                (view.spine_time, view.event_time) = (named("n"), named("n"));
                (view.known_time, view.ttl) = (None, ttl);
            }),
        ),
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    assert!(PointInTimeJoinExec::try_new(plan, Vec::new(), None).is_err());
}

#[test]
fn a_plan_knows_rows_order_and_what_it_does() {
    let (spine_rows, view_rows) = (questions(&[3, 1, 2]), observations(&[(1, 1)]));
    let input = table(&[vec![view_rows.clone()]], &view_rows);
    let spine = table(&[vec![spine_rows.clone()]], &spine_rows);
    let by_time = expressions::col("t", &spine.schema()).unwrap();
    let ordering = [datafusion::physical_expr::PhysicalSortExpr::new_default(by_time)].into();
    let sorted: Arc<dyn ExecutionPlan> = Arc::new(SortExec::new(ordering, spine.clone()));
    let view = JoinedView {
        ttl: Some(Duration::from_secs(60)),
        offset: Some(column("value", &input)),
        ..simple_view(&sorted, &input)
    };
    let join = PointInTimeJoinExec::try_new(sorted, vec![view], Some(vec![5, 1])).unwrap();
    let join: Arc<dyn ExecutionPlan> = Arc::new(join);
    let names: Vec<String> = join.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["value", "t"]);
    assert_eq!(join.output_ordering().unwrap().to_string(), "t@1 ASC");
    assert_eq!(join.output_partitioning().partition_count(), 1);
    let statistics = StatisticsContext::new().compute(join.as_ref(), &StatisticsArgs::new()).unwrap();
    assert_eq!(statistics.num_rows, Precision::Exact(3));
    assert_eq!(statistics.column_statistics.len(), 2);
    let text = displayable(join.as_ref()).indent(false).to_string();
    assert_eq!(
        text.lines().next().unwrap(),
        "PointInTimeJoinExec: views=[{on=[k@0 = k@0], match=[t@1 >= event_time@1, t@1 >= known_time@2], ttl=60s, \
         offset=value@3}], projection=[value, t]"
    );
}

#[tokio::test]
async fn a_logical_plan_brings_keys_to_one_type_and_reads_what_is_wanted() {
    let state = SessionStateBuilder::new()
        .with_default_features()
        .with_config(SessionConfig::new().with_target_partitions(2))
        .with_query_planner(Arc::new(PointInTimePlanner))
        .build();
    let context = SessionContext::new_with_state(state);
    // Keys of the spine are texts here, and stored as a dictionary.
    let spine = questions(&[20, 5]);
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let texts = cast(&StringArray::from(vec!["7", "7"]), &dictionary).unwrap();
    let spine = batch_of(vec![("k", texts), ("t", spine["t"].clone()), ("unused", spine["t"].clone())]);
    let view = observations(&[(1, 1), (10, 10)]);
    let keys = cast(&view["k"], &DataType::Utf8View).unwrap();
    let view = batch_of(vec![
        ("k", keys),
        ("event_time", view["event_time"].clone()),
        ("known_time", view["known_time"].clone()),
        ("value", view["value"].clone()),
        ("unread", view["value"].clone()),
    ]);
    for (name, rows) in [("s", spine), ("v", view)] {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap();
        context.register_table(name, Arc::new(table)).unwrap();
    }
    let scan = |name: &'static str| {
        let context = context.clone();
        async move { context.table(name).await.unwrap().into_unoptimized_plan() }
    };
    let view = FeatureView {
        input: scan("v").await,
        on: vec![(col("s.k"), col("v.k"))],
        spine_time: col("s.t"),
        event_time: col("v.event_time"),
        known_time: Some(col("v.known_time")),
        offset: None,
        ttl: None,
        matching: Matching::AtOrBefore,
    };
    let join = PointInTimeJoin::try_new(scan("s").await, vec![view]).unwrap().into_plan();
    assert_eq!(join.schema().fields().len(), 8);
    let wanted = LogicalPlanBuilder::from(join).project(vec![col("s.t"), col("v.value")]).unwrap();
    let state = context.state();
    let optimized = state.optimize(&wanted.build().unwrap()).unwrap();
    let text = optimized.display_indent().to_string();
    assert!(text.contains("s.t >= v.event_time, s.t >= v.known_time"), "{text}");
    assert!(!text.contains("unused") && !text.contains("unread"), "{text}");
    let plan = state.create_physical_plan(&optimized).await.unwrap();
    let text = displayable(plan.as_ref()).indent(false).to_string();
    assert!(text.contains("projection=[t, value]") && !text.contains("ProjectionExec"), "{text}");
    let rows = rows_of(plan.as_ref(), &context.task_ctx()).await.unwrap();
    assert_eq!(values(&rows), [Some(1), Some(0)]);
}
