//! Responses requests to conversations: items become turns.

use std::collections::{BTreeMap, HashSet};

use forebay_chat::{Call, Turn, name_tool_results};
use forebay_protocol::generation::CommonFields;
use forebay_protocol::responses::{
    ConversationId, InputItem, InputPart, ReasoningConfig, ResponseTool, ResponseToolChoice,
    ResponsesRequest, TextConfig, TextFormat, ToolSelection,
};
use forebay_protocol::{TextOr, TextOrObject, fields};
use serde::Deserialize;
use serde_json::Value;

use crate::conversation::Conversation;
use crate::conversation::fields::{FieldNames, StopField};
use crate::conversation::options::{PromptEnd, ReasoningOptions};
use crate::conversation::tools::{
    ToolChoice, ToolDefinition, ToolInput, ToolKind, ToolPath, ToolReference,
};
use crate::convert::grammar::OutputGrammar;
use crate::convert::sampling::{GenerationParams, MAX_TOP_LOGPROBS, integer};
use crate::convert::tools::Toolset;
use crate::convert::{RequestRules, check_extra, log_unknown, metadata};
use crate::dialects::chat::request::{mode_choice, required};
use crate::error::{ApiError, shown};

/// What `include` calls log probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

/// What this dialect calls its fields.
pub static NAMES: FieldNames = FieldNames {
    conversation: "input",
    stop: StopField { name: "stop", max_strings: 0 },
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
    /// The items before it.
    pub history: Vec<InputItem>,
    /// What the request adds.
    pub new: Vec<InputItem>,
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
    rules: &RequestRules<'_>,
) -> Result<(Conversation, Namespaces), ApiError> {
    log_unknown(&check_extra(fields::RESPONSES, &request.extra, rules.strict)?);
    let text: TextConfig = typed_or_default("text", request.text.as_ref())?;
    let reasoning: ReasoningConfig = typed_or_default("reasoning", request.reasoning.as_ref())?;
    check_words(request, &text)?;
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
    let admission = rules.caller.admission(&common)?;
    let mut params = GenerationParams::new(&common, admission, rules.vocab, 1, NAMES.stop)?;
    let top = integer("top_logprobs", request.top_logprobs, 0, MAX_TOP_LOGPROBS)?.unwrap_or(0);
    let included = request.include.iter().flatten().any(|name| name == LOGPROBS);
    params.logprobs = (included || top > 0).then_some(u32::try_from(top).unwrap_or(0));
    let format = text.format.as_ref().map(read_format).transpose()?.flatten();
    let choice = request.tool_choice.as_ref().map(|choice| typed("tool_choice", choice));
    let choice = choice.transpose()?.map(tool_choice).transpose()?.unwrap_or_default();
    let (tools, namespaces) = tool_definitions(request.tools.as_deref().unwrap_or_default())?;
    let parallel = request.parallel_tool_calls.unwrap_or(true);
    let conversation = Conversation {
        turns,
        prompt_end: PromptEnd::default(),
        tools: Toolset::new(tools, choice, parallel, &NAMES)?,
        format,
        reasoning: ReasoningOptions {
            effort: reasoning.effort.filter(|_| rules.has_effort_control),
            ..ReasoningOptions::default()
        },
        params,
        stream: common.stream,
        names: &NAMES,
    };
    Ok((conversation, namespaces))
}

/// A value of a request as what it is read as.
///
/// # Errors
/// 400 at the field that has another type, below `param`.
fn typed<'v, T: Deserialize<'v>>(param: &str, value: &'v Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => param.to_owned(),
            path => format!("{param}.{path}"),
        };
        ApiError::of_field(&path, error.inner())
    })
}

fn typed_or_default<'v, T: Deserialize<'v> + Default>(
    param: &str,
    value: Option<&'v Value>,
) -> Result<T, ApiError> {
    value.map_or_else(|| Ok(T::default()), |value| typed(param, value))
}

