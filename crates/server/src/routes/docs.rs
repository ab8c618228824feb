//! `/openapi.json` and the documentation page at `/docs`.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::Redirect;
use axum::routing::get;
use bytes::Bytes;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::state::AppState;

/// The routes; the page's files are in the binary.
pub fn router(api: &OpenApi) -> Router<AppState> {
    // Written once: it is some 200 kB, and a request for it some 80 bytes.
    let document = match serde_json::to_string(api) {
        Ok(json) => json.into(),
        Err(error) => {
            tracing::error!(%error, "the OpenAPI document cannot be written");
            Bytes::new()
        }
    };
    let json = [(CONTENT_TYPE, "application/json")];
    let page = SwaggerUi::new("/docs").config(Config::from("/openapi.json"));
    Router::new()
        .route("/openapi.json", get(move || async move { (json, document) }))
        .route("/", get(|| async { Redirect::temporary("/docs/") }))
        .merge(page)
}
