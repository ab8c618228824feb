//! The grammar of calls, in Lark's notation as llguidance reads it: for calls that have to be made,
//! and for those that have to be valid if they are.

use std::collections::HashSet;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::argument::{Argument, Kind, Texts};
use crate::calls::is_text;
use crate::dialect::{Arguments, Dialect, ID, Values};

/// A tool as a grammar sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolShape {
    /// Its name.
    pub name: String,
    /// A JSON Schema of its arguments, an object.
    pub schema: Value,
}

/// How many calls an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// One and no more.
    One,
    /// At least one.
    Some,
    /// None or more, and any other text instead of or before them.
    Any,
}

/// At most this many calls in one answer.
const MOST: u32 = 32;
/// The most bytes of definitions that are repeated for a tool's arguments; no longer grammar is
/// compiled.
const MOST_REPEATED: usize = 256 << 10;
/// Texts that readers take for nothing else: they begin as no JSON and no literal of Python's does, and
/// are none of their words.
const NO_JSON: &str = r#"/[^\s"\[{\-0-9](.|\n)*/ & ~/(true|false|null|True|False|None)\s*/"#;

/// The grammar of an answer that calls these tools. `control` tells the number of the control token
/// that a piece of text begins with, and its name; `json` spells a schema for llguidance; `answer` is
/// what an answer without calls has to be.
pub fn grammar(
    dialect: &Dialect,
    tools: &[ToolShape],
    calls: Calls,
    control: &dyn Fn(&str) -> Option<(u32, usize)>,
    json: &dyn Fn(&Value) -> Value,
    answer: Option<&Value>,
) -> String {
    let mut writer =
        Writer { dialect, control, json, rules: String::new(), count: 0, has_text: false };
    let ends = dialect.ends();
    let (open, call_end, next, all) = (&dialect.open, ends.call, ends.next, ends.all);
    let names: Vec<String> = tools.iter().map(|tool| writer.call(tool)).collect();
    let more = match calls {
        Calls::One => 0,
        _ if next.is_empty() => 0,
        Calls::Some | Calls::Any => MOST - 1,
    };
    writer.rule("call", &names.join(" | "));
    let (call_end, next) = (writer.text(call_end), writer.text(next));
    let more = match more {
        0 => String::new(),
        n => format!(" ({next} call {call_end}){{0,{n}}}"),
    };
    let (all, opened) = (writer.text(all), writer.text(open));
    let calling = format!("{opened} call {call_end}{more} {all}");
    if calls == Calls::Any {
        writer.any(&calling, answer);
    } else {
        writer.rule("start", &calling);
    }
    writer.rules
}

struct Writer<'w> {
    dialect: &'w Dialect,
    control: &'w dyn Fn(&str) -> Option<(u32, usize)>,
    json: &'w dyn Fn(&Value) -> Value,
    rules: String,
    count: u32,
    /// Whether there is a rule for texts that are no JSON.
    has_text: bool,
}

