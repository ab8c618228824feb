//! Engines in processes of their own, which are killed, stopped and left alone.

use std::time::{Duration, Instant};

use forebay_engine::process::Launcher;
use forebay_engine::scripted::Script;
use forebay_engine::{
    Engine, Event, Failure, FinishReason, GenerateRequest, Gpu, Grammar, KvType, Loaded,
    ModelConfig, ParseSpecial, SamplingParams, Source, Status, StopRules, TokenLogprob, load,
    load_in_process,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

fn config(script: Script) -> ModelConfig {
    ModelConfig {
        name: "test".into(),
        source: Source::Scripted(script),
        kind: None,
        ctx_size: None,
        kv_layout: None,
        kv_host_bytes: 0,
        long_slot: true,
        parallel: 8,
        batch_size: Some(64),
        ubatch_size: None,
        itl_target: Duration::from_millis(100),
        threads: None,
        gpu: Gpu::default(),
        kv_type: KvType::default(),
        flash_attention: None,
        mmap: true,
        pooling: None,
        speculate: true,
        queue: 64,
        queue_tokens: None,
        queue_timeout: None,
        unread_bytes: 64 << 20,
    }
}

/// A script with chance in it, whose steps take 2 ms.
fn script() -> Script {
    Script { step_time: Duration::from_millis(2), peak: 8.0, ..Script::default() }
}

fn launcher() -> Launcher {
    Launcher {
        program: env!("CARGO_BIN_EXE_forebay").into(),
        arguments: vec!["engine".into(), "--log-level".into(), "off".into()],
        silence: Duration::from_secs(1),
    }
}

async fn chat(loading: Result<forebay_engine::Loading, forebay_engine::LoadError>) -> Engine {
    match loading.unwrap().finish().await.unwrap() {
        Loaded::Chat(engine) => engine,
        Loaded::Embedding(_) => panic!("not a chat model"),
    }
}

async fn apart(script: Script) -> Engine {
    chat(load_in_process(config(script), launcher())).await
}

fn request(seed: u64) -> GenerateRequest {
    let stop = StopRules { ignore_eos: true, ..StopRules::default() };
    let plain = GenerateRequest::plain([256, 65, 66], 600, SamplingParams::plain(1.0, seed));
    GenerateRequest { stop, ..plain }
}

/// Requests of many kinds.
fn requests() -> Vec<GenerateRequest> {
    let mut all: Vec<GenerateRequest> = (0..4).map(request).collect();
    all.push(GenerateRequest { choices: 3, ..request(4) });
    all.push(GenerateRequest { logprobs: Some(2), prompt_logprobs: Some(1), ..request(5) });
    let strings = vec!["abc abc abc abc abc abc abc abc x".to_owned(), "never".to_owned()];
    let stop = StopRules { strings, min_tokens: 50, ignore_eos: true, ..StopRules::default() };
    all.push(GenerateRequest { stop, logprobs: Some(0), ..request(6) });
    let mut penalised = request(7);
    penalised.sampling.frequency_penalty = 0.01;
    penalised.sampling.top_p = 0.999;
    all.push(penalised);
    // Without chance: how many random numbers forced tokens take depends on what was drafted.
    let grammar = Grammar::Regex("([a-c]{3} ){30}[a-c]*".into());
    let mut shaped = GenerateRequest { grammar: Some(grammar), ..request(8) };
    shaped.sampling.temperature = 0.0;
    all.push(shaped);
    all
}

/// What a reader gets of each answer, and what it is told besides.
#[derive(Debug, Default, PartialEq)]
struct Read {
    texts: Vec<String>,
    logprobs: Vec<Vec<TokenLogprob>>,
    ends: Vec<Option<(FinishReason, u32)>>,
    prompt: Vec<TokenLogprob>,
    starts: u32,
    pauses: u32,
    failure: Option<Failure>,
}

async fn read(engine: &Engine, request: GenerateRequest) -> Read {
    if let Some(grammar) = request.grammar.clone() {
        let engine = engine.clone();
        tokio::task::spawn_blocking(move || engine.compile(&grammar)).await.unwrap().unwrap();
    }
    let choices = request.choices as usize;
    let mut read = Read {
        texts: vec![String::new(); choices],
        logprobs: vec![Vec::new(); choices],
        ends: vec![None; choices],
        ..Read::default()
    };
    let mut generation = engine.generate(request).unwrap();
    while let Some(event) = generation.next().await {
        match event {
            Event::Started { .. } => read.starts += 1,
            Event::Paused => read.pauses += 1,
            Event::Prompt(logprobs) => read.prompt.extend(logprobs),
            Event::Delta { choice, text, logprobs, .. } => {
                read.texts[choice as usize].push_str(&text);
                read.logprobs[choice as usize].extend(logprobs);
            }
            Event::Finished { choice, reason, tokens } => {
                read.ends[choice as usize] = Some((reason, tokens));
            }
            Event::Failed(failure) => read.failure = Some(failure),
        }
    }
    read
}

async fn read_all(engine: &Engine) -> Vec<Read> {
    let readers = requests().into_iter().map(|request| {
        let engine = engine.clone();
        tokio::spawn(async move { read(&engine, request).await })
    });
    let mut all = Vec::new();
    for reader in readers.collect::<Vec<_>>() {
        all.push(tokio::time::timeout(Duration::from_secs(60), reader).await.unwrap().unwrap());
    }
    all
}

fn pid(engine: &Engine) -> Pid {
    let id = engine.process().unwrap();
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}

async fn is_gone(pid: Pid) -> bool {
    for _ in 0..200 {
        if test_kill_process(pid).is_err() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_more_of_a_death_than_a_pause() {
    let undisturbed = read_all(&chat(load(config(script()))).await).await;
    for signal in [Signal::KILL, Signal::ABORT, Signal::STOP] {
        let engine = apart(script()).await;
        let reading = tokio::spawn({
            let engine = engine.clone();
            async move { read_all(&engine).await }
        });
        let (mut deaths, mut steps) = (0, 0);
        while !reading.is_finished() && deaths < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            // Whoever is there at three deaths without having got on would be to blame.
            let process = pid(&engine);
            let gets_on = engine.status() == Status::Ready && engine.stats().steps > steps + 60;
            if gets_on && kill_process(process, signal).is_ok() {
                assert!(is_gone(process).await, "{signal:?}");
                deaths += 1;
                steps = engine.stats().steps;
            }
        }
        let disturbed = reading.await.unwrap();
        assert!(deaths >= 1, "{signal:?}");
        for (disturbed, undisturbed) in disturbed.into_iter().zip(&undisturbed) {
            assert!(disturbed.pauses <= deaths, "{signal:?}");
            let disturbed = Read { pauses: 0, ..disturbed };
            assert!(disturbed == *undisturbed, "{signal:?}: {:?}", disturbed.failure);
        }
        assert_ne!(engine.status(), Status::Failed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_kills_fails_alone_after_three_deaths() {
    const POISON: u32 = 7;
    let undisturbed = read_all(&chat(load(config(script()))).await).await;
    let engine = apart(Script { poison: Some(POISON), ..script() }).await;
    let reading = tokio::spawn({
        let engine = engine.clone();
        async move { read_all(&engine).await }
    });
    while engine.stats().steps < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let killer = GenerateRequest { prompt: vec![256, POISON].into(), ..request(99) };
    let killed = read(&engine, killer).await;
    assert_eq!(killed.failure, Some(Failure::Crashed));
    assert_eq!(killed.texts, [""]);
    assert!((1..=3).contains(&killed.pauses), "{killed:?}");
    for (read, undisturbed) in reading.await.unwrap().into_iter().zip(&undisturbed) {
        assert!(read.pauses <= 3);
        let read = Read { pauses: 0, ..read };
        assert!(read == *undisturbed, "{:?}", read.failure);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_ends_with_its_handle() {
    let engine = apart(script()).await;
    let process = pid(&engine);
    let vocab = engine.vocab().clone();
    let tokens = tokio::task::spawn_blocking(move || vocab.tokenize("ab</s>", ParseSpecial::Yes));
    assert_eq!(tokens.await.unwrap(), [97, 98, 257]);
    drop(engine);
    assert!(is_gone(process).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_during_a_pause_are_forgotten() {
    let engine = apart(script()).await;
    let mut held = Vec::new();
    for seed in 0..6 {
        held.push(engine.generate(GenerateRequest { max_tokens: 4000, ..request(seed) }).unwrap());
    }
    assert!(matches!(held[0].next().await, Some(Event::Started { .. })));
    kill_process(pid(&engine), Signal::KILL).unwrap();
    held.clear();
    let begin = Instant::now();
    let after = read(&engine, GenerateRequest { max_tokens: 5, ..request(0) }).await;
    assert_eq!(after.ends[0].as_ref().unwrap().1, 5);
    assert!(begin.elapsed() < Duration::from_secs(5));
    let stats = loop {
        let stats = engine.stats();
        if stats.running == 0 || begin.elapsed() > Duration::from_secs(10) {
            break stats;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((stats.running, stats.waiting), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_says_why() {
    let config = ModelConfig { source: Source::Gguf("/nowhere.gguf".into()), ..config(script()) };
    let loading = load_in_process(config, launcher()).unwrap();
    let error = loading.finish().await.unwrap_err();
    assert!(error.to_string().contains("/nowhere.gguf"), "{error}");
    let missing = Launcher { program: "/nowhere".into(), ..launcher() };
    assert!(load_in_process(self::config(script()), missing).unwrap().finish().await.is_err());
}
