//! The router: every route, and the middleware around all of them.

use axum::Router;
use axum::extract::OriginalUri;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use forebay_protocol::error::ErrorEnvelope;
use forebay_protocol::messages::MessageError;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{Any, CorsLayer};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::ServerSettings;
use crate::error::ApiError;
use crate::observe::{REQUEST_ID, track};
use crate::routes::not_enforced::NOT_ENFORCED;
use crate::routes::{
    chat, completions, conversations, docs, embeddings, health, messages, models, rerank,
    responses, stored_responses, tokenize,
};
use crate::state::AppState;

/// The head of the OpenAPI document; paths and schemas come from the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Forebay",
        description = "GGUF models behind the OpenAI API. Every path under /v1 also works without \
                       the prefix. Every response has an x-request-id header.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(ErrorEnvelope, MessageError)),
    servers((url = "/", description = "This server")),
    tags(
        (name = "chat", description = "Conversations"),
        (name = "responses", description = "Responses and conversations, which can be stored"),
        (name = "completions", description = "Raw text"),
        (name = "embeddings", description = "Vectors"),
        (name = "models", description = "What is served"),
        (name = "tokens", description = "Tokenising"),
        (name = "operations", description = "Health and metrics"),
    ),
)]
struct Head;

fn v1() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(chat::create))
        .routes(routes!(completions::create))
        .routes(routes!(responses::create))
        .routes(routes!(responses::input_tokens))
        .routes(routes!(stored_responses::retrieve, stored_responses::delete))
        .routes(routes!(stored_responses::cancel))
        .routes(routes!(stored_responses::input_items))
        .routes(routes!(conversations::create))
        .routes(routes!(conversations::retrieve, conversations::update, conversations::delete))
        .routes(routes!(conversations::create_items, conversations::list_items))
        .routes(routes!(conversations::retrieve_item, conversations::delete_item))
        .routes(routes!(messages::create))
        .routes(routes!(messages::count_tokens))
        .routes(routes!(chat::input_tokens))
        .routes(routes!(embeddings::create))
        .routes(routes!(rerank::create))
        .routes(routes!(models::list))
        .routes(routes!(models::retrieve))
        .routes(routes!(tokenize::tokenize))
        .routes(routes!(tokenize::detokenize))
}

fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Head::openapi())
        .nest("/v1", v1())
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::live))
        .routes(routes!(health::metrics))
}

/// The OpenAPI document of everything that is served.
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

/// The same as tables in Markdown: every field of every request.
pub fn reference() -> String {
    crate::reference::markdown(&openapi())
}

/// Everything that is served.
pub(crate) fn app(state: AppState) -> Router {
    let (router, api) = documented().split_for_parts();
    let (bare, _) = v1().split_for_parts();
    let router = router
        .merge(bare)
        .merge(docs::router(&api))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(panicked));
    let router = match cors(&state.settings) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.layer(middleware::from_fn_with_state(state.clone(), track)).with_state(state)
}

/// What the admin listener serves. Its handlers read shared state and never wait.
pub(crate) fn admin(state: AppState) -> Router {
    let routes = OpenApiRouter::new()
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::live))
        .routes(routes!(health::metrics));
    let (router, _) = routes.split_for_parts();
    router
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(state.clone(), track))
        .with_state(state)
}

async fn no_such_route(method: Method, OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::no_such_route(&method, uri.path())
}

async fn wrong_method(method: Method, OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::wrong_method(&method, uri.path())
}

#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    ApiError::panicked(&*panic).into_response()
}

/// Browsers of the configured origins may call everything and read our headers.
fn cors(settings: &ServerSettings) -> Option<CorsLayer> {
    let origins = &settings.cors_origins;
    if origins.is_empty() {
        return None;
    }
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(tower_http::cors::AllowHeaders::mirror_request())
        .expose_headers([REQUEST_ID, NOT_ENFORCED, HeaderName::from_static("retry-after")]);
    if origins.iter().any(|origin| origin == "*") {
        return Some(layer.allow_origin(Any));
    }
    let parsed = origins.iter().filter_map(|origin| origin.parse::<HeaderValue>().ok());
    Some(layer.allow_origin(parsed.collect::<Vec<_>>()))
}
