//! Grammars of every kind, from what a request says to answers that follow them: within the limits on
//! time and memory, without an answer that gets stuck.

use std::sync::LazyLock;

use forebay_chat::ReasoningMode;
use forebay_engine::fuzzing::{follow, vocab};
use forebay_engine::{Grammars, Vocab};
use forebay_protocol::structured::OutputConstraints;
use forebay_server::convert::grammar::OutputGrammar;
use forebay_server::convert::reasoning::ExpectedReasoning;
use forebay_server::dialects::chat;
use serde_json::Value;

use crate::templates;

static VOCAB: LazyLock<Vocab> = LazyLock::new(vocab);

pub fn run(data: &[u8]) {
    let Some(([kind, thinks, a, b], text)) = crate::parts(data) else { return };
    let schema = || serde_json::from_str::<Value>(&text).unwrap_or_else(|_| text.clone().into());
    let choices: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let grammar = match kind % 5 {
        0 if kind >= 128 => {
            OutputGrammar::named_schema("s", Some(&schema()), None, &chat::request::NAMES).map(Some)
        }
        0 => OutputGrammar::from_constraints(&OutputConstraints { guided_json: Some(&schema()), ..OutputConstraints::default() }, None),
        1 => OutputGrammar::from_constraints(&OutputConstraints { guided_regex: Some(&text), ..OutputConstraints::default() }, None),
        2 => OutputGrammar::from_constraints(&OutputConstraints { guided_choice: Some(&choices), ..OutputConstraints::default() }, None),
        3 => OutputGrammar::from_constraints(&OutputConstraints { grammar: Some(&text), ..OutputConstraints::default() }, None),
        _ => OutputGrammar::from_constraints(
            &OutputConstraints { grammar: Some(&format!("root ::= {text}")), ..OutputConstraints::default() },
            None,
        ),
    };
    let Ok(Some(mut grammar)) = grammar else { return };
    if thinks % 4 == 0 {
        let template = templates::parsed("{{ '<think>' }}");
        let format = template.and_then(|template| template.features().reasoning.clone());
        let mode = if thinks & 4 != 0 { ReasoningMode::Opened } else { ReasoningMode::Possible };
        let expected = format.map(|format| ExpectedReasoning { format, mode });
        grammar = grammar.after_reasoning(expected.as_ref(), &VOCAB);
    }
    let grammars = Grammars::new(VOCAB.clone());
    if let Ok(compiled) = grammars.compile(grammar.grammar()) {
        let chooses: Vec<u8> = (0..32_u8).map(|i| a.wrapping_mul(i).wrapping_add(b)).collect();
        follow(&compiled, &chooses);
    }
}
