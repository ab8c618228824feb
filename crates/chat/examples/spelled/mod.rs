//! What templates make of calls, taken as answers, and what is read out of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use forebay_chat::{
    CallReader, ChannelReader, ChatTemplate, Dialect, Part, RenderOptions, normalise,
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
    let turns = normalise(&messages, true, &mut Vec::new()).ok()?;
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

/// The answer that a template makes of `count` calls.
pub(crate) fn answer(template: &ChatTemplate, count: u32, as_text: bool) -> Option<String> {
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
    // Not from within a tag: `<think>` and `<tool_call>` begin alike.
    let tag = all[..from].rfind('<').filter(|&at| !all[at..from].contains('>'));
    let text = all.get(tag.unwrap_or(from)..)?;
    let text = text.rsplit("</think>").next().unwrap_or_default().trim_start().to_owned();
    (text.matches("get_weather").count() >= count as usize).then_some(text)
}

/// What is read, in these pieces, by what is learned from the template.
pub(crate) fn ours(template: &ChatTemplate, pieces: &[&str]) -> Calls {
    let ends = ["<|im_end|>", "<|eot_id|>", "<|END_OF_TURN_TOKEN|>", "</s>"];
    let schemas =
        BTreeMap::from([("get_weather".to_owned(), tools()[0]["function"]["parameters"].clone())]);
    let mut parts = Vec::new();
    if template.thinking().is_some_and(|thinking| thinking.in_channels()) {
        let mut reader = ChannelReader::new(schemas.into_keys(), false);
        pieces.iter().for_each(|piece| reader.push(piece, &mut parts));
        reader.finish(&mut parts);
    } else {
        let mut reader = CallReader::new(Dialect::learn(template, &ends), Arc::new(schemas), false);
        pieces.iter().for_each(|piece| reader.push(piece, &mut parts));
        reader.finish(&mut parts);
    }
    let mut calls: Vec<(String, String)> = Vec::new();
    for part in parts {
        match part {
            Part::Call { name, .. } => calls.push((name, String::new())),
            Part::Arguments { index, text } => calls[index as usize].1.push_str(&text),
            Part::Thought(_) | Part::Text(_) => {}
        }
    }
    calls.into_iter().map(|(name, text)| (name, parsed(&text))).collect()
}

/// Arguments, or what stands in their place.
pub(crate) fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// The answer that a template makes of two calls, or of one where it takes no more, and those calls.
pub(crate) fn spelled(template: &ChatTemplate) -> Option<(String, Calls)> {
    let ways = [(2, false), (2, true), (1, false), (1, true)];
    let mut all = ways.into_iter();
    let (count, text) =
        all.find_map(|(count, as_text)| Some((count, answer(template, count, as_text)?)))?;
    Some((text, (1..=count).map(|n| ("get_weather".to_owned(), arguments(n))).collect()))
}
