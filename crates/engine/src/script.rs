//! How a scripted model behaves.

use std::time::Duration;

use crate::Token;
use crate::model_info::Kind;

/// How the scripted model behaves.
///
/// Its vocabulary is the 256 bytes, then `<s>`, `</s>` and `<|x|>`. For every sequence it generates [`Script::says`]
/// repeatedly, one byte per token: from the beginning, or after the part of it that the tokens so far end with. It
/// checks the scheduler: a row that does not continue its slot, or a cell too many, fails the step.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Script {
    /// The kind of model.
    pub kind: Kind,
    /// The generated text; `\0` is the end-of-text token.
    pub says: String,
    /// The logit of the next token of the text; all others are 0.
    pub peak: f32,
    /// Time of each step.
    pub step_time: Duration,
    /// Steps (counted from 1) that fail.
    pub failing_steps: Vec<u64>,
    /// The step (counted from 1) in which its thread panics.
    pub dies_at: Option<u64>,
    /// A token with an effect when it is computed as a sequence's second.
    pub poison: Option<(Token, Poison)>,
    /// A text with an effect when it is tokenised; [`Poison::Die`] ends the process.
    pub poison_text: Option<(String, Poison)>,
    /// The longest prompt and answer together, in tokens.
    pub slot_tokens: u32,
    /// KV cells, shared by all; `None` for enough.
    pub cells: Option<u32>,
    /// Its chat template.
    pub chat_template: Option<String>,
}

/// The effect of a poisonous token or text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Poison {
    /// It ends its thread.
    Die,
    /// Its step never ends.
    Hang,
    /// Its step takes more and more memory.
    Swell,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            kind: Kind::Chat,
            says: "abc ".to_owned(),
            peak: 20.0,
            step_time: Duration::ZERO,
            failing_steps: Vec::new(),
            dies_at: None,
            poison: None,
            poison_text: None,
            slot_tokens: 4096,
            cells: None,
            chat_template: Some(
                "{% for m in messages %}<|x|>{{ m.role }}:{{ m.content }}{% endfor %}".to_owned(),
            ),
        }
    }
}