/// Words that have to be among a few.
fn check_words(request: &ResponsesRequest, text: &TextConfig) -> Result<(), ApiError> {
    let truncation = request.truncation.as_deref().unwrap_or("disabled");
    if !["auto", "disabled"].contains(&truncation) {
        let message = format!("'truncation' is '{}', not 'auto' or 'disabled'.", shown(truncation));
        return Err(ApiError::invalid("truncation", "invalid_value", message));
    }
    if text.verbosity.as_deref().is_some_and(|verbosity| verbosity != "medium") {
        let message =
            "'text.verbosity' is not supported: no model served here has a verbosity control.";
        return Err(ApiError::invalid("text.verbosity", "unsupported_parameter", message));
    }
    Ok(())
}

/// The id of a request's conversation.
///
/// # Errors
/// 400 if the request also follows a response.
pub fn conversation_id(request: &ResponsesRequest) -> Result<Option<String>, ApiError> {
    let id = match &request.conversation {
        None => return Ok(None),
        Some(TextOrObject::Text(id) | TextOrObject::Object(ConversationId { id })) => id,
    };
    if request.previous_response_id.is_some() {
        let message = "'conversation' and 'previous_response_id' cannot both be given.";
        return Err(ApiError::invalid("conversation", "mutually_exclusive_parameters", message));
    }
    Ok(Some(id.clone()))
}

/// Drops the oldest items, an eighth of all at a time: system and developer messages and the last item stay.
/// Returns whether there was anything to drop.
pub fn shorten(input: &mut Input) -> bool {
    let Input { history, new } = input;
    let count = history.len() + new.len();
    let mut left = count.div_ceil(8);
    let stays = |item: &InputItem| matches!(item.role.as_deref(), Some("system" | "developer"));
    let mut at = 0;
    let mut is_kept = |item: &InputItem| {
        at += 1;
        let drops = left > 0 && at < count && !stays(item);
        left -= usize::from(drops);
        !drops
    };
    history.retain(&mut is_kept);
    new.retain(&mut is_kept);
    // A call's output is nothing without the call.
    let calls: HashSet<Option<String>> = history
        .iter()
        .chain(&*new)
        .filter(|item| item.name.is_some())
        .map(|call| call.call_id.clone())
        .collect();
    let has_its_call = |item: &InputItem| {
        let is_output = item.kind.as_deref().is_some_and(|kind| kind.ends_with("_call_output"));
        !is_output || calls.contains(&item.call_id)
    };
    history.retain(has_its_call);
    new.retain(has_its_call);
    history.len() + new.len() < count && !new.is_empty()
}

