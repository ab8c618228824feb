//! `/v1/responses/{id}`: stored responses.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use forebay_protocol::responses::{Deleted, ItemList};
use futures_util::{Stream, stream};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::IntoParams;

use super::Errors;
use crate::config::LimitSettings;
use crate::convert::to_json;
use crate::error::ApiError;
use crate::extract::{ApiQuery, Json, JsonText, StoreAccess};
use crate::request_resources::RequestResources;
use crate::response_store::{ItemPage, NotFound, PageRequest, StoredObject};
use crate::sse;
use crate::state::AppState;

/// Most items of a page.
const MAX_PAGE: i64 = 100;
/// Events of a stored response that are in memory for each of its readers.
const EVENTS_AT_ONCE: u32 = 64;

/// Which part of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// At most this many; default 20.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<i64>,
    /// Those after the item with this id.
    pub after: Option<String>,
    /// `desc` (default), newest first, or `asc`.
    pub order: Option<String>,
}

/// How a response is retrieved.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RetrieveQuery {
    /// Whether as events, as they were; only of responses that were made in the background.
    pub stream: Option<bool>,
    /// Only events after this `sequence_number`.
    pub starting_after: Option<u64>,
}

/// Retrieve a response
#[utoipa::path(
    get,
    path = "/responses/{id}",
    operation_id = "retrieveResponse",
    tag = "responses",
    params(("id" = String, Path, description = "Its id"), RetrieveQuery),
    responses(
        (status = 200, description = "The response, whole or as events", content(
            (serde_json::Value = "application/json"),
            (String = "text/event-stream"),
        )),
        Errors,
    ),
)]
pub async fn retrieve(
    State(state): State<AppState>,
    Extension(resources): Extension<RequestResources>,
    Path(id): Path<String>,
    access: StoreAccess,
    ApiQuery(query): ApiQuery<RetrieveQuery>,
) -> Result<Response, ApiError> {
    resources.expect_answer(state.limits.history_kib << 10).await?;
    // Looked for before it is read: it may end in between.
    let job = state.jobs.find(&id);
    let response = response(&access, &id).await?;
    if query.stream != Some(true) {
        return Ok(JsonText(response.json).into_response());
    }
    // Its events are read a few at a time.
    resources.release();
    let keepalive = Duration::from_secs(state.settings.keepalive_s);
    let from = query.starting_after.map_or(0, |after| after.saturating_add(1));
    if let Some(job) = job {
        return Ok(sse::relay(job.events(usize::try_from(from).unwrap_or(usize::MAX)), keepalive));
    }
    if !response.background {
        let message = "'stream' is for responses that were made with 'background'.";
        return Err(ApiError::invalid("stream", "unsupported_value", message));
    }
    Ok(sse::relay(stored_events(access, id, from), keepalive))
}

/// A response's events, read as they are sent: all of a long one's would take many times its text.
fn stored_events(access: StoreAccess, id: String, from: u64) -> impl Stream<Item = String> + Send {
    let state = (access, id, from, VecDeque::new());
    stream::unfold(state, |(access, id, mut next, mut ready)| async move {
        if ready.is_empty() {
            let read = access.store.events(&access.owner, &id, next, EVENTS_AT_ONCE).await;
            let read = read.inspect_err(|error| tracing::error!(%error, "events are not read"));
            ready = VecDeque::from(read.ok()?);
        }
        let event: String = ready.pop_front()?;
        next += 1;
        Some((event, (access, id, next, ready)))
    })
}

/// Delete a response
#[utoipa::path(
    delete,
    path = "/responses/{id}",
    operation_id = "deleteResponse",
    tag = "responses",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "It is gone", body = Deleted),
        Errors,
    ),
)]
pub async fn delete(
    State(state): State<AppState>,
    Path(id): Path<String>,
    access: StoreAccess,
) -> Result<Response, ApiError> {
    in_background(&access, &id).await?;
    if let Some(job) = state.jobs.find(&id) {
        job.cancel().await;
    }
    access.store.delete(&access.owner, &id).await?;
    Ok(Json(Deleted { id, object: "response", deleted: true }).into_response())
}

