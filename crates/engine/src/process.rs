//! Engines in processes of their own.
//!
//! llama.cpp aborts on what it does not expect, and an error of a GPU's driver ends its process. So the
//! process that clients talk to runs none of it: each model lives in a child, which is this program
//! again, and frames of plain data go over a socket pair. The child's side is `child.rs`; the parent's
//! (`parent.rs`) knows each request and every token that came, so where a child dies, the next one goes
//! on.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use forebay_scheduler::LearnedCosts;
use serde::{Deserialize, Serialize};

use crate::grammar::{Grammar, GrammarError};
use crate::message::{Command, Report};
use crate::model::{ModelConfig, ModelInfo};
use crate::status::State;
use crate::step_limits::StepKind;
use crate::vocab::{ParseSpecial, VocabTable};
use crate::{Progress, Token};

mod black_box;
mod child;
mod death;
mod frames;
mod ledger;
mod memory;
mod parent;
mod remote;
mod running;

pub use child::serve;
pub use death::Death;
pub(crate) use parent::Parent;
pub(crate) use remote::Remote;

/// How to start a child: it must call [`serve`].
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, before `--name=` with the model's name.
    pub arguments: Vec<OsString>,
    /// How long a child may be silent until it is killed.
    pub silence: Duration,
}

impl Launcher {
    /// Ten states a second are sent: 15 s are enough for a machine that swaps.
    pub const SILENCE: Duration = Duration::from_secs(15);
}

/// A message from the parent. The first one is `Load`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum ToChild {
    /// What to load, with what calls cost, and the kinds of steps that a child before this one has
    /// computed.
    Load {
        config: Box<ModelConfig>,
        seen: Vec<StepKind>,
    },
    Command(Command),
    /// Something to answer; `patient` where it may take long, so as to hold up nobody.
    Question {
        id: u64,
        question: Question,
        patient: bool,
    },
}

/// Something to be answered at once, whatever the engine does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Question {
    Tokenise(Vec<String>, ParseSpecial),
    Compile(Grammar),
}

/// The answer to a [`Question`].
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Answer {
    Tokens(Vec<Vec<Token>>),
    Compiled(Result<(), GrammarError>),
}

/// A message from the child. The first one that is no `Progress` or `State` is `Loaded` or `LoadFailed`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum FromChild {
    Progress(Progress),
    Loaded(Box<Description>),
    LoadFailed(String),
    Report(Report),
    /// The answer to a question, and the time that it took.
    Answer {
        id: u64,
        answer: Answer,
        took: Duration,
    },
    /// Sent ten times a second: a child that is silent hangs.
    State(Box<State>),
    /// What calls were learned to cost: sent now and then when it has changed, and at an orderly end.
    Costs(Box<LearnedCosts>),
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

#[cfg(test)]
mod tests;

/// A model that a child has loaded.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Description {
    info: ModelInfo,
    table: VocabTable,
    capacity: u64,
    token_capacity: u64,
    generates: bool,
}
