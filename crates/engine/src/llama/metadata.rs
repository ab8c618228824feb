//! A loaded model's metadata and vocabulary.

use std::hash::Hasher as _;
use std::sync::Arc;

use fnv::FnvHasher;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::Token;
use crate::failure::Failure;
use crate::layout::SequenceMemory;
use crate::model_info::{Kind, ModelInfo, Ranking};
use crate::vocab::{ParseSpecial, Tokenize, Vocab, VocabTable};

/// The `pooling_type` of a model with a classifier.
const POOLING_RANK: u32 = 4;

/// A loaded model's metadata.
pub(super) struct Metadata {
    architecture: String,
    pub(super) n_ctx_train: u32,
    chat_template: Option<String>,
    pub(super) pooling: Option<u32>,
    /// A reranker's template, and the type of its vocabulary.
    rerank: (Option<String>, Option<String>),
    pub(super) causal: bool,
    sliding_window: bool,
}

impl Metadata {
    pub(super) fn read(model: &LlamaModel) -> Self {
        let value = |key: &str| model.meta_val_str(key).ok();
        let architecture = value("general.architecture").unwrap_or_else(|| "unknown".to_owned());
        let of_arch = |key: &str| value(&format!("{architecture}.{key}"));
        Self {
            n_ctx_train: model.n_ctx_train(),
            chat_template: value("tokenizer.chat_template"),
            rerank: (value("tokenizer.chat_template.rerank"), value("tokenizer.ggml.model")),
            pooling: of_arch("pooling_type").and_then(|v| v.parse().ok()),
            causal: of_arch("attention.causal").is_none_or(|v| v != "false"),
            sliding_window: of_arch("attention.sliding_window").is_some_and(|v| v != "0"),
            architecture,
        }
    }

    /// What the model is used for, unless configured.
    pub(super) fn kind(&self) -> Kind {
        Kind::by(self.pooling.map(u64::from), self.causal)
    }

    /// What the model keeps of a sequence.
    pub(super) fn sequence_memory(&self, model: &LlamaModel) -> SequenceMemory {
        SequenceMemory {
            keys_and_values: !model.is_recurrent(),
            state: model.is_recurrent() || model.is_hybrid(),
            window: self.sliding_window,
        }
    }

    pub(super) fn info(
        &self,
        model: &LlamaModel,
        kind: Kind,
        slots: u32,
        slot_tokens: u32,
    ) -> ModelInfo {
        ModelInfo {
            architecture: self.architecture.clone(),
            kind,
            n_ctx_train: self.n_ctx_train,
            slot_tokens,
            slots,
            n_embd: u32::try_from(model.n_embd_out()).unwrap_or(0),
            n_params: model.n_params(),
            size_bytes: model.size(),
            chat_template: self.chat_template.clone(),
            ranking: self.ranking(),
            fingerprint: self.fingerprint(model),
        }
    }

    fn ranking(&self) -> Option<Ranking> {
        let (template, vocabulary) = &self.rerank;
        // XLM-RoBERTa's vocabulary has this type.
        let twice = vocabulary.as_deref() == Some("t5");
        (self.pooling == Some(POOLING_RANK)).then(|| Ranking { template: template.clone(), twice })
    }

    /// FNV-1a over sizes and template: changes with the weights' shape, their quantisation, or the template.
    fn fingerprint(&self, model: &LlamaModel) -> String {
        let facts = format!(
            "{} {} {} {:?}",
            self.architecture,
            model.n_params(),
            model.size(),
            self.chat_template
        );
        let mut hasher = FnvHasher::default();
        hasher.write(facts.as_bytes());
        format!("{:016x}", hasher.finish())
    }
}

struct LlamaTokenizer(Arc<LlamaModel>);

impl Tokenize for LlamaTokenizer {
    fn tokenize(&self, texts: &[&str], special: ParseSpecial) -> Result<Vec<Vec<Token>>, Failure> {
        let vocab = self.0.vocab();
        let tokenize = |text: &&str| -> Vec<Token> {
            let tokens = vocab.tokenize(text.as_bytes(), false, special == ParseSpecial::Yes);
            tokens.into_iter().filter_map(|t| Token::try_from(t.0).ok()).collect()
        };
        Ok(texts.iter().map(tokenize).collect())
    }
}

/// Reads a model's vocabulary.
pub(super) fn vocab(model: &Arc<LlamaModel>) -> Vocab {
    let vocab = model.vocab();
    let kind = model.meta_val_str("tokenizer.ggml.model").ok();
    // Other tokenisers drop or fold parts of a text.
    let lossless = matches!(kind.as_deref(), Some("gpt2" | "llama"));
    let mut table = VocabTable { lossless, ..VocabTable::default() };
    for token in vocab.tokens() {
        table.bytes.reserve(64);
        vocab.token_to_piece_into(token, &mut table.bytes, true, None);
        table.ends.push(u32::try_from(table.bytes.len()).unwrap_or(u32::MAX));
        let unknown = vocab.attr(token).contains(llama_cpp_2::token_type::LlamaTokenAttr::Unknown);
        table.control.push(unknown || vocab.is_control(token));
        if vocab.is_eog(token) {
            table.eog.extend(Token::try_from(token.0));
        }
    }
    let name = |token: LlamaToken| {
        let text = (token.0 >= 0).then(|| vocab.text(token)).flatten();
        text.map(|t| t.to_string_lossy().into_owned()).unwrap_or_default()
    };
    table.bos_text = name(vocab.bos());
    table.eos_text = name(vocab.eos());
    // The markers around an input are what llama.cpp adds to a text.
    let ids = |special: bool| -> Vec<Token> {
        let tokens = vocab.tokenize(b"a", special, false);
        tokens.into_iter().filter_map(|t| Token::try_from(t.0).ok()).collect()
    };
    let (bare, marked) = (ids(false), ids(true));
    if let Some(at) = marked.windows(bare.len().max(1)).position(|w| w == bare) {
        table.prefix = marked[..at].to_vec();
        table.suffix = marked[at + bare.len()..].to_vec();
    }
    Vocab::new(table, Arc::new(LlamaTokenizer(Arc::clone(model))))
}
