//! The description of the HTTP interface for programs (OpenAPI 3.1). A test holds it against the routes that there are.

use serde_json::{Value, json};

use super::problem::PROBLEM_TYPE;
use super::query::Format;

/// The document.
pub(super) fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "isobar serve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The datasets of a topology: SQL at a stated version, the same answer in every cloud.",
        },
        "security": [{ "token": [] }, {}],
        "paths": {
            "/": { "get": plain("A page that shows the datasets and runs a query", "text/html", true) },
            "/v1/query": { "post": query() },
            "/v1/datasets": { "get": {
                "summary": "The datasets and quarantines that the caller may read",
                "responses": with_problems(json!({ "200": {
                    "description": "By name",
                    "content": { "application/json": { "schema": {
                        "type": "object",
                        "required": ["datasets"],
                        "properties": { "datasets": { "type": "array", "items": reference("Dataset") } },
                    } } },
                } })),
            } },
            "/v1/datasets/{name}": { "get": {
                "summary": "A dataset, its newest version and its columns, as the caller sees them",
                "parameters": [{ "name": "name", "in": "path", "required": true, "schema": { "type": "string" } }],
                "responses": with_problems(json!({ "200": {
                    "description": "The dataset",
                    "content": { "application/json": { "schema": reference("Dataset") } },
                } })),
            } },
            "/openapi.json": { "get": plain("This document", "application/json", true) },
            "/healthz": { "get": plain("Whether the process runs", "text/plain", true) },
            "/readyz": { "get": plain("Whether a cloud answers; 503 if not", "text/plain", true) },
            "/metrics": { "get": plain("Metrics in the format of Prometheus", "text/plain", true) },
        },
        "components": {
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "A token of a caller in the topology, or a signed token (JWT) of its issuer",
            } },
            "schemas": {
                "Question": question(),
                "Answer": answer(),
                "Dataset": {
                    "type": "object",
                    "required": ["name", "version", "cloud"],
                    "properties": {
                        "name": { "type": "string" },
                        "version": { "type": "integer" },
                        "cloud": { "type": "string" },
                        "comment": { "type": ["string", "null"] },
                        "columns": { "type": "array", "items": reference("Column") },
                    },
                },
                "Column": {
                    "type": "object",
                    "required": ["name", "type", "nullable"],
                    "properties": {
                        "name": { "type": "string" },
                        "type": { "type": "string", "description": "An Arrow type" },
                        "nullable": { "type": "boolean" },
                    },
                },
                "Problem": {
                    "type": "object",
                    "description": "RFC 9457",
                    "required": ["type", "title", "status", "detail"],
                    "properties": {
                        "type": { "type": "string" },
                        "title": { "type": "string" },
                        "status": { "type": "integer" },
                        "detail": { "type": "string" },
                        "limit": { "type": "string", "description": "The limit that was reached" },
                    },
                },
            },
        },
    })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn plain(summary: &str, media_type: &str, needs_no_token: bool) -> Value {
    let mut operation = json!({
        "summary": summary,
        "responses": { "200": { "description": "It is there", "content": { media_type: {} } } },
    });
    if needs_no_token {
        operation["security"] = json!([]);
    }
    operation
}

fn query() -> Value {
    let schema_of = |format: Format| match format {
        Format::Json => json!({ "schema": reference("Answer") }),
        Format::Csv | Format::Arrow => json!({}),
    };
    let content: serde_json::Map<String, Value> =
        Format::ALL.into_iter().map(|format| (format.media_type().to_owned(), schema_of(format))).collect();
    json!({
        "summary": "Runs one statement that only reads",
        "description": "The answer is a stream. What goes wrong while it is on its way cuts the connection off before the last chunk.",
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": reference("Question") } },
        },
        "responses": with_problems(json!({ "200": {
            "description": "The rows, in the format of `format` or `Accept`",
            "headers": { "isobar-versions": {
                "description": "What was read: table=version@cloud, separated by commas",
                "schema": { "type": "string" },
            } },
            "content": content,
        } })),
    })
}

fn question() -> Value {
    let versions = |what: &str| {
        json!({
            "type": "object",
            "description": what,
            "additionalProperties": { "type": "integer", "minimum": 0 },
        })
    };
    json!({
        "type": "object",
        "required": ["sql"],
        "additionalProperties": false,
        "properties": {
            "sql": { "type": "string", "examples": ["SELECT count(*) AS n FROM flight_features"] },
            "parameters": {
                "type": "array",
                "description": "Values for $1, $2, …",
                "items": { "type": ["null", "boolean", "number", "string"] },
            },
            "versions": versions("By table, the version to read"),
            "min_version": versions("By table, the version that it must have reached"),
            "max_staleness": {
                "type": "string",
                "description": "How old the last look for newer versions may be",
                "examples": ["5s"],
            },
            "format": { "enum": ["json", "csv", "arrow"] },
        },
    })
}

fn answer() -> Value {
    json!({
        "type": "object",
        "required": ["columns", "versions", "rows"],
        "properties": {
            "columns": { "type": "array", "items": reference("Column") },
            "versions": { "type": "array", "items": {
                "type": "object",
                "required": ["table", "version", "cloud"],
                "properties": {
                    "table": { "type": "string" },
                    "version": { "type": "integer" },
                    "cloud": { "type": "string" },
                },
            } },
            "rows": { "type": "array", "items": { "type": "object" } },
        },
    })
}

/// `responses`, and the problems that every question may meet.
fn with_problems(mut responses: Value) -> Value {
    let problems = [
        ("400", "The question is wrong"),
        ("401", "A token is needed"),
        ("403", "Not allowed"),
        ("404", "There is no such thing"),
        ("413", "The question is too long"),
        ("422", "A limit of the query was reached"),
        ("429", "Too many queries run and wait"),
        ("500", "A fault of the server"),
        ("503", "No cloud answers, or not with a version as new"),
    ];
    for (status, description) in problems {
        responses[status] = json!({
            "description": description,
            "content": { PROBLEM_TYPE: { "schema": reference("Problem") } },
        });
    }
    responses
}
