//! The rules of texts and names in arguments one by one: only those that the parser reads back as they were.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::anchors::full_match;
use super::lark::escape_regex;
use super::rules::RuleWriter;
use super::target::Satisfiability;
use crate::bare_value::{MAX_KEY, is_text, trim_line_breaks};
use crate::literal::{LiteralParser, LiteralStep, json_string};
use crate::schema::allowed_texts::{TextConstraint, TextSet};
use crate::schema::references::{BY_NAME_KEYWORDS, DATA_KEYWORDS};
use crate::tool_call_format::{ArgumentFormat, PROBE_ID, ToolCallFormat, ValueFormat};

/// Texts that start like no JSON and no Python literal, so that the lexer can decide by their first character. The parser
/// takes them for texts.
const NO_JSON: &str = r#"/[^\s"\[{\-0-9tfnTFN](.|\n)*/"#;
/// How deep schemas are searched: as deep as a document can be.
const MAX_DEPTH: usize = 256;
/// Any text.
const ANY: &str = "/(.|\\n)*/";

/// The largest `maxLength` that is enforced, in characters; a larger one counts as this.
const MAX_MAX_LENGTH: u64 = 1 << 16;
/// Patterns of one text that are enforced together, at most: each multiplies the states of the lexer.
const MAX_PATTERNS: usize = 3;
/// The largest `minLength` that is enforced, in characters.
const MAX_MIN_LENGTH: u64 = 1 << 12;

/// Whether a text may start, and end, with a line break.
#[derive(Clone, Copy)]
struct LineBreaks {
    front: bool,
    back: bool,
}

impl LineBreaks {
    /// Regular expressions of the texts that are excluded.
    fn excluded(self) -> impl Iterator<Item = &'static str> {
        let front = (!self.front).then_some("\\n(.|\\n)*");
        front.into_iter().chain((!self.back).then_some("(.|\\n)*\\n"))
    }
}

/// The end of the values of arguments.
#[derive(Clone, Copy)]
pub(super) struct ValueEnd<'f> {
    /// The text as the template writes it; empty if it differs between values.
    pub(super) text: &'f str,
    /// The part of it that the parser searches.
    pub(super) delimiter: &'f str,
    /// Between it and the next key.
    pub(super) before_key: &'f str,
    /// Between it and the end of the call.
    pub(super) call_end: &'f str,
}

impl<'f> ValueEnd<'f> {
    pub(super) fn of(format: &'f ToolCallFormat) -> Self {
        let call_end = format.ends().call;
        let none = Self { text: "", delimiter: "", before_key: "", call_end };
        let ArgumentFormat::OneByOne { value_key, values, .. } = &format.arguments else {
            return none;
        };
        let delimiter = format.value_end();
        let text = value_key.find(delimiter).map_or("", |at| &value_key[..at + delimiter.len()]);
        match call_end.strip_prefix(text) {
            Some(call_end) if !matches!(values, ValueFormat::Quoted(_)) => {
                Self { text, delimiter, before_key: &value_key[text.len()..], call_end }
            }
            _ => Self { before_key: value_key, ..none },
        }
    }
}

/// The rules of an argument's texts.
#[derive(Default)]
pub(super) struct TextRules {
    /// Each for one text, or for many.
    pub(super) rules: Vec<String>,
    /// Whether some listed texts have no rule, because the parser would not read them back.
    pub(super) is_incomplete: bool,
    /// Keywords that are not enforced.
    pub(super) not_enforced: BTreeSet<&'static str>,
}

