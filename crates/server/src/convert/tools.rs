//! Tools: which may be called, which have to be, and how that shapes the answer.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use forebay_chat::{Calls, Dialect, Target, ToolShape, Unenforceable, call_grammar};
use forebay_engine::{Grammar, Vocab};
use forebay_protocol::chat::ChatCompletionRequest;
use forebay_protocol::tools::{NamedChoice, Tool, ToolChoice};
use serde_json::{Value, json};

use super::grammar::{Wanted, check_name};
use super::schema::{self, Enforcement, NotEnforced};
use crate::error::{ApiError, shown};

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
    name: String,
    custom: bool,
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
    /// Reads and checks the fields.
    ///
    /// # Errors
    /// 400 for the first that cannot be honoured.
    pub fn of(request: &ChatCompletionRequest) -> Result<Self, ApiError> {
        let tools = request.tools.as_deref().unwrap_or_default();
        if tools.is_empty() {
            return Self::without(request);
        }
        if tools.len() > MAX_TOOLS {
            let message = format!("'tools' can have at most {MAX_TOOLS} entries.");
            return Err(ApiError::invalid("tools", "array_above_max_length", message));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(tools.len());
        let mut shown = Vec::with_capacity(tools.len());
        for (index, tool) in tools.iter().enumerate() {
            let (entry, as_shown) = entry(&format!("tools[{index}]"), tool)?;
            shown.push(as_shown);
            if entries.iter().any(|other| other.name == entry.name) {
                let message = format!("There are two tools with the name '{}'.", entry.name);
                return Err(ApiError::invalid(format!("tools[{index}]"), "invalid_value", message));
            }
            entries.push(entry);
        }
        let parallel = request.parallel_tool_calls.unwrap_or(true);
        let (tools, shown) = (entries.into(), shown.into());
        let mut set = Self { tools, shown, need: Need::Auto, parallel };
        match &request.tool_choice {
            None => {}
            Some(ToolChoice::Mode(mode)) => set.need = need(mode, "tool_choice")?,
            Some(ToolChoice::Named(named)) => set.choose(named)?,
        }
        Ok(set)
    }

    fn without(request: &ChatCompletionRequest) -> Result<Self, ApiError> {
        let asks = match &request.tool_choice {
            None => false,
            Some(ToolChoice::Mode(mode)) => need(mode, "tool_choice")? == Need::Required,
            Some(ToolChoice::Named(_)) => true,
        };
        if asks {
            let message = "'tool_choice' is only allowed when 'tools' are specified.";
            return Err(ApiError::invalid("tool_choice", "invalid_value", message));
        }
        Ok(Self::default())
    }

    fn choose(&mut self, choice: &NamedChoice) -> Result<(), ApiError> {
        if let (Some(allowed), "allowed_tools") = (&choice.allowed_tools, choice.kind.as_str()) {
            let param = "tool_choice.allowed_tools";
            self.need = need(&allowed.mode, &format!("{param}.mode"))?;
            if allowed.tools.len() > MAX_TOOLS {
                let param = format!("{param}.tools");
                let message = format!("'{param}' can have at most {MAX_TOOLS} entries.");
                return Err(ApiError::invalid(param, "array_above_max_length", message));
            }
            let mut names = HashSet::with_capacity(allowed.tools.len());
            for (index, tool) in allowed.tools.iter().enumerate() {
                names.insert(self.named(tool, &format!("{param}.tools[{index}]"))?);
            }
            if names.is_empty() {
                let param = format!("{param}.tools");
                let message = format!("'{param}' must hold at least one tool.");
                return Err(ApiError::invalid(param, "empty_array", message));
            }
            self.restrict(|tool| names.contains(&tool.name));
            return Ok(());
        }
        let name = self.named(choice, "tool_choice")?;
        self.restrict(|tool| tool.name == name);
        self.need = Need::One;
        Ok(())
    }

    fn restrict(&mut self, may: impl Fn(&Entry) -> bool) {
        // The only one so far: nothing is copied.
        for tool in Arc::make_mut(&mut self.tools) {
            tool.callable = may(tool);
        }
    }

    /// Those that may be called, each with its place in the request.
    fn callable(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.tools.iter().enumerate().filter(|(_, tool)| tool.callable)
    }

    /// The name of the tool that is chosen.
    fn named(&self, choice: &NamedChoice, param: &str) -> Result<String, ApiError> {
        let refuse = |message: String| Err(ApiError::invalid(param, "invalid_value", message));
        let name = match (choice.kind.as_str(), &choice.function, &choice.custom) {
            ("function", Some(function), None) => &function.name,
            ("custom", None, Some(custom)) => &custom.name,
            _ => {
                return refuse(format!(
                    "'{param}' must be a 'function' or a 'custom' tool with its name, or 'allowed_tools'."
                ));
            }
        };
        let custom = choice.kind == "custom";
        match self.tools.iter().any(|tool| tool.name == *name && tool.custom == custom) {
            true => Ok(name.clone()),
            false => refuse(format!("'{param}' names '{}', which is not in 'tools'.", shown(name))),
        }
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
        self.callable().map(|(_, tool)| (tool.name.clone(), tool.schema.clone())).collect()
    }

    /// Whether a tool takes text.
    pub fn is_custom(&self, name: &str) -> bool {
        self.tools.iter().any(|tool| tool.custom && tool.name == name)
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
        dialect: &Dialect,
        vocab: &Vocab,
        answer: Option<&Wanted>,
    ) -> Result<Option<Wanted>, ApiError> {
        let strict = self.callable().any(|(_, tool)| tool.strict);
        let calls = match self.need {
            Need::None => return Ok(None),
            Need::Auto if !strict && answer.is_none() => return Ok(None),
            Need::Auto => Calls::Any,
            Need::Required if self.parallel => Calls::Some,
            Need::Required | Need::One => Calls::One,
        };
        let wanted = |enforcement, answer: Option<&Wanted>| -> Result<Wanted, ApiError> {
            let (shapes, mut not_enforced) = self.shapes(dialect, calls, enforcement)?;
            let schema = answer.map(Wanted::schema).transpose()?;
            if let Some(answer) = answer.filter(|_| calls == Calls::Any) {
                not_enforced = not_enforced.and(answer.not_enforced());
            }
            let work = Cell::new(0);
            let target = Target {
                control: &|text| vocab.control_at(text),
                json: &|schema| schema::spelled(schema.clone()),
                some_text: &|all, none| some_text(&work, all, none),
            };
            let grammar = call_grammar(dialect, &shapes, calls, target, schema.as_ref());
            let grammar = grammar.map_err(|Unenforceable { tool, why }| {
                let (index, custom) =
                    self.callable().nth(tool).map_or((0, false), |(at, tool)| (at, tool.custom));
                cannot_enforce(index, custom, &why)
            })?;
            grammar.left_out.iter().for_each(|keyword| not_enforced.add_named(keyword));
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
        dialect: &Dialect,
        calls: Calls,
        enforcement: Enforcement,
    ) -> Result<(Vec<ToolShape<'_>>, NotEnforced), ApiError> {
        let (mut shapes, mut not_enforced) = (Vec::new(), NotEnforced::default());
        let any = json!({"type": "object"});
        for (index, tool) in self.callable() {
            let schema = if calls != Calls::Any || tool.strict { &tool.schema } else { &any };
            let enforcement = if tool.strict { Enforcement::Strict } else { enforcement };
            let enforceable = if dialect.takes_each() {
                schema::enforceable_apart(schema, enforcement)
            } else {
                schema::enforceable(schema, enforcement)
            };
            let enforceable =
                enforceable.map_err(|why| cannot_enforce(index, tool.custom, &why))?;
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
fn cannot_enforce(index: usize, custom: bool, why: &str) -> ApiError {
    let field = if custom { "custom.format" } else { "function.parameters" };
    let param = format!("tools[{index}].{field}");
    let message = format!("'{param}' cannot be enforced: {why}.");
    ApiError::invalid(param, "invalid_value", message)
}

fn need(mode: &str, param: &str) -> Result<Need, ApiError> {
    match mode {
        "none" if param == "tool_choice" => Ok(Need::None),
        "auto" => Ok(Need::Auto),
        "required" => Ok(Need::Required),
        other => {
            let message = format!("'{param}' is '{}', which is not a choice.", shown(other));
            Err(ApiError::invalid(param, "invalid_value", message))
        }
    }
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
fn entry(path: &str, tool: &Tool) -> Result<(Entry, Value), ApiError> {
    let (kind, name) = match (tool.kind.as_str(), &tool.function, &tool.custom) {
        ("function", Some(function), None) => ("function", &function.name),
        ("custom", None, Some(custom)) => ("custom", &custom.name),
        ("function" | "custom", ..) => {
            let param = format!("{path}.{}", tool.kind);
            let message = format!("Missing required parameter: '{param}'.");
            return Err(ApiError::invalid(param, "missing_required_parameter", message));
        }
        (other, ..) => {
            let param = format!("{path}.type");
            let message = format!(
                "'{param}' is '{}'; this server has no tools of its own: 'function' and 'custom' are supported.",
                shown(other)
            );
            return Err(ApiError::invalid(param, "unsupported_value", message));
        }
    };
    check_name(&format!("{path}.{kind}.name"), name)?;
    if let Some(custom) = &tool.custom {
        let (input, strict) =
            custom_input(&format!("{path}.custom.format"), custom.format.as_ref())?;
        let schema = json!({"type": "object", "properties": {"input": input},
                            "required": ["input"], "additionalProperties": false});
        let shown = json!({"type": "function", "function": {
            "name": name, "description": custom.description, "parameters": schema}});
        let entry = Entry { name: name.clone(), custom: true, strict, callable: true, schema };
        return Ok((entry, shown));
    }
    let function = tool.function.as_ref();
    let none = || json!({"type": "object", "properties": {}, "additionalProperties": false});
    let parameters = function.and_then(|f| f.parameters.clone()).unwrap_or_else(none);
    let no_object = |code| {
        let param = format!("{path}.function.parameters");
        let message = format!("'{param}' must be a JSON Schema of an object.");
        ApiError::invalid(param, code, message)
    };
    let Value::Object(mut schema) = parameters else { return Err(no_object("invalid_type")) };
    schema.entry("type").or_insert_with(|| json!("object"));
    if schema["type"] != "object" {
        return Err(no_object("invalid_value"));
    }
    let mut shown = json!(tool);
    shown["function"]["parameters"] = Value::Object(schema.clone());
    if !schema.contains_key("properties") {
        // Templates take them for granted. Enforced they would be: no arguments at all.
        shown["function"]["parameters"]["properties"] = json!({});
    }
    if let Some(function) = shown["function"].as_object_mut() {
        function.remove("strict");
        // Templates take it for granted.
        function.entry("description").or_insert_with(|| json!(""));
    }
    let strict = function.and_then(|f| f.strict).unwrap_or(false);
    let (name, schema) = (name.clone(), Value::Object(schema));
    Ok((Entry { name, custom: false, strict, callable: true, schema }, shown))
}
