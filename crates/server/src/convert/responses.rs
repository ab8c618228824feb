//! OpenAI's Responses API on the path of chat: items become messages.

use std::collections::BTreeMap;

use forebay_protocol::chat::ChatCompletionRequest;
use forebay_protocol::fields;
use forebay_protocol::responses::ResponsesRequest;
use serde_json::{Value, json};

pub mod items;

use super::{check_extra, log_unknown};
use crate::error::{ApiError, shown};

/// What `include` calls log probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

/// A request as chat understands it.
#[derive(Debug)]
pub struct Asked {
    /// The chat request that asks the same.
    pub chat: ChatCompletionRequest,
    /// The namespace of each tool that is in one.
    pub namespaces: BTreeMap<String, String>,
}

/// What the model is to read, as items.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// What was said before.
    pub history: Vec<Value>,
    /// What the request adds.
    pub new: Vec<Value>,
}

/// The chat request that asks the same; `knows_effort` where the model's template does.
///
/// # Errors
/// 400 for what cannot be honoured.
pub fn to_chat(
    request: &ResponsesRequest,
    input: &Input,
    strict: bool,
    knows_effort: bool,
) -> Result<Asked, ApiError> {
    log_unknown(&check_extra(fields::RESPONSES, &request.extra, strict)?);
    check_words(request)?;
    let mut messages = Vec::new();
    if let Some(instructions) = request.instructions.as_deref().filter(|text| !text.is_empty()) {
        messages.push(json!({"role": "system", "content": instructions}));
    }
    for (param, items) in [("history", &input.history), ("input", &input.new)] {
        for (index, item) in items.iter().enumerate() {
            item_to_messages(&format!("{param}[{index}]"), item, &mut messages)?;
        }
    }
    let mut chat = json!({
        "model": request.model, "messages": messages, "stream": request.stream,
        "max_completion_tokens": request.max_output_tokens, "temperature": request.temperature,
        "top_p": request.top_p, "parallel_tool_calls": request.parallel_tool_calls,
        "metadata": request.metadata, "cache_salt": request.cache_salt,
    });
    if request.stream == Some(true) {
        chat["stream_options"] = json!({"include_usage": true});
    }
    let included = request.include.iter().flatten().any(|name| name == LOGPROBS);
    if included || request.top_logprobs.is_some_and(|top| top != 0) {
        chat["logprobs"] = json!(true);
        chat["top_logprobs"] = json!(request.top_logprobs.unwrap_or(0));
    }
    let (tools, namespaces) = of_tools(request.tools.as_deref().unwrap_or_default())?;
    if let Some(choice) = request.tool_choice.as_ref().filter(|choice| !choice.is_null()) {
        // Without tools `auto` asks for nothing.
        chat["tool_choice"] = of_choice(choice)?;
    }
    chat["tools"] = Value::Array(tools);
    if let Some(reasoning) = request.reasoning.as_ref().filter(|_| knows_effort) {
        chat["reasoning_effort"] = reasoning["effort"].clone();
    }
    if let Some(format) = request.text.as_ref().map(|text| &text["format"]).filter(|f| !f.is_null())
    {
        chat["response_format"] = of_format(format);
    }
    let chat = serde_json::from_value(chat)
        .map_err(|error| ApiError::not_json(&format!("it is no request: {error}")))?;
    Ok(Asked { chat, namespaces })
}

/// Words that have to be among a few.
fn check_words(request: &ResponsesRequest) -> Result<(), ApiError> {
    let truncation = request.truncation.as_deref().unwrap_or("disabled");
    if !["auto", "disabled"].contains(&truncation) {
        let message = format!("'truncation' is '{}', not 'auto' or 'disabled'.", shown(truncation));
        return Err(ApiError::invalid("truncation", "invalid_value", message));
    }
    let verbosity = request.text.as_ref().map(|text| &text["verbosity"]);
    if verbosity.is_some_and(|verbosity| !verbosity.is_null() && *verbosity != "medium") {
        let message =
            "'text.verbosity' is not supported: no model served here has a verbosity control.";
        return Err(ApiError::invalid("text.verbosity", "unsupported_parameter", message));
    }
    Ok(())
}

