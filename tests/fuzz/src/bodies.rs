//! Request bodies of every dialect, as far as they go without a model: deserialised, made into
//! conversations, grammars and a prompt. Nothing grows beyond a factor, errors are short.

use std::sync::LazyLock;

use forebay_chat::{ChatTemplate, ToolCallFormat};
use forebay_engine::Vocab;
use forebay_protocol::chat::ChatCompletionRequest;
use forebay_protocol::completion::CompletionRequest;
use forebay_protocol::embedding::EmbeddingRequest;
use forebay_protocol::messages::MessagesRequest;
use forebay_protocol::rerank::RerankRequest;
use forebay_protocol::responses::{ConversationRequest, ItemsRequest, ResponsesRequest};
use forebay_protocol::tokenize::{DetokenizeRequest, TokenizeRequest};
use forebay_server::conversation::Conversation;
use forebay_server::convert::grammar::OutputGrammar;
use forebay_server::convert::{RequestRules, metadata};
use forebay_server::dialects::responses::items;
use forebay_server::dialects::responses::request::{self as responses, Input};
use forebay_server::dialects::{chat, messages};

use crate::templates::{self, FORMATS, SOURCES};

/// A message about a field, however long the field: its path may be shown whole.
const LONGEST_ERROR: usize = 4096;
/// What a byte of a request may become in a prompt: a leaf of nested JSON with its indentation.
const GROWTH: usize = 1024;

static TEMPLATES: LazyLock<Vec<ChatTemplate>> = LazyLock::new(|| {
    let parse = |(_, source): &(&str, &str)| templates::parsed(source).expect("a template");
    SOURCES.iter().map(parse).collect()
});
static VOCAB: LazyLock<Vocab> = LazyLock::new(forebay_engine::fuzzing::vocab);

/// The message of an error that is a response.
macro_rules! check {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => {
                let body = error.envelope().error;
                assert!(!body.message.is_empty());
                assert!(
                    body.message.len() <= LONGEST_ERROR,
                    "{} bytes of error",
                    body.message.len()
                );
                return;
            }
        }
    };
}

pub fn run(data: &[u8]) {
    let Some((&[kind, model], body)) = data.split_first_chunk::<2>() else { return };
    let model = usize::from(model) % SOURCES.len();
    let strict = kind & 0x80 != 0;
    match kind % 11 {
        0..=2 => {
            let Ok(request) = serde_json::from_slice::<ChatCompletionRequest>(body) else { return };
            let messages = request.messages.len();
            let (conversation, _) = check!(chat::request::read(request, &rules(strict, strict)));
            assert_eq!(conversation.turns.len(), messages);
            render(&conversation, model, body.len());
        }
        3 | 4 => {
            let Ok(request) = serde_json::from_slice::<MessagesRequest>(body) else { return };
            let rules = rules(strict, kind & 0x40 != 0);
            let conversation = check!(messages::request::read(request, &rules));
            render(&conversation, model, body.len());
        }
        5 | 6 => {
            let Ok(request) = serde_json::from_slice::<ResponsesRequest>(body) else { return };
            response(&request, strict, model, body.len());
        }
        7 => {
            if let Ok(request) = serde_json::from_slice::<ConversationRequest>(body) {
                check!(metadata::check(request.metadata.as_ref()));
            }
            let Ok(request) = serde_json::from_slice::<ItemsRequest>(body) else { return };
            check!(responses::check_items("items", &request.items));
        }
        8 => {
            if let Ok(request) = serde_json::from_slice::<CompletionRequest>(body) {
                check!(OutputGrammar::from_constraints(&request.output_constraints(), None));
            }
        }
        9 => {
            drop(serde_json::from_slice::<EmbeddingRequest>(body));
            drop(serde_json::from_slice::<RerankRequest>(body));
        }
        _ => {
            drop(serde_json::from_slice::<TokenizeRequest>(body));
            drop(serde_json::from_slice::<DetokenizeRequest>(body));
        }
    }
}

fn response(request: &ResponsesRequest, strict: bool, model: usize, len: usize) {
    let new = check!(items::of_input(request.input.as_ref()));
    let half = new.len() / 2;
    let mut input = Input { history: new[..half].to_vec(), new: new[half..].to_vec() };
    check!(responses::conversation_id(request));
    let (conversation, _) = check!(responses::read(request, &input, &rules(strict, strict)));
    render(&conversation, model, len);
    let mut count = input.history.len() + input.new.len();
    while responses::shorten(&mut input) {
        let left = input.history.len() + input.new.len();
        assert!(left < count, "it gets shorter");
        count = left;
    }
}

fn rules(strict: bool, has_effort_control: bool) -> RequestRules<'static> {
    RequestRules::without_caller(&VOCAB, strict, has_effort_control)
}

fn render(conversation: &Conversation, model: usize, len: usize) {
    let Conversation { turns, tools, reasoning, format, .. } = conversation;
    let (template, tool_calls): (&ChatTemplate, &ToolCallFormat) =
        (&TEMPLATES[model], &FORMATS[model]);
    if tools.allows_calls() {
        check!(tools.grammar(tool_calls, &VOCAB, format.as_ref()));
    }
    let shown = if tool_calls.describes_tools { tools.for_template() } else { Vec::new().into() };
    let options = templates::options(&shown, &reasoning.variables);
    if let Ok(pieces) = template.render(&tool_calls.adapt(turns, &tools.for_template()), &options) {
        let all: usize = pieces.iter().map(String::len).sum();
        assert!(all <= GROWTH * len + (64 << 10), "{len} bytes became {all}");
    }
}
