//! The body of a request.
//!
//! It is read after it was found out who asks: whoever may ask nothing is answered before, and keeps no memory busy.

use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::Request;

use crate::serve::Refusal;

/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// The body of `request`, if it is there in time.
///
/// # Errors
/// [`Refusal::TooMuch`] for more than `bytes_max` bytes and [`Refusal::Wrong`] for a body that takes too long.
pub(crate) async fn body_of(request: Request, bytes_max: usize) -> Result<Bytes, Refusal> {
    let body = tokio::time::timeout(BODY_PATIENCE, to_bytes(request.into_body(), bytes_max)).await;
    let body = body.map_err(|_| Refusal::Wrong("the body did not arrive in time".to_owned()))?;
    body.map_err(|_| Refusal::TooMuch {
        limit: "body",
        message: format!("a question has at most {bytes_max} bytes, and all of them have to arrive"),
    })
}