impl Writer<'_> {
    fn rule(&mut self, name: &str, body: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.rules, "{name}: {body}");
    }

    fn fresh(&mut self) -> String {
        self.count += 1;
        format!("x{}", self.count)
    }

    /// Literal text: control tokens by number, an id as any id.
    fn text(&self, text: &str) -> String {
        literal(text, self.control)
    }

    fn json_rule(&mut self, schema: &Value) -> String {
        let name = self.fresh();
        let schema = (self.json)(schema);
        self.rule(&name, &format!("%json {schema}"));
        name
    }

    /// From a tool's name to the end of its arguments.
    fn call(&mut self, tool: &ToolShape) -> String {
        let name = self.text(&tool.name);
        let middle = self.text(&self.dialect.middle);
        match &self.dialect.arguments {
            Arguments::Json => {
                let arguments = self.json_rule(&tool.schema);
                format!("{name} {middle} {arguments}")
            }
            Arguments::Each { .. } => {
                let each = self.each(&tool.schema, &middle);
                format!("{name} {each}")
            }
        }
    }

    /// Arguments one by one, in the schema's order; those not required may be left out.
    fn each(&mut self, schema: &Value, middle: &str) -> String {
        let Arguments::Each { value_key, none, .. } = &self.dialect.arguments else {
            return String::new();
        };
        let ends = self.dialect.ends();
        let behind = format!("{}{}", ends.call, ends.all);
        let none = none.trim_end().strip_suffix(behind.trim_end()).unwrap_or(none);
        let (none, value_key) = (self.text(none), self.text(value_key));
        // Each is a document of its own, with the definitions that it may refer to, and read and spelled
        // as the whole is.
        let count = schema["properties"].as_object().map_or(0, |all| all.len());
        let definitions =
            schema.get("$defs").filter(|all| all.to_string().len() * count <= MOST_REPEATED);
        let whole = |value: &Value| {
            let mut value = value.clone();
            if let Some(map) = value.as_object_mut() {
                let own = ["$schema", "x-guidance"].map(|key| (key, schema.get(key)));
                let carried = own.into_iter().chain([("$defs", definitions)]);
                let carried = carried.filter_map(|(key, of)| Some((key.to_owned(), of?.clone())));
                map.extend(carried);
            }
            value
        };
        let properties: Vec<(String, Value)> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), whole(value)))
            .collect();
        let required = schema["required"].as_array().into_iter().flatten();
        let required: HashSet<&str> = required.filter_map(Value::as_str).collect();
        // From the last one on: what follows where nothing was said yet, and where something was.
        let (mut fresh, mut started) = (none, String::new());
        for (key, below) in properties.iter().rev() {
            let pair = self.pair(key, below);
            let says = |before: &str, rest: &str| format!("{before} {pair} {rest}");
            let (first, next) = (says(middle, &started), says(&value_key, &started));
            let (a, b) = (self.fresh(), self.fresh());
            if required.contains(key.as_str()) {
                self.rule(&a, &first);
                self.rule(&b, &next);
            } else {
                let empty = |rest: &str| {
                    if rest.trim().is_empty() { "\"\"".to_owned() } else { rest.to_owned() }
                };
                self.rule(&a, &format!("{first} | {}", empty(&fresh)));
                self.rule(&b, &format!("{next} | {}", empty(&started)));
            }
            (fresh, started) = (a, b);
        }
        fresh
    }

    /// An argument by its key, and its value as its schema allows it.
    fn pair(&mut self, key: &str, schema: &Value) -> String {
        let Arguments::Each { key_value, values, .. } = &self.dialect.arguments else {
            return String::new();
        };
        let argument = Argument { schema, root: schema };
        let (told, quote) = match values {
            Values::Told { front, back, others, .. } => (Some((front, back, others)), ""),
            Values::Quoted(quote) => (None, quote.as_str()),
            Values::Bare => (None, ""),
        };
        let (kind, mut forms) = (argument.kind(), Vec::new());
        let texts = match kind {
            Kind::Json => String::new(),
            // Nothing but the value says that it is a text.
            Kind::Either if *values == Values::Bare => self.texts_alone(argument),
            _ => self.texts(argument, if quote.is_empty() { "</" } else { quote }),
        };
        if !texts.is_empty() {
            let (key, quote) = (self.text(&format!("{key}{key_value}")), self.text(quote));
            forms.push(format!("{key} {quote} {texts} {quote}"));
        }
        if kind != Kind::Text || forms.is_empty() {
            let key_value = match told {
                Some((front, back, others)) => {
                    let wanted = schema["type"].as_str().or_else(|| argument.other_type());
                    let word = others.iter().find(|(name, _)| Some(*name) == wanted);
                    let word = word.or(others.first()).map_or("", |(_, word)| word);
                    format!("{front}{word}{back}")
                }
                None => key_value.clone(),
            };
            let key = self.text(&format!("{key}{key_value}"));
            forms.push(format!("{key} {}", self.json_rule(schema)));
        }
        match forms.as_slice() {
            [one] => one.clone(),
            _ => format!("({})", forms.join(" | ")),
        }
    }

    /// The texts that an argument may be, up to what `stop` begins with.
    fn texts(&mut self, argument: Argument<'_>, stop: &str) -> String {
        let mut each = Vec::new();
        for text in argument.texts() {
            let form = match text {
                Texts::Listed(text) => self.text(text),
                Texts::By(schema) => {
                    let name = self.fresh();
                    self.rule(&name, &format!("/{}/", text_regex(schema, stop)));
                    name
                }
            };
            each.push(if form.is_empty() { "\"\"".to_owned() } else { form });
        }
        one_of(&each)
    }

    /// The same of texts that are read as texts, though they could be JSON as well.
    fn texts_alone(&mut self, argument: Argument<'_>) -> String {
        let mut each = Vec::new();
        for text in argument.texts() {
            match text {
                Texts::Listed(text) if !text.is_empty() && is_text(text) => {
                    each.push(self.text(text));
                }
                Texts::By(Value::Null) => {
                    if !std::mem::replace(&mut self.has_text, true) {
                        let any = text_regex(&Value::Null, "</");
                        self.rules.push_str(&format!("TEXT: /{any}/ & {NO_JSON}\n"));
                    }
                    each.push("TEXT".to_owned());
                }
                _ => {}
            }
        }
        one_of(&each)
    }

    /// Any text, or calls behind any text.
    fn any(&mut self, calling: &str, answer: Option<&Value>) {
        let marker = self.dialect.marker();
        let opened = self.text(self.dialect.answer);
        if let Some(schema) = answer {
            let answer = self.json_rule(schema);
            self.rule("start", &format!("{calling} | {opened} {answer}"));
        } else if !opened.is_empty() {
            self.rule("start", &format!("{calling} | {opened} FREE"));
            self.rules.push_str("FREE: /(.|\\n)*/\n");
        } else if marker.is_empty() {
            self.rule("start", &format!("{calling} | FREE"));
            self.rules.push_str("FREE: /([^{\\[\\s](.|\\n)*)?/\n");
        } else if (self.control)(marker).is_some() {
            self.rule("start", &format!("FREE ({calling})?"));
            self.rules.push_str("FREE: /(.|\\n)*/\n");
        } else {
            // The mark belongs to the text before it.
            let quoted = json!(marker).to_string();
            let open = self.dialect.open.trim_start();
            let rest = self.text(open.strip_prefix(marker).unwrap_or_default());
            let opened = self.text(&self.dialect.open);
            let calling = calling.strip_prefix(&opened).unwrap_or(calling);
            self.rule("start", &format!("FREE | before {rest}{calling}"));
            self.rule(&format!("before[suffix={quoted}]"), "/(.|\\n)*/");
            let escaped = escape_regex(marker);
            self.rules.push_str(&format!("FREE: /(.|\\n)*/ & ~/(.|\\n)*{escaped}(.|\\n)*/\n"));
        }
    }
}

