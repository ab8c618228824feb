//! Tools: which may be called, which have to be, and how that shapes the answer.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use forebay_chat::{
    CallCount, GrammarTarget, ToolCallFormat, ToolCallGrammar, ToolShape, Unenforceable,
};
use forebay_engine::{Grammar, Vocab};
use serde_json::{Map, Value, json};

use super::grammar::{Wanted, check_name};
use super::schema::{self, Enforcement, NotEnforced};
use crate::conversation::{FieldNames, ToolChoice, ToolDefinition, ToolPath, ToolReference};
use crate::error::{ApiError, shown};
use crate::reply::ToolKind;

const MAX_TOOLS: usize = 128;
/// Bytes of expressions for arguments and their names of which it is found out whether any text matches them
/// together; a Unicode class counts as a thousand, and each question as 256.
const MAX_TEXT_WORK: usize = 256 << 10;

/// The tools of a request. Cheap to clone: each answer has one.
#[derive(Debug, Clone, Default)]
pub struct Toolset {
    tools: Arc<[Entry]>,
    /// As the template gets them.
    shown: Arc<[Value]>,
    need: Need,
    /// Whether an answer may hold several calls.
    parallel: bool,
}

#[derive(Debug, Clone)]
struct Entry {
    path: ToolPath,
    name: String,
    kind: ToolKind,
    strict: bool,
    /// Whether it may be called; the model sees it all the same.
    callable: bool,
    /// Of its arguments.
    schema: Value,
}

