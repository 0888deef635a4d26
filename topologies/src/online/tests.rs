//! Random rows in random pieces, with deaths in between, against a search that looks at every row; and look-ups.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::layout::Layout;
use super::lookup::{Found, KEYS_MAX, LookupError, Options, key_column};
use super::metrics::Metrics;
use super::store::{Applied, State, Store};
use super::verify::newest_rows_sql;
use super::{View, not_a_feature};
use crate::spec::OnlineSpec;

const CACHE_BYTES: usize = 1 << 20;
const TRIALS: u64 = 120;

/// A row of the table: two key columns, two times, an offset and two features.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    name: Option<&'static str>,
    number: Option<i64>,
    time: Option<i64>,
    known: Option<i64>,
    offset: Option<i64>,
    amount: Option<f64>,
    note: Option<&'static str>,
}

fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn schema() -> Schema {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    Schema::new(vec![
        field("name", DataType::Utf8),
        field("number", DataType::Int64),
        field("event_time", micros()),
        field("known_time", micros()),
        field("offset", DataType::Int64),
        field("amount", DataType::Float64),
        field("note", DataType::Utf8),
    ])
}

fn spec() -> OnlineSpec {
    OnlineSpec {
        dataset: "d".into(),
        keys: vec!["name".into(), "number".into()],
        time: "event_time".into(),
        known: Some("known_time".into()),
        sequence: vec!["offset".into()],
        ttl: None,
        features: None,
    }
}

fn layout() -> Arc<Layout> {
    Arc::new(Layout::new(&spec(), &schema()).unwrap())
}

fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn columns(rows: &[Row]) -> Vec<ArrayRef> {
    vec![
        Arc::new(rows.iter().map(|row| row.name).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.number).collect::<Int64Array>()),
        times(rows.iter().map(|row| row.time)),
        times(rows.iter().map(|row| row.known)),
        Arc::new(rows.iter().map(|row| row.offset).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.amount).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.note).collect::<StringArray>()),
    ]
}

/// Few values, so that everything happens: equal keys, equal rows, and rows that differ in one column only.
fn draw(rng: &mut StdRng) -> Row {
    let number = |rng: &mut StdRng| rng.random_bool(0.9).then(|| rng.random_range(-2..3));
    let notes = ["", "a", "a\0", "ä"];
    let amounts = [0.0, -0.0, 1.5, f64::NAN, f64::NEG_INFINITY];
    Row {
        name: rng.random_bool(0.95).then(|| ["", "a", "b"][rng.random_range(0..3)]),
        number: number(rng),
        time: number(rng),
        known: number(rng),
        offset: number(rng),
        amount: rng.random_bool(0.8).then(|| amounts[rng.random_range(0..amounts.len())]),
        note: rng.random_bool(0.8).then(|| notes[rng.random_range(0..notes.len())]),
    }
}

