//! What an answer has to be: from the fields that say so to a grammar that the engine enforces.
//!
//! What cannot be enforced is refused, by the name of the field and of the keyword; a schema that does
//! not ask for `strict` is enforced as far as it can be, and the rest is noted.

use forebay_chat::{ReasoningFormat, ReasoningMode, escape_regex, lark_literal, lark_regex};
use forebay_engine::{CompiledGrammar, Engine, Grammar, Grammars, Vocab};
use forebay_protocol::structured::{Shape, StructuredOutputs};
use serde_json::{Value, json};

use super::prompt::ExpectedReasoning;
use super::schema::{self, Enforcement, NotEnforced};
use crate::conversation::FieldNames;
use crate::error::{ApiError, shown};

const MAX_NAME: usize = 64;
const MAX_CHOICES: usize = 1024;

/// A grammar and the field that asks for it.
#[derive(Debug, Clone)]
pub struct Wanted {
    param: String,
    grammar: Grammar,
    of_tools: bool,
    /// What an answer by it may violate.
    not_enforced: NotEnforced,
    /// What is enforced where the compiler refuses it.
    weaker: Option<Box<Self>>,
}

/// A grammar that is compiled, and what an answer by it may violate.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The grammar's source.
    pub grammar: Grammar,
    /// Keywords of its schemas.
    pub not_enforced: NotEnforced,
}

impl Wanted {
    fn new(param: &str, grammar: Grammar) -> Self {
        let not_enforced = NotEnforced::default();
        Self { param: param.to_owned(), grammar, of_tools: false, not_enforced, weaker: None }
    }

    /// A grammar of tools.
    pub(super) fn of_tools(grammar: Grammar, not_enforced: NotEnforced) -> Self {
        Self { of_tools: true, not_enforced, ..Self::new("tools", grammar) }
    }

    /// The same with what is enforced where the compiler refuses it.
    pub(super) fn or_weaker(self, weaker: Option<Self>) -> Self {
        let weaker = weaker.filter(|weaker| weaker.grammar != self.grammar);
        Self { weaker: weaker.map(Box::new), ..self }
    }

    /// What is enforced where the compiler refuses it.
    pub(super) fn weaker(&self) -> Option<&Self> {
        self.weaker.as_deref()
    }

    /// What an answer by it may violate.
    pub(super) fn not_enforced(&self) -> NotEnforced {
        self.not_enforced
    }

    /// What tests and fuzz targets compile.
    #[cfg(any(test, feature = "fuzzing"))]
    #[doc(hidden)]
    pub fn grammar(&self) -> &Grammar {
        &self.grammar
    }

    /// The JSON Schema that the answer has to be valid by, where it is that.
    ///
    /// # Errors
    /// 400 where it is something else: that cannot be had together with tools.
    pub(super) fn schema(&self) -> Result<serde_json::Value, ApiError> {
        match &self.grammar {
            Grammar::JsonSchema(schema) => {
                serde_json::from_str(schema).map_err(|error| ApiError::internal(error.to_string()))
            }
            Grammar::Regex(_) | Grammar::Lark(_) => {
                let message = format!("'{}' is not supported together with 'tools'.", self.param);
                Err(ApiError::invalid(&self.param, "unsupported_value", message))
            }
        }
    }

    /// Any JSON object.
    ///
    /// # Errors
    /// None is expected.
    pub fn any_object(names: &FieldNames) -> Result<Self, ApiError> {
        any_object(names.format)
    }

    /// JSON by a schema; without one any object.
    ///
    /// # Errors
    /// 400 where its name is none, or the schema cannot be enforced.
    pub fn named_schema(
        name: &str,
        schema: Option<&Value>,
        strict: Option<bool>,
        names: &FieldNames,
    ) -> Result<Self, ApiError> {
        check_name(names.schema_name, name)?;
        match schema {
            Some(schema) => of_schema(names.schema, schema, Enforcement::of(strict)),
            None => any_object(names.schema),
        }
    }

