//! `POST /v1/responses`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_protocol::TextOr;
use forebay_protocol::responses::{InputItem, InputTokens, ResponsesRequest};

use super::Errors;
use super::not_enforced::with_not_enforced;
use super::submission::{RequestParts, Submitted, context, prepare_and_submit};
use crate::convert::Stamp;
use crate::convert::prepare::{PreparedConversation, count, prepare};
use crate::cost::{JsonSize, measure};
use crate::dialects::responses::request::{self, Input, Namespaces, conversation_id, shorten};
use crate::dialects::responses::{encode, items};
use crate::error::{ApiError, shown};
use crate::extract::{ApiJson, Json, JsonText};
use crate::persistence::{Destination, PersistedResponse};
use crate::pool::Effort;
use crate::record::Record;
use crate::request_context::RequestContext;
use crate::request_resources::RequestResources;
use crate::response_store::{History, ItemError, NotFound, Owner, ResponseEntry, StoredItem};
use crate::sse;
use crate::state::AppState;

/// Answer as a response
///
/// With `stream: true` the answer comes as named server-sent events, ended by `response.completed`,
/// `response.incomplete` or `response.failed`. With `background: true` it is generated in the
/// background, and retrieved later.
#[utoipa::path(
    post,
    path = "/responses",
    operation_id = "createResponse",
    tag = "responses",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The response, whole or as events", content(
            (serde_json::Value = "application/json"),
            (String = "text/event-stream"),
        ), headers(
            ("x-forebay-not-enforced" = String, description = "Keywords of a schema that the answer may violate, separated by commas; absent where all are enforced"),
        )),
        Errors,
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    Extension(resources): Extension<RequestResources>,
    owner: Owner,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ResponsesRequest>,
) -> Result<Response, ApiError> {
    resources.check_kept(&state.limits)?;
    let context = context(&state, &request.model, &headers)?;
    let request = Arc::new(request);
    let read = read_stored_input(&state, &owner, &resources, &request).await?;
    let mut destination = destination(&state, owner, &request)?;
    let called =
        RequestParts { state: &state, record, resources: resources.clone(), repeats: true };
    let (asked, stores) = (Arc::clone(&request), destination.is_some());
    let submitted = prepare_and_submit(called, context, move |context| {
        prepare_response(&asked, read, stores, context)
    });
    let (submitted, ResponseParts { echo, namespaces, input }) = submitted.await?;
    let Submitted { replies, stream, served, not_enforced } = submitted;
    if let Some(destination) = &mut destination {
        destination.entry.input = input;
    }
    let name = state.registry.answer_name(&request.model, &served);
    let mut stamp = Stamp::new("resp", name, &served.info().fingerprint);
    stamp.id = items::new_id("resp");
    let header = encode::Header::new(stamp, Arc::new(echo));
    let response = encode::Response::new(header, namespaces, served);
    let keepalive = Duration::from_secs(state.settings.keepalive_s);
    if let Some(destination) = destination.take_if(|_| request.background == Some(true)) {
        let (queued, job) =
            state.jobs.start(replies, response, destination, resources.take()).await?;
        return Ok(with_not_enforced(
            if stream {
                sse::relay(job.events(0), keepalive)
            } else {
                JsonText(queued).into_response()
            },
            not_enforced,
        ));
    }
    let response = PersistedResponse::new(response, destination);
    Ok(with_not_enforced(
        if stream {
            sse::respond(replies, response, keepalive)
        } else {
            JsonText(response.collect(replies).await?).into_response()
        },
        not_enforced,
    ))
}

/// Count a response's input tokens
#[utoipa::path(
    post,
    path = "/responses/input_tokens",
    operation_id = "countResponseTokens",
    tag = "tokens",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The number", body = InputTokens),
        Errors,
    ),
)]
pub async fn input_tokens(
    State(state): State<AppState>,
    Extension(resources): Extension<RequestResources>,
    owner: Owner,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ResponsesRequest>,
) -> Result<Response, ApiError> {
    let context = context(&state, &request.model, &headers)?;
    let request = Arc::new(request);
    let read = read_stored_input(&state, &owner, &resources, &request).await?;
    let served = Arc::clone(&context.served);
    let counted = resources.run_for(&served, Effort::Tiny, move || {
        let input = read.parse(&request)?;
        let (conversation, _) = request::read(&request, &input, &context.rules())?;
        count(&conversation, context.chat()?)
    });
    let (object, input_tokens) = ("response.input_tokens", counted.await?);
    Ok(Json(InputTokens { object, input_tokens }).into_response())
}

/// The part of a request's input that is read from the store, as JSON texts.
struct StoredInput {
    /// The items before it.
    history: Vec<String>,
    /// The items that the request refers to, in order.
    referred: Vec<String>,
}

/// What of a request is needed for its response.
struct ResponseParts {
    /// The fields of the response that repeat the request's.
    echo: encode::Echo,
    /// The namespace of each tool that is in one.
    namespaces: Namespaces,
    /// The request's own items, if they are stored.
    input: Arc<[StoredItem]>,
}

impl StoredInput {
    /// All that the model is to read.
    fn parse(self, request: &ResponsesRequest) -> Result<Input, ApiError> {
        let parsed = |texts: &[String]| -> Result<Vec<InputItem>, ApiError> {
            texts.iter().map(|text| items::of_stored(text)).collect()
        };
        let (history, referred) = (parsed(&self.history)?, parsed(&self.referred)?);
        let mut new = items::of_input(request.input.as_ref())?;
        let references = new.iter_mut().filter(|item| items::reference(item).is_some());
        for (reference, item) in references.zip(referred) {
            *reference = item;
        }
        Ok(Input { history, new })
    }
}

