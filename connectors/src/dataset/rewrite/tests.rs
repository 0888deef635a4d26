use arrow::array::{AsArray, StructArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema};
use isobar_schemas::TopicPartition;
use object_store::ObjectStoreExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::dataset::DatasetWriter;
use crate::dataset::writer::tests::{Bench, rows, schema};
use crate::delta::path::decode_log_path;
use crate::delta::schema::{DESCRIPTION, UNIT, to_arrow, to_delta};

/// Files of one commit each.
async fn write(bench: &Bench, commit: &str, from: &TopicPartition, rows: RecordBatch) -> Vec<StagedFile> {
    let mut writer = DatasetWriter::new(bench.layout.clone(), bench.fan_out.clone(), commit).unwrap();
    writer.write(from, rows).unwrap();
    let files = writer.close().unwrap();
    for file in &files {
        bench.read(file).await;
    }
    files
}

async fn rewrite(bench: &Bench, commit: &str, files: &[StagedFile]) -> StagedFile {
    let values = &files[0].partition_values;
    let mut rewriter = FileRewriter::new(bench.layout.clone(), &bench.fan_out, commit, values).unwrap();
    for file in files {
        let bytes = bench.store.get(&file.object_path).await.unwrap().bytes().await.unwrap();
        let mut pending = rewriter.open(bytes).unwrap();
        while rewriter.take(&mut pending).unwrap() {}
    }
    rewriter.finish().unwrap()
}

#[tokio::test]
async fn rewriting_commits_gives_the_bytes_that_one_commit_of_all_rows_has() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let from = TopicPartition::new("t", 0);
        let month = [[Some("a b/ü")], [None]][(seed % 2) as usize];
        let parts = [0..700, 700..701, 701..9_900].map(|offsets| rows(&from, offsets, &month, &mut random));
        let bench = Bench::new(&["month"]);
        let mut small = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            small.extend(write(&bench, &format!("c-{number}"), &from, part.clone()).await);
        }
        assert_eq!(small.len(), 3);
        let whole = concat_batches(&schema(), &parts).unwrap();
        let [whole] = &write(&bench, "whole", &from, whole).await[..] else { panic!("it is one file") };
        let rewritten = rewrite(&bench, "again", &small).await;
        bench.read(&rewritten).await;
        assert_eq!(rewritten.sha256, whole.sha256, "seed {seed}");
        assert_eq!((rewritten.size, rewritten.rows), (whole.size, 9_900));
        assert_eq!((&rewritten.stats, &rewritten.partition_values), (&whole.stats, &whole.partition_values));
        assert_eq!(rewritten.path, whole.path.replace("whole", "again"));
        assert_eq!(decode_log_path(&rewritten.log_path).unwrap(), rewritten.path);
    }
}

/// The table of `bench` with its columns as the log gives them, in the same store.
fn as_described(bench: &Bench) -> Bench {
    let described = to_arrow(&to_delta(&schema()).unwrap()).unwrap();
    let layout = bench.layout.with_schema(described.into()).unwrap();
    Bench { store: bench.store.clone(), fan_out: bench.fan_out.clone(), layout }
}

/// The table of `bench` as it was with these columns only.
fn with_columns(bench: &Bench, columns: &[usize]) -> Bench {
    let layout = bench.layout.with_schema(schema().project(columns).unwrap().into()).unwrap();
    Bench { store: bench.store.clone(), fan_out: bench.fan_out.clone(), layout }
}

/// The files `small` become the file, to the byte, that `filled` would have been written as.
async fn assert_rewritten_as(
    table: &Bench,
    small: &[StagedFile],
    filled: &[RecordBatch],
    from: &TopicPartition,
    seed: u64,
) {
    let whole = concat_batches(&schema(), filled).unwrap();
    let [whole] = &write(table, "whole", from, whole).await[..] else { panic!("it is one file") };
    let rewritten = rewrite(table, "again", small).await;
    table.read(&rewritten).await;
    assert_eq!(rewritten.sha256, whole.sha256, "seed {seed}");
    assert_eq!((&rewritten.stats, rewritten.rows), (&whole.stats, 2700));
}

