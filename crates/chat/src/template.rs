//! The model's Jinja template, rendered within limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, json};

use crate::guard::{END, Guard};
use crate::json::{dumps, tojson};
use crate::names::Names;
use crate::thoughts::Thinking;
use crate::turn::Turn;

pub(crate) mod limits;

use limits::{LONGEST_FORMAT, LONGEST_REASON, LONGEST_SOURCE};

const RECURSION: usize = 100;
const NAME: &str = "chat";
/// What a template calls us by, and so no variable of a request may be named.
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

/// A parsed chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    env: Arc<Environment<'static>>,
    bos: String,
    eos: String,
    control_names: Arc<Names>,
    source: String,
}

/// A template that cannot be used at all.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the chat template is not valid: {0}")]
pub struct TemplateError(String);

/// What a rendering depends on besides the turns.
#[derive(Debug, Clone)]
pub struct RenderOptions<'a> {
    /// Open the assistant's turn at the end.
    pub add_generation_prompt: bool,
    /// Leave the last turn open.
    pub continue_final_message: bool,
    /// The tools that may be called, as OpenAI spells them.
    pub tools: &'a [serde_json::Value],
    /// Give the template past calls' arguments as JSON text.
    pub arguments_as_text: bool,
    /// Further variables: scalars by name.
    pub variables: &'a Map<String, serde_json::Value>,
    /// What `strftime_now` tells, in UTC.
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
    /// The text holds every noncharacter there is.
    #[error("the messages contain too many different Unicode noncharacters")]
    Noncharacters,
    /// `continue_final_message` without an assistant message at the end.
    #[error("continue_final_message needs an assistant message at the end")]
    NothingToContinue,
    /// The template takes longer over the conversation than it may.
    #[error("the conversation is too long for the model's chat template")]
    TooMuch,
    /// The template is broken.
    #[error("the model's chat template failed: {0}")]
    Template(String),
}

// === impl ChatTemplate ===

impl ChatTemplate {
    /// Parses `source`. `bos` and `eos` are the texts that the template knows those tokens by;
    /// `control_names` spell every control token of the vocabulary.
    ///
    /// # Errors
    /// [`TemplateError`] with the line at fault.
    pub fn new(
        source: &str,
        bos: &str,
        eos: &str,
        control_names: Vec<String>,
    ) -> Result<Self, TemplateError> {
        if source.len() > LONGEST_SOURCE {
            return Err(TemplateError(format!("it is longer than {LONGEST_SOURCE} bytes")));
        }
        let control_names = Arc::new(Names::new(control_names));
        let env = limits::with_room(|| environment(source, &control_names));
        let env = Arc::new(env.map_err(TemplateError)??);
        let (bos, eos) = (bos.to_owned(), eos.to_owned());
        Ok(Self { env, bos, eos, control_names, source: source.to_owned() })
    }

    /// How the model marks its thoughts, if it has any.
    pub fn thinking(&self) -> Option<Thinking> {
        Thinking::of(&self.source)
    }

    /// Whether the template has this text.
    pub(crate) fn holds(&self, text: &str) -> bool {
        self.source.contains(text)
    }

    /// Whether the template asks for a variable.
    pub fn asks_for(&self, variable: &str) -> bool {
        self.holds(variable)
    }

    /// The prompt in pieces, to be tokenised one by one with control tokens recognised.
    ///
    /// Templates differ in the system turns they take. They are tried as they came; if the
    /// template refuses, merged into one at the front; if it refuses that, folded into the first
    /// user turn.
    ///
    /// # Errors
    /// [`RenderError`]; of several attempts, the first one's.
    pub fn render(
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
            let more = [&turn.name, &turn.call_id, &turn.thoughts];
            texts.extend(more.into_iter().flatten().map(String::as_str));
            for call in &turn.calls {
                texts.extend([call.id.as_str(), &call.name]);
                strings(&call.arguments, &mut texts);
            }
        }
        options.variables.values().chain(options.tools).for_each(|v| strings(v, &mut texts));
        let items = turns.len() + options.tools.len();
        let fuel = limits::fuel(items, texts.iter().map(|text| text.len()).sum());
        let guard = Guard::new(&self.control_names, texts.into_iter());
        let guard = guard.ok_or(RenderError::Noncharacters)?;

        let mut messages: Vec<serde_json::Value> =
            turns.iter().map(|t| message(t, options.arguments_as_text, guard)).collect();
        if options.continue_final_message {
            let last = messages.last_mut().filter(|m| m["role"] == "assistant");
            let last = last.ok_or(RenderError::NothingToContinue)?;
            let open = format!("{}{END}", last["content"].as_str().unwrap_or_default());
            last["content"] = open.into();
        }
        let rendered = self.run(messages, options, guard, fuel)?;
        let prompt = match (options.continue_final_message, rendered.find(END)) {
            (false, _) => rendered.as_str(),
            (true, Some(end)) => &rendered[..end],
            (true, None) => {
                let why = "it leaves out the last message, which was to be continued".to_owned();
                return Err(RenderError::Template(why));
            }
        };
        Ok(guard.split(prompt))
    }

    fn run(
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
            // Templates compare words with their own.
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
        // As transformers has it: none, not undefined.
        let tools: Vec<_> = options.tools.iter().map(|t| tool(t, guard, false)).collect();
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) };
        context.extend([("tools".to_owned(), tools), ("documents".to_owned(), Value::from(()))]);
        let context = Value::from(context);
        let env = limits::with_fuel(&self.env, fuel);
        let template = env.get_template(NAME).map_err(|e| render_error(&e))?;
        template.render(context).map_err(|e| render_error(&e))
    }
}