fn read_format(format: &TextFormat) -> Result<Option<OutputGrammar>, ApiError> {
    match (format.kind.as_str(), &format.name) {
        ("text", _) => Ok(None),
        ("json_object", _) => OutputGrammar::any_object(&NAMES).map(Some),
        ("json_schema", Some(name)) => {
            OutputGrammar::named_schema(name, format.schema.as_ref(), format.strict, &NAMES)
                .map(Some)
        }
        ("json_schema", None) => Err(ApiError::missing(NAMES.schema_name)),
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
fn tool_definitions(tools: &[Value]) -> Result<(Vec<ToolDefinition>, Namespaces), ApiError> {
    let (mut out, mut namespaces) = (Vec::new(), BTreeMap::new());
    for (index, tool) in tools.iter().enumerate() {
        let path = format!("tools[{index}]");
        if type_of(&path, tool)? != "namespace" {
            out.extend(tool_definition(path, tool)?);
            continue;
        }
        let namespace: ResponseTool = typed(&path, tool)?;
        for (inner, tool) in namespace.tools.iter().flatten().enumerate() {
            let definition = tool_definition(format!("{path}.tools[{inner}]"), tool)?;
            let Some(definition) = definition else { continue };
            let name = namespace.name.clone().unwrap_or_default();
            namespaces.insert(definition.name.clone(), name);
            out.push(definition);
        }
    }
    Ok((out, namespaces))
}

/// OpenAI's own tools are none here: clients list them without needing them, whatever they hold.
fn tool_definition(path: String, tool: &Value) -> Result<Option<ToolDefinition>, ApiError> {
    let kind = match type_of(&path, tool)?.as_str() {
        "function" => ToolKind::Function,
        "custom" => ToolKind::Custom,
        dropped => {
            tracing::debug!(tool = dropped, "a tool that this server does not have is left out");
            return Ok(None);
        }
    };
    let tool: ResponseTool = typed(&path, tool)?;
    let (input, name_of_input) = match kind {
        ToolKind::Function => {
            let strict = tool.strict.unwrap_or(false);
            (ToolInput::Arguments { schema: tool.parameters, strict }, "parameters")
        }
        ToolKind::Custom => (ToolInput::Text { format: tool.format }, "format"),
    };
    Ok(Some(ToolDefinition {
        name: tool.name.ok_or_else(|| ApiError::missing(format!("{path}.name")))?,
        path: ToolPath { tool: path, name: "name", input: name_of_input },
        description: tool.description,
        input,
    }))
}

/// A tool's type: nothing else is read of a tool that this server does not have.
fn type_of(path: &str, tool: &Value) -> Result<String, ApiError> {
    if !tool.is_object() {
        let message = format!("'{path}' must be an object.");
        return Err(ApiError::invalid(path, "invalid_type", message));
    }
    typed::<TypeOnly>(path, tool)?.kind.ok_or_else(|| ApiError::missing(format!("{path}.type")))
}

#[derive(Deserialize)]
#[serde(expecting = "a tool")]
struct TypeOnly {
    #[serde(rename = "type")]
    kind: Option<String>,
}

fn tool_choice(choice: ResponseToolChoice) -> Result<ToolChoice, ApiError> {
    let selection = match choice {
        TextOrObject::Text(mode) => return mode_choice(&mode),
        TextOrObject::Object(selection) => selection,
    };
    if selection.kind.as_deref() != Some("allowed_tools") {
        return reference("tool_choice", selection).map(ToolChoice::Tool);
    }
    let mode = selection.mode.ok_or_else(|| ApiError::missing("tool_choice.mode"))?;
    let required = required("tool_choice.mode", &mode)?;
    let each = selection.tools.unwrap_or_default().into_iter().enumerate();
    let tools = each.map(|(at, tool)| reference(&format!("{}[{at}]", NAMES.allowed_tools), tool));
    Ok(ToolChoice::Allowed { tools: tools.collect::<Result<_, _>>()?, required })
}

fn reference(param: &str, selection: ToolSelection) -> Result<ToolReference, ApiError> {
    let kind = match selection.kind.as_deref() {
        Some("function") => ToolKind::Function,
        Some("custom") => ToolKind::Custom,
        other => {
            let kind = shown(other.unwrap_or("nothing"));
            let message = format!("'{param}' asks for '{kind}', which this server does not have.");
            return Err(ApiError::invalid(param, "unsupported_value", message));
        }
    };
    let name = selection.name.ok_or_else(|| ApiError::missing(format!("{param}.name")))?;
    Ok(ToolReference { name, kind })
}

// === Turns ===

/// Turns while they are made of items.
#[derive(Debug, Default)]
struct TurnBuilder {
    turns: Vec<Turn>,
    /// Reasoning that the assistant's next turn begins with.
    reasoning: Option<String>,
}

/// Checks items that are to be stored.
///
/// # Errors
/// 400 for what no model could read.
pub fn check_items(param: &str, items: &[InputItem]) -> Result<(), ApiError> {
    TurnBuilder::default().add_all(param, items)
}

fn turns(instructions: Option<&str>, input: &Input) -> Result<Vec<Turn>, ApiError> {
    let mut builder = TurnBuilder::default();
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        builder.turns.push(Turn::of("system", instructions));
    }
    builder.add_all("history", &input.history)?;
    builder.add_all("input", &input.new)?;
    let TurnBuilder { mut turns, reasoning } = builder;
    if reasoning.is_some() {
        let message = "'input' ends with reasoning that nothing follows.";
        return Err(ApiError::invalid("input", "invalid_value", message));
    }
    if turns.is_empty() {
        let message = "'input' must hold at least one item.";
        return Err(ApiError::invalid("input", "empty_array", message));
    }
    name_tool_results(&mut turns);
    Ok(turns)
}

impl TurnBuilder {
    fn add_all(&mut self, param: &str, items: &[InputItem]) -> Result<(), ApiError> {
        let mut each = items.iter().enumerate();
        each.try_for_each(|(at, item)| self.add(&format!("{param}[{at}]"), item))
    }

    fn add(&mut self, param: &str, item: &InputItem) -> Result<(), ApiError> {
        let missing = |field: &str| ApiError::missing(format!("{param}.{field}"));
        let call_id = item.call_id.clone();
        match item.kind.as_deref().unwrap_or("message") {
            "message" => {
                let content = text(&format!("{param}.content"), item.content.as_ref())?;
                let role = item.role.as_ref().ok_or_else(|| missing("role"))?;
                self.push(Turn::of(read_role(param, role)?, content));
            }
            "function_call" => {
                let name = item.name.clone().ok_or_else(|| missing("name"))?;
                let arguments = item.arguments.clone().unwrap_or_default();
                self.add_call(Call::new(call_id.unwrap_or_default(), name, arguments));
            }
            "custom_tool_call" => {
                let name = item.name.clone().ok_or_else(|| missing("name"))?;
                let input = item.input.as_deref().ok_or_else(|| missing("input"))?;
                self.add_call(Call::custom(call_id.unwrap_or_default(), name, input));
            }
            "function_call_output" | "custom_tool_call_output" => {
                let output = text(&format!("{param}.output"), item.output.as_ref())?;
                self.push(Turn { call_id, ..Turn::of("tool", output) });
            }
            "reasoning" => self.add_reasoning(&reasoning(item)),
            other => {
                let param = format!("{param}.type");
                let message = format!("'{param}' is '{}', which is not supported.", shown(other));
                return Err(ApiError::invalid(param, "invalid_value", message));
            }
        }
        Ok(())
    }

    /// Reasoning that no turn of the assistant follows is left out.
    fn push(&mut self, turn: Turn) {
        let reasoning = self.reasoning.take().filter(|text| !text.is_empty());
        let reasoning = reasoning.filter(|_| turn.role == "assistant");
        self.turns.push(Turn { reasoning, ..turn });
    }

    /// A call belongs to the assistant's last turn, unless reasoning came in between.
    fn add_call(&mut self, call: Call) {
        let open = self.turns.last_mut().filter(|turn| turn.role == "assistant");
        match open.filter(|_| self.reasoning.is_none()) {
            Some(turn) => turn.calls.push(call),
            None => self.push(Turn { calls: vec![call], ..Turn::of("assistant", "") }),
        }
    }

    fn add_reasoning(&mut self, text: &str) {
        match &mut self.reasoning {
            Some(before) if !before.is_empty() => {
                before.push('\n');
                before.push_str(text);
            }
            before => *before = Some(text.to_owned()),
        }
    }
}

fn read_role(param: &str, role: &str) -> Result<&'static str, ApiError> {
    forebay_chat::template_role(role).ok_or_else(|| {
        let param = format!("{param}.role");
        let message = format!(
            "Invalid value: '{}'. '{param}' must be one of 'system', 'developer', 'user' and 'assistant'.",
            shown(role)
        );
        ApiError::invalid(param, "invalid_value", message)
    })
}

