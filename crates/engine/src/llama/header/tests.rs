//! Headers of real shapes, and headers with any numbers.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::placement::tests::any_number;

const KEYS: [&str; 10] = [
    "block_count",
    "embedding_length",
    "context_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "feed_forward_length",
    "expert_feed_forward_length",
    "expert_used_count",
];

pub(crate) fn header(numbers: &[(&str, u64)]) -> Header {
    let tensors = ["token_embd.weight", "blk.0.attn_q.weight", "blk.27.ffn_up.weight"];
    Header {
        tensors: tensors.map(|name| (name.to_owned(), 1 << 20)).to_vec(),
        numbers: numbers.iter().map(|&(key, number)| (format!("a.{key}"), number)).collect(),
        architecture: "a".to_owned(),
        n_vocab: 151_936,
        ..Header::default()
    }
}

/// The shape of Qwen3 0.6B, whose heads are wider than their part of the width.
pub(crate) fn qwen3() -> Header {
    header(&[
        ("block_count", 28),
        ("embedding_length", 1024),
        ("context_length", 40_960),
        ("attention.head_count", 16),
        ("attention.head_count_kv", 8),
        ("attention.key_length", 128),
        ("attention.value_length", 128),
        ("feed_forward_length", 3072),
    ])
}

pub(crate) fn with(mut header: Header, key: &str, number: u64) -> Header {
    header.numbers.insert(format!("a.{key}"), number);
    header
}

#[test]
fn a_header_that_no_model_can_have_is_named() {
    assert_eq!(qwen3().check(), Ok(()));
    for key in &KEYS[..4] {
        for number in [0, u64::from(u32::MAX) + 1, u64::MAX] {
            let why = with(qwen3(), key, number).check().unwrap_err();
            assert!(why.starts_with("its header"), "{key} {number}: {why}");
        }
    }
    for (key, number) in [
        ("block_count", 5000),
        ("attention.head_count_kv", 0),
        ("attention.key_length", 0),
        ("attention.value_length", u64::MAX),
    ] {
        assert!(with(qwen3(), key, number).check().is_err(), "{key} {number}");
    }
    assert!(header(&[]).check().is_err());
    assert!(Header { architecture: String::new(), ..qwen3() }.check().is_err());
    assert!(Header { tensors: Vec::new(), ..qwen3() }.check().is_err());
    assert!(Header { tensors: vec![("a".to_owned(), 0)], ..qwen3() }.check().is_err());
    // A recurrent model has no heads.
    let tensors = vec![("blk.0.ssm_in.weight".to_owned(), 5)];
    let recurrent = Header { tensors, ..with(qwen3(), "attention.head_count", 0) };
    assert_eq!(recurrent.check(), Ok(()));
}

#[test]
fn numbers_of_layers_are_kept() {
    let mut header = qwen3();
    let heads: Vec<u8> = [0_i32, 8, -1, 4].iter().flat_map(|n| n.to_ne_bytes()).collect();
    header.add_numbers("a.attention.head_count_kv".to_owned(), sys::GGUF_TYPE_INT32, &heads, true);
    let of = |layer| header.of_layer("attention.head_count_kv", layer);
    assert_eq!([0, 1, 2, 3, 4].map(of), [Some(0), Some(8), Some(0), Some(4), None]);
    assert_eq!(header.number("attention.head_count_kv"), Some(8));
    assert_eq!(header.of_layer("block_count", 5), Some(28), "once for all");
    header.add_numbers("a.many".to_owned(), sys::GGUF_TYPE_UINT8, &[1; 5000], true);
    assert!(!header.arrays.contains_key("a.many"));
}

#[test]
fn what_goes_where_is_seen_from_names() {
    let with = |architecture: &str, causal: u64, tensors: &[&str]| {
        let tensors = tensors.iter().map(|name| (format!("{name}.weight"), 10)).collect();
        let numbers = HashMap::from([(format!("{architecture}.attention.causal"), causal)]);
        Header { tensors, numbers, architecture: architecture.to_owned(), ..Header::default() }
            .weights()
    };
    let bert = ["token_embd", "position_embd", "token_types", "token_embd_norm", "blk.0.attn_k"];
    let weights = with("bert", 0, &bert);
    assert_eq!((weights.input, weights.output, weights.tied), (30, 10, 0), "an encoder");
    let weights = with("llama", 1, &["token_embd", "output_norm", "blk.0.attn_k"]);
    assert_eq!((weights.input, weights.output, weights.tied), (10, 20, 10));
    let weights = with("gemma-embedding", 0, &["token_embd"]);
    assert_eq!(weights.tied, 10);
    let weights = with("gemma3n", 1, &["token_embd", "per_layer_token_embd", "output"]);
    assert_eq!((weights.input, weights.output, weights.tied), (20, 10, 0));
    let mut predicts = qwen3();
    predicts.numbers.insert("a.nextn_predict_layers".to_owned(), 1);
    assert_eq!(predicts.weights().layers.last(), Some(&Layer::default()), "it is not loaded");
    let weights = with("t5", 1, &["token_embd", "enc.blk.0.attn_k", "dec.blk.1.attn_k", "output"]);
    assert_eq!(weights.layers.iter().map(|layer| layer.all).collect::<Vec<_>>(), [10, 10]);
}

