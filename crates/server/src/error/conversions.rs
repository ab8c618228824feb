//! Errors of other layers as errors for clients.

use forebay_chat::{InvalidMessage, RenderError};
use forebay_engine::{Failure, SubmitError};

use super::{ApiError, ENGINE_CRASHED, ErrorKind, shown};
use crate::pool::JobError;
use crate::response_store::StoreError;

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::QueueFull { limit, backlog } => Self::overloaded(
                backlog,
                &format!("{limit} requests are running or waiting already"),
            ),
            SubmitError::QueueTokens { tokens, limit, backlog } => Self::overloaded(
                backlog,
                &format!(
                    "with yours of {tokens}, the prompts here would have more than {limit} tokens"
                ),
            ),
            SubmitError::TooManyTokens { tokens, limit } => Self::too_many_tokens(tokens, limit),
            SubmitError::TooLong { tokens, limit } => Self::context_length("prompt", tokens, limit),
            SubmitError::Empty => Self::invalid(
                "prompt",
                "invalid_value",
                "There is nothing to compute: the input is empty.",
            ),
            SubmitError::NoSuchToken { token } => {
                Self::invalid("prompt", "invalid_value", format!("The model has no token {token}."))
            }
            SubmitError::EngineGone => Failure::EngineGone.into(),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::QueueTimeout(_) => Self {
                code: Some("queue_timeout"),
                ..Self::new(
                    ErrorKind::Overloaded,
                    format!("The server is busy: {failure}. Try again."),
                )
            },
            Failure::Timeout(_) => Self {
                code: Some("timeout"),
                ..Self::new(ErrorKind::OutOfTime, format!("Out of time: {failure}."))
            },
            Failure::Grammar => Self {
                code: Some("grammar_too_complex"),
                ..Self::new(
                    ErrorKind::Invalid,
                    "The grammar is too complex: what may come next could not be found out within the limits.",
                )
            },
            Failure::Unread => Self {
                code: Some("response_not_read"),
                ..Self::new(
                    ErrorKind::SlowReader,
                    "The answer was dropped because it was not read in time and the memory for \
                     unread answers is full.",
                )
            },
            Failure::Step => Self::unavailable(
                "step_failed",
                "The model could not compute your request. Try again.",
            ),
            Failure::Crashed => Self {
                code: Some(ENGINE_CRASHED),
                ..Self::new(
                    ErrorKind::Internal,
                    "Your request makes the model's engine crash. Do not send it again.",
                )
            },
            Failure::EngineGone => Self::unavailable(
                "engine_stopped",
                "The model's engine has stopped. Try again when the server has been restarted.",
            ),
        }
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        match error {
            JobError::QueueFull => Self::busy("too much waits to be read"),
            JobError::Panicked(_) | JobError::Lost => Self::internal(error.to_string()),
        }
    }
}

const STORE_FULL: &str = "The disk on which responses and conversations are stored is full.";

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DiskFull => Self::unavailable("store_full", STORE_FULL),
            StoreError::Database(_) => Self::internal(error.to_string()),
            StoreError::Job(error) => error.into(),
        }
    }
}

impl From<InvalidMessage> for ApiError {
    fn from(bad: InvalidMessage) -> Self {
        Self::invalid(bad.param, bad.code, bad.message)
    }
}

impl From<RenderError> for ApiError {
    fn from(error: RenderError) -> Self {
        let message = error.to_string();
        match error {
            RenderError::Raised(_) | RenderError::Noncharacters => {
                Self::invalid("messages", "invalid_value", message)
            }
            RenderError::TooMuch => {
                let message = "The conversation is too long for the model's chat template.";
                Self::invalid("messages", "context_length_exceeded", message)
            }
            RenderError::NothingToContinue => {
                Self::invalid("continue_final_message", "invalid_value", message)
            }
            RenderError::BadVariable(name) => {
                let param = format!("chat_template_kwargs.{}", shown(&name));
                let message = format!(
                    "'{param}' must be a scalar and not a name that chat templates already have."
                );
                Self::invalid(param, "invalid_value", message)
            }
            RenderError::Template(why) => {
                let message = "The model's chat template failed on these messages.";
                let code = Some("template_error");
                Self { code, internal: Some(why), ..Self::new(ErrorKind::Internal, message) }
            }
        }
    }
}
