//! Turns of a conversation, and their conversion from OpenAI messages.

use std::collections::HashMap;

use forebay_protocol::chat::{ChatMessage, Content, ContentPart};
use forebay_protocol::tools::ToolCall;
use serde_json::{Map, Value, json};

/// A turn of a conversation, as templates see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'static str,
    /// The text, its parts joined.
    pub content: String,
    /// The participant's name, or the tool's whose result it is.
    pub name: Option<String>,
    /// The calls of an assistant.
    pub calls: Vec<Call>,
    /// The reasoning of an assistant before its content.
    pub reasoning: Option<String>,
    /// The id of the call whose result it is.
    pub call_id: Option<String>,
}

/// A past call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Unique among the calls of a conversation; the call's result refers to it.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// An object; a string if the arguments were not JSON.
    pub arguments: Value,
}

impl Call {
    /// A call with these arguments: an object, or JSON text; null and an empty text are no arguments.
    pub fn new(id: String, name: String, arguments: Value) -> Self {
        let arguments = match arguments {
            Value::Null => Value::Object(Map::new()),
            Value::String(text) if text.trim().is_empty() => Value::Object(Map::new()),
            Value::String(text) => match serde_json::from_str(&text) {
                Ok(object @ Value::Object(_)) => object,
                _ => Value::String(text),
            },
            other => other,
        };
        Self { id, name, arguments }
    }

    /// A call of a custom tool: its text is the argument `input`.
    pub fn custom(id: String, name: String, input: &str) -> Self {
        Self { id, name, arguments: json!({"input": input}) }
    }
}

impl Turn {
    /// A turn with content only.
    pub fn of(role: &'static str, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), ..Self::default() }
    }
}

/// A message that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidMessage {
    /// The path of the field: `messages[2].content[0].type`.
    pub param: String,
    /// OpenAI's error code.
    pub code: &'static str,
    /// The error message.
    pub message: String,
    /// Whether it is an error with `strict` only.
    pub only_strict: bool,
}

/// Message fields that are ignored if they are empty.
const IGNORED_WHEN_EMPTY: [&str; 4] = ["function_call", "audio", "annotations", "refusal"];

/// Converts OpenAI messages to turns. With `strict`, unknown message fields are errors; otherwise their paths are appended
/// to `unknown`.
///
/// # Errors
/// [`InvalidMessage`] for the first message that is not valid or not supported.
pub fn turns_from_messages(
    messages: &[ChatMessage],
    strict: bool,
    unknown: &mut Vec<String>,
) -> Result<Vec<Turn>, InvalidMessage> {
    if messages.is_empty() {
        let message = "'messages' must hold at least one message.".to_owned();
        return Err(bad("messages", "empty_array", message));
    }
    let mut turns = Vec::with_capacity(messages.len());
    for (i, message) in messages.iter().enumerate() {
        turns.push(turn(&format!("messages[{i}]"), message, strict, unknown)?);
    }
    name_tool_results(&mut turns);
    Ok(turns)
}

/// Sets the names of tool results by the ids of the calls before them. Of several calls with one id the last counts.
pub fn name_tool_results(turns: &mut [Turn]) {
    let mut called: HashMap<String, String> = HashMap::new();
    for turn in turns {
        if turn.role == "tool" && turn.name.is_none() {
            turn.name = turn.call_id.as_ref().and_then(|id| called.get(id)).cloned();
        }
        called.extend(turn.calls.iter().map(|call| (call.id.clone(), call.name.clone())));
    }
}

/// The role of templates for a role of the API; `None` for an unknown one.
pub fn template_role(name: &str) -> Option<&'static str> {
    match name {
        "system" | "developer" => Some("system"),
        "user" => Some("user"),
        "assistant" => Some("assistant"),
        "tool" => Some("tool"),
        _ => None,
    }
}

fn bad(param: impl Into<String>, code: &'static str, message: String) -> InvalidMessage {
    InvalidMessage { param: param.into(), code, message, only_strict: false }
}

