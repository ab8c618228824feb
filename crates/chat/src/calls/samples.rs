//! Dialects of every form, for tests.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::dialect::{Arguments, Dialect, Values};

pub(super) fn tools() -> BTreeMap<String, Value> {
    let schema = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "units": {"type": "object"}}});
    BTreeMap::from([("weather".to_owned(), schema), ("now".to_owned(), json!({}))])
}

pub(super) fn json_dialect(
    open: &str,
    middle: &str,
    between: Option<&str>,
    close: &str,
) -> Dialect {
    Dialect {
        native: true,
        renders: true,
        open: open.to_owned(),
        middle: middle.to_owned(),
        between: between.map(str::to_owned),
        close: close.to_owned(),
        arguments: Arguments::Json,
        takes_text: false,
        short_ids: false,
        answer: "",
    }
}

fn each(key_value: &str, value_key: &str, none: &str, values: Values) -> Arguments {
    let [key_value, value_key, none] = [key_value, value_key, none].map(str::to_owned);
    Arguments::Each { key_value, value_key, none, values }
}

/// A bare object, as Llama 3 spells calls.
pub(super) fn llama() -> Dialect {
    json_dialect("{\"name\": \"", "\", \"parameters\": ", None, "}")
}

pub(super) fn mistral() -> Dialect {
    json_dialect(
        "[TOOL_CALLS][{\"name\": \"",
        "\", \"arguments\": ",
        Some(", \"id\": \"probe1234\"}, {\"name\": \""),
        ", \"id\": \"probe1234\"}]",
    )
}

/// A list in which another marker than the first one stands before each further object.
pub(super) fn two_markers() -> Dialect {
    json_dialect(
        "<calls><call>{\"name\": \"",
        "\", \"arguments\": ",
        Some("}</call><call>{\"name\": \""),
        "}</call></calls>",
    )
}

pub(super) fn kimi() -> Dialect {
    json_dialect(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
        ":0<|tool_call_argument_begin|>",
        Some("<|tool_call_end|><|tool_call_begin|>functions."),
        "<|tool_call_end|><|tool_calls_section_end|>",
    )
}

pub(super) fn deepseek() -> Dialect {
    json_dialect(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        "\n```json\n",
        Some("\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
        "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    )
}

pub(super) fn mistral_args() -> Dialect {
    json_dialect("[TOOL_CALLS]", "[ARGS]", Some("[TOOL_CALLS]"), "")
}

pub(super) fn llama_function() -> Dialect {
    json_dialect("<function=", ">", Some("</function><function="), "</function>")
}

pub(super) fn keyed() -> Dialect {
    json_dialect("<|tools_prefix|>[{\"", "\": ", Some("}, {\""), "}]<|tools_suffix|>")
}

pub(crate) fn qwen() -> Dialect {
    Dialect {
        arguments: each(
            ">\n",
            "\n</parameter>\n<parameter=",
            ">\n</function>\n</tool_call>",
            Values::Bare,
        ),
        ..json_dialect(
            "<tool_call>\n<function=",
            ">\n<parameter=",
            Some("\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function="),
            "\n</parameter>\n</function>\n</tool_call>",
        )
    }
}

pub(super) fn glm() -> Dialect {
    Dialect {
        arguments: each(
            "</arg_key>\n<arg_value>",
            "</arg_value>\n<arg_key>",
            "\n</tool_call>",
            Values::Bare,
        ),
        ..json_dialect(
            "<tool_call>",
            "\n<arg_key>",
            Some("</arg_value>\n</tool_call>\n<tool_call>"),
            "</arg_value>\n</tool_call>",
        )
    }
}

pub(super) fn minimax() -> Dialect {
    Dialect {
        arguments: each(
            "\">",
            "</parameter>\n<parameter name=\"",
            "\">\n</invoke>\n</minimax:tool_call>",
            Values::Bare,
        ),
        ..json_dialect(
            "<minimax:tool_call>\n<invoke name=\"",
            "\">\n<parameter name=\"",
            Some("</parameter>\n</invoke>\n<invoke name=\""),
            "</parameter>\n</invoke>\n</minimax:tool_call>",
        )
    }
}

pub(crate) fn dsml() -> Dialect {
    let values = Values::Told {
        front: "\" string=\"".to_owned(),
        back: "\">".to_owned(),
        texts: "true".to_owned(),
        others: vec![("integer", "false".to_owned())],
    };
    Dialect {
        arguments: each(
            "\" string=\"true\">",
            "</|DSML|parameter>\n<|DSML|parameter name=\"",
            "\">\n</|DSML|invoke>\n</|DSML|calls>",
            values,
        ),
        ..json_dialect(
            "<|DSML|calls>\n<|DSML|invoke name=\"",
            "\">\n<|DSML|parameter name=\"",
            Some("</|DSML|parameter>\n</|DSML|invoke>\n<|DSML|invoke name=\""),
            "</|DSML|parameter>\n</|DSML|invoke>\n</|DSML|calls>",
        )
    }
}

pub(crate) fn python() -> Dialect {
    Dialect {
        arguments: each("=", ", ", "()]", Values::Quoted("'".to_owned())),
        ..json_dialect("<|tool_call_start|>[", "(", Some("), "), ")]")
    }
}

pub(super) fn declared() -> Dialect {
    Dialect {
        arguments: each(":", ",", "{}<tool_call|>", Values::Quoted("<|\"|>".to_owned())),
        ..json_dialect(
            "<|tool_call>call:",
            "{",
            Some("}<tool_call|><|tool_call>call:"),
            "}<tool_call|>",
        )
    }
}

/// One of each form.
pub(super) fn all() -> Vec<Dialect> {
    vec![
        Dialect::fallback(),
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
