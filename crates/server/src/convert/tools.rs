//! Tools: which a reply may or has to call, and the grammar of such replies.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use forebay_chat::{
    CallCount, GrammarTarget, ToolCallFormat, ToolCallGrammar, ToolShape, Unenforceable,
};
use forebay_engine::{Grammar, Vocab};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::grammar::{OutputGrammar, check_name};
use super::schema::{self, Enforcement, NotEnforced, members, object};
use crate::conversation::fields::FieldNames;
use crate::conversation::tools::{
    ToolChoice, ToolDefinition, ToolInput, ToolKind, ToolPath, ToolReference,
};
use crate::error::{ApiError, shown};

const MAX_TOOLS: usize = 128;
/// The budget for deciding whether some text matches several expressions: bytes of expressions, where a Unicode
/// class counts as a thousand, and each decision as 256.
const MAX_TEXT_WORK: usize = 256 << 10;
/// The argument that is a custom tool's text.
const TEXT_ARGUMENT: &str = "input";

/// The tools of a request. Cheap to clone: each reply has one.
#[derive(Debug, Clone, Default)]
pub struct Toolset {
    tools: Arc<[ToolEntry]>,
    /// For the chat template.
    for_template: Arc<[Value]>,
    calls: CallPolicy,
    /// Whether a reply may hold several calls.
    parallel: bool,
}

#[derive(Debug, Clone)]
struct ToolEntry {
    path: ToolPath,
    name: String,
    kind: ToolKind,
    strict: bool,
    /// Whether it may be called; the model reads it in any case.
    callable: bool,
    /// The schema of its arguments.
    schema: Value,
}

/// Which calls a reply may or has to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum CallPolicy {
    /// None.
    #[default]
    None,
    /// The model decides.
    Auto,
    /// At least one.
    Required,
    /// Exactly one.
    One,
}

impl Toolset {
    /// Checks the tools of a request; `parallel` is whether a reply may hold several calls.
    ///
    /// # Errors
    /// 400 for the first that cannot be honoured.
    pub fn new(
        tools: Vec<ToolDefinition>,
        choice: ToolChoice,
        parallel: bool,
        names: &FieldNames,
    ) -> Result<Self, ApiError> {
        if tools.is_empty() {
            return Self::empty(&choice);
        }
        if tools.len() > MAX_TOOLS {
            let message = format!("'tools' can have at most {MAX_TOOLS} entries.");
            return Err(ApiError::invalid("tools", "array_above_max_length", message));
        }
        let mut entries: Vec<ToolEntry> = Vec::with_capacity(tools.len());
        let mut for_template = Vec::with_capacity(tools.len());
        for tool in tools {
            let (entry, shown) = read_tool(tool)?;
            for_template.push(shown);
            if entries.iter().any(|other| other.name == entry.name) {
                let message = format!("There are two tools with the name '{}'.", entry.name);
                return Err(ApiError::invalid(entry.path.tool, "invalid_value", message));
            }
            entries.push(entry);
        }
        let (tools, for_template) = (entries.into(), for_template.into());
        let mut set = Self { tools, for_template, calls: CallPolicy::Auto, parallel };
        set.apply_choice(choice, names)?;
        Ok(set)
    }

    fn empty(choice: &ToolChoice) -> Result<Self, ApiError> {
        if matches!(choice, ToolChoice::Auto | ToolChoice::None) {
            return Ok(Self::default());
        }
        let message = "'tool_choice' is only allowed when 'tools' are specified.";
        Err(ApiError::invalid("tool_choice", "invalid_value", message))
    }

