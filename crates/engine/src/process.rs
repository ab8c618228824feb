//! Engines in processes of their own.
//!
//! llama.cpp aborts on what it does not expect, and an error of a GPU's driver ends its process. So the
//! process that clients talk to runs none of it: each model lives in a child, which is this program
//! again, and frames of plain data go over a socket pair. The child's side is `child.rs`; the parent's
//! (`parent.rs`) knows each request and every token that came, so where a child dies, the next one goes
//! on.

mod black_box;
mod child;
mod frames;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod launcher;
mod ledger;
mod memory;
mod messages;
mod parent;
mod remote;
mod running;
#[cfg(test)]
mod tests;

pub use child::serve;
pub use launcher::Launcher;
pub(crate) use parent::Parent;
