//! `POST /v1/rerank`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_engine::SubmitError;
use forebay_protocol::TextOrTokens;
use forebay_protocol::fields;
use forebay_protocol::rerank::{Ranked, RerankRequest, RerankResponse};
use forebay_protocol::usage::EmbeddingUsage;

use super::Errors;
use crate::admission;
use crate::convert::embedding::{self, EmbeddingOptions};
use crate::convert::rerank;
use crate::convert::sampling::integer;
use crate::convert::{Stamp, check_extra, log_unknown};
use crate::error::ApiError;
use crate::extract::{ApiJson, Json};
use crate::pool::Effort;
use crate::record::Record;
use crate::request_resources::RequestResources;
use crate::state::AppState;

/// Put documents in order of relevance
///
/// With a reranker: by how likely it finds that each document answers the query. With an embedding
/// model: by the cosine of the query's and the documents' vectors. The answer says which (`method`).
#[utoipa::path(
    post,
    path = "/rerank",
    operation_id = "rerank",
    tag = "embeddings",
    request_body = RerankRequest,
    responses(
        (status = 200, description = "The documents, the most relevant first", body = RerankResponse),
        Errors,
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    Extension(resources): Extension<RequestResources>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<RerankRequest>,
) -> Result<Response, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    served.embedder()?;
    admission::timeout(&headers)?;
    log_unknown(&check_extra(fields::EMBEDDING, &request.extra, state.settings.strict)?);
    let most = integer("top_n", request.top_n, 1, i64::from(i32::MAX))?;
    let most = most.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if request.documents.is_empty() {
        let message = "'documents' must hold at least one document.";
        return Err(ApiError::invalid("documents", "empty_array", message));
    }
    let texts = std::iter::once(request.query.as_str());
    let texts = texts.chain(request.documents.iter().map(|document| document.text()));
    let input: Vec<String> = texts.map(str::to_owned).collect();
    if let Some(index) = input.iter().position(String::is_empty) {
        let why = ApiError::invalid("", "invalid_value", "A text cannot be empty.");
        return Err(why.at(param_of(index)));
    }
    let model = Arc::clone(&served);
    let tokens = move || {
        let model = model.embedding_view()?;
        match &model.info.ranking {
            Some(ranking) => rerank::tokenize_pairs(&input, ranking, model),
            None => {
                let (input, options) = (TextOrTokens::Texts(input), EmbeddingOptions::whole());
                embedding::tokenize(input, options, model).map_err(renamed)
            }
        }
    };
    let inputs = resources.run_for(&served, Effort::Tiny, tokens).await?;
    let count: usize = inputs.iter().map(Vec::len).sum();
    let prompt_tokens = u32::try_from(count).unwrap_or(u32::MAX);
    record.update(|facts| {
        facts.model = Some(Arc::clone(&served));
        facts.prompt_tokens = prompt_tokens;
    });
    let vectors = served
        .embedder()?
        .embed(inputs, resources.time_left())
        .await
        .inspect_err(|_| state.metrics.rejected("engine"))
        .map_err(|error| match error {
            SubmitError::TooManyTokens { .. } => ApiError::from(error).at("documents"),
            error => error.into(),
        })??;
    served.metrics.prompt_tokens.increment(u64::from(prompt_tokens));
    let ranks = served.info().ranking.is_some();
    let scores = if ranks { rerank::probabilities(&vectors) } else { rerank::cosines(&vectors) };
    let mut scores: Vec<(usize, f32)> = scores.into_iter().enumerate().collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let repeats = request.return_documents.unwrap_or(false);
    let ranked = scores.into_iter().take(most).map(|(index, relevance_score)| Ranked {
        index,
        relevance_score,
        document: repeats.then(|| request.documents[index].clone()),
    });
    let name = state.registry.answer_name(&request.model, &served);
    let Stamp { id, model, .. } = Stamp::new("rerank", name, &served.info().fingerprint);
    Ok(Json(RerankResponse {
        id,
        model,
        method: if ranks { "reranker" } else { "embedding" }.to_owned(),
        results: ranked.collect(),
        usage: EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens },
    })
    .into_response())
}

/// The error at this API's field: the query is the first input.
fn renamed(error: ApiError) -> ApiError {
    let index =
        error.param().and_then(|p| p.strip_prefix("input[")?.strip_suffix(']')?.parse().ok());
    match index {
        Some(index) => error.at(param_of(index)),
        None => error.at("documents"),
    }
}

/// The field that is input number `index`: the query, then the documents.
fn param_of(index: usize) -> String {
    match index.checked_sub(1) {
        None => "query".to_owned(),
        Some(document) => format!("documents[{document}]"),
    }
}
