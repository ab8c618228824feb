use forebay_engine::scripted::Script;
use forebay_engine::{Source, TopLogprob, load};
use forebay_protocol::responses::ResponsesRequest;
use forebay_protocol::tools::{CustomDelta, FunctionDelta};
use forebay_protocol::usage::PromptTokensDetails;

use super::*;
use crate::config::{Layers, Settings, StoreSettings};
use crate::convert::responses::{Input, to_chat};
use crate::convert::speech::Listener;
use crate::convert::tools::Toolset;
use crate::metrics::Metrics;
use crate::registry::{Registry, model_config};
use crate::store::Owner;

const REQUEST: &str = r#"{
    "model": "m", "input": "hi", "instructions": "Be brief.", "max_output_tokens": 30,
    "metadata": {"k": "v"}, "previous_response_id": "resp_0", "reasoning": {"effort": "low"},
    "temperature": 0.3, "top_p": 0.9, "top_logprobs": 1, "truncation": "auto", "user": "u",
    "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}},
    "tool_choice": {"type": "function", "name": "f"}, "parallel_tool_calls": false,
    "tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]},
              {"type": "custom", "name": "c"}, {"type": "web_search"}]
}"#;

async fn served() -> Arc<Served> {
    let mut layers = Layers::default();
    layers.toml("[[model]]\npath = \"m.gguf\"", "test");
    let settings = Settings::resolve(layers).unwrap();
    let registry = Registry::new(&settings.models);
    let config = model_config(&settings.models[0], Source::Scripted(Script::default()));
    let loaded = load(config).unwrap().finish().await.unwrap();
    registry.install(0, loaded, &Metrics::new()).unwrap();
    registry.resolve("m").unwrap()
}

/// The response to a request, of which nothing is generated yet.
fn response(request: &str, served: &Arc<Served>) -> Response {
    let request: ResponsesRequest = serde_json::from_str(request).unwrap();
    let asked = to_chat(&request, &Input::default(), false, true).unwrap();
    let stamp = Stamp {
        id: "resp_1".to_owned(),
        created: 1_700_000_000,
        model: "m".to_owned(),
        system_fingerprint: "fp_x".to_owned(),
    };
    let speech = Speech::new(Listener::Marks(None, None), Toolset::default());
    Response::new(stamp, asked.echo, asked.namespaces, speech, Arc::clone(served))
}

fn kept(conversation: Option<&str>) -> Kept {
    Kept {
        owner: Owner::of(&axum::http::HeaderMap::new()),
        previous: None,
        conversation: conversation.map(str::to_owned),
        input: Vec::new(),
        retrievable: true,
        events: Vec::new(),
    }
}

fn usage() -> Usage {
    Usage {
        prompt_tokens_details: PromptTokensDetails { cached_tokens: 3 },
        ..Usage::default().plus(7, 0, 5)
    }
}

fn text(text: &str, tokens: u32, logprobs: &[(u32, f32)]) -> Event {
    let top = |logprob: f32| vec![TopLogprob { token: 200, logprob: logprob - 1.0 }];
    let each =
        logprobs.iter().map(|&(token, logprob)| TokenLogprob { token, logprob, top: top(logprob) });
    Event::Delta { choice: 0, text: text.to_owned(), tokens, logprobs: each.collect() }
}

fn finished(reason: FinishReason) -> Event {
    Event::Finished { choice: 0, reason, tokens: 5 }
}

fn thought(text: &str) -> Delta {
    Delta { reasoning_content: Some(text.to_owned()), ..Delta::default() }
}

fn function(id: Option<&str>, name: Option<&str>, arguments: &str) -> Delta {
    let (name, arguments) = (name.map(str::to_owned), arguments.to_owned());
    let function = Some(FunctionDelta { name, arguments });
    let call = ToolCallDelta { id: id.map(str::to_owned), function, ..ToolCallDelta::default() };
    Delta { tool_calls: vec![call], ..Delta::default() }
}

fn custom(id: Option<&str>, name: Option<&str>, input: &str) -> Delta {
    let (name, input) = (name.map(str::to_owned), input.to_owned());
    let custom = Some(CustomDelta { name, input });
    let call = ToolCallDelta { id: id.map(str::to_owned), custom, ..ToolCallDelta::default() };
    Delta { tool_calls: vec![call], ..Delta::default() }
}