#[tokio::test]
async fn columns_that_a_file_does_not_have_are_null_in_the_new_one() {
    for seed in 0..10 {
        let mut random = StdRng::seed_from_u64(100 + seed);
        let from = TopicPartition::new("t", 0);
        let bench = Bench::new(&["month"]);
        let table = as_described(&bench);
        let shapes: [&[usize]; 3] = [
            &[10, 15, 2, 0, 1],
            &[0, 1, 2, 13, 14, 8, 3, 15],
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15],
        ];
        let (mut small, mut filled) = (Vec::new(), Vec::new());
        for (number, shape) in shapes.iter().enumerate() {
            let offsets = number as i64 * 900..(number as i64 + 1) * 900;
            let part = rows(&from, offsets, &[Some("1")], &mut random);
            let narrow = part.project(shape).unwrap();
            small.extend(write(&with_columns(&bench, shape), &format!("c-{number}"), &from, narrow).await);
            let column = |index: usize| match shape.contains(&index) {
                true => part.column(index).clone(),
                false => new_null_array(part.schema().field(index).data_type(), part.num_rows()),
            };
            let columns = (0..part.num_columns()).map(column).collect();
            filled.push(RecordBatch::try_new(schema(), columns).unwrap());
        }
        assert_rewritten_as(&table, &small, &filled, &from, seed).await;
    }
}

/// The table of `bench` with something said about each column, in the same store.
fn documented(bench: &Bench) -> Bench {
    let said =
        [(DESCRIPTION, "what it is [m]"), (UNIT, "m")].map(|(key, text)| (key.to_owned(), text.to_owned()));
    let columns = schema();
    let fields =
        columns.fields().iter().map(|field| field.as_ref().clone().with_metadata(said.clone().into()));
    let layout = bench.layout.with_schema(Schema::new(fields.collect::<Vec<Field>>()).into()).unwrap();
    Bench { store: bench.store.clone(), fan_out: bench.fan_out.clone(), layout }
}

#[tokio::test]
async fn what_is_said_about_columns_is_in_no_byte_of_a_file() {
    let mut random = StdRng::seed_from_u64(12);
    let from = TopicPartition::new("t", 0);
    let bench = Bench::new(&["month"]);
    let told = documented(&bench);
    let part = rows(&from, 0..500, &[Some("1")], &mut random);
    let plain = write(&bench, "c-1", &from, part.clone()).await;
    let said = write(&told, "c-2", &from, part).await;
    assert_eq!((plain.len(), &plain[0].sha256), (1, &said[0].sha256));
    let [plain, said] = [rewrite(&bench, "c-3", &plain).await, rewrite(&told, "c-4", &said).await];
    assert_eq!((plain.sha256, plain.stats), (said.sha256, said.stats));
}