/// The text of reasoning, or else of its summary; empty if there is none.
fn reasoning(item: &InputItem) -> String {
    let content = match &item.content {
        Some(TextOr::Parts(parts)) => parts.as_slice(),
        Some(TextOr::Text(_)) | None => &[],
    };
    let summary = item.summary.as_deref().unwrap_or_default();
    let texts = |parts: &[InputPart]| -> Vec<String> {
        parts.iter().filter_map(|part| part.text.clone()).collect()
    };
    let found = [content, summary].into_iter().map(texts).find(|texts| !texts.is_empty());
    found.unwrap_or_default().join("\n")
}

fn text(param: &str, content: Option<&TextOr<InputPart>>) -> Result<String, ApiError> {
    let parts = match content {
        Some(TextOr::Text(text)) => return Ok(text.clone()),
        Some(TextOr::Parts(parts)) => parts,
        None => {
            let message = format!("'{param}' must be a string or an array of parts.");
            return Err(ApiError::invalid(param, "invalid_type", message));
        }
    };
    let each = parts.iter().enumerate().map(|(index, part)| {
        let kind = part.kind.as_deref().unwrap_or_default();
        let text = match kind {
            "refusal" => part.refusal.as_deref(),
            "input_text" | "output_text" | "text" => part.text.as_deref(),
            _ => None,
        };
        text.ok_or_else(|| {
            let param = format!("{param}[{index}]");
            let message = format!("'{param}' is '{}': this model reads text only.", shown(kind));
            ApiError::invalid(param, "unsupported_value", message)
        })
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn items(items: &[Value]) -> Vec<InputItem> {
        items.iter().map(|item| InputItem::deserialize(item).unwrap()).collect()
    }

    #[test]
    fn reasoning_and_calls_join_the_assistants_turn() {
        let reasoning = |text| json!({"type": "reasoning", "summary": [{"text": text}]});
        let sent = [
            json!({"role": "user", "content": "hi"}),
            reasoning("left out: nothing of the assistant follows"),
            json!({"role": "user", "content": [{"type": "input_text", "text": "again"}]}),
            reasoning("a"),
            reasoning("b"),
            json!({"role": "assistant", "content": "hello"}),
            json!({"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\": 1}"}),
            json!({"type": "function_call_output", "call_id": "1", "output": "done"}),
        ];
        let input = Input { history: items(&sent[..4]), new: items(&sent[4..]) };
        let turns = turns(Some("Be brief."), &input).unwrap();
        let roles: Vec<&str> = turns.iter().map(|turn| turn.role).collect();
        assert_eq!(roles, ["system", "user", "user", "assistant", "tool"]);
        assert_eq!(turns[3].reasoning.as_deref(), Some("a\nb"));
        assert_eq!((turns[3].content.as_str(), turns[3].calls.len()), ("hello", 1));
        assert_eq!(turns[4].name.as_deref(), Some("f"), "by the call's id");
    }

    #[test]
    fn an_empty_message_is_a_turn_and_ends_reasoning() {
        let reasoning =
            json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "plan"}]});
        let empty = |role: &str| json!({"role": role, "content": ""});
        let read = |sent: &[&Value]| {
            let new = sent.iter().flat_map(|item| items(&[(*item).clone()])).collect();
            let turns = turns(None, &Input { history: Vec::new(), new })?;
            let each =
                turns.into_iter().map(|turn| (turn.role, turn.reasoning.unwrap_or_default()));
            Ok::<_, ApiError>(each.collect::<Vec<_>>())
        };
        let (assistant, user) = (empty("assistant"), empty("user"));
        let plan = || ("assistant", "plan".to_owned());
        let none = |role| (role, String::new());
        assert_eq!(read(&[&reasoning, &assistant]).unwrap(), [plan()]);
        let with_more = read(&[&reasoning, &assistant, &user]).unwrap();
        assert_eq!(with_more, [plan(), none("user")]);
        let two = read(&[&reasoning, &assistant, &assistant]).unwrap();
        assert_eq!(two, [plan(), none("assistant")]);
        assert_eq!(read(&[&reasoning, &user]).unwrap(), [none("user")]);
        assert_eq!(read(&[&user, &reasoning]).unwrap_err().param(), Some("input"));
        let text = json!({"type": "reasoning", "summary": [], "content": "not a list of parts"});
        assert_eq!(read(&[&text, &assistant]).unwrap(), [none("assistant")]);
    }
}
