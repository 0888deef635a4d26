//! The inference protocol by HTTP: the same callers as for queries.
//!
//! Errors are `{"error": "…"}`, as the protocol has them, with the statuses of everything else here. Who asks is looked at, and a place
//! is taken, before anything of a body is read.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::json::{read, written};
use super::openapi;
use crate::models::Tensor;
use crate::serve::http::caller;
use crate::serve::{Engine, Problem, Refusal, body_of};

/// How many bytes of a body are JSON, where there are tensors behind it.
const JSON_BYTES: &str = "inference-header-content-length";
const OCTETS: &str = "application/octet-stream";
const JSON: &str = "application/json";

/// A route as it is documented.
pub(super) struct Route {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the router has it in the handler; the description is held against it")
    )]
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    handler: MethodRouter<Engine>,
}

/// The parts of a path, or why they cannot be read.
type Parts = Result<Path<BTreeMap<String, String>>, PathRejection>;

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, handler| Route { method, path, handler };
    vec![
        route("get", openapi::SERVER, get(server)),
        route("get", openapi::LIVE, get(live)),
        route("get", openapi::READY, get(ready)),
        route("get", openapi::MODEL, get(model)),
        route("get", openapi::VERSION, get(model)),
        route("get", openapi::MODEL_READY, get(model_ready)),
        route("get", openapi::VERSION_READY, get(model_ready)),
        route("post", openapi::MODEL_INFER, post(infer)),
        route("post", openapi::VERSION_INFER, post(infer)),
    ]
}

/// The endpoints of the protocol, for the callers of `engine`.
pub(in crate::serve) fn router(engine: &Engine) -> Router {
    let mut router = Router::new();
    for Route { path, handler, .. } in routes() {
        router = router.route(path, handler);
    }
    router.with_state(engine.clone())
}

/// A refusal on its way to a client of this protocol.
#[derive(Debug)]
struct Failure(Refusal);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let error = json!({ "error": self.0.to_string() });
        let (mut head, _) = Problem::from(self.0).into_response().into_parts();
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        Response::from_parts(head, Body::from(format!("{error}\n")))
    }
}

/// The model and the version in a path; no version is the champion.
fn named(parts: Parts) -> Result<(String, String), Refusal> {
    let Path(mut parts) = parts.map_err(|rejection| Refusal::Wrong(rejection.body_text()))?;
    let mut part = |name: &str| parts.remove(name).unwrap_or_default();
    Ok((part("model"), part("version")))
}

async fn server() -> Json<Value> {
    Json(json!({
        "name": super::NAME,
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": super::EXTENSIONS,
    }))
}

async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

async fn ready(State(engine): State<Engine>) -> Result<Json<Value>, Failure> {
    engine.is_ready_to_infer().await?;
    Ok(Json(json!({ "live": true, "ready": true })))
}

async fn model(State(engine): State<Engine>, parts: Parts, request: Request) -> Result<Json<Value>, Failure> {
    let caller = caller(&engine, &request)?;
    let (model, version) = named(parts)?;
    let served = engine.served(&caller, &model, &version).await?;
    let manifest = &served.bound.manifest;
    Ok(Json(json!({
        "name": manifest.model,
        "versions": served.versions,
        "platform": super::PLATFORM,
        "inputs": tensors(&manifest.signature.inputs),
        "outputs": tensors(&manifest.signature.outputs),
    })))
}

fn tensors(tensors: &[Tensor]) -> Value {
    let tensor = |tensor: &Tensor| {
        let shape: Vec<i64> = super::dims(&tensor.shape).collect();
        json!({ "name": tensor.name, "datatype": tensor.datatype, "shape": shape })
    };
    tensors.iter().map(tensor).collect()
}

async fn model_ready(
    State(engine): State<Engine>,
    parts: Parts,
    request: Request,
) -> Result<Json<Value>, Failure> {
    let caller = caller(&engine, &request)?;
    let (model, version) = named(parts)?;
    engine.served(&caller, &model, &version).await?;
    Ok(Json(json!({ "name": model, "ready": true })))
}

async fn infer(State(engine): State<Engine>, parts: Parts, request: Request) -> Result<Response, Failure> {
    let caller = caller(&engine, &request)?;
    let (model, version) = named(parts)?;
    let json_bytes = json_bytes(request.headers())?;
    refuse_compressed(request.headers())?;
    let _place = engine.inference().enter()?;
    let body = body_of(request, engine.inference().bytes_max()).await?;
    let (asked, form) = read(model, version, &body, json_bytes)?;
    drop(body);
    let answer = engine.infer(&caller, asked).await?;
    let (bytes, json_bytes) = written(&answer, &form)?;
    let mut response = Body::from(bytes).into_response();
    let headers = response.headers_mut();
    let media_type = if json_bytes.is_some() { OCTETS } else { JSON };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(json_bytes) = json_bytes {
        headers.insert(JSON_BYTES, HeaderValue::from(json_bytes));
    }
    Ok(response)
}

/// How many bytes of the body are JSON, if that is said.
fn json_bytes(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(JSON_BYTES) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    let wrong = || Refusal::Wrong("`Inference-Header-Content-Length` is no number of bytes".to_owned());
    number.map(Some).ok_or_else(wrong)
}

/// A body of a few bytes could become any number of them.
fn refuse_compressed(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            Err(Refusal::Wrong("a compressed body is not read here: send it as it is".to_owned()))
        }
        _ => Ok(()),
    }
}
