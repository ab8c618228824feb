//! How a child process is started.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How to start a child: it must call [`crate::process::serve`].
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, before `--name=` with the model's name.
    pub arguments: Vec<OsString>,
    /// How long a child may send nothing until it is killed.
    pub silence: Duration,
}

impl Launcher {
    /// A child sends ten snapshots a second: 15 s are enough for a machine that swaps.
    pub const SILENCE: Duration = Duration::from_secs(15);
}
