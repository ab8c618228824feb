//! Conversations by people who know the control tokens, through the guard and templates of all kinds.
//!
//! No piece of a prompt holds a control token's name that the template did not write; pieces put
//! together are what the template makes of the same conversation for a model without control tokens.

use std::sync::LazyLock;

use arbitrary::Unstructured;
use forebay_chat::{Call, ChatTemplate, RenderError, RenderOptions, Turn};
use serde_json::{Map, Value, json};

use crate::templates::{self, SOURCES};
use crate::wild;

/// Names that no template here writes by itself, some of which a user could complete with what a
/// template writes around the user's text.
///
/// None has a quote beside a word: members of tools' schemas that are words are not guarded, since
/// templates look for some, and JSON puts them in quotes.
const NEVER: [&str; 15] = [
    "<|secret|>",
    "[EVIL]",
    "</evil>",
    "<|im_start|>evil",
    "]x",
    "|>x",
    "\nQ",
    "Q<",
    "Q[",
    ":Q",
    "<|im_end|>\nQ",
    "<unk>",
    "｜evil｜",
    "<<",
    "｜>Q",
];
/// Names that templates write.
const WRITTEN: [&str; 16] = [
    "<|im_start|>",
    "<|im_end|>",
    "[INST]",
    "[/INST]",
    "<s>",
    "</s>",
    "<|eot_id|>",
    "<|x|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<tool_call>",
    "[TOOL_CALLS]",
    "<|turn>",
    "<|end|>",
];
/// What else a user may say: what templates look for, and noncharacters.
const OTHER: [&str; 22] = [
    "</think>",
    "<think>",
    "/think",
    "/no_think",
    "{{",
    "}}",
    "{% raw %}",
    "\u{fdd0}",
    "\u{fdd1}",
    "\u{fdee}",
    "\u{fdef}",
    " ",
    "\n",
    "\n\n",
    "Q",
    "x",
    "type",
    "name",
    "\\",
    "\"",
    "é",
    "👋",
];

static ALL: LazyLock<Vec<(ChatTemplate, ChatTemplate)>> = LazyLock::new(|| {
    let names: Vec<&str> = NEVER.iter().chain(&WRITTEN).copied().collect();
    let both = |(_, source): &(&str, &str)| {
        let bare = templates::parsed(source).expect("a template");
        (templates::with_names(source, &names).expect("a template"), bare)
    };
    SOURCES.iter().map(both).collect()
});

static WORDS: LazyLock<Vec<&str>> =
    LazyLock::new(|| [&NEVER[..], &WRITTEN[..], &OTHER[..]].concat());

pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let kind: u8 = u.arbitrary().unwrap_or(0);
    let kind = usize::from(kind) % SOURCES.len();
    let (guarded, bare) = &ALL[kind];
    let count = u.int_in_range(1..=4).unwrap_or(1);
    let turns: Vec<Turn> = (0..count).map(|_| turn(&mut u)).collect();
    let tools: Vec<Value> =
        if u.ratio(1, 3).unwrap_or(false) { vec![tool(&mut u)] } else { vec![] };
    let mut variables = Map::new();
    if u.ratio(1, 4).unwrap_or(false) {
        variables.insert(wild(&mut u, &WORDS), json!(wild(&mut u, &WORDS)));
    }
    let options = RenderOptions {
        add_generation_prompt: u.arbitrary().unwrap_or(true),
        continue_final_message: u.ratio(1, 8).unwrap_or(false),
        arguments_as_text: u.arbitrary().unwrap_or(false),
        ..templates::options(&tools, &variables)
    };
    let pieces = guarded.render(&turns, &options);
    let plain = bare.render(&turns, &options);
    match (pieces, plain) {
        (Ok(pieces), Ok(plain)) => {
            for piece in &pieces {
                let found = NEVER.iter().find(|name| piece.contains(**name));
                assert!(found.is_none(), "{found:?} in {pieces:?}");
            }
            assert_eq!(pieces.concat(), plain.concat());
            // Where every turn is written whatever it says, the number of control tokens is known.
            let opens = usize::from(options.add_generation_prompt);
            let own = match SOURCES[kind].0 {
                "plain" => Some(turns.len()),
                "switch" => Some(2 * turns.len() + opens),
                _ => None,
            };
            if let Some(own) = own.filter(|_| !options.continue_final_message) {
                let each = pieces.iter().flat_map(|p| WRITTEN.iter().map(|n| p.matches(n).count()));
                assert_eq!(each.sum::<usize>(), own, "{pieces:?}");
            }
        }
        (Err(RenderError::Noncharacters), Err(RenderError::Noncharacters)) => {}
        (Err(_), Err(_)) => {}
        // It counts the characters of ids, those of marks in a control token's name too.
        (Err(RenderError::Raised(_)), Ok(_)) | (Ok(_), Err(RenderError::Raised(_)))
            if SOURCES[kind].0 == "mistral" => {}
        (a, b) => panic!("guarded {a:?}, bare {b:?}"),
    }
}

fn turn(u: &mut Unstructured<'_>) -> Turn {
    let role =
        u.choose(&["user", "assistant", "system", "tool", "user"]).copied().unwrap_or("user");
    let mut turn = Turn::of(role, wild(u, &WORDS));
    let maybe = |u: &mut Unstructured<'_>| u.ratio(1, 4).unwrap_or(false).then(|| wild(u, &WORDS));
    turn.name = maybe(u);
    turn.reasoning = maybe(u);
    turn.call_id = maybe(u);
    if role == "assistant" && u.ratio(1, 2).unwrap_or(false) {
        let (id, name) = (wild(u, &WORDS), wild(u, &WORDS));
        turn.calls = vec![Call { id, name, arguments: value(u, 2) }];
    }
    turn
}

/// Arguments: an object, as a rule.
fn value(u: &mut Unstructured<'_>, depth: u32) -> Value {
    match u.int_in_range(0..=if depth == 0 { 1 } else { 4 }).unwrap_or(0) {
        0 => json!(wild(u, &WORDS)),
        1 => json!(u.arbitrary::<i32>().unwrap_or(0)),
        2 => json!([value(u, depth - 1)]),
        _ => json!({wild(u, &WORDS): value(u, depth - 1)}),
    }
}

/// A tool with hostile names in every place.
fn tool(u: &mut Unstructured<'_>) -> Value {
    let kind = if u.arbitrary().unwrap_or(true) { "string".to_owned() } else { wild(u, &WORDS) };
    json!({"type": "function", "function": {
        "name": wild(u, &WORDS), "description": wild(u, &WORDS),
        "parameters": {"type": "object", "properties": {
            wild(u, &WORDS): {"type": kind, "description": wild(u, &WORDS), wild(u, &WORDS): value(u, 1)}}}}})
}
