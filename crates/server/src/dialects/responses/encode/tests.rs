use forebay_engine::scripted::Script;
use forebay_engine::{Event as EngineEvent, FinishReason, Source, TopLogprob, load};
use forebay_protocol::responses::ResponsesRequest;
use forebay_protocol::usage::PromptTokensDetails;

use serde_json::{Value, json};

use super::*;
use crate::config::{Layers, Settings, StoreSettings};
use crate::convert::tools::Toolset;
use crate::convert::{RequestRules, Stamp, to_json};
use crate::dialects::responses::items;
use crate::dialects::responses::request::{Input, read as read_request};
use crate::metrics::Metrics;
use crate::persistence::{Destination, snapshot};
use crate::registry::{Registry, model_config};
use crate::reply::{ReplyParser, ReplyReader};
use crate::response_store::{Owner, ResponseEntry, ResponseStore};

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
    registry.install(0, loaded, None, &Metrics::new()).await.unwrap();
    registry.resolve("m").unwrap()
}

/// The response to a request, of which nothing is generated yet.
fn response(request: &str, served: &Arc<Served>) -> Response {
    let request: ResponsesRequest = serde_json::from_str(request).unwrap();
    let input = Input { new: items::of_input(request.input.as_ref()).unwrap(), ..Input::default() };
    let rules = RequestRules::without_caller(served.vocab(), false, true);
    let (_, namespaces) = read_request(&request, &input, &rules).unwrap();
    let stamp = Stamp {
        id: "resp_1".to_owned(),
        created: 1_700_000_000,
        model: "m".to_owned(),
        system_fingerprint: "fp_x".to_owned(),
    };
    let echo = Echo::of(&request, true).unwrap();
    Response::new(Header::new(stamp, Arc::new(echo)), namespaces, Arc::clone(served))
}

fn usage() -> Usage {
    Usage {
        prompt_tokens_details: PromptTokensDetails { cached_tokens: 3 },
        ..Usage::default().plus(7, 0, 5)
    }
}

fn text(text: &str, tokens: u32, logprobs: &[(u32, f32)]) -> EngineEvent {
    let top = |logprob: f32| vec![TopLogprob { token: 200, logprob: logprob - 1.0 }];
    let each =
        logprobs.iter().map(|&(token, logprob)| TokenLogprob { token, logprob, top: top(logprob) });
    EngineEvent::Delta { choice: 0, text: text.to_owned(), tokens, logprobs: each.collect() }
}

fn finished(reason: FinishReason) -> EngineEvent {
    EngineEvent::Finished { choice: 0, reason, tokens: 5 }
}

/// A reader of text without reasoning and calls.
fn plain() -> ReplyReader {
    ReplyReader::new(ReplyParser::Markers(None, None), Toolset::default())
}

/// Reads an event of the engine.
fn read(
    event: EngineEvent,
    reader: &mut ReplyReader,
    response: &mut Response,
    out: &mut impl EventSink,
) {
    let mut updates = Vec::new();
    reader.read(event, &mut updates);
    updates.into_iter().for_each(|update| response.update(update, out));
}

fn add(event: ReplyEvent, response: &mut Response, out: &mut impl EventSink) {
    response.update(ReplyUpdate::Added { choice: 0, event, logprobs: Vec::new() }, out);
}

fn reasoning(text: &str) -> ReplyEvent {
    ReplyEvent::Reasoning(text.to_owned())
}

fn call(id: &str, name: &str, kind: ToolKind) -> ReplyEvent {
    ReplyEvent::CallStarted { id: id.to_owned(), name: name.to_owned(), kind }
}

