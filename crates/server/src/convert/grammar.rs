//! Grammars of a reply's content: from the fields that constrain it to what the engine enforces.
//!
//! What cannot be enforced is refused, by the name of the field and of the keyword. A schema without
//! `strict` is enforced as far as possible, and the keywords that are not are noted.

use forebay_chat::{ReasoningFormat, ReasoningMode, lark_literal, lark_regex};
use forebay_engine::{Engine, Grammar, Vocab};
use forebay_protocol::structured::{OutputConstraints, StructuredOutputs};
use serde_json::Value;

use super::reasoning::ExpectedReasoning;
use super::schema::{self, Enforcement, NotEnforced};
use crate::conversation::fields::FieldNames;
use crate::error::{ApiError, shown};

const MAX_NAME: usize = 64;
const MAX_CHOICES: usize = 1024;

/// A grammar and the field that asks for it.
#[derive(Debug, Clone)]
pub struct OutputGrammar {
    param: String,
    grammar: Grammar,
    of_tools: bool,
    /// Keywords that its output may violate.
    not_enforced: NotEnforced,
    /// The grammar to use if the compiler refuses this one.
    weaker: Option<Box<Self>>,
}

/// A grammar that the engine has compiled, and the keywords that its output may violate.
#[derive(Debug, Clone)]
pub struct EnforcedGrammar {
    /// The grammar's source.
    pub grammar: Grammar,
    /// Keywords of its schemas that are not enforced.
    pub not_enforced: NotEnforced,
}

impl OutputGrammar {
    fn new(param: &str, grammar: Grammar) -> Self {
        let not_enforced = NotEnforced::default();
        Self { param: param.to_owned(), grammar, of_tools: false, not_enforced, weaker: None }
    }

    /// A grammar of tool calls.
    pub(super) fn of_tools(grammar: Grammar, not_enforced: NotEnforced) -> Self {
        Self { of_tools: true, not_enforced, ..Self::new("tools", grammar) }
    }

    /// Adds a grammar to use if the compiler refuses this one, unless it is the same.
    pub(super) fn or_weaker(self, weaker: Option<Self>) -> Self {
        let weaker = weaker.filter(|weaker| weaker.grammar != self.grammar);
        Self { weaker: weaker.map(Box::new), ..self }
    }

    /// The grammar to use if the compiler refuses this one.
    pub(super) fn weaker(&self) -> Option<&Self> {
        self.weaker.as_deref()
    }

    /// Keywords that its output may violate.
    pub(super) fn not_enforced(&self) -> NotEnforced {
        self.not_enforced
    }

    /// The grammar's source, for tests and fuzz targets.
    #[cfg(any(test, feature = "fuzzing"))]
    #[doc(hidden)]
    pub fn grammar(&self) -> &Grammar {
        &self.grammar
    }

    /// Its JSON Schema.
    ///
    /// # Errors
    /// 400 if it is not one: other grammars are not supported together with tools.
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
    /// 400 if its name is invalid, or the schema cannot be enforced.
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

    /// The grammar that vLLM's and llama-server's fields or `format` ask for, if any.
    ///
    /// # Errors
    /// 400 if a field is invalid, or two of them ask for a grammar.
    pub fn from_constraints(
        constraints: &OutputConstraints<'_>,
        format: Option<Self>,
    ) -> Result<Option<Self>, ApiError> {
        let mut all: Vec<Self> = format.into_iter().collect();
        if let Some(outputs) = constraints.structured_outputs {
            all.extend(of_structured_outputs(outputs)?);
        }
        for (param, schema) in
            [("guided_json", constraints.guided_json), ("json_schema", constraints.json_schema)]
        {
            all.extend(
                schema.map(|schema| of_schema(param, schema, Enforcement::Strict)).transpose()?,
            );
        }
        for (param, text) in
            [("guided_grammar", constraints.guided_grammar), ("grammar", constraints.grammar)]
        {
            all.extend(text.map(|text| of_grammar(param, text)).transpose()?);
        }
        all.extend(constraints.guided_regex.map(|regex| of_regex("guided_regex", regex)));
        let choices = constraints.guided_choice.map(|choices| of_choices("guided_choice", choices));
        all.extend(choices.transpose()?);
        if let [first, second, ..] = all.as_slice() {
            let message = format!(
                "'{}' and '{}' cannot both constrain the output.",
                first.param, second.param
            );
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
        let content = match &self.grammar {
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
                (
                    format!("REASONING {close} {after_close} GAP?"),
                    "REASONING: /(.|\\n)*/\n".to_owned(),
                )
            }
            None => {
                let close = Value::from(close.as_str());
                let closed = format!("closed[suffix={close}]: /(.|\\n)*/\n");
                (format!("closed {after_close} GAP?"), closed)
            }
        };
        let reply = match reasoning.mode {
            ReasoningMode::Off => format!("{prefix} {content}"),
            ReasoningMode::Opened => format!("{opened} {prefix} {content}"),
            ReasoningMode::Possible => format!("({open} {opened})? {prefix} {content}"),
        };
        // The client's grammar stays on lines of its own: messages name their numbers.
        let lark = format!("start: {reply}\n{rules}GAP: /[ \\n]{{1,3}}/\n");
        let grammar = Grammar::Lark(lark.into());
        let after = |weaker: Box<Self>| Box::new(weaker.after_reasoning(Some(reasoning), vocab));
        Self { grammar, weaker: self.weaker.map(after), ..self }
    }

