//! The leader's endpoints for workers and redrives. The token is looked at before anything of a body is read, and never logged.

use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::de::DeserializeOwned;

use super::desk::{Denied, Desk};
use super::wire::{AskHead, Join, Problem, REQUEST_BYTES_MAX, StagedCommit, StagedRedrive};

/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// Largest sign of life, bytes.
const JOIN_BYTES_MAX: usize = 64 << 10;

/// `POST /v1/workers`, `/v1/commits`, `/v1/redrives/head` and `/v1/redrives`.
pub(crate) fn router(desk: Desk) -> Router {
    Router::new()
        .route("/v1/workers", post(join))
        .route("/v1/commits", post(commit))
        .route("/v1/redrives/head", post(head))
        .route("/v1/redrives", post(redrive))
        .with_state(desk)
}

async fn join(State(desk): State<Desk>, request: Request) -> Response {
    let share = read::<Join>(&desk, request, JOIN_BYTES_MAX).await.and_then(|(join, _)| desk.join(&join));
    match share {
        Ok(share) => axum::Json(share).into_response(),
        Err(denied) => denied.response(&desk),
    }
}

async fn commit(State(desk): State<Desk>, request: Request) -> Response {
    let waiting = match read::<StagedCommit>(&desk, request, REQUEST_BYTES_MAX).await {
        Ok((commit, bytes)) => desk.receive(commit, bytes),
        Err(denied) => Err(denied),
    };
    let denied = match waiting {
        Ok(answer) => match answer.await {
            Ok(answer) => return axum::Json(answer).into_response(),
            Err(_) => {
                let why = "this process leads no longer; send the same commit to the next leader";
                Denied::new(StatusCode::SERVICE_UNAVAILABLE, why)
            }
        },
        Err(denied) => {
            desk.count("denied", 1);
            denied
        }
    };
    denied.response(&desk)
}

async fn head(State(desk): State<Desk>, request: Request) -> Response {
    match read::<AskHead>(&desk, request, JOIN_BYTES_MAX).await.and_then(|(ask, _)| desk.head(&ask)) {
        Ok(head) => axum::Json(head).into_response(),
        Err(denied) => denied.response(&desk),
    }
}

async fn redrive(State(desk): State<Desk>, request: Request) -> Response {
    let waiting = match read::<StagedRedrive>(&desk, request, REQUEST_BYTES_MAX).await {
        Ok((redrive, _)) => desk.receive_redrive(redrive),
        Err(denied) => Err(denied),
    };
    let denied = match waiting {
        Ok(answer) => match answer.await {
            Ok(answer) => return axum::Json(answer).into_response(),
            Err(_) => Denied::new(StatusCode::SERVICE_UNAVAILABLE, "this process leads no longer"),
        },
        Err(denied) => denied,
    };
    denied.response(&desk)
}

/// The request, if it shows the token and is one; also its bytes.
async fn read<T: DeserializeOwned>(
    desk: &Desk,
    request: Request,
    bytes_max: usize,
) -> Result<(T, usize), Denied> {
    let authorization = request.headers().get(header::AUTHORIZATION);
    if !desk.token().admits(authorization.map(|value| value.as_bytes())) {
        let why =
            "the token is missing or another one: workers.token must be the same for leader and workers";
        return Err(Denied::new(StatusCode::UNAUTHORIZED, why));
    }
    // Signs of life do not queue behind commits.
    let _reading = match bytes_max > JOIN_BYTES_MAX {
        true => desk.bodies().acquire().await.ok(),
        false => None,
    };
    let body = tokio::time::timeout(BODY_PATIENCE, to_bytes(request.into_body(), bytes_max)).await;
    let late = |_| Denied::new(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time");
    let too_large = |_| {
        let why = format!("such a request has at most {bytes_max} bytes: make commit.size smaller");
        Denied::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    };
    let body = body.map_err(late)?.map_err(too_large)?;
    let request = serde_json::from_slice(&body).map_err(|error| {
        Denied::new(StatusCode::UNPROCESSABLE_ENTITY, format!("not such a request: {error}"))
    })?;
    Ok((request, body.len()))
}

impl Denied {
    fn response(self, desk: &Desk) -> Response {
        let problem = axum::Json(Problem { error: self.why, epoch: desk.epoch() });
        let asks_again = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if asks_again.contains(&self.status) {
            return (self.status, [(header::RETRY_AFTER, "1")], problem).into_response();
        }
        (self.status, problem).into_response()
    }
}
