//! How texts are spelled, and names, so that the reader of calls reads them back as they were.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::expression::whole;
use super::{Writer, escape_regex};
use crate::calls::{LONGEST_KEY, is_text, without_breaks};
use crate::dialect::{Arguments, Dialect, ID, Values};
use crate::literal::{LiteralReader, LiteralStep, json_string};
use crate::references::{BY_NAME, DATA};
use crate::texts::{Constraint, Texts};

/// Texts that readers take for nothing else, and that begin as no JSON does and no literal of Python's: the
/// lexer decides by the first character.
const NO_JSON: &str = r#"/[^\s"\[{\-0-9tfnTFN](.|\n)*/"#;
/// How deep schemas are looked into: as deep as a document can be.
const MAX_DEPTH: usize = 256;
const ANY: &str = "/(.|\\n)*/";

/// The longest text that a limited one may be, in characters: what a schema allows beyond that is not said.
const LONGEST: u64 = 1 << 16;
/// Patterns that are looked for together: each multiplies what is to be searched.
const MOST_TOGETHER: usize = 3;
/// The most characters that a text may be said to have at least.
const MOST_AT_LEAST: u64 = 1 << 12;

/// Whether a text may begin, and end, with a line break.
#[derive(Clone, Copy)]
struct Breaks {
    front: bool,
    back: bool,
}

impl Breaks {
    /// The expressions of texts that may not be.
    fn never(self) -> impl Iterator<Item = &'static str> {
        let front = (!self.front).then_some("\\n(.|\\n)*");
        front.into_iter().chain((!self.back).then_some("(.|\\n)*\\n"))
    }
}

/// What ends the values of arguments.
#[derive(Clone, Copy)]
pub(super) struct ValueEnd<'d> {
    /// The text as the template writes it; empty if it differs between values.
    pub(super) all: &'d str,
    /// The part that readers look for.
    pub(super) stop: &'d str,
    /// What stands between it and the next argument.
    pub(super) next: &'d str,
    /// What stands between it and the end of the call.
    pub(super) call: &'d str,
}

