//! Grammars that would cost too much are refused wherever one can be sent, and the server lives.

use forebay_engine::scripted::Script;
use serde_json::{Value, json};

use crate::server::Server;

/// A schema of so many definitions that each refer to the next.
fn references(count: usize) -> Value {
    let next = |i: usize| (format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)}));
    let mut definitions: serde_json::Map<String, Value> = (0..count).map(next).collect();
    definitions.insert(format!("d{count}"), json!({"type": "string"}));
    json!({"type": "object", "additionalProperties": false, "required": ["a"],
           "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": definitions})
}

/// A grammar of so many rules that each name the next.
fn rules(start: &str, is: &str, count: usize) -> String {
    let each: String = (0..count).map(|i| format!("r{i}{is} \"a\" r{}\n", i + 1)).collect();
    format!("{start}{is} r0\n{each}r{count}{is} \"x\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_costs_too_much_is_refused_by_every_endpoint() {
    let server = Server::start(Script::default(), "").await;
    let client = server.client();
    let (schema, lark, ebnf) =
        (references(3_000), rules("start", ":", 5_000), rules("root", " ::=", 5_000));
    let classes = "\\pL".repeat(3_000);
    let fields = [
        (json!({"guided_json": schema}), "guided_json"),
        (json!({"guided_json": schema.to_string()}), "guided_json"),
        (json!({"guided_grammar": lark}), "guided_grammar"),
        (json!({"grammar": ebnf}), "grammar"),
        (json!({"guided_regex": classes}), "guided_regex"),
        (json!({"structured_outputs": {"json": schema}}), "structured_outputs.json"),
        (json!({"structured_outputs": {"grammar": lark}}), "structured_outputs.grammar"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
            "response_format.json_schema.schema",
        ),
    ];
    let message = json!([{"role": "user", "content": "hi"}]);
    let with = |fields: &Value, more: Value| {
        let mut body = json!({"model": "m", "max_tokens": 4});
        for map in [fields, &more] {
            body.as_object_mut().unwrap().extend(map.as_object().unwrap().clone());
        }
        body.to_string()
    };
    for (fields, param) in &fields {
        let body = with(fields, json!({"messages": message}));
        let answer = client.post("/v1/chat/completions", &body).await;
        answer.check_error(400, Some(param), Some("invalid_value"));
        assert!(answer.body.contains("the most is"), "{answer:?}");
    }
    for (fields, param) in fields.iter().filter(|(_, param)| !param.starts_with("response")) {
        let answer = client.post("/v1/completions", &with(fields, json!({"prompt": "hi"}))).await;
        answer.check_error(400, Some(param), Some("invalid_value"));
    }
    let format =
        json!({"text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}});
    let mut body: Value = serde_json::from_str(&with(&format, json!({"input": "hi"}))).unwrap();
    body.as_object_mut().unwrap().remove("max_tokens");
    let answer = client.post("/v1/responses", &body.to_string()).await;
    assert!(answer.status == 400 && answer.body.contains("the most is"), "{answer:?}");
    assert_eq!(client.chat(r#","max_tokens":2"#).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_just_within_the_limits_works() {
    let server = Server::start(Script::default(), "").await;
    for fields in [
        json!({"guided_json": references(1_200)}),
        json!({"guided_grammar": rules("start", ":", 3_900)}),
    ] {
        let fields = fields.to_string();
        let fields = format!(",\"max_tokens\":2,{}", &fields[1..fields.len() - 1]);
        let answer = server.client().chat(&fields).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_grammar_fails_its_own_request() {
    let script = Script { says: "a".to_owned(), ..Script::default() };
    let server = Server::start(script, "").await;
    let fields = r#","max_tokens":4000,"guided_grammar":"start: start start | \"a\"""#;
    let answer = server.client().chat(fields).await;
    answer.check_error(400, None, Some("grammar_too_complex"));
    assert_eq!(server.client().chat(r#","max_tokens":2"#).await.status, 200);
}
