//! The rules of arguments that come one by one.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::expression::whole;
use super::{MAX_GRAMMAR_BYTES, ToolShape, Writer, escape_regex};
use crate::argument::{Argument, Kind, Kinds, Texts, Types};
use crate::calls::is_text;
use crate::dialect::{Arguments, Dialect, Values};
use crate::parameters::{Alternative, Parameters};
use crate::references::References;

/// The most bytes of definitions that are copied into the rules of all tools.
const MOST_REPEATED: usize = MAX_GRAMMAR_BYTES / 4 * 3;
/// The most bytes of a tool's definitions that searches may visit which do not end with a copy.
const MOST_SEARCHED: usize = 8 * MOST_REPEATED;
/// The most bytes of schemas that are written as rules for one tool.
const MOST_WRITTEN: usize = 8 * MAX_GRAMMAR_BYTES;
/// The most schemas, listed values and texts of one tool that are looked at.
const MOST_SPENT: usize = 1 << 20;
/// Expressions for names of arguments that one tool may have.
const MAX_PATTERNS: usize = 16;
/// Texts that readers take for nothing else, and that begin as no JSON does and no literal of Python's: the
/// lexer decides by the first character.
const NO_JSON: &str = r#"[^\s"\[{\-0-9tfnTFN](.|\n)*"#;
/// Names that arguments may have which the schema does not name: those of `is_free_name`.
const FREE_NAME: &str = "[a-zA-Z0-9_.\\-]{1,64}";

/// What the rules of a tool's arguments are made of.
struct Tool<'t> {
    references: References<'t>,
    definitions: Definitions<'t>,
    /// How the reader takes each argument.
    kinds: Kinds,
    /// JSON rules by the addresses of their schemas, and by the schemas without definitions.
    made: HashMap<Vec<usize>, String>,
    equal: HashMap<String, String>,
    /// About how many bytes of schemas were written as rules.
    written: usize,
    /// The work of looking at schemas so far, in steps of one.
    spent: usize,
    strict: bool,
}

/// What ends the values of arguments.
#[derive(Clone, Copy)]
struct ValueEnd<'d> {
    /// The text as the template writes it; empty if it differs between values.
    all: &'d str,
    /// The part that readers look for.
    stop: &'d str,
    /// What stands between it and the next argument.
    next: &'d str,
    /// What stands between it and the end of the call.
    call: &'d str,
}

impl<'d> ValueEnd<'d> {
    fn of(dialect: &'d Dialect) -> Self {
        let call = dialect.ends().call;
        let Arguments::Each { value_key: next, values, .. } = &dialect.arguments else {
            return Self { all: "", stop: "", next: "", call };
        };
        let stop = dialect.value_end();
        let all = next.find(stop).map_or("", |at| &next[..at + stop.len()]);
        match call.strip_prefix(all) {
            Some(call) if !matches!(values, Values::Quoted(_)) => {
                Self { all, stop, next: &next[all.len()..], call }
            }
            _ => Self { all: "", stop: "", next, call },
        }
    }
}

/// The name of an argument.
enum Name<'n> {
    Is(&'n str),
    /// Any by this rule.
    By(String),
}