impl<'d> ValueEnd<'d> {
    pub(super) fn of(dialect: &'d Dialect) -> Self {
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

/// The rules of an argument's texts.
#[derive(Default)]
pub(super) struct Spelled {
    /// One for each text, or for many.
    pub(super) forms: Vec<String>,
    /// Whether some of those that are listed cannot be spelled.
    pub(super) is_short: bool,
    /// Keywords that are not enforced.
    pub(super) left_out: BTreeSet<&'static str>,
}

impl Writer<'_> {
    /// The texts that an argument may be, each in its `quote`, with what ends it.
    pub(super) fn texts(&mut self, texts: &[Texts<'_>], quote: &str) -> Spelled {
        let end = ValueEnd::of(self.dialect);
        let mut spelled = Spelled::default();
        for text in texts {
            let form = match text {
                Texts::Listed(text) => match self.listed(text, quote) {
                    Some(form) => form,
                    None => {
                        spelled.is_short = true;
                        continue;
                    }
                },
                Texts::Any => self.any_text(quote, end),
                Texts::Constrained(constraint) => {
                    spelled.left_out.extend(constraint.has_format.then_some("format"));
                    self.constrained(constraint, quote, end, &mut spelled.left_out)
                }
            };
            spelled.forms.push(form);
        }
        if spelled.is_short && spelled.forms.is_empty() {
            spelled.forms.push(self.any_text(quote, end));
        }
        spelled
    }

    /// The same of texts alone that are read as texts where JSON is allowed as well. Constrained ones are
    /// spelled as JSON there.
    pub(super) fn unambiguous_texts(&mut self, texts: &[Texts<'_>]) -> Spelled {
        let end = ValueEnd::of(self.dialect);
        let mut spelled = Spelled::default();
        for text in texts {
            match text {
                Texts::Listed(text) if !text.is_empty() && is_text(text) => {
                    let form = self.listed(text, "");
                    spelled.is_short |= form.is_none();
                    spelled.forms.extend(form);
                }
                Texts::Any => {
                    spelled.forms.push(self.text_until(&[NO_JSON.to_owned()], "", end.stop));
                }
                Texts::Listed(_) | Texts::Constrained(_) => {}
            }
        }
        spelled
    }

    fn any_text(&mut self, quote: &str, end: ValueEnd<'_>) -> String {
        if quote.is_empty() && !end.all.is_empty() {
            return self.text_until(&[ANY.to_owned()], "", end.stop);
        }
        self.constrained(&Constraint::default(), quote, end, &mut BTreeSet::new())
    }

    /// A text as its constraint allows it, and what ends it: none that holds what readers take for its end. Keywords
    /// that are not enforced go to `left_out`.
    fn constrained(
        &mut self,
        constraint: &Constraint<'_>,
        quote: &str,
        end: ValueEnd<'_>,
        left_out: &mut BTreeSet<&'static str>,
    ) -> String {
        let stop = stop_of(quote);
        let is_bare = quote.is_empty();
        // The reader takes a line break off either end, so none may stand there unless one more does.
        let breaks = Breaks {
            front: !is_bare || self.before_value().starts_with('\n'),
            back: !is_bare || end.all.starts_with('\n'),
        };
        let least = if constraint.least > MOST_AT_LEAST {
            left_out.insert("minLength");
            0
        } else {
            constraint.least
        };
        let lengths = (least, constraint.most.map(|most| most.min(LONGEST).max(least)));
        let is_any = *constraint == Constraint::default();
        let after = if is_bare && !is_any && breaks.back { "\"\\n\"" } else { "" };
        let all = self.patterns(
            constraint,
            (stop, if is_bare { end.stop } else { quote }),
            lengths,
            breaks,
            left_out,
        );
        let all = if !all.is_empty() {
            all
        } else if lengths == (0, None) {
            let mut all = vec![format!("/{}/", without(stop))];
            if !is_any {
                all.extend(breaks.never().map(|one| format!("~/{one}/")));
            }
            all
        } else {
            vec![format!("/{}/", limited(stop, lengths, breaks))]
        };
        if is_bare {
            return self.text_until(&all, after, end.stop);
        }
        let text = self.text_until(&all, "", quote);
        format!("{} {text} {}", self.text(quote), self.text(end.all))
    }

    /// The terminals that all have to match a text by the patterns of its constraint, if some text can; none if
    /// there is none, or no pattern that can be enforced. Each is as small as its expression, together they are as
    /// large as the product of all: they are enforced if it is known that they can be.
    fn patterns(
        &self,
        constraint: &Constraint<'_>,
        (stop, ends): (&str, &str),
        (least, most): (u64, Option<u64>),
        breaks: Breaks,
        left_out: &mut BTreeSet<&'static str>,
    ) -> Vec<String> {
        let other = format!("{}*", other_than(stop));
        let mut found: Vec<String> =
            constraint.patterns.iter().filter_map(|one| whole(one, &other)).collect();
        found.truncate(MOST_TOGETHER);
        let is_short = found.len() < constraint.patterns.len();
        left_out.extend(is_short.then_some("pattern"));
        if found.is_empty() {
            return Vec::new();
        }
        // Together with an expression each length is a state of its own.
        let most = most.map(|most| most.min(MOST_AT_LEAST));
        let mut never: Vec<String> = breaks.never().map(str::to_owned).collect();
        let many = found.len() > 1;
        if ends.chars().nth(1).is_some() {
            never.push(holding(ends));
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
            never.iter().map(String::as_str).collect(),
        );
        match (self.target.some_text)(&all, &none) {
            Some(true) => {}
            None if !many && !is_limited => {}
            Some(false) | None => {
                left_out.insert("pattern");
                return Vec::new();
            }
        }
        let found = found.iter().map(|one| format!("/{one}/"));
        found.chain(never.iter().map(|one| format!("~/{one}/"))).collect()
    }

    /// A text that matches all these expressions, and what ends it. The lexer never goes back: where the
    /// expressions could match what a text's end begins with, both are one lexeme, which ends as soon as it can.
    fn text_until(&mut self, all: &[String], after: &str, stop: &str) -> String {
        let body = |all: &[String]| match (all, after) {
            (all, "") => all.join(" & "),
            (all, after) => format!("({}) {after}", all.join(" & ")),
        };
        let is_control = (self.target.control)(stop).is_some();
        if !is_control && stop.chars().nth(1).is_some() {
            return self.shared_with(&format!("[suffix={}]", json!(stop)), &body(all));
        }
        let mut all = all.to_vec();
        if is_control || all.iter().any(|one| one == ANY || one == NO_JSON) {
            // Its text can be spelled by other tokens, and readers see no difference.
            all.extend((!stop.is_empty()).then(|| format!("~/{}/", holding(stop))));
        }
        let text = match all.as_slice() {
            [_] if after.is_empty() => self.shared(&body(&all)),
            all => self.terminal(&body(all)),
        };
        format!("{text} {}", self.text(stop))
    }

    /// The name of the terminal that is this.
    fn terminal(&mut self, body: &str) -> String {
        let key = format!("TEXT: {body}");
        if let Some(name) = self.shared.get(&key) {
            return name.clone();
        }
        let name = format!("TEXT{}", self.fresh().trim_start_matches('x'));
        self.rule(&name, body);
        self.shared.insert(key, name.clone());
        name
    }

    /// A listed text in its quotes, and what ends it; `None` where the reader would read something else.
    fn listed(&mut self, text: &str, quote: &str) -> Option<String> {
        let end = ValueEnd::of(self.dialect);
        if quote.is_empty() && !matches!(self.dialect.values(), Some(Values::Quoted(_))) {
            return self.is_read_back(text).then(|| self.spoken(text, end.all));
        }
        let plain = format!("{text}{quote}");
        if is_literal(&format!("{quote}{plain}"), quote, text) {
            return Some(format!("{} {}", self.text(quote), self.spoken(text, quote)));
        }
        let mut quotes = quote.chars();
        if let (Some(one), None) = (quotes.next(), quotes.next()) {
            let escaped = text.replace('\\', "\\\\").replace(one, &format!("\\{one}"));
            if is_literal(&format!("{quote}{escaped}{quote}"), quote, text) {
                return Some(format!("{} {}", self.text(quote), self.spoken(&escaped, quote)));
            }
        }
        let as_json = json_string(text);
        is_literal(&as_json, quote, text).then(|| self.spoken(&as_json, ""))
    }

    /// What stands between a name's end, as readers look for it, and the value.
    fn before_value(&self) -> &str {
        match &self.dialect.arguments {
            Arguments::Each { key_value, values: Values::Bare, .. } => {
                &key_value[key_value.trim_end().len()..]
            }
            _ => "",
        }
    }

    /// Whether the reader reads a text without quotes as it is.
    fn is_read_back(&self, text: &str) -> bool {
        let Arguments::Each { value_key, .. } = &self.dialect.arguments else { return true };
        let (end, stop) = (ValueEnd::of(self.dialect), self.dialect.value_end());
        let ends = [value_key.as_str(), self.dialect.ends().call];
        let ends = if end.all.is_empty() { &ends[..] } else { &[end.all][..] };
        let front = self.before_value();
        ends.iter().all(|end| {
            let raw = format!("{front}{text}{end}");
            let begin = front.len() + text.len();
            let Some(at) =
                raw.find(stop).filter(|at| end.find(stop).map(|own| begin + own) == Some(*at))
            else {
                return false;
            };
            without_breaks(&raw[..at]) == text
        })
    }

    /// Whether the reader reads an argument's name as it is.
    pub(super) fn is_name_read_back(&self, name: &str) -> bool {
        let Arguments::Each { key_value, none, values, .. } = &self.dialect.arguments else {
            return true;
        };
        let end = match values {
            Values::Told { front, .. } => front.as_str(),
            Values::Bare | Values::Quoted(_) => key_value.trim(),
        };
        // What ends a call without arguments.
        let dense = |text: &str| text.split_whitespace().collect::<String>();
        let begins = dense(&format!("{}{name}{key_value}", self.dialect.middle));
        name.trim() == name
            && name.len() + end.len() <= LONGEST_KEY
            && format!("{name}{end}").find(end) == Some(name.len())
            && !begins.starts_with(&dense(none))
    }

    /// Takes out of a schema, and of all that it holds, what readers would take for the end of a value; returns the
    /// keywords that held it. What is left allows other values.
    pub(super) fn take_out_ends(&self, schema: &mut Value) -> BTreeSet<&'static str> {
        let mut left_out = BTreeSet::new();
        if !matches!(self.dialect.values(), Some(Values::Quoted(_))) {
            take_out(schema, self.dialect.value_end(), false, 0, &mut left_out);
        }
        left_out
    }

    /// A text by bytes, never as a control token or an id, and the dialect's piece after it: one lexeme as far
    /// as that is text, since the lexer takes no shorter one where a longer one goes on.
    pub(super) fn spoken(&self, text: &str, piece: &str) -> String {
        let is_special = |at: usize| {
            (self.target.control)(&piece[at..]).is_some() || piece[at..].starts_with(ID)
        };
        let special = piece.char_indices().map(|(at, _)| at).find(|at| is_special(*at));
        let (plain, rest) = piece.split_at(special.unwrap_or(piece.len()));
        let spoken = json!(format!("{text}{plain}")).to_string();
        if rest.is_empty() { spoken } else { format!("{spoken} {}", self.text(rest)) }
    }
}

/// The same of one value, which holds schemas by name or is one; `depth` deep in a document.
fn take_out(
    value: &mut Value,
    stop: &str,
    is_by_name: bool,
    depth: usize,
    left_out: &mut BTreeSet<&'static str>,
) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Array(all) => {
            all.iter_mut().for_each(|one| take_out(one, stop, false, depth + 1, left_out));
        }
        Value::Object(map) => {
            if !is_by_name {
                take_out_own(map, stop, left_out);
            }
            for (key, one) in map {
                let is_keyword = |of: &[&str]| !is_by_name && of.contains(&key.as_str());
                if !is_keyword(&DATA) {
                    take_out(one, stop, is_keyword(&BY_NAME), depth + 1, left_out);
                }
            }
        }
        _ => {}
    }
}

