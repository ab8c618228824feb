//! Chat completion requests to conversations.

use std::collections::BTreeMap;

use forebay_chat::turns_from_messages;
use forebay_protocol::chat::ChatCompletionRequest;
use forebay_protocol::fields;
use forebay_protocol::structured::ResponseFormat;
use forebay_protocol::tools::{NamedChoice, Tool};
use serde_json::Value;

use super::encode::ChatStyle;
use crate::admission;
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
use crate::error::{ApiError, shown};

/// What this dialect calls its fields.
pub static NAMES: FieldNames = FieldNames {
    conversation: "messages",
    stop: StopField { name: "stop", max_strings: 4 },
    format: "response_format",
    schema_name: "response_format.json_schema.name",
    schema: "response_format.json_schema.schema",
    effort: "reasoning_effort",
    reasoning_budget: "thinking_token_budget",
    allowed_tools: "tool_choice.allowed_tools.tools",
};

/// What the answer repeats of a request, and how it is written.
#[derive(Debug)]
pub struct AnswerForm {
    /// How to write it.
    pub style: ChatStyle,
    /// What it repeats.
    pub metadata: Option<BTreeMap<String, Value>>,
}

/// Reads a request.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn read(
    request: ChatCompletionRequest,
    rules: &RequestRules<'_>,
) -> Result<(Conversation, AnswerForm), ApiError> {
    let strict = rules.strict;
    let mut unknown = check_extra(fields::CHAT, &request.extra, strict)?;
    let turns = turns_from_messages(&request.messages, strict, &mut unknown)?;
    log_unknown(&unknown);
    metadata::check(request.metadata.as_ref())?;
    let prompt_end = prompt_end(&request)?;
    let mut common = request.common();
    let max_tokens = match request.max_completion_tokens {
        Some(_) => "max_completion_tokens",
        None => "max_tokens",
    };
    let given = request.max_completion_tokens.or(common.max_tokens);
    common.max_tokens = integer(max_tokens, given, 1, i64::from(i32::MAX))?;
    let admission = rules.caller.admission(&common)?;
    let mut params =
        GenerationParams::new(&common, admission, rules.vocab, rules.max_choices, NAMES.stop)?;
    let logprobs = request.logprobs.unwrap_or(false);
    let top = integer("top_logprobs", request.top_logprobs, 0, MAX_TOP_LOGPROBS)?.unwrap_or(0);
    if top > 0 && !logprobs {
        let message = "'top_logprobs' is only allowed when 'logprobs' is true.";
        return Err(ApiError::invalid("top_logprobs", "invalid_value", message));
    }
    params.logprobs = logprobs.then_some(u32::try_from(top).unwrap_or(0));
    let style = ChatStyle {
        stream: common.stream,
        include_usage: common.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
        logprobs,
        tier: common.service_tier.map(|_| admission::tier(admission.priority)),
    };
    let format = request.response_format.as_ref().map(format).transpose()?.flatten();
    let format = OutputGrammar::from_constraints(&request.output_constraints(), format)?;
    let tools = request.tools.unwrap_or_default();
    let tools = toolset(tools, request.tool_choice.as_ref(), request.parallel_tool_calls)?;
    let conversation = Conversation {
        turns,
        prompt_end,
        tools,
        format,
        reasoning: ReasoningOptions {
            effort: request.reasoning_effort,
            budget: request.thinking_token_budget,
            variables: request.chat_template_kwargs.unwrap_or_default(),
        },
        params,
        stream: style.stream,
        names: &NAMES,
    };
    Ok((conversation, AnswerForm { style, metadata: request.metadata }))
}

fn prompt_end(request: &ChatCompletionRequest) -> Result<PromptEnd, ApiError> {
    if request.continue_final_message == Some(true) && request.add_generation_prompt == Some(true) {
        let message = "'continue_final_message' leaves the last message open; 'add_generation_prompt' opens a new one. Set only one of them.";
        return Err(ApiError::invalid("continue_final_message", "invalid_value", message));
    }
    Ok(PromptEnd {
        add_generation_prompt: request.add_generation_prompt.unwrap_or(true),
        continue_final_message: request.continue_final_message.unwrap_or(false),
    })
}

fn format(format: &ResponseFormat) -> Result<Option<OutputGrammar>, ApiError> {
    match (format.kind.as_str(), &format.json_schema) {
        ("text", None) => Ok(None),
        ("json_object", None) => OutputGrammar::any_object(&NAMES).map(Some),
        ("json_schema", Some(named)) => {
            let schema = named.schema.as_ref();
            OutputGrammar::named_schema(&named.name, schema, named.strict, &NAMES).map(Some)
        }
        ("json_schema", None) => Err(ApiError::missing("response_format.json_schema")),
        ("text" | "json_object", Some(_)) => {
            let message = format!(
                "'response_format.json_schema' needs the type 'json_schema', not '{}'.",
                format.kind
            );
            Err(ApiError::invalid("response_format.json_schema", "invalid_value", message))
        }
        (other, _) => {
            let message = format!(
                "'response_format.type' is '{}'; it must be 'text', 'json_object' or 'json_schema'.",
                shown(other)
            );
            Err(ApiError::invalid("response_format.type", "invalid_value", message))
        }
    }
}

