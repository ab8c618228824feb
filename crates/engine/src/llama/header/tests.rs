//! Headers of real shapes, and headers with any numbers.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::fit::tests::any_number;
use crate::model::Source;

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

fn header(numbers: &[(&str, u64)]) -> Header {
    let tensors = ["token_embd.weight", "blk.0.attn_q.weight", "blk.27.ffn_up.weight"];
    Header {
        tensors: tensors.map(|name| (name.to_owned(), 1 << 20)).to_vec(),
        numbers: numbers.iter().map(|&(key, number)| (format!("a.{key}"), number)).collect(),
        architecture: "a".to_owned(),
        n_vocab: 151_936,
    }
}

/// The shape of Qwen3 0.6B, whose heads are wider than their part of the width.
fn qwen3() -> Header {
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

fn with(mut header: Header, key: &str, number: u64) -> Header {
    header.numbers.insert(format!("a.{key}"), number);
    header
}

#[test]
fn the_width_of_heads_is_what_the_header_says() {
    assert_eq!(qwen3().kv_bytes(KvType::F16), 28 * 8 * (128 + 128) * 2);
    assert_eq!(qwen3().kv_bytes(KvType::Q8_0), 28 * 8 * (128 + 128) * 34 / 32);
    let config =
        ModelConfig { ctx_size: Some(4096), ..ModelConfig::new("m", Source::Gguf("m".into())) };
    let of_layer = qwen3().running(&config, false).kv_layer;
    assert_eq!(of_layer * 28, qwen3().kv_bytes(KvType::F16) * 4096);
    // Where it says nothing, heads share the width.
    let mut silent = qwen3();
    for key in ["attention.key_length", "attention.value_length"] {
        silent.numbers.remove(&format!("a.{key}"));
    }
    assert_eq!(silent.kv_bytes(KvType::F16), 28 * 8 * (64 + 64) * 2);
    assert_eq!(Header::default().kv_bytes(KvType::F16), 1);
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
fn integers_of_all_types_are_read() {
    let largest = largest_integer;
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
    assert_eq!(largest(sys::GGUF_TYPE_FLOAT32, &1_f32.to_ne_bytes()), None);
    assert_eq!(largest(sys::GGUF_TYPE_UINT32, &[]), None);
}

fn any_header() -> impl Strategy<Value = Header> {
    let numbers = vec(proptest::option::of(any_number()), KEYS.len());
    let tensors = vec((0_usize..6, any_number()), 0..8);
    (numbers, tensors, any_number()).prop_map(|(numbers, tensors, n_vocab)| {
        let names = [
            "token_embd.weight",
            "output.weight",
            "blk.0.attn_q.weight",
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
fn is_product(actual: u64, factors: &[u64]) -> bool {
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
        parallel in 1_u32..=256,
        ctx_size in proptest::option::of(1_u32..=1 << 24),
        on_cpu: bool,
    ) {
        let source = Source::Gguf("m".into());
        let config = ModelConfig {
            parallel,
            ctx_size,
            kv_type: KvType::F16,
            ..ModelConfig::new("m", source)
        };
        let Shape { layers, width, heads, kv_heads, keys, values } = Shape::of(&header);
        let head = keys.saturating_add(values);
        let running = header.running(&config, on_cpu);
        let arithmetic = header.arithmetic();
        let context = u32::try_from(header.number("context_length").unwrap_or(0));
        let facts = Facts {
            n_ctx_train: context.unwrap_or(u32::MAX),
            on_cpu,
            rewinds: true,
            saves: true,
            kv_bytes: 1,
            arithmetic,
        };
        let limits = layout::of(&config, &facts);
        let cells = u64::from(limits.cells);
        prop_assert!(cells <= 1 << 25, "{cells} cells");
        let numbers = product(&[cells, kv_heads.saturating_mul(head)]);
        prop_assert!(is_product(numbers, &[cells, kv_heads, head]));
        prop_assert!(is_product(running.kv_layer, &[numbers, 2]), "{running:?}");
        prop_assert!(is_product(arithmetic.attention, &[layers, heads, head]), "{arithmetic:?}");
        let all = product(&[layers, kv_heads, head, 2]);
        prop_assert_eq!(header.kv_bytes(KvType::F16), all.max(1));
        prop_assert!(arithmetic.matrices >= product(&[width, header.n_vocab]));
        for wide in [header.n_vocab, cells, header.number("feed_forward_length").unwrap_or(0)] {
            prop_assert!(running.compute >= product(&[512, wide, 4]).max(16 << 20), "{running:?}");
        }
        let weights = header.weights();
        let exact: u128 = header.tensors.iter().map(|tensor| u128::from(tensor.1)).sum();
        let exact = u64::try_from(exact).unwrap_or(u64::MAX);
        prop_assert!(weights.total() >= exact.min(u64::MAX - weights.tied), "{weights:?}");
        // It must not panic; what it returns is tested elsewhere.
        drop(header.check());
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
