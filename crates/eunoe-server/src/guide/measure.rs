//! How large a schema is, by everything that makes its compiler slow: its own limits count steps, not how long one takes.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Values of a schema, how deep they nest, and the bytes of its texts.
const MOST_VALUES: usize = 4_000;
const DEEPEST: usize = 64;
const MOST_BYTES: usize = 128 << 10;
/// Values of one list or object: the parser holds one row for all fields that may come next.
const MOST_ENTRIES: usize = 400;
/// Regular expressions of a schema, and the bytes of one.
const MOST_PATTERNS: usize = 32;
const LONGEST_PATTERN: usize = 256;
/// Regular expressions that one text has to match together: a step takes time that is exponential in them.
const MOST_TOGETHER: usize = 2;
/// A number that others are multiples of makes as many states.
const MOST_REMAINDERS: u64 = 1000;

/// Why a schema is too large, if it is.
pub(super) fn too_large(schema: &Value) -> Option<String> {
    let mut measure = Measure::default();
    measure.add(schema, 1);
    let together = Together { schema, known: HashMap::new() }.of(schema);
    let rules = [
        ("levels", measure.depth, DEEPEST),
        ("values", measure.values, MOST_VALUES),
        ("bytes of text", measure.bytes, MOST_BYTES),
        ("entries in one list or object", measure.entries, MOST_ENTRIES),
        ("patterns", measure.patterns, MOST_PATTERNS),
        ("bytes in a pattern", measure.longest_pattern, LONGEST_PATTERN),
        ("patterns or multiples that hold together", together, MOST_TOGETHER),
    ];
    let over = rules.into_iter().find(|(_, has, most)| has > most);
    let over = over.map(|(what, has, most)| format!("it has {has} {what}, at most {most} are followed"));
    over.or(measure.bad_multiple.map(|number| {
        format!("`multipleOf` is `{number}`; numbers up to {MOST_REMAINDERS} are followed, or fractions with such digits")
    }))
}

/// What a schema has.
#[derive(Default)]
struct Measure {
    values: usize,
    bytes: usize,
    patterns: usize,
    longest_pattern: usize,
    entries: usize,
    depth: usize,
    bad_multiple: Option<String>,
}

impl Measure {
    fn add(&mut self, value: &Value, depth: usize) {
        self.values += 1;
        self.depth = self.depth.max(depth);
        match value {
            Value::String(text) => self.bytes += text.len(),
            Value::Array(list) => {
                self.entries = self.entries.max(list.len());
                list.iter().for_each(|value| self.add(value, depth + 1));
            }
            Value::Object(map) => {
                self.entries = self.entries.max(map.len());
                for (key, value) in map {
                    self.bytes += key.len();
                    self.add_rule(key, value);
                    self.add(value, depth + 1);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn add_rule(&mut self, key: &str, value: &Value) {
        let mut add = |pattern: &str| {
            self.patterns += 1;
            self.longest_pattern = self.longest_pattern.max(pattern.len());
        };
        match (key, value) {
            ("pattern", Value::String(pattern)) => add(pattern),
            ("patternProperties", Value::Object(map)) => map.keys().for_each(|pattern| add(pattern)),
            ("multipleOf", Value::Number(number)) => {
                let digits = number.to_string().replace(['.', '-'], "");
                if digits.parse::<u64>().is_ok_and(|digits| digits <= MOST_REMAINDERS) {
                    return;
                }
                self.bad_multiple = Some(number.to_string());
            }
            _ => {}
        }
    }
}

/// How many patterns can come to hold together for one text: those of a schema, of all that it is composed with, and of
/// properties and items of the same name, taken to have the same name always.
struct Together<'a> {
    schema: &'a Value,
    known: HashMap<&'a str, usize>,
}

impl<'a> Together<'a> {
    fn of(&mut self, schema: &'a Value) -> usize {
        let Value::Object(fields) = schema else {
            return schema.as_array().map_or(0, |list| self.most(list.iter()));
        };
        let list = |key: &str| fields.get(key).and_then(Value::as_array).into_iter().flatten();
        let all: usize = list("allOf").fold(0, |sum, value| sum.saturating_add(self.of(value)));
        let any = self.most(list("anyOf")).saturating_add(self.most(list("oneOf")));
        let referred = fields.get("$ref").and_then(Value::as_str).map_or(0, |to| self.referred(to));
        let rest = |key: &str| !["allOf", "anyOf", "oneOf", "$ref"].contains(&key);
        let inner = self.most(fields.iter().filter(|(key, _)| rest(key)).map(|(_, value)| value));
        [all, any, referred].into_iter().fold(own(fields).max(inner), usize::saturating_add)
    }

    fn most(&mut self, schemas: impl Iterator<Item = &'a Value>) -> usize {
        schemas.map(|schema| self.of(schema)).max().unwrap_or(0)
    }

    /// A reference inside of what it refers to counts as nothing: going round adds the same patterns again.
    fn referred(&mut self, to: &'a str) -> usize {
        if let Some(known) = self.known.get(to) {
            return *known;
        }
        self.known.insert(to, 0);
        let target =
            if to == "#" { Some(self.schema) } else { self.schema.pointer(to.trim_start_matches('#')) };
        let count = target.map_or(0, |target| self.of(target));
        self.known.insert(to, count);
        count
    }
}

fn own(fields: &Map<String, Value>) -> usize {
    let names = fields.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
    let one = |key: &str| usize::from(fields.contains_key(key));
    (one("pattern") + one("format")).max(names).max(one("multipleOf"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn together(schema: &Value) -> usize {
        Together { schema, known: HashMap::new() }.of(schema)
    }

    #[test]
    fn patterns_hold_together_where_schemas_are_composed() {
        let p = json!({ "pattern": "a" });
        assert_eq!(together(&json!({ "properties": { "a": p, "b": p }, "items": [p, p] })), 1);
        assert_eq!(together(&json!({ "anyOf": [p, p, { "type": "null" }] })), 1);
        assert_eq!(together(&json!({ "pattern": "b", "anyOf": [p, p], "allOf": [p, p] })), 4);
        assert_eq!(
            together(&json!({ "allOf": [{ "properties": { "a": p } }, { "properties": { "a": p } }] })),
            2
        );
        let defs = json!({ "p": p, "q": { "$ref": "#/$defs/p", "pattern": "c" } });
        assert_eq!(
            together(&json!({ "$ref": "#/$defs/q", "pattern": "d", "$defs": defs })),
            4,
            "its defs count as inner"
        );
        assert_eq!(together(&json!({ "patternProperties": { "a": {}, "b": {}, "c": {} } })), 3);
        assert_eq!(together(&json!({ "allOf": [{ "$ref": "#" }], "pattern": "a" })), 2);
    }

    #[test]
    fn multiples_are_of_few_digits() {
        for fine in [json!(5), json!(0.01), json!(1000), json!(2.5)] {
            assert_eq!(too_large(&json!({ "multipleOf": fine })), None);
        }
        for bad in [json!(1001), json!(1e-300), json!(0.12345), json!(u64::MAX)] {
            let why = too_large(&json!({ "items": { "multipleOf": bad } })).unwrap();
            assert!(why.contains("`multipleOf` is"), "{why}");
        }
    }
}
