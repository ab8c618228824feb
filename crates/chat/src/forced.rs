//! The grammar of calls, in Lark's notation as llguidance reads it: for calls that have to be made,
//! and for those that have to be valid if they are.

mod arguments;
mod definitions;
mod expression;
mod texts;

use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Write};

use serde_json::{Value, json};

use crate::dialect::{Arguments, Dialect, ID};

/// A tool as a grammar sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolShape<'t> {
    /// Its name.
    pub name: &'t str,
    /// A JSON Schema of its arguments, an object: what is enforced, written so that a reference names one
    /// of its `$defs`.
    pub schema: Value,
    /// The schema by which the reader of calls reads them.
    pub sent: &'t Value,
    /// Whether nothing of the schema may be left out.
    pub strict: bool,
}

/// A grammar of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallGrammar {
    /// In Lark's notation.
    pub lark: String,
    /// Keywords of schemas that calls by it may violate.
    pub left_out: BTreeSet<&'static str>,
}

/// A tool's schema cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unenforceable {
    /// Its place among the tools.
    pub tool: usize,
    /// Why: what follows "cannot be enforced:".
    pub why: String,
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

/// The most calls in one answer.
const MAX_CALLS: u32 = 32;

/// The longest grammar, in bytes: at most what the engine compiles (`MAX_SOURCE` in its `grammar/limits.rs`; a
/// test of the server compares them).
pub const MAX_GRAMMAR_BYTES: usize = 256 << 10;

/// Whether some text matches, as a whole, all of some expressions and none of others; `None` if that is not known.
pub type SomeText<'t> = dyn Fn(&[&str], &[&str]) -> Option<bool> + 't;

/// What a grammar is written for: a vocabulary and a compiler.
#[derive(Clone, Copy)]
pub struct Target<'t> {
    /// The number of the control token that a piece of text begins with, and its length.
    pub control: &'t dyn Fn(&str) -> Option<(u32, usize)>,
    /// Spells a schema for llguidance.
    pub json: &'t dyn Fn(&Value) -> Value,
    /// Looks for texts that expressions match.
    pub some_text: &'t SomeText<'t>,
}

impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").finish_non_exhaustive()
    }
}

