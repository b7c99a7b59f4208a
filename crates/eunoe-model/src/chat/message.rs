//! Turns of a conversation, and how templates see them.

use eunoe_core::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`; a template may know more.
    pub role: String,
    /// What was said; a turn of tool calls may say nothing.
    #[serde(default)]
    pub content: Option<String>,
    /// What the assistant asked for.
    #[serde(default, deserialize_with = "null_is_none_of_them", skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Who speaks, where a role is not enough; the tool's name in a tool's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A function that the assistant wants to be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// What a tool's message refers to.
    #[serde(default)]
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type", default = "function_kind")]
    pub kind: String,
    /// What to call, with what.
    pub function: Function,
}

/// The function of a [`ToolCall`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// The name of one of the tools.
    pub name: String,
    /// JSON as text; what a model wrote need not be JSON.
    pub arguments: String,
}

impl Message {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: Some(content.into()),
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
        }
    }

    /// As a template sees it: arguments are what their JSON says; absent fields are undefined. Where nothing was said the
    /// content is null for templates that know tools, and empty for those that would put it into a text.
    pub(super) fn to_json(&self, knows_tools: bool) -> Value {
        let mut out = Map::new();
        out.insert("role".into(), self.role.as_str().into());
        let content = self.content.as_deref().map(Value::from);
        out.insert("content".into(), content.unwrap_or(if knows_tools { Value::Null } else { "".into() }));
        if !self.tool_calls.is_empty() {
            out.insert("tool_calls".into(), self.tool_calls.iter().map(ToolCall::to_json).collect());
        }
        for (key, value) in [("tool_call_id", &self.tool_call_id), ("name", &self.name)] {
            if let Some(value) = value {
                out.insert(key.into(), value.as_str().into());
            }
        }
        Value::Object(out)
    }
}

impl ToolCall {
    /// A call of the function `name`.
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        let function = Function { name: name.into(), arguments: arguments.into() };
        Self { id: id.into(), kind: function_kind(), function }
    }

    fn to_json(&self) -> Value {
        let Function { name, arguments } = &self.function;
        let arguments = serde_json::from_str(arguments).unwrap_or_else(|_| Value::from(arguments.as_str()));
        json!({ "id": self.id, "type": self.kind, "function": { "name": name, "arguments": arguments } })
    }
}

fn function_kind() -> String {
    "function".into()
}

fn null_is_none_of_them<'de, D: Deserializer<'de>>(value: D) -> std::result::Result<Vec<ToolCall>, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

/// A character that no text holds. Unicode keeps 32 for such uses and never gives them a meaning.
pub(super) fn free_mark(texts: &[&str]) -> Result<char> {
    let is_free = |mark: &char| !texts.iter().any(|text| text.contains(*mark));
    ('\u{fdd0}'..='\u{fdef}').find(is_free).ok_or_else(|| {
        Error::Invalid("the conversation holds every character from U+FDD0 to U+FDEF; leave one out".into())
    })
}

/// Every text of a message or a tool, through `change`: keys too, since a tool's parameters are keys. A role of letters
/// stays, because templates make names of control tokens of it.
pub(super) fn change_texts(value: &mut Value, change: &dyn Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(list) => list.iter_mut().for_each(|value| change_texts(value, change)),
        Value::Object(map) => {
            let old = std::mem::take(map);
            map.extend(old.into_iter().map(|(key, mut value)| {
                if key != "role" || !value.as_str().is_some_and(is_word) {
                    change_texts(&mut value, change);
                }
                (change(&key), value)
            }));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_clients_send_them() {
        let sent = json!([
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{\"b\": 1, \"a\": [2]}" } },
            ] },
            { "role": "tool", "tool_call_id": "c1", "name": "f", "content": "3" },
            { "role": "assistant", "tool_calls": null },
        ]);
        let messages: Vec<Message> = serde_json::from_value(sent).unwrap();
        assert_eq!(messages[0].tool_calls, [ToolCall::new("c1", "f", "{\"b\": 1, \"a\": [2]}")]);
        assert_eq!(messages[1].tool_call_id.as_deref(), Some("c1"));
        assert_eq!((&messages[2].content, messages[2].tool_calls.len()), (&None, 0));
        let back: Vec<Message> = serde_json::from_str(&serde_json::to_string(&messages).unwrap()).unwrap();
        assert_eq!(back, messages);
    }

    #[test]
    fn arguments_are_objects_where_they_are_json() {
        let call = |arguments: &str| {
            let calls = vec![ToolCall::new("", "f", arguments)];
            let message = Message { content: None, tool_calls: calls, ..Message::new("assistant", "") };
            message.to_json(true)["tool_calls"][0]["function"]["arguments"].clone()
        };
        assert_eq!(call(r#"{"b": 1, "a": [2]}"#).to_string(), r#"{"b":1,"a":[2]}"#, "in their order");
        assert_eq!(call("{broken"), json!("{broken"));
    }

    #[test]
    fn every_text_is_changed_but_roles_that_are_words() {
        let mut value = json!([{ "role": "user", "x": ["a", { "k": 1 }] }, { "role": "a|" }]);
        change_texts(&mut value, &|text| format!("{text}."));
        assert_eq!(value, json!([{ "role.": "user", "x.": ["a.", { "k.": 1 }] }, { "role.": "a|." }]));
    }

    #[test]
    fn a_mark_is_a_character_that_nobody_wrote() {
        assert_eq!(free_mark(&["a\u{fdd0}", "\u{fdd2}"]).unwrap(), '\u{fdd1}');
        let all: String = ('\u{fdd0}'..='\u{fdef}').collect();
        assert!(free_mark(&[&all]).is_err());
    }
}
