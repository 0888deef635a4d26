use arrow::compute::concat_batches;
use isobar_schemas::TopicPartition;
use object_store::ObjectStoreExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::dataset::DatasetWriter;
use crate::dataset::writer::tests::{Bench, rows, schema};
use crate::delta::path::decode_log_path;

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
