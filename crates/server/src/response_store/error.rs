//! Why the response store fails.

use rusqlite::ErrorCode;

use crate::pool::JobError;

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite's error.
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    /// The operating system has no threads left.
    #[error("no thread can be started: {0}")]
    Thread(rayon::ThreadPoolBuildError),
}

/// Why a call to the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full.
    #[error("the disk on which responses and conversations are stored is full")]
    DiskFull,
    /// SQLite's error.
    #[error("the response store: {0}")]
    Database(rusqlite::Error),
    /// It did not run on the store's thread.
    #[error(transparent)]
    Job(#[from] JobError),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            _ => Self::Database(error),
        }
    }
}
