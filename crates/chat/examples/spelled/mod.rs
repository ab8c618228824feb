//! Calls as templates render them, taken as replies, and what is parsed of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use forebay_chat::{
    ChannelParser, ChatTemplate, RenderOptions, ReplyPart, ToolCallParser, turns_from_messages,
};
use serde_json::{Map, Value, json};

/// Names and arguments.
pub(crate) type Calls = Vec<(String, Value)>;

/// The arguments of a call.
pub(crate) fn arguments(number: u32) -> Value {
    json!({"city": format!("Rome \"{number}\""), "days": number, "exact": true})
}

/// The one tool.
pub(crate) fn tools() -> Vec<Value> {
    let parameters = json!({"type": "object", "properties": {
        "city": {"type": "string", "description": "Where."},
        "days": {"type": "integer", "description": "How many."},
        "exact": {"type": "boolean", "description": "Whether."}}, "required": ["city", "days", "exact"]});
    vec![json!({"type": "function", "function": {
        "name": "get_weather", "description": "Tells the weather.", "parameters": parameters}})]
}

fn render(template: &ChatTemplate, messages: &Value, opens: bool, as_text: bool) -> Option<String> {
    let messages: Vec<_> = serde_json::from_value(messages.clone()).ok()?;
    let turns = turns_from_messages(&messages, true, &mut Vec::new()).ok()?;
    let options = RenderOptions {
        add_generation_prompt: opens,
        continue_final_message: false,
        tools: &tools(),
        arguments_as_text: as_text,
        variables: &Map::new(),
        now: SystemTime::UNIX_EPOCH,
    };
    template.render(&turns, &options).ok().map(|pieces| pieces.concat())
}

/// The reply that a template renders of `count` calls.
pub(crate) fn reply(template: &ChatTemplate, count: u32, as_text: bool) -> Option<String> {
    let user = json!({"role": "user", "content": "Please do."});
    let calls: Vec<Value> = (1..=count)
        .map(|n| {
            json!({"id": format!("call{n:05}"), "type": "function", "function": {
                "name": "get_weather", "arguments": arguments(n).to_string()}})
        })
        .collect();
    let before = render(template, &json!([user]), true, as_text)?;
    let said = json!([user, {"role": "assistant", "content": "", "tool_calls": calls}]);
    let all = render(template, &said, false, as_text)?;
    let same = all.char_indices().zip(before.chars()).find(|((_, a), b)| a != b);
    let from = same.map_or(before.len().min(all.len()), |((at, _), _)| at);
    // Not within a tag: `<think>` and `<tool_call>` have their first characters in common.
    let tag = all[..from].rfind('<').filter(|&at| !all[at..from].contains('>'));
    let text = all.get(tag.unwrap_or(from)..)?;
    let text = text.rsplit("</think>").next().unwrap_or_default().trim_start().to_owned();
    (text.matches("get_weather").count() >= count as usize).then_some(text)
}

/// The calls in a reply that comes in these pieces, by the template's features.
pub(crate) fn ours(template: &ChatTemplate, pieces: &[&str]) -> Calls {
    let schemas =
        BTreeMap::from([("get_weather".to_owned(), tools()[0]["function"]["parameters"].clone())]);
    let mut parts = Vec::new();
    let features = template.features();
    if features.reasoning.as_ref().is_some_and(|format| format.in_channels()) {
        let mut parser = ChannelParser::new(schemas.into_keys(), false);
        pieces.iter().for_each(|piece| parser.push(piece, &mut parts));
        parser.finish(&mut parts);
    } else {
        let mut parser = ToolCallParser::new(&features.tool_calls, Arc::new(schemas), false);
        pieces.iter().for_each(|piece| parser.push(piece, &mut parts));
        parser.finish(&mut parts);
    }
    let mut calls: Vec<(String, String)> = Vec::new();
    for part in parts {
        match part {
            ReplyPart::ToolCall { name, .. } => calls.push((name, String::new())),
            ReplyPart::Arguments { index, text } => calls[index as usize].1.push_str(&text),
            ReplyPart::Reasoning(_) | ReplyPart::Content(_) => {}
        }
    }
    calls.into_iter().map(|(name, text)| (name, parsed(&text))).collect()
}

/// Arguments; a string if they are not JSON.
pub(crate) fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// The reply that a template renders of two calls, or of one if it supports no more, and those calls.
pub(crate) fn spelled(template: &ChatTemplate) -> Option<(String, Calls)> {
    let ways = [(2, false), (2, true), (1, false), (1, true)];
    let mut all = ways.into_iter();
    let (count, text) =
        all.find_map(|(count, as_text)| Some((count, reply(template, count, as_text)?)))?;
    Some((text, (1..=count).map(|n| ("get_weather".to_owned(), arguments(n))).collect()))
}
