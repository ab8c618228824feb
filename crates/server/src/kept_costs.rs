//! Learned costs of models' calls, kept in files between starts, so that the next start does not begin
//! with guesses.
//!
//! A file is for one model file, one machine and the settings that change what calls cost. A thread
//! reads and writes; nothing here is needed to serve, so errors are logged and serving goes on.

mod file;
mod identity;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use forebay_engine::{CostWatch, LearnedCosts, ModelConfig};
use tokio::sync::oneshot;

/// How often files are written at most.
const WRITE_INTERVAL: Duration = Duration::from_secs(60);
/// How long a start waits for the files to be read, and a shutdown for them to be written: a disk may
/// hang.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// The thread that reads and writes files.
#[derive(Debug)]
pub(crate) struct KeptCosts {
    commands: Sender<CostsCommand>,
    ended: oneshot::Receiver<()>,
}

/// A model's file and the costs in it.
#[derive(Debug)]
pub(crate) struct StoredCosts {
    /// The file.
    pub(crate) file: PathBuf,
    /// Empty if there is no usable file.
    pub(crate) costs: LearnedCosts,
}

enum CostsCommand {
    Read { config: Box<ModelConfig>, reply: oneshot::Sender<Option<StoredCosts>> },
    Watch { file: PathBuf, costs: CostWatch },
}

/// The thread's state.
struct CostFiles {
    folder: PathBuf,
    watched: Vec<Watched>,
    write_error_logged: bool,
}

struct Watched {
    file: PathBuf,
    costs: CostWatch,
    /// The number of calls whose costs are in the file.
    written: u64,
}

impl KeptCosts {
    /// Starts the thread for this cache directory; `None` if there is none.
    pub(crate) fn start(cache: Option<&Path>) -> Option<Self> {
        let folder = cache?.join("costs");
        let ((commands, inbox), (end, ended)) = (channel(), oneshot::channel());
        let files = CostFiles { folder, watched: Vec::new(), write_error_logged: false };
        let run = move || {
            files.run(&inbox);
            // The receiver may be gone.
            let _ = end.send(());
        };
        match thread::Builder::new().name("kept-costs".to_owned()).spawn(run) {
            Ok(_) => Some(Self { commands, ended }),
            Err(error) => {
                tracing::info!(%error, "learned costs are not kept: no thread can be started");
                None
            }
        }
    }

    /// The costs kept for this model; `None` if the model's file cannot be read.
    pub(crate) async fn read(&self, config: &ModelConfig) -> Option<StoredCosts> {
        let (reply, stored) = oneshot::channel();
        self.commands.send(CostsCommand::Read { config: Box::new(config.clone()), reply }).ok()?;
        let Ok(stored) = tokio::time::timeout(DISK_TIMEOUT, stored).await else {
            tracing::info!(model = config.name, "learned costs cannot be read in time");
            return None;
        };
        stored.ok()?
    }

    /// Keeps in `file` the costs that a model learns from now on.
    pub(crate) fn watch(&self, file: PathBuf, costs: CostWatch) {
        // The thread ends with this handle.
        drop(self.commands.send(CostsCommand::Watch { file, costs }));
    }

    /// Writes new costs for the last time, and waits for that, up to [`DISK_TIMEOUT`].
    pub(crate) async fn finish(self) {
        let Self { commands, ended } = self;
        drop(commands);
        if tokio::time::timeout(DISK_TIMEOUT, ended).await.is_err() {
            tracing::info!("learned costs were not written in time");
        }
    }
}

impl CostFiles {
    fn run(mut self, inbox: &Receiver<CostsCommand>) {
        loop {
            match inbox.recv_timeout(WRITE_INTERVAL) {
                Ok(CostsCommand::Read { config, reply }) => {
                    // The caller may have timed out.
                    let _ = reply.send(self.read(&config));
                }
                // Two models with one file and the same settings share it: one of them is enough.
                Ok(CostsCommand::Watch { file, .. })
                    if self.watched.iter().any(|watched| watched.file == file) => {}
                Ok(CostsCommand::Watch { file, costs }) => {
                    self.watched.push(Watched { file, costs, written: 0 });
                }
                Err(RecvTimeoutError::Timeout) => self.write_all(),
                Err(RecvTimeoutError::Disconnected) => return self.write_all(),
            }
        }
    }

    fn read(&self, config: &ModelConfig) -> Option<StoredCosts> {
        let identity = identity::of(config)?;
        let file = self.folder.join(identity).with_extension("json");
        let costs = file::read(&file).unwrap_or_else(|why| {
            tracing::debug!(file = %file.display(), why, "kept costs are ignored");
            LearnedCosts::default()
        });
        Some(StoredCosts { file, costs })
    }

    fn write_all(&mut self) {
        for watched in &mut self.watched {
            let (calls, costs) = watched.costs.learned();
            if calls == watched.written || costs.is_empty() {
                continue;
            }
            // An error is not retried before the costs have changed.
            watched.written = calls;
            if let Err(error) = file::write(&watched.file, &costs)
                && !std::mem::replace(&mut self.write_error_logged, true)
            {
                let file = watched.file.display();
                tracing::info!(%error, %file, "cannot write learned costs");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    /// An empty folder that goes with this value.
    pub(super) struct Folder(PathBuf);

    impl Folder {
        pub(super) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("forebay-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub(super) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }
}
