//! A refusal as HTTP has it: a status, and a problem document (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::serve::Refusal;

/// Media type of a problem.
pub(crate) const PROBLEM_TYPE: &str = "application/problem+json";

/// A refusal on its way to a client.
#[derive(Debug)]
pub(crate) struct Problem {
    /// Why there is no answer.
    pub(crate) refusal: Refusal,
    /// The version that there is, where it is not as new as was asked for.
    pub(crate) version: Option<u64>,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, version: None }
    }
}

impl Problem {
    pub(super) fn status(&self) -> StatusCode {
        match &self.refusal {
            Refusal::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Refusal::Forbidden(_) => StatusCode::FORBIDDEN,
            Refusal::Wrong(_) => StatusCode::BAD_REQUEST,
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::TooMuch { limit: "running" | "waiting", .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::TooMuch { limit: "sql" | "body", .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::TooMuch { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn title(&self) -> &'static str {
        match &self.refusal {
            Refusal::Unauthenticated(_) => "a token is needed",
            Refusal::Forbidden(_) => "not allowed",
            Refusal::Wrong(_) => "the question is wrong",
            Refusal::NotFound(_) => "there is no such thing",
            Refusal::TooMuch { .. } => "a limit was reached",
            Refusal::Unavailable(_) => "no answer now",
            Refusal::Internal(_) => "a fault of the server",
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut problem = json!({
            "type": format!("urn:isobar:problem:{}", self.refusal.outcome()),
            "title": self.title(),
            "status": status.as_u16(),
            "detail": self.refusal.to_string(),
        });
        if let Refusal::TooMuch { limit, .. } = &self.refusal {
            problem["limit"] = json!(limit);
        }
        if let Some(version) = self.version {
            problem["version"] = json!(version);
        }
        let mut response = (status, format!("{problem}\n")).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}
