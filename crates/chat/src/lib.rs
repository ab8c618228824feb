//! Chat templates: prompts by them, and the replies of their models.
//!
//! A model comes with a chat template in Jinja. From it this crate makes prompts, and learns how the model writes reasoning
//! and tool calls: [`ChatTemplate`] renders [`Turn`]s and has [`TemplateFeatures`]. A prompt is a list of
//! pieces, cut where a user's text would spell a control token and tokenised one by one, so that none comes about
//! (`guard.rs`).
//!
//! A reply's text is parsed while it comes in: [`ReasoningParser`] separates reasoning from content, [`ToolCallParser`]
//! finds tool calls in content, and [`ChannelParser`] does both for replies in channels. [`ToolCallGrammar`] makes a
//! model write valid calls.
//!
//! **Invariant:** no async, no tokens, no clock (`strftime_now` gets the time as an argument), and no names of models.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::sync::Arc;
//!
//! use forebay_chat::{ChatTemplate, RenderOptions, ReplyPart, SpecialTokens, Turn};
//! use serde_json::{Map, json};
//!
//! let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}\
//!               {% if add_generation_prompt %}<|assistant|>{% endif %}";
//! let template = ChatTemplate::new(source, &SpecialTokens::default())?;
//!
//! let options = RenderOptions {
//!     add_generation_prompt: true,
//!     continue_final_message: false,
//!     tools: &[],
//!     arguments_as_text: false,
//!     variables: &Map::new(),
//!     now: std::time::SystemTime::UNIX_EPOCH,
//! };
//! let prompt = template.render(&[Turn::of("user", "Weather in Rome?")], &options)?;
//! assert_eq!(prompt.concat(), "<|user|>Weather in Rome?<|assistant|>");
//!
//! // This template knows no tools, so a system turn tells the model to write calls as Hermes models do.
//! let tools = BTreeMap::from([("weather".to_owned(), json!({"type": "object"}))]);
//! let mut parser = template.tool_call_parser(Arc::new(tools), false);
//! let mut parts = Vec::new();
//! for text in ["I look.\n<tool", "_call>{\"name\": \"weather\", \"arguments\": {\"ci", "ty\": \"Rome\"}}"] {
//!     parser.push(text, &mut parts);
//! }
//! parser.finish(&mut parts);
//! assert_eq!(parts[0], ReplyPart::Content("I look.".to_owned()));
//! assert_eq!(parts[1], ReplyPart::ToolCall { index: 0, name: "weather".to_owned() });
//! assert_eq!(parts[2], ReplyPart::Arguments { index: 0, text: "{\"ci".to_owned() });
//! assert_eq!(parts[3], ReplyPart::Arguments { index: 0, text: "ty\": \"Rome\"}".to_owned() });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bare_value;
mod channels;
mod control_names;
mod guard;
mod json_scanner;
mod literal;
mod reasoning;
mod reply_part;
mod schema;
mod template;
mod text_buffer;
mod tool_call_format;
mod tool_call_grammar;
mod tool_call_parser;
mod turn;

pub use channels::ChannelParser;
pub use reasoning::{ReasoningFormat, ReasoningMode, ReasoningParser, Segment};
pub use reply_part::ReplyPart;
pub use schema::references::{Draft, References, is_any};
pub use template::{
    ChatTemplate, RenderError, RenderOptions, SpecialTokens, TemplateError, TemplateFeatures,
};
pub use tool_call_format::ToolCallFormat;
pub use tool_call_grammar::{
    CallCount, GrammarTarget, MAX_GRAMMAR_BYTES, Satisfiability, TextSearch, ToolCallGrammar,
    ToolShape, Unenforceable, escape_regex, lark_literal, lark_regex,
};
pub use tool_call_parser::ToolCallParser;
pub use turn::{Call, InvalidMessage, Turn, name_tool_results, template_role, turns_from_messages};
