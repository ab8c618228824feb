//! `/v1/conversations`: items that responses follow on and add to.

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use forebay_protocol::responses::{
    Conversation, ConversationRequest, Deleted, InputItem, ItemList, ItemsRequest,
};

use super::Errors;
use super::stored_responses::{PageQuery, item_list, list};
use crate::convert::{check_extra, log_unknown, metadata, to_json};
use crate::dialects::responses::items;
use crate::dialects::responses::request::check_items;
use crate::error::ApiError;
use crate::extract::{ApiJson, ApiQuery, Json, JsonText, StoreAccess};
use crate::request_resources::RequestResources;
use crate::response_store::{ItemPage, StoredItem};
use crate::state::AppState;

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
        (status = 200, description = "The conversation", body = Conversation),
        Errors,
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(resources): Extension<RequestResources>,
    access: StoreAccess,
    ApiJson(request): ApiJson<ConversationRequest>,
) -> Result<Response, ApiError> {
    log_unknown(&check_extra(&[], &request.extra, state.settings.strict)?);
    metadata::check(request.metadata.as_ref())?;
    let metadata = request.metadata;
    resources.check_kept(&state.limits)?;
    let items = resources.run(move || checked(request.items.unwrap_or_default())).await?;
    let conversation = Conversation {
        id: items::new_id("conv"),
        object: "conversation".to_owned(),
        created_at: crate::convert::now(),
        metadata: metadata.unwrap_or_default(),
    };
    let StoreAccess { store, owner } = &access;
    store.put_conversation(owner, &conversation.id, to_json(&conversation)).await?;
    store.append(owner, &conversation.id, items).await?;
    Ok(Json(conversation).into_response())
}

/// Retrieve a conversation
#[utoipa::path(
    get,
    path = "/conversations/{id}",
    operation_id = "retrieveConversation",
    tag = "responses",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The conversation", body = Conversation),
        Errors,
    ),
)]
pub async fn retrieve(Path(id): Path<String>, access: StoreAccess) -> Result<Response, ApiError> {
    Ok(JsonText(conversation(&access, &id).await?).into_response())
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
        (status = 200, description = "The conversation", body = Conversation),
        Errors,
    ),
)]
pub async fn update(
    State(state): State<AppState>,
    Path(id): Path<String>,
    access: StoreAccess,
    ApiJson(request): ApiJson<ConversationRequest>,
) -> Result<Response, ApiError> {
    if request.items.is_some() {
        let message = "'items' are added at /v1/conversations/{id}/items.";
        return Err(ApiError::invalid("items", "unsupported_parameter", message));
    }
    log_unknown(&check_extra(&[], &request.extra, state.settings.strict)?);
    metadata::check(request.metadata.as_ref())?;
    let stored = conversation(&access, &id).await?;
    let stored = serde_json::from_str::<Conversation>(&stored);
    let stored = stored.map_err(|error| ApiError::internal(format!("a stored object: {error}")))?;
    let conversation = Conversation { metadata: request.metadata.unwrap_or_default(), ..stored };
    access.store.put_conversation(&access.owner, &id, to_json(&conversation)).await?;
    Ok(Json(conversation).into_response())
}

/// Delete a conversation
#[utoipa::path(
    delete,
    path = "/conversations/{id}",
    operation_id = "deleteConversation",
    tag = "responses",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "It is gone", body = Deleted),
        Errors,
    ),
)]
pub async fn delete(Path(id): Path<String>, access: StoreAccess) -> Result<Response, ApiError> {
    conversation(&access, &id).await?;
    access.store.delete(&access.owner, &id).await?;
    Ok(Json(Deleted { id, object: "conversation.deleted", deleted: true }).into_response())
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
        (status = 200, description = "The items as they are stored", body = ItemList<'_>),
        Errors,
    ),
)]
pub async fn create_items(
    State(state): State<AppState>,
    Extension(resources): Extension<RequestResources>,
    Path(id): Path<String>,
    access: StoreAccess,
    ApiJson(request): ApiJson<ItemsRequest>,
) -> Result<Response, ApiError> {
    log_unknown(&check_extra(&[], &request.extra, state.settings.strict)?);
    resources.check_kept(&state.limits)?;
    let (items, list) = resources.run(move || checked_list(request.items)).await?;
    if !access.store.append(&access.owner, &id, items).await? {
        return Err(ApiError::not_found("Conversation", &id));
    }
    Ok(JsonText(list).into_response())
}

/// List a conversation's items
#[utoipa::path(
    get,
    path = "/conversations/{id}/items",
    operation_id = "listConversationItems",
    tag = "responses",
    params(("id" = String, Path, description = "The conversation's id"), PageQuery),
    responses(
        (status = 200, description = "The items", body = ItemList<'_>),
        Errors,
    ),
)]
pub async fn list_items(
    State(state): State<AppState>,
    Extension(resources): Extension<RequestResources>,
    Path(id): Path<String>,
    access: StoreAccess,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Result<Response, ApiError> {
    conversation(&access, &id).await?;
    list(&state.limits, &resources, &access, &id, query).await
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
        Errors,
    ),
)]
pub async fn retrieve_item(
    State(state): State<AppState>,
    Extension(resources): Extension<RequestResources>,
    Path((id, item)): Path<(String, String)>,
    access: StoreAccess,
) -> Result<Response, ApiError> {
    conversation(&access, &id).await?;
    resources.expect_answer(state.limits.history_kib << 10).await?;
    let found = access.store.item_of(&access.owner, &id, &item).await?;
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
        (status = 200, description = "The conversation without it", body = Conversation),
        Errors,
    ),
)]
pub async fn delete_item(
    Path((id, item)): Path<(String, String)>,
    access: StoreAccess,
) -> Result<Response, ApiError> {
    let body = conversation(&access, &id).await?;
    if !access.store.delete_item(&access.owner, &id, &item).await? {
        return Err(ApiError::not_found("Item", &item));
    }
    Ok(JsonText(body).into_response())
}

/// A conversation as JSON: its metadata, without its items.
async fn conversation(access: &StoreAccess, id: &str) -> Result<String, ApiError> {
    let found = access.store.object(&access.owner, id).await?;
    let found = found.filter(|found| found.object == "conversation");
    found.map(|found| found.json).ok_or_else(|| ApiError::not_found("Conversation", id))
}

/// The items as they are stored, and the list that is the response.
fn checked_list(items: Vec<InputItem>) -> Result<(Vec<StoredItem>, String), ApiError> {
    let items = checked(items)?;
    let each = items.iter().map(|item| (item.id.clone().unwrap_or_default(), item.json.clone()));
    let list = item_list(&ItemPage { items: each.collect(), more: false })?;
    Ok((items, list))
}

/// The items as they are stored.
fn checked(items: Vec<InputItem>) -> Result<Vec<StoredItem>, ApiError> {
    if items.len() > MAX_ITEMS {
        let message = format!("'items' can have at most {MAX_ITEMS} at once.");
        return Err(ApiError::invalid("items", "array_above_max_length", message));
    }
    let items: Vec<InputItem> = items.into_iter().map(items::complete).collect();
    check_items("items", &items)?;
    Ok(items.iter().map(items::stored).collect())
}
