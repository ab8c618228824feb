//! `/health`, `/health/live`, `/health/ready` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use forebay_engine::Status;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::extract::Json;
use crate::lifecycle::Phase;
use crate::registry::Served;
use crate::state::AppState;

/// A step that runs for this long may be a hang.
const SLOW: Duration = Duration::from_secs(30);
/// One that runs for this long is: the longest real ones take seconds.
const HUNG: Duration = Duration::from_secs(300);

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`, or `degraded` while an engine is started again or may hang; in a 503 `loading`, `draining` or `failed`,
    /// beside an `error`.
    status: &'static str,
}

fn status(state: &AppState) -> &'static str {
    let dead = |served: &Arc<Served>| {
        // A process of its own that hangs is started again.
        let stalled = served.stalled_for().filter(|_| served.pool().is_none());
        served.status() == Status::Failed || stalled.is_some_and(|stalled| stalled > HUNG)
    };
    if state.registry.loaded().any(dead) {
        return "failed";
    }
    let restarting = |served: &Arc<Served>| {
        let slow = served.stalled_for().is_some_and(|stalled| stalled > SLOW);
        served.status() == Status::Restarting || slow
    };
    match state.lifecycle.phase() {
        Phase::Ready if state.registry.loaded().any(restarting) => "degraded",
        Phase::Loading => "loading",
        Phase::Ready => "ok",
        Phase::Draining | Phase::Cut => "draining",
    }
}

fn answer(status: &'static str, good: bool) -> Response {
    if good {
        return Json(Health { status }).into_response();
    }
    let error = ApiError::unavailable("not_ready", format!("The server is {status}."));
    let mut body = serde_json::json!(error.envelope());
    body["status"] = status.into();
    let mut response = error.into_response();
    *response.body_mut() = body.to_string().into();
    response
}

/// Whether requests can be served
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "health",
    tag = "operations",
    responses(
        (status = 200, description = "Every model can serve, or is being started again", body = Health),
        (status = 503, description = "Loading, draining or failed", body = forebay_protocol::error::ErrorEnvelope),
    ),
)]
pub async fn health(State(state): State<AppState>) -> Response {
    let status = status(&state);
    answer(status, matches!(status, "ok" | "degraded"))
}

/// Whether requests can be served (the same as `/health`)
#[utoipa::path(
    get,
    path = "/health/ready",
    operation_id = "ready",
    tag = "operations",
    responses(
        (status = 200, description = "Every model can serve, or is being started again", body = Health),
        (status = 503, description = "Loading, draining or failed", body = forebay_protocol::error::ErrorEnvelope),
    ),
)]
pub async fn ready(State(state): State<AppState>) -> Response {
    let status = status(&state);
    answer(status, matches!(status, "ok" | "degraded"))
}

/// Whether the process is alive: 503 only when an engine is dead or hangs
#[utoipa::path(
    get,
    path = "/health/live",
    operation_id = "live",
    tag = "operations",
    responses(
        (status = 200, description = "Alive, perhaps loading or draining", body = Health),
        (status = 503, description = "An engine is dead or hangs", body = forebay_protocol::error::ErrorEnvelope),
    ),
)]
pub async fn live(State(state): State<AppState>) -> Response {
    let status = status(&state);
    answer(status, status != "failed")
}

/// Metrics in Prometheus' text format
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "operations",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain")),
)]
pub async fn metrics(State(state): State<AppState>) -> Response {
    let text = state.metrics.render(state.registry.snapshots());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