    /// What the fields that vLLM and llama-server have ask for, if anything, beside a `format`.
    ///
    /// # Errors
    /// 400 where a field is not valid, or two of them want something.
    pub fn of(shape: &Shape<'_>, format: Option<Self>) -> Result<Option<Self>, ApiError> {
        let mut all: Vec<Self> = format.into_iter().collect();
        if let Some(outputs) = shape.structured_outputs {
            all.extend(of_outputs(outputs)?);
        }
        for (param, schema) in
            [("guided_json", shape.guided_json), ("json_schema", shape.json_schema)]
        {
            all.extend(
                schema.map(|schema| of_schema(param, schema, Enforcement::Strict)).transpose()?,
            );
        }
        for (param, text) in [("guided_grammar", shape.guided_grammar), ("grammar", shape.grammar)]
        {
            all.extend(text.map(|text| of_grammar(param, text)).transpose()?);
        }
        all.extend(shape.guided_regex.map(|regex| of_regex("guided_regex", regex)));
        let choices = shape.guided_choice.map(|choices| of_choices("guided_choice", choices));
        all.extend(choices.transpose()?);
        if let [first, second, ..] = all.as_slice() {
            let message =
                format!("'{}' and '{}' cannot both shape the answer.", first.param, second.param);
            return Err(ApiError::invalid(&second.param, "invalid_value", message));
        }
        Ok(all.pop())
    }

    /// The grammar of a reply with this after its reasoning, if it may have reasoning.
    #[must_use]
    pub fn after_reasoning(self, expected: Option<&ExpectedReasoning>, vocab: &Vocab) -> Self {
        let Some(reasoning) = expected else { return self };
        let ReasoningFormat { open, close, after_close, content_prefix } = &reasoning.format;
        let control = |text: &str| vocab.control_at(text);
        // In channels, calls have a header of their own.
        let prefix =
            if self.of_tools { String::new() } else { lark_literal(content_prefix, &control) };
        let shaped = match &self.grammar {
            Grammar::JsonSchema(schema) => format!("%json {schema}"),
            Grammar::Regex(regex) => format!("/{}/", lark_regex(regex)),
            // A grammar of its own: neither its names nor what it ignores are those around it.
            Grammar::Lark(lark) => format!("%lark {{{lark}\n}}"),
        };
        let (open, after_close) =
            (lark_literal(open, &control), lark_literal(after_close, &control));
        // A control token is no text, so text goes up to it; another delimiter is one lexeme with the text.
        let (opened, rules) = match control(close) {
            Some(_) => {
                let close = lark_literal(close, &control);
                (format!("THOUGHT {close} {after_close} GAP?"), "THOUGHT: /(.|\\n)*/\n".to_owned())
            }
            None => {
                let closed = format!("closed[suffix={}]: /(.|\\n)*/\n", json!(close));
                (format!("closed {after_close} GAP?"), closed)
            }
        };
        let shaped_after = match reasoning.mode {
            ReasoningMode::Off => format!("{prefix} {shaped}"),
            ReasoningMode::Opened => format!("{opened} {prefix} {shaped}"),
            ReasoningMode::Possible => format!("({open} {opened})? {prefix} {shaped}"),
        };
        // The lines of a client's grammar keep their numbers, which messages name.
        let lark = format!("start: {shaped_after}\n{rules}GAP: /[ \\n]{{1,3}}/\n");
        let grammar = Grammar::Lark(lark.into());
        let after = |weaker: Box<Self>| Box::new(weaker.after_reasoning(Some(reasoning), vocab));
        Self { grammar, weaker: self.weaker.map(after), ..self }
    }

    /// Compiles it for the engine, or finds it compiled. It can take long: not for the reactor's threads.
    ///
    /// # Errors
    /// 400 where it cannot be enforced, 500 where the model's engine gives no answer.
    pub fn compile(self, engine: &Engine) -> Result<Compiled, ApiError> {
        let Self { param, grammar, not_enforced, weaker, .. } = self;
        match (engine.compile(&grammar)?, weaker) {
            (Ok(()), _) => Ok(Compiled { grammar, not_enforced }),
            (Err(_), Some(weaker)) => weaker.compile(engine),
            (Err(error), None) => Err(refused(&param, &error.to_string())),
        }
    }