/// Whether something has to be called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Need {
    /// Nothing can be.
    #[default]
    None,
    /// The model decides.
    Auto,
    /// At least one.
    Required,
    /// One.
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
            return Self::without(&choice);
        }
        if tools.len() > MAX_TOOLS {
            let message = format!("'tools' can have at most {MAX_TOOLS} entries.");
            return Err(ApiError::invalid("tools", "array_above_max_length", message));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(tools.len());
        let mut shown = Vec::with_capacity(tools.len());
        for tool in tools {
            let (entry, as_shown) = entry(tool)?;
            shown.push(as_shown);
            if entries.iter().any(|other| other.name == entry.name) {
                let message = format!("There are two tools with the name '{}'.", entry.name);
                return Err(ApiError::invalid(entry.path.tool, "invalid_value", message));
            }
            entries.push(entry);
        }
        let (tools, shown) = (entries.into(), shown.into());
        let mut set = Self { tools, shown, need: Need::Auto, parallel };
        set.choose(choice, names)?;
        Ok(set)
    }

    fn without(choice: &ToolChoice) -> Result<Self, ApiError> {
        if matches!(choice, ToolChoice::Auto | ToolChoice::None) {
            return Ok(Self::default());
        }
        let message = "'tool_choice' is only allowed when 'tools' are specified.";
        Err(ApiError::invalid("tool_choice", "invalid_value", message))
    }

    fn choose(&mut self, choice: ToolChoice, names: &FieldNames) -> Result<(), ApiError> {
        match choice {
            ToolChoice::Auto => self.need = Need::Auto,
            ToolChoice::None => self.need = Need::None,
            ToolChoice::Required => self.need = Need::Required,
            ToolChoice::Tool(tool) => {
                self.check_reference(&tool, "tool_choice")?;
                self.restrict(|entry| entry.name == tool.name);
                self.need = Need::One;
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
                self.need = if required { Need::Required } else { Need::Auto };
            }
        }
        Ok(())
    }

    fn restrict(&mut self, may: impl Fn(&Entry) -> bool) {
        // The only one so far: nothing is copied.
        for tool in Arc::make_mut(&mut self.tools) {
            tool.callable = may(tool);
        }
    }

    /// Those that may be called.
    fn callable(&self) -> impl Iterator<Item = &Entry> {
        self.tools.iter().filter(|tool| tool.callable)
    }

    /// Checks that a tool is there.
    fn check_reference(&self, tool: &ToolReference, param: &str) -> Result<(), ApiError> {
        if self.tools.iter().any(|entry| entry.name == tool.name && entry.kind == tool.kind) {
            return Ok(());
        }
        let message = format!("'{param}' names '{}', which is not in 'tools'.", shown(&tool.name));
        Err(ApiError::invalid(param, "invalid_value", message))
    }

    /// Whether the answer may hold calls.
    pub fn is_active(&self) -> bool {
        self.need != Need::None && !self.tools.is_empty()
    }

    /// The tools as the template gets them.
    pub fn shown(&self) -> Arc<[Value]> {
        if self.is_active() { Arc::clone(&self.shown) } else { Arc::default() }
    }

    /// Names, each with its arguments' schema.
    pub fn schemas(&self) -> BTreeMap<String, Value> {
        self.callable().map(|tool| (tool.name.clone(), tool.schema.clone())).collect()
    }

    /// Whether a tool takes text.
    pub fn is_custom(&self, name: &str) -> bool {
        self.tools.iter().any(|tool| tool.kind == ToolKind::Custom && tool.name == name)
    }

    /// Whether calls behind the first one are left out.
    pub fn only_one(&self) -> bool {
        !self.parallel || self.need == Need::One
    }

    /// The grammar that the answer has to follow: where calls have to be made or to be valid.
    /// `answer` is what an answer without calls has to be.
    ///
    /// # Errors
    /// 400 where a schema cannot be enforced.
    pub fn grammar(
        &self,
        format: &ToolCallFormat,
        vocab: &Vocab,
        answer: Option<&Wanted>,
    ) -> Result<Option<Wanted>, ApiError> {
        let strict = self.callable().any(|tool| tool.strict);
        let calls = match self.need {
            Need::None => return Ok(None),
            Need::Auto if !strict && answer.is_none() => return Ok(None),
            Need::Auto => CallCount::Any,
            Need::Required if self.parallel => CallCount::AtLeastOne,
            Need::Required | Need::One => CallCount::One,
        };
        let wanted = |enforcement, answer: Option<&Wanted>| -> Result<Wanted, ApiError> {
            let (shapes, mut not_enforced) = self.shapes(format, calls, enforcement)?;
            let schema = answer.map(Wanted::schema).transpose()?;
            if let Some(answer) = answer.filter(|_| calls == CallCount::Any) {
                not_enforced = not_enforced.and(answer.not_enforced());
            }
            let work = Cell::new(0);
            let target = GrammarTarget {
                control: &|text| vocab.control_at(text),
                json: &|schema| schema::spelled(schema.clone()),
                search: &|all, none| some_text(&work, all, none).into(),
            };
            let grammar = ToolCallGrammar::new(format, &shapes, calls, target, schema.as_ref());
            let grammar =
                grammar.map_err(|Unenforceable { tool, why }| match self.callable().nth(tool) {
                    Some(tool) => cannot_enforce(&tool.path, &why),
                    None => ApiError::internal(format!("no tool {tool}: {why}")),
                })?;
            grammar.not_enforced.iter().for_each(|keyword| not_enforced.add_named(keyword));
            Ok(Wanted::of_tools(Grammar::Lark(grammar.lark.into()), not_enforced))
        };
        let loose_answer = answer.and_then(|answer| answer.weaker().or(Some(answer)));
        // What cannot be enforced even so is the client's error. Where only the nearest form fails, which is
        // longer, the loosest is used.
        let loosest = wanted(Enforcement::Loosest, loose_answer)?;
        Ok(Some(match wanted(Enforcement::Nearest, answer) {
            Ok(nearest) => nearest.or_weaker(Some(loosest)),
            Err(_) => loosest,
        }))
    }

    /// What each tool may be called with, and what of that is not enforced for those that are not
    /// strict.
    fn shapes(
        &self,
        format: &ToolCallFormat,
        calls: CallCount,
        enforcement: Enforcement,
    ) -> Result<(Vec<ToolShape<'_>>, NotEnforced), ApiError> {
        let (mut shapes, mut not_enforced) = (Vec::new(), NotEnforced::default());
        let any = json!({"type": "object"});
        for tool in self.callable() {
            let schema = if calls != CallCount::Any || tool.strict { &tool.schema } else { &any };
            let enforcement = if tool.strict { Enforcement::Strict } else { enforcement };
            let enforceable = if format.has_separate_arguments() {
                schema::enforceable_apart(schema, enforcement)
            } else {
                schema::enforceable(schema, enforcement)
            };
            let enforceable = enforceable.map_err(|why| cannot_enforce(&tool.path, &why))?;
            not_enforced = not_enforced.and(enforceable.not_enforced);
            let (schema, sent, strict) = (enforceable.schema, &tool.schema, tool.strict);
            shapes.push(ToolShape { name: &tool.name, schema, sent, strict });
        }
        Ok((shapes, not_enforced))
    }
}

