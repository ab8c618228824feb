//! Engines in processes of their own, which are killed, stopped and left alone.

use std::time::{Duration, Instant};

use forebay_engine::process::Launcher;
use forebay_engine::scripted::{Poison, Script};
use forebay_engine::{
    Embedder, Engine, Event, ExitCause, Failure, FinishReason, GenerateRequest, Grammar,
    ModelConfig, ModelHandle, ParseSpecial, SamplingParams, Source, Status, StopRules,
    TokenLogprob, Vocab, load, load_in_process,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

fn config(script: Script) -> ModelConfig {
    ModelConfig {
        parallel: 8,
        batch_size: Some(64),
        queue: 64,
        ..ModelConfig::new("test", Source::Scripted(script))
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
        ModelHandle::Chat(engine) => engine,
        ModelHandle::Embedding(_) => panic!("not a chat model"),
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
        tokio::task::spawn_blocking(move || engine.compile(&grammar))
            .await
            .unwrap()
            .unwrap()
            .unwrap();
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

async fn tokens(vocab: &Vocab, text: &'static str) -> Result<Vec<u32>, Failure> {
    let vocab = vocab.clone();
    tokio::task::spawn_blocking(move || vocab.tokenize(text, ParseSpecial::Yes)).await.unwrap()
}

fn pid(engine: &Engine) -> Pid {
    let id = engine.process_id().unwrap();
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
            let gets_on = engine.status() == Status::Ready && engine.stats().steps > steps + 60;
            if gets_on {
                let process = pid(&engine);
                kill_process(process, signal).unwrap();
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
        let cause = match signal {
            Signal::KILL => ExitCause::Killed,
            Signal::ABORT => ExitCause::Crashed,
            _ => ExitCause::Silent,
        };
        assert_eq!(engine.stats().deaths, [(cause, u64::from(deaths))].into());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_engine_knows_what_calls_cost() {
    let loading = load_in_process(config(script()), launcher()).unwrap();
    let costs = loading.costs();
    assert!(costs.learned().1.is_empty());
    let engine = chat(Ok(loading)).await;
    // Drafts are tried at better than even chances while costs are unknown; a step of this script costs
    // the same whatever is in it.
    let knows = |engine: &Engine| engine.stats().draft_break_even < 0.5;
    assert!(!knows(&engine), "costs are unknown");
    read_all(&engine).await;
    let begin = Instant::now();
    while costs.learned().1.rows.is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let first = pid(&engine);
    kill_process(first, Signal::KILL).unwrap();
    while engine.status() != Status::Ready || pid(&engine) == first {
        assert!(begin.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Ten states a second come, and it has computed nothing.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(knows(&engine), "the costs of the first one are known");
    let kept = costs.learned().1;
    drop(engine);

    let again = ModelConfig { costs: kept.as_ref().clone(), ..config(script()) };
    for engine in [load(again.clone()), load_in_process(again, launcher())] {
        let engine = chat(engine).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(knows(&engine), "what was kept is known from the start");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_last_is_known_when_the_engine_has_ended() {
    for apart in [true, false] {
        // A row with drafts counts as several, so its depth is theirs together.
        let config = ModelConfig { speculate: false, ..config(script()) };
        let loading = match apart {
            true => load_in_process(config, launcher()),
            false => load(config),
        };
        let loading = loading.unwrap();
        let costs = loading.costs();
        let engine = chat(Ok(loading)).await;
        read(&engine, request(1)).await;
        // They are sent every two seconds, and just were.
        let (begin, before) = (Instant::now(), costs.learned().0);
        while apart && costs.learned().0 == before {
            assert!(begin.elapsed() < Duration::from_secs(10));
            read(&engine, GenerateRequest { max_tokens: 1, ..request(2) }).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The steps after it are other ones: deeper than all before.
        let prompt: Vec<u32> = (0..1000).map(|n| 65 + n % 26).collect();
        let last = GenerateRequest { prompt: prompt.into(), max_tokens: 8, ..request(3) };
        let mut generation = engine.generate(last).unwrap();
        // What was asked before is served.
        engine.close().await;
        let mut ends = 0;
        while let Some(event) = generation.next().await {
            ends += u32::from(matches!(event, Event::Finished { tokens: 8, .. }));
        }
        assert_eq!(ends, 1);
        assert_eq!(engine.status(), Status::Failed);
        let deepest = costs.learned().1.rows.iter().map(|sample| sample.depth).max();
        assert!(deepest >= Some(1000), "{deepest:?}, in a process of its own: {apart}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_kills_fails_alone_after_three_deaths() {
    const POISON: u32 = 7;
    let undisturbed = read_all(&chat(load(config(script()))).await).await;
    let engine = apart(Script { poison: Some((POISON, Poison::Die)), ..script() }).await;
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
    assert_eq!(tokens(engine.vocab(), "ab</s>").await.unwrap(), [97, 98, 257]);
    drop(engine);
    assert!(is_gone(process).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_ask_to_end_are_for_the_server() {
    let engine = apart(script()).await;
    let process = pid(&engine);
    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        kill_process(process, signal).unwrap();
    }
    let after = read(&engine, GenerateRequest { max_tokens: 50, ..request(0) }).await;
    assert_eq!((after.ends[0].as_ref().unwrap().1, after.pauses), (50, 0));
    assert_eq!(pid(&engine), process);
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
        if stats.running + stats.waiting == 0 || begin.elapsed() > Duration::from_secs(10) {
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

#[tokio::test(flavor = "multi_thread")]
async fn what_has_left_the_queue_does_not_wait_in_it_again() {
    let queue_timeout = Some(Duration::from_millis(500));
    let config = ModelConfig { queue_timeout, ..config(script()) };
    let engine = chat(load_in_process(config, launcher())).await;
    let running = tokio::spawn({
        let engine = engine.clone();
        async move { read(&engine, GenerateRequest { max_tokens: 1000, ..request(0) }).await }
    });
    tokio::time::sleep(Duration::from_millis(800)).await;
    kill_process(pid(&engine), Signal::KILL).unwrap();
    let read = running.await.unwrap();
    assert_eq!((read.pauses, read.starts), (1, 1));
    assert_eq!(read.ends[0], Some((FinishReason::Length, 1000)), "{:?}", read.failure);
}

/// A request that has `token` as its second.
fn poisonous(token: u32) -> GenerateRequest {
    GenerateRequest { prompt: vec![256, token].into(), ..request(99) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_hangs_and_one_that_takes_all_memory_are_ended() {
    const POISON: u32 = 7;
    for (poison, death) in [(Poison::Hang, ExitCause::Hung), (Poison::Swell, ExitCause::Memory)] {
        let config = ModelConfig {
            step_limit: Duration::from_millis(100),
            memory_limit: (death == ExitCause::Memory).then_some(300 << 20),
            ..config(Script { poison: Some((POISON, poison)), ..script() })
        };
        let config = match death {
            ExitCause::Memory => ModelConfig { step_limit: ModelConfig::STEP_LIMIT, ..config },
            _ => config,
        };
        let engine = chat(load_in_process(config, launcher())).await;
        let other = tokio::spawn({
            let engine = engine.clone();
            async move { read(&engine, request(1)).await }
        });
        let killed = read(&engine, poisonous(POISON)).await;
        assert_eq!(killed.failure, Some(Failure::Crashed), "{poison:?}");
        assert_eq!(engine.stats().deaths, [(death, 3)].into());
        assert_eq!(other.await.unwrap().ends[0], Some((FinishReason::Length, 600)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_kills_has_no_tokens_and_nobody_else_is_to_blame() {
    kills_alone(Poison::Die, ExitCause::Crashed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_whose_tokenising_does_not_end_has_no_tokens_either() {
    kills_alone(Poison::Hang, ExitCause::Hung).await;
}

async fn kills_alone(poison: Poison, death: ExitCause) {
    let undisturbed = read(&chat(load(config(script()))).await, request(0)).await;
    let script = Script { poison_text: Some(("deadly".to_owned(), poison)), ..script() };
    let config = ModelConfig { step_limit: Duration::from_millis(300), ..config(script) };
    let engine = chat(load_in_process(config, launcher())).await;
    let running = tokio::spawn({
        let engine = engine.clone();
        async move { read(&engine, request(0)).await }
    });
    let vocab = engine.vocab();
    let harmless = async {
        for _ in 0..50 {
            assert_eq!(tokens(vocab, "abc").await.unwrap().len(), 3);
        }
    };
    let (deadly, ()) = tokio::join!(tokens(vocab, "a deadly text"), harmless);
    assert_eq!(deadly, Err(Failure::Crashed));
    assert_eq!(engine.stats().deaths, [(death, 3)].into());
    let read = Read { pauses: 0, ..running.await.unwrap() };
    assert!(read == undisturbed, "{:?}", read.failure);
}

async fn embedder(script: Script) -> Embedder {
    let script = Script { kind: forebay_engine::Kind::Embedding, ..script };
    match load_in_process(config(script), launcher()).unwrap().finish().await.unwrap() {
        ModelHandle::Embedding(embedder) => embedder,
        ModelHandle::Chat(_) => panic!("not an embedding model"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_kill_fail_alone() {
    const POISON: u32 = 7;
    let embedder = embedder(Script { poison: Some((POISON, Poison::Die)), ..script() }).await;
    let embed = |inputs: Vec<Vec<u32>>| {
        let embedder = embedder.clone();
        tokio::spawn(async move { embedder.embed(inputs, None).await.unwrap() })
    };
    let deadly = embed(vec![vec![1, 2], vec![256, POISON]]);
    let others: Vec<_> = (0..20).map(|i| embed(vec![vec![i, 2, 3]; 3])).collect();
    assert_eq!(deadly.await.unwrap(), Err(Failure::Crashed));
    for other in others {
        assert_eq!(other.await.unwrap().unwrap().len(), 3);
    }
    assert!(embedder.stats().deaths.values().sum::<u64>() <= 3, "{:?}", embedder.stats().deaths);
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_are_kept_while_a_step_hangs_and_so_is_the_end() {
    const POISON: u32 = 7;
    let engine = apart(Script { poison: Some((POISON, Poison::Hang)), ..script() }).await;
    let process = pid(&engine);
    let mut late = poisonous(POISON);
    late.admission.timeout = Some(Duration::from_millis(1500));
    let begin = Instant::now();
    let read = read(&engine, late).await;
    assert!(matches!(read.failure, Some(Failure::Timeout(_))), "{:?}", read.failure);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert!(engine.stalled_for().is_some());
    tokio::task::spawn_blocking(move || drop(engine)).await.unwrap();
    assert!(is_gone(process).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_time_is_up_does_not_wait_for_the_next_child() {
    let launcher = Launcher { silence: Duration::from_secs(60), ..launcher() };
    let engine = chat(load_in_process(config(script()), launcher)).await;
    let process = pid(&engine);
    kill_process(process, Signal::STOP).unwrap();
    let mut late = GenerateRequest { max_tokens: 4000, ..request(0) };
    late.admission.timeout = Some(Duration::from_millis(1500));
    let begin = Instant::now();
    let read = read(&engine, late).await;
    assert!(matches!(read.failure, Some(Failure::Timeout(_))), "{:?}", read.failure);
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    kill_process(process, Signal::CONT).unwrap();
    let after = self::read(&engine, GenerateRequest { max_tokens: 5, ..request(0) }).await;
    assert_eq!(after.ends[0].as_ref().unwrap().1, 5);
    assert!(engine.stats().deaths.is_empty());
}
