//! `/v1/conversations`: items that responses follow on and add to.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_protocol::error::ErrorEnvelope;
use forebay_protocol::responses::{ConversationRequest, ItemsRequest};
use serde_json::{Value, json};

use super::stored::{PageQuery, list, spelled, store};
use crate::convert::{check_extra, log_unknown, metadata};
use crate::dialects::responses::items;
use crate::dialects::responses::request::check_items;
use crate::error::ApiError;
use crate::extract::{ApiJson, ApiQuery, Json, JsonText};
use crate::state::AppState;
use crate::store::{Listed, Owner, Store};
use crate::work::Work;

/// Most items that one request adds.
const MAX_ITEMS: usize = 20;

/// Make a conversation
#[utoipa::path(
    post,
    path = "/conversations",
    operation_id = "createConversation",
    tag = "responses",
    request_body = ConversationRequest,
    responses(
        (status = 200, description = "The conversation", body = serde_json::Value),
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(work): Extension<Work>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ConversationRequest>,
) -> Result<Response, ApiError> {
    let (store, owner) = (store(&state)?, Owner::of(&headers));
    log_unknown(&check_extra(&[], &request.extra, state.settings.strict)?);
    metadata::check(request.metadata.as_ref())?;
    let metadata = request.metadata;
    work.check_kept(&state.limits)?;
    let items = work.run(move || checked(&request.items.unwrap_or_default())).await?;
    let body = json!({
        "id": items::id("conv"), "object": "conversation", "created_at": crate::convert::now(),
        "metadata": metadata.unwrap_or_default(),
    });
    store.put_conversation(&owner, &body).await?;
    store.extend(&owner, body["id"].as_str().unwrap_or_default(), items).await?;
    Ok(Json(body).into_response())
}