impl RuleWriter<'_> {
    /// The rules of texts, each in its `quote` and with its end.
    pub(super) fn texts(&mut self, sets: &[TextSet<'_>], quote: &str) -> TextRules {
        let end = ValueEnd::of(self.format);
        let mut all = TextRules::default();
        for set in sets {
            let rule = match set {
                TextSet::Listed(text) => match self.listed_text(text, quote) {
                    Some(rule) => rule,
                    None => {
                        all.is_incomplete = true;
                        continue;
                    }
                },
                TextSet::Any => self.any_text(quote, end),
                TextSet::Constrained(constraint) => {
                    all.not_enforced.extend(constraint.has_format.then_some("format"));
                    self.constrained_text(constraint, quote, end, &mut all.not_enforced)
                }
            };
            all.rules.push(rule);
        }
        if all.is_incomplete && all.rules.is_empty() {
            all.rules.push(self.any_text(quote, end));
        }
        all
    }

    /// The rules of bare texts that the parser takes for texts if JSON is allowed as well. Constrained texts are written
    /// as JSON instead.
    pub(super) fn unambiguous_texts(&mut self, sets: &[TextSet<'_>]) -> TextRules {
        let end = ValueEnd::of(self.format);
        let mut all = TextRules::default();
        for set in sets {
            match set {
                TextSet::Listed(text) if !text.is_empty() && is_text(text) => {
                    let rule = self.listed_text(text, "");
                    all.is_incomplete |= rule.is_none();
                    all.rules.extend(rule);
                }
                TextSet::Any => {
                    all.rules.push(self.text_until(&[NO_JSON.to_owned()], "", end.delimiter));
                }
                TextSet::Listed(_) | TextSet::Constrained(_) => {}
            }
        }
        all
    }

    fn any_text(&mut self, quote: &str, end: ValueEnd<'_>) -> String {
        if quote.is_empty() && !end.text.is_empty() {
            return self.text_until(&[ANY.to_owned()], "", end.delimiter);
        }
        self.constrained_text(&TextConstraint::default(), quote, end, &mut BTreeSet::new())
    }

    /// The rule of the texts that match a constraint and do not contain the end of a value, and of that end. Adds
    /// keywords that are not enforced to `not_enforced`.
    fn constrained_text(
        &mut self,
        constraint: &TextConstraint<'_>,
        quote: &str,
        end: ValueEnd<'_>,
        not_enforced: &mut BTreeSet<&'static str>,
    ) -> String {
        let stop = excluded_text(quote);
        let is_bare = quote.is_empty();
        // The parser removes a line break from either end, so a text may have one there only if the template adds one.
        let breaks = LineBreaks {
            front: !is_bare || self.before_value().starts_with('\n'),
            back: !is_bare || end.text.starts_with('\n'),
        };
        let least = if constraint.min_length > MAX_MIN_LENGTH {
            not_enforced.insert("minLength");
            0
        } else {
            constraint.min_length
        };
        let lengths =
            (least, constraint.max_length.map(|most| most.min(MAX_MAX_LENGTH).max(least)));
        let is_any = *constraint == TextConstraint::default();
        let after = if is_bare && !is_any && breaks.back { "\"\\n\"" } else { "" };
        let all = self.pattern_terminals(
            constraint,
            (stop, if is_bare { end.delimiter } else { quote }),
            lengths,
            breaks,
            not_enforced,
        );
        let all = if !all.is_empty() {
            all
        } else if lengths == (0, None) {
            let mut all = vec![format!("/{}/", without(stop))];
            if !is_any {
                all.extend(breaks.excluded().map(|one| format!("~/{one}/")));
            }
            all
        } else {
            vec![format!("/{}/", limited(stop, lengths, breaks))]
        };
        if is_bare {
            return self.text_until(&all, after, end.delimiter);
        }
        let text = self.text_until(&all, "", quote);
        format!("{} {text} {}", self.literal(quote), self.literal(end.text))
    }

    /// The terminals that a text has to match by the patterns of its constraint; empty if no text can, or no pattern can
    /// be enforced. A lexer for all of them may be as large as the product of their sizes, so several are enforced only
    /// if a search finds a text.
    fn pattern_terminals(
        &self,
        constraint: &TextConstraint<'_>,
        (stop, ends): (&str, &str),
        (least, most): (u64, Option<u64>),
        breaks: LineBreaks,
        not_enforced: &mut BTreeSet<&'static str>,
    ) -> Vec<String> {
        let other = format!("{}*", other_than(stop));
        let mut found: Vec<String> =
            constraint.patterns.iter().filter_map(|one| full_match(one, &other)).collect();
        found.truncate(MAX_PATTERNS);
        let is_short = found.len() < constraint.patterns.len();
        not_enforced.extend(is_short.then_some("pattern"));
        if found.is_empty() {
            return Vec::new();
        }
        // Beside a pattern, each length multiplies the states of the lexer.
        let most = most.map(|most| most.min(MAX_MIN_LENGTH));
        let mut excluded: Vec<String> = breaks.excluded().map(str::to_owned).collect();
        let many = found.len() > 1;
        if ends.chars().nth(1).is_some() {
            excluded.push(containing(ends));
        } else {
            found.push(other);
        }
        let is_limited = least > 0 || most.is_some();
        if is_limited {
            let most = most.map_or(String::new(), |most| most.to_string());
            found.push(format!("(.|\\n){{{least},{most}}}"));
        }
        let (all, none): (Vec<&str>, Vec<&str>) = (
            found.iter().map(String::as_str).collect(),
            excluded.iter().map(String::as_str).collect(),
        );
        match (self.target.search)(&all, &none) {
            Satisfiability::Yes => {}
            Satisfiability::Unknown if !many && !is_limited => {}
            Satisfiability::No | Satisfiability::Unknown => {
                not_enforced.insert("pattern");
                return Vec::new();
            }
        }
        let found = found.iter().map(|one| format!("/{one}/"));
        found.chain(excluded.iter().map(|one| format!("~/{one}/"))).collect()
    }

    /// A text that matches all of these terminals, and its end. The lexer never backtracks: if the terminals could match
    /// the start of the end, both are one lexeme, which ends as soon as possible.
    fn text_until(&mut self, all: &[String], after: &str, stop: &str) -> String {
        let body = |all: &[String]| match (all, after) {
            (all, "") => all.join(" & "),
            (all, after) => format!("({}) {after}", all.join(" & ")),
        };
        let is_control = (self.target.control)(stop).is_some();
        if !is_control && stop.chars().nth(1).is_some() {
            return self.shared_rule_with(&format!("[suffix={}]", json!(stop)), &body(all));
        }
        let mut all = all.to_vec();
        if is_control || all.iter().any(|one| one == ANY || one == NO_JSON) {
            // Other tokens can have its text, and the parser sees no difference.
            all.extend((!stop.is_empty()).then(|| format!("~/{}/", containing(stop))));
        }
        let text = match all.as_slice() {
            [_] if after.is_empty() => self.shared_rule(&body(&all)),
            all => self.shared_terminal(&body(all)),
        };
        format!("{text} {}", self.literal(stop))
    }

    /// A listed text in its quotes, and its end; `None` if the parser would not read it back.
    fn listed_text(&mut self, text: &str, quote: &str) -> Option<String> {
        let end = ValueEnd::of(self.format);
        if quote.is_empty() && !matches!(self.format.values(), Some(ValueFormat::Quoted(_))) {
            return self.is_read_back(text).then(|| self.literal_text(text, end.text));
        }
        let plain = format!("{text}{quote}");
        if is_literal(&format!("{quote}{plain}"), quote, text) {
            return Some(format!("{} {}", self.literal(quote), self.literal_text(text, quote)));
        }
        let mut quotes = quote.chars();
        if let (Some(one), None) = (quotes.next(), quotes.next()) {
            let escaped = text.replace('\\', "\\\\").replace(one, &format!("\\{one}"));
            if is_literal(&format!("{quote}{escaped}{quote}"), quote, text) {
                return Some(format!(
                    "{} {}",
                    self.literal(quote),
                    self.literal_text(&escaped, quote)
                ));
            }
        }
        let as_json = json_string(text);
        is_literal(&as_json, quote, text).then(|| self.literal_text(&as_json, ""))
    }

    /// The text between the end of a key, as the parser searches it, and the value.
    fn before_value(&self) -> &str {
        match &self.format.arguments {
            ArgumentFormat::OneByOne { key_value, values: ValueFormat::Bare, .. } => {
                &key_value[key_value.trim_end().len()..]
            }
            _ => "",
        }
    }

    /// Whether the parser reads a bare text back.
    fn is_read_back(&self, text: &str) -> bool {
        let ArgumentFormat::OneByOne { value_key, .. } = &self.format.arguments else {
            return true;
        };
        let (end, stop) = (ValueEnd::of(self.format), self.format.value_end());
        let ends = [value_key.as_str(), self.format.ends().call];
        let ends = if end.text.is_empty() { &ends[..] } else { &[end.text][..] };
        let front = self.before_value();
        ends.iter().all(|end| {
            let raw = format!("{front}{text}{end}");
            let begin = front.len() + text.len();
            let Some(at) =
                raw.find(stop).filter(|at| end.find(stop).map(|own| begin + own) == Some(*at))
            else {
                return false;
            };
            trim_line_breaks(&raw[..at]) == text
        })
    }

    /// Whether the parser reads an argument's name back.
    pub(super) fn is_name_read_back(&self, name: &str) -> bool {
        let ArgumentFormat::OneByOne { key_value, no_arguments, values, .. } =
            &self.format.arguments
        else {
            return true;
        };
        let end = match values {
            ValueFormat::Typed { before_type, .. } => before_type.as_str(),
            ValueFormat::Bare | ValueFormat::Quoted(_) => key_value.trim(),
        };
        // With the name it must not look like the end of a call without arguments.
        let dense = |text: &str| text.split_whitespace().collect::<String>();
        let begins = dense(&format!("{}{name}{key_value}", self.format.after_name));
        name.trim() == name
            && name.len() + end.len() <= MAX_KEY
            && format!("{name}{end}").find(end) == Some(name.len())
            && !begins.starts_with(&dense(no_arguments))
    }

    /// Removes names and values that contain the end of a value from a schema and all schemas in it. Returns the keywords
    /// that had them.
    pub(super) fn remove_value_ends(&self, schema: &mut Value) -> BTreeSet<&'static str> {
        let mut not_enforced = BTreeSet::new();
        if !matches!(self.format.values(), Some(ValueFormat::Quoted(_))) {
            remove_text(schema, self.format.value_end(), false, 0, &mut not_enforced);
        }
        not_enforced
    }

    /// A text that is no part of the format, never as a control token or an id, and the format's `delimiter` after it.
    /// They are one lexeme up to a control token, since the lexer chooses no shorter one if a longer one may continue.
    pub(super) fn literal_text(&self, text: &str, delimiter: &str) -> String {
        let is_special = |at: usize| {
            let rest = &delimiter[at..];
            (self.target.control)(rest).is_some() || rest.starts_with(PROBE_ID)
        };
        let special = delimiter.char_indices().map(|(at, _)| at).find(|at| is_special(*at));
        let (plain, rest) = delimiter.split_at(special.unwrap_or(delimiter.len()));
        let literal = json!(format!("{text}{plain}")).to_string();
        if rest.is_empty() { literal } else { format!("{literal} {}", self.literal(rest)) }
    }
}