fn turn(
    path: &str,
    message: &ChatMessage,
    strict: bool,
    unknown: &mut Vec<String>,
) -> Result<Turn, InvalidMessage> {
    let Some(role) = template_role(&message.role) else {
        let shown: String = message.role.chars().take(32).collect();
        let message = format!(
            "Invalid value: '{shown}'. '{path}.role' must be one of 'system', 'developer', \
             'user', 'assistant' and 'tool'."
        );
        return Err(bad(format!("{path}.role"), "invalid_value", message));
    };
    for (key, value) in &message.extra {
        let is_empty = value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_str().is_some_and(str::is_empty);
        if is_empty {
            continue;
        }
        let param = format!("{path}.{key}");
        if IGNORED_WHEN_EMPTY.contains(&key.as_str()) && key != "annotations" {
            let message = format!("'{param}' is not supported.");
            return Err(bad(param, "unsupported_parameter", message));
        }
        if strict {
            let message = format!("Unknown parameter: '{param}'.");
            return Err(InvalidMessage {
                only_strict: true,
                ..bad(param, "unknown_parameter", message)
            });
        }
        unknown.push(param);
    }
    let calls = message.tool_calls.as_deref().unwrap_or_default();
    if !calls.is_empty() && role != "assistant" {
        let param = format!("{path}.tool_calls");
        let message = format!("'{param}' is for the role 'assistant' alone.");
        return Err(bad(param, "invalid_value", message));
    }
    let calls = calls.iter().enumerate().map(|(i, c)| call(&format!("{path}.tool_calls[{i}]"), c));
    let calls: Vec<Call> = calls.collect::<Result<_, _>>()?;
    let content = match (&message.content, &message.refusal) {
        (Some(content), _) => text(path, role, content)?,
        (None, Some(refusal)) if role == "assistant" => refusal.clone(),
        (None, None) if !calls.is_empty() => String::new(),
        (None, _) => {
            let message = format!("Missing required parameter: '{path}.content'.");
            return Err(bad(format!("{path}.content"), "missing_required_parameter", message));
        }
    };
    let reasoning = message.reasoning_content.as_ref().or(message.reasoning.as_ref());
    Ok(Turn {
        role,
        content,
        calls,
        name: message.name.clone(),
        reasoning: reasoning.filter(|text| !text.is_empty()).cloned(),
        call_id: message.tool_call_id.clone(),
    })
}

fn call(path: &str, call: &ToolCall) -> Result<Call, InvalidMessage> {
    let id = call.id.clone().unwrap_or_default();
    match (&call.function, &call.custom) {
        (Some(function), None) => {
            Ok(Call::new(id, function.name.clone(), function.arguments.clone()))
        }
        (None, Some(custom)) => Ok(Call::custom(id, custom.name.clone(), &custom.input)),
        _ => {
            let message = format!("'{path}' must have either 'function' or 'custom'.");
            Err(bad(path, "invalid_value", message))
        }
    }
}

fn text(path: &str, role: &str, content: &Content) -> Result<String, InvalidMessage> {
    let parts = match content {
        Content::Text(text) => return Ok(text.clone()),
        Content::Parts(parts) => parts,
    };
    if parts.is_empty() {
        let param = format!("{path}.content");
        return Err(bad(
            param.clone(),
            "empty_array",
            format!("'{param}' must hold at least one part."),
        ));
    }
    let each = parts.iter().enumerate();
    each.map(|(i, part)| part_text(&format!("{path}.content[{i}]"), role, part)).collect()
}