/// Ids of items without what is random in them.
fn without_chance(value: &mut Value) {
    match value {
        Value::String(text) => {
            let id = text.split_once('_').filter(|(_, id)| id.len() == 32);
            if let Some((prefix, _)) = id {
                *text = prefix.to_owned();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(without_chance),
        Value::Object(members) => members.values_mut().for_each(without_chance),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What was recorded when events and objects were trees: one value a line.
fn recorded(name: &str) -> Vec<Value> {
    let all = include_str!("recorded.jsonl").lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["test"] == name).then(|| line["value"].clone())
    });
    all.flatten().collect()
}

#[track_caller]
fn check(name: &str, mut values: Vec<Value>) {
    values.iter_mut().for_each(without_chance);
    let expected = recorded(name);
    assert!(!expected.is_empty(), "{name}");
    for (at, (value, expected)) in values.iter().zip(&expected).enumerate() {
        assert_eq!(value, expected, "{name}: {at}");
    }
    assert_eq!(values.len(), expected.len(), "{name}");
}

/// Takes in an event and numbers what it adds.
fn take(response: &mut Response, event: Event, out: &mut Vec<Value>) {
    let mut new = Vec::new();
    response.event(event, &mut new);
    out.extend(response.number(new));
}

fn add(response: &mut Response, deltas: Vec<Delta>, out: &mut Vec<Value>) {
    let mut new = Vec::new();
    response.add(deltas, &mut new);
    out.extend(response.number(new));
}

fn open(response: &mut Response, states: &[&str], out: &mut Vec<Value>) {
    let new = response.opening(states);
    out.extend(response.number(new));
}

fn close(response: &mut Response, object: &Value, out: &mut Vec<Value>) {
    let last = vec![Response::closing(object)];
    out.extend(response.number(last));
}

/// An answer with items of each kind.
fn generate(response: &mut Response, reason: FinishReason, out: &mut Vec<Value>) {
    add(response, vec![thought("Let me"), thought(" \"think\".\n")], out);
    take(response, text("Hi", 2, &[(72, -0.1), (105, -0.25)]), out);
    take(response, text("", 3, &[(195, f32::NEG_INFINITY)]), out);
    take(response, text("ü", 4, &[(188, -3.0)]), out);
    add(response, vec![function(Some("call_1"), Some("f"), "")], out);
    add(response, vec![function(None, None, "{\"a\""), function(None, None, ":1}")], out);
    add(response, vec![custom(Some("call_2"), Some("c"), ""), custom(None, None, "x\ny")], out);
    add(response, vec![function(Some("call_3"), Some("g"), "{}")], out);
    take(response, text("Bye", 5, &[]), out);
    take(response, finished(reason), out);
}

#[tokio::test]
async fn a_stream_has_the_recorded_events() {
    let served = served().await;
    let mut response = response(REQUEST, &served);
    let mut events = Vec::new();
    open(&mut response, &["created", "in_progress"], &mut events);
    generate(&mut response, FinishReason::EndOfText, &mut events);
    let object = response.finished(usage());
    close(&mut response, &object, &mut events);
    check("stream", events);
    check("stream, whole", vec![object]);
}

#[tokio::test]
async fn an_answer_that_is_cut_is_incomplete() {
    let served = served().await;
    let mut response = response(r#"{"model": "m", "input": "hi"}"#, &served);
    let mut events = Vec::new();
    add(&mut response, vec![thought("Hm")], &mut events);
    take(&mut response, finished(FinishReason::Length), &mut events);
    let object = response.finished(usage());
    close(&mut response, &object, &mut events);
    check("cut", events);
}

#[tokio::test]
async fn a_failure_has_what_there_is() {
    let served = served().await;
    let mut response = response(r#"{"model": "m", "input": "hi"}"#, &served);
    let mut events = Vec::new();
    open(&mut response, &["created", "in_progress"], &mut events);
    take(&mut response, text("Hi", 1, &[]), &mut events);
    let objects = [ApiError::internal("secret"), ApiError::slow_body(9)]
        .map(|error| response.failure(&error));
    for object in &objects {
        close(&mut response, object, &mut events);
    }
    check("failed", events);
}

#[tokio::test]
async fn a_background_response_begins_queued() {
    let served = served().await;
    let request = r#"{"model": "m", "input": "hi", "background": true, "metadata": null}"#;
    let mut response = response(request, &served);
    let store = Store::open(&StoreSettings::default()).unwrap();
    response.keep(store.clone(), kept(Some("conv_1")));
    let mut events = Vec::new();
    open(&mut response, &["created", "queued"], &mut events);
    open(&mut response, &["in_progress"], &mut events);
    take(&mut response, text("Hi", 1, &[]), &mut events);
    let cancelled = response.object("cancelled", None);
    close(&mut response, &cancelled, &mut events);
    check("background", events);
}

#[tokio::test]
async fn what_is_kept_is_what_was_told() {
    let served = served().await;
    let mut response = response(REQUEST, &served);
    let store = Store::open(&StoreSettings::default()).unwrap();
    response.keep(store.clone(), kept(None));
    generate(&mut response, FinishReason::EndOfText, &mut Vec::new());
    response.settle(usage()).await;
    let found = store.get(&kept(None).owner, "resp_1").await.unwrap().unwrap();
    let found: Value = serde_json::from_str(&found.json).unwrap();
    assert_eq!(found, response.finished(usage()));
    check("kept", vec![found]);
}
