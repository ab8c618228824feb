//! Responses requests to conversations: items become turns.

use std::collections::BTreeMap;

use forebay_chat::{Call, Turn, name_results};
use forebay_protocol::completion::CommonFields;
use forebay_protocol::responses::{
    InputItem, InputPart, ResponseTool, ResponseToolChoice, ResponsesRequest, TextFormat,
    ToolSelection,
};
use forebay_protocol::{TextOr, fields};
use serde_json::{Value, json};

use crate::conversation::{
    Conversation, FieldNames, PromptEnd, Reasoning, ToolChoice, ToolDefinition, ToolPath,
    ToolReference,
};
use crate::convert::grammar::Wanted;
use crate::convert::sampling::{MAX_TOP_LOGPROBS, Recipe, StopNames, integer};
use crate::convert::tools::Toolset;
use crate::convert::{Against, check_extra, log_unknown, metadata};
use crate::dialects::chat::request::{mode_choice, required};
use crate::error::{ApiError, shown};
use crate::origin;
use crate::reply::ToolKind;

/// What `include` calls log probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

/// What this dialect calls its fields.
pub static NAMES: FieldNames = FieldNames {
    conversation: "input",
    stop: StopNames { param: "stop", most: 0 },
    format: "text.format",
    schema_name: "text.format.name",
    schema: "text.format.schema",
    effort: "reasoning.effort",
    reasoning_budget: "reasoning",
    allowed_tools: "tool_choice.tools",
};

/// What the model is to read, as items.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// What was said before.
    pub history: Vec<Value>,
    /// What the request adds.
    pub new: Vec<Value>,
}

/// Namespaces of tools, by the tools' names.
pub type Namespaces = BTreeMap<String, String>;

/// Reads a request, with its input.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn read(
    request: &ResponsesRequest,
    input: &Input,
    against: &Against<'_>,
) -> Result<(Conversation, Namespaces), ApiError> {
    log_unknown(&check_extra(fields::RESPONSES, &request.extra, against.strict)?);
    check_words(request)?;
    metadata::check(request.metadata.as_ref())?;
    let turns = turns(request.instructions.as_deref(), input)?;
    let common = CommonFields {
        max_tokens: integer(
            "max_output_tokens",
            request.max_output_tokens,
            1,
            i64::from(i32::MAX),
        )?,
        stream: request.stream.unwrap_or(false),
        temperature: request.temperature,
        top_p: request.top_p,
        cache_salt: request.cache_salt.as_deref(),
        ..CommonFields::default()
    };
    let origin = origin::read(against.headers, &common)?;
    let mut recipe = Recipe::new(&common, origin, against.vocab, 1, NAMES.stop)?;
    let top = integer("top_logprobs", request.top_logprobs, 0, MAX_TOP_LOGPROBS)?.unwrap_or(0);
    let included = request.include.iter().flatten().any(|name| name == LOGPROBS);
    recipe.logprobs = (included || top > 0).then_some(u32::try_from(top).unwrap_or(0));
    let format = request.text.as_ref().and_then(|text| text.format.as_ref());
    let format = format.map(read_format).transpose()?.flatten();
    let choice = request.tool_choice.as_ref().map(tool_choice).transpose()?.unwrap_or_default();
    let (tools, namespaces) = tool_definitions(request.tools.as_deref().unwrap_or_default())?;
    let parallel = request.parallel_tool_calls.unwrap_or(true);
    let effort = request.reasoning.as_ref().and_then(|reasoning| reasoning.effort.clone());
    let conversation = Conversation {
        turns,
        prompt_end: PromptEnd::default(),
        tools: Toolset::new(tools, choice, parallel, &NAMES)?,
        format,
        reasoning: Reasoning {
            effort: effort.filter(|_| against.knows_effort),
            ..Reasoning::default()
        },
        recipe,
        stream: common.stream,
        names: &NAMES,
    };
    Ok((conversation, namespaces))
}

