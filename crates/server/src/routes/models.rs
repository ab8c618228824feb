//! `GET /v1/models` and `GET /v1/models/{id}`.

use axum::extract::{Path, State};
use forebay_engine::Kind;
use forebay_protocol::error::ErrorEnvelope;
use forebay_protocol::model::{Model, ModelList};

use super::Errors;
use crate::error::ApiError;
use crate::extract::Json;
use crate::registry::Served;
use crate::state::AppState;

/// List the models
#[utoipa::path(
    get,
    path = "/models",
    operation_id = "listModels",
    tag = "models",
    responses(
        (status = 200, description = "Every name that `model` may have", body = ModelList),
        (status = "5XX", description = "Not loaded yet", body = ErrorEnvelope),
    ),
)]
pub async fn list(State(state): State<AppState>) -> Result<Json<ModelList>, ApiError> {
    if !state.registry.is_loaded() {
        return Err(ApiError::unavailable("model_loading", "Models are still being loaded."));
    }
    let data = state.registry.names().map(|(name, served)| describe(name, served)).collect();
    Ok(Json(ModelList { object: "list".to_owned(), data }))
}

/// Describe a model
#[utoipa::path(
    get,
    path = "/models/{id}",
    operation_id = "retrieveModel",
    tag = "models",
    params(("id" = String, Path, description = "A model's name or alias, percent-encoded")),
    responses(
        (status = 200, description = "The model", body = Model),
        Errors,
    ),
)]
pub async fn retrieve(
    State(state): State<AppState>,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::no_such_model("?"))?;
    let served = state.registry.resolve(&id)?;
    Ok(Json(describe(&state.registry.answer_name(&id, &served), &served)))
}

fn describe(name: &str, served: &Served) -> Model {
    let info = served.info();
    Model {
        id: name.to_owned(),
        object: "model".to_owned(),
        created: served.created,
        owned_by: "forebay".to_owned(),
        max_model_len: info.slot_tokens,
        kind: match info.kind {
            Kind::Chat => "chat".to_owned(),
            Kind::Embedding if info.ranking.is_some() => "reranker".to_owned(),
            Kind::Embedding => "embedding".to_owned(),
        },
        root: served.name.to_string(),
    }
}
