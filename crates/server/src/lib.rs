//! Forebay's HTTP server: the APIs, limits, metrics, configuration and the command line.
//!
//! # A request's way
//! `extract` measures and parses the body. A handler in [`routes`] finds the model and has the request prepared on
//! a pool of threads: [`dialects`] read its typed body into a [`conversation::Conversation`], [`convert`] renders
//! and tokenizes that and makes the engine's request. `generations` submits it and polls its events;
//! [`reply`] separates reasoning, content and tool calls; an encoder in [`dialects`] writes the
//! [`reply::ReplyEvent`]s, whole or as a stream (`sse`). `persistence` stores a response before its end is sent.
//!
//! # Main types
//! - [`config::Settings`]: every setting, resolved from file, environment and flags ([`config::Layers`]).
//! - [`serve`]: loads the models and serves until it is asked to end.
//! - [`conversation::Conversation`]: what a request asks, in no dialect.
//! - [`reply::ReplyEvent`]: what a model's answer consists of, in no dialect.
//! - [`openapi`]: the description of every endpoint.
//!
//! # Example
//! ```no_run
//! use forebay_engine::Source;
//! use forebay_server::config::{Layers, Settings};
//! use forebay_server::{Shutdown, serve};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut layers = Layers::default();
//! layers.toml("[[model]]\npath = \"model.gguf\"", "example.toml");
//! let settings = Settings::resolve(layers)?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! let shutdown = || async {
//!     let _ = tokio::signal::ctrl_c().await;
//!     Shutdown::Quick
//! };
//! serve(settings, listener, |model| Source::Gguf(model.path.clone()), shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! **Invariant:** no sampling, no parser of what a model generates (those are in `chat`), no `unsafe`. `tests/it/edges.rs` asserts which
//! module may use which.

pub mod config;
pub mod routes;

pub mod conversation;
pub mod convert;
pub mod dialects;
pub mod reply;

mod admin;
mod admission;
mod app;
mod background;
mod bench;
mod cli;
mod cost;
mod error;
mod extract;
mod generations;
mod hardware;
mod healthcheck;
mod kept_costs;
mod lifecycle;
mod listen;
mod loading;
mod metrics;
mod observe;
mod persistence;
mod pool;
mod record;
mod reference;
mod registry;
mod request_context;
mod request_resources;
mod response_store;
mod serve;
mod shutdown;
mod sse;
mod state;

pub use app::{openapi, reference};
pub use cli::{Exit, run};
pub use lifecycle::Shutdown;
pub use registry::CannotServe;
pub use serve::{ServeError, serve};
