//! The description of the API is what `serve` does: answers are of its schemas, and its bounds are held.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
mod server;
#[path = "../../eunoe-engine/tests/toy/mod.rs"]
mod toy;

use serde_json::{Value, json};
use server::{Server, schema};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% for t in tools %}{{ t | tojson }}{% endfor %}";

struct Described {
    server: Server,
    document: Value,
}

impl Described {
    fn start(args: &[&str]) -> Self {
        let server = Server::of(&toy::LLAMA.gguf_with(Some(TEMPLATE)), args);
        let (status, document) = server.get("/openapi.json");
        assert_eq!((status, &document), (200, &eunoe_server::document()));
        Self { server, document }
    }

    fn wrong(&self, name: &str, value: &Value) -> Option<String> {
        schema::wrong(&self.document, &self.document["components"]["schemas"][name], value)
    }

    fn assert_is(&self, name: &str, value: &Value) {
        let wrong = self.wrong(name, value);
        assert!(wrong.is_none(), "no {name}: {wrong:?}\n{value}");
    }

    /// The name of the schema of a path's body or answer.
    fn name(&self, path: &str, method: &str, pointer: &str) -> String {
        let operation = &self.document["paths"][path][method];
        let reference =
            operation.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{path} {pointer}"));
        reference.rsplit('/').next().unwrap().to_owned()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.assert_is(&self.name(path, "post", "/requestBody/content/application~1json/schema/$ref"), body);
        let (status, answer) = self.server.post(path, body);
        assert_eq!(status, 200, "{path} {body}: {answer}");
        self.assert_is(
            &self.name(path, "post", "/responses/200/content/application~1json/schema/$ref"),
            &answer,
        );
        answer
    }

    fn stream(&self, path: &str, body: &Value) {
        let (status, head, bytes) = self.server.send("POST", path, "", body.to_string().as_bytes());
        assert!(status == 200 && head.contains("text/event-stream"), "{head}");
        let schema = self.name(
            path,
            "post",
            "/responses/200/content/text~1event-stream/schema/properties/data/anyOf/0/contentSchema/$ref",
        );
        let text = String::from_utf8(bytes).unwrap();
        let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert!(data.len() > 2 && data.last() == Some(&"[DONE]"), "{text}");
        data[..data.len() - 1]
            .iter()
            .for_each(|line| self.assert_is(&schema, &serde_json::from_str(line).unwrap()));
    }
}

fn messages() -> Value {
    json!([
        { "role": "system", "content": "be" }, { "role": "user", "content": [{ "type": "text", "text": "x" }], "name": "me" },
        { "role": "assistant", "content": null, "refusal": null,
            "tool_calls": [{ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } }] },
        { "role": "tool", "content": "1", "tool_call_id": "c" },
    ])
}

#[test]
fn answers_are_of_the_schemas_that_describe_them() {
    let described = Described::start(&["--max-tokens", "3"]);
    for (path, schema) in [
        ("/v1/models", "Models"),
        ("/v1/models/toy", "Model"),
        ("/eunoe/plans", "Plans"),
        ("/eunoe/memory", "MemoryState"),
        ("/health", "Health"),
    ] {
        let (status, answer) = described.server.get(path);
        assert_eq!(status, 200, "{path}");
        described.assert_is(schema, &answer);
    }
    let audit = json!({ "plan": "a2sf @ 64tok", "live": true, "audit": true });
    described.post(
        "/v1/completions",
        &json!({ "prompt": "a ".repeat(40), "logprobs": 2, "echo": true, "memory": audit }),
    );
    described.post(
        "/v1/completions",
        &json!({ "prompt": [[1, 2], [3]], "n": 2, "stop": "x", "memory": { "plan": "em_llm" } }),
    );
    described.post(
        "/v1/chat/completions",
        &json!({ "messages": messages(), "logprobs": true, "top_logprobs": 2, "memory": audit }),
    );
    let schema = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": schema } }]);
    let call =
        json!({ "messages": messages(), "tools": tools, "tool_choice": "required", "max_tokens": 200 });
    let answer = described.post("/v1/chat/completions", &call);
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
    for encoding in ["float", "base64"] {
        described.post("/v1/embeddings", &json!({ "input": ["a", "b"], "encoding_format": encoding }));
    }
    described.post("/tokenize", &json!({ "prompt": "x", "add_special_tokens": false }));
    described.post("/tokenize", &json!({ "messages": messages(), "add_generation_prompt": true }));
    described.post("/detokenize", &json!({ "tokens": [1, 2] }));
    let rich = json!({ "include_usage": true });
    described.stream(
        "/v1/completions",
        &json!({ "prompt": "x", "stream": true, "logprobs": 1, "stream_options": rich, "memory": audit }),
    );
    described.stream("/v1/chat/completions", &json!({ "messages": messages(), "stream": true, "logprobs": true, "stream_options": rich, "memory": audit }));
    let mut call = call;
    call["stream"] = json!(true);
    described.stream("/v1/chat/completions", &call);
}

