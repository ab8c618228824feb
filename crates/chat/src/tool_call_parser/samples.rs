//! Tool call formats of every kind, for tests.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::tool_call_format::{ArgumentFormat, ToolCallFormat, ValueFormat};

pub(super) fn tools() -> BTreeMap<String, Value> {
    let schema = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "units": {"type": "object"}}});
    BTreeMap::from([("weather".to_owned(), schema), ("now".to_owned(), json!({}))])
}

pub(super) fn json_format(
    open: &str,
    after_name: &str,
    between_calls: Option<&str>,
    close: &str,
) -> ToolCallFormat {
    ToolCallFormat {
        describes_tools: true,
        renders_calls: true,
        open: open.to_owned(),
        after_name: after_name.to_owned(),
        between_calls: between_calls.map(str::to_owned),
        close: close.to_owned(),
        arguments: ArgumentFormat::JsonObject,
        arguments_as_text: false,
        short_ids: false,
        content_prefix: "",
    }
}

fn one_by_one(
    key_value: &str,
    value_key: &str,
    no_arguments: &str,
    values: ValueFormat,
) -> ArgumentFormat {
    let [key_value, value_key, no_arguments] =
        [key_value, value_key, no_arguments].map(str::to_owned);
    ArgumentFormat::OneByOne { key_value, value_key, no_arguments, values }
}

/// A JSON object without a marker, as Llama 3 writes calls.
pub(super) fn llama() -> ToolCallFormat {
    json_format("{\"name\": \"", "\", \"parameters\": ", None, "}")
}

pub(super) fn mistral() -> ToolCallFormat {
    json_format(
        "[TOOL_CALLS][{\"name\": \"",
        "\", \"arguments\": ",
        Some(", \"id\": \"probe1234\"}, {\"name\": \""),
        ", \"id\": \"probe1234\"}]",
    )
}

/// A list with a second marker before each further object.
pub(super) fn two_markers() -> ToolCallFormat {
    json_format(
        "<calls><call>{\"name\": \"",
        "\", \"arguments\": ",
        Some("}</call><call>{\"name\": \""),
        "}</call></calls>",
    )
}

pub(super) fn kimi() -> ToolCallFormat {
    json_format(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
        ":0<|tool_call_argument_begin|>",
        Some("<|tool_call_end|><|tool_call_begin|>functions."),
        "<|tool_call_end|><|tool_calls_section_end|>",
    )
}

pub(super) fn deepseek() -> ToolCallFormat {
    json_format(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        "\n```json\n",
        Some("\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
        "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    )
}

pub(super) fn mistral_args() -> ToolCallFormat {
    json_format("[TOOL_CALLS]", "[ARGS]", Some("[TOOL_CALLS]"), "")
}

pub(super) fn llama_function() -> ToolCallFormat {
    json_format("<function=", ">", Some("</function><function="), "</function>")
}

pub(super) fn keyed() -> ToolCallFormat {
    json_format("<|tools_prefix|>[{\"", "\": ", Some("}, {\""), "}]<|tools_suffix|>")
}

pub(crate) fn qwen() -> ToolCallFormat {
    ToolCallFormat {
        arguments: one_by_one(
            ">\n",
            "\n</parameter>\n<parameter=",
            ">\n</function>\n</tool_call>",
            ValueFormat::Bare,
        ),
        ..json_format(
            "<tool_call>\n<function=",
            ">\n<parameter=",
            Some("\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function="),
            "\n</parameter>\n</function>\n</tool_call>",
        )
    }
}

pub(super) fn glm() -> ToolCallFormat {
    ToolCallFormat {
        arguments: one_by_one(
            "</arg_key>\n<arg_value>",
            "</arg_value>\n<arg_key>",
            "\n</tool_call>",
            ValueFormat::Bare,
        ),
        ..json_format(
            "<tool_call>",
            "\n<arg_key>",
            Some("</arg_value>\n</tool_call>\n<tool_call>"),
            "</arg_value>\n</tool_call>",
        )
    }
}

pub(super) fn minimax() -> ToolCallFormat {
    ToolCallFormat {
        arguments: one_by_one(
            "\">",
            "</parameter>\n<parameter name=\"",
            "\">\n</invoke>\n</minimax:tool_call>",
            ValueFormat::Bare,
        ),
        ..json_format(
            "<minimax:tool_call>\n<invoke name=\"",
            "\">\n<parameter name=\"",
            Some("</parameter>\n</invoke>\n<invoke name=\""),
            "</parameter>\n</invoke>\n</minimax:tool_call>",
        )
    }
}

pub(crate) fn dsml() -> ToolCallFormat {
    let values = ValueFormat::Typed {
        before_type: "\" string=\"".to_owned(),
        after_type: "\">".to_owned(),
        text_type: "true".to_owned(),
        other_types: vec![("integer", "false".to_owned())],
    };
    ToolCallFormat {
        arguments: one_by_one(
            "\" string=\"true\">",
            "</|DSML|parameter>\n<|DSML|parameter name=\"",
            "\">\n</|DSML|invoke>\n</|DSML|calls>",
            values,
        ),
        ..json_format(
            "<|DSML|calls>\n<|DSML|invoke name=\"",
            "\">\n<|DSML|parameter name=\"",
            Some("</|DSML|parameter>\n</|DSML|invoke>\n<|DSML|invoke name=\""),
            "</|DSML|parameter>\n</|DSML|invoke>\n</|DSML|calls>",
        )
    }
}

pub(crate) fn python() -> ToolCallFormat {
    ToolCallFormat {
        arguments: one_by_one("=", ", ", "()]", ValueFormat::Quoted("'".to_owned())),
        ..json_format("<|tool_call_start|>[", "(", Some("), "), ")]")
    }
}

pub(super) fn declared() -> ToolCallFormat {
    ToolCallFormat {
        arguments: one_by_one(":", ",", "{}<tool_call|>", ValueFormat::Quoted("<|\"|>".to_owned())),
        ..json_format(
            "<|tool_call>call:",
            "{",
            Some("}<tool_call|><|tool_call>call:"),
            "}<tool_call|>",
        )
    }
}

/// One of each kind.
pub(super) fn all() -> Vec<ToolCallFormat> {
    vec![
        ToolCallFormat::fallback(),
        llama(),
        mistral(),
        two_markers(),
        kimi(),
        deepseek(),
        mistral_args(),
        llama_function(),
        keyed(),
        qwen(),
        glm(),
        minimax(),
        dsml(),
        python(),
        declared(),
    ]
}
