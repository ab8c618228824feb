//! Models that keep different things, and headers with any numbers. `tests/clients/test_devices.py` compares with llama.cpp.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::llama::header::tests::{any_header, is_product, qwen3};
use crate::model_config::Source;

fn config(ctx_size: u32, parallel: u32) -> ModelConfig {
    let source = Source::Gguf("m".into());
    ModelConfig { ctx_size: Some(ctx_size), parallel, ..ModelConfig::new("m", source) }
}

impl Header {
    fn memory(&self, config: &ModelConfig, on_cpu: bool) -> ContextMemory {
        self.context_memory(config, &self.facts(config, on_cpu))
    }
}

/// A header with these numbers and one tensor in each layer.
fn made(architecture: &str, numbers: &[(&str, u64)], tensors: &[&str]) -> Header {
    let name = |(layer, part): (usize, &&str)| (format!("blk.{layer}.{part}.weight"), 1);
    let key = |&(key, number): &(&str, u64)| (format!("{architecture}.{key}"), number);
    Header {
        tensors: tensors.iter().enumerate().map(name).collect(),
        numbers: numbers.iter().map(key).collect(),
        architecture: architecture.to_owned(),
        ..Header::default()
    }
}

const ATTENTION: [(&str, u64); 5] = [
    ("embedding_length", 64),
    ("context_length", 8192),
    ("attention.head_count", 4),
    ("attention.head_count_kv", 2),
    ("attention.key_length", 16),
];
/// Bytes of a token in one layer of that.
const TOKEN: u64 = 2 * (16 + 16) * 2;

#[test]
fn the_width_of_heads_is_what_the_header_says() {
    let layers = |mut header: Header| {
        header.tensors = (0..28).map(|layer| (format!("blk.{layer}.attn_k.weight"), 1)).collect();
        header
    };
    let qwen3 = || layers(qwen3());
    assert_eq!(qwen3().kv_bytes(KvType::F16), 28 * 8 * (128 + 128) * 2);
    assert_eq!(qwen3().kv_bytes(KvType::Q8_0), 28 * 8 * (128 + 128) * 34 / 32);
    let memory = qwen3().memory(&config(4096, 1), false);
    assert_eq!(memory.kv_total(), qwen3().kv_bytes(KvType::F16) * 4096);
    assert!(memory.kv_is_known);
    // Where it says nothing, heads share the width.
    let mut silent = qwen3();
    for key in ["attention.key_length", "attention.value_length"] {
        silent.numbers.remove(&format!("a.{key}"));
    }
    assert_eq!(silent.kv_bytes(KvType::F16), 28 * 8 * (64 + 64) * 2);
    assert_eq!(Header::default().kv_bytes(KvType::F16), 1);
}

#[test]
fn a_recurrent_layer_keeps_a_state_for_each_sequence() {
    let numbers = [
        ("embedding_length", 64),
        ("context_length", 8192),
        ("ssm.conv_kernel", 4),
        ("ssm.inner_size", 128),
        ("ssm.state_size", 16),
    ];
    let mamba = made("mamba", &numbers, &["ssm_in"; 3]);
    let state = (3 * 128 + 16 * 128) * 4;
    let shared = ModelConfig {
        kv_layout: Some(crate::model_config::KvLayout::Shared),
        ..config(1 << 24, 8)
    };
    let memory = mamba.memory(&shared, true);
    assert_eq!(memory.kv, [16 * state; 3], "a shared pool has twice as many slots as requests");
    assert!(memory.compute < 32 << 20, "nothing is attended to");
    let rwkv = made("rwkv6", &[("embedding_length", 64), ("wkv.head_size", 32)], &["time_mix_w1"]);
    assert_eq!(rwkv.state_numbers(), 64 * (32 + 2));
    let lfm2 =
        made("lfm2", &[("embedding_length", 64), ("shortconv.l_cache", 3)], &["shortconv.conv"]);
    assert_eq!(lfm2.state_numbers(), 64 * 2);
    let kimi = [("attention.head_count", 4), ("kda.head_dim", 16), ("ssm.conv_kernel", 4)];
    assert_eq!(made("kimi-linear", &kimi, &[]).state_numbers(), 4 * 16 * 16 + 3 * 3 * 4 * 16);
}