fn compare_amounts(a: Option<f64>, b: Option<f64>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

/// Which of two rows is newer, column by column; nulls are oldest.
fn compare(a: &Row, b: &Row) -> Ordering {
    (a.time, a.known, a.offset)
        .cmp(&(b.time, b.known, b.offset))
        .then_with(|| compare_amounts(a.amount, b.amount))
        .then_with(|| a.note.cmp(&b.note))
}

/// The newest row of each key, by looking at all.
fn newest(rows: &[Row]) -> BTreeMap<(&'static str, i64), Row> {
    let mut newest: BTreeMap<_, Row> = BTreeMap::new();
    for row in rows {
        let (Some(name), Some(number), Some(_)) = (row.name, row.number, row.time) else { continue };
        let held = newest.entry((name, number)).or_insert_with(|| row.clone());
        if compare(row, held).is_gt() {
            *held = row.clone();
        }
    }
    newest
}

fn state(layout: &Layout, version: u64) -> State {
    State {
        fingerprint: layout.fingerprint().to_owned(),
        table_id: "t".into(),
        building: None,
        applied: Some(Applied { version, sha256: format!("{version}"), committed_ms: version as i64 }),
    }
}

fn open(path: &Path) -> Store {
    Store::open(path, CACHE_BYTES).unwrap_or_else(|_| panic!("the store can be opened"))
}

fn version_of(store: &Store) -> Option<u64> {
    Some(store.state().unwrap()?.applied?.version)
}

/// All rows of the store, asked by key.
fn held(
    store: &Store,
    layout: &Arc<Layout>,
    keys: &[(&'static str, i64)],
) -> BTreeMap<(&'static str, i64), Row> {
    let reader = store.reader(layout.clone()).unwrap().unwrap();
    let names: ArrayRef = Arc::new(keys.iter().map(|(name, _)| Some(*name)).collect::<StringArray>());
    let numbers: ArrayRef = Arc::new(keys.iter().map(|(_, number)| Some(*number)).collect::<Int64Array>());
    let (places, values) = reader.get(&[names, numbers]).unwrap();
    let time = |column: usize, row: usize| -> Option<i64> {
        let column = values.column(column).as_primitive::<TimestampMicrosecondType>();
        column.is_valid(row).then(|| column.value(row))
    };
    let row = |key: &(&'static str, i64), row: usize| -> Row {
        let offsets = values.column(2).as_primitive::<Int64Type>();
        let amounts = values.column(3).as_primitive::<Float64Type>();
        let notes = values.column(4).as_string::<i32>();
        let note = notes.is_valid(row).then(|| notes.value(row));
        Row {
            name: Some(key.0),
            number: Some(key.1),
            time: time(0, row),
            known: time(1, row),
            offset: offsets.is_valid(row).then(|| offsets.value(row)),
            amount: amounts.is_valid(row).then(|| amounts.value(row)),
            note: note.map(|note| {
                ["", "a", "a\0", "ä"].into_iter().find(|known| *known == note).expect("a note that was drawn")
            }),
        }
    };
    let found = keys.iter().zip(places).filter_map(|(key, place)| Some((*key, row(key, place?))));
    let found: BTreeMap<_, _> = found.collect();
    assert_eq!(reader.keys(), found.len() as u64, "there is nothing else");
    found
}

/// Not by `==`, for which NaN differs from itself.
fn assert_same(
    held: &BTreeMap<(&'static str, i64), Row>,
    expected: &BTreeMap<(&'static str, i64), Row>,
    seed: u64,
) {
    assert_eq!(held.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "seed {seed}");
    for (key, row) in held {
        assert!(
            compare(row, &expected[key]).is_eq(),
            "seed {seed}: {key:?}: {row:?}, not {:?}",
            expected[key]
        );
    }
}

#[test]
fn whatever_comes_in_whichever_order_and_dies_in_between_the_newest_row_is_kept() {
    let layout = layout();
    let all_keys: Vec<(&'static str, i64)> =
        ["", "a", "b"].into_iter().flat_map(|name| (-2..3).map(move |number| (name, number))).collect();
    for seed in 0..TRIALS {
        let mut rng = StdRng::seed_from_u64(seed);
        let rows: Vec<Row> = (0..rng.random_range(0..60)).map(|_| draw(&mut rng)).collect();
        // Versions are runs of rows; the same row may be in several, as after a compaction that is read again.
        let mut versions: Vec<Vec<Row>> = Vec::new();
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let (some, others) = rest.split_at(rng.random_range(1..=rest.len()));
            versions.push(some.to_vec());
            rest = others;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut path = directory.path().join("d.redb");
        let mut store = open(&path);
        let writing = store.begin().unwrap();
        store.set_state(&writing, &state(&layout, 0)).unwrap();
        store.commit(writing).unwrap();
        let (mut next, mut deaths) = (0, 0);
        while next < versions.len() {
            // As many versions as one transaction takes, in pieces, each of them possibly twice.
            let end = rng.random_range(next + 1..=versions.len());
            let writing = store.begin().unwrap();
            let mut pieces: Vec<&[Row]> =
                versions[next..end].iter().flat_map(|rows| rows.chunks(rng.random_range(1..8))).collect();
            let again = rng.random_range(0..=pieces.len());
            pieces.extend_from_within(..again);
            for at in (1..pieces.len()).rev() {
                pieces.swap(at, rng.random_range(0..=at));
            }
            let is_killed = rng.random_bool(0.3);
            let until = if is_killed { rng.random_range(0..=pieces.len()) } else { pieces.len() };
            for piece in &pieces[..until] {
                store.put(&writing, &layout.encode(&columns(piece)).unwrap()).unwrap();
            }
            if is_killed {
                // What a process that dies now leaves on the disk.
                deaths += 1;
                let left = directory.path().join(format!("{deaths}.redb"));
                std::fs::copy(&path, &left).unwrap();
                drop(writing);
                drop(store);
                path = left;
                store = open(&path);
                assert_eq!(version_of(&store), Some(next as u64), "seed {seed}: nothing of it is there");
            } else {
                store.set_state(&writing, &state(&layout, end as u64)).unwrap();
                store.commit(writing).unwrap();
                next = end;
            }
            let expected = newest(&versions[..next].concat());
            assert_same(&held(&store, &layout, &all_keys), &expected, seed);
        }
    }
}

#[test]
fn a_store_that_is_built_keeps_its_files_in_mind_until_it_is_whole() {
    let layout = layout();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.building.redb");
    let store = open(&path);
    assert_eq!(store.state().unwrap(), None);
    let begun = State { building: Some(7), applied: None, ..state(&layout, 0) };
    let writing = store.begin().unwrap();
    store.set_state(&writing, &begun).unwrap();
    assert!(!store.has_file(&writing, "a").unwrap());
    store.add_file(&writing, "a").unwrap();
    store.commit(writing).unwrap();
    drop(store);

    let mut store = open(&path);
    assert_eq!(store.state().unwrap(), Some(begun));
    assert!(store.reader(layout.clone()).unwrap().is_none(), "a part of a version is no version");
    let writing = store.begin().unwrap();
    assert!(store.has_file(&writing, "a").unwrap() && !store.has_file(&writing, "b").unwrap());
    store.set_state(&writing, &state(&layout, 7)).unwrap();
    store.commit(writing).unwrap();
    let whole = directory.path().join("d.redb");
    store.rename(&whole).unwrap();
    assert!(whole.exists() && !path.exists());
    let reader = store.reader(layout.clone()).unwrap().unwrap();
    assert_eq!((reader.applied().version, reader.keys()), (7, 0));
    // What a reader has, it keeps.
    let writing = store.begin().unwrap();
    let row = Row {
        name: Some("a"),
        number: Some(1),
        time: Some(1),
        known: None,
        offset: None,
        amount: None,
        note: None,
    };
    store.put(&writing, &layout.encode(&columns(&[row])).unwrap()).unwrap();
    store.set_state(&writing, &state(&layout, 8)).unwrap();
    store.commit(writing).unwrap();
    assert_eq!((reader.applied().version, reader.keys()), (7, 0));
    assert_eq!(store.reader(layout).unwrap().unwrap().keys(), 1);
}

#[test]
fn one_process_has_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.redb");
    let _held = open(&path);
    assert!(matches!(Store::open(&path, CACHE_BYTES), Err(super::store::Unopened::InUse)));
    let other = directory.path().join("other.redb");
    std::fs::write(&other, "no store").unwrap();
    assert!(matches!(Store::open(&other, CACHE_BYTES), Err(super::store::Unopened::Unreadable(_))));
}

#[test]
fn values_of_every_type_come_back_as_they_were() {
    let list = DataType::List(Arc::new(Field::new("element", DataType::Int64, true)));
    let inner = vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true)];
    let structure = DataType::Struct(inner.into());
    let features = [
        ("boolean", DataType::Boolean),
        ("byte", DataType::Int8),
        ("float", DataType::Float32),
        ("bytes", DataType::Binary),
        ("day", DataType::Date32),
        ("time", micros()),
        ("decimal", DataType::Decimal128(10, 2)),
        ("list", list.clone()),
        ("struct", structure.clone()),
    ];
    let mut fields = vec![Field::new("k", DataType::Utf8, true), Field::new("event_time", micros(), true)];
    fields.extend(features.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)));
    let spec = OnlineSpec { keys: vec!["k".into()], known: None, sequence: Vec::new(), ..spec() };
    let layout = Layout::new(&spec, &Schema::new(fields)).unwrap();
    let text = |data_type: &DataType, texts: &[&str]| {
        key_column(&Field::new("x", data_type.clone(), true), texts).unwrap()
    };
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some(Vec::new()),
    ]);
    let DataType::Struct(fields) = &structure else { unreachable!("it is a struct") };
    let inner: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1, 2, 3])), Arc::new(StringArray::from(vec!["", "b", "c"]))];
    let structures = StructArray::new(fields.clone(), inner, Some(vec![true, false, true].into()));
    let columns: Vec<ArrayRef> = vec![
        text(&DataType::Utf8, &["a", "b", "c"]),
        times([Some(1), Some(2), Some(3)].into_iter()),
        text(&DataType::Boolean, &["true", "false", "true"]),
        text(&DataType::Int8, &["-128", "0", "127"]),
        arrow::compute::cast(&Int64Array::from(vec![Some(1), None, Some(-7)]), &DataType::Float32).unwrap(),
        text(&DataType::Binary, &["", "00", "ff00"]),
        text(&DataType::Date32, &["1969-12-31", "1970-01-01", "2026-05-03"]),
        text(
            &micros(),
            &["1970-01-01T00:00:00.000001Z", "2026-05-03T10:00:00+02:00", "0001-01-01T00:00:00Z"],
        ),
        text(&DataType::Decimal128(10, 2), &["-1.50", "0", "12345678.99"]),
        arrow::compute::cast(&lists, &list).unwrap(),
        Arc::new(structures),
    ];
    let encoded = layout.encode(&columns).unwrap();
    let values: Vec<Vec<u8>> = encoded.iter().map(|(_, value)| value.to_vec()).collect();
    let decoded = layout.decode(values.iter().map(Vec::as_slice)).unwrap();
    assert_eq!(decoded.columns(), &columns[1..]);
    let keys: Vec<Vec<u8>> = encoded.iter().map(|(key, _)| key.to_vec()).collect();
    let first = layout.decode_key(&keys[0]).unwrap();
    assert_eq!(first[0].as_string::<i32>().value(0), "a");
    assert_eq!(layout.decode(std::iter::empty::<&[u8]>()).unwrap().num_rows(), 0);
}

