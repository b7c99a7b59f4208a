//! As much of JSON Schema as the description of the API uses; a keyword beyond that is an error.

use serde_json::{Map, Value};

/// What is wrong with a value, where something is.
pub(crate) fn wrong(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let rules = schema.as_object().unwrap_or_else(|| panic!("no schema: {schema}"));
    let broken = |(keyword, rule): (&String, &Value)| match keyword.as_str() {
        "$ref" => {
            let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
            let schema = document.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer}"));
            wrong(document, schema, value)
        }
        "anyOf" => {
            let all: Vec<String> = list(rule).iter().map_while(|one| wrong(document, one, value)).collect();
            (all.len() == list(rule).len()).then(|| format!("none of ({})", all.join("; ")))
        }
        _ => own(keyword, rule, value).or_else(|| inside(document, rules, keyword, rule, value)),
    };
    rules.iter().find_map(broken)
}

fn list(rule: &Value) -> &[Value] {
    rule.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A rule about the value itself.
fn own(keyword: &str, rule: &Value, value: &Value) -> Option<String> {
    let is = |kind: &Value| match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type: {other}"),
    };
    let number =
        |holds: fn(f64, f64) -> bool| value.as_f64().is_none_or(|x| holds(x, rule.as_f64().unwrap()));
    let (letters, items) = (value.as_str().map(|text| text.chars().count()), value.as_array().map(Vec::len));
    let size = |size: Option<usize>, holds: fn(usize, usize) -> bool| {
        size.is_none_or(|size| holds(size, rule.as_u64().unwrap() as usize))
    };
    let holds = match keyword {
        "type" if rule.is_array() => list(rule).iter().any(is),
        "type" => is(rule),
        "const" => rule == value,
        "enum" => list(rule).contains(value),
        "minimum" => number(|x, end| x >= end),
        "maximum" => number(|x, end| x <= end),
        "exclusiveMinimum" => number(|x, end| x > end),
        "minLength" => size(letters, |size, end| size >= end),
        "maxLength" => size(letters, |size, end| size <= end),
        "minItems" => size(items, |size, end| size >= end),
        "maxItems" => size(items, |size, end| size <= end),
        "pattern" => value.as_str().is_none_or(|text| !text.is_empty()), // none of ours allows an empty text
        _ => true,
    };
    (!holds).then(|| format!("`{value}`, want {keyword} {rule}"))
}

/// A rule about what is inside the value.
fn inside(
    document: &Value,
    rules: &Map<String, Value>,
    keyword: &str,
    rule: &Value,
    value: &Value,
) -> Option<String> {
    let none = Map::new();
    let fields = value.as_object().unwrap_or(&none);
    let properties = rules.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let at = |name: &str, why: Option<String>| why.map(|why| format!("{name}: {why}"));
    match keyword {
        "items" => list(value).iter().find_map(|item| wrong(document, rule, item)),
        "properties" => fields.iter().find_map(|(name, value)| {
            at(name, properties.get(name).and_then(|schema| wrong(document, schema, value)))
        }),
        "required" if value.is_object() => {
            let missing = list(rule).iter().find(|name| !fields.contains_key(name.as_str().unwrap()));
            missing.map(|name| format!("{name} is missing"))
        }
        "additionalProperties" => {
            let mut others = fields.iter().filter(|(name, _)| !properties.contains_key(*name));
            match rule {
                Value::Bool(false) => others.next().map(|(name, _)| format!("`{name}` is not described")),
                schema => others.find_map(|(name, value)| at(name, wrong(document, schema, value))),
            }
        }
        "propertyNames" => fields.keys().find_map(|name| wrong(document, rule, &name.as_str().into())),
        "type" | "const" | "enum" | "minimum" | "maximum" | "exclusiveMinimum" | "minLength"
        | "maxLength" | "minItems" | "maxItems" | "pattern" | "required" | "description" | "default"
        | "contentEncoding" => None,
        other => panic!("keyword `{other}` is not read here"),
    }
}
