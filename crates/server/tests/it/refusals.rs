//! What cannot be honoured is refused at the field that the client sent, whatever its dialect calls it.

use forebay_engine::scripted::Script;
use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::server::Server;

/// A dialect: its path, and the least that a request has.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dialect {
    Chat,
    Messages,
    Responses,
}

use Dialect::{Chat, Messages, Responses};

impl Dialect {
    /// Asks for an answer.
    async fn ask(self, client: &Client, fields: &Value) -> Answer {
        self.send(client, ["/v1/chat/completions", "/v1/messages", "/v1/responses"], fields).await
    }

    /// Asks for the number of the prompt's tokens.
    async fn count(self, client: &Client, fields: &Value) -> Answer {
        let paths = [
            "/v1/chat/completions/input_tokens",
            "/v1/messages/count_tokens",
            "/v1/responses/input_tokens",
        ];
        self.send(client, paths, fields).await
    }

    async fn send(self, client: &Client, paths: [&str; 3], fields: &Value) -> Answer {
        let user = json!([{"role": "user", "content": "hi"}]);
        let path = paths[self as usize];
        let mut body = match self {
            Chat => json!({"messages": user}),
            Messages => json!({"messages": user, "max_tokens": 9}),
            Responses => json!({"input": user}),
        };
        body["model"] = json!("m");
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        client.post(path, &body.to_string()).await
    }

    #[track_caller]
    fn check(self, answer: &Answer, param: &str, fields: &Value) {
        assert_eq!(answer.status, 400, "{self:?} {fields}: {answer:?}");
        let error = &answer.json()["error"];
        let message = error["message"].as_str().unwrap();
        match self {
            // It has no field for the field.
            Messages => assert!(message.contains(param), "{fields}: {message}"),
            Chat | Responses => assert_eq!(error["param"], param, "{self:?} {fields}: {message}"),
        }
    }
}

async fn check(cases: Vec<(Dialect, Value, &str)>) {
    let server = Server::start(Script::default(), "").await;
    for (dialect, fields, param) in cases {
        let answer = dialect.ask(&server.client(), &fields).await;
        dialect.check(&answer, param, &fields);
    }
}

