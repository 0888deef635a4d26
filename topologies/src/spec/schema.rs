//! The JSON Schema of a spec, for editors: `isobar schema > topology.schema.json`; and those of contracts, training sets and gateways.
//!
//! It is generated from the structs of [`raw`](super::raw), the same that a spec is parsed into, and it is what
//! [`structure`](super::structure) checks a spec against. So what an editor accepts, `isobar check` accepts too, up
//! to what only the whole spec can tell (references, queries).

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value as Json, json};

use super::{gateway, raw, training, yaml};

/// A complete spec, shown by editors and used by the tests.
pub const EXAMPLE: &str = include_str!("example.yaml");

/// A contract of the dataset in [`EXAMPLE`].
pub const CONTRACT_EXAMPLE: &str = include_str!("example_contract.yaml");

/// A training set of the dataset in [`EXAMPLE`].
pub const TRAINING_SET_EXAMPLE: &str = include_str!("example_training_set.yaml");

/// A gateway.
pub const GATEWAY_EXAMPLE: &str = include_str!("example_gateway.yaml");

/// The JSON Schema of a spec: draft 2020-12.
pub fn json_schema() -> Json {
    schema_of::<raw::Topology>("isobar topology", EXAMPLE)
}

/// The JSON Schema of a contract: draft 2020-12.
pub fn contract_json_schema() -> Json {
    schema_of::<raw::Contract>("isobar data contract", CONTRACT_EXAMPLE)
}

/// The JSON Schema of a training set: draft 2020-12.
pub fn training_set_json_schema() -> Json {
    schema_of::<training::raw::TrainingSet>("isobar training set", TRAINING_SET_EXAMPLE)
}

/// The JSON Schema of a gateway: draft 2020-12.
pub fn gateway_json_schema() -> Json {
    schema_of::<gateway::GatewayFile>("isobar gateway", GATEWAY_EXAMPLE)
}

fn schema_of<T: JsonSchema>(title: &str, example: &str) -> Json {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut generated = generator.into_root_schema_for::<T>().to_value();
    unwrap_descriptions(&mut generated);
    let example = yaml::parse(example).root.map_or(Json::Null, |root| root.to_json());
    let mut schema = json!({
        "$schema": generated["$schema"],
        "title": title,
        "description": generated["description"],
        "examples": [example],
    });
    if let (Json::Object(schema), Json::Object(generated)) = (&mut schema, generated) {
        for (keyword, value) in generated {
            schema.entry(keyword).or_insert(value);
        }
    }
    schema
}

/// Joins the lines that the documentation of our structs was wrapped into; editors wrap for themselves.
fn unwrap_descriptions(schema: &mut Json) {
    match schema {
        Json::Object(map) => {
            for (keyword, value) in map {
                match value {
                    Json::String(text) if keyword == "description" => *text = text.replace('\n', " "),
                    value => unwrap_descriptions(value),
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(unwrap_descriptions),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `visit` with every subschema of `schema`.
    fn visit_schemas(schema: &Json, visit: &mut impl FnMut(&serde_json::Map<String, Json>)) {
        let Json::Object(map) = schema else { return };
        visit(map);
        for (keyword, value) in map {
            match (keyword.as_str(), value) {
                ("properties" | "$defs", Json::Object(children)) => {
                    children.values().for_each(|child| visit_schemas(child, visit));
                }
                ("anyOf" | "oneOf" | "prefixItems", Json::Array(children)) => {
                    children.iter().for_each(|child| visit_schemas(child, visit));
                }
                ("items" | "additionalProperties" | "propertyNames", child) => visit_schemas(child, visit),
                _ => {}
            }
        }
    }

    #[test]
    fn every_field_is_documented() {
        let schema = json_schema();
        let mut fields = 0;
        visit_schemas(&schema, &mut |map| {
            for (name, field) in map.get("properties").and_then(Json::as_object).into_iter().flatten() {
                let description = field.get("description").and_then(Json::as_str).unwrap_or_default();
                assert!(description.len() > 8, "`{name}` has no description: {field}");
                assert!(!description.contains('\n'), "{description}");
                fields += 1;
            }
        });
        assert!(fields > 20, "{fields} fields");
        for schema in [contract_json_schema(), training_set_json_schema(), gateway_json_schema()] {
            visit_schemas(&schema, &mut |map| {
                for (name, field) in map.get("properties").and_then(Json::as_object).into_iter().flatten() {
                    let description = field.get("description").and_then(Json::as_str).unwrap_or_default();
                    assert!(description.len() > 8, "`{name}` has no description: {field}");
                }
            });
        }
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["examples"][0]["topology"], "flight_delays");
        let keywords: Vec<&String> = schema.as_object().unwrap().keys().take(2).collect();
        assert_eq!(keywords, ["$schema", "title"]);
    }

    #[test]
    fn the_schema_uses_only_what_the_checker_understands() {
        let mut visit = |map: &serde_json::Map<String, Json>| {
            for (keyword, value) in map {
                assert!(super::super::structure::KEYWORDS.contains(&keyword.as_str()), "{keyword}: {value}");
            }
            if let Some(pattern) = map.get("pattern").and_then(Json::as_str) {
                assert!(super::super::structure::knows_pattern(pattern), "{pattern}");
            }
        };
        visit_schemas(&json_schema(), &mut visit);
        visit_schemas(&contract_json_schema(), &mut visit);
        visit_schemas(&training_set_json_schema(), &mut visit);
        visit_schemas(&gateway_json_schema(), &mut visit);
    }
}