/// Cancel a response
///
/// Only what was made with `background` can be cancelled; what is over stays as it is.
#[utoipa::path(
    post,
    path = "/responses/{id}/cancel",
    operation_id = "cancelResponse",
    tag = "responses",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The response", body = serde_json::Value),
        Errors,
    ),
)]
pub async fn cancel(
    State(state): State<AppState>,
    Extension(resources): Extension<RequestResources>,
    Path(id): Path<String>,
    access: StoreAccess,
) -> Result<Response, ApiError> {
    if !in_background(&access, &id).await? {
        let message = "Only a response that was made with 'background' can be cancelled.";
        return Err(ApiError::invalid("response_id", "not_in_background", message));
    }
    if let Some(job) = state.jobs.find(&id) {
        job.cancel().await;
    }
    resources.expect_answer(state.limits.history_kib << 10).await?;
    let response = response(&access, &id).await?;
    Ok(JsonText(response.json).into_response())
}

/// List a response's input items
#[utoipa::path(
    get,
    path = "/responses/{id}/input_items",
    operation_id = "listInputItems",
    tag = "responses",
    params(("id" = String, Path, description = "Its id"), PageQuery),
    responses(
        (status = 200, description = "What its request added", body = ItemList<'_>),
        Errors,
    ),
)]
pub async fn input_items(
    State(state): State<AppState>,
    Extension(resources): Extension<RequestResources>,
    Path(id): Path<String>,
    access: StoreAccess,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Result<Response, ApiError> {
    in_background(&access, &id).await?;
    list(&state.limits, &resources, &access, &id, query).await
}

/// A page of the items of a response's input, or of a conversation.
pub(super) async fn list(
    limits: &LimitSettings,
    resources: &RequestResources,
    StoreAccess { store, owner }: &StoreAccess,
    id: &str,
    query: PageQuery,
) -> Result<Response, ApiError> {
    let limit = query.limit.unwrap_or(20);
    if !(1..=MAX_PAGE).contains(&limit) {
        let message = format!("'limit' must be between 1 and {MAX_PAGE}.");
        return Err(ApiError::invalid("limit", "invalid_value", message));
    }
    let descending = match query.order.as_deref() {
        None | Some("desc") => true,
        Some("asc") => false,
        Some(_) => {
            let message = "'order' must be 'asc' or 'desc'.";
            return Err(ApiError::invalid("order", "invalid_value", message));
        }
    };
    let limit = usize::try_from(limit).unwrap_or(1);
    let page = PageRequest { limit, after: query.after, descending };
    let max_bytes = limits.history_kib << 10;
    resources.expect_answer(max_bytes).await?;
    let page = store.page(owner, id, page, max_bytes).await?;
    let page = page.map_err(|NotFound(id)| ApiError::not_found("Item", &id).at("after"))?;
    Ok(JsonText(item_list(&page)?).into_response())
}

/// A page as OpenAI's list, as JSON.
///
/// # Errors
/// 500 if a stored item is no JSON.
pub(super) fn item_list(ItemPage { items, more }: &ItemPage) -> Result<String, ApiError> {
    let data = items.iter().map(|(_, json)| serde_json::from_str::<&RawValue>(json));
    let data = data.collect::<Result<_, _>>();
    Ok(to_json(&ItemList {
        object: "list",
        data: data.map_err(|error| ApiError::internal(format!("a stored item: {error}")))?,
        first_id: items.first().map(|(id, _)| id.as_str()),
        last_id: items.last().map(|(id, _)| id.as_str()),
        has_more: *more,
    }))
}

/// The response with this id.
async fn response(access: &StoreAccess, id: &str) -> Result<StoredObject, ApiError> {
    let found = access.store.object(&access.owner, id).await?;
    let found = found.filter(|found| found.object == "response");
    found.ok_or_else(|| ApiError::not_found("Response", id))
}

/// Whether the response with this id was generated in the background.
async fn in_background(access: &StoreAccess, id: &str) -> Result<bool, ApiError> {
    let found = access.store.object_type(&access.owner, id).await?;
    let found = found.filter(|(object, _)| object == "response");
    found.map(|(_, background)| background).ok_or_else(|| ApiError::not_found("Response", id))
}
