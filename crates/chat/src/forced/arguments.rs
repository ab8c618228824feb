//! The rules of arguments that come one by one.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::definitions::{Definitions, MOST_REPEATED, length};
use super::expression::whole;
use super::texts::{Spelled, ValueEnd};
use super::{MAX_GRAMMAR_BYTES, ToolShape, Writer, escape_regex};
use crate::argument::{Argument, Kind, Kinds, Types};
use crate::dialect::{Arguments, Values};
use crate::parameters::{Alternative, Parameters};
use crate::references::References;
use crate::texts::{Found, Texts, texts_of};

/// The most bytes of schemas that are written as rules for all tools.
const MOST_WRITTEN: usize = 8 * MAX_GRAMMAR_BYTES;
/// The most schemas, listed values and texts of one tool that are looked at.
const MOST_SPENT: usize = 1 << 20;
/// Expressions for names of arguments that one tool may have.
const MAX_PATTERNS: usize = 16;
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
    /// The work of looking at schemas so far, in steps of one.
    spent: usize,
    strict: bool,
}

/// Arguments that can be there together, as rules.
enum Possible<'t> {
    By(String),
    /// They cannot: this one is required, and no value of it is valid.
    Never(&'t str),
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
        for keyword in parameters.left_out {
            self.not_enforced(shape.strict, keyword, || {
                format!("its '{keyword}' is not supported for all arguments together, as this model spells calls")
            })?;
        }
        let mut tool = Tool {
            references,
            definitions: Definitions::of(&shape.schema),
            kinds: Kinds::of(shape.sent),
            made: HashMap::new(),
            equal: HashMap::new(),
            spent: 0,
            strict: shape.strict,
        };
        let (mut each, mut missing) = (Vec::new(), None);
        for one in &parameters.alternatives {
            match self.alternative(&mut tool, one, middle)? {
                Possible::By(rules) => each.push(rules),
                Possible::Never(name) => missing = missing.or(Some(name)),
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

    /// The rules of arguments that can be there together.
    fn alternative<'t>(
        &mut self,
        tool: &mut Tool<'t>,
        arguments: &Alternative<'t>,
        middle: &str,
    ) -> Result<Possible<'t>, String> {
        let Arguments::Each { none, .. } = &self.dialect.arguments else {
            return Ok(Possible::By(String::new()));
        };
        self.check_length()?;
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
            let is_required = arguments.required.contains(name);
            if !self.is_name_read_back(name) {
                let what = if is_required { "required" } else { "properties" };
                self.leave_out(tool, what, &format!("the name '{}'", shown(name)))?;
                continue;
            }
            let kind = tool.kinds.get(name);
            let pair = match self.pair(tool, &Name::Is(name), schemas, kind)? {
                Some(pair) => pair,
                None if is_required => return Ok(Possible::Never(name)),
                // No value of it is valid, so it is not there.
                None => continue,
            };
            let pair = self.shared(&pair);
            let mut first = format!("{middle} {pair} {started}");
            let mut next = format!("{value_key} {pair} {started}");
            if !is_required {
                first = format!("{first} | {}", empty(&fresh));
                next = format!("{next} | {}", empty(&started));
            }
            (fresh, started) = (self.shared(&first), self.shared(&next));
        }
        Ok(Possible::By(fresh))
    }

    /// Arguments whose names the schema does not have. That one of them comes twice is not prevented: a grammar
    /// without a memory cannot, and readers of JSON keep the last one, as they do of any object.
    fn free<'t>(
        &mut self,
        tool: &mut Tool<'t>,
        arguments: &Alternative<'t>,
    ) -> Result<Vec<String>, String> {
        let mut forms = Vec::new();
        let (patterns, others) = (&arguments.patterns, &arguments.others);
        let patterns = if patterns.len() > MAX_PATTERNS {
            self.not_enforced(tool.strict, "patternProperties", || {
                format!("its 'patternProperties' are more than {MAX_PATTERNS}")
            })?;
            &[][..]
        } else {
            patterns
        };
        let names =
            arguments.named.iter().map(|(name, _)| *name).chain(arguments.never.iter().copied());
        let names: HashSet<&str> = names.filter(|name| is_free_name(name)).collect();
        // Where nothing but the schema as it was sent says how a value is read, its names are read by that.
        let is_bare = self.dialect.values() == Some(&Values::Bare);
        let unlike = if is_bare { tool.kinds.unlike_others() } else { Vec::new() };
        let unlike = unlike.into_iter().filter(|name| is_free_name(name) && !names.contains(name));
        let unlike: Vec<String> = unlike.map(escape_regex).collect();
        let mut named: Vec<String> = names.into_iter().map(escape_regex).collect();
        named.sort_unstable();
        let named: Vec<String> = named.into_iter().chain(unlike.iter().cloned()).collect();
        let kind = tool.kinds.others();
        let mut found = Vec::with_capacity(patterns.len());
        for (pattern, _) in patterns {
            // Names that no argument can have here are none that it may have.
            let is = whole(pattern, ".*")
                .filter(|is| (self.target.some_text)(&[FREE_NAME, is], &[]) != Some(false));
            if is.is_none() {
                self.not_enforced(tool.strict, "patternProperties", || {
                    "one of its 'patternProperties' has an anchor within it, or matches no name of 1 to 64 \
                     letters, digits, '_', '.' and '-', as this model spells calls"
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
                forms.extend(self.pair(tool, &Name::By(name), schemas, kind)?);
            }
        }
        if let Some(schemas) = others {
            let not: Vec<String> = found.into_iter().flatten().chain(named).collect();
            if let Some(name) = self.free_name(None, &not) {
                forms.extend(self.pair(tool, &Name::By(name), schemas, kind)?);
            }
            // Whether one of these matches an expression is not looked at.
            if !unlike.is_empty() && patterns.is_empty() {
                let kind = if kind == Kind::Text { Kind::Either } else { Kind::Text };
                if let Some(name) = self.free_name(Some(&format!("({})", unlike.join("|"))), &[]) {
                    forms.extend(self.pair(tool, &Name::By(name), schemas, kind)?);
                }
            }
        }
        Ok(forms)
    }

    /// A rule for names that match an expression and none of others; `None` if there are none.
    fn free_name(&mut self, is: Option<&str>, not: &[String]) -> Option<String> {
        let all: Vec<&str> = std::iter::once(FREE_NAME).chain(is).collect();
        let none: Vec<&str> = not.iter().map(String::as_str).collect();
        if (self.target.some_text)(&all, &none) == Some(false) {
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
    ) -> Result<Option<String>, String> {
        let Arguments::Each { key_value, values, .. } = &self.dialect.arguments else {
            return Ok(None);
        };
        let argument = Argument { schemas, references: &tool.references };
        let (marked, quote) = match values {
            Values::Told { front, back, others, .. } => (Some((front, back, others)), ""),
            Values::Quoted(quote) => (None, quote.as_str()),
            Values::Bare => (None, ""),
        };
        let is_bare = *values == Values::Bare;
        let types = argument.all_types(&mut tool.spent);
        let kind = match (types.kind(), read) {
            // The reader takes all for texts.
            (Kind::Json, Kind::Text) if is_bare => return Ok(None),
            _ if types == Types::NONE => return Ok(None),
            // The reader goes by the schema as it was sent, the grammar by the rewritten one. Where nothing but
            // that says what a value is, what is spelled is what the reader takes; a text that it takes for JSON
            // is spelled as either, since those that it would take for something else are left out there.
            (Kind::Text, Kind::Either | Kind::Json) if is_bare => Kind::Either,
            (Kind::Either, Kind::Text) if is_bare => Kind::Text,
            (kind, _) => kind,
        };
        let found = match kind {
            Kind::Json => Found::default(),
            Kind::Text | Kind::Either => texts_of(argument, &mut tool.spent),
        };
        // JSON says all, where the value says that it is JSON; a text in quotes may hold none.
        let is_json = |text: &Texts<'_>| match text {
            Texts::Constrained(own) if marked.is_some() => own.has_format,
            Texts::Constrained(own) => !is_bare && own.is_more_than_lengths(),
            Texts::Any | Texts::Listed(_) => false,
        };
        let as_json = kind == Kind::Json || found.texts.iter().any(is_json);
        let texts = if as_json { Vec::new() } else { self.spelled(tool, found, (quote, kind))? };
        let mut forms = Vec::new();
        if !texts.is_empty() {
            forms.push(format!("{} {}", self.name(name, key_value), one_of(&texts)));
        }
        if kind != Kind::Text || as_json {
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
        Ok((!forms.is_empty()).then(|| one_of(&forms)))
    }

    /// The texts of an argument in their quotes.
    fn spelled(
        &mut self,
        tool: &mut Tool<'_>,
        found: Found<'_>,
        (quote, kind): (&str, Kind),
    ) -> Result<Vec<String>, String> {
        for text in &found.texts {
            tool.spent += if let Texts::Listed(text) = text { text.len() / 4 } else { 0 };
        }
        let is_bare = self.dialect.values() == Some(&Values::Bare);
        let Spelled { forms, is_short, left_out } = match kind {
            // Nothing but the value says that it is a text.
            Kind::Either if is_bare => self.unambiguous_texts(&found.texts),
            _ => self.texts(&found.texts, quote),
        };
        if is_short {
            self.leave_out(tool, "enum", "a text that it lists")?;
        }
        for keyword in found.left_out.into_iter().chain(left_out) {
            self.leave_out(tool, keyword, &format!("its '{keyword}'"))?;
        }
        Ok(forms)
    }

    /// Notes a keyword that is not enforced, or refuses a strict tool for that.
    fn not_enforced(
        &mut self,
        strict: bool,
        keyword: &'static str,
        why: impl FnOnce() -> String,
    ) -> Result<(), String> {
        if strict {
            return Err(why());
        }
        self.left_out.insert(keyword);
        Ok(())
    }

    /// The same for what cannot be spelled.
    fn leave_out(
        &mut self,
        tool: &Tool<'_>,
        keyword: &'static str,
        what: &str,
    ) -> Result<(), String> {
        self.not_enforced(tool.strict, keyword, || {
            format!("{what} is not supported for an argument, as this model spells calls")
        })
    }

    fn name(&self, name: &Name<'_>, key_value: &str) -> String {
        match name {
            Name::Is(name) => self.spoken(name, key_value),
            Name::By(rule) => format!("{rule} {}", self.text(key_value)),
        }
    }

    /// A schema as a document of its own; of these `types` alone if it does not fit; without what
    /// readers would take for a value's end.
    fn document(
        &mut self,
        tool: &mut Tool<'_>,
        mut schema: Value,
        fits: bool,
        types: &[&str],
    ) -> Result<Value, String> {
        let needed = if fits { tool.definitions.needed(&schema, self.repeated) } else { None };
        let definitions = match needed {
            Some((mut definitions, bytes)) => {
                self.repeated += bytes;
                let all = std::iter::once(&mut schema).chain(definitions.values_mut());
                let keywords: BTreeSet<_> = all.flat_map(|one| self.take_out_ends(one)).collect();
                for keyword in keywords {
                    let what = format!("what ends a value, in its '{keyword}',");
                    self.leave_out(tool, keyword, &what)?;
                }
                definitions
            }
            None => {
                self.not_enforced(tool.strict, "$ref", || {
                    format!(
                        "the definitions that its arguments refer to, repeated for each of them, are more than {MOST_REPEATED} bytes"
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
        // Nothing is looked at once that is too much.
        for schema in schemas {
            if self.written <= MOST_WRITTEN {
                self.written += length(schema, MOST_WRITTEN);
            }
        }
        let fits = self.written <= MOST_WRITTEN;
        if !fits {
            self.not_enforced(tool.strict, "$ref", || {
                format!(
                    "the schemas of its arguments, repeated where they are for several, are more than {MOST_WRITTEN} bytes, together with those of the tools before it"
                )
            })?;
        }
        let schema = match schemas {
            [one @ Value::Object(_)] if fits => (*one).clone(),
            all if fits && !all.is_empty() => json!({"allOf": all}),
            _ => json!({}),
        };
        let key = schema.to_string();
        if let Some(rule) = tool.equal.get(&key).filter(|_| fits) {
            tool.made.insert(addresses, rule.clone());
            return Ok(rule.clone());
        }
        let schema = self.document(tool, schema, fits, types)?;
        let body = format!("%json {}", (self.target.json)(&schema));
        let rule = self.shared(&body);
        if fits {
            tool.equal.insert(key, rule.clone());
        }
        tool.made.insert(addresses, rule.clone());
        Ok(rule)
    }
}

/// A name as an error shows it.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
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