/// The id of a request's conversation.
///
/// # Errors
/// 400 where it is none.
pub fn conversation_id(request: &ResponsesRequest) -> Result<Option<String>, ApiError> {
    let Some(conversation) = &request.conversation else { return Ok(None) };
    let id = conversation.as_str().or_else(|| conversation["id"].as_str());
    let invalid = |code, message: &str| Err(ApiError::invalid("conversation", code, message));
    match id {
        _ if conversation.is_null() => Ok(None),
        Some(_) if request.previous_response_id.is_some() => invalid(
            "mutually_exclusive_parameters",
            "'conversation' and 'previous_response_id' cannot both be given.",
        ),
        Some(id) => Ok(Some(id.to_owned())),
        None => invalid("invalid_type", "'conversation' must be an id, or an object with one."),
    }
}

/// Leaves out the oldest items, some at a time: what instructs the model, and the last, stay.
/// Whether there was anything to leave out.
pub fn shorten(input: &mut Input) -> bool {
    let Input { history, new } = input;
    let count = history.len() + new.len();
    let mut left = count.div_ceil(8);
    let stays = |item: &Value| matches!(item["role"].as_str(), Some("system" | "developer"));
    let mut at = 0;
    let mut drop = |item: &Value| {
        at += 1;
        let drop = left > 0 && at < count && !stays(item);
        left -= usize::from(drop);
        !drop
    };
    history.retain(&mut drop);
    new.retain(&mut drop);
    // A call's output is nothing without the call.
    let calls: Vec<Value> = history
        .iter()
        .chain(&*new)
        .filter(|i| i.get("name").is_some())
        .map(|call| call["call_id"].clone())
        .collect();
    let whole = |item: &Value| {
        let is_output = item["type"].as_str().is_some_and(|kind| kind.ends_with("_call_output"));
        !is_output || calls.contains(&item["call_id"])
    };
    history.retain(whole);
    new.retain(whole);
    history.len() + new.len() < count && !new.is_empty()
}

fn of_format(format: &Value) -> Value {
    match format["type"].as_str() {
        Some("json_schema") => json!({"type": "json_schema", "json_schema": {
            "name": format["name"], "schema": format["schema"], "strict": format["strict"]}}),
        _ => json!({"type": format["type"]}),
    }
}

/// Chat's tools, and the namespaces of those that are in one.
fn of_tools(tools: &[Value]) -> Result<(Vec<Value>, BTreeMap<String, String>), ApiError> {
    let (mut out, mut namespaces) = (Vec::new(), BTreeMap::new());
    for (index, tool) in tools.iter().enumerate() {
        match tool["type"].as_str() {
            Some("namespace") => {
                let name = tool["name"].as_str().unwrap_or_default();
                for inner in tool["tools"].as_array().into_iter().flatten() {
                    let own = inner["name"].as_str().unwrap_or_default().to_owned();
                    namespaces.insert(own, name.to_owned());
                    out.extend(of_tool(inner));
                }
            }
            Some(_) => out.extend(of_tool(tool)),
            None => {
                let param = format!("tools[{index}].type");
                let message = format!("Missing required parameter: '{param}'.");
                return Err(ApiError::invalid(param, "missing_required_parameter", message));
            }
        }
    }
    Ok((out, namespaces))
}

/// OpenAI's own tools are none here: clients list them without needing them.
fn of_tool(tool: &Value) -> Option<Value> {
    match tool["type"].as_str()? {
        "function" => Some(json!({"type": "function", "function": {
            "name": tool["name"], "description": tool["description"],
            "parameters": tool["parameters"], "strict": tool["strict"]}})),
        "custom" => Some(json!({"type": "custom", "custom": {
            "name": tool["name"], "description": tool["description"], "format": tool["format"]}})),
        dropped => {
            tracing::debug!(tool = dropped, "a tool that this server does not have is left out");
            None
        }
    }
}

fn of_choice(choice: &Value) -> Result<Value, ApiError> {
    let named = |choice: &Value| match choice["type"].as_str() {
        Some(kind @ ("function" | "custom")) => {
            Ok(json!({"type": kind, kind: {"name": choice["name"]}}))
        }
        other => {
            let kind = shown(other.unwrap_or("nothing"));
            let message =
                format!("'tool_choice' asks for '{kind}', which this server does not have.");
            Err(ApiError::invalid("tool_choice", "unsupported_value", message))
        }
    };
    if choice.is_string() {
        return Ok(choice.clone());
    }
    if choice["type"] == "allowed_tools" {
        let tools = choice["tools"].as_array().into_iter().flatten().map(named);
        let tools: Vec<Value> = tools.collect::<Result<_, _>>()?;
        let allowed = json!({"mode": choice["mode"], "tools": tools});
        return Ok(json!({"type": "allowed_tools", "allowed_tools": allowed}));
    }
    named(choice)
}