/// Retrieve a conversation
#[utoipa::path(
    get,
    path = "/conversations/{id}",
    operation_id = "retrieveConversation",
    tag = "responses",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The conversation", body = serde_json::Value),
        (status = "4XX", description = "There is no such conversation", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn retrieve(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let body = conversation(store(&state)?, &Owner::of(&headers), &id).await?;
    Ok(JsonText(body).into_response())
}

/// Change a conversation's metadata
#[utoipa::path(
    post,
    path = "/conversations/{id}",
    operation_id = "updateConversation",
    tag = "responses",
    params(("id" = String, Path, description = "Its id")),
    request_body = ConversationRequest,
    responses(
        (status = 200, description = "The conversation", body = serde_json::Value),
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn update(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ConversationRequest>,
) -> Result<Response, ApiError> {
    let (store, owner) = (store(&state)?, Owner::of(&headers));
    if request.items.is_some() {
        let message = "'items' are added at /v1/conversations/{id}/items.";
        return Err(ApiError::invalid("items", "unsupported_parameter", message));
    }
    log_unknown(&check_extra(&[], &request.extra, state.settings.strict)?);
    metadata::check(request.metadata.as_ref())?;
    let body = conversation(store, &owner, &id).await?;
    let mut body: Value = serde_json::from_str(&body).unwrap_or_default();
    body["metadata"] = json!(request.metadata.unwrap_or_default());
    store.put_conversation(&owner, &body).await?;
    Ok(Json(body).into_response())
}

/// Delete a conversation
#[utoipa::path(
    delete,
    path = "/conversations/{id}",
    operation_id = "deleteConversation",
    tag = "responses",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "It is gone", body = serde_json::Value),
        (status = "4XX", description = "There is no such conversation", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn delete(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (store, owner) = (store(&state)?, Owner::of(&headers));
    conversation(store, &owner, &id).await?;
    store.delete(&owner, &id).await?;
    Ok(Json(json!({"id": id, "object": "conversation.deleted", "deleted": true})).into_response())
}

/// Add items to a conversation
#[utoipa::path(
    post,
    path = "/conversations/{id}/items",
    operation_id = "createConversationItems",
    tag = "responses",
    params(("id" = String, Path, description = "The conversation's id")),
    request_body = ItemsRequest,
    responses(
        (status = 200, description = "The items as they are kept", body = serde_json::Value),
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn create_items(
    State(state): State<AppState>,
    Extension(work): Extension<Work>,
    Path(id): Path<String>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ItemsRequest>,
) -> Result<Response, ApiError> {
    log_unknown(&check_extra(&[], &request.extra, state.settings.strict)?);
    work.check_kept(&state.limits)?;
    let (items, answer) = work.run(move || checked_and_spelled(&request.items)).await?;
    if !store(&state)?.extend(&Owner::of(&headers), &id, items).await? {
        return Err(ApiError::not_found("Conversation", &id));
    }
    Ok(JsonText(answer).into_response())
}

/// List a conversation's items
#[utoipa::path(
    get,
    path = "/conversations/{id}/items",
    operation_id = "listConversationItems",
    tag = "responses",
    params(("id" = String, Path, description = "The conversation's id"), PageQuery),
    responses(
        (status = 200, description = "The items", body = serde_json::Value),
        (status = "4XX", description = "There is no such conversation", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn list_items(
    State(state): State<AppState>,
    Extension(work): Extension<Work>,
    Path(id): Path<String>,
    headers: HeaderMap,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Result<Response, ApiError> {
    let (store, owner) = (store(&state)?, Owner::of(&headers));
    conversation(store, &owner, &id).await?;
    list((&state, &work), store, &owner, &id, query).await
}

/// Retrieve a conversation's item
#[utoipa::path(
    get,
    path = "/conversations/{id}/items/{item}",
    operation_id = "retrieveConversationItem",
    tag = "responses",
    params(
        ("id" = String, Path, description = "The conversation's id"),
        ("item" = String, Path, description = "The item's id"),
    ),
    responses(
        (status = 200, description = "The item", body = serde_json::Value),
        (status = "4XX", description = "There is no such item", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn retrieve_item(
    State(state): State<AppState>,
    Extension(work): Extension<Work>,
    Path((id, item)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (store, owner) = (store(&state)?, Owner::of(&headers));
    conversation(store, &owner, &id).await?;
    work.expect_answer(state.limits.history_kib << 10).await?;
    let found = store.item_of(&owner, &id, &item).await?;
    let found = found.ok_or_else(|| ApiError::not_found("Item", &item))?;
    Ok(JsonText(found).into_response())
}

/// Delete a conversation's item
#[utoipa::path(
    delete,
    path = "/conversations/{id}/items/{item}",
    operation_id = "deleteConversationItem",
    tag = "responses",
    params(
        ("id" = String, Path, description = "The conversation's id"),
        ("item" = String, Path, description = "The item's id"),
    ),
    responses(
        (status = 200, description = "The conversation without it", body = serde_json::Value),
        (status = "4XX", description = "There is no such item", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn delete_item(
    State(state): State<AppState>,
    Path((id, item)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (store, owner) = (store(&state)?, Owner::of(&headers));
    let body = conversation(store, &owner, &id).await?;
    if !store.delete_item(&owner, &id, &item).await? {
        return Err(ApiError::not_found("Item", &item));
    }
    Ok(JsonText(body).into_response())
}

/// A conversation as JSON: its metadata, without its items.
async fn conversation(store: &Store, owner: &Owner, id: &str) -> Result<String, ApiError> {
    let found = store.get(owner, id).await?.filter(|found| found.object == "conversation");
    found.map(|found| found.json).ok_or_else(|| ApiError::not_found("Conversation", id))
}

/// The items as they are kept, and the list that answers them.
fn checked_and_spelled(items: &[Value]) -> Result<(Vec<Value>, String), ApiError> {
    let items = checked(items)?;
    let each = items
        .iter()
        .map(|item| (item["id"].as_str().unwrap_or_default().to_owned(), item.to_string()));
    let answer = spelled(&Listed { items: each.collect(), more: false });
    Ok((items, answer))
}

/// The items as they are kept.
fn checked(items: &[Value]) -> Result<Vec<Value>, ApiError> {
    if items.len() > MAX_ITEMS {
        let message = format!("'items' can have at most {MAX_ITEMS} at once.");
        return Err(ApiError::invalid("items", "array_above_max_length", message));
    }
    let items = items::of_list("items", items)?;
    check_items("items", &items)?;
    Ok(items)
}