    fn apply_choice(&mut self, choice: ToolChoice, names: &FieldNames) -> Result<(), ApiError> {
        match choice {
            ToolChoice::Auto => self.calls = CallPolicy::Auto,
            ToolChoice::None => self.calls = CallPolicy::None,
            ToolChoice::Required => self.calls = CallPolicy::Required,
            ToolChoice::Tool(tool) => {
                self.check_reference(&tool, "tool_choice")?;
                self.restrict(|entry| entry.name == tool.name);
                self.calls = CallPolicy::One;
            }
            ToolChoice::Allowed { tools, required } => {
                let param = names.allowed_tools;
                if tools.len() > MAX_TOOLS {
                    let message = format!("'{param}' can have at most {MAX_TOOLS} entries.");
                    return Err(ApiError::invalid(param, "array_above_max_length", message));
                }
                if tools.is_empty() {
                    let message = format!("'{param}' must hold at least one tool.");
                    return Err(ApiError::invalid(param, "empty_array", message));
                }
                for (index, tool) in tools.iter().enumerate() {
                    self.check_reference(tool, &format!("{param}[{index}]"))?;
                }
                let allowed: HashSet<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
                self.restrict(|entry| allowed.contains(entry.name.as_str()));
                self.calls = if required { CallPolicy::Required } else { CallPolicy::Auto };
            }
        }
        Ok(())
    }

    fn restrict(&mut self, is_callable: impl Fn(&ToolEntry) -> bool) {
        // There is no other owner yet, so nothing is copied.
        for tool in Arc::make_mut(&mut self.tools) {
            tool.callable = is_callable(tool);
        }
    }

    /// The tools that may be called.
    fn callable(&self) -> impl Iterator<Item = &ToolEntry> {
        self.tools.iter().filter(|tool| tool.callable)
    }

    /// Refuses a reference to a tool that the request does not define.
    fn check_reference(&self, tool: &ToolReference, param: &str) -> Result<(), ApiError> {
        if self.tools.iter().any(|entry| entry.name == tool.name && entry.kind == tool.kind) {
            return Ok(());
        }
        let message = format!("'{param}' names '{}', which is not in 'tools'.", shown(&tool.name));
        Err(ApiError::invalid(param, "invalid_value", message))
    }

    /// Whether a reply may hold calls.
    pub fn allows_calls(&self) -> bool {
        self.calls != CallPolicy::None && !self.tools.is_empty()
    }

    /// The tools for the chat template: none if no reply may hold calls.
    pub fn for_template(&self) -> Arc<[Value]> {
        if self.allows_calls() { Arc::clone(&self.for_template) } else { Arc::default() }
    }

    /// The schema of the arguments of each tool that may be called.
    pub fn schemas(&self) -> BTreeMap<String, Value> {
        self.callable().map(|tool| (tool.name.clone(), tool.schema.clone())).collect()
    }

    /// Whether a tool takes a text.
    pub fn is_custom(&self, name: &str) -> bool {
        self.tools.iter().any(|tool| tool.kind == ToolKind::Custom && tool.name == name)
    }

    /// Whether calls after the first one are dropped.
    pub fn allows_one_call(&self) -> bool {
        !self.parallel || self.calls == CallPolicy::One
    }