#[test]
fn a_hybrid_keeps_both() {
    let numbers = [&ATTENTION[..], &[("ssm.inner_size", 128), ("ssm.state_size", 16)]].concat();
    let mut jamba = made("jamba", &numbers, &["ssm_in", "attn_k", "attn_qkv"]);
    jamba.arrays.insert("jamba.attention.head_count_kv".to_owned(), vec![0, 2, 1]);
    let config = config(8192, 1);
    // Two slots in a pool for one request.
    let state = 2 * 128 * 16 * 4;
    assert_eq!(jamba.memory(&config, true).kv, [state, 8192 * TOKEN, 8192 * TOKEN / 2]);
    // A matrix of all three in a recurrent layer is none of attention.
    let qwen = made("qwen3next", &numbers, &["attn_qkv"]);
    assert_eq!(qwen.memory(&config, true).kv, [8192 * TOKEN]);
    // Some files say it in numbers: each second layer attends.
    let lightning = [&ATTENTION[..], &[("full_attention_interval", 2)]].concat();
    let minimax = made("minimax-01", &lightning, &["attn_qkv"; 2]);
    assert_eq!(minimax.memory(&config, true).kv, [2 * 4 * 16 * 16 * 4, 8192 * TOKEN]);
    let mut qwen = made("qwen3next", &numbers, &["attn_qkv"]);
    qwen.tensors.push(("blk.0.ssm_out.weight".to_owned(), 1));
    assert_eq!(qwen.memory(&config, true).kv, [state]);
}

#[test]
fn a_window_is_kept_where_layers_attend_to_one() {
    let numbers = [&ATTENTION[..], &[("attention.sliding_window", 512)]].concat();
    let layers = ["attn_k"; 6];
    let config = config(8192, 1);
    let kv = |header: Header| {
        let memory = header.memory(&config, true);
        (memory.kv.iter().map(|bytes| bytes / TOKEN).collect::<Vec<_>>(), memory.kv_is_known)
    };
    // Two slots in a pool for one request, and the 512 rows of a call.
    let window = 3 * 512;
    let (of_gemma, is_known) = kv(made("gemma3", &numbers, &layers));
    assert_eq!(of_gemma[..5], [window; 5]);
    assert_eq!((of_gemma[5], is_known), (8192, true));
    assert_eq!(kv(made("phi3", &numbers, &layers)), (vec![8192; 6], false));
    assert_eq!(kv(made("new", &numbers, &layers)), (vec![8192; 6], false), "nobody knows which");
    assert_eq!(kv(made("exaone4", &numbers, &layers)), (vec![8192; 6], true), "the small ones");
    let mut says = made("gemma4", &numbers, &layers);
    says.arrays
        .insert("gemma4.attention.sliding_window_pattern".to_owned(), vec![0, 1, 1, 0, 1, 1]);
    assert_eq!(kv(says).0, [8192, window, window, 8192, window, window]);
    let period = [&numbers[..], &[("attention.sliding_window_pattern", 2)]].concat();
    assert_eq!(kv(made("gemma3", &period, &layers)).0[..2], [window, 8192]);
    let one =
        [&numbers[..], &[("block_count", 6), ("attention.sliding_window_pattern", 1)]].concat();
    assert!(made("gemma3", &one, &layers).check_window().is_err());
    assert_eq!(made("llama", &one, &layers).check_window(), Ok(()));
    let shared = [&numbers[..], &[("attention.shared_kv_layers", 4)]].concat();
    assert_eq!(kv(made("gemma3n", &shared, &layers)).0, [window, window, 0, 0, 0, 0]);
}