fn part_text<'p>(path: &str, role: &str, part: &'p ContentPart) -> Result<&'p str, InvalidMessage> {
    let (field, text) = match part.kind.as_str() {
        "text" => ("text", &part.text),
        "refusal" if role == "assistant" => ("refusal", &part.refusal),
        "image_url" | "input_audio" | "file" => {
            let message = format!("'{path}' is '{}': this model reads text only.", part.kind);
            return Err(bad(path, "unsupported_value", message));
        }
        other => {
            let shown: String = other.chars().take(32).collect();
            let message = format!("Invalid value: '{shown}'. '{path}.type' must be 'text'.");
            return Err(bad(format!("{path}.type"), "invalid_value", message));
        }
    };
    text.as_deref().ok_or_else(|| {
        let message = format!("Missing required parameter: '{path}.{field}'.");
        bad(format!("{path}.{field}"), "missing_required_parameter", message)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn turns(messages: serde_json::Value) -> Result<Vec<Turn>, (String, &'static str)> {
        let messages: Vec<ChatMessage> = serde_json::from_value(messages).unwrap();
        turns_from_messages(&messages, false, &mut Vec::new()).map_err(|e| (e.param, e.code))
    }

    #[test]
    fn developer_is_system_and_parts_are_joined() {
        let got = turns(json!([
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "refusal": "no", "tool_calls": []},
            {"role": "user", "name": "Ann", "content": ""},
        ]));
        let turn = |role, content: &str, name: Option<&str>| Turn {
            name: name.map(Into::into),
            ..Turn::of(role, content)
        };
        let want = vec![
            turn("system", "ab", None),
            turn("assistant", "no", None),
            turn("user", "", Some("Ann")),
        ];
        assert_eq!(got, Ok(want));
    }

    #[test]
    fn invalid_fields_are_named() {
        let check = |message: serde_json::Value, param: &str, code| {
            assert_eq!(turns(json!([message])), Err((param.to_owned(), code)), "{message}");
        };
        check(json!({"role": "root", "content": "x"}), "messages[0].role", "invalid_value");
        check(json!({"role": "function", "content": "x"}), "messages[0].role", "invalid_value");
        check(json!({"role": "user"}), "messages[0].content", "missing_required_parameter");
        check(json!({"role": "user", "content": []}), "messages[0].content", "empty_array");
        let image = json!({"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}});
        check(
            json!({"role": "user", "content": [image]}),
            "messages[0].content[0]",
            "unsupported_value",
        );
        let odd = json!({"type": "odd"});
        check(
            json!({"role": "user", "content": [odd]}),
            "messages[0].content[0].type",
            "invalid_value",
        );
        let empty = json!({"type": "text"});
        check(
            json!({"role": "user", "content": [empty]}),
            "messages[0].content[0].text",
            "missing_required_parameter",
        );
        let calls = json!({"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]});
        check(calls, "messages[0].tool_calls[0]", "invalid_value");
        let calls = json!([{"id": "1", "function": {"name": "f"}}]);
        let calls = json!({"role": "user", "content": "x", "tool_calls": calls});
        check(calls, "messages[0].tool_calls", "invalid_value");
        assert_eq!(turns(json!([])), Err(("messages".to_owned(), "empty_array")));
    }

    #[test]
    fn results_get_the_names_of_their_calls() {
        let got = turns(json!([
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}},
                {"id": "b", "type": "custom", "custom": {"name": "g", "input": "text"}},
                {"id": "c", "type": "function", "function": {"name": "h", "arguments": ""}},
            ]},
            {"role": "tool", "tool_call_id": "b", "content": "done"},
        ]));
        let got = got.unwrap();
        let calls: Vec<_> =
            got[0].calls.iter().map(|c| (c.name.as_str(), c.arguments.clone())).collect();
        let expected = [("f", json!({"x": 1})), ("g", json!({"input": "text"})), ("h", json!({}))];
        assert_eq!(calls, expected);
        assert_eq!((got[1].role, got[1].name.as_deref()), ("tool", Some("g")));
    }

    /// Each result finds its call without a search through all of them.
    #[test]
    fn many_calls_and_results() {
        let call = |n: u32| json!({"id": format!("call_{n}"), "function": {"name": "f"}});
        let calls: Vec<Value> = (0..60_000).map(call).collect();
        let answer = json!({"role": "tool", "tool_call_id": "other", "content": "x"});
        let mut messages = vec![json!({"role": "assistant", "content": "", "tool_calls": calls})];
        messages.extend(vec![answer; 60_000]);
        let begin = std::time::Instant::now();
        let got = turns(Value::Array(messages)).unwrap();
        assert!(got.iter().skip(1).all(|turn| turn.name.is_none()));
        assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
    }

    #[test]
    fn unknown_message_fields_are_reported_or_refused() {
        let messages: Vec<ChatMessage> =
            serde_json::from_value(json!([{"role": "user", "content": "x", "mood": "good"}]))
                .unwrap();
        let mut unknown = Vec::new();
        assert!(turns_from_messages(&messages, false, &mut unknown).is_ok());
        assert_eq!(unknown, ["messages[0].mood"]);
        assert_eq!(
            turns_from_messages(&messages, true, &mut unknown).unwrap_err().code,
            "unknown_parameter"
        );
    }
}
