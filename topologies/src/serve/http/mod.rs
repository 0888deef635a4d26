//! Questions by HTTP.
//!
//! Who asks is looked at before anything of a body is read. An answer is a stream: what goes wrong before its first piece is a
//! problem document with a status of its own; later, the connection is cut off without the last chunk, so that half an answer
//! never looks like a whole one (in Arrow the mark of the end is missing too, in JSON the closing brackets are).

mod body;
mod openapi;
mod problem;
mod query;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use arrow::datatypes::Schema;

pub(crate) use self::body::body_of;
pub(crate) use self::problem::{PROBLEM_TYPE, Problem};
use super::{Caller, Engine, PeerNames, Refusal, TableInfo, inference};

/// The page that `GET /` shows. It needs nothing from elsewhere, and may load nothing.
const PAGE: &str = include_str!("page.html");
/// What a browser may do with anything from here: run what is in the page itself, and ask this server.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A route as it is documented.
struct Route {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the router has it in the handler; the description is held against it")
    )]
    method: &'static str,
    path: &'static str,
    handler: MethodRouter<Engine>,
}

fn routes() -> Vec<Route> {
    let route = |method, path, handler| Route { method, path, handler };
    vec![
        route("get", "/", get(page)),
        route("post", "/v1/query", post(query::query)),
        route("get", "/v1/datasets", get(datasets)),
        route("get", "/v1/datasets/{name}", get(dataset)),
        route("get", "/openapi.json", get(description)),
        route("get", "/healthz", get(|| async { "ok\n" })),
        route("get", "/readyz", get(ready)),
        route("get", "/metrics", get(metrics)),
    ]
}

/// Everything that this module answers.
pub(super) fn router(engine: Engine) -> Router {
    let mut router = Router::new();
    for Route { path, handler, .. } in routes() {
        router = router.route(path, handler);
    }
    router
        .fallback(|| async {
            Problem::from(Refusal::NotFound("there is no such path; see /openapi.json".to_owned()))
        })
        .with_state(engine)
}

/// Headers that keep browsers from making more of an answer than it is. Everything that is answered goes through here.
pub(super) async fn harmless(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Who asks, by the headers of a request and the certificate that was shown for its connection.
///
/// Without tokens, what was not asked of this machine by its own name is refused: a page elsewhere could have its name point
/// here, and read the answer.
pub(super) fn caller(engine: &Engine, request: &Request) -> Result<Caller, Refusal> {
    let headers = request.headers();
    if engine.is_open() && !is_for_this_machine(headers) {
        let why = "without tokens this server answers only to its loopback addresses and localhost";
        return Err(Refusal::Forbidden(why.to_owned()));
    }
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = authorization.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let names =
        request.extensions().get::<ConnectInfo<PeerNames>>().map(|info| info.0.clone()).unwrap_or_default();
    engine.recognise(token, &names)
}

/// Whether a request names a loopback address or `localhost` as its host, or no host.
pub(crate) fn is_for_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return true };
    let name = match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The name in a path, or why it cannot be read: to be looked at after it was found out who asks.
pub(crate) type NamedPath = Result<Path<String>, PathRejection>;

/// The name in `path`.
pub(crate) fn name_in(path: NamedPath) -> Result<String, Refusal> {
    path.map(|Path(name)| name).map_err(|rejection| Refusal::Wrong(rejection.body_text()))
}

async fn description(State(engine): State<Engine>) -> Json<Value> {
    let mut document = openapi::document(engine.look_ups().is_some());
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.extend(inference::openapi::paths());
    }
    Json(document)
}

async fn page() -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
}

async fn datasets(State(engine): State<Engine>, request: Request) -> Result<Json<Value>, Problem> {
    let caller = caller(&engine, &request)?;
    let tables = engine.tables(&caller).await?;
    let datasets: Vec<Value> = tables.iter().map(described).collect();
    Ok(Json(json!({ "datasets": datasets })))
}

async fn dataset(
    State(engine): State<Engine>,
    path: NamedPath,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let caller = caller(&engine, &request)?;
    let name = name_in(path)?;
    let found = engine.table(&caller, &name).await?.ok_or_else(|| {
        Refusal::NotFound("there is no such dataset; `GET /v1/datasets` lists them".to_owned())
    })?;
    let mut dataset = described(&found);
    dataset["columns"] = columns(&found.schema);
    Ok(Json(dataset))
}

fn described(table: &TableInfo) -> Value {
    json!({
        "name": table.name,
        "version": table.version.version,
        "cloud": table.version.cloud,
        "comment": table.comment,
    })
}

fn columns(schema: &Schema) -> Value {
    let column = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        json!({
            "name": field.name(),
            "type": field.data_type().to_string(),
            "nullable": field.is_nullable(),
        })
    };
    schema.fields().iter().map(column).collect()
}

async fn ready(State(engine): State<Engine>) -> Response {
    match engine.is_ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "no cloud answers\n").into_response(),
    }
}

async fn metrics(State(engine): State<Engine>) -> Response {
    crate::http::shown_metrics(engine.metrics())
}
