//! Faults and timing over real sockets, on a scripted model. What a real model says is tested by
//! the clients in `tests/`.

mod client;
mod faults;
mod http;
mod overload;
mod server;
