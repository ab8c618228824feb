//! Jinja templates, rendered as transformers renders them, within limits.
//!
//! Templates come with model files, which need not be well-meant: their length is bounded, they are parsed on a large
//! stack, and renderings have fuel (`fuel.rs`). Texts of users pass through a [`Guard`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use serde_json::Map;

use super::render_input::{collect_strings, is_word, message, tool};
use super::tojson::tojson;
use super::{fuel, string_methods};
use crate::control_names::ControlNames;
use crate::guard::{Guard, MESSAGE_END};
use crate::turn::Turn;

/// The longest template, in bytes; the longest of those in llama.cpp's sources has 18 kB. The time to parse a chain of
/// operators grows with its square.
pub(super) const MAX_SOURCE: usize = 64 * 1024;
/// Stack for minijinja's parser, in bytes. It recurses for each operator of a chain (`- - - 1`), with up to 436 bytes of
/// stack for each byte of source as measured.
const PARSE_STACK: usize = 1024 * MAX_SOURCE;
/// How deep macros may call each other.
const MAX_RECURSION: usize = 100;
/// The longest format of a date, in bytes.
const MAX_DATE_FORMAT: usize = 256;
/// The longest message of `raise_exception`, in characters; longer ones are cut.
pub(super) const MAX_REASON: usize = 1024;
/// The template's name in its environment.
const NAME: &str = "chat";
/// Variables that every template has, which a request therefore may not set.
const RESERVED: [&str; 8] = [
    "messages",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "tools",
    "documents",
    "raise_exception",
    "strftime_now",
];

/// The special tokens of a model's vocabulary, as texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens<'t> {
    /// The template's `bos_token`.
    pub bos: &'t str,
    /// The template's `eos_token`.
    pub eos: &'t str,
    /// Every control token: no text of a user may become one.
    pub control: Vec<&'t str>,
    /// The tokens that end a reply.
    pub ends: Vec<&'t str>,
}

/// A parsed template.
#[derive(Debug, Clone)]
pub(crate) struct JinjaTemplate {
    env: Arc<Environment<'static>>,
    bos: String,
    eos: String,
    control_names: Arc<ControlNames>,
}

/// A chat template that is not valid.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the chat template is not valid: {0}")]
pub struct TemplateError(String);

/// The input of a rendering besides the turns.
#[derive(Debug, Clone)]
pub struct RenderOptions<'a> {
    /// Whether to open the assistant's turn at the end.
    pub add_generation_prompt: bool,
    /// Whether to leave the last turn open, so that the model continues it.
    pub continue_final_message: bool,
    /// The tools that may be called, as OpenAI's API has them.
    pub tools: &'a [serde_json::Value],
    /// Whether the template gets past calls' arguments as JSON text.
    pub arguments_as_text: bool,
    /// Further variables: scalars by name.
    pub variables: &'a Map<String, serde_json::Value>,
    /// The time that `strftime_now` formats, in UTC.
    pub now: SystemTime,
}

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The template itself refuses the conversation.
    #[error("the model's chat template refuses these messages: {0}")]
    Raised(String),
    /// A variable that requests may not set.
    #[error("'{0}' must be a scalar and not a name that the template already has")]
    BadVariable(String),
    /// The texts hold all Unicode noncharacters, so none is left as the guard's sentinel.
    #[error("the messages contain too many different Unicode noncharacters")]
    Noncharacters,
    /// `continue_final_message` without an assistant message at the end.
    #[error("continue_final_message needs an assistant message at the end")]
    NothingToContinue,
    /// The rendering used up its fuel.
    #[error("the conversation is too long for the model's chat template")]
    TooMuch,
    /// Rendering failed for another reason.
    #[error("the model's chat template failed: {0}")]
    Template(String),
}

