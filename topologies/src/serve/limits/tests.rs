//! Places, shares of memory, and rows that are cut off.

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};

use super::*;
use crate::serve::metrics::Metrics;

fn limits() -> LimitsOfQueries {
    LimitsOfQueries { running: 1, waiting: 1, rows: 10, bytes: 1 << 20, ..LimitsOfQueries::within(128 << 20) }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[tokio::test]
async fn as_many_run_and_wait_as_may() {
    let gate = Arc::new(Gate::new(&limits()));
    let first = gate.enter(soon()).await.unwrap();
    let waiting = {
        let gate = gate.clone();
        tokio::spawn(async move { gate.enter(soon()).await })
    };
    while gate.waiting.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let refused = gate.enter(soon()).await.unwrap_err();
    assert!(matches!(refused, Refusal::TooMuch { limit: "waiting", .. }), "{refused:?}");
    drop(first);
    let second = waiting.await.unwrap().unwrap();
    assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
    let late = gate.enter(Instant::now()).await.unwrap_err();
    assert!(matches!(late, Refusal::TooMuch { limit: "running", .. }), "{late:?}");
    drop(second);
    drop(gate.enter(soon()).await.unwrap());
}

#[test]
fn a_query_gets_no_more_than_its_share_and_no_more_than_there_is() {
    let common: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
    let pools: Vec<Arc<dyn MemoryPool>> =
        (0..2).map(|_| Arc::new(QueryPool::new(60, &common)) as Arc<dyn MemoryPool>).collect();
    let first = MemoryConsumer::new("first").register(&pools[0]);
    let second = MemoryConsumer::new("second").register(&pools[1]);
    assert!(first.try_grow(61).is_err());
    first.try_grow(60).unwrap();
    assert!(second.try_grow(41).is_err());
    second.try_grow(40).unwrap();
    assert_eq!((pools[0].reserved(), pools[1].reserved(), common.reserved()), (60, 40, 100));
    first.shrink(30);
    second.try_grow(20).unwrap();
    assert!(second.try_grow(1).is_err(), "its share is used up");
    drop((first, second));
    assert_eq!((pools[0].reserved(), pools[1].reserved(), common.reserved()), (0, 0, 0));
}

/// The rows of `batches` within `limits`, and how that ended.
async fn limited(
    batches: Vec<usize>,
    limits: LimitsOfQueries,
    deadline: Instant,
) -> (usize, Option<&'static str>, String) {
    let schema: SchemaRef = Schema::new(vec![Field::new("x", DataType::Int64, false)]).into();
    let batch = |rows: &usize| {
        let column = Arc::new(Int64Array::from(vec![7; *rows]));
        Ok(RecordBatch::try_new(schema.clone(), vec![column]).unwrap())
    };
    let batches: Vec<Result<RecordBatch>> = batches.iter().map(batch).collect();
    let rows = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), stream::iter(batches)));
    let (gate, metrics) = (Gate::new(&limits), Metrics::new("t"));
    let place = gate.enter(soon()).await.unwrap();
    let mut rows = Limited::new(rows, deadline, limits, metrics.begin(), place);
    let mut seen = 0;
    let mut reached = None;
    while let Some(batch) = rows.next().await {
        match batch {
            Ok(batch) => seen += batch.num_rows(),
            Err(DataFusionError::External(error)) => {
                assert!(reached.is_none(), "nothing comes after an error");
                reached = Some(error.downcast_ref::<LimitReached>().unwrap().limit);
            }
            Err(error) => panic!("{error}"),
        }
    }
    (seen, reached, metrics.render())
}

#[tokio::test]
async fn rows_are_cut_off_with_an_error_and_never_silently() {
    let (seen, reached, metrics) = limited(vec![4, 6], limits(), soon()).await;
    assert_eq!((seen, reached), (10, None));
    assert!(metrics.contains("queries_total{outcome=\"ok\",topology=\"t\"} 1"), "{metrics}");
    assert!(metrics.contains("answer_rows_total{topology=\"t\"} 10"), "{metrics}");
    let (seen, reached, metrics) = limited(vec![4, 7, 1], limits(), soon()).await;
    assert_eq!((seen, reached), (4, Some("rows")));
    assert!(metrics.contains("queries_total{outcome=\"too_much\",topology=\"t\"} 1"), "{metrics}");
    let few_bytes = LimitsOfQueries { bytes: 50, ..limits() };
    assert_eq!(limited(vec![4, 4], few_bytes, soon()).await.1, Some("bytes"));
    let (seen, reached, _) = limited(vec![1], limits(), Instant::now()).await;
    assert_eq!((seen, reached), (0, Some("time")));
}

#[tokio::test]
async fn only_a_batchs_own_rows_are_counted() {
    let column = Int64Array::from(vec![7; 1000]).slice(10, 2);
    let schema = Schema::new(vec![Field::new("x", DataType::Int64, false)]);
    let batch = RecordBatch::try_new(schema.into(), vec![Arc::new(column)]).unwrap();
    assert_eq!(bytes_of(&batch), 16);
}
