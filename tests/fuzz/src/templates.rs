//! Chat templates, cut down to what each kind of model does: how turns are marked, how calls are
//! spelled. From each a format is learned as it is from a model's own.

use std::sync::LazyLock;
use std::time::SystemTime;

use forebay_chat::{ChatTemplate, RenderOptions, SpecialTokens, ToolCallFormat};
use serde_json::{Map, Value, json};

pub const SOURCES: [(&str, &str); 13] = [
    ("hermes", include_str!("../templates/hermes.jinja")),
    ("mistral", include_str!("../templates/mistral.jinja")),
    ("llama", include_str!("../templates/llama.jinja")),
    ("deepseek", include_str!("../templates/deepseek.jinja")),
    ("kimi", include_str!("../templates/kimi.jinja")),
    ("coder", include_str!("../templates/coder.jinja")),
    ("glm", include_str!("../templates/glm.jinja")),
    ("lfm", include_str!("../templates/lfm.jinja")),
    ("gemma", include_str!("../templates/gemma.jinja")),
    ("told", include_str!("../templates/told.jinja")),
    ("channels", include_str!("../templates/channels.jinja")),
    ("switch", include_str!("../templates/switch.jinja")),
    ("plain", include_str!("../templates/plain.jinja")),
];

/// The names of tokens that end answers.
pub const ENDS: [&str; 6] =
    ["<|im_end|>", "<|eot_id|>", "</s>", "<｜end▁of▁sentence｜>", "<turn|>", "<|end|>"];

/// A template that knows no control tokens.
pub fn parsed(source: &str) -> Option<ChatTemplate> {
    with_names(source, &[])
}

/// A template of a model with these control tokens.
pub fn with_names(source: &str, names: &[&str]) -> Option<ChatTemplate> {
    let (control, ends) = (names.to_vec(), ENDS.to_vec());
    let tokens = SpecialTokens { bos: "<s>", eos: "</s>", control, ends };
    ChatTemplate::new(source, &tokens).ok()
}

/// The tool call format of each of [`SOURCES`].
pub static FORMATS: LazyLock<Vec<ToolCallFormat>> = LazyLock::new(|| {
    let format = |(name, source): &(&str, &str)| {
        let template = parsed(source).unwrap_or_else(|| panic!("{name} is no template"));
        template.features().tool_calls.clone()
    };
    SOURCES.iter().map(format).collect()
});

/// Options without anything special.
pub fn options<'a>(tools: &'a [Value], variables: &'a Map<String, Value>) -> RenderOptions<'a> {
    RenderOptions {
        add_generation_prompt: true,
        continue_final_message: false,
        tools,
        arguments_as_text: false,
        variables,
        now: SystemTime::UNIX_EPOCH,
    }
}

/// Tools with parameters of every kind.
pub fn tools() -> Vec<Value> {
    let parameters = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"},
        "more": {"type": "object"}, "list": {"type": "array"}, "any": {}}});
    ["get_weather", "now", "größe"]
        .map(|name| {
            json!({"type": "function", "function": {
            "name": name, "description": "Does it.", "parameters": parameters}})
        })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `lfm` describes tools and renders no calls: a marker identifies its format.
    #[test]
    fn each_template_has_a_format_of_its_own() {
        let mut all: Vec<String> = FORMATS.iter().map(|format| format!("{format:?}")).collect();
        for ((name, _), format) in SOURCES.iter().zip(&all) {
            println!("{name}: {format}");
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), SOURCES.len());
    }
}
