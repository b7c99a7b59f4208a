//! The description of the API, for people and for tools that write clients.
//!
//! A path is described in `openapi/paths.json`, what goes in and out in `openapi/schemas.json`; what all of them share is
//! put in here. Tests hold both against the router, the lists of parameters, and answers.

use axum::Json;
use serde_json::{Map, Value, json};

const PATHS: &str = include_str!("openapi/paths.json");
const SCHEMAS: &str = include_str!("openapi/schemas.json");

/// Statuses of errors, and when they come.
const ERRORS: [(u16, &str); 10] = [
    (400, "It cannot be meant, is not known here, or does not fit: `param` says what"),
    (401, "No key, or a wrong one"),
    (403, "A page of another site asks"),
    (404, "No such path, model or session"),
    (408, "The body did not arrive in time (--arrival), or the answer was not there in time (--timeout)"),
    (409, "Another request has the session"),
    (413, "The body is too large (--max-body)"),
    (429, "Too much waits already (--queue)"),
    (500, "A fault of the server's"),
    (503, "The model is being loaded, the server is stopping, or too much is going on (--connections)"),
];
/// What every request for an answer may come to.
const ASKING: [u16; 7] = [400, 404, 408, 413, 429, 500, 503];
/// What all paths behind the key may come to.
const GUARDED: [u16; 2] = [401, 403];

/// The OpenAPI document.
pub fn document() -> Value {
    let read = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let (mut paths, mut schemas) = (read(PATHS), read(SCHEMAS));
    let common = schemas.remove("Common").unwrap_or_default();
    for schema in schemas.values_mut() {
        if take(schema, "x-common").is_some() {
            let own = std::mem::take(&mut schema["properties"]);
            let both = [&own, &common["properties"]].into_iter().filter_map(Value::as_object).flatten();
            schema["properties"] = both.map(|(name, value)| (name.clone(), value.clone())).collect();
        }
    }
    for (method, operation) in paths.values_mut().filter_map(Value::as_object_mut).flatten() {
        describe(method, operation);
    }
    let responses: Map<String, Value> =
        ERRORS.iter().map(|(status, why)| (format!("E{status}"), error(*status, why))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Eunoe",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0" },
            "description": "OpenAI's API, answered inside a KV memory that is bounded and visible. Parameters that are not \
                described are refused by name. A key is asked for where the server was started with --api-key.",
        },
        "security": [{}, { "key": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
            "headers": { "RequestId": { "schema": { "type": "string" }, "description": "What was sent as `x-request-id`, or a name of the server's own." } },
            "responses": responses,
            "schemas": schemas,
        },
    })
}

/// Puts in what is said in short.
fn describe(method: &str, operation: &mut Value) {
    let name = |value: Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
    let schema = |name: &str| json!({ "schema": { "$ref": format!("#/components/schemas/{name}") } });
    let mut content = Map::new();
    if let Some(body) = name(take(operation, "x-body")) {
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": schema(&body) } });
    }
    if let Some(answer) = name(take(operation, "x-answer")) {
        content.insert("application/json".into(), schema(&answer));
    }
    if let Some(chunk) = name(take(operation, "x-chunk")) {
        let about = format!(
            "With `stream: true`. The `data` of each event is a `{chunk}` in JSON; then comes one without choices, with the \
             record of the memory, and the usage where asked for; then `[DONE]`. A failure on the way is an event with an \
             `Error`, and no `[DONE]`. Lines that begin with `:` keep a silent stream open."
        );
        let data = json!({
            "type": "string", "contentMediaType": "application/json", "contentSchema": schema(&chunk)["schema"].take(),
        });
        let event = json!({
            "type": "object", "description": about, "properties": { "data": { "anyOf": [data, { "const": "[DONE]" }] } }, "required": ["data"],
        });
        content.insert("text/event-stream".into(), json!({ "schema": event }));
    }
    if let Some(kind) = name(take(operation, "x-text")) {
        content.insert(kind, json!({ "schema": {} }));
    }
    if !content.is_empty() {
        operation["responses"]["200"] =
            json!({ "description": "An answer", "headers": headers(), "content": content });
    }
    let mut asking: Vec<u16> =
        take(operation, "x-errors").and_then(|own| serde_json::from_value(own).ok()).unwrap_or_default();
    if method == "post" {
        asking.extend(ASKING);
    }
    let guarded = if operation.get("security").is_none() { GUARDED.to_vec() } else { Vec::new() };
    for (status, _) in ERRORS.iter().filter(|(status, _)| asking.contains(status) || guarded.contains(status))
    {
        operation["responses"][status.to_string()] =
            json!({ "$ref": format!("#/components/responses/E{status}") });
    }
}

fn error(status: u16, why: &str) -> Value {
    let mut headers = headers();
    if [429, 503].contains(&status) {
        headers["Retry-After"] = json!({ "schema": { "type": "integer" }, "description": "Seconds." });
    }
    let content = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } });
    json!({ "description": why, "headers": headers, "content": content })
}

fn headers() -> Value {
    json!({ "X-Request-Id": { "$ref": "#/components/headers/RequestId" } })
}

/// Takes a field out.
fn take(value: &mut Value, name: &str) -> Option<Value> {
    value.as_object_mut().and_then(|fields| fields.shift_remove(name))
}

pub(crate) async fn serve() -> Json<Value> {
    Json(document())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{chat, completions, embeddings, params};
    use crate::routes;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let described = paths.iter().flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
        });
        let mut described: Vec<String> = described.collect();
        let mut routed = routes::names();
        described.sort();
        routed.sort();
        assert_eq!(described, routed);
    }

    #[test]
    fn every_parameter_is_described_and_nothing_else() {
        let document = document();
        for (schema, lists) in [
            ("ChatRequest", vec![&params::COMMON[..], &chat::OWN]),
            ("CompletionRequest", vec![&params::COMMON[..], &completions::OWN]),
            ("EmbeddingsRequest", vec![&embeddings::KNOWN[..]]),
        ] {
            let properties = document["components"]["schemas"][schema]["properties"].as_object().unwrap();
            let mut described: Vec<&str> = properties.keys().map(String::as_str).collect();
            let mut known = lists.concat();
            described.sort_unstable();
            known.sort_unstable();
            assert_eq!(described, known, "{schema}");
        }
    }

    #[test]
    fn what_is_referred_to_is_there_and_what_is_short_is_gone() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
        for short in ["x-body", "x-answer", "x-chunk", "x-text", "x-errors", "x-common"] {
            assert!(!text.contains(&format!("\"{short}\"")), "{short}");
        }
        for (name, _) in document["components"]["schemas"].as_object().unwrap() {
            assert!(text.contains(&format!("#/components/schemas/{name}\"")), "nothing refers to {name}");
        }
    }
}