    /// It, if the engine has it compiled.
    #[must_use]
    pub fn find_compiled(&self, engine: &Engine) -> Option<Compiled> {
        let Self { grammar, not_enforced, .. } = self;
        let compiled = engine.has_compiled(grammar);
        compiled.then(|| Compiled { grammar: grammar.clone(), not_enforced: *not_enforced })
    }

    /// Compiles it here. It takes plain data alone, up to a second, and up to 14 MB of stack: for a
    /// thread with 64 MB.
    ///
    /// # Errors
    /// 400 where it cannot be enforced.
    pub fn compile_by(self, grammars: &Grammars) -> Result<CompiledGrammar, ApiError> {
        let Self { param, grammar, .. } = self;
        grammars.compile(&grammar).map_err(|error| refused(&param, &error.to_string()))
    }
}

fn refused(param: &str, why: &str) -> ApiError {
    let message = format!("'{param}' cannot be enforced: {}.", why.trim_end_matches('.'));
    ApiError::invalid(param, "invalid_value", message)
}

/// What OpenAI lets schemas and tools be called.
pub(super) fn check_name(param: &str, name: &str) -> Result<(), ApiError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(fits) {
        return Ok(());
    }
    let message = format!(
        "'{param}' must be 1 to {MAX_NAME} letters, digits, '_' or '-', but is '{}'.",
        shown(name)
    );
    Err(ApiError::invalid(param, "invalid_value", message))
}

fn of_outputs(outputs: &StructuredOutputs) -> Result<Vec<Wanted>, ApiError> {
    let name = |field: &str| format!("structured_outputs.{field}");
    let mut all = Vec::new();
    if let Some(schema) = &outputs.json {
        all.push(of_schema(&name("json"), schema, Enforcement::Strict)?);
    }
    all.extend(outputs.regex.as_ref().map(|regex| of_regex(&name("regex"), regex)));
    if let Some(choices) = &outputs.choice {
        all.push(of_choices(&name("choice"), choices)?);
    }
    if let Some(text) = &outputs.grammar {
        all.push(of_grammar(&name("grammar"), text)?);
    }
    if outputs.json_object == Some(true) {
        all.push(any_object(&name("json_object"))?);
    }
    Ok(all)
}

fn any_object(param: &str) -> Result<Wanted, ApiError> {
    of_schema(param, &json!({"type": "object"}), Enforcement::Strict)
}

/// A schema, as an object or as JSON text.
fn of_schema(param: &str, schema: &Value, enforcement: Enforcement) -> Result<Wanted, ApiError> {
    let parsed;
    let schema = match schema {
        Value::String(text) => {
            parsed = serde_json::from_str(text)
                .map_err(|error| refused(param, &format!("it is not JSON: {error}")))?;
            &parsed
        }
        other => other,
    };
    let wanted = |enforcement| -> Result<Wanted, ApiError> {
        let enforceable = schema::enforceable(schema, enforcement);
        let enforceable = enforceable.map_err(|why| refused(param, &why))?;
        let not_enforced = enforceable.not_enforced;
        Ok(Wanted { not_enforced, ..Wanted::new(param, enforceable.grammar()) })
    };
    let weaker = enforcement.weaker().map(wanted).transpose()?;
    Ok(wanted(enforcement)?.or_weaker(weaker))
}

fn of_regex(param: &str, regex: &str) -> Wanted {
    Wanted::new(param, Grammar::Regex(regex.into()))
}

fn of_choices(param: &str, choices: &[String]) -> Result<Wanted, ApiError> {
    if choices.is_empty() || choices.len() > MAX_CHOICES {
        let message = format!("'{param}' must hold 1 to {MAX_CHOICES} texts.");
        return Err(ApiError::invalid(param, "invalid_value", message));
    }
    if let Some(at) = choices.iter().position(String::is_empty) {
        let message = "A choice cannot be empty.";
        return Err(ApiError::invalid(format!("{param}[{at}]"), "invalid_value", message));
    }
    let each: Vec<String> = choices.iter().map(|choice| escape_regex(choice)).collect();
    Ok(of_regex(param, &each.join("|")))
}

