//! Anthropic's Messages API on the path of chat: requests become chat requests, deltas blocks.

use forebay_protocol::chat::ChatCompletionRequest;
use forebay_protocol::fields;
use forebay_protocol::messages::{InputMessage, MessagesRequest};
use serde_json::{Value, json};

use super::{check_extra, log_unknown};
use crate::error::{ApiError, shown};

/// What `output_config.effort` may be.
const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];

/// The chat request that asks the same; `knows_effort` where the model's template does.
///
/// # Errors
/// 400 for what cannot be honoured.
pub fn to_chat(
    request: MessagesRequest,
    strict: bool,
    knows_effort: bool,
) -> Result<ChatCompletionRequest, ApiError> {
    log_unknown(&check_extra(fields::MESSAGES, &request.extra, strict)?);
    let mut messages = Vec::new();
    if let Some(system) = &request.system {
        messages.push(json!({"role": "system", "content": text("system", system)?}));
    }
    for (index, message) in request.messages.iter().enumerate() {
        messages.extend(turns(&format!("messages[{index}]"), message)?);
    }
    let mut chat = json!({
        "model": request.model, "messages": messages, "max_tokens": request.max_tokens,
        "stop": request.stop_sequences, "stream": request.stream,
        "temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k,
    });
    if request.stream == Some(true) {
        chat["stream_options"] = json!({"include_usage": true});
    }
    let tools = request.tools.unwrap_or_default();
    for (index, tool) in tools.iter().enumerate() {
        if let Some(kind) = tool.kind.as_deref().filter(|kind| *kind != "custom") {
            let param = format!("tools[{index}].type");
            let kind = shown(kind);
            let message = format!("'{param}' is '{kind}': this server has no tools of its own.");
            return Err(ApiError::invalid(param, "unsupported_value", message));
        }
    }
    chat["tools"] = tools
        .into_iter()
        .map(|tool| {
            json!({"type": "function", "function": {
                "name": tool.name, "description": tool.description,
                "parameters": tool.input_schema, "strict": tool.strict}})
        })
        .collect();
    choose(&mut chat, request.tool_choice.as_ref())?;
    think(&mut chat, request.thinking.as_ref(), request.output_config.as_ref(), knows_effort)?;
    serde_json::from_value(chat)
        .map_err(|error| ApiError::not_json(&format!("it is no request: {error}")))
}

fn choose(chat: &mut Value, choice: Option<&Value>) -> Result<(), ApiError> {
    let Some(choice) = choice else { return Ok(()) };
    chat["tool_choice"] = match choice["type"].as_str() {
        Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => json!({"type": "function", "function": {"name": choice["name"]}}),
        _ => {
            let message = "'tool_choice.type' must be 'auto', 'any', 'tool' or 'none'.";
            return Err(ApiError::invalid("tool_choice.type", "invalid_value", message));
        }
    };
    if choice["disable_parallel_tool_use"] == json!(true) {
        chat["parallel_tool_calls"] = json!(false);
    }
    Ok(())
}

fn think(
    chat: &mut Value,
    thinking: Option<&Value>,
    config: Option<&Value>,
    knows_effort: bool,
) -> Result<(), ApiError> {
    if let Some(thinking) = thinking {
        if !thinking["budget_tokens"].is_null() {
            chat["thinking_token_budget"] = thinking["budget_tokens"].clone();
        }
        chat["chat_template_kwargs"] = match thinking["type"].as_str() {
            Some("disabled") => json!({"enable_thinking": false}),
            Some("enabled" | "adaptive" | "between_tools") => json!({"enable_thinking": true}),
            _ => {
                let message = "'thinking.type' must be 'enabled', 'adaptive' or 'disabled'.";
                return Err(ApiError::invalid("thinking.type", "invalid_value", message));
            }
        };
    }
    let Some(config) = config else { return Ok(()) };
    let effort = &config["effort"];
    if !effort.is_null() {
        if !effort.as_str().is_some_and(|effort| EFFORTS.contains(&effort)) {
            let param = "output_config.effort";
            let message = format!("'{param}' must be one of {}.", EFFORTS.join(", "));
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
        // Clients of this dialect always say it: to a model that has no such control it is a hint.
        if knows_effort {
            chat["reasoning_effort"] = effort.clone();
        }
    }
    if !config["format"].is_null() {
        let schema = json!({"name": "answer", "schema": config["format"]["schema"]});
        chat["response_format"] = json!({"type": "json_schema", "json_schema": schema});
    }
    Ok(())
}

/// A text, or text blocks joined.
fn text(param: &str, content: &Value) -> Result<String, ApiError> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => {
            let each = blocks.iter().enumerate().map(|(index, block)| {
                let text = block["text"].as_str().filter(|_| block["type"] == "text");
                text.map(str::to_owned).ok_or_else(|| no_text(&format!("{param}[{index}]"), block))
            });
            each.collect()
        }
        _ => {
            let message = format!("'{param}' must be a string or an array of blocks.");
            Err(ApiError::invalid(param, "invalid_type", message))
        }
    }
}

fn no_text(param: &str, block: &Value) -> ApiError {
    let kind = block["type"].as_str().unwrap_or("without a type");
    let message = format!("'{param}' is '{}': this model reads text only.", shown(kind));
    ApiError::invalid(param, "unsupported_value", message)
}

/// The chat messages that one of Anthropic's is: answers of tools are messages of their own.
fn turns(param: &str, message: &InputMessage) -> Result<Vec<Value>, ApiError> {
    let role = message.role.as_str();
    let param = format!("{param}.content");
    let Value::Array(blocks) = &message.content else {
        return Ok(vec![json!({"role": role, "content": text(&param, &message.content)?})]);
    };
    let (mut out, mut said, mut thoughts) = (Vec::new(), String::new(), String::new());
    let mut calls = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let at = format!("{param}[{index}]");
        match (block["type"].as_str(), role) {
            (Some("text"), _) => said.push_str(block["text"].as_str().unwrap_or_default()),
            (Some("thinking"), "assistant") => {
                thoughts.push_str(block["thinking"].as_str().unwrap_or_default());
            }
            (Some("redacted_thinking"), "assistant") => {}
            (Some("tool_use"), "assistant") => calls.push(json!({
                "id": block["id"], "type": "function",
                "function": {"name": block["name"], "arguments": block["input"]}})),
            (Some("tool_result"), "user") => {
                let answer = match &block["content"] {
                    Value::Null => String::new(),
                    content => text(&format!("{at}.content"), content)?,
                };
                let failed = if block["is_error"] == json!(true) { "Error: " } else { "" };
                out.push(json!({"role": "tool", "tool_call_id": block["tool_use_id"],
                                "content": format!("{failed}{answer}")}));
            }
            _ => return Err(no_text(&at, block)),
        }
    }
    if !said.is_empty() || !calls.is_empty() || out.is_empty() {
        let mut turn = json!({"role": role, "content": said});
        if !calls.is_empty() {
            turn["tool_calls"] = Value::Array(calls);
        }
        if !thoughts.is_empty() {
            turn["reasoning_content"] = json!(thoughts);
        }
        out.push(turn);
    }
    Ok(out)
}
