//! Why an engine's process ended.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

/// Why an engine's process ended without being asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ExitCause {
    /// A signal that it caused: an abort, a fault.
    Crashed,
    /// A signal from outside, the out-of-memory killer's included.
    Killed,
    /// It exited without being asked to.
    Exited,
    /// It was killed because a step took too long.
    Hung,
    /// It was killed because it was silent for too long.
    Silent,
    /// It was killed because it exceeded its memory limit.
    Memory,
    /// It was killed because it sent an invalid message.
    ProtocolError,
    /// It could not load a model that was loaded before.
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

    /// The cause by an exit status.
    pub(crate) fn of(status: ExitStatus) -> Self {
        let from_outside = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
        match status.signal() {
            Some(signal) if from_outside.iter().any(|s| s.as_raw() == signal) => Self::Killed,
            Some(_) => Self::Crashed,
            None => Self::Exited,
        }
    }
}