fn of_grammar(param: &str, text: &str) -> Result<Wanted, ApiError> {
    let lark = if text.contains("::=") {
        super::ebnf::to_lark(text).map_err(|why| refused(param, &why))?
    } else {
        text.to_owned()
    };
    let grammar = Grammar::Lark(lark.into());
    // One whose braces do not match would end the one that it may have to stand in.
    forebay_engine::check_source(&grammar).map_err(|error| refused(param, &error.to_string()))?;
    Ok(Wanted::new(param, grammar))
}

#[cfg(test)]
mod tests {
    use forebay_engine::scripted::{can_answer, vocab};

    use super::*;

    /// The grammar after reasoning that the prompt has opened.
    fn after_reasoning(wanted: Wanted) -> Grammar {
        let (open, close) = ("<think>".to_owned(), "</think>".to_owned());
        let format = ReasoningFormat { open, close, after_close: "", content_prefix: "" };
        let expected = ExpectedReasoning { format, mode: ReasoningMode::Opened };
        wanted.after_reasoning(Some(&expected), &vocab()).grammar
    }

    #[test]
    fn a_grammar_after_reasoning_is_the_one_that_was_sent() {
        for lark in [
            "start: \"yes\"",
            "# answer yes and/or no\nstart: \"yes\"",
            "# x \"start\" /\nstart: \"yes\" # \"",
            "// it's a/b\nstart: \"yes\" // start: /",
            "start: shaped closed GAP THOUGHT?\nshaped: \"y\"\nclosed: \"e\"\nGAP: \"s\"\nTHOUGHT: \"!\"\n",
            "start: start2\nstart2: start-x\nstart-x: /(yes|\\/start)/\n",
            "start: %lark {\n  start: a\n  a: \"yes\"\n}",
            "start: \"y\" %lark { start: closed\nclosed: \"es\"\n}\n",
            "start: a | \"}\" \"{\"\na: \"yes\"{1}\n",
            "?start: a\n!a: \"yes\"\n",
            "root ::= yes # \"/\nyes ::= \"yes\"",
        ] {
            let grammar = after_reasoning(of_grammar("grammar", lark).unwrap());
            assert_eq!(can_answer(&grammar, "Hm, so.</think>yes"), Ok(true), "{lark}");
            assert_eq!(can_answer(&grammar, "Hm, so.</think>start"), Ok(false), "{lark}");
        }
        // What it ignores is not ignored in reasoning.
        let spaced = of_grammar("grammar", "start: \"y\" \"es\"\n%ignore / /\n").unwrap();
        let grammar = after_reasoning(spaced);
        assert_eq!(can_answer(&grammar, "Hm,  so.</think>y  es"), Ok(true));
        for (regex, text) in [("a/b", "a/b"), ("(yes|no)", "no"), ("a|b", "b")] {
            let grammar = after_reasoning(of_regex("guided_regex", regex));
            assert_eq!(can_answer(&grammar, &format!("x</think>{text}")), Ok(true), "{regex}");
        }
    }

    #[test]
    fn no_grammar_ends_the_one_around_it() {
        for lark in [
            "start: \"a\"\n}\nTHOUGHTS: %lark {\nstart: \"b\"",
            "start: \"a\" } \"b\" %lark { start: \"c\"",
            "start: \"a\" # {\n}",
        ] {
            let error = of_grammar("guided_grammar", lark).unwrap_err();
            assert_eq!(error.param(), Some("guided_grammar"), "{lark}");
        }
    }

    #[test]
    fn messages_name_the_clients_lines() {
        let wanted = of_grammar("grammar", "start: \"a\"\n\nb: \"b\" )").unwrap();
        for grammar in [wanted.grammar.clone(), after_reasoning(wanted)] {
            let why = can_answer(&grammar, "").unwrap_err().to_string();
            assert!(why.contains("3(8)"), "{why}");
        }
    }

    #[test]
    fn no_regular_expression_ends_its_slashes() {
        for (regex, between) in [
            ("a/b", "a\\/b"),
            ("a\\/b", "a\\/b"),
            ("a\\\\/b", "a\\\\\\/b"),
            ("a\\", "a"),
            ("a\nb\\nc", "a\\nb\\nc"),
            ("\\d/\\\\", "\\d\\/\\\\"),
        ] {
            assert_eq!(lark_regex(regex), between, "{regex}");
        }
    }
}
