//! The inference protocol in the description of the HTTP interface. A test holds it against the routes that there are.

use serde_json::{Map, Value, json};

pub(super) const SERVER: &str = "/v2";
pub(super) const LIVE: &str = "/v2/health/live";
pub(super) const READY: &str = "/v2/health/ready";
pub(super) const MODEL: &str = "/v2/models/{model}";
pub(super) const VERSION: &str = "/v2/models/{model}/versions/{version}";
pub(super) const MODEL_READY: &str = "/v2/models/{model}/ready";
pub(super) const VERSION_READY: &str = "/v2/models/{model}/versions/{version}/ready";
pub(super) const MODEL_INFER: &str = "/v2/models/{model}/infer";
pub(super) const VERSION_INFER: &str = "/v2/models/{model}/versions/{version}/infer";

/// The paths of the protocol.
pub(in crate::serve) fn paths() -> Map<String, Value> {
    let mut paths = Map::new();
    for (path, summary) in [
        (SERVER, "What this server is, by the Open Inference Protocol, version 2"),
        (LIVE, "Whether the process runs"),
        (READY, "Whether models can be looked up and run; 503 if not"),
    ] {
        let mut operation = operation(summary, &[]);
        operation["security"] = json!([]);
        paths.insert(path.to_owned(), json!({ "get": operation }));
    }
    for (path, summary, parameters) in [
        (MODEL, "What the champion of a model takes and answers", &["model"][..]),
        (
            VERSION,
            "What a version of a model takes and answers; an alias is a version too",
            &["model", "version"],
        ),
        (MODEL_READY, "Whether the champion of a model answers", &["model"]),
        (VERSION_READY, "Whether a version of a model answers", &["model", "version"]),
    ] {
        paths.insert(path.to_owned(), json!({ "get": operation(summary, parameters) }));
    }
    for (path, summary, parameters) in [
        (MODEL_INFER, "Asks the champion of a model", &["model"][..]),
        (VERSION_INFER, "Asks a version of a model", &["model", "version"]),
    ] {
        let mut operation = operation(summary, parameters);
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": request() }, "application/octet-stream": {} },
        });
        paths.insert(path.to_owned(), json!({ "post": operation }));
    }
    paths
}

fn operation(summary: &str, parameters: &[&str]) -> Value {
    let parameter =
        |name: &&str| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
    let parameters: Vec<Value> = parameters.iter().map(parameter).collect();
    let mut responses = json!({ "200": {
        "description": "The answer",
        "content": { "application/json": { "schema": { "type": "object" } } },
    } });
    for (status, description) in [
        ("400", "The request does not go with the model"),
        ("401", "A token is needed"),
        ("403", "Not allowed"),
        ("404", "There is no such model, or no row for a key"),
        ("413", "The request is too long"),
        ("422", "A limit of the model was reached"),
        ("429", "Too many requests are being answered"),
        ("500", "The model has no answer, or cannot be used"),
        ("503", "No cloud answers, or ONNX Runtime is not there"),
    ] {
        responses[status] = json!({
            "description": description,
            "content": { "application/json": { "schema": {
                "type": "object",
                "required": ["error"],
                "properties": { "error": { "type": "string" } },
            } } },
        });
    }
    json!({ "summary": summary, "parameters": parameters, "responses": responses })
}

fn request() -> Value {
    let parameters = json!({ "type": "object" });
    json!({
        "type": "object",
        "properties": {
            "id": { "type": "string" },
            "parameters": {
                "type": "object",
                "properties": { "entity_keys": {
                    "description": "Keys of the rows whose features are looked up, one per row",
                    "type": ["array", "string"],
                } },
            },
            "inputs": { "type": "array", "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": { "type": "string", "description": "An input of the model, a feature, or a column of a key" },
                    "shape": { "type": "array", "items": { "type": "integer", "minimum": 0 } },
                    "datatype": { "enum": ["FP32", "FP64", "INT32", "INT64", "BOOL", "BYTES"] },
                    "parameters": parameters,
                    "data": { "type": "array" },
                },
            } },
            "outputs": { "type": "array", "items": {
                "type": "object",
                "required": ["name"],
                "properties": { "name": { "type": "string" }, "parameters": parameters },
            } },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::http::routes;
    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let routes: BTreeSet<(String, String)> =
            routes().into_iter().map(|route| (route.path.to_owned(), route.method.to_owned())).collect();
        let mut described = BTreeSet::new();
        for (path, operations) in paths() {
            for (method, operation) in operations.as_object().unwrap() {
                let named = operation["parameters"].as_array().unwrap().len();
                assert_eq!(named, path.matches('{').count(), "{path}");
                described.insert((path.clone(), method.clone()));
            }
        }
        assert_eq!(described, routes);
    }
}
