//! Tools with a model that says what it is told to: what the model would say, and what it may.

use forebay_engine::scripted::Script;
use serde_json::Value;

use crate::server::Server;

const CALL: &str = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \"no\"}}\n</tool_call>";

/// The first choice of an answer by a model that says this, with a tool `f` that takes a digit.
async fn choice(says: &str, strict: bool, fields: &str) -> Value {
    let script = Script { says: format!("{says}\0"), ..Script::default() };
    let server = Server::start(script, "").await;
    let schema = r#"{"type":"object","properties":{"x":{"type":"integer","minimum":1,"maximum":9}},"required":["x"],"additionalProperties":false}"#;
    let tools = format!(
        r#","max_tokens":400,"temperature":0,"tools":[{{"type":"function","function":{{"name":"f","strict":{strict},"parameters":{schema}}}}}]{fields}"#
    );
    let answer = server.client().chat(&tools).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["choices"][0].clone()
}

fn arguments(choice: &Value, at: usize) -> String {
    choice["message"]["tool_calls"][at]["function"]["arguments"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_decides_may_say_anything_unless_the_tool_is_strict() {
    let said = format!("Sure.\n{CALL}");
    let free = choice(&said, false, "").await;
    assert_eq!(
        (&free["message"]["content"], &free["finish_reason"]),
        (&"Sure.".into(), &"tool_calls".into())
    );
    assert_eq!(arguments(&free, 0), "{\"x\": \"no\"}");
    let strict = choice(&said, true, "").await;
    assert_eq!(strict["message"]["content"], "Sure.", "{strict}");
    let bound: Value = serde_json::from_str(&arguments(&strict, 0)).unwrap();
    assert!((1..=9).contains(&bound["x"].as_u64().unwrap()), "{strict}");
    let plain = choice("Hello <there>.", true, "").await;
    assert_eq!(
        (&plain["message"]["content"], &plain["finish_reason"]),
        (&"Hello <there>.".into(), &"stop".into())
    );
    assert!(plain["message"].get("tool_calls").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_one_or_several() {
    // The script is followed by what came before, so its parts must differ.
    let two = format!("So.\n{CALL}\n{}", CALL.replace("no", "yes"));
    let both = choice(&two, false, "").await;
    assert_eq!(both["message"]["tool_calls"].as_array().unwrap().len(), 2, "{both}");
    let one = choice(&two, false, r#","parallel_tool_calls":false"#).await;
    assert_eq!(one["message"]["tool_calls"].as_array().unwrap().len(), 1, "{one}");
    // One that has to call does, whatever it would say.
    let forced =
        choice("I will not.", false, r#","tool_choice":"required","parallel_tool_calls":false"#)
            .await;
    assert_eq!(
        (&forced["message"]["content"], &forced["finish_reason"]),
        (&Value::Null, &"tool_calls".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_call_is_text() {
    for text in
        ["So. <tool_call>\n{\"name\": \"who\"}\n</tool_call>", "Be <tool_ca", "So. <tool_call>"]
    {
        let got = choice(text, false, "").await;
        assert_eq!(
            (&got["message"]["content"], &got["finish_reason"]),
            (&text.into(), &"stop".into())
        );
    }
    let cut = choice(&format!("So.{CALL} and on"), false, r#","max_completion_tokens":48"#).await;
    assert_eq!(
        (cut["finish_reason"].as_str(), arguments(&cut, 0).as_str()),
        (Some("length"), "{\"x\": ")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_tool_gets_its_input_whatever_follows_the_call() {
    let call = "<tool_call>\n{\"name\": \"c\", \"arguments\": {\"input\": \"x y\"}}\n</tool_call>";
    let script = Script { says: format!("Sure.\n{call}\nDone.\0"), ..Script::default() };
    let server = Server::start(script, "").await;
    let body = r#"{"model":"m","input":"?","temperature":0,"max_output_tokens":400,
                   "tools":[{"type":"custom","name":"c"}]}"#;
    let response = server.client().post("/v1/responses", body).await.json();
    let [before, call, after] = response["output"].as_array().unwrap().as_slice() else {
        panic!("{response}");
    };
    assert_eq!(before["content"][0]["text"], "Sure.", "{response}");
    assert_eq!((&call["name"], &call["input"]), (&"c".into(), &"x y".into()), "{response}");
    assert_eq!(after["content"][0]["text"], "Done.", "{response}");
}