impl JinjaTemplate {
    /// Parses `source`.
    ///
    /// # Errors
    /// [`TemplateError`] with the line at fault.
    pub(crate) fn parse(source: &str, tokens: &SpecialTokens<'_>) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE {
            return Err(TemplateError(format!("it is longer than {MAX_SOURCE} bytes")));
        }
        let names = tokens.control.iter().map(|name| (*name).to_owned());
        let control_names = Arc::new(ControlNames::new(names));
        let env = on_large_stack(|| environment(source, &control_names));
        let env = Arc::new(env.map_err(TemplateError)??);
        let (bos, eos) = (tokens.bos.to_owned(), tokens.eos.to_owned());
        Ok(Self { env, bos, eos, control_names })
    }

    /// Renders a prompt as pieces, to be tokenised one by one with control tokens recognised.
    ///
    /// Templates differ in which system turns they accept. They are tried as they are; if the template refuses,
    /// merged into one at the front; if it refuses that, folded into the first user turn.
    ///
    /// # Errors
    /// [`RenderError`] of the first attempt.
    pub(crate) fn render(
        &self,
        turns: &[Turn],
        options: &RenderOptions<'_>,
    ) -> Result<Vec<String>, RenderError> {
        let first = match self.render_exactly(turns, options) {
            Err(error @ (RenderError::Raised(_) | RenderError::Template(_))) => error,
            other => return other,
        };
        if turns.iter().all(|turn| turn.role != "system") {
            return Err(first);
        }
        let merged = merge_system(turns);
        self.render_exactly(&merged, options)
            .or_else(|_| self.render_exactly(&fold_system(&merged), options))
            .map_err(|_| first)
    }

    fn render_exactly(
        &self,
        turns: &[Turn],
        options: &RenderOptions<'_>,
    ) -> Result<Vec<String>, RenderError> {
        let mut texts = Vec::new();
        for turn in turns {
            texts.push(turn.content.as_str());
            let more = [&turn.name, &turn.call_id, &turn.reasoning];
            texts.extend(more.into_iter().flatten().map(String::as_str));
            for call in &turn.calls {
                texts.extend([call.id.as_str(), &call.name]);
                collect_strings(&call.arguments, &mut texts);
            }
        }
        options
            .variables
            .values()
            .chain(options.tools)
            .for_each(|v| collect_strings(v, &mut texts));
        let items = turns.len() + options.tools.len();
        let fuel = fuel::budget(items, texts.iter().map(|text| text.len()).sum());
        let guard = Guard::new(&self.control_names, texts.into_iter());
        let guard = guard.ok_or(RenderError::Noncharacters)?;

        let mut messages: Vec<serde_json::Value> =
            turns.iter().map(|t| message(t, options.arguments_as_text, guard)).collect();
        if options.continue_final_message {
            let last = messages.last_mut().filter(|m| m["role"] == "assistant");
            let last = last.ok_or(RenderError::NothingToContinue)?;
            let open = format!("{}{MESSAGE_END}", last["content"].as_str().unwrap_or_default());
            last["content"] = open.into();
        }
        let rendered = self.render_messages(messages, options, guard, fuel)?;
        let prompt = match (options.continue_final_message, rendered.find(MESSAGE_END)) {
            (false, _) => rendered.as_str(),
            (true, Some(end)) => &rendered[..end],
            (true, None) => {
                let why =
                    "it does not render the last message, which is to be continued".to_owned();
                return Err(RenderError::Template(why));
            }
        };
        Ok(guard.split(prompt))
    }

    fn render_messages(
        &self,
        messages: Vec<serde_json::Value>,
        options: &RenderOptions<'_>,
        guard: Guard<'_>,
        fuel: u64,
    ) -> Result<String, RenderError> {
        let mut context: BTreeMap<String, Value> = BTreeMap::new();
        for (name, value) in options.variables {
            if RESERVED.contains(&name.as_str()) || value.is_object() || value.is_array() {
                return Err(RenderError::BadVariable(name.clone()));
            }
            // Templates compare words with their own: those stay as they are.
            let value = match value.as_str().filter(|text| !is_word(text)) {
                Some(text) => Value::from(guard.protect(text)),
                None => Value::from(Serde(value)),
            };
            context.insert(name.clone(), value);
        }
        let opens = options.add_generation_prompt && !options.continue_final_message;
        let now = options.now;
        context.extend([
            ("messages".to_owned(), Value::from(Serde(messages))),
            ("add_generation_prompt".to_owned(), opens.into()),
            ("bos_token".to_owned(), self.bos.as_str().into()),
            ("eos_token".to_owned(), self.eos.as_str().into()),
            (
                "strftime_now".to_owned(),
                Value::from_function(move |format: String| strftime(now, &format)),
            ),
        ]);
        // As transformers passes it: none, not undefined.
        let tools: Vec<_> = options.tools.iter().map(|t| tool(t, guard)).collect();
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) };
        context.extend([("tools".to_owned(), tools), ("documents".to_owned(), Value::from(()))]);
        let context = Value::from(context);
        let env = fuel::with_fuel(&self.env, fuel);
        let template = env.get_template(NAME).map_err(|e| render_error(&e))?;
        template.render(context).map_err(|e| render_error(&e))
    }
}

