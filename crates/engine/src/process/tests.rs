//! Every message that crosses, sent and read again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use forebay_scheduler::{CallSample, LearnedCosts};
use serde::Serialize;
use tokio_util::codec::{Decoder as _, Encoder as _};

use super::frames;
use super::messages::*;
use crate::Token;
use crate::exit_cause::ExitCause;
use crate::failure::Failure;
use crate::grammar::{Grammar, GrammarError};
use crate::message::{
    Command, EmbedCommand, GenerateCommand, NewToken, PartialAnswer, Report, SubmitTime, Update,
    UpdateKind,
};
use crate::model_config::{ModelConfig, Source};
use crate::model_info::{Kind, ModelInfo, Ranking};
use crate::placement::GpuLayers;
use crate::request::{
    FinishReason, GenerateRequest, SamplingParams, StopRules, TokenLogprob, TopLogprob,
};
use crate::status::{Progress, Snapshot, Stats};
use crate::step_timeouts::StepKind;
use crate::vocab::{ParseSpecial, VocabTable};

fn logprob(token: Token) -> TokenLogprob {
    let top = vec![TopLogprob { token: 9, logprob: -0.5 }];
    TokenLogprob { token, logprob: f32::NEG_INFINITY, top }
}

fn generate() -> GenerateCommand {
    let partial = PartialAnswer {
        tokens: vec![1, u32::MAX],
        rng_position: u64::MAX,
        held: vec![(logprob(3), 7)],
    };
    let mut request = GenerateRequest::plain([1, 2, 3], 100, SamplingParams::plain(0.7, u64::MAX));
    request.grammar = Some(Grammar::Lark("start: \"é\"".into()));
    request.logprobs = Some(3);
    request.stop = StopRules { strings: vec!["\0".to_owned()], ..StopRules::default() };
    request.sampling.logit_bias = vec![(7, -1e30)];
    request.admission.timeout = Some(Duration::MAX);
    GenerateCommand {
        id: u64::MAX,
        request,
        submitted: SubmitTime::now(),
        started: true,
        partial: vec![None, Some(partial)],
    }
}

fn costs() -> LearnedCosts {
    let sample = CallSample { tokens: u32::MAX, depth: u64::MAX, seconds: -0.5 };
    let plausible = CallSample { tokens: 8, depth: 7, seconds: 0.125 };
    LearnedCosts { rows: vec![sample, plausible], mixed: vec![sample], ..LearnedCosts::default() }
}

fn to_child() -> Vec<ToChild> {
    let mut config = ModelConfig::new("é", Source::Gguf("a/b.gguf".into()));
    config.gpu.layers = GpuLayers::Number(3);
    config.memory_limit = Some(u64::MAX);
    config.costs = costs();
    let embed = EmbedCommand {
        id: 1,
        inputs: vec![vec![], vec![1, 2]],
        submitted: SubmitTime::now(),
        started: false,
        timeout: Some(Duration::from_nanos(1)),
    };
    let texts = vec![String::new(), "🙂".repeat(10)];
    let question = Question::Tokenise(texts, ParseSpecial::Yes);
    let grammar = Question::Compile(Grammar::JsonSchema("{}".into()));
    vec![
        ToChild::Load { config: Box::new(config), seen: vec![StepKind::new(9, true)] },
        ToChild::Command(Command::Generate(Box::new(generate()))),
        ToChild::Command(Command::Embed(Box::new(embed))),
        ToChild::Command(Command::Cancel(7)),
        ToChild::Command(Command::Close),
        ToChild::Question { id: 1 << 63, question, background: true },
        ToChild::Question { id: 0, question: grammar, background: false },
    ]
}

fn news() -> Vec<Update> {
    let grown = NewToken {
        choice: 1,
        token: 2,
        tokens: 3,
        rng_position: 4,
        text: "é".to_owned(),
        logprobs: vec![logprob(5)],
        held: vec![(logprob(6), 1)],
    };
    let second = Duration::from_secs(1);
    let reason = FinishReason::StopString("é".to_owned());
    let all = [
        UpdateKind::Started { queued: second, cached: 3 },
        UpdateKind::Prompt(vec![logprob(1)]),
        UpdateKind::Token(grown),
        UpdateKind::Finished { choice: 0, reason, tokens: 9 },
        UpdateKind::Failed(Failure::Timeout(second)),
        UpdateKind::Dropped,
    ];
    all.into_iter().map(|kind| Update { id: 1, after: second, kind, last: true }).collect()
}