#[test]
fn errors_are_of_the_schema_and_of_the_statuses_that_are_described() {
    let described = Described::start(&["--memory", "1MiB", "--max-body", "5000", "--api-key", "k"]);
    let key = "authorization: Bearer k\r\n";
    let post = |path: &str, headers: &str, body: Value| {
        let (status, _, answer) = described.server.send("POST", path, headers, body.to_string().as_bytes());
        (status, serde_json::from_slice::<Value>(&answer).unwrap())
    };
    let foreign = format!("{key}origin: http://elsewhere.org\r\n");
    for (want, headers, body) in [
        (400, key, json!({ "prompt": "x", "foo": 1 })),
        (400, key, json!({ "prompt": "x", "max_tokens": 5000 })),
        (400, key, json!({ "prompt": "x", "max_tokens": 4000 })),
        (401, "", json!({ "prompt": "x" })),
        (403, foreign.as_str(), json!({ "prompt": "x" })),
        (404, key, json!({ "prompt": "x", "model": "other" })),
        (413, key, json!({ "prompt": "x".repeat(6000) })),
    ] {
        let (status, answer) = post("/v1/completions", headers, body);
        assert_eq!(status, want, "{answer}");
        described.assert_is("Error", &answer);
        let known = &described.document["paths"]["/v1/completions"]["post"]["responses"][status.to_string()];
        assert!(known.is_object(), "{status} is not described");
    }
    for path in ["/nothing", "/v1/models/%ff"] {
        let (_, _, answer) = described.server.send("GET", path, key, b"");
        described.assert_is("Error", &serde_json::from_slice(&answer).unwrap());
    }
}

/// Values just beyond the bounds of a parameter's schema.
fn beyond(schema: &Value) -> Vec<Value> {
    let number = |key: &str| schema[key].as_f64();
    let step = if schema["type"][0] == "integer" { 1.0 } else { 0.5 };
    let numbers = [
        number("minimum").map(|x| x - step),
        number("exclusiveMinimum"),
        number("maximum").map(|x| x + step),
    ];
    let mut values: Vec<Value> =
        numbers.into_iter().flatten().map(|x| if step == 1.0 { json!(x as i64) } else { json!(x) }).collect();
    for part in schema["anyOf"].as_array().into_iter().flatten() {
        values.extend(part["maxLength"].as_u64().map(|most| json!("x".repeat(most as usize + 1))));
        values.extend(part["minLength"].as_u64().map(|_| json!("")));
        values.extend(part["maxItems"].as_u64().map(|most| json!(vec!["x"; most as usize + 1])));
    }
    values
}

#[test]
fn bounds_of_parameters_are_held_and_end_where_they_are_said_to() {
    let described = Described::start(&["--max-tokens", "1"]);
    let mut seen = 0;
    for (path, schema, base) in [
        ("/v1/completions", "CompletionRequest", json!({ "prompt": "x", "max_tokens": 1 })),
        (
            "/v1/chat/completions",
            "ChatRequest",
            json!({ "messages": messages(), "max_tokens": 1, "logprobs": true }),
        ),
    ] {
        let properties =
            described.document["components"]["schemas"][schema]["properties"].as_object().unwrap();
        for (name, property) in properties {
            let with = |value: &Value| {
                let mut body = base.clone();
                body[name] = value.clone();
                body
            };
            for value in beyond(property) {
                assert!(described.wrong(schema, &with(&value)).is_some(), "{name}: {value}");
                let (status, answer) = described.server.post(path, &with(&value));
                assert_eq!(status, 400, "{path} {name}: {value}: {answer}");
                seen += 1;
            }
            for end in [&property["minimum"], &property["maximum"]].into_iter().filter(|end| !end.is_null()) {
                let (status, answer) = described.server.post(path, &with(end));
                assert_eq!(status, 200, "{path} {name}: {end}: {answer}");
            }
        }
    }
    assert!(seen > 20, "{seen} values only");
}