/// A tool that has this name and schema.
fn tool(dialect: Dialect, name: &str, schema: &Value) -> Value {
    match dialect {
        Chat => {
            json!({"type": "function", "function": {"name": name, "parameters": schema, "strict": true}})
        }
        Messages => json!({"name": name, "input_schema": schema, "strict": true}),
        Responses => {
            json!({"type": "function", "name": name, "parameters": schema, "strict": true})
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_out_of_range() {
    check(vec![
        (Chat, json!({"max_tokens": 0}), "max_tokens"),
        (Chat, json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (Messages, json!({"max_tokens": 0}), "max_tokens"),
        (Responses, json!({"max_output_tokens": 0}), "max_output_tokens"),
        (Chat, json!({"temperature": 3}), "temperature"),
        (Messages, json!({"temperature": 3}), "temperature"),
        (Responses, json!({"temperature": 3}), "temperature"),
        (Messages, json!({"top_k": -2}), "top_k"),
        (Messages, json!({"top_p": 2}), "top_p"),
        (Responses, json!({"top_p": 2}), "top_p"),
        (Responses, json!({"top_logprobs": 21}), "top_logprobs"),
        (Chat, json!({"thinking_token_budget": -2}), "thinking_token_budget"),
        (
            Messages,
            json!({"thinking": {"type": "enabled", "budget_tokens": -2}}),
            "thinking.budget_tokens",
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strings_that_end_the_reply() {
    check(vec![
        (Chat, json!({"stop": vec!["x"; 5]}), "stop"),
        (Messages, json!({"stop_sequences": vec!["x"; 65]}), "stop_sequences"),
        (Chat, json!({"stop": ["x", ""]}), "stop[1]"),
        (Messages, json!({"stop_sequences": ["x", ""]}), "stop_sequences[1]"),
        (Messages, json!({"stop_sequences": "x"}), "stop_sequences"),
    ])
    .await;
    // Each dialect has a bound of its own.
    let server = Server::start(Script::default(), "").await;
    let five = json!({"stop_sequences": vec!["x"; 5]});
    assert_eq!(Messages.ask(&server.client(), &five).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_form_of_the_reply() {
    let bad = json!({"not": {}});
    check(vec![
        (Chat, json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (Messages, json!({"output_config": {"format": {"type": "xml"}}}), "output_config.format.type"),
        (Responses, json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
        (
            Chat,
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}}),
            "response_format.json_schema.name",
        ),
        (
            Responses,
            json!({"text": {"format": {"type": "json_schema", "name": "a b"}}}),
            "text.format.name",
        ),
        (Responses, json!({"text": {"format": {"type": "json_schema"}}}), "text.format.name"),
        (Responses, json!({"text": {"format": 5}}), "text.format"),
        (Responses, json!({"text": {"verbosity": "low"}}), "text.verbosity"),
        (
            Chat,
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": bad, "strict": true}}}),
            "response_format.json_schema.schema",
        ),
        (
            Messages,
            json!({"output_config": {"format": {"type": "json_schema", "schema": bad}}}),
            "output_config.format.schema",
        ),
        (
            Responses,
            json!({"text": {"format": {"type": "json_schema", "name": "a", "schema": bad, "strict": true}}}),
            "text.format.schema",
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_and_their_choice() {
    let (any, bad) = (json!({"type": "object"}), json!({"type": "object", "not": {}}));
    let mut cases = Vec::new();
    for (dialect, name, schema) in [
        (Chat, "tools[1].function.name", "tools[1].function.parameters"),
        (Messages, "tools[1].name", "tools[1].input_schema"),
        (Responses, "tools[1].name", "tools[1].parameters"),
    ] {
        let first = tool(dialect, "f", &any);
        let with = |second: Value| json!({"tools": [first.clone(), second]});
        cases.push((dialect, with(tool(dialect, "a b", &any)), name));
        cases.push((dialect, with(tool(dialect, "g", &bad)), schema));
        cases.push((dialect, with(tool(dialect, "g", &json!("text"))), schema));
        cases.push((dialect, with(first.clone()), "tools[1]"));
    }
    let dropped = json!([{"type": "web_search"}, tool(Responses, "a b", &any)]);
    cases.push((Responses, json!({"tools": dropped}), "tools[1].name"));
    let space = json!([{"type": "namespace", "name": "n", "tools": [tool(Responses, "f", &any), {"type": "function"}]}]);
    cases.push((Responses, json!({"tools": space}), "tools[0].tools[1].name"));
    cases.push((
        Messages,
        json!({"tools": [{"type": "bash_20250124", "name": "b"}]}),
        "tools[0].type",
    ));
    for (dialect, choice, param) in [
        (Chat, json!("some"), "tool_choice"),
        (Responses, json!("some"), "tool_choice"),
        (Messages, json!({"type": "some"}), "tool_choice.type"),
        (Messages, json!({"type": "tool"}), "tool_choice.name"),
        (Chat, json!({"type": "function", "function": {"name": "g"}}), "tool_choice"),
        (Messages, json!({"type": "tool", "name": "g"}), "tool_choice"),
        (Responses, json!({"type": "function", "name": "g"}), "tool_choice"),
        (Responses, json!({"type": "web_search"}), "tool_choice"),
        (
            Chat,
            json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]}}),
            "tool_choice.allowed_tools.tools[0]",
        ),
        (
            Responses,
            json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}),
            "tool_choice.tools[0]",
        ),
        (Responses, json!({"type": "allowed_tools", "tools": []}), "tool_choice.mode"),
        (
            Responses,
            json!({"type": "allowed_tools", "mode": "some", "tools": []}),
            "tool_choice.mode",
        ),
    ] {
        cases.push((
            dialect,
            json!({"tools": [tool(dialect, "f", &any)], "tool_choice": choice}),
            param,
        ));
    }
    check(cases).await;
}

/// Counting tokens refuses what generating them would.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_enforced_is_not_counted() {
    let server = Server::start(Script::default(), "").await;
    let bad =
        json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    for dialect in [Chat, Messages, Responses] {
        let fields = json!({"tools": [tool(dialect, "f", &bad)]});
        let count = dialect.count(&server.client(), &fields).await;
        let asked = dialect.ask(&server.client(), &fields).await;
        assert_eq!((count.status, asked.status), (400, 400), "{count:?} {asked:?}");
        assert_eq!(count.json()["error"], asked.json()["error"]);
        assert_eq!(dialect.count(&server.client(), &json!({})).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_those_of_chat_in_every_dialect() {
    let server = Server::start(Script::default(), "").await;
    for (dialect, field) in [(Chat, "messages"), (Messages, "messages"), (Responses, "input")] {
        for role in ["system", "developer", "user", "assistant", "tool"] {
            let messages =
                json!([{"role": role, "content": "a"}, {"role": "user", "content": "b"}]);
            let answer = dialect.count(&server.client(), &json!({field: messages})).await;
            assert_eq!(answer.status, 200, "{dialect:?} {role}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations() {
    let image = json!([{"type": "image", "source": {}}]);
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    check(vec![
        (Chat, json!({"messages": []}), "messages"),
        (Messages, json!({"messages": []}), "messages"),
        (Responses, json!({"input": []}), "input"),
        (Chat, json!({"messages": [{"role": "root", "content": "x"}]}), "messages[0].role"),
        (Messages, json!({"messages": [{"role": "root", "content": "x"}]}), "messages[0].role"),
        (Responses, json!({"input": [{"role": "root", "content": "x"}]}), "input[0].role"),
        (Messages, json!({"messages": user(image.clone())}), "messages[0].content[0]"),
        (Responses, json!({"input": user(image)}), "input[0].content[0]"),
        (Messages, json!({"messages": user(json!(5))}), "messages[0].content"),
        (Responses, json!({"input": user(json!(5))}), "input[0].content"),
        (Messages, json!({"messages": user(json!([{"type": "tool_result", "content": [{"type": "text"}]}]))}), "messages[0].content[0].content[0]"),
        (Messages, json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "1"}]}]}), "messages[0].content[0].name"),
        (Messages, json!({"system": [{"type": "image"}]}), "system[0]"),
        (Responses, json!({"input": [{"type": "function_call", "call_id": "1"}]}), "input[0].name"),
        (Responses, json!({"input": [{"type": "function_call_output", "call_id": "1"}]}), "input[0].output"),
        (Responses, json!({"input": [{"type": "custom_tool_call", "call_id": "1", "name": "c"}]}), "input[0].input"),
        (Responses, json!({"input": [{"type": "odd"}]}), "input[0].type"),
        (Responses, json!({"input": [{"type": "reasoning", "summary": []}]}), "input"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_longer_than_the_context() {
    let long = "x".repeat(4096);
    let user = json!([{"role": "user", "content": long}]);
    check(vec![
        (Chat, json!({"messages": user}), "messages"),
        (Messages, json!({"messages": user}), "messages"),
        (Responses, json!({"input": user}), "input"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_to_reason() {
    check(vec![
        (Messages, json!({"thinking": {"type": "some"}}), "thinking.type"),
        (Messages, json!({"output_config": {"effort": "some"}}), "output_config.effort"),
        (Chat, json!({"reasoning_effort": "some"}), "reasoning_effort"),
    ])
    .await;
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ reasoning_effort }}";
    let script = Script { chat_template: Some(template.to_owned()), ..Script::default() };
    let server = Server::start(script, "").await;
    let fields = json!({"reasoning": {"effort": "some"}});
    let answer = Responses.ask(&server.client(), &fields).await;
    Responses.check(&answer, "reasoning.effort", &fields);
}
