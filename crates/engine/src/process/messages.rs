//! The messages between a parent and its child.

use std::time::Duration;

use forebay_scheduler::LearnedCosts;
use serde::{Deserialize, Serialize};

use crate::Token;
use crate::grammar::{Grammar, GrammarError};
use crate::message::{Command, Report};
use crate::model_config::ModelConfig;
use crate::model_info::ModelInfo;
use crate::status::{Progress, Snapshot};
use crate::step_timeouts::StepKind;
use crate::vocab::{ParseSpecial, VocabTable};

/// A message from the parent. The first one is `Load`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum ToChild {
    /// The model to load, with learned costs, and the kinds of steps that earlier children have computed.
    Load {
        config: Box<ModelConfig>,
        seen: Vec<StepKind>,
    },
    Command(Command),
    /// A question; `background` if a background thread is to answer it.
    Question {
        id: u64,
        question: Question,
        background: bool,
    },
}

/// A question that is answered beside the steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Question {
    Tokenise(Vec<String>, ParseSpecial),
    Compile(Grammar),
}

/// The answer to a [`Question`].
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    Tokens(Vec<Vec<Token>>),
    Compiled(Result<(), GrammarError>),
}

/// A message from the child. The first one besides `Progress` and `Snapshot` is `Loaded` or `LoadFailed`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum FromChild {
    Progress(Progress),
    Loaded(Box<ModelDescription>),
    LoadFailed(String),
    Report(Report),
    /// The answer to a question, and the time it took.
    Answer {
        id: u64,
        answer: Answer,
        took: Duration,
    },
    /// Sent ten times a second: a silent child hangs.
    Snapshot(Box<Snapshot>),
    /// Learned costs: sent every few seconds if they have changed, and at an orderly end.
    Costs(Box<LearnedCosts>),
}

/// A loaded model, as it crosses.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ModelDescription {
    pub(super) info: ModelInfo,
    pub(super) table: VocabTable,
    pub(super) max_requests: u64,
    pub(super) max_tokens: u64,
    pub(super) generates: bool,
}