fn from_child() -> Vec<FromChild> {
    let ranking = Ranking { template: Some("{query}".to_owned()), twice: true };
    let info = ModelInfo {
        architecture: "llama".to_owned(),
        kind: Kind::Embedding,
        n_ctx_train: 1,
        slot_tokens: 2,
        slots: 3,
        n_embd: 4,
        n_params: u64::MAX,
        size_bytes: 5,
        chat_template: Some("{{ x }}".to_owned()),
        ranking: Some(ranking),
        fingerprint: "f".to_owned(),
    };
    let table = VocabTable { bytes: vec![0xff, 0], ends: vec![2], ..VocabTable::default() };
    let (max_requests, max_tokens, generates) = (u64::MAX, 1, true);
    let description = ModelDescription { info, table, max_requests, max_tokens, generates };
    let stats = Stats { deaths: [(ExitCause::Hung, 3)].into(), steps: 7, ..Stats::default() };
    let (backlog, overdue) = (Duration::from_secs(1), Some(Duration::MAX));
    let state =
        Snapshot { stats, backlog, stalled: None, overdue, seen: vec![StepKind::new(0, false)] };
    let refused: GrammarError = serde_json::from_str("\"no\"").unwrap();
    let took = Duration::from_micros(1);
    vec![
        FromChild::Progress(Progress(0.5)),
        FromChild::Loaded(Box::new(description)),
        FromChild::LoadFailed("why".to_owned()),
        FromChild::Report(Report::Updates(news())),
        FromChild::Report(Report::Vectors { id: 1, vectors: Ok(vec![vec![1.5, -0.0], vec![]]) }),
        FromChild::Report(Report::Vectors { id: 1, vectors: Err(Failure::Crashed) }),
        FromChild::Report(Report::Dropped(9)),
        FromChild::Answer { id: 1, answer: Answer::Tokens(vec![vec![], vec![3]]), took },
        FromChild::Answer { id: 2, answer: Answer::Compiled(Err(refused)), took },
        FromChild::Snapshot(Box::new(state)),
        FromChild::Costs(Box::new(costs())),
    ]
}

/// Writes as each end does, and reads as the other one does.
fn check<T: std::fmt::Debug + PartialEq + Serialize + serde::de::DeserializeOwned>(all: &[T]) {
    let (mut blocking, mut asynchronous) = (Vec::new(), BytesMut::new());
    for message in all {
        frames::write(&mut blocking, message).unwrap();
        let frame = frames::encode(message).unwrap();
        frames::codec().encode(bytes::Bytes::from(frame), &mut asynchronous).unwrap();
    }
    let mut rest = blocking.as_slice();
    for message in all {
        assert_eq!(frames::read::<T>(&mut rest).unwrap().as_ref(), Some(message));
        let frame = frames::codec().decode(&mut asynchronous).unwrap().unwrap();
        assert_eq!(&frames::decode::<T>(&frame).unwrap(), message);
    }
    assert_eq!(frames::read::<T>(&mut rest).unwrap(), None);
    // Whatever is missing, there is an end or an error.
    for end in 0..blocking.len() {
        let mut cut = &blocking[..end];
        while let Ok(Some(_)) = frames::read::<T>(&mut cut) {}
    }
}

#[test]
fn what_is_sent_is_what_comes() {
    check(&to_child());
    check(&from_child());
}

#[test]
fn a_frame_is_never_longer_than_it_may_be() {
    let mut endless = std::io::Read::chain(&[0xff; 4][..], std::io::repeat(0));
    assert!(frames::read::<FromChild>(&mut endless).is_err());
    // What has not come takes no memory.
    let mut short: &[u8] = &[0x0f, 0xff, 0xff, 0xff, 1, 2];
    assert_eq!(frames::read::<FromChild>(&mut short).unwrap(), None);
}

/// The corpus of the fuzz target `frames`: its inputs are a byte that says who reads, even for the child, and frames.
fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/frames")
}

/// The messages to one side in all of the corpus.
fn in_corpus<T: serde::de::DeserializeOwned>(to_parent: u8) -> Vec<T> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(corpus()).unwrap() {
        let input = std::fs::read(file.unwrap().path()).unwrap();
        let Some((_, mut bytes)) = input.split_first().filter(|(side, _)| *side % 2 == to_parent)
        else {
            continue;
        };
        loop {
            // In front of what a child says, its death.
            bytes = bytes.strip_prefix(&[0xff]).filter(|_| to_parent == 1).unwrap_or(bytes);
            let Ok(Some(message)) = frames::read::<T>(&mut bytes) else { break };
            all.push(message);
        }
    }
    all
}

/// Asserts that the corpus holds a message of each of these kinds. `UPDATE_FUZZ_CORPUS=1 cargo test` adds those
/// that are missing: a message whose format has changed decodes no more.
fn check_corpus<T: Serialize + serde::de::DeserializeOwned>(to_parent: u8, all: &[T], name: &str) {
    let kinds: Vec<_> = in_corpus::<T>(to_parent).iter().map(std::mem::discriminant).collect();
    for (number, message) in all.iter().enumerate() {
        if kinds.contains(&std::mem::discriminant(message)) {
            continue;
        }
        let writes = std::env::vars().any(|(name, _)| name == "UPDATE_FUZZ_CORPUS");
        assert!(writes, "no message {name} {number} in the corpus; UPDATE_FUZZ_CORPUS=1 adds one");
        let mut input = vec![to_parent];
        frames::write(&mut input, message).unwrap();
        std::fs::write(corpus().join(format!("{name}-{number}")), input).unwrap();
    }
}

#[test]
fn the_fuzz_corpus_has_messages_of_each_kind() {
    check_corpus(0, &to_child(), "to-child");
    check_corpus(1, &from_child(), "from-child");
}