#[test]
fn columns_that_cannot_be_what_they_are_to_be_are_refused() {
    let refused = |change: &dyn Fn(&mut OnlineSpec)| {
        let mut spec = spec();
        change(&mut spec);
        Layout::new(&spec, &schema()).unwrap_err()
    };
    assert_eq!(refused(&|spec| spec.keys = vec!["nowhere".into()]), "d has no column nowhere");
    assert!(
        refused(&|spec| spec.keys = vec!["amount".into()]).contains("column amount of d cannot be compared")
    );
    assert!(refused(&|spec| spec.time = "number".into()).contains("is no time"));
    assert!(
        refused(&|spec| {
            spec.keys = vec!["name".into(), "number".into(), "note".into()];
            spec.features = Some(Vec::new());
        })
        .contains("no column left")
    );
    let entries = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)];
    let map =
        DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries.into()), false)), false);
    let nested = DataType::List(Arc::new(Field::new("element", map, true)));
    assert!(not_a_feature(&nested).is_some() && not_a_feature(&DataType::Float64).is_none());
    let others = Layout::new(&OnlineSpec { sequence: Vec::new(), ..spec() }, &schema()).unwrap();
    assert_ne!(others.fingerprint(), layout().fingerprint());
}

#[test]
fn the_query_says_what_is_right_in_sql_alone() {
    assert_eq!(
        newest_rows_sql(&layout(), 42),
        "SELECT \"name\", \"number\", \"event_time\", \"known_time\", \"offset\", \"amount\", \"note\" FROM (\
         SELECT \"name\", \"number\", \"event_time\", \"known_time\", \"offset\", \"amount\", \"note\", \
         row_number() OVER (PARTITION BY \"name\", \"number\" ORDER BY \"event_time\" DESC NULLS LAST, \
         \"known_time\" DESC NULLS LAST, \"offset\" DESC NULLS LAST, \"amount\" DESC NULLS LAST, \
         \"note\" DESC NULLS LAST) AS \"n\" FROM \"d\" VERSION AS OF 42 \
         WHERE \"name\" IS NOT NULL AND \"number\" IS NOT NULL AND \"event_time\" IS NOT NULL) WHERE \"n\" = 1"
    );
}

