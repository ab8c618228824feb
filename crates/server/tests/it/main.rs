//! Faults and timing over real sockets, on a scripted model. What a real model says is tested by
//! the clients in `tests/`.

#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

mod background;
mod client;
mod connections;
mod edges;
mod embedding_limits;
mod faults;
mod grammars;
mod http;
mod http2;
mod memory;
mod overload;
mod processes;
mod reasoning;
mod refusals;
mod server;
mod structure;
mod tools;