/// Removes names and values that contain `stop` from a value at `depth`, which is a schema or holds schemas by name.
fn remove_text(
    value: &mut Value,
    stop: &str,
    is_by_name: bool,
    depth: usize,
    not_enforced: &mut BTreeSet<&'static str>,
) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Array(all) => {
            all.iter_mut().for_each(|one| remove_text(one, stop, false, depth + 1, not_enforced));
        }
        Value::Object(map) => {
            if !is_by_name {
                remove_own_text(map, stop, not_enforced);
            }
            for (key, one) in map {
                let is_keyword = |of: &[&str]| !is_by_name && of.contains(&key.as_str());
                if !is_keyword(&DATA_KEYWORDS) {
                    remove_text(one, stop, is_keyword(&BY_NAME_KEYWORDS), depth + 1, not_enforced);
                }
            }
        }
        _ => {}
    }
}

/// [`remove_text`] in a schema's own keywords.
fn remove_own_text(
    map: &mut Map<String, Value>,
    stop: &str,
    not_enforced: &mut BTreeSet<&'static str>,
) {
    let holds = |value: &Value| value.to_string().contains(stop);
    for key in ["enum", "required", "properties", "patternProperties", "const", "pattern"] {
        let (before, after) = match map.get_mut(key) {
            Some(Value::Array(all)) if key != "const" => {
                let before = all.len();
                all.retain(|one| !holds(one));
                (before, all.len())
            }
            Some(Value::Object(named)) if key != "const" => {
                let before = named.len();
                named.retain(|name, _| !name.contains(stop));
                (before, named.len())
            }
            Some(one) => (1, usize::from(!holds(one))),
            None => continue,
        };
        if after < before {
            not_enforced.insert(key);
            // An empty list would allow no value.
            if after == 0 {
                map.remove(key);
            }
        }
    }
}

