use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::delta::TableDefinition;
use crate::delta::schema::{DESCRIPTION, UNIT};

fn metadata(fields: Vec<Field>, partition_by: &[&str]) -> Metadata {
    let table = TableDefinition {
        id: "6b0f0e3c-6a3f-4b39-9b1a-2d6f2f2f8a10".into(),
        name: "d".into(),
        description: None,
        schema: Arc::new(Schema::new(fields)),
        partition_by: partition_by.iter().map(|column| (*column).to_owned()).collect(),
        created_ms: 7,
    };
    table.metadata().unwrap()
}

fn long(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Int64, nullable)
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn about(field: Field, description: &str) -> Field {
    field.with_metadata([(DESCRIPTION.to_owned(), description.to_owned())].into())
}

fn structure(fields: Vec<Field>) -> DataType {
    DataType::Struct(fields.into())
}

fn list(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", element, true)))
}

fn map(key: DataType, value: DataType) -> DataType {
    let pair = structure(vec![Field::new("key", key, false), Field::new("value", value, true)]);
    DataType::Map(Arc::new(Field::new("key_value", pair, false)), false)
}

fn said(table: &Metadata, wanted: &Metadata) -> Vec<String> {
    differences(table, wanted).unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn each_difference_is_named_and_leads_to_the_table_that_holds_both() {
    let table = metadata(
        vec![long("id", false), text("old"), text("month"), long("n", true), about(long("a", true), "one")],
        &["month"],
    );
    let mut wanted = metadata(
        vec![
            Field::new("late", DataType::Boolean, false),
            about(long("a", true), "two"),
            text("month"),
            long("id", true),
            long("n", false),
            Field::new("score", DataType::Float64, true),
        ],
        &["month"],
    );
    wanted.description = Some("what it is".into());
    assert_eq!(
        said(&table, &wanted),
        [
            "lets column id be null from now on",
            "keeps column old, null from now on",
            "keeps column n nullable, never null from now on",
            "changes the description of column a",
            "adds column late: boolean",
            "adds column score: double",
            "changes the description of the dataset",
        ]
    );
    let evolved = evolved(&table, &wanted).unwrap();
    let expected = metadata(
        vec![
            long("id", true),
            text("old"),
            text("month"),
            long("n", true),
            about(long("a", true), "two"),
            Field::new("late", DataType::Boolean, true),
            Field::new("score", DataType::Float64, true),
        ],
        &["month"],
    );
    assert_eq!(evolved, Metadata { description: wanted.description.clone(), ..expected });
    assert_eq!(not_succeeding(&table, &evolved), Vec::<String>::new());
    let again = said(&evolved, &wanted);
    assert_eq!(
        again,
        [
            "keeps column old, null from now on",
            "keeps column n nullable, never null from now on",
            "keeps column late nullable, never null from now on",
        ]
    );
}

/// A struct, one in a list and one in a list that is the value of a map, all with these fields.
fn nested(fields: Vec<Field>, element_nullable: bool) -> Vec<Field> {
    let inner = structure(fields);
    let items = Field::new("element", inner.clone(), element_nullable);
    vec![
        Field::new("s", inner.clone(), true),
        Field::new("items", DataType::List(Arc::new(items)), true),
        Field::new("rates", map(DataType::Utf8, list(inner)), true),
    ]
}

#[test]
fn fields_of_structs_come_and_go_like_columns() {
    let table = metadata(
        nested(vec![long("x", false), text("old"), about(text("y"), "one"), long("n", true)], false),
        &[],
    );
    let fields = vec![
        Field::new("first", DataType::Boolean, false),
        long("x", true),
        Field::new("deep", structure(vec![long("z", false)]), true),
        about(text("y"), "two"),
        long("n", false),
    ];
    let wanted = metadata(nested(fields, true), &[]);
    let deep = r#"{"type":"struct","fields":[{"name":"z","type":"long","nullable":false,"metadata":{}}]}"#;
    let of = |path: &str| {
        vec![
            format!("lets column {path}.x be null from now on"),
            format!("keeps column {path}.old, null from now on"),
            format!("keeps column {path}.n nullable, never null from now on"),
            format!("adds column {path}.first: boolean"),
            format!("adds column {path}.deep: {deep}"),
        ]
    };
    let described = |column: &str| format!("changes the description of column {column}");
    let expected = [
        of("s"),
        vec![described("s")],
        of("items.element"),
        vec!["lets column items.element be null from now on".to_owned(), described("items")],
        of("rates.value.element"),
        vec![described("rates")],
    ];
    assert_eq!(said(&table, &wanted), expected.concat());
    let newer = evolved(&table, &wanted).unwrap();
    let both = vec![
        Field::new("first", DataType::Boolean, true),
        long("x", true),
        Field::new("deep", structure(vec![long("z", false)]), true),
        text("old"),
        about(text("y"), "two"),
        long("n", true),
    ];
    assert_eq!(newer, metadata(nested(both, true), &[]));
    assert_eq!(not_succeeding(&table, &newer), Vec::<String>::new());
    for rows in [&table, &wanted] {
        assert_eq!(not_fitting(&newer, &columns(rows).unwrap()).unwrap(), Vec::<String>::new());
    }
    assert!(!differences(&newer, &wanted).unwrap().iter().any(Difference::is_change));
    let again = evolved(&newer, &table).unwrap();
    assert_eq!(said(&again, &newer), ["s", "items", "rates"].map(described));
}

#[test]
fn what_is_inside_grows_only_and_keeps_its_order() {
    let table = metadata(nested(vec![long("x", true), text("y")], false), &[]);
    for (fields, element_nullable, expected) in [
        (vec![text("y"), long("x", true)], false, "column s has its fields in another order: y, x"),
        (vec![long("x", true)], false, "column items.element.y is gone"),
        (vec![long("x", false), text("y")], false, "column rates.value.element.x is NOT NULL and was not"),
        (vec![text("x"), text("y")], false, "column s.x is string and was long"),
        (vec![long("x", true), text("y"), long("z", false)], false, "column s.z is new and NOT NULL"),
    ] {
        let newer = metadata(nested(fields, element_nullable), &[]);
        let problems = not_succeeding(&table, &newer);
        assert!(problems.iter().any(|problem| problem == expected), "{expected}: {problems:?}");
    }
    let newer = metadata(nested(vec![text("a"), long("x", true), text("b"), text("y")], true), &[]);
    assert_eq!(not_succeeding(&table, &newer), Vec::<String>::new());
    let back = not_succeeding(&newer, &table);
    assert!(back.contains(&"column items.element is NOT NULL and was not".to_owned()), "{back:?}");
    for (fields, expected) in [
        (vec![long("x", true)], None),
        (vec![text("y")], None),
        (vec![long("x", false), text("y")], None),
        (vec![text("y"), long("x", true)], Some("column s has its fields in another order")),
        (vec![long("x", true), text("z")], Some("column rates.value.element.z is not in")),
        (vec![text("x")], Some("column items.element.x is string here and long")),
    ] {
        let problems = not_fitting(&table, &Schema::new(nested(fields, false))).unwrap();
        match expected {
            None => assert_eq!(problems, Vec::<String>::new()),
            Some(expected) => {
                assert!(problems.iter().any(|problem| problem.contains(expected)), "{problems:?}")
            }
        }
    }
    let strict = metadata(nested(vec![long("x", false), text("y")], false), &[]);
    for (fields, element_nullable, expected) in [
        (vec![text("y")], false, "column s.x is missing"),
        (vec![long("x", true)], false, "column rates.value.element.x may be null here"),
        (vec![long("x", false)], true, "column items.element may be null here"),
    ] {
        let problems = not_fitting(&strict, &Schema::new(nested(fields, element_nullable))).unwrap();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
}

#[test]
fn a_unit_that_comes_or_goes_is_a_change_of_the_description() {
    let in_unit = |unit: &str| long("a", true).with_metadata([(UNIT.to_owned(), unit.to_owned())].into());
    let [bare, minutes, hours] = [long("a", true), in_unit("minutes"), in_unit("h")]
        .map(|field| metadata(vec![field, text("b")], &[]));
    for (table, wanted) in [(&bare, &minutes), (&minutes, &hours), (&hours, &bare)] {
        assert_eq!(said(table, wanted), ["changes the description of column a"]);
        assert!(differences(table, wanted).unwrap().iter().all(|found| !found.keeps_rows_out()));
        assert_eq!(evolved(table, wanted).unwrap(), *wanted);
        assert_eq!(not_succeeding(table, wanted), Vec::<String>::new());
        assert_eq!(said(wanted, wanted), Vec::<String>::new());
    }
    // What the rows no longer have keeps what was said about it.
    let gone = metadata(vec![text("b")], &[]);
    assert_eq!(evolved(&minutes, &gone).unwrap(), minutes);
}

#[test]
fn the_order_of_the_columns_makes_no_difference() {
    let table = metadata(vec![long("a", false), text("b"), text("c")], &[]);
    let wanted = metadata(vec![text("c"), long("a", false), text("b")], &[]);
    assert_eq!(said(&table, &wanted), Vec::<String>::new());
    assert_eq!(evolved(&table, &wanted).unwrap(), table);
}

#[test]
fn what_cannot_be_is_refused_with_what_differs_and_the_way_out() {
    let structure = |inner: Vec<Field>| Field::new("s", structure(inner), true);
    let int = |name: &str| Field::new(name, DataType::Int32, true);
    let decimal = |precision, scale| Field::new("a", DataType::Decimal128(precision, scale), true);
    let at = Field::new("a", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true);
    let cases: Vec<(Vec<Field>, Vec<Field>, &[&str])> = vec![
        (
            vec![long("a", true)],
            vec![text("a")],
            &[
                "column a is long in the table and string in the specification",
                "Cast it to long in SQL",
                "another name",
            ],
        ),
        (vec![long("a", true)], vec![int("a")], &["is long in the table and integer", "Cast it to long"]),
        (vec![int("a")], vec![long("a", true)], &["is integer", "typeWidening", "Cast it to integer in SQL"]),
        (vec![int("a")], vec![decimal(12, 2)], &["decimal(12,2)", "typeWidening"]),
        (vec![decimal(5, 2)], vec![decimal(7, 3)], &["decimal(5,2)", "typeWidening"]),
        (vec![text("a")], vec![at], &["string in the table and timestamp"]),
        (vec![long("a", true)], vec![text("A")], &["column A", "the table's a", "case alone"]),
        (
            vec![long("a", false), text("b")],
            vec![text("b")],
            &["column a is NOT NULL in the table", "Select it again"],
        ),
        (
            vec![structure(vec![long("x", true)])],
            vec![structure(vec![text("x")])],
            &["column s.x is long in the table and string", "Cast it to long", "(s.x stays"],
        ),
        (vec![structure(vec![int("x")])], vec![structure(vec![long("x", true)])], &["s.x", "typeWidening"]),
        (
            vec![structure(vec![long("x", false), text("y")])],
            vec![structure(vec![text("y")])],
            &["column s.x is NOT NULL in the table", "Select it again"],
        ),
        (
            vec![structure(vec![text("x")])],
            vec![structure(vec![text("X")])],
            &["column s.X differs", "the table's x", "case alone"],
        ),
        (
            vec![structure(vec![text("x"), text("y"), text("z")])],
            vec![structure(vec![text("z"), text("new"), text("x")])],
            &["column s has its fields in another order", "where they are x, y, z", "Write them in it"],
        ),
        (
            vec![structure(vec![long("x", true)])],
            vec![Field::new("s", list(DataType::Int64), true)],
            &["column s is {", "Leave it as it was", "another name"],
        ),
        (
            vec![Field::new("m", map(DataType::Utf8, DataType::Int64), true)],
            vec![Field::new("m", map(DataType::Int64, DataType::Int64), true)],
            &["column m is {", "Leave it as it was"],
        ),
        (
            vec![Field::new("m", map(DataType::Utf8, DataType::Int64), true)],
            vec![Field::new("m", map(DataType::Utf8, DataType::Utf8), true)],
            &["column m.value is long in the table and string"],
        ),
    ];
    for (table, wanted, expected) in cases {
        let (table, wanted) = (metadata(table, &[]), metadata(wanted, &[]));
        let refused: Vec<_> = differences(&table, &wanted).unwrap();
        let refused: Vec<_> = refused.iter().filter(|difference| difference.is_refused()).collect();
        let [refused] = &refused[..] else { panic!("one refusal: {refused:?}") };
        let refused = refused.to_string();
        assert!(expected.iter().all(|part| refused.contains(part)), "{expected:?} in {refused}");
        assert!(matches!(evolved(&table, &wanted), Err(Error::Schema(_))));
    }
    let fields = || vec![text("a"), text("b"), text("c")];
    for other in [&["b"][..], &["b", "a"], &[], &["a", "b", "c"][..2]] {
        let (table, wanted) = (metadata(fields(), &["a", "c"]), metadata(fields(), other));
        let refused = said(&table, &wanted);
        assert!(refused[0].contains("partitioned by [a, c]"), "{refused:?}");
    }
}

#[test]
fn whatever_takes_something_back_does_not_succeed() {
    let table = metadata(vec![long("a", true), text("b"), text("month")], &["month"]);
    let broken: Vec<(&str, Metadata)> = vec![
        ("id", Metadata { id: "other".into(), ..table.clone() }),
        ("name", Metadata { name: None, ..table.clone() }),
        ("createdTime", Metadata { created_time: Some(8), ..table.clone() }),
        ("partitioning", Metadata { partition_columns: vec!["b".into()], ..table.clone() }),
        ("configuration", Metadata { configuration: BTreeMap::new(), ..table.clone() }),
        ("column b in the place of a", metadata(vec![text("b"), long("a", true), text("month")], &["month"])),
        ("month is gone", metadata(vec![long("a", true), text("b")], &[])),
        ("a is string and was long", metadata(vec![text("a"), text("b"), text("month")], &["month"])),
        ("a is NOT NULL", metadata(vec![long("a", false), text("b"), text("month")], &["month"])),
        (
            "c is new and NOT NULL",
            metadata(vec![long("a", true), text("b"), text("month"), long("c", false)], &["month"]),
        ),
        ("schemaString", Metadata { schema_string: "{".into(), ..table.clone() }),
    ];
    for (expected, newer) in broken {
        let problems = not_succeeding(&table, &newer);
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
    let described = Metadata { description: Some("new".into()), ..table.clone() };
    assert_eq!(not_succeeding(&table, &described), Vec::<String>::new());
}

#[test]
fn rows_that_do_not_fit_are_found() {
    let table = metadata(vec![long("a", false), text("b"), text("month")], &["month"]);
    let problems = |fields: Vec<Field>| not_fitting(&table, &Schema::new(fields)).unwrap();
    assert_eq!(problems(vec![long("a", false), text("b")]), Vec::<String>::new());
    assert_eq!(problems(vec![text("b"), long("a", false)]), Vec::<String>::new());
    assert_eq!(problems(vec![long("a", false)]), Vec::<String>::new());
    for (fields, expected) in [
        (vec![text("b")], "column a is missing"),
        (vec![long("a", true)], "column a may be null here"),
        (vec![text("a")], "column a is string here and long"),
        (vec![long("a", false), text("c")], "column c is not in"),
        (vec![long("a", false), text("month")], "column month is not in"),
    ] {
        let problems = problems(fields);
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
}

/// Some of three fields, mostly in their order, and mostly nullable.
fn random_structure(random: &mut StdRng) -> DataType {
    let mut fields = Vec::new();
    for name in ["x", "y", "z"] {
        if random.random_range(0..3) == 0 {
            continue;
        }
        let field = long(name, random.random_range(0..8) > 0);
        fields.push(if random.random_range(0..6) == 0 { about(field, "text") } else { field });
    }
    if fields.is_empty() {
        fields.push(long("x", true));
    }
    if random.random_range(0..8) == 0 {
        fields.reverse();
    }
    structure(fields)
}

/// Few names and types, so that schemas have much in common.
fn random_metadata(random: &mut StdRng) -> Metadata {
    let nested = match random.random_range(0..2) {
        0 => list(random_structure(random)),
        _ => list(structure(vec![Field::new("in", random_structure(random), true)])),
    };
    let types = [list(DataType::Int64), random_structure(random), nested, DataType::Utf8];
    let mut names = ["a", "b", "c", "d", "e", "A"];
    for at in (1..names.len()).rev() {
        names.swap(at, random.random_range(0..=at));
    }
    let kept = random.random_range(1..names.len());
    let mut fields = vec![text("month")];
    for name in &names[..kept] {
        if fields.iter().any(|field: &Field| field.name().eq_ignore_ascii_case(name)) {
            continue;
        }
        // The same type mostly, else hardly any two would fit.
        let data_type = if random.random_range(0..12) == 0 {
            types[random.random_range(0..types.len())].clone()
        } else {
            types[usize::from(name.as_bytes()[0]) % types.len()].clone()
        };
        let field = Field::new(*name, data_type, random.random_range(0..3) > 0);
        fields.push(match random.random_range(0..4) {
            0 => about(field, "text"),
            _ => field,
        });
    }
    let at = random.random_range(0..fields.len());
    fields.swap(0, at);
    metadata(fields, &["month"])
}

fn stored_columns(metadata: &Metadata) -> Schema {
    let schema = columns(metadata).unwrap();
    let stored = schema.fields().iter().filter(|field| field.name() != "month");
    Schema::new(stored.cloned().collect::<Vec<_>>())
}

#[test]
fn a_table_grows_such_that_all_rows_fit_that_ever_did() {
    let mut random = StdRng::seed_from_u64(11);
    let (mut evolutions, mut refusals) = (0, 0);
    for _ in 0..2000 {
        let mut table = random_metadata(&mut random);
        let mut fitted = vec![table.clone()];
        for _ in 0..6 {
            let wanted = random_metadata(&mut random);
            let found = differences(&table, &wanted).unwrap();
            let fits = not_fitting(&table, &stored_columns(&wanted)).unwrap().is_empty();
            let Ok(newer) = evolved(&table, &wanted) else {
                refusals += 1;
                assert!(found.iter().any(Difference::is_refused) && !fits, "{found:?}");
                continue;
            };
            assert!(!found.iter().any(Difference::is_refused), "{found:?}");
            assert_eq!(newer != table, found.iter().any(Difference::is_change), "{found:?}");
            assert_eq!(not_succeeding(&table, &newer), Vec::<String>::new());
            // Nothing is left to change, and the older specification changes no column's place, type or nullability.
            assert!(!differences(&newer, &wanted).unwrap().iter().any(Difference::is_change));
            let back = differences(&newer, &table).unwrap();
            let harmless = |difference: &Difference| {
                matches!(
                    difference,
                    Difference::Gone { .. } | Difference::NeverNull { .. } | Difference::Described { .. }
                )
            };
            assert!(back.iter().all(harmless), "{back:?}");
            evolutions += u32::from(newer != table);
            table = newer;
            fitted.push(wanted);
            for rows in &fitted {
                assert_eq!(not_fitting(&table, &stored_columns(rows)).unwrap(), Vec::<String>::new());
            }
        }
    }
    assert!(evolutions > 1000 && refusals > 1000, "{evolutions} changes, {refusals} refusals");
}

#[test]
fn a_long_list_of_changes_is_cut_and_has_one_spelling() {
    let name = |number: usize| format!("ü{number:0200}");
    let found: Vec<Difference> =
        (0..50).map(|number| Difference::Nullable { column: name(number) }).collect();
    let update = SchemaUpdate::new(3, &found);
    assert!(update.changes.len() <= CHANGES_BYTES_MAX && update.changes.len() > CHANGES_BYTES_MAX - 4);
    let gone = [Difference::Gone { column: "x".into() }, Difference::DatasetDescribed];
    assert_eq!(SchemaUpdate::new(3, &gone).changes, "changes the description of the dataset");
}
