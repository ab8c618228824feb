//! The model, the caller and the limits of a request, owned, for jobs on the pool.

use std::sync::Arc;

use crate::admission::Caller;
use crate::config::{LimitSettings, ServerSettings};
use crate::convert::{ChatFormat, ChatView, ModelView, RequestRules};
use crate::error::ApiError;
use crate::registry::Served;

/// What a request is converted with. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext {
    /// The model.
    pub(crate) served: Arc<Served>,
    /// Who sent the request.
    pub(crate) caller: Caller,
    /// `[server]`
    pub(crate) settings: Arc<ServerSettings>,
    /// `[limits]`
    pub(crate) limits: Arc<LimitSettings>,
}

impl RequestContext {
    /// What the request's fields are validated against.
    pub(crate) fn rules(&self) -> RequestRules<'_> {
        let ServerSettings { max_choices, strict, .. } = *self.settings;
        RequestRules {
            vocab: self.served.vocab(),
            has_effort_control: self.has_effort_control(),
            strict,
            max_choices,
            caller: self.caller,
        }
    }

    /// Whether the model's template has a control for the amount of reasoning.
    pub(crate) fn has_effort_control(&self) -> bool {
        self.served.chat_format().is_ok_and(ChatFormat::has_effort_control)
    }

    /// The model as converters see it.
    pub(crate) fn model(&self) -> ModelView<'_> {
        self.served.view(self.max_text_bytes())
    }

    /// The model and its chat format as converters see them.
    ///
    /// # Errors
    /// 400 if the model cannot chat.
    pub(crate) fn chat(&self) -> Result<ChatView<'_>, ApiError> {
        self.served.chat_view(self.max_text_bytes())
    }

    fn max_text_bytes(&self) -> usize {
        self.limits.text_kib << 10
    }
}