/// Whether a literal is this text.
fn is_literal(literal: &str, quote: &str, text: &str) -> bool {
    let mut parser = LiteralParser::new(quote);
    let mut chars = literal.chars().peekable();
    while let Some(c) = chars.next() {
        match parser.step(c) {
            LiteralStep::More => {}
            LiteralStep::Done { json, consumed } => {
                return consumed && chars.peek().is_none() && json == json_string(text);
            }
            LiteralStep::Invalid => return false,
        }
    }
    false
}

/// A regular expression for texts that contain this one.
fn containing(text: &str) -> String {
    format!("(.|\\n)*{}(.|\\n)*", escape_regex(text))
}

/// The first two characters of a text, as regular expressions.
fn first_two(stop: &str) -> (String, Option<String>) {
    let mut begins = stop.chars().map(|c| escape_regex(c.encode_utf8(&mut [0; 4])));
    (begins.next().unwrap_or_default(), begins.next())
}

/// A regular expression for texts of `least` to `most` characters other than the first of `stop`, with these line breaks
/// at their ends. It counts characters once: each further terminal would multiply the lengths.
fn limited(stop: &str, (least, most): (u64, Option<u64>), breaks: LineBreaks) -> String {
    let other = other_than(stop);
    let edge = match first_two(stop) {
        (first, Some(_)) => format!("[^{first}\\n]"),
        (_, None) => other.clone(),
    };
    let edges = u64::from(!breaks.front) + u64::from(!breaks.back);
    let counted = |edges: u64| {
        let most = most.map(|most| (most - edges).to_string()).unwrap_or_default();
        let inner = format!("{other}{{{},{most}}}", least.saturating_sub(edges));
        let [front, back] = [breaks.front, breaks.back].map(|may| if may { "" } else { &edge });
        format!("{front}{inner}{back}")
    };
    let mut each = Vec::new();
    if edges == 0 || most.is_none_or(|most| most >= edges) {
        each.push(counted(edges));
    }
    // One character, which is at both ends, and none.
    if edges == 2 && least <= 1 && most.is_none_or(|most| most >= 1) {
        each.push(edge.clone());
    }
    if edges > 0 && least == 0 {
        each.push(format!("{other}{{0}}"));
    }
    format!("({})", each.join("|"))
}

/// The text whose start no text by a pattern contains. Without `</`, none runs into a closing tag.
fn excluded_text(quote: &str) -> &str {
    if quote.is_empty() { "</" } else { quote }
}

/// A regular expression for a character other than the first of `stop`. A backslash before a quote would make the quote a
/// part of the text.
fn other_than(stop: &str) -> String {
    match first_two(stop) {
        (first, Some(_)) => format!("[^{first}]"),
        (first, None) => format!("[^{first}\\\\\\n]"),
    }
}

/// A regular expression for texts that do not contain the first two characters of `stop`.
fn without(stop: &str) -> String {
    let other = other_than(stop);
    match first_two(stop) {
        (first, Some(second)) => format!("{other}*({first}[^{second}{first}]{other}*)*"),
        (_, None) => format!("{other}*"),
    }
}