fn arguments(text: &str) -> ReplyEvent {
    ReplyEvent::CallArguments(text.to_owned())
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

/// Events as clients read them.
impl EventSink for Vec<Value> {
    fn wants_deltas(&self) -> bool {
        true
    }

    fn push(&mut self, event: &Event<'_>) {
        let value: Value = serde_json::from_str(&to_json(event)).unwrap();
        assert_eq!(value["type"], event.name);
        Self::push(self, value);
    }
}

fn whole(response: &Response, progress: &Progress) -> Value {
    serde_json::from_str(&to_json(&response.object(progress))).unwrap()
}

/// An answer with items of each kind.
fn generate(response: &mut Response, reason: FinishReason, out: &mut impl EventSink) {
    let reader = &mut plain();
    add(reasoning("Let me"), response, out);
    add(reasoning(" \"think\".\n"), response, out);
    read(text("Hi", 2, &[(72, -0.1), (105, -0.25)]), reader, response, out);
    read(text("", 3, &[(195, f32::NEG_INFINITY)]), reader, response, out);
    read(text("ü", 4, &[(188, -3.0)]), reader, response, out);
    for event in [
        call("1", "f", ToolKind::Function),
        arguments("{\"a\""),
        arguments(":1}"),
        call("2", "c", ToolKind::Custom),
        arguments("x\ny"),
        call("3", "g", ToolKind::Function),
        arguments("{}"),
    ] {
        add(event, response, out);
    }
    read(text("Bye", 5, &[]), reader, response, out);
    read(finished(reason), reader, response, out);
}

#[tokio::test]
async fn a_stream_has_the_recorded_events() {
    let served = served().await;
    let mut response = response(REQUEST, &served);
    let mut events = Vec::new();
    response.opening(&["response.created", "response.in_progress"], &mut events);
    generate(&mut response, FinishReason::EndOfText, &mut events);
    let end = response.finished(usage());
    response.closing(&end, &mut events);
    check("stream", events);
    check("stream, whole", vec![whole(&response, &end)]);
}

#[test]
fn what_a_response_repeats_is_what_was_sent() {
    let sent = json!({
        "tools": [{"type": "function", "name": "f", "parameters": null, "strict": null, "x": 1},
                  {"type": "web_search", "name": {"a": 1}}],
        "tool_choice": {"type": "function", "name": "f", "x": null},
        "text": {"format": {"type": "json_schema", "name": "s", "strict": null, "x": 1}},
    });
    let mut request = sent.clone();
    request["model"] = json!("m");
    let request: ResponsesRequest = serde_json::from_value(request).unwrap();
    let echo: Value = serde_json::from_str(&to_json(&Echo::of(&request, true).unwrap())).unwrap();
    for field in ["tools", "tool_choice", "text"] {
        assert_eq!(echo[field], sent[field], "{field}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_incomplete() {
    let served = served().await;
    let mut response = response(r#"{"model": "m", "input": "hi"}"#, &served);
    let mut events = Vec::new();
    add(reasoning("Hm"), &mut response, &mut events);
    read(finished(FinishReason::Length), &mut plain(), &mut response, &mut events);
    response.closing(&response.finished(usage()), &mut events);
    check("cut", events);
}

#[tokio::test]
async fn a_failure_has_what_there_is() {
    let served = served().await;
    let mut response = response(r#"{"model": "m", "input": "hi"}"#, &served);
    let mut events = Vec::new();
    response.opening(&["response.created", "response.in_progress"], &mut events);
    read(text("Hi", 1, &[]), &mut plain(), &mut response, &mut events);
    for error in [ApiError::internal("secret"), ApiError::slow_body(9)] {
        response.closing(&Response::failure(&error), &mut events);
    }
    check("failed", events);
}

#[tokio::test]
async fn a_background_response_begins_queued() {
    let served = served().await;
    let request = r#"{"model": "m", "input": "hi", "background": true, "metadata": null}"#;
    let mut response = response(request, &served);
    response.set_stored(true, Some("conv_1"));
    let mut events = Vec::new();
    response.opening(&["response.created", "response.queued"], &mut events);
    response.opening(&["response.in_progress"], &mut events);
    read(text("Hi", 1, &[]), &mut plain(), &mut response, &mut events);
    response.closing(&Progress::of(Status::Cancelled), &mut events);
    check("background", events);
}

#[tokio::test]
async fn what_is_stored_is_what_was_sent() {
    let served = served().await;
    let mut response = response(REQUEST, &served);
    let store = ResponseStore::open(&StoreSettings::default()).unwrap();
    response.set_stored(true, None);
    generate(&mut response, FinishReason::EndOfText, &mut NoEvents);
    let end = response.finished(usage());
    let (owner, input) = (Owner::of_key(None), Arc::default());
    let (previous, conversation, events) = (None, None, Vec::new());
    let entry = ResponseEntry {
        owner: owner.clone(),
        previous,
        conversation,
        input,
        retrievable: true,
        events,
    };
    let snapshot = snapshot(response.header(), &end, response.items());
    assert!(Destination { store: store.clone(), entry }.save(snapshot).await);
    let found = store.object(&owner, "resp_1").await.unwrap().unwrap();
    let found: Value = serde_json::from_str(&found.json).unwrap();
    assert_eq!(found, whole(&response, &end));
    check("kept", vec![found]);
}

#[tokio::test]
async fn a_long_answer_takes_linear_time() {
    const DELTAS: u32 = 200_000;
    let served = served().await;
    let mut response = response(r#"{"model": "m", "input": "hi"}"#, &served);
    let begin = std::time::Instant::now();
    let text_of = |number| format!("{number:19} ");
    let reader = &mut plain();
    for number in 0..DELTAS {
        add(reasoning(&text_of(number)), &mut response, &mut NoEvents);
    }
    for number in 0..DELTAS {
        let event = text(&text_of(number), number + 1, &[(72, -0.5)]);
        read(event, reader, &mut response, &mut NoEvents);
    }
    add(call("1", "f", ToolKind::Function), &mut response, &mut NoEvents);
    for number in 0..DELTAS {
        add(arguments(&text_of(number)), &mut response, &mut NoEvents);
    }
    read(finished(FinishReason::EndOfText), reader, &mut response, &mut NoEvents);
    let object = whole(&response, &response.finished(usage()));
    let took = begin.elapsed();
    let lengths = ["/output/0/content/0/text", "/output/1/content/0/text", "/output/2/arguments"]
        .map(|at| object.pointer(at).and_then(Value::as_str).map(str::len));
    assert_eq!(lengths, [Some(DELTAS as usize * 20); 3]);
    // Building each text anew for each delta copies 1.2 TB.
    assert!(took.as_secs() < 10, "{took:?}");
}

#[tokio::test]
async fn deltas_that_nobody_wants_have_no_number() {
    /// Wants no deltas.
    struct Whole(Vec<Value>);
    impl EventSink for Whole {
        fn wants_deltas(&self) -> bool {
            false
        }

        fn push(&mut self, event: &Event<'_>) {
            EventSink::push(&mut self.0, event);
        }
    }
    let served = served().await;
    let mut response = response(REQUEST, &served);
    let mut events = Whole(Vec::new());
    generate(&mut response, FinishReason::EndOfText, &mut events);
    let expected = recorded("stream").into_iter().filter(|event| {
        let name = event["type"].as_str().unwrap();
        !name.ends_with(".delta") && event.get("response").is_none()
    });
    let expected: Vec<Value> = (0..)
        .zip(expected)
        .map(|(number, mut event)| {
            event["sequence_number"] = json!(number);
            event
        })
        .collect();
    events.0.iter_mut().for_each(without_chance);
    assert_eq!(events.0, expected);
}
