//! Reads the calls that chat templates spell: by what Forebay learns from the template, and by the
//! parsers of the crate `tool-parser`, chosen by the model's name or each of them in turn.
//!
//! `cargo run --release --manifest-path tests/parsers/Cargo.toml -- FOLDER` for a folder of `.jinja`
//! files named after their models. What a template makes of two past calls (or one, where it takes
//! no more) is taken as the model's answer.

use std::collections::BTreeMap;

use forebay_chat::{ChatTemplate, SpecialTokens};
use tool_parser::ParserFactory;

#[path = "../../../crates/chat/examples/spelled/mod.rs"]
mod spelled;
use spelled::{Calls, ours, parsed, tools};

/// What a parser of the crate reads: whole, and character by character.
async fn theirs(factory: &ParserFactory, name: &str, text: &str) -> [Calls; 2] {
    let tools: Vec<openai_protocol::common::Tool> =
        tools().into_iter().filter_map(|tool| serde_json::from_value(tool).ok()).collect();
    let Some(mut parser) = factory.registry().create_parser(name) else { return [vec![], vec![]] };
    let whole = match parser.parse_complete_with_tools(text, &tools).await {
        Ok((_, calls)) => {
            let call = |c: tool_parser::ToolCall| (c.function.name, parsed(&c.function.arguments));
            calls.into_iter().map(call).collect()
        }
        Err(_) => vec![],
    };
    let mut streamed: Vec<(String, String)> = Vec::new();
    let mut items = Vec::new();
    for c in text.chars() {
        if let Ok(result) = parser.parse_incremental(c.encode_utf8(&mut [0; 4]), &tools).await {
            items.extend(result.calls);
        }
    }
    items.extend(parser.get_unstreamed_tool_args().unwrap_or_default());
    for item in items {
        if streamed.len() <= item.tool_index {
            streamed.resize(item.tool_index + 1, Default::default());
        }
        let call = &mut streamed[item.tool_index];
        call.0.push_str(item.name.as_deref().unwrap_or_default());
        call.1.push_str(&item.parameters);
    }
    [whole, streamed.into_iter().map(|(name, text)| (name, parsed(&text))).collect()]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let folder = std::env::args().nth(1).expect("a folder of templates");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("the folder").flatten().map(|e| e.path()).collect();
    paths.sort();
    let factory = ParserFactory::new();
    let ends = vec!["<|im_end|>", "<|eot_id|>", "<|END_OF_TURN_TOKEN|>", "</s>"];
    let tokens = SpecialTokens { bos: "<s>", eos: "</s>", control: Vec::new(), ends };
    let (mut all, mut score) = (0, BTreeMap::<&str, u32>::new());
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "jinja")) {
        let source = std::fs::read_to_string(path).expect("a template");
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(template) = ChatTemplate::new(&source, &tokens) else { continue };
        let Some((text, expected)) = spelled::spelled(&template) else {
            println!("{stem:55} spells no calls");
            continue;
        };
        all += 1;
        let each: Vec<&str> = text.split("").filter(|piece| !piece.is_empty()).collect();
        let mut marks = Vec::new();
        let mut mark = |what: &'static str, right: bool| {
            *score.entry(what).or_default() += u32::from(right);
            marks.push(format!("{what} {}", if right { "yes" } else { "NO " }));
        };
        mark("forebay whole", ours(&template, &[&text]) == expected);
        mark("forebay split", ours(&template, &each) == expected);
        let (mut best, mut named) = ([false; 2], [false; 2]);
        let short = stem.split_once('-').map_or(stem.as_str(), |(_, rest)| rest);
        let names = [stem.clone(), stem.replacen('-', "/", 1), short.to_owned()];
        let by_name: Vec<String> = names
            .iter()
            .filter_map(|name| factory.registry().resolve_model_to_parser(name))
            .collect();
        for parser in factory.list_parsers() {
            let read = theirs(&factory, &parser, &text).await;
            for (way, calls) in read.into_iter().enumerate() {
                best[way] |= calls == expected;
                named[way] |= calls == expected && by_name.contains(&parser);
            }
        }
        mark("tool-parser by name whole", named[0]);
        mark("by name split", named[1]);
        mark("best of all whole", best[0]);
        mark("best of all split", best[1]);
        println!("{stem:55} {}", marks.join("  "));
    }
    println!("\n{all} templates spell calls; right:");
    for (what, right) in score {
        println!("  {what:28} {right}");
    }
}