/// The grammar of an answer that calls these tools. `answer` is what an answer without calls has to be.
///
/// # Errors
/// [`Unenforceable`] for the first tool whose schema cannot be enforced, or not as a whole where it is strict.
pub fn grammar(
    dialect: &Dialect,
    tools: &[ToolShape<'_>],
    calls: Calls,
    target: Target<'_>,
    answer: Option<&Value>,
) -> Result<CallGrammar, Unenforceable> {
    let mut writer = Writer {
        dialect,
        target,
        rules: String::new(),
        count: 0,
        shared: HashMap::new(),
        repeated: 0,
        written: 0,
        left_out: BTreeSet::new(),
    };
    let ends = dialect.ends();
    let (open, next, all) = (&dialect.open, ends.next, ends.all);
    let names = tools.iter().enumerate().map(|(at, tool)| {
        let call = writer.call(tool).and_then(|call| writer.check_length().map(|()| call));
        call.map_err(|why| Unenforceable { tool: at, why })
    });
    let names: Vec<String> = names.collect::<Result<_, _>>()?;
    let more = match calls {
        Calls::One => 0,
        _ if next.is_empty() => 0,
        Calls::Some | Calls::Any => MAX_CALLS - 1,
    };
    writer.rule("call", &names.join(" | "));
    let next = writer.text(next);
    let more = match more {
        0 => String::new(),
        n => format!(" ({next} call){{0,{n}}}"),
    };
    let (all, opened) = (writer.text(all), writer.text(open));
    let calling = format!("{opened} call{more} {all}");
    if calls == Calls::Any {
        writer.any(&calling, answer);
    } else {
        writer.rule("start", &calling);
    }
    Ok(CallGrammar { lark: writer.rules, left_out: writer.left_out })
}

struct Writer<'w> {
    dialect: &'w Dialect,
    target: Target<'w>,
    rules: String,
    count: u32,
    /// Rules by what they are, those that calls share.
    shared: HashMap<String, String>,
    /// Bytes of definitions that were copied into rules, of all tools.
    repeated: usize,
    /// About how many bytes of schemas were written as rules, of all tools.
    written: usize,
    /// Keywords that are not enforced.
    left_out: BTreeSet<&'static str>,
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

    /// The name of the rule that is this: one for all that are the same.
    fn shared(&mut self, body: &str) -> String {
        self.shared_with("", body)
    }

    /// The same of a rule with attributes.
    fn shared_with(&mut self, attributes: &str, body: &str) -> String {
        let key = format!("{attributes}: {body}");
        if let Some(name) = self.shared.get(&key) {
            return name.clone();
        }
        let name = self.fresh();
        self.rule(&format!("{name}{attributes}"), body);
        self.shared.insert(key, name.clone());
        name
    }

    /// Refuses the tool with which the rules become too long.
    fn check_length(&self) -> Result<(), String> {
        if self.rules.len() > MAX_GRAMMAR_BYTES {
            return Err(format!(
                "without its descriptions it has, together with the tools before it, more than {MAX_GRAMMAR_BYTES} bytes"
            ));
        }
        Ok(())
    }

    /// Literal text: control tokens by number, an id as any id.
    fn text(&self, text: &str) -> String {
        literal(text, self.target.control)
    }

    fn json_rule(&mut self, schema: &Value) -> String {
        let name = self.fresh();
        let schema = (self.target.json)(schema);
        self.rule(&name, &format!("%json {schema}"));
        name
    }

    /// From a tool's name to the end of its call, or why they cannot be enforced.
    fn call(&mut self, tool: &ToolShape<'_>) -> Result<String, String> {
        let name = self.text(tool.name);
        let middle = self.text(&self.dialect.middle);
        match &self.dialect.arguments {
            Arguments::Json => {
                let arguments = self.json_rule(&tool.schema);
                let end = self.text(self.dialect.ends().call);
                Ok(format!("{name} {middle} {arguments} {end}"))
            }
            Arguments::Each { .. } => {
                let each = self.each(tool, &middle)?;
                Ok(format!("{name} {each}"))
            }
        }
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
        } else if (self.target.control)(marker).is_some() {
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
    use crate::dialect::Values;

    fn target(json: &dyn Fn(&Value) -> Value) -> Target<'_> {
        Target { control: &|_| None, json, some_text: &|_, _| None }
    }

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
            "$schema": draft, "properties": {"one": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}, "two": {"type": "array"}}});
        let tool = ToolShape { name: "f", schema: schema.clone(), sent: &schema, strict: true };
        let grammar = grammar(&dialect, &[tool], Calls::One, target(&Value::clone), None);
        let grammar = grammar.unwrap().lark;
        let own = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}},
            "$schema": draft, "x-guidance": spelling, "$defs": definitions});
        for document in [own, json!({"type": "array", "$schema": draft, "x-guidance": spelling})] {
            assert!(grammar.contains(&format!("%json {document}")), "{grammar}");
        }
    }

    /// The rules of a call with one argument of this schema.
    fn rules(dialect: &Dialect, schema: &Value) -> String {
        let schema = json!({"type": "object", "properties": {"a": schema}, "required": ["a"],
            "additionalProperties": false, "$defs": {"code": {"enum": ["007", "x"]}, "number": {"type": "integer"}}});
        let tool = ToolShape { name: "f", schema: schema.clone(), sent: &schema, strict: true };
        grammar(dialect, &[tool], Calls::One, target(&|_| json!("schema")), None).unwrap().lark
    }

    #[test]
    fn an_argument_without_a_type_is_what_its_schema_allows() {
        let nullable = json!({"anyOf": [{"type": "string"}, {"type": "null"}]});
        let has = |schema: &Value, wanted: &[&str]| {
            let grammar = rules(&samples::qwen(), schema);
            let all = ["%json", "tfnTFN", "\"007\\n", ">\"]: /(.|"];
            for rule in all {
                assert_eq!(grammar.contains(rule), wanted.contains(&rule), "{rule} of {grammar}");
            }
        };
        has(&json!({"$ref": "#/$defs/code"}), &["\"007\\n"]);
        has(&json!({"$ref": "#/$defs/number"}), &["%json"]);
        has(&json!({"properties": {"b": {}}}), &["%json"]);
        has(&json!({"enum": ["007"]}), &["\"007\\n"]);
        has(
            &json!({"anyOf": [{"$ref": "#/$defs/code"}, {"type": "string"}]}),
            &["\"007\\n", ">\"]: /(.|"],
        );
        has(&json!({"type": "string"}), &[">\"]: /(.|"]);
        // What looks like JSON is read as JSON: a text that does is spelled as JSON.
        has(&nullable, &["%json", "tfnTFN"]);
        has(&json!({}), &["%json", "tfnTFN"]);
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