/// Runs `parse` on a thread whose stack is large enough for the parser's recursion.
fn on_large_stack<T: Send>(parse: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("template".to_owned()).stack_size(PARSE_STACK);
        let thread = thread.spawn_scoped(scope, parse).map_err(|e| e.to_string())?;
        thread.join().map_err(|_| "the parser failed".to_owned())
    })
}

/// An environment with the template in it. `names` are those of the control tokens.
fn environment(
    source: &str,
    names: &Arc<ControlNames>,
) -> Result<Environment<'static>, TemplateError> {
    let mut env = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    env.set_syntax(syntax.build().map_err(|e| TemplateError(e.to_string()))?);
    env.set_recursion_limit(MAX_RECURSION);
    env.set_formatter(|out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value| {
        fuel::charge_value(state, value)?;
        minijinja::escape_formatter(out, state, value)
    });
    string_methods::add_replace_filter(&mut env, names);
    let names = Arc::clone(names);
    env.set_unknown_method_callback(move |state, value, method, args| {
        fuel::charge_call(state, value, args)?;
        string_methods::call_method(state, &names, value, method, args)
    });
    env.add_filter("tojson", tojson);
    // minijinja iterates over none as if it were empty; Python does not.
    env.add_test("iterable", |value: &Value| is_iterable(value));
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        let message: String = message.chars().take(MAX_REASON).collect();
        Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
    });
    // These blocks delimit the assistant's text for training; rendering ignores them.
    let source = source.replace(" generation ", " if true ").replace(" endgeneration ", " endif ");
    env.add_template_owned(NAME, source).map_err(|e| TemplateError(format!("{e:#}")))?;
    Ok(env)
}

/// Whether Python's Jinja could iterate over a value, by its kind alone.
fn is_iterable(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Undefined
            | ValueKind::String
            | ValueKind::Seq
            | ValueKind::Map
            | ValueKind::Iterable
    )
}

/// The source of an error that the template raised by `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

fn render_error(error: &Error) -> RenderError {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<Raised>() {
            return RenderError::Raised(error.detail().unwrap_or("no reason given").to_owned());
        }
        source = inner.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => RenderError::TooMuch,
        _ => RenderError::Template(error.to_string()),
    }
}

fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    if format.len() > MAX_DATE_FORMAT {
        return Err(Error::new(ErrorKind::InvalidOperation, "the format of the date is too long"));
    }
    let failed = |e: jiff::Error| Error::new(ErrorKind::InvalidOperation, e.to_string());
    let now = jiff::Timestamp::try_from(now).map_err(failed)?.to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format(format, &now).map_err(failed)
}

/// All system turns merged into one at the front.
fn merge_system(turns: &[Turn]) -> Vec<Turn> {
    let (system, others): (Vec<&Turn>, Vec<&Turn>) = turns.iter().partition(|t| t.role == "system");
    let texts: Vec<&str> = system.iter().map(|t| t.content.as_str()).collect();
    let merged = Turn::of("system", texts.join("\n\n"));
    std::iter::once(merged).chain(others.into_iter().cloned()).collect()
}

/// The first turn, a system turn, prepended to the first user turn.
fn fold_system(turns: &[Turn]) -> Vec<Turn> {
    let Some((system, others)) = turns.split_first() else { return Vec::new() };
    let mut others = others.to_vec();
    match others.iter_mut().find(|t| t.role == "user") {
        Some(user) => user.content = format!("{}\n\n{}", system.content, user.content),
        None => others.insert(0, Turn { role: "user", ..system.clone() }),
    }
    others
}