impl Writer<'_> {
    /// Arguments one by one, in the schema's order; those not required may be left out.
    ///
    /// # Errors
    /// Why they cannot be enforced.
    pub(super) fn each(&mut self, shape: &ToolShape<'_>, middle: &str) -> Result<String, String> {
        let references = References::new(&shape.schema);
        let parameters = Parameters::of(&shape.schema, &references);
        if parameters.alternatives.is_empty() {
            return Err("no arguments are valid by it".to_owned());
        }
        if let Some(keyword) = parameters.left_out.first().filter(|_| shape.strict) {
            return Err(format!(
                "its '{keyword}' is not supported for all arguments together, as this model spells calls"
            ));
        }
        self.left_out.extend(parameters.left_out);
        let mut tool = Tool {
            references,
            definitions: Definitions::of(&shape.schema),
            kinds: Kinds::of(shape.sent),
            made: HashMap::new(),
            equal: HashMap::new(),
            written: 0,
            spent: 0,
            strict: shape.strict,
        };
        let each = parameters.alternatives.iter();
        let each = each.map(|one| self.alternative(&mut tool, one, middle));
        Ok(one_of(&each.collect::<Result<Vec<_>, _>>()?))
    }

    fn alternative<'t>(
        &mut self,
        tool: &mut Tool<'t>,
        arguments: &Alternative<'t>,
        middle: &str,
    ) -> Result<String, String> {
        let Arguments::Each { none, .. } = &self.dialect.arguments else {
            return Ok(String::new());
        };
        let ends = self.dialect.ends();
        let value_end = ValueEnd::of(self.dialect);
        // A call without arguments ends as others do: as after a value, or together with what ends a value.
        let ended = [ends.call, value_end.call].into_iter().find_map(|call| {
            let behind = format!("{call}{}", ends.all);
            Some((none.trim_end().strip_suffix(behind.trim_end())?, call))
        });
        let (none, call) = ended.unwrap_or((none, ends.call));
        // One lexeme: the lexer takes no shorter one where a longer one goes on.
        let none = self.text(&format!("{none}{call}"));
        let value_key = self.text(value_end.next);
        let empty = |rest: &str| {
            if rest.trim().is_empty() { "\"\"".to_owned() } else { rest.to_owned() }
        };
        // From the last one on: what follows where nothing was said yet, and where something was.
        let (mut fresh, mut started) = (none, self.text(value_end.call));
        let free = one_of(&self.free(tool, arguments)?);
        if !free.is_empty() {
            let free = self.shared(&free);
            started = self.shared(&format!("({value_key} {free})* {started}"));
            fresh = self.shared(&format!("{middle} {free} {started} | {}", empty(&fresh)));
        }
        for (name, schemas) in arguments.named.iter().rev() {
            self.check_length()?;
            if tool.spent > MOST_SPENT {
                return Err("its schemas allow too many values to be looked at".to_owned());
            }
            let argument = Argument { schemas, references: &tool.references };
            let is_required = arguments.required.contains(name);
            if !is_required && argument.all_types(&mut tool.spent) == Types::NONE {
                // No value of it is valid, so it is not there.
                continue;
            }
            let kind = tool.kinds.get(name);
            let pair = self.pair(tool, &Name::Is(name), schemas, kind)?;
            let pair = self.shared(&pair);
            let mut first = format!("{middle} {pair} {started}");
            let mut next = format!("{value_key} {pair} {started}");
            if !is_required {
                first = format!("{first} | {}", empty(&fresh));
                next = format!("{next} | {}", empty(&started));
            }
            (fresh, started) = (self.shared(&first), self.shared(&next));
        }
        Ok(fresh)
    }

    /// Arguments whose names the schema does not have.
    fn free<'t>(
        &mut self,
        tool: &mut Tool<'t>,
        arguments: &Alternative<'t>,
    ) -> Result<Vec<String>, String> {
        let mut forms = Vec::new();
        let (patterns, others) = (&arguments.patterns, &arguments.others);
        if patterns.len() > MAX_PATTERNS {
            if tool.strict {
                return Err(format!("its 'patternProperties' are more than {MAX_PATTERNS}"));
            }
            self.left_out.insert("patternProperties");
        }
        let patterns = if patterns.len() > MAX_PATTERNS { &[][..] } else { patterns };
        let names =
            arguments.named.iter().map(|(name, _)| *name).chain(arguments.never.iter().copied());
        let names = names.filter(|name| is_free_name(name));
        let named: Vec<String> = names.map(escape_regex).collect();
        let kind = tool.kinds.others();
        let mut found = Vec::with_capacity(patterns.len());
        for (pattern, _) in patterns {
            // Names that no argument can have here are none that it may have.
            let is =
                whole(pattern, ".*").filter(|is| (self.target.some_text)(&[FREE_NAME, is], &[]));
            if is.is_none() && tool.strict {
                return Err("one of its 'patternProperties' has an anchor within it, or matches no name of 1 to 64 \
                     letters, digits, '_', '.' and '-', as this model spells calls"
                    .to_owned());
            }
            if is.is_none() {
                self.left_out.insert("patternProperties");
            }
            found.push(is);
        }
        for (at, (_, schemas)) in patterns.iter().enumerate() {
            let Some(is) = &found[at] else { continue };
            let beside = found.iter().enumerate().filter(|(other, _)| *other != at);
            let not = beside.filter_map(|(_, other)| other.clone()).chain(named.iter().cloned());
            if let Some(name) = self.free_name(Some(is), &not.collect::<Vec<_>>()) {
                forms.push(self.pair(tool, &Name::By(name), schemas, kind)?);
            }
        }
        if let Some(schemas) = others {
            let not: Vec<String> = found.into_iter().flatten().chain(named).collect();
            if let Some(name) = self.free_name(None, &not) {
                forms.push(self.pair(tool, &Name::By(name), schemas, kind)?);
            }
        }
        Ok(forms)
    }

    /// A rule for names that match an expression and none of others; `None` if there are none.
    fn free_name(&mut self, is: Option<&str>, not: &[String]) -> Option<String> {
        let all: Vec<&str> = std::iter::once(FREE_NAME).chain(is).collect();
        let none: Vec<&str> = not.iter().map(String::as_str).collect();
        if !(self.target.some_text)(&all, &none) {
            return None;
        }
        let mut body = format!("/{}/", all.join("/ & /"));
        if !not.is_empty() {
            // Each apart: flags that one begins with count for no other.
            body.push_str(&format!(" & ~/(({}))/", not.join(")|(")));
        }
        let name = format!("NAME{}", self.fresh().trim_start_matches('x'));
        self.rule(&name, &body);
        Some(name)
    }

    /// An argument by its name, and its value as its schemas allow it; `read` is how the reader takes it where
    /// nothing but the schema says that.
    fn pair<'t>(
        &mut self,
        tool: &mut Tool<'t>,
        name: &Name<'_>,
        schemas: &[&'t Value],
        read: Kind,
    ) -> Result<String, String> {
        let Arguments::Each { key_value, values, .. } = &self.dialect.arguments else {
            return Ok(String::new());
        };
        let argument = Argument { schemas, references: &tool.references };
        let (marked, quote) = match values {
            Values::Told { front, back, others, .. } => (Some((front, back, others)), ""),
            Values::Quoted(quote) => (None, quote.as_str()),
            Values::Bare => (None, ""),
        };
        let types = argument.all_types(&mut tool.spent);
        let kind = match (types.kind(), read) {
            // The reader goes by the schema as it was sent, the grammar by the rewritten one. Where nothing but
            // that says what a value is, what is spelled is what the reader takes; a text that it takes for JSON
            // is spelled as either, since those that it would take for something else are left out there.
            (Kind::Text, Kind::Either | Kind::Json) if *values == Values::Bare => Kind::Either,
            (Kind::Either, Kind::Text) if *values == Values::Bare => Kind::Text,
            (kind, _) => kind,
        };
        let texts = match kind {
            Kind::Json => String::new(),
            // Nothing but the value says that it is a text.
            Kind::Either if *values == Values::Bare => {
                self.unambiguous_texts(&argument.texts(&mut tool.spent))
            }
            _ => {
                let texts = argument.texts(&mut tool.spent);
                self.texts(&texts, quote, tool.strict)?
            }
        };
        let mut forms = Vec::new();
        if !texts.is_empty() {
            let (name, quote) = (self.name(name, key_value), self.text(quote));
            forms.push(format!("{name} {quote} {texts}"));
        }
        if kind != Kind::Text || forms.is_empty() {
            let key_value = match marked {
                Some((front, back, others)) => {
                    let own = if let [one] = schemas { one["type"].as_str() } else { None };
                    let wanted = own.or_else(|| types.others().next());
                    let word = others.iter().find(|(name, _)| Some(*name) == wanted);
                    let word = word.or(others.first()).map_or("", |(_, word)| word);
                    format!("{front}{word}{back}")
                }
                None => key_value.clone(),
            };
            let mut names: Vec<&str> = types.others().collect();
            names.extend((types.kind() != Kind::Json).then_some("string"));
            let rule = self.value(tool, schemas, &names)?;
            let (name, end) = (self.name(name, &key_value), ValueEnd::of(self.dialect).all);
            forms.push(format!("{name} {rule} {}", self.text(end)));
        }
        Ok(one_of(&forms))
    }

    fn name(&self, name: &Name<'_>, key_value: &str) -> String {
        match name {
            Name::Is(name) => self.text(&format!("{name}{key_value}")),
            Name::By(rule) => format!("{rule} {}", self.text(key_value)),
        }
    }

    /// A rule for JSON that matches these schemas: a document of its own, with the definitions that it may
    /// refer to, read and spelled as the whole is. Of these `types` alone if those would be too large.
    fn value(
        &mut self,
        tool: &mut Tool<'_>,
        schemas: &[&Value],
        types: &[&str],
    ) -> Result<String, String> {
        let addresses = schemas.iter().map(|schema| std::ptr::from_ref(*schema).addr()).collect();
        if let Some(rule) = tool.made.get(&addresses) {
            return Ok(rule.clone());
        }
        // All arguments with other names may have one schema, so what is written can be far more than was sent.
        tool.written += schemas.iter().map(|schema| length(schema, MOST_WRITTEN)).sum::<usize>();
        let fits = tool.written <= MOST_WRITTEN;
        if !fits && tool.strict {
            return Err(format!(
                "the schemas of its arguments, repeated where they are for several, are more than {MOST_WRITTEN} bytes"
            ));
        }
        let mut schema = match schemas {
            [one @ Value::Object(_)] if fits => (*one).clone(),
            all if fits && !all.is_empty() => json!({"allOf": all}),
            _ => json!({}),
        };
        let key = schema.to_string();
        if let Some(rule) = tool.equal.get(&key).filter(|_| fits) {
            tool.made.insert(addresses, rule.clone());
            return Ok(rule.clone());
        }
        let needed = if fits { tool.definitions.needed(&schema, self.repeated) } else { None };
        let definitions = match needed {
            Some((definitions, bytes)) => {
                self.repeated += bytes;
                definitions
            }
            None if tool.strict => {
                return Err(format!(
                    "the definitions that its arguments refer to, repeated for each of them, are more than {MOST_REPEATED} bytes"
                ));
            }
            None => {
                self.left_out.insert("$ref");
                schema = json!({"type": types});
                Map::new()
            }
        };
        if let Some(map) = schema.as_object_mut() {
            for name in ["$schema", "x-guidance"] {
                let own = tool.definitions.root.get(name);
                map.extend(own.map(|own| (name.to_owned(), own.clone())));
            }
            if !definitions.is_empty() {
                map.insert("$defs".to_owned(), Value::Object(definitions));
            }
        }
        let body = format!("%json {}", (self.target.json)(&schema));
        let rule = self.shared(&body);
        if fits {
            tool.equal.insert(key, rule.clone());
        }
        tool.made.insert(addresses, rule.clone());
        Ok(rule)
    }

    /// The texts that an argument may be, each with what ends it: its `quote`, or what follows a value.
    ///
    /// # Errors
    /// Why a `strict` one cannot be enforced.
    fn texts(&mut self, texts: &[Texts<'_>], quote: &str, strict: bool) -> Result<String, String> {
        let end = ValueEnd::of(self.dialect);
        let mut each = Vec::new();
        for &text in texts {
            let form = match text {
                Texts::Listed(text) => self.text(&format!("{text}{quote}{}", end.all)),
                Texts::Any if quote.is_empty() && !end.all.is_empty() => {
                    self.text_until("(.|\\n)*", end.stop)
                }
                Texts::Any => self.constrained(&Value::Null, quote, strict)?,
                Texts::Constrained(schema) => self.constrained(schema, quote, strict)?,
            };
            each.push(if form.is_empty() { "\"\"".to_owned() } else { form });
        }
        Ok(one_of(&each))
    }

    /// A text as a schema's own `pattern` or its lengths allow it, and what ends it.
    fn constrained(&mut self, schema: &Value, quote: &str, strict: bool) -> Result<String, String> {
        let end = ValueEnd::of(self.dialect);
        // Without `<` in it, none runs into a closing tag.
        let (other, lengths) = text_regex(schema, if quote.is_empty() { "</" } else { quote });
        let pattern = schema["pattern"].as_str().map(|pattern| whole(pattern, &other));
        if pattern == Some(None) {
            if strict {
                return Err(
                    "its 'pattern' has an anchor that does not stand at one of its ends, or \
                            is none that can be read"
                        .to_owned(),
                );
            }
            self.left_out.insert("pattern");
        }
        let regex = pattern.flatten().unwrap_or(lengths);
        if quote.is_empty() {
            return Ok(self.text_until(&spaced(&regex, end), end.stop));
        }
        let text = self.text_until(&regex, quote);
        Ok(format!("{text} {}", self.text(end.all)))
    }

    /// The same of texts alone that are read as texts where JSON is allowed as well. Constrained ones are
    /// spelled as JSON there.
    fn unambiguous_texts(&mut self, texts: &[Texts<'_>]) -> String {
        let end = ValueEnd::of(self.dialect);
        let mut each = Vec::new();
        for &text in texts {
            match text {
                Texts::Listed(text) if !text.is_empty() && is_text(text) => {
                    each.push(self.text(&format!("{text}{}", end.all)));
                }
                Texts::Any => each.push(self.text_until(NO_JSON, end.stop)),
                Texts::Listed(_) | Texts::Constrained(_) => {}
            }
        }
        one_of(&each)
    }

    /// A text by an expression, and what ends it. The lexer never goes back: where the expression could match
    /// what a text's end begins with, both are one lexeme, which ends as soon as it can.
    fn text_until(&mut self, regex: &str, stop: &str) -> String {
        let mut chars = stop.chars();
        if (self.target.control)(stop).is_some() || chars.next().is_none() || chars.next().is_none()
        {
            let text = self.shared(&format!("/{regex}/"));
            return format!("{text} {}", self.text(stop));
        }
        self.shared_with(&format!("[suffix={}]", json!(stop)), &format!("/{regex}/"))
    }
}

/// An expression for a text, and for the line break that stands between it and its end.
fn spaced(regex: &str, end: ValueEnd<'_>) -> String {
    if end.all.starts_with('\n') { format!("({regex})\\n?") } else { regex.to_owned() }
}

/// The definitions of a tool's schema.
struct Definitions<'t> {
    root: &'t Value,
    /// Each with its length, and with the definitions that it refers to; `None` if that is something else.
    all: HashMap<&'t str, (usize, Option<Vec<&'t str>>)>,
    /// Bytes that searches visited which did not end with a copy.
    searched: usize,
}