/// An environment with the template in it.
fn environment(source: &str, names: &Arc<Names>) -> Result<Environment<'static>, TemplateError> {
    let mut env = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    env.set_syntax(syntax.build().map_err(|e| TemplateError(e.to_string()))?);
    env.set_recursion_limit(RECURSION);
    limits::install(&mut env, names);
    env.add_filter("tojson", tojson);
    // minijinja iterates over none as if it were empty; Python does not.
    env.add_test("iterable", |value: &Value| limits::is_iterable(value));
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        let message: String = message.chars().take(LONGEST_REASON).collect();
        Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
    });
    // Marks for training what the model says; it renders what it holds.
    let source = source.replace(" generation ", " if true ").replace(" endgeneration ", " endif ");
    env.add_template_owned(NAME, source).map_err(|e| TemplateError(format!("{e:#}")))?;
    Ok(env)
}

/// Marks an error that the template raised on purpose.
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
    if format.len() > LONGEST_FORMAT {
        return Err(Error::new(ErrorKind::InvalidOperation, "the format of the date is too long"));
    }
    let failed = |e: jiff::Error| Error::new(ErrorKind::InvalidOperation, e.to_string());
    let now = jiff::Timestamp::try_from(now).map_err(failed)?.to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format(format, &now).map_err(failed)
}

fn message(turn: &Turn, arguments_as_text: bool, guard: Guard<'_>) -> serde_json::Value {
    let mut message = json!({"role": turn.role, "content": guard.protect(&turn.content)});
    if let Some(thoughts) = &turn.thoughts {
        // The second is what gpt-oss's templates read; transformers gives both.
        for name in ["reasoning_content", "thinking"] {
            message[name] = guard.protect(thoughts).into();
        }
    }
    if let Some(name) = &turn.name {
        message["name"] = guard.protect(name).into();
    }
    if let Some(id) = &turn.call_id {
        message["tool_call_id"] = guard.protect(id).into();
    }
    if !turn.calls.is_empty() {
        let calls = turn.calls.iter().map(|call| {
            let arguments = protected(&call.arguments, guard);
            let arguments = match arguments_as_text && arguments.is_object() {
                true => dumps(&arguments).into(),
                false => arguments,
            };
            let function = json!({"name": guard.protect(&call.name), "arguments": arguments});
            json!({"id": guard.protect(&call.id), "type": "function", "function": function})
        });
        message["tool_calls"] = calls.collect();
    }
    message
}

/// All texts in a value, names of members included.
fn strings<'v>(value: &'v serde_json::Value, out: &mut Vec<&'v str>) {
    match value {
        serde_json::Value::String(text) => out.push(text),
        serde_json::Value::Array(all) => all.iter().for_each(|v| strings(v, out)),
        serde_json::Value::Object(map) => {
            for (key, below) in map {
                out.push(key);
                strings(below, out);
            }
        }
        _ => {}
    }
}

/// The same value with every text in it guarded.
fn protected(value: &serde_json::Value, guard: Guard<'_>) -> serde_json::Value {
    match value {
        serde_json::Value::String(text) => guard.protect(text).into(),
        serde_json::Value::Array(all) => all.iter().map(|v| protected(v, guard)).collect(),
        serde_json::Value::Object(map) => {
            let pairs = map.iter().map(|(k, v)| (guard.protect(k), protected(v, guard)));
            serde_json::Value::Object(pairs.collect())
        }
        other => other.clone(),
    }
}

/// The same tool with every text in it guarded, but for what templates look at: the words that JSON
/// Schema and OpenAI's objects are made of, and types. `names` where members have names of the user's.
fn tool(value: &serde_json::Value, guard: Guard<'_>, names: bool) -> serde_json::Value {
    let serde_json::Value::Object(map) = value else { return protected(value, guard) };
    let member = |(key, value): (&String, &serde_json::Value)| {
        if names {
            return (guard.protect(key), tool(value, guard, false));
        }
        let value = match (key.as_str(), value) {
            ("type", serde_json::Value::String(kind)) if is_word(kind) => value.clone(),
            ("properties" | "patternProperties" | "$defs" | "definitions", _) => {
                tool(value, guard, true)
            }
            (_, serde_json::Value::Array(all)) => {
                all.iter().map(|value| tool(value, guard, false)).collect()
            }
            _ => tool(value, guard, false),
        };
        let key = if is_word(key) { key.clone() } else { guard.protect(key) };
        (key, value)
    };
    serde_json::Value::Object(map.iter().map(member).collect())
}

fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'))
}

/// All system turns as one, at the front.
fn merge_system(turns: &[Turn]) -> Vec<Turn> {
    let (system, others): (Vec<&Turn>, Vec<&Turn>) = turns.iter().partition(|t| t.role == "system");
    let texts: Vec<&str> = system.iter().map(|t| t.content.as_str()).collect();
    let merged = Turn::of("system", texts.join("\n\n"));
    std::iter::once(merged).chain(others.into_iter().cloned()).collect()
}

/// The system turn at the front as the beginning of the first user turn.
fn fold_system(turns: &[Turn]) -> Vec<Turn> {
    let Some((system, others)) = turns.split_first() else { return Vec::new() };
    let mut others = others.to_vec();
    match others.iter_mut().find(|t| t.role == "user") {
        Some(user) => user.content = format!("{}\n\n{}", system.content, user.content),
        None => others.insert(0, Turn { role: "user", ..system.clone() }),
    }
    others
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