/// The same of what a schema says itself.
fn take_out_own(map: &mut Map<String, Value>, stop: &str, left_out: &mut BTreeSet<&'static str>) {
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
            left_out.insert(key);
            // No value at all is another thing than any.
            if after == 0 {
                map.remove(key);
            }
        }
    }
}

/// Whether a literal is this text.
fn is_literal(literal: &str, quote: &str, text: &str) -> bool {
    let mut reader = LiteralReader::new(quote);
    let mut chars = literal.chars().peekable();
    while let Some(c) = chars.next() {
        match reader.step(c) {
            LiteralStep::More => {}
            LiteralStep::Done { json, taken } => {
                return taken && chars.peek().is_none() && json == json_string(text);
            }
            LiteralStep::Invalid => return false,
        }
    }
    false
}

/// The expression of a text that holds this one.
fn holding(text: &str) -> String {
    format!("(.|\\n)*{}(.|\\n)*", escape_regex(text))
}

/// How a text begins, its first two characters.
fn beginning(stop: &str) -> (String, Option<String>) {
    let mut begins = stop.chars().map(|c| escape_regex(c.encode_utf8(&mut [0; 4])));
    (begins.next().unwrap_or_default(), begins.next())
}

/// The expression of a text of at least and at most so many characters with none of which `stop` begins, and the
/// line breaks that it may have at its ends. It is one that counts once: what has to match besides would have to be
/// looked for in all the lengths.
fn limited(stop: &str, (least, most): (u64, Option<u64>), breaks: Breaks) -> String {
    let other = other_than(stop);
    let edge = match beginning(stop) {
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
    // Of one character, which is at both ends, and of none.
    if edges == 2 && least <= 1 && most.is_none_or(|most| most >= 1) {
        each.push(edge.clone());
    }
    if edges > 0 && least == 0 {
        each.push(format!("{other}{{0}}"));
    }
    format!("({})", each.join("|"))
}

/// What no text that any expression may stand for holds the beginning of. Without `<` in it, none runs into a
/// closing tag.
fn stop_of(quote: &str) -> &str {
    if quote.is_empty() { "</" } else { quote }
}

/// The expression of a character with which `stop` does not begin. A backslash would make an ending quote a part
/// of the text.
fn other_than(stop: &str) -> String {
    match beginning(stop) {
        (first, Some(_)) => format!("[^{first}]"),
        (first, None) => format!("[^{first}\\\\\\n]"),
    }
}

/// The expression of a text that does not hold how `stop` begins.
fn without(stop: &str) -> String {
    let other = other_than(stop);
    match beginning(stop) {
        (first, Some(second)) => format!("{other}*({first}[^{second}{first}]{other}*)*"),
        (_, None) => format!("{other}*"),
    }
}
