//! Forebay's HTTP server: OpenAI routes, limits, metrics, configuration, the command line.
//!
//! A request's way: [`routes`] takes it, [`dialects`] read it into a [`conversation`], `convert` makes the engine's
//! request of that, `generations` submits it, [`reply`] reads what the model generates, `dialects` spell it.
//!
//! **Invariant:** no sampling, no parsing of what a model generates, no `unsafe`.

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
mod response_store;
mod serve;
mod shutdown;
mod sse;
mod state;
mod work;

pub use app::{openapi, reference};
pub use cli::{Exit, run};
pub use lifecycle::Shutdown;
pub use registry::CannotServe;
pub use serve::{ServeError, serve};