/// Rules of which one follows; empty if there is none.
fn one_of(rules: &[String]) -> String {
    match rules {
        [] => String::new(),
        [one] => one.clone(),
        all => format!("({})", all.join(" | ")),
    }
}

/// Literal text in Lark's notation: control tokens by number, as `control` tells them, an id as any id.
pub fn literal(text: &str, control: &dyn Fn(&str) -> Option<(u32, usize)>) -> String {
    let (mut out, mut plain) = (Vec::new(), String::new());
    let flush = |plain: &mut String, out: &mut Vec<String>| {
        if !plain.is_empty() {
            out.push(json!(plain).to_string());
            plain.clear();
        }
    };
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some((token, len)) = control(rest) {
            flush(&mut plain, &mut out);
            out.push(format!("<[{token}]>"));
            rest = &rest[len..];
        } else if let Some(behind) = rest.strip_prefix(ID) {
            flush(&mut plain, &mut out);
            out.push("/[a-zA-Z0-9]{9}/".to_owned());
            rest = behind;
        } else {
            plain.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    flush(&mut plain, &mut out);
    out.join(" ")
}

/// What a text may be that `stop` ends: by its pattern, or its lengths, or anything that does not
/// hold how that begins. A backslash would make an ending quote a part of the text.
fn text_regex(schema: &Value, stop: &str) -> String {
    let mut begins = stop.chars().map(|c| escape_regex(c.encode_utf8(&mut [0; 4])));
    let (first, second) = (begins.next().unwrap_or_default(), begins.next());
    let other = match &second {
        Some(_) => format!("[^{first}]"),
        None => format!("[^{first}\\\\\\n]"),
    };
    if let Some(pattern) = schema["pattern"].as_str() {
        let open = |begins: bool| if begins { String::new() } else { format!("{other}*") };
        let (front, back) = (open(pattern.starts_with('^')), open(pattern.ends_with('$')));
        let inner = between_slashes(pattern.trim_start_matches('^').trim_end_matches('$'));
        return format!("{front}({inner}){back}");
    }
    let length = |name: &str| schema[name].as_u64();
    match (length("minLength"), length("maxLength"), second) {
        (None, None, Some(second)) => format!("{other}*({first}[^{second}{first}]{other}*)*"),
        (None, None, None) => format!("{other}*"),
        (least, Some(most), _) => format!("{other}{{{},{most}}}", least.unwrap_or(0)),
        (Some(least), None, _) => format!("{other}{{{least},}}"),
    }
}

/// A regular expression as Lark's notation has it between slashes: none of its own ends it, and no
/// backslash at its end escapes the one that does.
pub fn between_slashes(regex: &str) -> String {
    let mut out = String::with_capacity(regex.len());
    let mut escaped = false;
    for c in regex.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '/' => out.push_str("\\/"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => {
                out.extend(escaped.then_some('\\'));
                out.push(c);
            }
        }
        escaped = false;
    }
    out
}

