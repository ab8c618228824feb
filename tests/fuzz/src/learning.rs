//! Any chat template: parsed, with its features, and rendered. A template comes with a model's file, not from a client, but no
//! model may end the process. Its tool call format is parsed and enforced without failing.

use forebay_chat::{
    CallCount, GrammarTarget, Satisfiability, ToolCallGrammar, ToolCallParser, ToolShape, Turn,
};
use serde_json::{Map, Value, json};

use crate::templates;

/// What one rendering may make: the engine's fuel allows some 256 MB.
const MOST: usize = 512 << 20;

pub fn run(data: &[u8]) {
    let Some(([flags], source)) = crate::parts(data) else { return };
    let Some(template) = templates::with_names(&source, &["<|im_end|>"]) else {
        return;
    };
    let (tools, variables) = (templates::tools(), Map::new());
    let turns = [Turn::of("system", "Be brief."), Turn::of("user", "Hello <|im_end|>")];
    if let Ok(pieces) = template.render(&turns, &templates::options(&tools, &variables)) {
        assert!(pieces.iter().map(String::len).sum::<usize>() < MOST);
    }
    let format = &template.features().tool_calls;
    let calls = match flags % 3 {
        0 => CallCount::One,
        1 => CallCount::AtLeastOne,
        _ => CallCount::Any,
    };
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]});
    let shapes =
        [ToolShape { name: "get_weather", schema: schema.clone(), sent: &schema, strict: false }];
    let target = GrammarTarget {
        control: &|_| None,
        json: &Value::clone,
        search: &|_, _| Satisfiability::Unknown,
    };
    let grammar = ToolCallGrammar::new(format, &shapes, calls, target, None);
    assert!(grammar.is_ok_and(|grammar| grammar.lark.contains("start: ")));
    // A reply of the format's own delimiters.
    let text = format.delimiters().join("get_weather");
    let mut parser = ToolCallParser::new(format, crate::calls::schemas().into(), false);
    let mut parts = Vec::new();
    for piece in crate::pieces(&text, 0) {
        parser.push(piece, &mut parts);
    }
    parser.finish(&mut parts);
    let read = crate::calls::collect(parts);
    assert!(crate::is_subsequence(&read.text, &text));
}