#[tokio::test]
async fn a_column_that_the_table_does_not_have_is_not_lost() {
    let mut random = StdRng::seed_from_u64(5);
    let from = TopicPartition::new("t", 0);
    let bench = Bench::new(&["month"]);
    let newer = write(&bench, "c-1", &from, rows(&from, 0..10, &[Some("1")], &mut random)).await;
    let bytes = bench.store.get(&newer[0].object_path).await.unwrap().bytes().await.unwrap();
    let values = &newer[0].partition_values;
    for (columns, expected) in
        [(&[0, 1, 2, 15][..], "has a column flag"), (&[0, 1, 15][..], "has a column offset")]
    {
        let older = with_columns(&bench, columns);
        let mut rewriter = FileRewriter::new(older.layout, &bench.fan_out, "c-2", values).unwrap();
        let mut pending = rewriter.open(bytes.clone()).unwrap();
        let error = rewriter.take(&mut pending).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let older = with_columns(&bench, &[0, 1, 15]);
    let part = rows(&from, 0..10, &[Some("1")], &mut random).project(&[0, 1, 15]).unwrap();
    let older = write(&older, "c-3", &from, part).await;
    let bytes = bench.store.get(&older[0].object_path).await.unwrap().bytes().await.unwrap();
    let mut rewriter = FileRewriter::new(bench.layout.clone(), &bench.fan_out, "c-4", values).unwrap();
    let mut pending = rewriter.open(bytes).unwrap();
    let error = rewriter.take(&mut pending).unwrap_err().to_string();
    assert!(error.contains("no column offset, which is never null"), "{error}");
}

const POINT: usize = 14;

/// The rows with these fields only of their structs.
fn with_fields(rows: &RecordBatch, names: &[&str]) -> RecordBatch {
    let points = rows.column(POINT).as_struct();
    let kept = points
        .fields()
        .iter()
        .zip(points.columns())
        .filter(|(field, _)| names.contains(&field.name().as_str()));
    let (fields, columns): (Vec<_>, Vec<_>) =
        kept.map(|(field, column)| (field.clone(), column.clone())).unzip();
    let points = StructArray::new(fields.into(), columns, points.nulls().cloned());
    let mut fields = rows.schema().fields().to_vec();
    fields[POINT] = Arc::new(fields[POINT].as_ref().clone().with_data_type(points.data_type().clone()));
    let mut columns = rows.columns().to_vec();
    columns[POINT] = Arc::new(points);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

#[tokio::test]
async fn fields_that_structs_of_a_file_do_not_have_are_null_in_the_new_one() {
    for seed in 0..10 {
        let mut random = StdRng::seed_from_u64(200 + seed);
        let from = TopicPartition::new("t", 0);
        let bench = Bench::new(&[]);
        let table = as_described(&bench);
        let (mut small, mut filled) = (Vec::new(), Vec::new());
        for (number, names) in [&["x"][..], &["n"], &["x", "n"]].into_iter().enumerate() {
            let offsets = number as i64 * 900..(number as i64 + 1) * 900;
            let part = rows(&from, offsets, &[Some("1")], &mut random);
            let narrow = with_fields(&part, names);
            let layout = bench.layout.with_schema(narrow.schema()).unwrap();
            let older = Bench { store: bench.store.clone(), fan_out: bench.fan_out.clone(), layout };
            let points = super::filled(narrow.column(POINT), schema().field(POINT).data_type()).unwrap();
            let mut columns = narrow.columns().to_vec();
            columns[POINT] = points;
            filled.push(RecordBatch::try_new(schema(), columns).unwrap());
            small.extend(write(&older, &format!("c-{number}"), &from, narrow).await);
        }
        assert_rewritten_as(&table, &small, &filled, &from, seed).await;
    }
}

#[tokio::test]
async fn a_field_that_the_tables_structs_do_not_have_is_not_lost() {
    let mut random = StdRng::seed_from_u64(7);
    let from = TopicPartition::new("t", 0);
    let bench = Bench::new(&[]);
    let newer = rows(&from, 0..10, &[Some("1")], &mut random);
    let older = with_fields(&newer, &["x"]);
    let files = write(&bench, "c-1", &from, newer).await;
    let bytes = bench.store.get(&files[0].object_path).await.unwrap().bytes().await.unwrap();
    let layout = bench.layout.with_schema(older.schema()).unwrap();
    let mut rewriter = FileRewriter::new(layout, &bench.fan_out, "c-2", &BTreeMap::new()).unwrap();
    let mut pending = rewriter.open(bytes).unwrap();
    let error = rewriter.take(&mut pending).unwrap_err().to_string();
    assert!(error.contains("column point.n is not in the table's schema"), "{error}");
}

#[tokio::test]
async fn a_file_of_another_table_or_of_none_is_refused_and_nothing_is_stored() {
    let mut random = StdRng::seed_from_u64(3);
    let from = TopicPartition::new("t", 0);
    let (flat, by_month) = (Bench::new(&[]), Bench::new(&["month"]));
    let files = write(&flat, "c-1", &from, rows(&from, 0..10, &[None], &mut random)).await;
    let bytes = flat.store.get(&files[0].object_path).await.unwrap().bytes().await.unwrap();
    let values = [("month".to_owned(), None)].into();
    let mut rewriter = FileRewriter::new(by_month.layout.clone(), &by_month.fan_out, "c-2", &values).unwrap();
    assert!(matches!(rewriter.open(bytes.slice(0..100)), Err(Error::Batch { .. })));
    let mut pending = rewriter.open(bytes).unwrap();
    assert!(matches!(rewriter.take(&mut pending), Err(Error::Batch { .. })));
    let path = rewriter.name.object_path.clone();
    drop(rewriter);
    by_month.fan_out.drain().await;
    assert!(by_month.store.head(&path).await.is_err());
    for (commit, values) in [("c/3", values), ("c-3", BTreeMap::new())] {
        let refused = FileRewriter::new(by_month.layout.clone(), &by_month.fan_out, commit, &values);
        assert!(matches!(refused, Err(Error::Batch { .. })), "{commit}");
    }
}