#[test]
fn integers_of_all_types_are_read() {
    let largest = |kind, bytes: &[u8]| integers(kind, bytes).flatten().max();
    assert_eq!(largest(sys::GGUF_TYPE_UINT8, &[200]), Some(200));
    assert_eq!(largest(sys::GGUF_TYPE_INT8, &[100]), Some(100));
    assert_eq!(largest(sys::GGUF_TYPE_UINT16, &50_000_u16.to_ne_bytes()), Some(50_000));
    assert_eq!(largest(sys::GGUF_TYPE_INT16, &30_000_i16.to_ne_bytes()), Some(30_000));
    assert_eq!(largest(sys::GGUF_TYPE_UINT32, &u32::MAX.to_ne_bytes()), Some(u32::MAX.into()));
    assert_eq!(largest(sys::GGUF_TYPE_INT32, &70_000_i32.to_ne_bytes()), Some(70_000));
    assert_eq!(largest(sys::GGUF_TYPE_UINT64, &u64::MAX.to_ne_bytes()), Some(u64::MAX));
    assert_eq!(largest(sys::GGUF_TYPE_INT64, &(1_i64 << 40).to_ne_bytes()), Some(1 << 40));
    // One for each layer.
    let layers: Vec<u8> = [0_i32, 8, -1, 4].iter().flat_map(|n| n.to_ne_bytes()).collect();
    assert_eq!(largest(sys::GGUF_TYPE_INT32, &layers), Some(8));
    // None is meant.
    assert_eq!(largest(sys::GGUF_TYPE_INT8, &[0xff]), None);
    assert_eq!(largest(sys::GGUF_TYPE_INT64, &(-1_i64).to_ne_bytes()), None);
    assert_eq!(largest(sys::GGUF_TYPE_BOOL, &[1]), Some(1));
    assert_eq!(largest(sys::GGUF_TYPE_FLOAT32, &1_f32.to_ne_bytes()), None);
    assert_eq!(largest(sys::GGUF_TYPE_UINT32, &[]), None);
}

pub(crate) fn any_header() -> impl Strategy<Value = Header> {
    let numbers = vec(proptest::option::of(any_number()), KEYS.len());
    let tensors = vec((0_usize..7, any_number()), 0..8);
    (numbers, tensors, any_number()).prop_map(|(numbers, tensors, n_vocab)| {
        let names = [
            "token_embd.weight",
            "output.weight",
            "blk.0.attn_q.weight",
            "blk.2.attn_k.weight",
            "blk.1.ffn_up_exps.weight",
        ];
        let name = |n: usize| names.get(n).map_or_else(|| format!("blk.{n}.x"), |&n| n.to_owned());
        let said = KEYS.iter().zip(numbers).filter_map(|(key, number)| Some((*key, number?)));
        Header {
            tensors: tensors.into_iter().map(|(n, bytes)| (name(n), bytes)).collect(),
            n_vocab,
            ..header(&said.collect::<Vec<_>>())
        }
    })
}

/// Whether this is that product, or as large as a number can be if the product is larger.
pub(crate) fn is_product(actual: u64, factors: &[u64]) -> bool {
    let zero = factors.contains(&0);
    let exact = factors.iter().try_fold(1_u128, |all, &f| all.checked_mul(f.into()));
    let exact = if zero { Some(0) } else { exact };
    exact.and_then(|exact| u64::try_from(exact).ok()).unwrap_or(u64::MAX) == actual
}

proptest! {
    /// Builds for tests do not check for overflow: what wraps is smaller than it should be.
    #[test]
    fn whatever_a_header_says_nothing_overflows(
        header in any_header(),
    ) {
        let ModelShape { layers, width, heads, keys, values, .. } = ModelShape::of(&header);
        let head = keys.saturating_add(values);
        let arithmetic = header.arithmetic();
        prop_assert!(is_product(arithmetic.attention, &[layers, heads, head]), "{arithmetic:?}");
        prop_assert!(arithmetic.matrices >= product(&[width, header.n_vocab]));
        let weights = header.weights();
        let exact: u128 = header.tensors.iter().map(|tensor| u128::from(tensor.1)).sum();
        let exact = u64::try_from(exact).unwrap_or(u64::MAX);
        prop_assert!(weights.total() >= exact.min(u64::MAX - weights.tied), "{weights:?}");
        // It must not panic; what it returns is tested elsewhere.
        drop((header.check(), header.check_window()));
    }
}

#[test]
fn a_models_other_files_are_named_as_its_first_one_is() {
    let split = |count, number| {
        let mut header = qwen3();
        header.numbers.insert("split.count".to_owned(), count);
        header.numbers.insert("split.no".to_owned(), number);
        header
    };
    let path = Path::new("/models/big-00001-of-00003.gguf");
    let others = ["/models/big-00002-of-00003.gguf", "/models/big-00003-of-00003.gguf"];
    assert_eq!(split(3, 0).other_files(path), Ok(others.map(PathBuf::from).to_vec()));
    assert_eq!(split(1, 0).other_files(Path::new("big.gguf")), Ok(Vec::new()));
    assert_eq!(qwen3().other_files(Path::new("big.gguf")), Ok(Vec::new()));
    for (count, number, name, why) in [
        (3, 0, "big.gguf", "so its name has to end with -00001-of-00003.gguf"),
        (4, 0, "big-00001-of-00003.gguf", "so its name has to end with -00001-of-00004.gguf"),
        (3, 1, "big-00002-of-00003.gguf", "it is number 2 of 3 files"),
        (u64::MAX, 0, "big-00001-of-00003.gguf", "has 18446744073709551615 files"),
        (3, u64::MAX, "big-00001-of-00003.gguf", "the first is to be named"),
    ] {
        let said = split(count, number).other_files(Path::new(name)).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
}
