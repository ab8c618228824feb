//! Engines in processes of their own.
//!
//! llama.cpp aborts on what it does not expect, and an error of a GPU's driver ends its process. So the
//! process that clients talk to runs none of it: each model lives in a child, which is this program
//! again, and frames of plain data go over a socket pair. The child's side is `child.rs`; the parent's
//! (`parent.rs`) knows each request and every token that came, so where a child dies, the next one goes
//! on.

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
