//! Models that think before they answer, played by a script.

use forebay_engine::scripted::Script;
use serde_json::Value;

use crate::server::Server;

/// Opens the thoughts, as templates of models do that always think.
const OPENS: &str = "{% for m in messages %}<|x|>{{ m.role }}:{{ m.content }}{% endfor %}<|x|>assistant:{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>\n{{ '\t' }}{% endif %}";
/// Leaves it to the model.
const MAY: &str =
    "{% for m in messages %}<|x|>{{ m.role }}:{{ m.content }}{# <think> #}{% endfor %}{{ '\t' }}";

async fn server(says: &str, template: &str) -> Server {
    let script = Script {
        says: format!("{says}\0"),
        chat_template: Some(template.to_owned()),
        ..Script::default()
    };
    Server::start(script, "").await
}

async fn ask(says: &str, template: &str, fields: &str) -> Value {
    let fields = format!(r#","temperature":0,"max_tokens":90{fields}"#);
    let answer = server(says, template).await.client().chat(&fields).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[track_caller]
fn check(answer: &Value, thoughts: Option<&str>, content: &str, tokens: usize) {
    let message = &answer["choices"][0]["message"];
    assert_eq!(
        (message["reasoning_content"].as_str(), message["content"].as_str()),
        (thoughts, Some(content)),
        "{answer}"
    );
    assert_eq!(
        answer["usage"]["completion_tokens_details"]["reasoning_tokens"], tokens,
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reasoning_is_separated_and_counted() {
    let opened = ask("Hm, so.\n</think>\n\nYes.", OPENS, "").await;
    check(&opened, Some("Hm, so."), "Yes.", "Hm, so.\n</think>".len());
    let own = ask(" <think>Hm.</think>Yes.", MAY, "").await;
    check(&own, Some("Hm."), "Yes.", " <think>Hm.</think>".len());
    let none = ask("Yes, so.", MAY, "").await;
    check(&none, None, "Yes, so.", 0);
    let stream = server("Hm, so.</think>Yes.", OPENS).await;
    let fields = r#","temperature":0,"stream":true,"stream_options":{"include_usage":true}"#;
    let events = stream.client().chat(fields).await.body;
    let (mut thoughts, mut content) = (String::new(), String::new());
    for event in events.lines().filter_map(|l| l.strip_prefix("data: {")) {
        let event: Value = serde_json::from_str(&format!("{{{event}")).unwrap();
        let delta = &event["choices"][0]["delta"];
        thoughts.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        content.push_str(delta["content"].as_str().unwrap_or_default());
    }
    assert_eq!((thoughts.as_str(), content.as_str()), ("Hm, so.", "Yes."));
    assert!(events.contains("\"reasoning_tokens\":15"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grammar_starts_after_reasoning() {
    let fields = r#","response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}}}"#;
    let opened = ask("Hm.</think>{\"ok\": true}", OPENS, fields).await;
    check(&opened, Some("Hm."), "{\"ok\": true}", "Hm.</think>".len());
    let own = ask("<think>Hm.</think>no", MAY, fields).await;
    let content = own["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(serde_json::from_str::<Value>(&content).unwrap()["ok"].is_boolean(), "{own}");
    assert_eq!(own["choices"][0]["message"]["reasoning_content"], "Hm.");
}

#[tokio::test(flavor = "multi_thread")]
async fn thoughts_end_where_their_budget_does() {
    let says = "Hm, so, well, let me see.\n</think>\n\nYes.";
    let forced = "\n</think>\n\n".len();
    for name in ["thinking_token_budget", "thinking_budget_tokens"] {
        let cut = ask(says, OPENS, &format!(r#","{name}":6"#)).await;
        check(&cut, Some("Hm, so"), "Yes.", 6 + forced - 2);
        let none = ask(says, OPENS, &format!(r#","{name}":0"#)).await;
        check(&none, None, "Yes.", forced - 2);
    }
    let own = ask(
        "\t<think>Hm, so, well, let me see.\n</think>\n\nYes.",
        MAY,
        r#","thinking_token_budget":6"#,
    );
    check(&own.await, Some("Hm, so"), "Yes.", "<think>".len() + 6 + forced - 2);
    for budget in ["90", "-1", "null"] {
        let whole = ask(says, OPENS, &format!(r#","thinking_token_budget":{budget}"#)).await;
        check(&whole, Some("Hm, so, well, let me see."), "Yes.", says.len() - "\n\nYes.".len());
    }
    let json = r#","thinking_token_budget":2,"response_format":{"type":"json_object"}"#;
    let shaped = ask("Hm, so.\n</think>\n\n{\"a\": 1}", OPENS, json).await;
    check(&shaped, Some("Hm"), "{\"a\": 1}", 2 + forced - 2);
    let odd = server("x", OPENS).await;
    let refused = odd.client().chat(r#","thinking_token_budget":-2"#).await;
    refused.check_error(400, Some("thinking_token_budget"), Some("integer_below_min_value"));
}

#[tokio::test(flavor = "multi_thread")]
async fn effort_goes_to_templates_that_know_it() {
    let off = ask("So.</think>Yes.", OPENS, r#","reasoning_effort":"none""#).await;
    assert!(off["choices"][0]["message"].get("reasoning_content").is_none(), "{off}");
    let on = ask("So.</think>Yes.", OPENS, r#","reasoning_effort":"high""#).await;
    check(&on, Some("So."), "Yes.", "So.</think>".len());
    let client = server("x", MAY).await;
    let refused = client.client().chat(r#","reasoning_effort":"low""#).await;
    refused.check_error(400, Some("reasoning_effort"), Some("unsupported_parameter"));
    let odd = client.client().chat(r#","reasoning_effort":"some""#).await;
    odd.check_error(400, Some("reasoning_effort"), Some("invalid_value"));
}
