//! Conversations with tools for templates that do not support tools, or not all that OpenAI's messages have.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use super::{ArgumentFormat, PROBE_ID, ToolCallFormat, ValueFormat};
use crate::turn::Turn;

impl ToolCallFormat {
    /// The turns as the template supports them. If it does not describe tools, a system turn does; if it does not
    /// render calls, calls and results become text; if it wants short ids, ids become short.
    pub fn adapt(&self, turns: &[Turn], tools: &[Value]) -> Vec<Turn> {
        let mut adapted = turns.to_vec();
        if self.short_ids {
            for turn in &mut adapted {
                let ids = turn.calls.iter_mut().map(|call| &mut call.id);
                ids.chain(&mut turn.call_id).for_each(|id| *id = short_id(id));
            }
        }
        if !self.renders_calls {
            adapted.iter_mut().for_each(|turn| self.write_calls_as_text(turn));
        }
        if !self.describes_tools && !tools.is_empty() {
            let description = self.description(tools);
            match adapted.first_mut().filter(|turn| turn.role == "system") {
                Some(system) => system.content = format!("{}\n\n{description}", system.content),
                None => adapted.insert(0, Turn::of("system", description)),
            }
        }
        adapted
    }

    fn write_calls_as_text(&self, turn: &mut Turn) {
        if turn.role == "tool" && !self.describes_tools {
            let content = format!("<tool_response>\n{}\n</tool_response>", turn.content);
            *turn = Turn::of("user", content);
        }
        let calls = std::mem::take(&mut turn.calls);
        for call in calls {
            if !turn.content.is_empty() {
                turn.content.push('\n');
            }
            let call = self.write_call(&call.name, &call.arguments);
            turn.content.push_str(&call);
        }
    }

    /// The text of a reply's only call.
    fn write_call(&self, name: &str, arguments: &Value) -> String {
        let ArgumentFormat::OneByOne { key_value, value_key, no_arguments, values } =
            &self.arguments
        else {
            return format!("{}{name}{}{arguments}{}", self.open, self.after_name, self.close);
        };
        let pair = |(key, value): (&String, &Value)| match (value.as_str(), values) {
            (Some(text), ValueFormat::Quoted(quote)) => {
                format!("{key}{key_value}{quote}{text}{quote}")
            }
            (Some(text), _) => format!("{key}{key_value}{text}"),
            (None, _) => format!("{key}{key_value}{value}"),
        };
        let pairs: Vec<String> = arguments.as_object().into_iter().flatten().map(pair).collect();
        if pairs.is_empty() {
            return format!("{}{name}{no_arguments}", self.open);
        }
        let pairs = pairs.join(value_key);
        format!("{}{name}{}{pairs}{}", self.open, self.after_name, self.close)
    }

    /// The description of tools for a model whose template has none.
    fn description(&self, tools: &[Value]) -> String {
        let list: Vec<String> = tools.iter().map(Value::to_string).collect();
        let example = self.write_call("function", &json!({"key": "value"}));
        let how = if self.renders_calls {
            "To call one, answer with its name and arguments like this:"
        } else {
            "To call one, answer with a JSON object with its name and arguments between \
             <tool_call> tags:"
        };
        format!(
            "You may call these functions:\n<tools>\n{}\n</tools>\n{how}\n{example}",
            list.join("\n")
        )
    }
}

/// An id of nine letters and digits, always the same for the same `id`.
fn short_id(id: &str) -> String {
    if id.len() == PROBE_ID.len() && id.chars().all(|c| c.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    let mut rest = hasher.finish();
    let mut digit = || {
        let digit = char::from_digit(u32::try_from(rest % 36).unwrap_or(0), 36);
        rest /= 36;
        digit.unwrap_or('0')
    };
    PROBE_ID.chars().map(|_| digit()).collect()
}