/// Words that have to be among a few.
fn check_words(request: &ResponsesRequest) -> Result<(), ApiError> {
    let truncation = request.truncation.as_deref().unwrap_or("disabled");
    if !["auto", "disabled"].contains(&truncation) {
        let message = format!("'truncation' is '{}', not 'auto' or 'disabled'.", shown(truncation));
        return Err(ApiError::invalid("truncation", "invalid_value", message));
    }
    let verbosity = request.text.as_ref().and_then(|text| text.verbosity.as_deref());
    if verbosity.is_some_and(|verbosity| verbosity != "medium") {
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

fn read_format(format: &TextFormat) -> Result<Option<Wanted>, ApiError> {
    match (format.kind.as_str(), &format.name) {
        ("text", _) => Ok(None),
        ("json_object", _) => Wanted::any_object(&NAMES).map(Some),
        ("json_schema", Some(name)) => {
            Wanted::named_schema(name, format.schema.as_ref(), format.strict, &NAMES).map(Some)
        }
        ("json_schema", None) => {
            let param = NAMES.schema_name;
            let message = format!("Missing required parameter: '{param}'.");
            Err(ApiError::invalid(param, "missing_required_parameter", message))
        }
        (other, _) => {
            let param = "text.format.type";
            let message = format!(
                "'{param}' is '{}'; it must be 'text', 'json_object' or 'json_schema'.",
                shown(other)
            );
            Err(ApiError::invalid(param, "invalid_value", message))
        }
    }
}

// === Tools ===

/// The tools that there are, and the namespaces of those that are in one.
fn tool_definitions(tools: &[ResponseTool]) -> Result<(Vec<ToolDefinition>, Namespaces), ApiError> {
    let (mut out, mut namespaces) = (Vec::new(), BTreeMap::new());
    for (index, tool) in tools.iter().enumerate() {
        let path = format!("tools[{index}]");
        if tool.kind.as_deref() != Some("namespace") {
            out.extend(tool_definition(path, tool)?);
            continue;
        }
        for (inner, tool) in tool.tools.iter().flatten().enumerate() {
            let Some(definition) = tool_definition(format!("{path}.tools[{inner}]"), tool)? else {
                continue;
            };
            let namespace = tools[index].name.clone().unwrap_or_default();
            namespaces.insert(definition.name.clone(), namespace);
            out.push(definition);
        }
    }
    Ok((out, namespaces))
}

/// OpenAI's own tools are none here: clients list them without needing them.
fn tool_definition(path: String, tool: &ResponseTool) -> Result<Option<ToolDefinition>, ApiError> {
    let (kind, input, name_of_input) = match tool.kind.as_deref() {
        Some("function") => (ToolKind::Function, &tool.parameters, "parameters"),
        Some("custom") => (ToolKind::Custom, &tool.format, "format"),
        Some(dropped) => {
            tracing::debug!(tool = dropped, "a tool that this server does not have is left out");
            return Ok(None);
        }
        None => return Err(missing(&path, "type")),
    };
    let name = tool.name.clone().ok_or_else(|| missing(&path, "name"))?;
    Ok(Some(ToolDefinition {
        path: ToolPath { tool: path, name: "name", input: name_of_input },
        kind,
        name,
        description: tool.description.clone(),
        input: input.clone(),
        strict: tool.strict.unwrap_or(false),
    }))
}

fn tool_choice(choice: &ResponseToolChoice) -> Result<ToolChoice, ApiError> {
    let selection = match choice {
        ResponseToolChoice::Mode(mode) => return mode_choice(mode),
        ResponseToolChoice::Tools(selection) => selection,
    };
    if selection.kind.as_deref() != Some("allowed_tools") {
        return reference("tool_choice", selection).map(ToolChoice::Tool);
    }
    let mode = selection.mode.as_deref().unwrap_or("auto");
    let required = required("tool_choice.mode", mode)?;
    let each = selection.tools.iter().flatten().enumerate();
    let tools = each.map(|(at, tool)| reference(&format!("{}[{at}]", NAMES.allowed_tools), tool));
    Ok(ToolChoice::Allowed { tools: tools.collect::<Result<_, _>>()?, required })
}

fn reference(param: &str, selection: &ToolSelection) -> Result<ToolReference, ApiError> {
    let kind = match selection.kind.as_deref() {
        Some("function") => ToolKind::Function,
        Some("custom") => ToolKind::Custom,
        other => {
            let kind = shown(other.unwrap_or("nothing"));
            let message = format!("'{param}' asks for '{kind}', which this server does not have.");
            return Err(ApiError::invalid(param, "unsupported_value", message));
        }
    };
    let name = selection.name.clone().ok_or_else(|| missing(param, "name"))?;
    Ok(ToolReference { name, kind })
}

// === Turns ===

/// Checks items that are to be kept.
///
/// # Errors
/// 400 for what no model could read.
pub fn check_items(param: &str, items: &[Value]) -> Result<(), ApiError> {
    let mut turns = Vec::new();
    let mut each = items.iter().enumerate();
    each.try_for_each(|(at, item)| add_item(&format!("{param}[{at}]"), item, &mut turns))
}

fn turns(instructions: Option<&str>, input: &Input) -> Result<Vec<Turn>, ApiError> {
    let mut turns = Vec::new();
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        turns.push(Turn::of("system", instructions));
    }
    for (param, items) in [("history", &input.history), ("input", &input.new)] {
        for (index, item) in items.iter().enumerate() {
            add_item(&format!("{param}[{index}]"), item, &mut turns)?;
        }
    }
    if turns.last().is_some_and(is_bare) {
        let message = "'input' ends with reasoning that nothing follows.";
        return Err(ApiError::invalid("input", "invalid_value", message));
    }
    for turn in &mut turns {
        turn.thoughts = turn.thoughts.take().filter(|text| !text.is_empty());
    }
    if turns.is_empty() {
        let message = "'input' must hold at least one item.";
        return Err(ApiError::invalid("input", "empty_array", message));
    }
    name_results(&mut turns);
    Ok(turns)
}

/// Adds what an item is: a turn, or a part of the assistant's last one.
fn add_item(param: &str, item: &Value, out: &mut Vec<Turn>) -> Result<(), ApiError> {
    let item = match serde_path_to_error::deserialize::<_, InputItem>(item) {
        Ok(item) => item,
        Err(error) => {
            let path = match error.path().to_string().as_str() {
                "." => param.to_owned(),
                path => format!("{param}.{path}"),
            };
            return Err(ApiError::of_field(&path, error.inner()));
        }
    };
    let kind = item.kind.as_deref().unwrap_or("message").to_owned();
    match kind.as_str() {
        "message" => add_message(param, item, out)?,
        "function_call" => {
            let name = item.name.ok_or_else(|| missing(param, "name"))?;
            let arguments = item.arguments.unwrap_or_default();
            add_call(Call::new(item.call_id.unwrap_or_default(), name, arguments), out);
        }
        "custom_tool_call" => {
            let name = item.name.ok_or_else(|| missing(param, "name"))?;
            let input = item.input.ok_or_else(|| missing(param, "input"))?;
            let arguments = json!({"input": input});
            add_call(Call::new(item.call_id.unwrap_or_default(), name, arguments), out);
        }
        "function_call_output" | "custom_tool_call_output" => {
            let output = text(&format!("{param}.output"), item.output)?;
            out.push(Turn { call_id: item.call_id, ..Turn::of("tool", output) });
        }
        "reasoning" => add_reasoning(reasoning(item), out),
        other => {
            let param = format!("{param}.type");
            let message = format!("'{param}' is '{}', which is not supported.", shown(other));
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
    }
    // Reasoning that nothing follows is no turn of its own.
    let count = out.len();
    if count >= 2 && out[count - 1].role != "assistant" && is_bare(&out[count - 2]) {
        out.remove(count - 2);
    }
    Ok(())
}

fn add_message(param: &str, item: InputItem, out: &mut Vec<Turn>) -> Result<(), ApiError> {
    let content = text(&format!("{param}.content"), item.content)?;
    let role = match item.role.as_deref() {
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        other => {
            let param = format!("{param}.role");
            let other = shown(other.unwrap_or("nothing"));
            let message = format!(
                "Invalid value: '{other}'. '{param}' must be one of 'system', 'developer', 'user' and 'assistant'."
            );
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
    };
    match open_turn(out).filter(|_| role == "assistant") {
        Some(turn) if is_bare(turn) => turn.content = content,
        _ => out.push(Turn::of(role, content)),
    }
    Ok(())
}

fn missing(param: &str, field: &str) -> ApiError {
    let param = format!("{param}.{field}");
    let message = format!("Missing required parameter: '{param}'.");
    ApiError::invalid(param, "missing_required_parameter", message)
}

/// Adds reasoning to the assistant's turn that has nothing else yet, or begins one with it.
fn add_reasoning(text: String, out: &mut Vec<Turn>) {
    match open_turn(out).filter(|turn| is_bare(turn)) {
        Some(Turn { thoughts: Some(before), .. }) if !before.is_empty() => {
            before.push('\n');
            before.push_str(&text);
        }
        Some(turn) => turn.thoughts = Some(text),
        None => out.push(Turn { thoughts: Some(text), ..Turn::of("assistant", "") }),
    }
}

/// The text of reasoning, or of its summary; empty if there is none.
fn reasoning(item: InputItem) -> String {
    let texts = |parts: Vec<InputPart>| -> Vec<String> {
        parts.into_iter().filter_map(|part| part.text).collect()
    };
    let content = match item.content {
        Some(TextOr::Text(text)) => vec![text],
        Some(TextOr::Parts(parts)) => texts(parts),
        None => Vec::new(),
    };
    let summary = texts(item.summary.unwrap_or_default());
    let found = [content, summary].into_iter().find(|texts| !texts.is_empty());
    found.unwrap_or_default().join("\n")
}

/// Whether an assistant's turn is reasoning alone.
fn is_bare(turn: &Turn) -> bool {
    turn.thoughts.is_some() && turn.content.is_empty() && turn.calls.is_empty()
}

/// The assistant's turn at the end, if there is one.
fn open_turn(out: &mut [Turn]) -> Option<&mut Turn> {
    out.last_mut().filter(|turn| turn.role == "assistant")
}

fn add_call(call: Call, out: &mut Vec<Turn>) {
    match open_turn(out) {
        Some(turn) => turn.calls.push(call),
        None => out.push(Turn { calls: vec![call], ..Turn::of("assistant", "") }),
    }
}

fn text(param: &str, content: Option<TextOr<InputPart>>) -> Result<String, ApiError> {
    let parts = match content {
        Some(TextOr::Text(text)) => return Ok(text),
        Some(TextOr::Parts(parts)) => parts,
        None => {
            let message = format!("'{param}' must be a string or an array of parts.");
            return Err(ApiError::invalid(param, "invalid_type", message));
        }
    };
    let each = parts.into_iter().enumerate().map(|(index, part)| {
        let InputPart { kind, text, refusal } = part;
        let kind = kind.unwrap_or_default();
        let text = match kind.as_str() {
            "refusal" => refusal,
            "input_text" | "output_text" | "text" => text,
            _ => None,
        };
        text.ok_or_else(|| {
            let param = format!("{param}[{index}]");
            let message = format!("'{param}' is '{}': this model reads text only.", shown(&kind));
            ApiError::invalid(param, "unsupported_value", message)
        })
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_and_calls_join_the_assistants_turn() {
        let reasoning = |text| json!({"type": "reasoning", "summary": [{"text": text}]});
        let items = [
            json!({"role": "user", "content": "hi"}),
            reasoning("left out: nothing of the assistant follows"),
            json!({"role": "user", "content": [{"type": "input_text", "text": "again"}]}),
            reasoning("a"),
            reasoning("b"),
            json!({"role": "assistant", "content": "hello"}),
            json!({"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\": 1}"}),
            json!({"type": "function_call_output", "call_id": "1", "output": "done"}),
        ];
        let input = Input { history: items[..4].to_vec(), new: items[4..].to_vec() };
        let turns = turns(Some("Be brief."), &input).unwrap();
        let roles: Vec<&str> = turns.iter().map(|turn| turn.role).collect();
        assert_eq!(roles, ["system", "user", "user", "assistant", "tool"]);
        assert_eq!(turns[3].thoughts.as_deref(), Some("a\nb"));
        assert_eq!((turns[3].content.as_str(), turns[3].calls.len()), ("hello", 1));
        assert_eq!(turns[4].name.as_deref(), Some("f"), "by the call's id");
    }
}
