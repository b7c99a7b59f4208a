use super::*;
use crate::tools::{Call, Choice, Part, Splitter};
use eunoe_model::gguf::Gguf;
use eunoe_model::gguf::write::{GgufWriter, Put};
use std::time::{Duration, Instant};

const STOPS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

/// A token for every byte (the byte-level alphabet has 0x144 characters, some of them no byte), then `": ` and `tr`, then
/// `<tool_call>` as users define it, a control token and two that stop.
fn toy() -> Tokenizer {
    let mut tokens: Vec<String> = (0..0x144_u32).filter_map(char::from_u32).map(String::from).collect();
    let mut kinds = vec![1; tokens.len()];
    let more = ["\":", "\":Ġ", "tr", "<tool_call>", "<|im_start|>", STOPS[0], STOPS[1]];
    tokens.extend(more.map(str::to_owned));
    kinds.extend([1, 1, 1, 4, 3, 3, 3]);
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let file = GgufWriter::new()
        .put("tokenizer.ggml.model", Put::Str("gpt2"))
        .put("tokenizer.ggml.tokens", Put::Strs(&tokens))
        .put("tokenizer.ggml.token_type", Put::I32s(&kinds))
        .put("tokenizer.ggml.merges", Put::Strs(&["\" :", "\": Ġ", "t r"]));
    Tokenizer::from_gguf(&Gguf::parse(file.finish()).unwrap()).unwrap()
}

/// Tokens that may come next.
fn open(t: &Tokenizer, guide: &mut dyn Guide) -> Vec<u32> {
    let mut logits = vec![0.0; t.vocab_len() + 3];
    guide.mask(&mut logits).unwrap();
    assert!(
        logits[t.vocab_len()..].iter().all(|l| *l == f32::NEG_INFINITY),
        "no token is beyond the vocabulary"
    );
    (0..t.vocab_len() as u32).filter(|id| logits[*id as usize] == 0.0).collect()
}

/// Whether a guide lets a text pass, token by token of the encoding, and whether it ends there by itself.
fn passes(t: &Tokenizer, guide: &mut dyn Guide, text: &str) -> Option<bool> {
    let mut is_over = false;
    for id in t.encode(text) {
        if is_over || !open(t, guide).contains(&id) {
            return None;
        }
        is_over = guide.accept(id).unwrap();
    }
    Some(is_over)
}

fn stops(t: &Tokenizer) -> Vec<u32> {
    STOPS.iter().map(|name| t.token_id(name).unwrap()).collect()
}

/// A model that takes whatever it likes most of what may come; gives its text.
fn write(
    t: &Tokenizer,
    guide: &mut dyn Guide,
    most: usize,
    mut like: impl FnMut(&[u8], bool) -> f64,
) -> Option<String> {
    let mut bytes = Vec::new();
    for _ in 0..most {
        let rate = |id: &u32, like: &mut dyn FnMut(&[u8], bool) -> f64| like(t.piece(*id), t.is_stop(*id));
        let rated = open(t, guide).into_iter().map(|id| (rate(&id, &mut like), id));
        let (_, id) = rated.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        bytes.extend_from_slice(t.piece(id));
        if guide.accept(id).unwrap() {
            return Some(String::from_utf8(bytes).unwrap());
        }
    }
    None
}