/// A regular expression for exactly this text.
pub fn escape_regex(text: &str) -> String {
    let each = text.chars().map(|c| match c {
        '\n' => "\\n".to_owned(),
        c if "\\.+*?()|[]{}^$#&-~/".contains(c) => format!("\\{c}"),
        c => c.to_string(),
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::samples;

    #[test]
    fn arguments_one_by_one_are_spelled_as_the_whole_is() {
        let text = str::to_owned;
        let dialect = Dialect {
            native: true,
            renders: true,
            open: text("<call>"),
            middle: text("<key>"),
            between: None,
            close: text("</value></call>"),
            arguments: Arguments::Each {
                key_value: text("</key><value>"),
                value_key: text("</value><key>"),
                none: text("</call>"),
                values: Values::Bare,
            },
            takes_text: false,
            short_ids: false,
            answer: "",
        };
        assert!(dialect.takes_each());
        let (spelling, definitions) =
            (json!({"json_allowed_escapes": "n"}), json!({"a": {"type": "null"}}));
        let draft = "http://json-schema.org/draft-07/schema#";
        let schema = json!({"type": "object", "x-guidance": spelling, "$defs": definitions,
            "$schema": draft, "properties": {"one": {"type": "object"}, "two": {"type": "array"}}});
        let tool = ToolShape { name: text("f"), schema };
        let grammar = grammar(&dialect, &[tool], Calls::One, &|_| None, &Value::clone, None);
        for kind in ["object", "array"] {
            let document = json!({"type": kind, "$schema": draft, "x-guidance": spelling,
                "$defs": definitions});
            assert!(grammar.contains(&format!("%json {document}")), "{grammar}");
        }
    }

    /// The rules of a call with one argument of this schema.
    fn rules(dialect: &Dialect, schema: &Value) -> String {
        let schema = json!({"type": "object", "properties": {"a": schema}, "required": ["a"],
            "$defs": {"code": {"enum": ["007", "x"]}, "number": {"type": "integer"}}});
        let tool = ToolShape { name: "f".to_owned(), schema };
        grammar(dialect, &[tool], Calls::One, &|_| None, &|_| json!("schema"), None)
    }

    #[test]
    fn an_argument_without_a_type_is_what_its_schema_allows() {
        let nullable = json!({"anyOf": [{"type": "string"}, {"type": "null"}]});
        let has = |schema: &Value, wanted: &[&str]| {
            let grammar = rules(&samples::qwen(), schema);
            let all = ["%json", "TEXT:", "\"007\"", "x1: /"];
            for rule in all {
                assert_eq!(grammar.contains(rule), wanted.contains(&rule), "{rule} of {grammar}");
            }
        };
        has(&json!({"$ref": "#/$defs/code"}), &["\"007\""]);
        has(&json!({"$ref": "#/$defs/number"}), &["%json"]);
        has(&json!({"properties": {"b": {}}}), &["%json"]);
        has(&json!({"enum": ["007"]}), &["\"007\""]);
        has(
            &json!({"anyOf": [{"$ref": "#/$defs/code"}, {"type": "string"}]}),
            &["\"007\"", "x1: /"],
        );
        has(&json!({"type": "string"}), &["x1: /"]);
        // What looks like JSON is read as JSON: a text that does is spelled as JSON.
        has(&nullable, &["%json", "TEXT:"]);
        has(&json!({}), &["%json", "TEXT:"]);
        has(&json!({"enum": ["1", 2]}), &["%json"]);
        has(
            &json!({"anyOf": [{"type": "string", "pattern": "^[0-9]$"}, {"type": "null"}]}),
            &["%json"],
        );
        // Where the value says what it is, both are possible.
        let told = rules(&samples::dsml(), &nullable);
        assert!(
            told.contains("string=\\\"true\\\"") && told.contains("string=\\\"false\\\""),
            "{told}"
        );
        let quoted = rules(&samples::python(), &nullable);
        assert!(quoted.contains("\"'\" x1 \"'\"") && quoted.contains("%json"), "{quoted}");
    }

    #[test]
    fn patterns_stay_between_their_slashes() {
        assert_eq!(between_slashes("https?:\\/\\/a/b"), "https?:\\/\\/a\\/b");
        assert_eq!(between_slashes("a\\\\/b\nc"), "a\\\\\\/b\\nc");
    }
}