#[test]
fn latent_attention_keeps_no_values() {
    let numbers = [&ATTENTION[..], &[("attention.key_length_mla", 8)]].concat();
    assert_eq!(made("deepseek2", &numbers, &["attn_kv_a_mqa"]).kv_bytes(KvType::F16), TOKEN / 2);
}

#[test]
fn an_encoder_keeps_nothing() {
    let numbers = [&ATTENTION[..], &[("attention.causal", 0), ("pooling_type", 1)]].concat();
    let bert = made("bert", &numbers, &["attn_k"; 3]);
    assert_eq!(bert.kind(), Kind::Embedding);
    assert_eq!(bert.memory(&config(512, 4), false).kv_total(), 0);
    // One pass of the longest input, and usual ones.
    // What attends in both directions keeps all the same, unless its architecture has no memory.
    let both = made("llama-embed", &numbers, &["attn_k"; 3]);
    assert_eq!(both.memory(&config(512, 4), false).kv, [2048 * TOKEN; 3]);
    let states = made(
        "mamba",
        &[("ssm.inner_size", 128), ("ssm.state_size", 16), ("pooling_type", 3)],
        &["ssm_in"],
    );
    assert_eq!(states.memory(&config(512, 4), false).kv, [64 * 128 * 16 * 4], "of each input");
    let causal = made("qwen3", &[&ATTENTION[..], &[("pooling_type", 3)]].concat(), &["attn_k"; 3]);
    assert_eq!(causal.memory(&config(512, 4), false).kv, [2048 * TOKEN; 3]);
}

proptest! {
    /// Builds for tests do not check for overflow: what wraps is smaller than it should be.
    #[test]
    fn whatever_a_header_says_nothing_overflows(
        header in any_header(),
        parallel in 1_u32..=256,
        ctx_size in proptest::option::of(1_u32..=1 << 24),
        window in proptest::option::of(crate::placement::tests::any_number()),
        kind in prop_oneof![Just(Kind::Chat), Just(Kind::Embedding)],
        on_cpu: bool,
    ) {
        let mut header = header;
        header.numbers.extend(window.map(|window| ("a.attention.sliding_window".to_owned(), window)));
        let config = ModelConfig {
            kv_type: KvType::F16,
            ctx_size,
            kind: Some(kind),
            ..config(0, parallel)
        };
        let ModelShape { kv_heads, keys, values, .. } = ModelShape::of(&header);
        let head = keys.saturating_add(values);
        let cells = match kind {
            Kind::Embedding => {
                let EmbeddingLayout { wide, lanes, budget, .. } = EmbeddingLayout::of(&config, header.context_length(), on_cpu);
                u64::from(wide) + if lanes > 1 { u64::from(lanes) * u64::from(budget) } else { 0 }
            }
            Kind::Chat => {
                let window = window.unwrap_or(0) > 0;
                let facts = ModelFacts {
                    memory: SequenceMemory { keys_and_values: true, state: false, window },
                    ..header.facts(&config, on_cpu)
                };
                u64::from(layout::kv_limits(&config, &facts).cells)
            }
        };
        let memory = header.memory(&config, on_cpu);
        let attends: HashMap<usize, ()> = header.tensors.iter().filter_map(|(name, _)| {
            layer_of(name).filter(|(_, part)| part.starts_with("attn_k")).map(|(layer, _)| (layer, ()))
        }).collect();
        for (layer, &bytes) in memory.kv.iter().enumerate() {
            let expected = if attends.contains_key(&layer) { [cells, kv_heads, head, 2] } else { [0; 4] };
            prop_assert!(is_product(bytes, &expected), "{layer} of {memory:?}");
        }
        if kind == Kind::Chat {
            prop_assert!(cells <= 1 << 25, "{cells} cells");
            prop_assert!(memory.compute >= product(&[512, header.n_vocab, 4]).max(16 << 20), "{memory:?}");
        }
        let network = header.number("feed_forward_length").unwrap_or(0);
        prop_assert!(memory.compute >= product(&[network, 4]).max(16 << 20), "{memory:?}");
    }
}
