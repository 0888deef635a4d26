//! Places, and rows that are counted.

use std::time::Duration;

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::error::DataFusionError;
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

#[tokio::test]
async fn a_query_is_counted_and_gives_its_place_back_at_its_end() {
    let schema: SchemaRef = Schema::new(vec![Field::new("x", DataType::Int64, false)]).into();
    let batch = |rows: usize| {
        let column = Arc::new(Int64Array::from(vec![7; rows]));
        Ok(RecordBatch::try_new(schema.clone(), vec![column]).unwrap())
    };
    let memory = DataFusionError::ResourcesExhausted("12 bytes of a pool".into());
    for (batches, seen, outcome) in
        [(vec![batch(4), batch(6)], 10, "ok"), (vec![batch(4), Err(memory), batch(1)], 4, "too_much")]
    {
        let rows = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), stream::iter(batches)));
        let (gate, metrics) = (Gate::new(&limits()), Metrics::new("t"));
        let place = gate.enter(soon()).await.unwrap();
        let mut rows = Counted::new(rows, metrics.begin(), place, std::future::pending());
        let mut found = 0;
        while let Some(batch) = rows.next().await {
            found += batch.map_or(0, |batch| batch.num_rows());
        }
        assert_eq!(found, seen);
        drop(gate.enter(Instant::now()).await.expect("the place was given back"));
        let text = metrics.render();
        assert!(text.contains(&format!("queries_total{{outcome=\"{outcome}\",topology=\"t\"}} 1")), "{text}");
        assert!(text.contains(&format!("answer_rows_total{{topology=\"t\"}} {seen}")), "{text}");
    }
}

#[tokio::test]
async fn a_query_ends_early_whether_somebody_asks_for_rows_or_not() {
    let schema: SchemaRef = Schema::new(vec![Field::new("x", DataType::Int64, false)]).into();
    for is_asked in [false, true] {
        let rows = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), stream::pending()));
        let (gate, metrics) = (Gate::new(&limits()), Metrics::new("t"));
        let (end, ended) = tokio::sync::oneshot::channel();
        let place = gate.enter(soon()).await.unwrap();
        let mut rows = Counted::new(rows, metrics.begin(), place, async move { ended.await.unwrap() });
        let over = ("too_much", DataFusionError::ResourcesExhausted("time".into()));
        let first = match is_asked {
            false => {
                end.send(over).unwrap();
                // It comes back although the rows are held and nobody asks for one.
                drop(gate.enter(soon()).await.unwrap());
                rows.next().await
            }
            // The one that waits is told.
            true => tokio::join!(rows.next(), async { end.send(over).unwrap() }).0,
        };
        assert!(first.unwrap().unwrap_err().to_string().contains("time"));
        assert!(rows.next().await.is_none());
        drop(rows);
        let text = metrics.render();
        assert!(text.contains("queries_total{outcome=\"too_much\",topology=\"t\"} 1"), "{text}");
        assert!(text.contains("queries_running{topology=\"t\"} 0"), "{text}");
    }
}