/// A view with a row for the numbers 1 to 3, which happened at so many seconds.
fn view(directory: &Path, ttl: Option<Duration>) -> View {
    let spec = OnlineSpec {
        keys: vec!["number".into()],
        features: Some(vec!["amount".into(), "note".into()]),
        ttl,
        ..spec()
    };
    let layout = Arc::new(Layout::new(&spec, &schema()).unwrap());
    let store = open(&directory.join("d.redb"));
    let rows: Vec<Row> = (1..=3)
        .map(|number| Row {
            name: None,
            number: Some(number),
            time: Some(number * 1_000_000),
            known: None,
            offset: None,
            amount: Some(number as f64),
            note: Some("a"),
        })
        .collect();
    let columns = columns(&rows).split_off(1);
    let writing = store.begin().unwrap();
    store.put(&writing, &layout.encode(&columns).unwrap()).unwrap();
    store.set_state(&writing, &state(&layout, 5)).unwrap();
    store.commit(writing).unwrap();
    let view = View::new(&spec, &Metrics::new("t"));
    assert_eq!(
        view.look_up(&numbers(&[1]), &Options::default(), 0).unwrap_err(),
        LookupError::NotReady("d".into())
    );
    view.publish(store.reader(layout).unwrap(), store.bytes());
    view
}

