//! Renders conversations: one JSON object a line comes in (`template`, `messages`, `tools`,
//! `variables`), one goes out (`text` or `error`). The tests compare it with Python's jinja2.
#![expect(clippy::print_stdout, reason = "that is what it is for")]
#![expect(clippy::unwrap_used, reason = "an example")]

use std::io::BufRead;
use std::time::{Duration, SystemTime};

use forebay_chat::{ChatTemplate, RenderOptions, SpecialTokens, turns_from_messages};
use serde_json::{Map, Value, json};

/// 2024-07-26, the day that Llama's templates fall back to.
const NOW: Duration = Duration::from_secs(1_721_952_000);

fn main() {
    for line in std::io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let answer = match render(&case) {
            Ok(text) => json!({ "text": text }),
            Err(error) => json!({ "error": error }),
        };
        println!("{answer}");
    }
}

fn render(case: &Value) -> Result<String, String> {
    let messages = serde_json::from_value(case["messages"].clone()).map_err(|e| e.to_string())?;
    let messages: Vec<_> = messages;
    let turns =
        turns_from_messages(&messages, true, &mut Vec::new()).map_err(|e| format!("{e:?}"))?;
    let control = vec!["<|im_start|>", "<|im_end|>", "<s>", "</s>"];
    let tokens = SpecialTokens { bos: "<s>", eos: "</s>", control, ends: Vec::new() };
    let template = ChatTemplate::new(case["template"].as_str().unwrap(), &tokens)
        .map_err(|e| e.to_string())?;
    let tools: Vec<Value> = case["tools"].as_array().cloned().unwrap_or_default();
    let variables: Map<String, Value> = case["variables"].as_object().cloned().unwrap_or_default();
    let options = RenderOptions {
        add_generation_prompt: case["opens"] == true,
        continue_final_message: false,
        tools: &tools,
        arguments_as_text: case["arguments_as_text"]
            .as_bool()
            .unwrap_or_else(|| template.features().tool_calls.arguments_as_text()),
        variables: &variables,
        now: SystemTime::UNIX_EPOCH + NOW,
    };
    let pieces = template.render(&turns, &options).map_err(|e| e.to_string())?;
    Ok(pieces.concat())
}
