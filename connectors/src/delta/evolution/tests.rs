use std::sync::Arc;

use arrow::datatypes::TimeUnit;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::delta::TableDefinition;

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
    let structure = |inner: Vec<Field>| Field::new("s", DataType::Struct(inner.into()), true);
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
            vec![structure(vec![long("x", true), long("y", true)])],
            &["column s is {", "inside structs, lists and maps", "another name"],
        ),
        (
            vec![structure(vec![long("x", false)])],
            vec![structure(vec![long("x", true)])],
            &["inside structs, lists and maps"],
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

/// Few names and types, so that schemas have much in common.
fn random_metadata(random: &mut StdRng) -> Metadata {
    let element = Arc::new(Field::new("element", DataType::Int64, true));
    let types = [DataType::Int64, DataType::Utf8, DataType::List(element)];
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