/// Whether some text matches all of these expressions and none of those; `None` once finding out has been too much
/// `work`.
fn some_text(work: &Cell<usize>, all: &[&str], none: &[&str]) -> Option<bool> {
    let cost = |one: &&str| one.len() + 1_024 * forebay_engine::unicode_classes(one) as usize;
    let costs = all.iter().chain(none).map(cost).sum::<usize>();
    work.set(work.get() + 256 + costs);
    if work.get() > MAX_TEXT_WORK { None } else { forebay_engine::some_text_matches(all, none) }
}

/// The parameters of a function cannot be enforced, or the format of a custom tool.
fn cannot_enforce(path: &ToolPath, why: &str) -> ApiError {
    let param = path.of_input();
    let message = format!("'{param}' cannot be enforced: {why}.");
    ApiError::invalid(param, "invalid_value", message)
}

/// What a custom tool's text may be, and whether that has to be enforced.
fn custom_input(param: &str, format: Option<&Value>) -> Result<(Value, bool), ApiError> {
    let free = json!({"type": "string"});
    let Some(format) = format.filter(|format| format["type"] != "text") else {
        return Ok((free, false));
    };
    // Chat says it one level deeper than Responses.
    let grammar = if format["grammar"].is_object() { &format["grammar"] } else { format };
    match (grammar["syntax"].as_str(), grammar["definition"].as_str()) {
        (Some("regex"), Some(regex)) if format["type"] == "grammar" => {
            Ok((json!({"type": "string", "pattern": format!("^(?:{regex})$")}), true))
        }
        _ => {
            let message = format!(
                "'{param}' is not supported: {{\"type\": \"text\"}} and grammars with the syntax 'regex' are."
            );
            Err(ApiError::invalid(param, "unsupported_value", message))
        }
    }
}

/// A tool, and how the template gets it.
fn entry(tool: ToolDefinition) -> Result<(Entry, Value), ApiError> {
    check_name(&tool.path.of_name(), &tool.name)?;
    match tool.kind {
        ToolKind::Function => function(tool),
        ToolKind::Custom => custom(tool),
    }
}

fn custom(tool: ToolDefinition) -> Result<(Entry, Value), ApiError> {
    let ToolDefinition { path, kind, name, description, input, .. } = tool;
    let (input, strict) = custom_input(&path.of_input(), input.as_ref())?;
    let schema = json!({"type": "object", "properties": {"input": input},
                        "required": ["input"], "additionalProperties": false});
    let shown = json!({"type": "function", "function": {
        "name": name, "description": description, "parameters": schema}});
    Ok((Entry { path, name, kind, strict, callable: true, schema }, shown))
}

fn function(tool: ToolDefinition) -> Result<(Entry, Value), ApiError> {
    let ToolDefinition { path, kind, name, description, input, strict } = tool;
    let none = || json!({"type": "object", "properties": {}, "additionalProperties": false});
    let no_object = |code| {
        let param = path.of_input();
        let message = format!("'{param}' must be a JSON Schema of an object.");
        ApiError::invalid(param, code, message)
    };
    let Value::Object(mut schema) = input.unwrap_or_else(none) else {
        return Err(no_object("invalid_type"));
    };
    schema.entry("type").or_insert_with(|| json!("object"));
    if schema["type"] != "object" {
        return Err(no_object("invalid_value"));
    }
    // Templates take a description and properties for granted. Enforced, none would be: no arguments at all.
    let mut parameters = schema.clone();
    parameters.entry("properties").or_insert_with(|| json!({}));
    let mut function = Map::from_iter([("name".to_owned(), json!(name))]);
    function.extend(description.map(|text| ("description".to_owned(), json!(text))));
    function.insert("parameters".to_owned(), Value::Object(parameters));
    function.entry("description").or_insert_with(|| json!(""));
    let shown = json!({"type": "function", "function": function});
    let schema = Value::Object(schema);
    Ok((Entry { path, name, kind, strict, callable: true, schema }, shown))
}
