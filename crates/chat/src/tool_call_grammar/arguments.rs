//! The rules of arguments one by one.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::anchors::full_match;
use super::definitions::{Definitions, MAX_COPIED, estimated_bytes};
use super::lark::escape_regex;
use super::rules::RuleWriter;
use super::target::{MAX_GRAMMAR_BYTES, Satisfiability, ToolShape};
use super::texts::{TextRules, ValueEnd};
use crate::schema::allowed_texts::{AllowedTexts, TextSet};
use crate::schema::argument_kinds::ArgumentKinds;
use crate::schema::parameters::{Alternative, Parameters};
use crate::schema::references::References;
use crate::schema::value_types::{Argument, ArgumentKind, JsonTypes};
use crate::tool_call_format::{ArgumentFormat, ValueFormat};

/// Bytes of schemas that are written as rules for all tools, at most.
const MAX_WRITTEN: usize = 8 * MAX_GRAMMAR_BYTES;
/// Schemas, listed values and texts of one tool that are visited, at most.
const MAX_SPENT: usize = 1 << 20;
/// Patterns for names of arguments of one tool, at most.
const MAX_PATTERNS: usize = 16;
/// The names of arguments that the schema does not name: those of [`is_free_name`].
const FREE_NAME: &str = "[a-zA-Z0-9_.\\-]{1,64}";

/// A tool while the rules of its arguments are written.
struct OpenTool<'t> {
    references: References<'t>,
    definitions: Definitions<'t>,
    /// How the parser takes each argument.
    kinds: ArgumentKinds,
    /// JSON rules by the addresses of their schemas.
    rules_by_address: HashMap<Vec<usize>, String>,
    /// JSON rules by their schemas without definitions.
    rules_by_schema: HashMap<String, String>,
    /// Schemas, listed values and texts visited so far.
    spent: usize,
    strict: bool,
}

/// The rules of arguments that may be given together.
enum AlternativeRules<'t> {
    Rules(String),
    /// There are none: this argument is required and has no valid value.
    Impossible(&'t str),
}

/// The name of an argument.
enum ArgumentName<'n> {
    Text(&'n str),
    /// Any name by this rule.
    Rule(String),
}

