//! Engines in processes of their own.
//!
//! llama.cpp aborts on unexpected states, and an error of a GPU's driver ends its process. So the process that
//! clients talk to runs none of it: each model lives in a child, which is this program again, and frames of plain data
//! cross a socket pair.
//!
//! The child's side is `child.rs`. The parent's side is `supervisor.rs`: it records each request and every token that
//! came (`in_flight.rs`), so when a child dies, the next one continues all requests. `crash_record.rs` is the memory
//! in which a child leaves what it was computing, by which a request that kills its engine is found.

mod child;
mod child_client;
mod child_process;
mod crash_record;
mod frames;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod in_flight;
mod launcher;
mod memory;
mod messages;
mod supervisor;
#[cfg(test)]
mod tests;

pub use child::serve;
pub use launcher::Launcher;
pub(crate) use supervisor::SupervisorSetup;