    /// Compiles it for the engine, or finds it compiled. It can take long, so it runs off the async runtime.
    ///
    /// # Errors
    /// 400 if it cannot be enforced, 500 if the model's engine does not answer.
    pub fn compile(self, engine: &Engine) -> Result<EnforcedGrammar, ApiError> {
        let Self { param, grammar, not_enforced, weaker, .. } = self;
        match (engine.compile(&grammar)?, weaker) {
            (Ok(()), _) => Ok(EnforcedGrammar { grammar, not_enforced }),
            (Err(_), Some(weaker)) => weaker.compile(engine),
            (Err(error), None) => Err(refused(&param, &error.to_string())),
        }
    }

    /// Looks it up among the engine's compiled grammars.
    #[must_use]
    pub fn find_compiled(&self, engine: &Engine) -> Option<EnforcedGrammar> {
        let Self { grammar, not_enforced, .. } = self;
        let compiled = engine.has_compiled(grammar);
        compiled.then(|| EnforcedGrammar { grammar: grammar.clone(), not_enforced: *not_enforced })
    }
}

fn refused(param: &str, why: &str) -> ApiError {
    let message = format!("'{param}' cannot be enforced: {}.", why.trim_end_matches('.'));
    ApiError::invalid(param, "invalid_value", message)
}

/// Checks the name of a schema or a tool against OpenAI's rule.
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

fn of_structured_outputs(outputs: &StructuredOutputs) -> Result<Vec<OutputGrammar>, ApiError> {
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

fn any_object(param: &str) -> Result<OutputGrammar, ApiError> {
    of_schema(param, &schema::any_object(), Enforcement::Strict)
}

/// A schema, as an object or as JSON text.
fn of_schema(
    param: &str,
    schema: &Value,
    enforcement: Enforcement,
) -> Result<OutputGrammar, ApiError> {
    let parsed;
    let schema = match schema {
        Value::String(text) => {
            parsed = serde_json::from_str(text)
                .map_err(|error| refused(param, &format!("it is not JSON: {error}")))?;
            &parsed
        }
        other => other,
    };
    let enforced = |enforcement| -> Result<OutputGrammar, ApiError> {
        let enforceable = schema::enforceable(schema, enforcement);
        let enforceable = enforceable.map_err(|why| refused(param, &why))?;
        let not_enforced = enforceable.not_enforced;
        Ok(OutputGrammar { not_enforced, ..OutputGrammar::new(param, enforceable.grammar()) })
    };
    let weaker = enforcement.weaker().map(enforced).transpose()?;
    Ok(enforced(enforcement)?.or_weaker(weaker))
}

fn of_regex(param: &str, regex: &str) -> OutputGrammar {
    OutputGrammar::new(param, Grammar::Regex(regex.into()))
}

fn of_choices(param: &str, choices: &[String]) -> Result<OutputGrammar, ApiError> {
    if choices.is_empty() || choices.len() > MAX_CHOICES {
        let message = format!("'{param}' must hold 1 to {MAX_CHOICES} texts.");
        return Err(ApiError::invalid(param, "invalid_value", message));
    }
    if let Some(at) = choices.iter().position(String::is_empty) {
        let message = "A choice cannot be empty.";
        return Err(ApiError::invalid(format!("{param}[{at}]"), "invalid_value", message));
    }
    let each: Vec<String> = choices.iter().map(|choice| regex_syntax::escape(choice)).collect();
    Ok(of_regex(param, &each.join("|")))
}

fn of_grammar(param: &str, text: &str) -> Result<OutputGrammar, ApiError> {
    let lark = if text.contains("::=") {
        super::ebnf::to_lark(text).map_err(|why| refused(param, &why))?
    } else {
        text.to_owned()
    };
    let grammar = Grammar::Lark(lark.into());
    // Unbalanced braces would end the grammar that this one may be nested in.
    forebay_engine::check_source(&grammar).map_err(|error| refused(param, &error.to_string()))?;
    Ok(OutputGrammar::new(param, grammar))
}

#[cfg(test)]
mod tests {
    use forebay_engine::scripted::{can_answer, vocab};

    use super::*;

    /// The grammar after reasoning that the prompt has opened.
    fn after_reasoning(grammar: OutputGrammar) -> Grammar {
        let (open, close) = ("<think>".to_owned(), "</think>".to_owned());
        let format = ReasoningFormat { open, close, after_close: "", content_prefix: "" };
        let expected = ExpectedReasoning { format, mode: ReasoningMode::Opened };
        grammar.after_reasoning(Some(&expected), &vocab()).grammar
    }

    #[test]
    fn a_grammar_after_reasoning_is_the_one_that_was_sent() {
        for lark in [
            "start: \"yes\"",
            "# answer yes and/or no\nstart: \"yes\"",
            "# x \"start\" /\nstart: \"yes\" # \"",
            "// it's a/b\nstart: \"yes\" // start: /",
            "start: shaped closed GAP REASONING?\nshaped: \"y\"\nclosed: \"e\"\nGAP: \"s\"\nREASONING: \"!\"\n",
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
            "start: \"a\"\n}\nREASONINGS: %lark {\nstart: \"b\"",
            "start: \"a\" } \"b\" %lark { start: \"c\"",
            "start: \"a\" # {\n}",
        ] {
            let error = of_grammar("guided_grammar", lark).unwrap_err();
            assert_eq!(error.param(), Some("guided_grammar"), "{lark}");
        }
    }

    #[test]
    fn messages_name_the_clients_lines() {
        let sent = of_grammar("grammar", "start: \"a\"\n\nb: \"b\" )").unwrap();
        for grammar in [sent.grammar.clone(), after_reasoning(sent)] {
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