// === Input ===

/// Checks items that are to be kept.
///
/// # Errors
/// 400 for what no model could read.
pub fn check_items(param: &str, items: &[Value]) -> Result<(), ApiError> {
    let mut messages = Vec::new();
    let mut each = items.iter().enumerate();
    each.try_for_each(|(at, item)| item_to_messages(&format!("{param}[{at}]"), item, &mut messages))
}

fn item_to_messages(param: &str, item: &Value, out: &mut Vec<Value>) -> Result<(), ApiError> {
    let kind = item["type"].as_str().unwrap_or("message");
    match kind {
        "message" => {
            let content = content(&format!("{param}.content"), &item["content"])?;
            match open_turn(out).filter(|_| item["role"] == "assistant") {
                Some(turn) if turn["content"].is_null() && turn.get("tool_calls").is_none() => {
                    turn["content"] = json!(content);
                }
                _ => out.push(json!({"role": item["role"], "content": content})),
            }
        }
        "function_call" => {
            let function = json!({"name": item["name"], "arguments": item["arguments"]});
            add_call(json!({"id": item["call_id"], "type": "function", "function": function}), out);
        }
        "custom_tool_call" => {
            let custom = json!({"name": item["name"], "input": item["input"]});
            add_call(json!({"id": item["call_id"], "type": "custom", "custom": custom}), out);
        }
        "function_call_output" | "custom_tool_call_output" => {
            let content = content(&format!("{param}.output"), &item["output"])?;
            out.push(json!({"role": "tool", "tool_call_id": item["call_id"], "content": content}));
        }
        "reasoning" => {
            let texts = |key: &str| -> Vec<String> {
                let parts = item[key].as_array().into_iter().flatten();
                parts.filter_map(|part| part["text"].as_str().map(str::to_owned)).collect()
            };
            let thoughts = [texts("content"), texts("summary")].into_iter().find(|t| !t.is_empty());
            out.push(
                json!({"role": "assistant", "reasoning_content": thoughts.map(|t| t.join("\n"))}),
            );
        }
        other => {
            let param = format!("{param}.type");
            let message = format!("'{param}' is '{}', which is not supported.", shown(other));
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
    }
    // Thoughts with nothing behind them are no message of their own.
    let count = out.len();
    if count >= 2 && out[count - 1]["role"] != "assistant" && is_bare(&out[count - 2]) {
        out.remove(count - 2);
    }
    Ok(())
}

fn is_bare(turn: &Value) -> bool {
    turn["role"] == "assistant" && turn["content"].is_null() && turn.get("tool_calls").is_none()
}

/// The assistant's turn at the end, if there is one.
fn open_turn(out: &mut [Value]) -> Option<&mut Value> {
    out.last_mut().filter(|turn| turn["role"] == "assistant")
}

fn add_call(call: Value, out: &mut Vec<Value>) {
    if open_turn(out).is_none() {
        out.push(json!({"role": "assistant"}));
    }
    let Some(turn) = out.last_mut() else { return };
    match turn["tool_calls"].as_array_mut() {
        Some(calls) => calls.push(call),
        None => turn["tool_calls"] = json!([call]),
    }
}

fn content(param: &str, content: &Value) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        _ => {
            let message = format!("'{param}' must be a string or an array of parts.");
            return Err(ApiError::invalid(param, "invalid_type", message));
        }
    };
    let each = parts.iter().enumerate().map(|(index, part)| {
        let kind = part["type"].as_str().unwrap_or_default();
        let key = if kind == "refusal" { "refusal" } else { "text" };
        let is_text = matches!(kind, "input_text" | "output_text" | "text" | "refusal");
        part[key].as_str().filter(|_| is_text).ok_or_else(|| {
            let param = format!("{param}[{index}]");
            let message = format!("'{param}' is '{}': this model reads text only.", shown(kind));
            ApiError::invalid(param, "unsupported_value", message)
        })
    });
    each.collect()
}