#[test]
fn an_object_ends_where_it_may_and_not_before() {
    let t = toy();
    let guides = Guides::new(&t).unwrap();
    let schema = json!({
        "type": "object",
        "properties": { "b": { "type": "boolean" }, "a": { "enum": ["x", 2] } },
        "required": ["b", "a"],
        "additionalProperties": false,
    });
    let guide = || guides.json_schema(&schema).unwrap();
    assert_eq!(passes(&t, &mut *guide(), r#"{"b": true, "a": "x"}"#), Some(true));
    assert_eq!(passes(&t, &mut *guide(), "{\n  \"b\":false,\n  \"a\":2\n}"), Some(true));
    for wrong in [r#"{"a": 2"#, r#"{"b": 1"#, r#"{"b": true}"#, "{  ", " {", "x", r#"{"b": true, "a": "x"} "#]
    {
        assert_eq!(passes(&t, &mut *guide(), wrong), None, "{wrong:?}");
    }
    let mut part = guide();
    assert_eq!(passes(&t, &mut *part, r#"{"b": true"#), Some(false));
    assert!(open(&t, &mut *part).iter().all(|id| !t.is_stop(*id) && !t.piece(*id).is_empty()));
    assert!(part.accept(stops(&t)[0]).is_err(), "a stop that may not be is an error");
}

#[test]
fn an_answer_that_could_go_on_may_stop_with_any_token_that_stops() {
    let t = toy();
    let guides = Guides::new(&t).unwrap();
    for stop in stops(&t) {
        let mut number = guides.json_schema(&json!({ "type": "integer" })).unwrap();
        assert_eq!(passes(&t, &mut *number, "12"), Some(false));
        let open = open(&t, &mut *number);
        assert!(
            stops(&t).iter().all(|stop| open.contains(stop)) && open.contains(&t.encode("3")[0]),
            "{open:?}"
        );
        assert!(number.accept(stop).unwrap());
    }
}

#[test]
fn properties_are_not_invented_unless_the_schema_says_so() {
    let t = toy();
    let guides = Guides::new(&t).unwrap();
    let of = |schema: &Value, text: &str| passes(&t, &mut *guides.json_schema(schema).unwrap(), text);
    let listed = json!({ "properties": { "a": { "const": 1 } }, "required": ["a"], "type": "object" });
    assert_eq!(of(&listed, r#"{"a": 1}"#), Some(true));
    assert_eq!(of(&listed, r#"{"a": 1, "#), None);
    let mut open = listed.clone();
    open["additionalProperties"] = json!(true);
    assert_eq!(of(&open, r#"{"a": 1, "b": 2}"#), Some(true));
    let other = json!({ "properties": { "b": { "const": 2 } }, "required": ["b"], "type": "object" });
    assert_eq!(of(&json!({ "allOf": [listed, other] }), r#"{"a": 1, "b": 2}"#), Some(true));
}

#[test]
fn space_comes_to_an_end() {
    let t = toy();
    let guides = Guides::new(&t).unwrap();
    let schema = json!({ "properties": { "a": { "type": "array", "items": { "const": 1 } } }, "required": ["a"],
        "additionalProperties": false, "type": "object" });
    let like = |piece: &[u8], _: bool| match piece {
        [b' ' | b'\t' | b'\n', ..] => 3.0,
        [b']' | b'}', ..] => 2.0,
        _ => 1.0,
    };
    let text = write(&t, &mut *guides.json_schema(&schema).unwrap(), 200, like).expect("it ends");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({ "a": [] }), "{text}");
    let text = write(&t, &mut *guides.json_object().unwrap(), 200, like).expect("it ends");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({}), "{text}");
}

/// Random models that rather like to close what is open.
#[test]
fn whatever_a_model_likes_it_writes_json_of_the_schema() {
    let t = toy();
    let guides = Guides::new(&t).unwrap();
    let schema = json!({
        "type": "object",
        "properties": {
            "n": { "$ref": "#/$defs/n" },
            "s": { "type": "string", "maxLength": 8 },
            "o": { "oneOf": [{ "type": "null" }, { "type": "array", "items": { "type": "number" }, "maxItems": 3 }] },
        },
        "$defs": { "n": { "type": "integer", "minimum": -5, "maximum": 120 } },
        "required": ["n", "s", "o"],
        "x-guidance": { "whitespace_pattern": "[x]+" },
    });
    let mut ended = 0;
    for seed in 0..60_u64 {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed + 1);
        let like = |piece: &[u8], is_stop: bool| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let closes = is_stop || matches!(piece, [b'"' | b'}' | b']' | b',', ..]);
            (random >> 40) as f64 / (1 << 24) as f64 + if closes { 0.6 } else { 0.0 }
        };
        let Some(text) = write(&t, &mut *guides.json_schema(&schema).unwrap(), 400, like) else { continue };
        ended += 1;
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!((-5..=120).contains(&value["n"].as_i64().unwrap()), "{text}");
        assert!(value["s"].as_str().unwrap().chars().count() <= 8, "{text}");
        assert!(value["o"].is_null() || value["o"].as_array().unwrap().len() <= 3, "{text}");
    }
    assert!(ended > 30, "{ended} of 60");
}

fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters: Value| {
        Tool::read(&json!({ "type": "function", "function": { "name": name, "parameters": parameters } }))
            .unwrap()
    };
    let properties = json!({ "city": { "$ref": "#/$defs/c" }, "days": { "type": "integer" } });
    let weather = json!({ "type": "object", "properties": properties, "required": ["city"],
        "$defs": { "c": { "enum": ["Oslo", "Rome"] } } });
    vec![tool("weather", weather), tool("now", Value::Null)]
}

#[test]
fn a_required_call_is_one_of_the_tools_with_its_arguments() {
    let t = toy();
    let guides = Guides::new(&t).unwrap();
    let tools = tools();
    let rome = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\", \"days\": 3}}\n</tool_call>";
    let now = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let guide = |choice: Choice| choice.guide(&tools, &guides).unwrap();
    assert_eq!(passes(&t, &mut *guide(Choice::Required).unwrap(), rome), Some(true));
    assert_eq!(passes(&t, &mut *guide(Choice::Required).unwrap(), now), Some(true));
    assert_eq!(passes(&t, &mut *guide(Choice::Named("now".into())).unwrap(), now), Some(true));
    assert_eq!(passes(&t, &mut *guide(Choice::Named("now".into())).unwrap(), rome), None);
    let paris = rome.replace("Rome", "Paris");
    assert_eq!(passes(&t, &mut *guide(Choice::Required).unwrap(), &paris), None);
    assert!(guide(Choice::Auto).is_none() && guide(Choice::None).is_none());
    let first = open(&t, &mut *guide(Choice::Required).unwrap());
    assert_eq!(first, [t.token_id("<tool_call>").unwrap()], "the tag is the model's own token");
    let close = |piece: &[u8], _: bool| if matches!(piece, [b'"' | b'}' | b'O', ..]) { 1.0 } else { 0.0 };
    let text = write(&t, &mut *guide(Choice::Required).unwrap(), 300, close).unwrap();
    let parts = Splitter::default().push(&text);
    let [Part::Call(Call { name, arguments })] = &parts[..] else { panic!("{parts:?}") };
    assert!(tools.iter().any(|tool| tool.name() == name) && serde_json::from_str::<Value>(arguments).is_ok());
}

#[test]
fn what_is_wrong_with_a_schema_is_said() {
    let guides = Guides::new(&toy()).unwrap();
    let says = |schema: Value, what: &str| {
        let Err(e) = guides.json_schema(&schema) else { panic!("{schema} was taken") };
        let e = e.to_string();
        assert!(e.starts_with("the JSON schema: ") && e.contains(what), "{e}");
        assert!(!e.contains('\n') && e.len() < 400, "{e}");
    };
    says(json!("string"), "expected an object, got `\"string\"`");
    says(json!({ "type": "object", "not": {} }), "nimplemented keys: [\"not\"]");
    says(json!({ "type": "strng" }), "strng");
    says(json!({ "$ref": "#/$defs/none" }), "none");
    says(json!({ "$ref": "https://example.com/schema.json" }), "ref");
    says(json!({ "type": "integer", "minimum": 3, "maximum": 2 }), "minimum");
    says(json!({ "type": "string", "pattern": "(" }), "regex");
    says(json!({ "$ref": "#" }), "nothing satisfies it");
    let deep = (0..100).fold(json!({ "type": "null" }), |inner, _| json!({ "items": inner }));
    says(deep, "102 levels, at most 64");
    says(json!({ "enum": (0..500).collect::<Vec<_>>() }), "500 entries in one list");
    says(json!({ "items": vec![vec![0; 100]; 50] }), "values, at most 4000");
    says(json!({ "pattern": "x".repeat(300) }), "300 bytes in a pattern");
    says(json!({ "const": "x".repeat(300_000) }), "300005 bytes of text");
    let wrong = json!({ "type": "function", "function": { "name": "bad", "parameters": { "not": {} } } });
    let e = guides.one_of_tools(&[tools().remove(1), Tool::read(&wrong).unwrap()]).err().unwrap().to_string();
    assert!(e.starts_with("the parameters of tool `bad`: ") && e.contains("not"), "{e}");
    assert!(guides.one_of_tools(&[]).is_err());
}

/// Schemas made to hang, to recurse or to take memory: each is refused or followed for some tokens, in bounded time.
#[test]
fn hostile_schemas_neither_hang_nor_crash() {
    let t = toy();
    let guides = Guides::new(&t).unwrap();
    let chain: serde_json::Map<String, Value> =
        (0..390).map(|i| (format!("d{i}"), json!({ "$ref": format!("#/$defs/d{}", i + 1) }))).collect();
    let wide: serde_json::Map<String, Value> = (0..300).map(|i| (format!("p{i}"), json!({}))).collect();
    let both: Vec<Value> = (0..32).map(|i| json!({ "pattern": format!("a{{0,{}}}b", i + 1) })).collect();
    let any: Vec<Value> =
        (0..40).map(|i| json!({ "anyOf": [{ "minimum": i }, { "maxLength": i }] })).collect();
    let worst = "(a?b?c?){60}";
    let schemas = [
        json!({ "$ref": "#/$defs/d0", "$defs": chain }),
        json!({ "$ref": "#" }),
        json!({ "allOf": [{ "$ref": "#" }] }),
        json!({ "type": "object", "properties": wide }),
        json!({ "type": "object", "properties": wide, "required": wide.keys().collect::<Vec<_>>() }),
        json!({ "type": "string", "allOf": both }),
        json!({ "type": "string", "allOf": both[..2] }),
        json!({ "type": "string", "pattern": worst, "allOf": [{ "pattern": "(b?a?){40}x" }], "maxLength": 77 }),
        json!({ "patternProperties": { worst: {}, "(b?a?){40}x": {} }, "properties": wide }),
        json!({ "type": "string", "pattern": "(a|b)*a(a|b){120}", "minLength": 900 }),
        json!({ "properties": (0..30).map(|i| (format!("p{i}"), json!({ "pattern": format!("(a|b)*a(a|b){{{i}}}$") }))).collect::<Value>() }),
        json!({ "anyOf": (0..300).map(|i| json!({ "type": "object", "properties": { "x": { "const": i } } })).collect::<Vec<_>>() }),
        json!({ "allOf": any }),
        json!({ "type": "string", "pattern": "((((a{0,1000}){0,1000}){0,1000}){0,1000}b)*c" }),
        json!({ "type": "string", "pattern": "(.*a.{0,60}b){20}" }),
        json!({ "type": "string", "pattern": format!("{}{}", "(a|".repeat(200), "b)".repeat(200)) }),
        json!({ "type": "string", "minLength": 4_000_000_000_u64, "maxLength": 4_000_000_001_u64 }),
        json!({ "type": "array", "minItems": 1_000_000_000 }),
        json!({ "type": "array", "minItems": 1_000_000_000, "maxItems": 1_000_000_007, "items": { "pattern": "[ab]*a[ab]{40}" } }),
        json!({ "type": "integer", "multipleOf": 999_999_937, "minimum": 1 }),
        json!({ "type": "number", "multipleOf": 1e-300 }),
        json!({ "patternProperties": { "^(a+)+$": {}, ".*b.{100}": {} }, "minProperties": 1_000_000 }),
    ];
    for schema in schemas {
        let start = Instant::now();
        let name = short(&schema.to_string()).chars().take(90).collect::<String>();
        let outcome = guides.json_schema(&schema).and_then(|mut guide| {
            for _ in 0..40 {
                let mut logits = vec![0.0; t.vocab_len()];
                guide.mask(&mut logits)?;
                let like = |id: &u32| matches!(t.piece(*id), [b'{' | b'[' | b'a', ..]);
                let open = || (0..t.vocab_len() as u32).filter(|id| logits[*id as usize] == 0.0);
                let next = open().find(like).or_else(|| open().next()).expect("something may come");
                if guide.accept(next)? {
                    break;
                }
            }
            Ok(())
        });
        let took = start.elapsed();
        if let Err(e) = &outcome {
            assert!(!e.to_string().contains('\n'), "{e}");
        }
        assert!(took < Duration::from_secs(10), "{took:?} for {name}");
    }
}

#[test]
fn a_tokenizer_that_puts_spaces_in_front_writes_json_too() {
    let ascii: Vec<String> =
        (0x20..0x7f_u32).filter_map(char::from_u32).map(|c| c.to_string().replace(' ', "▁")).collect();
    let tokens: Vec<&str> = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xFF>", "▁{"]
        .into_iter()
        .chain(ascii.iter().map(String::as_str))
        .collect();
    let kinds: Vec<i32> =
        [2, 3, 3, 6, 6].into_iter().chain(std::iter::repeat(1)).take(tokens.len()).collect();
    let file = GgufWriter::new()
        .put("tokenizer.ggml.model", Put::Str("llama"))
        .put("tokenizer.ggml.tokens", Put::Strs(&tokens))
        .put("tokenizer.ggml.token_type", Put::I32s(&kinds))
        .put("tokenizer.ggml.scores", Put::F32s(&vec![0.0; tokens.len()]));
    let t = Tokenizer::from_gguf(&Gguf::parse(file.finish()).unwrap()).unwrap();
    let guides = Guides::new(&t).unwrap();
    let like = |piece: &[u8], _: bool| if matches!(piece, [b'"' | b'}' | b' ', ..]) { 1.0 } else { 0.0 };
    let schema = json!({ "type": "object", "properties": { "ab": { "const": true } }, "required": ["ab"], "additionalProperties": false });
    let text = write(&t, &mut *guides.json_schema(&schema).unwrap(), 100, like).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({ "ab": true }));
}

#[test]
fn a_vocabulary_without_stop_tokens_or_without_tokens_is_no_reason_to_fall() {
    let file = |tokens: &[&str]| {
        let file = GgufWriter::new()
            .put("tokenizer.ggml.model", Put::Str("gpt2"))
            .put("tokenizer.ggml.tokens", Put::Strs(tokens))
            .put("tokenizer.ggml.merges", Put::Strs(&[]));
        Tokenizer::from_gguf(&Gguf::parse(file.finish()).unwrap()).unwrap()
    };
    let t = file(&["{", "}", "a"]);
    let guides = Guides::new(&t).unwrap();
    assert_eq!(passes(&t, &mut *guides.json_object().unwrap(), "{}"), Some(true));
    if let Ok(guides) = Guides::new(&file(&[])) {
        assert!(guides.json_object().and_then(|mut guide| guide.mask(&mut [])).is_err());
    }
}

/// Tokenizers of real models, where they are there.
#[test]
fn canonical_tokens_of_real_vocabularies_pass() {
    let var = |name: &str| std::env::var_os(name).map(std::path::PathBuf::from);
    let Some(home) = var("EUNOE_HOME").or_else(|| Some(var("HOME")?.join(".cache/eunoe"))) else { return };
    for name in ["smollm2-135m", "qwen2.5-coder-0.5b"] {
        let path = home.join("models").join(format!("{name}.gguf"));
        let Ok(file) = eunoe_model::gguf::open(&path) else { continue };
        let t = Tokenizer::from_gguf(&file).unwrap();
        let guides = Guides::new(&t).unwrap();
        let text = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 10}}\n</tool_call>";
        assert_eq!(passes(&t, &mut *guides.one_of_tools(&tools()).unwrap(), text), Some(true), "{name}");
        let prose = r#"{"text": "Ünïcödé 漢字 🚀 \"quoted\"", "list": [1, -2.5e3, null, {}]}"#;
        assert_eq!(passes(&t, &mut *guides.json_object().unwrap(), prose), Some(true), "{name}");
    }
}