impl<'t> Definitions<'t> {
    fn of(root: &'t Value) -> Self {
        let all = root.get("$defs").and_then(Value::as_object).into_iter().flatten();
        let all = all.map(|(name, schema)| {
            (name.as_str(), (name.len() + schema.to_string().len(), referred(schema)))
        });
        Self { root, all: all.collect(), searched: 0 }
    }

    /// Those that a schema needs, and their length in bytes; `None` where some are not there, or they do not fit
    /// with the `before` bytes that were copied so far.
    fn needed(&mut self, schema: &Value, before: usize) -> Option<(Map<String, Value>, usize)> {
        let mut visited = 0;
        let found = self.search(schema, before, &mut visited);
        self.searched += if found.is_none() { visited } else { 0 };
        found
    }

    fn search(
        &self,
        schema: &Value,
        before: usize,
        visited: &mut usize,
    ) -> Option<(Map<String, Value>, usize)> {
        let mut todo = referred(schema)?;
        let mut seen = HashSet::new();
        let mut needed = Map::new();
        let definitions = self.root.get("$defs");
        while let Some(name) = todo.pop() {
            if !seen.insert(name) {
                continue;
            }
            let (len, names) = self.all.get(name)?;
            *visited += len;
            let fits = before + *visited <= MOST_REPEATED && self.searched <= MOST_SEARCHED;
            todo.extend(names.as_ref().filter(|_| fits)?);
            if let Some(schema) = definitions.and_then(|all| all.get(name)) {
                needed.insert(name.to_owned(), schema.clone());
            }
        }
        Some((needed, *visited))
    }
}