fn numbers(numbers: &[i64]) -> Vec<ArrayRef> {
    vec![Arc::new(Int64Array::from(numbers.to_vec()))]
}

fn amounts(rows: &RecordBatch) -> Vec<f64> {
    let column = rows.column_by_name("amount").unwrap();
    column.as_primitive::<Float64Type>().values().to_vec()
}

#[test]
fn every_key_gets_a_result_in_the_order_asked() {
    let directory = tempfile::tempdir().unwrap();
    let view = view(directory.path(), Some(Duration::from_secs(10)));
    let ask = |keys: &[i64], options: &Options, now_ms| view.look_up(&numbers(keys), options, now_ms);

    let answer = ask(&[3, 9, 1, 3], &Options::default(), 11_000).unwrap();
    assert_eq!(answer.found, [Found::Row(0), Found::Nothing, Found::Row(1), Found::Row(2)]);
    assert_eq!(amounts(&answer.rows), [3.0, 1.0, 3.0]);
    assert_eq!(answer.event_times, [3_000_000, 1_000_000, 3_000_000]);
    assert_eq!((answer.applied.version, answer.newest_version, answer.age_ms), (5, 5, 10_995));

    // One millisecond later the first is too old.
    let answer = ask(&[1, 2], &Options::default(), 11_001).unwrap();
    assert_eq!(answer.found, [Found::Expired, Found::Row(0)]);
    assert_eq!(amounts(&answer.rows), [2.0]);
    let shorter = Options { ttl: Some(Duration::from_secs(8)), ..Options::default() };
    assert_eq!(
        ask(&[1, 2, 3], &shorter, 10_500).unwrap().found,
        [Found::Expired, Found::Expired, Found::Row(0)]
    );
    let longer = Options { ttl: Some(Duration::from_secs(11)), ..Options::default() };
    assert!(
        matches!(ask(&[1], &longer, 0), Err(LookupError::Wrong(why)) if why.contains("only be made shorter"))
    );

    let one = Options { features: Some(vec!["note".into()]), ..Options::default() };
    let answer = ask(&[2], &one, 0).unwrap();
    assert_eq!((answer.rows.num_columns(), answer.rows.schema().field(0).name().as_str()), (1, "note"));
    for features in [vec![], vec!["number".into()], vec!["note".into(), "note".into()]] {
        let wrong = Options { features: Some(features), ..Options::default() };
        assert!(matches!(ask(&[2], &wrong, 0), Err(LookupError::Wrong(_))));
    }

    let newer = Options { min_version: Some(6), ..Options::default() };
    let behind = LookupError::Behind { dataset: "d".into(), version: 5, min_version: 6 };
    assert_eq!(ask(&[1], &newer, 0).unwrap_err(), behind);
    assert!(ask(&[1], &Options { min_version: Some(5), ..Options::default() }, 0).is_ok());
    let many: Vec<i64> = (0..=KEYS_MAX as i64).collect();
    assert_eq!(ask(&many[1..], &Options::default(), 0).unwrap().found.len(), KEYS_MAX);
    assert!(matches!(ask(&many, &Options::default(), 0), Err(LookupError::TooMuch(_))));
    assert!(ask(&[], &Options::default(), 0).unwrap().found.is_empty());
}

#[test]
fn a_view_says_how_far_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let view = view(directory.path(), None);
    view.looked(9);
    view.looked(7);
    view.stepped(Some("no cloud".into()));
    let status = view.status(2005);
    assert_eq!((status.version, status.newest_version, status.entities), (Some(5), 9, Some(3)));
    assert_eq!((status.age_seconds, status.failing), (Some(2.0), true));
    let text = view.metrics.render();
    for line in [
        "isobar_online_version{dataset=\"d\"",
        "isobar_online_newest_version{dataset=\"d\"",
        "isobar_online_failures_total{dataset=\"d\"",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}