/// The tools of a request; `parallel` is whether a reply may hold several calls.
///
/// # Errors
/// 400 for the first that cannot be honoured.
pub fn toolset(
    tools: Vec<Tool>,
    choice: Option<&forebay_protocol::tools::ToolChoice>,
    parallel: Option<bool>,
) -> Result<Toolset, ApiError> {
    let choice = choice.map(tool_choice).transpose()?.unwrap_or_default();
    Toolset::new(tool_definitions(tools)?, choice, parallel.unwrap_or(true), &NAMES)
}

fn tool_definitions(tools: Vec<Tool>) -> Result<Vec<ToolDefinition>, ApiError> {
    let each = tools.into_iter().enumerate();
    each.map(|(index, tool)| tool_definition(format!("tools[{index}]"), tool)).collect()
}

fn tool_definition(path: String, tool: Tool) -> Result<ToolDefinition, ApiError> {
    let Tool { kind, function, custom } = tool;
    match (kind.as_str(), function, custom) {
        ("function", Some(function), None) => Ok(ToolDefinition {
            path: ToolPath { tool: path, name: "function.name", input: "function.parameters" },
            name: function.name,
            description: function.description,
            input: ToolInput::Arguments {
                schema: function.parameters,
                strict: function.strict.unwrap_or(false),
            },
        }),
        ("custom", None, Some(custom)) => Ok(ToolDefinition {
            path: ToolPath { tool: path, name: "custom.name", input: "custom.format" },
            name: custom.name,
            description: custom.description,
            input: ToolInput::Text { format: custom.format },
        }),
        ("function" | "custom", ..) => Err(ApiError::missing(format!("{path}.{kind}"))),
        (other, ..) => {
            let param = format!("{path}.type");
            let message = format!(
                "'{param}' is '{}'; this server has no tools of its own: 'function' and 'custom' are supported.",
                shown(other)
            );
            Err(ApiError::invalid(param, "unsupported_value", message))
        }
    }
}

fn tool_choice(choice: &forebay_protocol::tools::ToolChoice) -> Result<ToolChoice, ApiError> {
    use forebay_protocol::tools::ToolChoice as Wire;
    let named = match choice {
        Wire::Mode(mode) => return mode_choice(mode),
        Wire::Named(named) => named,
    };
    if let (Some(allowed), "allowed_tools") = (&named.allowed_tools, named.kind.as_str()) {
        let required = required("tool_choice.allowed_tools.mode", &allowed.mode)?;
        let each = allowed.tools.iter().enumerate();
        let tools =
            each.map(|(at, tool)| reference(&format!("{}[{at}]", NAMES.allowed_tools), tool));
        return Ok(ToolChoice::Allowed { tools: tools.collect::<Result<_, _>>()?, required });
    }
    reference("tool_choice", named).map(ToolChoice::Tool)
}

/// A choice that names no tool.
///
/// # Errors
/// 400 for another word.
pub(in crate::dialects) fn mode_choice(mode: &str) -> Result<ToolChoice, ApiError> {
    match mode {
        "none" => Ok(ToolChoice::None),
        "auto" => Ok(ToolChoice::Auto),
        "required" => Ok(ToolChoice::Required),
        other => Err(no_choice("tool_choice", other)),
    }
}

/// Whether one of some tools has to be called.
///
/// # Errors
/// 400 for another word.
pub(in crate::dialects) fn required(param: &str, mode: &str) -> Result<bool, ApiError> {
    match mode {
        "auto" => Ok(false),
        "required" => Ok(true),
        other => Err(no_choice(param, other)),
    }
}

fn no_choice(param: &str, mode: &str) -> ApiError {
    let message = format!("'{param}' is '{}', which is not a choice.", shown(mode));
    ApiError::invalid(param, "invalid_value", message)
}

fn reference(param: &str, choice: &NamedChoice) -> Result<ToolReference, ApiError> {
    let (name, kind) = match (choice.kind.as_str(), &choice.function, &choice.custom) {
        ("function", Some(function), None) => (&function.name, ToolKind::Function),
        ("custom", None, Some(custom)) => (&custom.name, ToolKind::Custom),
        _ => {
            let message = format!(
                "'{param}' must be a 'function' or a 'custom' tool with its name, or 'allowed_tools'."
            );
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
    };
    Ok(ToolReference { name: name.clone(), kind })
}
