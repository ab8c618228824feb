//! Messages requests to conversations.

use forebay_chat::{Call, Turn, name_tool_results};
use forebay_protocol::generation::CommonFields;
use forebay_protocol::messages::{
    InputBlock, InputMessage, InputTool, InputToolChoice, MessagesRequest, OutputConfig,
    ThinkingConfig,
};
use forebay_protocol::{Stop, TextOr, fields};

use crate::conversation::Conversation;
use crate::conversation::fields::{FieldNames, StopField};
use crate::conversation::options::{PromptEnd, ReasoningOptions};
use crate::conversation::tools::{
    ToolChoice, ToolDefinition, ToolInput, ToolKind, ToolPath, ToolReference,
};
use crate::convert::grammar::OutputGrammar;
use crate::convert::sampling::{GenerationParams, integer};
use crate::convert::tools::Toolset;
use crate::convert::{RequestRules, check_extra, log_unknown};
use crate::error::{ApiError, shown};

/// What this dialect calls its fields.
pub static NAMES: FieldNames = FieldNames {
    conversation: "messages",
    stop: StopField { name: "stop_sequences", max_strings: 64 },
    format: "output_config.format",
    schema_name: "output_config.format",
    schema: "output_config.format.schema",
    effort: "output_config.effort",
    reasoning_budget: "thinking.budget_tokens",
    allowed_tools: "tool_choice",
};

/// What `output_config.effort` may be.
const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];
/// What schemas are called in this dialect, which has no names for them.
const SCHEMA_NAME: &str = "answer";

/// Reads a request.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn read(request: MessagesRequest, rules: &RequestRules<'_>) -> Result<Conversation, ApiError> {
    log_unknown(&check_extra(fields::MESSAGES, &request.extra, rules.strict)?);
    let turns = turns(request.system, request.messages)?;
    let stop = request.stop_sequences.map(Stop::Many);
    let common = CommonFields {
        max_tokens: integer("max_tokens", request.max_tokens, 1, i64::from(i32::MAX))?,
        stream: request.stream.unwrap_or(false),
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        stop: stop.as_ref(),
        ..CommonFields::default()
    };
    let admission = rules.caller.admission(&common)?;
    let params = GenerationParams::new(&common, admission, rules.vocab, 1, NAMES.stop)?;
    let config = request.output_config.unwrap_or_default();
    let format = format(&config)?;
    let alone = request.tool_choice.as_ref().and_then(|choice| choice.disable_parallel_tool_use);
    let choice = request.tool_choice.map(tool_choice).transpose()?.unwrap_or_default();
    let tools = request.tools.unwrap_or_default().into_iter().enumerate();
    let tools = tools.map(|(index, tool)| tool_definition(format!("tools[{index}]"), tool));
    let tools = tools.collect::<Result<_, _>>()?;
    Ok(Conversation {
        turns,
        prompt_end: PromptEnd::default(),
        tools: Toolset::new(tools, choice, alone != Some(true), &NAMES)?,
        format,
        reasoning: reasoning(request.thinking, config, rules.has_effort_control)?,
        params,
        stream: common.stream,
        names: &NAMES,
    })
}

fn tool_definition(path: String, tool: InputTool) -> Result<ToolDefinition, ApiError> {
    if let Some(kind) = tool.kind.as_deref().filter(|kind| *kind != "custom") {
        let param = format!("{path}.type");
        let kind = shown(kind);
        let message = format!("'{param}' is '{kind}': this server has no tools of its own.");
        return Err(ApiError::invalid(param, "unsupported_value", message));
    }
    Ok(ToolDefinition {
        path: ToolPath { tool: path, name: "name", input: "input_schema" },
        name: tool.name,
        description: tool.description,
        input: ToolInput::Arguments {
            schema: tool.input_schema,
            strict: tool.strict.unwrap_or(false),
        },
    })
}

fn tool_choice(choice: InputToolChoice) -> Result<ToolChoice, ApiError> {
    match (choice.kind.as_deref(), choice.name) {
        (Some("auto"), _) => Ok(ToolChoice::Auto),
        (Some("any"), _) => Ok(ToolChoice::Required),
        (Some("none"), _) => Ok(ToolChoice::None),
        (Some("tool"), Some(name)) => {
            Ok(ToolChoice::Tool(ToolReference { name, kind: ToolKind::Function }))
        }
        (Some("tool"), None) => Err(ApiError::missing("tool_choice.name")),
        _ => {
            let message = "'tool_choice.type' must be 'auto', 'any', 'tool' or 'none'.";
            Err(ApiError::invalid("tool_choice.type", "invalid_value", message))
        }
    }
}

fn reasoning(
    thinking: Option<ThinkingConfig>,
    config: OutputConfig,
    has_effort_control: bool,
) -> Result<ReasoningOptions, ApiError> {
    let mut reasoning = ReasoningOptions::default();
    if let Some(thinking) = thinking {
        let enabled = match thinking.kind.as_deref() {
            Some("disabled") => false,
            Some("enabled" | "adaptive" | "between_tools") => true,
            _ => {
                let message = "'thinking.type' must be 'enabled', 'adaptive' or 'disabled'.";
                return Err(ApiError::invalid("thinking.type", "invalid_value", message));
            }
        };
        reasoning.variables.insert("enable_thinking".to_owned(), enabled.into());
        reasoning.budget = thinking.budget_tokens;
    }
    let Some(effort) = config.effort else { return Ok(reasoning) };
    if !EFFORTS.contains(&effort.as_str()) {
        let param = NAMES.effort;
        let message = format!("'{param}' must be one of {}.", EFFORTS.join(", "));
        return Err(ApiError::invalid(param, "invalid_value", message));
    }
    // Clients of this dialect always send it: to a model that has no such control it is a hint.
    reasoning.effort = Some(effort).filter(|_| has_effort_control);
    Ok(reasoning)
}

