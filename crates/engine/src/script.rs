//! How a scripted model behaves.

use std::time::Duration;

use crate::Token;
use crate::model_info::Kind;

/// How the scripted model behaves.
///
/// Its vocabulary is the 256 bytes, then `<s>`, `</s>` and `<|x|>`. For every sequence it says
/// [`Script::says`] over and over, one byte a token: from the beginning, or from where the tokens
/// so far end in a part of it. It holds the scheduler to its word: a row that does not follow on
/// what its slot holds, or a cell too many, fails the step.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Script {
    /// What it is.
    pub kind: Kind,
    /// What it says; an `\0` stands for the end-of-text token.
    pub says: String,
    /// The logit of what it says; all others are 0.
    pub peak: f32,
    /// How long each step takes.
    pub step_time: Duration,
    /// Steps (counted from 1) that fail.
    pub failing_steps: Vec<u64>,
    /// The step (counted from 1) in which its thread dies.
    pub dies_at: Option<u64>,
    /// A token that does this when it is to be computed as a sequence's second.
    pub poison: Option<(Token, Poison)>,
    /// A text that does this when it is tokenised, but ends the process where that says to die.
    pub poison_text: Option<(String, Poison)>,
    /// What one request can hold, in tokens.
    pub slot_tokens: u32,
    /// KV cells, shared by all; `None` for enough.
    pub cells: Option<u32>,
    /// Its chat template.
    pub chat_template: Option<String>,
}

/// What a poisonous token does.
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
