//! What clients ask for, path by path.

pub(crate) mod body;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod health;
pub(crate) mod models;
pub(crate) mod params;
pub(crate) mod sessions;
mod stream;
pub(crate) mod tokens;

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::{params, tokens};

    /// Names of fields, as serde tells them to who gives another.
    fn names<T: DeserializeOwned>() -> Vec<String> {
        let why = serde_json::from_value::<T>(json!({ "?": 1 })).err().map(|e| e.to_string());
        let why = why.unwrap_or_default();
        let (_, names) = why.split_once("expected ").unwrap_or_default();
        let mut names: Vec<String> = names.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        names.sort();
        names
    }

    #[test]
    fn fields_of_what_is_inside_are_described_and_no_others() {
        let document = crate::document();
        let described = |pointer: &str| {
            let schema = document["components"]["schemas"].pointer(pointer).map(|s| &s["properties"]);
            let fields = schema.and_then(Value::as_object).into_iter().flat_map(|fields| fields.keys());
            let mut fields: Vec<String> = fields.cloned().collect();
            fields.sort();
            fields
        };
        assert_eq!(names::<params::ChatMessage>(), described("/ChatMessage"));
        assert_eq!(names::<params::Memory>(), described("/MemoryRequest"));
        assert_eq!(names::<params::StreamOptions>(), described("/ChatRequest/properties/stream_options"));
        assert_eq!(names::<tokens::Tokenize>(), described("/TokenizeRequest"));
        assert_eq!(names::<tokens::Detokenize>(), described("/DetokenizeRequest"));
        assert!(names::<params::Memory>().contains(&"plan".into()));
    }
}