impl RuleWriter<'_> {
    /// The rules of a call after its tool's name: arguments in the schema's order, those not required optional.
    ///
    /// # Errors
    /// Why they cannot be enforced.
    pub(super) fn arguments_one_by_one(
        &mut self,
        shape: &ToolShape<'_>,
        after_name: &str,
    ) -> Result<String, String> {
        let references = References::new(&shape.schema);
        let parameters = Parameters::of(&shape.schema, &references);
        if parameters.alternatives.is_empty() {
            return Err("no arguments are valid by it".to_owned());
        }
        for keyword in parameters.not_enforced {
            self.skip_keyword(shape.strict, keyword, || {
                format!("its '{keyword}' is not supported for all arguments together, as this model writes calls")
            })?;
        }
        let mut tool = OpenTool {
            references,
            definitions: Definitions::of(&shape.schema),
            kinds: ArgumentKinds::of(shape.sent),
            rules_by_address: HashMap::new(),
            rules_by_schema: HashMap::new(),
            spent: 0,
            strict: shape.strict,
        };
        let (mut each, mut missing) = (Vec::new(), None);
        for one in &parameters.alternatives {
            match self.alternative_rules(&mut tool, one, after_name)? {
                AlternativeRules::Rules(rules) => each.push(rules),
                AlternativeRules::Impossible(name) => missing = missing.or(Some(name)),
            }
        }
        match missing {
            Some(name) if each.is_empty() => Err(format!(
                "no arguments are valid by it: '{}' is required, and no value of it is valid",
                shown(name)
            )),
            _ => Ok(one_of(&each)),
        }
    }

    /// The rules of arguments that may be given together.
    fn alternative_rules<'t>(
        &mut self,
        tool: &mut OpenTool<'t>,
        arguments: &Alternative<'t>,
        after_name: &str,
    ) -> Result<AlternativeRules<'t>, String> {
        let ArgumentFormat::OneByOne { no_arguments, .. } = &self.format.arguments else {
            return Ok(AlternativeRules::Rules(String::new()));
        };
        self.check_length()?;
        let ends = self.format.ends();
        let value_end = ValueEnd::of(self.format);
        // A call without arguments ends like others: as after a value, or as after the end of a value.
        let ended = [ends.call, value_end.call_end].into_iter().find_map(|call_end| {
            let end = format!("{call_end}{}", ends.all);
            Some((no_arguments.trim_end().strip_suffix(end.trim_end())?, call_end))
        });
        let (no_arguments, call_end) = ended.unwrap_or((no_arguments, ends.call));
        // One lexeme: the lexer does not choose a shorter one if a longer one may continue.
        let no_arguments = self.literal(&format!("{no_arguments}{call_end}"));
        let value_key = self.literal(value_end.before_key);
        let empty = |rest: &str| {
            if rest.trim().is_empty() { "\"\"".to_owned() } else { rest.to_owned() }
        };
        // From the last argument on: the rules after no argument yet, and those after another one.
        let (mut fresh, mut started) = (no_arguments, self.literal(value_end.call_end));
        let free = one_of(&self.free_arguments(tool, arguments)?);
        if !free.is_empty() {
            let free = self.shared_rule(&free);
            started = self.shared_rule(&format!("({value_key} {free})* {started}"));
            fresh = self.shared_rule(&format!("{after_name} {free} {started} | {}", empty(&fresh)));
        }
        for (name, schemas) in arguments.named.iter().rev() {
            self.check_length()?;
            if tool.spent > MAX_SPENT {
                return Err("its schemas allow too many values".to_owned());
            }
            let is_required = arguments.required.contains(name);
            if !self.is_name_read_back(name) {
                let what = if is_required { "required" } else { "properties" };
                self.skip_argument_keyword(tool, what, &format!("the name '{}'", shown(name)))?;
                continue;
            }
            let kind = tool.kinds.get(name);
            let pair = match self.argument(tool, &ArgumentName::Text(name), schemas, kind)? {
                Some(pair) => pair,
                None if is_required => return Ok(AlternativeRules::Impossible(name)),
                // Without a valid value it cannot be given.
                None => continue,
            };
            let pair = self.shared_rule(&pair);
            let mut first = format!("{after_name} {pair} {started}");
            let mut next = format!("{value_key} {pair} {started}");
            if !is_required {
                first = format!("{first} | {}", empty(&fresh));
                next = format!("{next} | {}", empty(&started));
            }
            (fresh, started) = (self.shared_rule(&first), self.shared_rule(&next));
        }
        Ok(AlternativeRules::Rules(fresh))
    }

    /// Arguments whose names the schema does not have. One of them may come twice: a grammar has no memory, and parsers
    /// of JSON keep the last one.
    fn free_arguments<'t>(
        &mut self,
        tool: &mut OpenTool<'t>,
        arguments: &Alternative<'t>,
    ) -> Result<Vec<String>, String> {
        let mut forms = Vec::new();
        let (patterns, others) = (&arguments.patterns, &arguments.others);
        let patterns = if patterns.len() > MAX_PATTERNS {
            self.skip_keyword(tool.strict, "patternProperties", || {
                format!("its 'patternProperties' are more than {MAX_PATTERNS}")
            })?;
            &[][..]
        } else {
            patterns
        };
        let names =
            arguments.named.iter().map(|(name, _)| *name).chain(arguments.never.iter().copied());
        let names: HashSet<&str> = names.filter(|name| is_free_name(name)).collect();
        // Bare values are read by the schema as it was sent, so its names count as well.
        let is_bare = self.format.values() == Some(&ValueFormat::Bare);
        let unlike = if is_bare { tool.kinds.unlike_others() } else { Vec::new() };
        let unlike = unlike.into_iter().filter(|name| is_free_name(name) && !names.contains(name));
        let unlike: Vec<String> = unlike.map(escape_regex).collect();
        let mut named: Vec<String> = names.into_iter().map(escape_regex).collect();
        named.sort_unstable();
        let named: Vec<String> = named.into_iter().chain(unlike.iter().cloned()).collect();
        let kind = tool.kinds.others();
        let mut found = Vec::with_capacity(patterns.len());
        for (pattern, _) in patterns {
            let is = full_match(pattern, ".*")
                .filter(|is| (self.target.search)(&[FREE_NAME, is], &[]) != Satisfiability::No);
            if is.is_none() {
                self.skip_keyword(tool.strict, "patternProperties", || {
                    "one of its 'patternProperties' has an anchor within it, or matches no name of 1 to 64 \
                     letters, digits, '_', '.' and '-', as this model writes calls"
                        .to_owned()
                })?;
            }
            found.push(is);
        }
        for (at, (_, schemas)) in patterns.iter().enumerate() {
            let Some(is) = &found[at] else { continue };
            let beside = found.iter().enumerate().filter(|(other, _)| *other != at);
            let not = beside.filter_map(|(_, other)| other.clone()).chain(named.iter().cloned());
            if let Some(name) = self.free_name(Some(is), &not.collect::<Vec<_>>()) {
                forms.extend(self.argument(tool, &ArgumentName::Rule(name), schemas, kind)?);
            }
        }
        if let Some(schemas) = others {
            let not: Vec<String> = found.into_iter().flatten().chain(named).collect();
            if let Some(name) = self.free_name(None, &not) {
                forms.extend(self.argument(tool, &ArgumentName::Rule(name), schemas, kind)?);
            }
            // Whether one of these matches a pattern is not checked.
            if !unlike.is_empty() && patterns.is_empty() {
                let is_text = kind == ArgumentKind::Text;
                let kind = if is_text { ArgumentKind::Either } else { ArgumentKind::Text };
                if let Some(name) = self.free_name(Some(&format!("({})", unlike.join("|"))), &[]) {
                    forms.extend(self.argument(tool, &ArgumentName::Rule(name), schemas, kind)?);
                }
            }
        }
        Ok(forms)
    }

    /// The name of a terminal for names that match `is` and none of `not`; `None` if there are none.
    fn free_name(&mut self, is: Option<&str>, not: &[String]) -> Option<String> {
        let all: Vec<&str> = std::iter::once(FREE_NAME).chain(is).collect();
        let none: Vec<&str> = not.iter().map(String::as_str).collect();
        if (self.target.search)(&all, &none) == Satisfiability::No {
            return None;
        }
        let mut body = format!("/{}/", all.join("/ & /"));
        if !not.is_empty() {
            // In groups: flags at the start of one count for no other.
            body.push_str(&format!(" & ~/(({}))/", not.join(")|(")));
        }
        let name = self.fresh_terminal("NAME");
        self.push_rule(&name, &body);
        Some(name)
    }

    /// An argument: its name, and a value that its schemas allow; `None` if there is no such value. `read` is how the
    /// parser takes the value if it is bare.
    fn argument<'t>(
        &mut self,
        tool: &mut OpenTool<'t>,
        name: &ArgumentName<'_>,
        schemas: &[&'t Value],
        read: ArgumentKind,
    ) -> Result<Option<String>, String> {
        let ArgumentFormat::OneByOne { key_value, values, .. } = &self.format.arguments else {
            return Ok(None);
        };
        let argument = Argument { schemas, references: &tool.references };
        let (type_words, quote) = match values {
            ValueFormat::Typed { before_type, after_type, other_types, .. } => {
                (Some((before_type, after_type, other_types)), "")
            }
            ValueFormat::Quoted(quote) => (None, quote.as_str()),
            ValueFormat::Bare => (None, ""),
        };
        let is_bare = *values == ValueFormat::Bare;
        let types = argument.all_types(&mut tool.spent);
        let kind = match (types.kind(), read) {
            // The parser takes every value for a text.
            (ArgumentKind::Json, ArgumentKind::Text) if is_bare => return Ok(None),
            _ if types == JsonTypes::NONE => return Ok(None),
            // The parser goes by the schema as it was sent, the grammar by the rewritten one. For bare values the
            // parser's view counts. Texts that it takes for JSON are written as either, which excludes those that it
            // would take for another value.
            (ArgumentKind::Text, ArgumentKind::Either | ArgumentKind::Json) if is_bare => {
                ArgumentKind::Either
            }
            (ArgumentKind::Either, ArgumentKind::Text) if is_bare => ArgumentKind::Text,
            (kind, _) => kind,
        };
        let allowed = match kind {
            ArgumentKind::Json => AllowedTexts::default(),
            ArgumentKind::Text | ArgumentKind::Either => {
                AllowedTexts::of(argument, &mut tool.spent)
            }
        };
        // JSON enforces all keywords, if the format allows a text to be written as JSON.
        let is_json = |set: &TextSet<'_>| match set {
            TextSet::Constrained(own) if type_words.is_some() => own.has_format,
            TextSet::Constrained(own) => !is_bare && own.is_more_than_lengths(),
            TextSet::Any | TextSet::Listed(_) => false,
        };
        let as_json = kind == ArgumentKind::Json || allowed.sets.iter().any(is_json);
        let texts =
            if as_json { Vec::new() } else { self.allowed_texts(tool, allowed, quote, kind)? };
        let mut forms = Vec::new();
        if !texts.is_empty() {
            forms.push(format!("{} {}", self.argument_name(name, key_value), one_of(&texts)));
        }
        if kind != ArgumentKind::Text || as_json {
            let key_value = match type_words {
                Some((before, after, words)) => {
                    let own = if let [one] = schemas { one["type"].as_str() } else { None };
                    let wanted = own.or_else(|| types.other_names().next());
                    let word = words.iter().find(|(name, _)| Some(*name) == wanted);
                    let word = word.or(words.first()).map_or("", |(_, word)| word);
                    format!("{before}{word}{after}")
                }
                None => key_value.clone(),
            };
            let mut names: Vec<&str> = types.other_names().collect();
            names.extend((types.kind() != ArgumentKind::Json).then_some("string"));
            let rule = self.json_value(tool, schemas, &names)?;
            let name = self.argument_name(name, &key_value);
            let end = self.literal(ValueEnd::of(self.format).text);
            forms.push(format!("{name} {rule} {end}"));
        }
        Ok((!forms.is_empty()).then(|| one_of(&forms)))
    }

    /// The rules of the texts of an argument, each in its quotes.
    fn allowed_texts(
        &mut self,
        tool: &mut OpenTool<'_>,
        allowed: AllowedTexts<'_>,
        quote: &str,
        kind: ArgumentKind,
    ) -> Result<Vec<String>, String> {
        for set in &allowed.sets {
            tool.spent += if let TextSet::Listed(text) = set { text.len() / 4 } else { 0 };
        }
        let is_bare = self.format.values() == Some(&ValueFormat::Bare);
        let TextRules { rules, is_incomplete, not_enforced } = match kind {
            // The parser decides by the value whether it is a text.
            ArgumentKind::Either if is_bare => self.unambiguous_texts(&allowed.sets),
            _ => self.texts(&allowed.sets, quote),
        };
        if is_incomplete {
            self.skip_argument_keyword(tool, "enum", "a text that it lists")?;
        }
        for keyword in allowed.not_enforced.into_iter().chain(not_enforced) {
            self.skip_argument_keyword(tool, keyword, &format!("its '{keyword}'"))?;
        }
        Ok(rules)
    }

    /// Adds a keyword to those that are not enforced.
    ///
    /// # Errors
    /// `why`, if the tool is strict.
    fn skip_keyword(
        &mut self,
        strict: bool,
        keyword: &'static str,
        why: impl FnOnce() -> String,
    ) -> Result<(), String> {
        if strict {
            return Err(why());
        }
        self.not_enforced.insert(keyword);
        Ok(())
    }

    /// [`Self::skip_keyword`] for what an argument cannot be in this format.
    fn skip_argument_keyword(
        &mut self,
        tool: &OpenTool<'_>,
        keyword: &'static str,
        what: &str,
    ) -> Result<(), String> {
        self.skip_keyword(tool.strict, keyword, || {
            format!("{what} is not supported for an argument, as this model writes calls")
        })
    }

    fn argument_name(&self, name: &ArgumentName<'_>, key_value: &str) -> String {
        match name {
            ArgumentName::Text(name) => self.literal_text(name, key_value),
            ArgumentName::Rule(rule) => format!("{rule} {}", self.literal(key_value)),
        }
    }

    /// A schema as a document of its own, without texts that the parser would take for the end of a value; one of these
    /// `types` only, if it does not fit.
    fn document(
        &mut self,
        tool: &mut OpenTool<'_>,
        mut schema: Value,
        fits: bool,
        types: &[&str],
    ) -> Result<Value, String> {
        let needed = if fits { tool.definitions.needed(&schema, self.copied_bytes) } else { None };
        let definitions = match needed {
            Some((mut definitions, bytes)) => {
                self.copied_bytes += bytes;
                let all = std::iter::once(&mut schema).chain(definitions.values_mut());
                let keywords: BTreeSet<_> =
                    all.flat_map(|one| self.remove_value_ends(one)).collect();
                for keyword in keywords {
                    let what = format!("what ends a value, in its '{keyword}',");
                    self.skip_argument_keyword(tool, keyword, &what)?;
                }
                definitions
            }
            None => {
                self.skip_keyword(tool.strict, "$ref", || {
                    format!(
                        "the definitions that its arguments refer to, repeated for each of them, are more than {MAX_COPIED} bytes"
                    )
                })?;
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
        Ok(schema)
    }

    /// The name of a rule for JSON that matches these schemas, a document of its own with the definitions that it needs;
    /// one of these `types` only, if those would be too large.
    fn json_value(
        &mut self,
        tool: &mut OpenTool<'_>,
        schemas: &[&Value],
        types: &[&str],
    ) -> Result<String, String> {
        let addresses = schemas.iter().map(|schema| std::ptr::from_ref(*schema).addr()).collect();
        if let Some(rule) = tool.rules_by_address.get(&addresses) {
            return Ok(rule.clone());
        }
        // A schema of all arguments with other names is written several times, so what is written can be far larger than
        // what was sent. Beyond the limit nothing is visited.
        for schema in schemas {
            if self.written_bytes <= MAX_WRITTEN {
                self.written_bytes += estimated_bytes(schema, MAX_WRITTEN);
            }
        }
        let fits = self.written_bytes <= MAX_WRITTEN;
        if !fits {
            self.skip_keyword(tool.strict, "$ref", || {
                format!(
                    "the schemas of its arguments, repeated where they are for several, are more than {MAX_WRITTEN} bytes, together with those of the tools before it"
                )
            })?;
        }
        let schema = match schemas {
            [one @ Value::Object(_)] if fits => (*one).clone(),
            all if fits && !all.is_empty() => json!({"allOf": all}),
            _ => json!({}),
        };
        let key = schema.to_string();
        if let Some(rule) = tool.rules_by_schema.get(&key).filter(|_| fits) {
            tool.rules_by_address.insert(addresses, rule.clone());
            return Ok(rule.clone());
        }
        let schema = self.document(tool, schema, fits, types)?;
        let body = format!("%json {}", (self.target.json)(&schema));
        let rule = self.shared_rule(&body);
        if fits {
            tool.rules_by_schema.insert(key, rule.clone());
        }
        tool.rules_by_address.insert(addresses, rule.clone());
        Ok(rule)
    }
}

/// The start of a name, for errors.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Whether [`FREE_NAME`] matches a name.
fn is_free_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

/// A rule of alternatives; empty if there are none.
fn one_of(rules: &[String]) -> String {
    match rules {
        [] => String::new(),
        [one] => one.clone(),
        all => format!("({})", all.join(" | ")),
    }
}
