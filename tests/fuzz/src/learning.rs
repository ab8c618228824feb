//! Chat templates that nobody has seen: parsed, rendered and asked how they spell calls. A template
//! comes with a model's file, so it is not a client's, but no model may end the process. What is
//! learned reads and writes calls without failing.

use forebay_chat::{CallReader, Calls, Dialect, Target, ToolShape, Turn, call_grammar};
use serde_json::{Map, Value, json};

use crate::templates;

/// What one rendering may make: the engine's fuel allows some 256 MB.
const MOST: usize = 512 << 20;

pub fn run(data: &[u8]) {
    let Some(([flags], source)) = crate::parts(data) else { return };
    let Some(template) = templates::with_names(&source, vec!["<|im_end|>".to_owned()]) else {
        return;
    };
    let (tools, variables) = (templates::tools(), Map::new());
    let turns = [Turn::of("system", "Be brief."), Turn::of("user", "Hello <|im_end|>")];
    if let Ok(pieces) = template.render(&turns, &templates::options(&tools, &variables)) {
        assert!(pieces.iter().map(String::len).sum::<usize>() < MOST);
    }
    template.thinking();
    let dialect = Dialect::learn(&template, &templates::ENDS);
    let calls = match flags % 3 {
        0 => Calls::One,
        1 => Calls::Some,
        _ => Calls::Any,
    };
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]});
    let shapes =
        [ToolShape { name: "get_weather", schema: schema.clone(), sent: &schema, strict: false }];
    let target = Target { control: &|_| None, json: &Value::clone, some_text: &|_, _| None };
    let grammar = call_grammar(&dialect, &shapes, calls, target, None);
    assert!(grammar.is_ok_and(|grammar| grammar.lark.contains("start: ")));
    // An answer made of the dialect's own pieces.
    let text = dialect.pieces().join("get_weather");
    let mut reader = CallReader::new(dialect.clone(), crate::calls::schemas().into(), false);
    let mut parts = Vec::new();
    for piece in crate::pieces(&text, 0) {
        reader.push(piece, &mut parts);
    }
    reader.finish(&mut parts);
    let read = crate::calls::collect(parts);
    assert!(crate::is_subsequence(&read.text, &text));
}
