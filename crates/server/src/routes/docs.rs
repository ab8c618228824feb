//! `/openapi.json` and the documentation page at `/docs`.

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::extract::Json;
use crate::state::AppState;

/// The routes; the page's files are in the binary.
pub fn router(api: OpenApi) -> Router<AppState> {
    let page = SwaggerUi::new("/docs").config(Config::from("/openapi.json"));
    Router::new()
        .route("/openapi.json", get(move || async move { Json(api) }))
        .route("/", get(|| async { Redirect::temporary("/docs/") }))
        .merge(page)
}
