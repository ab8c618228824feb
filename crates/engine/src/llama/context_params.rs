//! The parameters that all contexts of a model have in common.

use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};

use super::llama_id;
use crate::model_config::{KvType, ModelConfig};

/// The threads, attention and KV type of all contexts.
pub(super) fn context_params(config: &ModelConfig, threads: u32) -> LlamaContextParams {
    let threads = llama_id(threads);
    let attention = match config.flash_attention {
        None => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_AUTO,
        Some(true) => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        Some(false) => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    let kind = match config.kv_type {
        KvType::F32 => KvCacheType::F32,
        KvType::F16 => KvCacheType::F16,
        KvType::Bf16 => KvCacheType::BF16,
        KvType::Q8_0 => KvCacheType::Q8_0,
        KvType::Q5_1 => KvCacheType::Q5_1,
        KvType::Q5_0 => KvCacheType::Q5_0,
        KvType::Q4_1 => KvCacheType::Q4_1,
        KvType::Q4_0 => KvCacheType::Q4_0,
    };
    LlamaContextParams::default()
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_flash_attention_policy(attention)
        .with_type_k(kind)
        .with_type_v(kind)
}