fn format(config: &OutputConfig) -> Result<Option<OutputGrammar>, ApiError> {
    let Some(format) = &config.format else { return Ok(None) };
    match format.kind.as_deref() {
        None | Some("json_schema") => {
            let schema = format.schema.as_ref();
            OutputGrammar::named_schema(SCHEMA_NAME, schema, None, &NAMES).map(Some)
        }
        Some(other) => {
            let param = "output_config.format.type";
            let message = format!("'{param}' is '{}'; it must be 'json_schema'.", shown(other));
            Err(ApiError::invalid(param, "invalid_value", message))
        }
    }
}

// === Turns ===

fn turns(
    system: Option<TextOr<InputBlock>>,
    messages: Vec<InputMessage>,
) -> Result<Vec<Turn>, ApiError> {
    let mut turns = Vec::with_capacity(messages.len() + 1);
    if let Some(system) = system {
        turns.push(Turn::of("system", text("system", system)?));
    }
    if messages.is_empty() && turns.is_empty() {
        let message = "'messages' must hold at least one message.";
        return Err(ApiError::invalid("messages", "empty_array", message));
    }
    for (index, message) in messages.into_iter().enumerate() {
        add_turns(&format!("messages[{index}]"), message, &mut turns)?;
    }
    name_tool_results(&mut turns);
    Ok(turns)
}

/// A text, or text blocks joined.
fn text(param: &str, content: TextOr<InputBlock>) -> Result<String, ApiError> {
    let blocks = match content {
        TextOr::Text(text) => return Ok(text),
        TextOr::Parts(blocks) => blocks,
    };
    let each = blocks.into_iter().enumerate().map(|(index, block)| match block {
        InputBlock { kind: Some(kind), text: Some(text), .. } if kind == "text" => Ok(text),
        block => Err(no_text(&format!("{param}[{index}]"), &block)),
    });
    each.collect()
}

fn no_text(param: &str, block: &InputBlock) -> ApiError {
    let kind = block.kind.as_deref().unwrap_or("without a type");
    let message = format!("'{param}' is '{}': this model reads text only.", shown(kind));
    ApiError::invalid(param, "unsupported_value", message)
}

fn read_role(param: &str, role: &str) -> Result<&'static str, ApiError> {
    forebay_chat::template_role(role).ok_or_else(|| {
        let param = format!("{param}.role");
        let message = format!(
            "Invalid value: '{}'. '{param}' must be one of 'user', 'assistant' and 'system'.",
            shown(role)
        );
        ApiError::invalid(param, "invalid_value", message)
    })
}

/// Adds the turns that a message is: each tool's result is one of its own.
fn add_turns(param: &str, message: InputMessage, out: &mut Vec<Turn>) -> Result<(), ApiError> {
    let role = read_role(param, &message.role)?;
    let param = format!("{param}.content");
    let blocks = match message.content {
        TextOr::Text(text) => {
            out.push(Turn::of(role, text));
            return Ok(());
        }
        TextOr::Parts(blocks) => blocks,
    };
    let (before, mut turn, mut reasoning) = (out.len(), Turn::of(role, ""), String::new());
    for (index, block) in blocks.into_iter().enumerate() {
        let at = format!("{param}[{index}]");
        match (block.kind.as_deref(), role) {
            (Some("text"), _) => turn.content.push_str(block.text.as_deref().unwrap_or_default()),
            (Some("thinking"), "assistant") => {
                reasoning.push_str(block.thinking.as_deref().unwrap_or_default());
            }
            (Some("redacted_thinking"), "assistant") => {}
            (Some("tool_use"), "assistant") => turn.calls.push(call(&at, block)?),
            (Some("tool_result"), "user") => out.push(result(&at, block)?),
            _ => return Err(no_text(&at, &block)),
        }
    }
    turn.reasoning = Some(reasoning).filter(|text| !text.is_empty());
    if !turn.content.is_empty() || !turn.calls.is_empty() || out.len() == before {
        out.push(turn);
    }
    Ok(())
}

fn call(param: &str, block: InputBlock) -> Result<Call, ApiError> {
    let name = block.name.ok_or_else(|| ApiError::missing(format!("{param}.name")))?;
    Ok(Call::new(block.id.unwrap_or_default(), name, block.input.unwrap_or_default()))
}

fn result(param: &str, block: InputBlock) -> Result<Turn, ApiError> {
    let content = block.content.map(|content| text(&format!("{param}.content"), content));
    let content = content.transpose()?.unwrap_or_default();
    let failed = if block.is_error == Some(true) { "Error: " } else { "" };
    let turn = Turn::of("tool", format!("{failed}{content}"));
    Ok(Turn { call_id: block.tool_use_id, ..turn })
}
