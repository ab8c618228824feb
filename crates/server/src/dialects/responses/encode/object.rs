//! A response as a whole object.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_protocol::responses::ResponsesRequest;
use forebay_protocol::usage::Usage;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::item::{Item, Status};
use crate::convert::Stamp;
use crate::error::ApiError;

/// The fields of a response that repeat its request's. They are JSON texts: the request may have
/// many values, and every whole object repeats them.
#[derive(Debug, Default)]
pub struct Echo {
    background: bool,
    fields: Vec<(&'static str, Box<RawValue>)>,
}

#[derive(Serialize)]
struct ReasoningEcho<'a> {
    effort: Option<&'a Value>,
    summary: Option<&'a str>,
}

/// What is known of a response before it is generated. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Header {
    stamp: Stamp,
    echo: Arc<Echo>,
    stored: bool,
    conversation: Option<String>,
}

/// How far a response has come.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Its status.
    pub status: Status,
    /// What it has cost, at its end.
    pub usage: Option<TokenUsage>,
    /// Why it failed.
    pub error: Option<ResponseError>,
}

/// What a response has cost.
#[derive(Debug, Clone, Serialize)]
pub struct TokenUsage {
    input_tokens: u32,
    input_tokens_details: InputTokens,
    output_tokens: u32,
    output_tokens_details: OutputTokens,
    total_tokens: u32,
}

#[derive(Debug, Clone, Serialize)]
struct InputTokens {
    cached_tokens: u32,
    cache_write_tokens: u32,
}

#[derive(Debug, Clone, Serialize)]
struct OutputTokens {
    reasoning_tokens: u32,
}

/// Why a response failed.
#[derive(Debug, Clone, Serialize)]
pub struct ResponseError {
    code: Option<String>,
    message: String,
}

/// The whole object.
#[derive(Debug, Serialize)]
pub struct Object<'a> {
    #[serde(flatten)]
    echo: &'a Echo,
    store: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<Conversation<'a>>,
    id: &'a str,
    object: &'static str,
    created_at: u64,
    completed_at: Option<u64>,
    model: &'a str,
    /// How far it has come.
    pub status: Status,
    error: Option<&'a ResponseError>,
    incomplete_details: Option<Incomplete>,
    /// `None` where its items are stored apart from it.
    output: Option<&'a [Item]>,
    usage: Option<&'a TokenUsage>,
}

#[derive(Debug, Serialize)]
struct Conversation<'a> {
    id: &'a str,
}

#[derive(Debug, Serialize)]
struct Incomplete {
    reason: &'static str,
}

// === impl Echo ===

impl Echo {
    /// What the response to this request repeats; `has_effort_control` where the model's template does.
    ///
    /// # Errors
    /// Where a field cannot be written as JSON.
    pub fn of(request: &ResponsesRequest, has_effort_control: bool) -> Result<Self, ApiError> {
        let written = Self::fields(request, has_effort_control);
        let fields = written.map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Self { background: request.background.unwrap_or(false), fields })
    }

    fn fields(
        request: &ResponsesRequest,
        has_effort_control: bool,
    ) -> serde_json::Result<Vec<(&'static str, Box<RawValue>)>> {
        let effort = field(request.reasoning.as_ref(), "effort").filter(|_| has_effort_control);
        let format = match field(request.text.as_ref(), "format") {
            Some(format) => to_raw_value(format)?,
            None => to_raw_value(&BTreeMap::from([("type", "text")]))?,
        };
        let tool_choice = match &request.tool_choice {
            Some(choice) => to_raw_value(choice)?,
            None => to_raw_value("auto")?,
        };
        Ok(vec![
            ("background", to_raw_value(&request.background.unwrap_or(false))?),
            ("instructions", to_raw_value(&request.instructions)?),
            ("max_output_tokens", to_raw_value(&request.max_output_tokens)?),
            ("max_tool_calls", to_raw_value(&Value::Null)?),
            ("metadata", to_raw_value(request.metadata.as_ref().unwrap_or(&BTreeMap::new()))?),
            ("parallel_tool_calls", to_raw_value(&request.parallel_tool_calls.unwrap_or(true))?),
            ("previous_response_id", to_raw_value(&request.previous_response_id)?),
            ("reasoning", to_raw_value(&ReasoningEcho { effort, summary: None })?),
            ("service_tier", to_raw_value("default")?),
            ("temperature", to_raw_value(&request.temperature.unwrap_or(1.0))?),
            ("text", to_raw_value(&BTreeMap::from([("format", format)]))?),
            ("tool_choice", tool_choice),
            ("tools", to_raw_value(request.tools.as_deref().unwrap_or_default())?),
            ("top_logprobs", to_raw_value(&request.top_logprobs.unwrap_or(0))?),
            ("top_p", to_raw_value(&request.top_p.unwrap_or(1.0))?),
            ("truncation", to_raw_value(request.truncation.as_deref().unwrap_or("disabled"))?),
        ])
    }
}