    /// The grammar of a reply, if calls are required or have to be valid. `answer` is the grammar of a reply
    /// without calls.
    ///
    /// # Errors
    /// 400 if a schema cannot be enforced.
    pub fn grammar(
        &self,
        format: &ToolCallFormat,
        vocab: &Vocab,
        answer: Option<&OutputGrammar>,
    ) -> Result<Option<OutputGrammar>, ApiError> {
        let strict = self.callable().any(|tool| tool.strict);
        let calls = match self.calls {
            CallPolicy::None => return Ok(None),
            CallPolicy::Auto if !strict && answer.is_none() => return Ok(None),
            CallPolicy::Auto => CallCount::Any,
            CallPolicy::Required if self.parallel => CallCount::AtLeastOne,
            CallPolicy::Required | CallPolicy::One => CallCount::One,
        };
        let enforced = |enforcement,
                        answer: Option<&OutputGrammar>|
         -> Result<OutputGrammar, ApiError> {
            let (shapes, mut not_enforced) = self.tool_shapes(format, calls, enforcement)?;
            let schema = answer.map(OutputGrammar::schema).transpose()?;
            if let Some(answer) = answer.filter(|_| calls == CallCount::Any) {
                not_enforced = not_enforced.union(answer.not_enforced());
            }
            let work = Cell::new(0);
            let target = GrammarTarget {
                control: &|text| vocab.control_at(text),
                json: &|schema| schema::spelled(schema.clone()),
                search: &|all, none| some_text_matches(&work, all, none).into(),
            };
            let grammar = ToolCallGrammar::new(format, &shapes, calls, target, schema.as_ref());
            let grammar =
                grammar.map_err(|Unenforceable { tool, why }| match self.callable().nth(tool) {
                    Some(tool) => not_enforceable(&tool.path, &why),
                    None => ApiError::internal(format!("no tool {tool}: {why}")),
                })?;
            grammar.not_enforced.iter().for_each(|keyword| not_enforced.add_named(keyword));
            Ok(OutputGrammar::of_tools(Grammar::Lark(grammar.lark.into()), not_enforced))
        };
        let loose_answer = answer.and_then(|answer| answer.weaker().or(Some(answer)));
        // If even the loosest form fails, the client is wrong. The nearest form is longer: if only that fails, the
        // loosest is used.
        let loosest = enforced(Enforcement::Loosest, loose_answer)?;
        Ok(Some(match enforced(Enforcement::Nearest, answer) {
            Ok(nearest) => nearest.or_weaker(Some(loosest)),
            Err(_) => loosest,
        }))
    }

    /// The arguments of each tool for the grammar, and the keywords that are not enforced for tools without
    /// `strict`.
    fn tool_shapes(
        &self,
        format: &ToolCallFormat,
        calls: CallCount,
        enforcement: Enforcement,
    ) -> Result<(Vec<ToolShape<'_>>, NotEnforced), ApiError> {
        let (mut shapes, mut not_enforced) = (Vec::new(), NotEnforced::default());
        let any = schema::any_object();
        for tool in self.callable() {
            let schema = if calls != CallCount::Any || tool.strict { &tool.schema } else { &any };
            let enforcement = if tool.strict { Enforcement::Strict } else { enforcement };
            let enforceable = if format.has_separate_arguments() {
                schema::enforceable_apart(schema, enforcement)
            } else {
                schema::enforceable(schema, enforcement)
            };
            let enforceable = enforceable.map_err(|why| not_enforceable(&tool.path, &why))?;
            not_enforced = not_enforced.union(enforceable.not_enforced);
            let (schema, sent, strict) = (enforceable.schema, &tool.schema, tool.strict);
            shapes.push(ToolShape { name: &tool.name, schema, sent, strict });
        }
        Ok((shapes, not_enforced))
    }
}

/// Whether some text matches all of `all` and none of `none`; `None` once `work` exceeds its budget.
fn some_text_matches(work: &Cell<usize>, all: &[&str], none: &[&str]) -> Option<bool> {
    let cost = |one: &&str| one.len() + 1_024 * forebay_engine::unicode_classes(one) as usize;
    let costs = all.iter().chain(none).map(cost).sum::<usize>();
    work.set(work.get() + 256 + costs);
    if work.get() > MAX_TEXT_WORK { None } else { forebay_engine::some_text_matches(all, none) }
}

/// The error for a schema or a format that cannot be enforced.
fn not_enforceable(path: &ToolPath, why: &str) -> ApiError {
    let param = path.of_input();
    let message = format!("'{param}' cannot be enforced: {why}.");
    ApiError::invalid(param, "invalid_value", message)
}