/// The definitions that a schema refers to; `None` if it refers to something else.
fn referred(schema: &Value) -> Option<Vec<&str>> {
    let (mut names, mut todo) = (Vec::new(), vec![schema]);
    while let Some(value) = todo.pop() {
        match value {
            Value::Array(all) => todo.extend(all),
            Value::Object(map) => {
                if let Some(Value::String(name)) = map.get("$ref") {
                    names.push(name.strip_prefix("#/$defs/")?);
                }
                todo.extend(map.values());
            }
            _ => {}
        }
    }
    Some(names)
}

/// About how many bytes a schema takes as JSON; it is not looked at beyond `most`.
fn length(schema: &Value, most: usize) -> usize {
    let (mut bytes, mut todo) = (0, vec![schema]);
    while let Some(value) = todo.pop().filter(|_| bytes <= most) {
        bytes += 4;
        match value {
            Value::String(text) => bytes += text.len(),
            Value::Array(all) => todo.extend(all),
            Value::Object(map) => {
                bytes += map.keys().map(String::len).sum::<usize>();
                todo.extend(map.values());
            }
            _ => {}
        }
    }
    bytes
}

/// Whether [`FREE_NAME`] matches a name.
fn is_free_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

/// Rules of which one follows; empty if there is none.
fn one_of(rules: &[String]) -> String {
    match rules {
        [] => String::new(),
        [one] => one.clone(),
        all => format!("({})", all.join(" | ")),
    }
}

/// What a text that `stop` ends may hold anywhere, any number of times, and what it may be as a whole by its
/// lengths, or as anything that does not hold how `stop` begins. A backslash would make an ending quote a part
/// of the text.
fn text_regex(schema: &Value, stop: &str) -> (String, String) {
    let mut begins = stop.chars().map(|c| escape_regex(c.encode_utf8(&mut [0; 4])));
    let (first, second) = (begins.next().unwrap_or_default(), begins.next());
    let other = match &second {
        Some(_) => format!("[^{first}]"),
        None => format!("[^{first}\\\\\\n]"),
    };
    let length = |name: &str| schema[name].as_u64();
    let all = match (length("minLength"), length("maxLength"), second) {
        (None, None, Some(second)) => format!("{other}*({first}[^{second}{first}]{other}*)*"),
        (None, None, None) => format!("{other}*"),
        (least, Some(most), _) => format!("{other}{{{},{most}}}", least.unwrap_or(0)),
        (Some(least), None, _) => format!("{other}{{{least},}}"),
    };
    (format!("{other}*"), all)
}
