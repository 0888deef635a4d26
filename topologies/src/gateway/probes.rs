//! Asks each backend again and again whether it is ready.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::balance::Probed;
use super::client::{Inner, Place};

/// How long a backend may take to say that it is ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// One that gets no requests is probed as often as this at least: there is no other way to hear of it.
const AWAY_PROBE_MAX: Duration = Duration::from_secs(1);
/// How soon a backend is probed again, however often it is suspected.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// Probes all backends of `inner` until `shutdown`.
pub(super) async fn follow(inner: &Arc<Inner>, shutdown: CancellationToken) {
    let probing = (0..inner.places.len()).map(|at| follow_one(inner, at));
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = join_all(probing) => {}
    }
}

async fn follow_one(inner: &Inner, at: usize) {
    let place = &inner.places[at];
    loop {
        let probed = probe(place).await;
        debug!(cloud = %place.cloud, backend = %place.address, ?probed, "probed");
        let notice = inner.balance().probed(at, probed, inner.now());
        inner.note(at, notice);
        sleep(PAUSE_MIN).await;
        // That took long enough.
        if probed == Probed::Silent {
            continue;
        }
        let is_up = inner.balance().is_up(at, inner.now());
        let pause = if is_up { inner.spec.probe } else { inner.spec.probe.min(AWAY_PROBE_MAX) };
        tokio::select! {
            () = sleep(pause) => {}
            () = place.suspected.notified() => {}
        }
    }
}

/// Over a connection of its own: whether there can be one is a part of the question.
async fn probe(place: &Place) -> Probed {
    let begun = Instant::now();
    let asking = async {
        let Ok(mut connection) = place.pool.connect().await else { return Probed::Unreachable };
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/readyz".parse().expect("a path is a URI");
        request.headers_mut().insert(header::HOST, place.pool.authority.clone());
        match connection.ask(request).await {
            Ok(answer) if answer.status() == StatusCode::OK => Probed::Ready(begun.elapsed()),
            Ok(_) | Err(_) => Probed::NotReady,
        }
    };
    timeout(ANSWER_WITHIN, asking).await.unwrap_or(Probed::Silent)
}
