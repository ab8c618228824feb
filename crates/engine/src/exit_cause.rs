//! Why an engine's process ended.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

/// Why an engine's process ended without being asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ExitCause {
    /// By a signal of its own making: an abort, a fault.
    Crashed,
    /// By a signal from outside, that of an operating system without memory for it included.
    Killed,
    /// By itself, without being asked to.
    Exited,
    /// It was killed because a step took too long.
    Hung,
    /// It was killed because it said nothing for too long.
    Silent,
    /// It was killed because it took more memory than it may.
    Memory,
    /// It was killed because what it sent made no sense.
    ProtocolError,
    /// It could not load the model that another one had loaded.
    CannotLoad,
}

impl ExitCause {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Crashed,
        Self::Killed,
        Self::Exited,
        Self::Hung,
        Self::Silent,
        Self::Memory,
        Self::ProtocolError,
        Self::CannotLoad,
    ];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Killed => "killed",
            Self::Exited => "exited",
            Self::Hung => "hung",
            Self::Silent => "silent",
            Self::Memory => "memory",
            Self::ProtocolError => "protocol_error",
            Self::CannotLoad => "cannot_load",
        }
    }

    /// What an exit status tells.
    pub(crate) fn of(status: ExitStatus) -> Self {
        let from_outside = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
        match status.signal() {
            Some(signal) if from_outside.iter().any(|s| s.as_raw() == signal) => Self::Killed,
            Some(_) => Self::Crashed,
            None => Self::Exited,
        }
    }
}
