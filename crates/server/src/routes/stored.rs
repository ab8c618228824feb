//! `/v1/responses/{id}`: what was kept of responses.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::Event as SseEvent;
use axum::response::{IntoResponse, Response};
use forebay_protocol::error::ErrorEnvelope;
use futures_util::{Stream, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::background::named;
use crate::error::ApiError;
use crate::extract::{ApiQuery, Json, JsonText};
use crate::sse;
use crate::state::AppState;
use crate::store::{Holder, Listed, Missing, Owner, Page, Store};
use crate::work::Work;

/// Most items of a page.
const MAX_PAGE: i64 = 100;
/// Events of a kept response that are in memory for each of its readers.
const EVENTS_AT_ONCE: u32 = 64;

/// Which part of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// At most this many; default 20.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<i64>,
    /// Those behind the item of this id.
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
    /// Only events behind this `sequence_number`.
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
        (status = "4XX", description = "There is no such response", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn retrieve(
    State(state): State<AppState>,
    Extension(work): Extension<Work>,
    Path(id): Path<String>,
    headers: HeaderMap,
    ApiQuery(query): ApiQuery<RetrieveQuery>,
) -> Result<Response, ApiError> {
    let owner = Owner::of(&headers);
    work.expect_answer(state.limits.history_kib << 10).await?;
    // Looked for before it is read: it may end in between.
    let job = state.jobs.find(&id);
    let (store, response) = response(&state, &owner, &id).await?;
    if query.stream != Some(true) {
        return Ok(JsonText(response.json).into_response());
    }
    // Its events are read a few at a time.
    work.release();
    let keepalive = Duration::from_secs(state.settings.keepalive_s);
    let from = query.starting_after.map_or(0, |after| after.saturating_add(1));
    if let Some(job) = job {
        return Ok(sse::relay(job.events(usize::try_from(from).unwrap_or(usize::MAX)), keepalive));
    }
    if !response.background {
        let message = "'stream' is for responses that were made with 'background'.";
        return Err(ApiError::invalid("stream", "unsupported_value", message));
    }
    Ok(sse::relay(kept_events(store.clone(), owner, id, from), keepalive))
}

/// A response's events, read as they are sent: a long one's take many times its text.
fn kept_events(
    store: Store,
    owner: Owner,
    id: String,
    from: u64,
) -> impl Stream<Item = SseEvent> + Send {
    let state = (from, VecDeque::new());
    stream::unfold(
        (store, owner, id, state),
        |(store, owner, id, (mut next, mut ready))| async move {
            if ready.is_empty() {
                let read = store.events(&owner, &id, next, EVENTS_AT_ONCE).await;
                let read = read.inspect_err(|error| {
                    tracing::error!(error = error.log_text(), "events could not be read");
                });
                ready = VecDeque::from(read.ok()?);
            }
            let event: String = ready.pop_front()?;
            next += 1;
            Some((named(&event), (store, owner, id, (next, ready))))
        },
    )
}

/// Delete a response
#[utoipa::path(
    delete,
    path = "/responses/{id}",
    operation_id = "deleteResponse",
    tag = "responses",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "It is gone", body = serde_json::Value),
        (status = "4XX", description = "There is no such response", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn delete(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let owner = Owner::of(&headers);
    let (store, _) = kind(&state, &owner, &id).await?;
    if let Some(job) = state.jobs.find(&id) {
        job.cancel().await;
    }
    store.delete(&owner, &id).await?;
    Ok(Json(json!({"id": id, "object": "response", "deleted": true})).into_response())
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
        (status = "4XX", description = "It cannot be cancelled", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn cancel(
    State(state): State<AppState>,
    Extension(work): Extension<Work>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let owner = Owner::of(&headers);
    let (_, background) = kind(&state, &owner, &id).await?;
    if !background {
        let message = "Only a response that was made with 'background' can be cancelled.";
        return Err(ApiError::invalid("response_id", "not_in_background", message));
    }
    if let Some(job) = state.jobs.find(&id) {
        job.cancel().await;
    }
    work.expect_answer(state.limits.history_kib << 10).await?;
    let (_, response) = response(&state, &owner, &id).await?;
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
        (status = 200, description = "What its request added", body = serde_json::Value),
        (status = "4XX", description = "There is no such response", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn input_items(
    State(state): State<AppState>,
    Extension(work): Extension<Work>,
    Path(id): Path<String>,
    headers: HeaderMap,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Result<Response, ApiError> {
    let owner = Owner::of(&headers);
    let (store, _) = kind(&state, &owner, &id).await?;
    list((&state, &work), store, &owner, &id, query).await
}

/// A page of a holder's items as OpenAI spells lists.
pub(super) async fn list(
    (state, work): (&AppState, &Work),
    store: &Store,
    owner: &Owner,
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
    let page = Page { limit, after: query.after, descending };
    work.expect_answer(state.limits.history_kib << 10).await?;
    let listed = store
        .page(owner, id, page, state.limits.history_kib << 10)
        .await?
        .map_err(|Missing(id)| ApiError::not_found("Item", &id).at("after"))?;
    Ok(JsonText(spelled(&listed)).into_response())
}

/// OpenAI's shape of a list.
pub(super) fn spelled(Listed { items, more }: &Listed) -> String {
    let id = |item: Option<&(String, String)>| item.map_or(Value::Null, |(id, _)| json!(id));
    let texts: Vec<&str> = items.iter().map(|(_, json)| json.as_str()).collect();
    format!(
        r#"{{"object":"list","data":[{}],"first_id":{},"last_id":{},"has_more":{more}}}"#,
        texts.join(","),
        id(items.first()),
        id(items.last()),
    )
}

/// The store, if there is one.
pub(super) fn store(state: &AppState) -> Result<&Store, ApiError> {
    state.store.as_ref().ok_or_else(|| ApiError::turned_off("this server keeps no responses"))
}

/// The response of this id, and the store that has it.
async fn response<'a>(
    state: &'a AppState,
    owner: &Owner,
    id: &str,
) -> Result<(&'a Store, Holder), ApiError> {
    let store = store(state)?;
    let found = store.get(owner, id).await?.filter(|found| found.object == "response");
    let found = found.ok_or_else(|| ApiError::not_found("Response", id))?;
    Ok((store, found))
}

/// Whether the response of this id was made in the background, and the store that has it.
async fn kind<'a>(
    state: &'a AppState,
    owner: &Owner,
    id: &str,
) -> Result<(&'a Store, bool), ApiError> {
    let store = store(state)?;
    let found = store.kind(owner, id).await?.filter(|(object, _)| object == "response");
    let (_, background) = found.ok_or_else(|| ApiError::not_found("Response", id))?;
    Ok((store, background))
}