/// A tool, and its form for the chat template.
fn read_tool(tool: ToolDefinition) -> Result<(ToolEntry, Value), ApiError> {
    let ToolDefinition { path, name, description, input } = tool;
    check_name(&path.of_name(), &name)?;
    let callable = true;
    match input {
        ToolInput::Arguments { schema: sent, strict } => {
            let schema = arguments_schema(&path, sent)?;
            let shown = function_for_template(&name, description, &schema);
            let (kind, schema) = (ToolKind::Function, Value::Object(schema));
            Ok((ToolEntry { path, name, kind, strict, callable, schema }, shown))
        }
        ToolInput::Text { format } => {
            let (text, strict) = text_schema(&path.of_input(), format.as_ref())?;
            let schema = object([
                ("type", "object".into()),
                ("properties", object([(TEXT_ARGUMENT, text)])),
                ("required", [TEXT_ARGUMENT].as_slice().into()),
                ("additionalProperties", false.into()),
            ]);
            let function = [
                ("name", name.as_str().into()),
                ("description", description.into()),
                ("parameters", schema.clone()),
            ];
            let shown = object([("type", "function".into()), ("function", object(function))]);
            Ok((ToolEntry { path, name, kind: ToolKind::Custom, strict, callable, schema }, shown))
        }
    }
}

/// The schema of a function's arguments; without one it has none.
fn arguments_schema(path: &ToolPath, sent: Option<Value>) -> Result<Map<String, Value>, ApiError> {
    let not_of_object = |code| {
        let param = path.of_input();
        let message = format!("'{param}' must be a JSON Schema of an object.");
        ApiError::invalid(param, code, message)
    };
    let none = || {
        members([
            ("type", "object".into()),
            ("properties", object([])),
            ("additionalProperties", false.into()),
        ])
    };
    let mut schema = match sent {
        None => none(),
        Some(Value::Object(schema)) => schema,
        Some(_) => return Err(not_of_object("invalid_type")),
    };
    if *schema.entry("type").or_insert_with(|| "object".into()) != "object" {
        return Err(not_of_object("invalid_value"));
    }
    Ok(schema)
}

/// A function for the chat template, which expects a description and properties. The schema that is enforced has
/// no `properties` unless the client sent some: they would mean that there are no arguments.
fn function_for_template(
    name: &str,
    description: Option<String>,
    schema: &Map<String, Value>,
) -> Value {
    let mut parameters = schema.clone();
    parameters.entry("properties").or_insert_with(|| object([]));
    let mut function = members([("name", name.into())]);
    function.extend(description.map(|text| ("description".to_owned(), text.into())));
    function.insert("parameters".to_owned(), Value::Object(parameters));
    function.entry("description").or_insert_with(|| "".into());
    object([("type", "function".into()), ("function", Value::Object(function))])
}

/// The format of a custom tool's text.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum TextFormat {
    Text {},
    Grammar(TextGrammar),
}

/// Chat nests the grammar one level deeper than Responses.
#[derive(Deserialize)]
#[serde(untagged)]
enum TextGrammar {
    Nested { grammar: GrammarDefinition },
    Flat(GrammarDefinition),
}

#[derive(Deserialize)]
struct GrammarDefinition {
    syntax: String,
    definition: String,
}

/// The schema of a custom tool's text, and whether it has to be enforced.
fn text_schema(param: &str, format: Option<&Value>) -> Result<(Value, bool), ApiError> {
    let grammar = match format.map(TextFormat::deserialize).transpose() {
        Ok(None | Some(TextFormat::Text {})) => return Ok((schema::any_string(), false)),
        Ok(Some(TextFormat::Grammar(
            TextGrammar::Nested { grammar } | TextGrammar::Flat(grammar),
        ))) => Some(grammar),
        Err(_) => None,
    };
    match grammar {
        Some(GrammarDefinition { syntax, definition }) if syntax == "regex" => {
            Ok((schema::string_matching(format!("^(?:{definition})$")), true))
        }
        _ => {
            let message = format!(
                "'{param}' is not supported: {{\"type\": \"text\"}} and grammars with the syntax 'regex' are."
            );
            Err(ApiError::invalid(param, "unsupported_value", message))
        }
    }
}