/// A field of an object, unless it is null.
fn field<'v>(object: Option<&'v Value>, name: &str) -> Option<&'v Value> {
    object?.get(name).filter(|value| !value.is_null())
}

impl Serialize for Echo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.fields.iter().map(|(name, value)| (name, value)))
    }
}

// === impl Header ===

impl Header {
    /// Of a response that is not stored.
    pub fn new(stamp: Stamp, echo: Arc<Echo>) -> Self {
        Self { stamp, echo, stored: false, conversation: None }
    }

    /// The response's id.
    pub fn id(&self) -> &str {
        &self.stamp.id
    }

    /// Whether the response is generated in the background.
    pub fn is_background(&self) -> bool {
        self.echo.background
    }

    /// Records whether the response can be retrieved later, and the conversation that it belongs to.
    pub fn set_stored(&mut self, retrievable: bool, conversation: Option<&str>) {
        self.stored = retrievable;
        self.conversation = conversation.map(str::to_owned);
    }

    /// Records that the response could not be stored.
    pub fn set_not_stored(&mut self) {
        self.stored = false;
    }

    /// The whole object.
    pub fn object<'a>(&'a self, progress: &'a Progress, output: &'a [Item]) -> Object<'a> {
        let Self { stamp, echo, stored, conversation } = self;
        let Progress { status, usage, error } = progress;
        let incomplete = Incomplete { reason: "max_output_tokens" };
        Object {
            echo,
            store: *stored,
            conversation: conversation.as_deref().map(|id| Conversation { id }),
            id: &stamp.id,
            object: "response",
            created_at: stamp.created,
            completed_at: (*status == Status::Completed).then_some(stamp.created),
            model: &stamp.model,
            status: *status,
            error: error.as_ref(),
            incomplete_details: (*status == Status::Incomplete).then_some(incomplete),
            output: Some(output),
            usage: usage.as_ref(),
        }
    }

    /// The object without its items, which are stored apart from it.
    pub fn object_without_items<'a>(&'a self, progress: &'a Progress) -> Object<'a> {
        Object { output: None, ..self.object(progress, &[]) }
    }
}

// === impl Progress ===

impl Progress {
    /// Only the status is known.
    pub fn of(status: Status) -> Self {
        Self { status, usage: None, error: None }
    }
}

// === impl TokenUsage ===

impl From<Usage> for TokenUsage {
    /// OpenAI's shape of it for responses.
    fn from(usage: Usage) -> Self {
        let reasoning_tokens = usage.completion_tokens_details.reasoning_tokens;
        let cached_tokens = usage.prompt_tokens_details.cached_tokens;
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokens { cached_tokens, cache_write_tokens: 0 },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokens { reasoning_tokens },
            total_tokens: usage.total_tokens,
        }
    }
}

// === impl ResponseError ===

impl From<&ApiError> for ResponseError {
    fn from(error: &ApiError) -> Self {
        let body = error.envelope().error;
        Self { code: body.code, message: body.message }
    }
}

impl ResponseError {
    /// The same with a code in any case.
    pub fn with_code(self) -> Self {
        Self { code: self.code.or_else(|| Some("server_error".to_owned())), ..self }
    }
}