/// Prepares a response's request. Where it may be cut and is too long, the oldest items are left
/// out. What the response repeats and stores of it becomes JSON text here, off the async runtime.
fn prepare_response(
    request: &ResponsesRequest,
    read: StoredInput,
    stores: bool,
    context: &RequestContext,
) -> Result<(PreparedConversation, ResponseParts), ApiError> {
    let mut input = read.parse(request)?;
    let own = input.new.iter().filter(|_| stores).map(items::stored).collect();
    loop {
        let (conversation, namespaces) = request::read(request, &input, &context.rules())?;
        match prepare(conversation, context.chat()?) {
            Ok(prepared) => {
                let echo = encode::Echo::of(request, context.has_effort_control())?;
                return Ok((prepared, ResponseParts { echo, namespaces, input: own }));
            }
            Err(error) if cuts(request, &error) && shorten(&mut input) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads what the store has of the input: the items before it, and items that the request refers to.
async fn read_stored_input(
    state: &AppState,
    owner: &Owner,
    resources: &RequestResources,
    request: &ResponsesRequest,
) -> Result<StoredInput, ApiError> {
    let limit = state.limits.history_kib << 10;
    let too_long = |param: &str| {
        let message = format!("The items of '{param}' have more than {limit} bytes of JSON.");
        ApiError::invalid(param, "context_length_exceeded", message)
    };
    let referred = referred(state, owner, request, limit, too_long).await?;
    let conversation = conversation_id(request)?;
    let (param, id) = match (&request.previous_response_id, &conversation) {
        (Some(previous), _) => ("previous_response_id", Some(previous)),
        (_, conversation) => ("conversation", conversation.as_ref()),
    };
    let History { items: history, whole } = match id {
        Some(id) => history(state, owner, param, id, limit).await?,
        None => History { items: Vec::new(), whole: true },
    };
    if !whole && !may_cut(request) {
        return Err(too_long(param));
    }
    let mut cost = JsonSize::default();
    for text in history.iter().chain(&referred) {
        cost = cost.plus(measure(text.as_bytes())?);
    }
    resources.reserve(cost).await?;
    Ok(StoredInput { history, referred })
}

/// The items that the request refers to, in order.
async fn referred(
    state: &AppState,
    owner: &Owner,
    request: &ResponsesRequest,
    limit: usize,
    too_long: impl Fn(&str) -> ApiError,
) -> Result<Vec<String>, ApiError> {
    let Some(TextOr::Parts(all)) = &request.input else { return Ok(Vec::new()) };
    let references = all
        .iter()
        .enumerate()
        .filter_map(|(at, item)| items::reference(item).map(|id| (at, id.to_owned())));
    let (places, ids): (Vec<usize>, Vec<String>) = references.unzip();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let missing = |at: usize| items::no_such_item(format!("input[{}].id", places[at]), &ids[at]);
    let Some(store) = &state.store else { return Err(missing(0)) };
    match store.items(owner, ids.clone(), limit).await? {
        Ok(items) => Ok(items),
        Err(ItemError::NotFound(at)) => Err(missing(at)),
        Err(ItemError::TooLong(_)) => Err(too_long("input")),
    }
}

/// The items up to the end of a response or a conversation.
async fn history(
    state: &AppState,
    owner: &Owner,
    param: &str,
    id: &str,
    limit: usize,
) -> Result<History, ApiError> {
    let store = state.store.as_ref().ok_or_else(|| no_store(param))?;
    if state.jobs.find(id).is_some() {
        let message = format!("The response '{}' is not complete yet.", shown(id));
        return Err(ApiError::invalid(param, "response_not_complete", message));
    }
    match store.history(owner, id, limit).await? {
        Ok(history) => Ok(history),
        Err(NotFound(id)) if param == "conversation" => {
            Err(ApiError::not_found("Conversation", &id).at(param))
        }
        Err(NotFound(id)) => {
            let message = format!("Previous response with id '{}' not found.", shown(&id));
            Err(ApiError::invalid(param, "previous_response_not_found", message))
        }
    }
}

/// Where the response is stored, if it is.
fn destination(
    state: &AppState,
    owner: Owner,
    request: &ResponsesRequest,
) -> Result<Option<Destination>, ApiError> {
    let background = request.background == Some(true);
    let Some(store) = &state.store else {
        return if background { Err(no_store("background")) } else { Ok(None) };
    };
    let retrievable = request.store.unwrap_or(true);
    if background && !retrievable {
        let message = "'background' needs 'store': the response has to be retrieved later.";
        return Err(ApiError::invalid("background", "invalid_value", message));
    }
    let conversation = conversation_id(request)?;
    let previous = request.previous_response_id.clone();
    let wanted = retrievable || conversation.is_some();
    let (input, events) = (Arc::default(), Vec::new());
    let entry = ResponseEntry { owner, previous, conversation, input, retrievable, events };
    Ok(wanted.then(|| Destination { store: store.clone(), entry }))
}

fn no_store(param: &str) -> ApiError {
    let message = format!("'{param}' is not supported: this server keeps no responses.");
    ApiError::invalid(param, "unsupported_parameter", message)
}

/// Whether the request wants input that is too long to be cut.
fn cuts(request: &ResponsesRequest, error: &ApiError) -> bool {
    may_cut(request) && error.code() == Some("context_length_exceeded")
}

fn may_cut(request: &ResponsesRequest) -> bool {
    request.truncation.as_deref() == Some("auto")
}
