//! Values as programs write them: JSON, Python's literals, and mixtures, parsed one character at a time and returned as
//! JSON.

use serde_json::Value;

use crate::json_scanner::Unescape;

/// How deep brackets may nest.
const MAX_DEPTH: usize = 64;

/// A parser of one value. Strings stand in a format's own quotes, or in those of JSON and Python.
#[derive(Debug, Clone)]
pub(crate) struct LiteralParser {
    /// The format's quote if it is longer than a character.
    quote: Vec<char>,
    /// The brackets that close the open ones.
    open: Vec<char>,
    state: LiteralState,
    /// The value so far, as JSON.
    json: String,
}

#[derive(Debug, Clone)]
enum LiteralState {
    /// Before a value.
    Value,
    /// Before a value or the list's end.
    ValueOrClose,
    /// Before a key or the object's end.
    KeyOrClose,
    /// Within the long quote; `read` of its characters are read, and a value or key is expected at `place`.
    Quote { read: usize, place: Place },
    /// Within long quotes.
    Long { key: bool, text: String },
    /// Within quotes of one character.
    Text { key: bool, quote: char, unescape: Unescape, text: String },
    /// Within a word.
    Word { key: bool, text: String },
    /// Before a colon.
    Colon,
    /// Before a comma or a closing bracket.
    Next,
}

/// What is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Value,
    ValueOrClose,
    KeyOrClose,
}

/// The effect of a character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LiteralStep {
    /// The value continues.
    More,
    /// The value is complete, as JSON; `consumed` if the character belongs to it.
    Done { json: String, consumed: bool },
    /// The text is no value, or nests too deeply.
    Invalid,
}

impl LiteralParser {
    pub(crate) fn new(quote: &str) -> Self {
        let quote: Vec<char> = if quote.len() > 1 { quote.chars().collect() } else { Vec::new() };
        Self { quote, open: Vec::new(), state: LiteralState::Value, json: String::new() }
    }

    /// Reads the next character.
    pub(crate) fn step(&mut self, c: char) -> LiteralStep {
        match &mut self.state {
            LiteralState::Value => self.start(Place::Value, c),
            LiteralState::ValueOrClose => self.start(Place::ValueOrClose, c),
            LiteralState::KeyOrClose => self.start(Place::KeyOrClose, c),
            LiteralState::Quote { read, place } => {
                let (read, place) = (*read, *place);
                self.long_quote(read, place, c)
            }
            LiteralState::Long { key, text } => {
                text.push(c);
                let (quote, last) = (&self.quote, text.chars().rev());
                if !last.take(quote.len()).eq(quote.iter().rev().copied()) {
                    return LiteralStep::More;
                }
                let len: usize = quote.iter().map(|c| c.len_utf8()).sum();
                text.truncate(text.len() - len);
                let (key, text) = (*key, std::mem::take(text));
                self.complete_string(key, &text)
            }
            LiteralState::Text { key, quote, unescape, text } => {
                if c != *quote || unescape.is_escaped() {
                    unescape.step(c, text);
                    return LiteralStep::More;
                }
                unescape.finish(text);
                let (key, text) = (*key, std::mem::take(text));
                self.complete_string(key, &text)
            }
            LiteralState::Word { key: true, text } => {
                if c != ':' {
                    text.push(c);
                    return LiteralStep::More;
                }
                let key = std::mem::take(text);
                let _ = self.complete_string(true, key.trim_end());
                self.step(c)
            }
            LiteralState::Word { key: false, text } => {
                if !ends_word(c) {
                    text.push(c);
                    return LiteralStep::More;
                }
                let word = std::mem::take(text);
                self.push_comma();
                self.json.push_str(&word_json(&word));
                match self.close_value() {
                    LiteralStep::Done { json, .. } => LiteralStep::Done { json, consumed: false },
                    _ => self.step(c),
                }
            }
            LiteralState::Colon if c.is_whitespace() => LiteralStep::More,
            LiteralState::Colon if c == ':' => {
                self.json.push(':');
                self.state = LiteralState::Value;
                LiteralStep::More
            }
            LiteralState::Colon => LiteralStep::Invalid,
            LiteralState::Next => self.next(c),
        }
    }

    /// Reads the first character of a value, a key or an end.
    fn start(&mut self, place: Place, c: char) -> LiteralStep {
        if c.is_whitespace() {
            return LiteralStep::More;
        }
        if self.quote.first() == Some(&c) {
            self.state = LiteralState::Quote { read: 1, place };
            return LiteralStep::More;
        }
        self.start_without_long_quote(place, c)
    }

    /// [`Self::start`] if no long quote starts here.
    fn start_without_long_quote(&mut self, place: Place, c: char) -> LiteralStep {
        let key = place == Place::KeyOrClose;
        match (c, place) {
            (c, Place::ValueOrClose | Place::KeyOrClose) if self.open.last() == Some(&c) => {
                return self.close();
            }
            ('"' | '\'', _) => {
                let text = String::new();
                let unescape = Unescape::default();
                self.state = LiteralState::Text { key, quote: c, unescape, text };
            }
            ('[' | '(' | '{', Place::Value | Place::ValueOrClose) => return self.open(c),
            (':', Place::KeyOrClose) => return LiteralStep::Invalid,
            (c, Place::Value | Place::ValueOrClose) if ends_word(c) => return LiteralStep::Invalid,
            _ => self.state = LiteralState::Word { key, text: c.to_string() },
        }
        LiteralStep::More
    }

    fn long_quote(&mut self, read: usize, place: Place, c: char) -> LiteralStep {
        if self.quote.get(read) == Some(&c) {
            self.state = match read + 1 == self.quote.len() {
                true => LiteralState::Long { key: place == Place::KeyOrClose, text: String::new() },
                false => LiteralState::Quote { read: read + 1, place },
            };
            return LiteralStep::More;
        }
        // Not the quote: its characters are read again as something else.
        let again: Vec<char> = self.quote[..read].to_vec();
        let mut step = LiteralStep::More;
        for (count, c) in again.into_iter().chain([c]).enumerate() {
            if step != LiteralStep::More {
                return LiteralStep::Invalid;
            }
            step = if count == 0 { self.start_without_long_quote(place, c) } else { self.step(c) };
        }
        step
    }

    fn next(&mut self, c: char) -> LiteralStep {
        match c {
            c if c.is_whitespace() => LiteralStep::More,
            c if self.open.last() == Some(&c) => self.close(),
            ',' => {
                let object = self.open.last() == Some(&'}');
                self.state =
                    if object { LiteralState::KeyOrClose } else { LiteralState::ValueOrClose };
                LiteralStep::More
            }
            _ => LiteralStep::Invalid,
        }
    }

    fn open(&mut self, bracket: char) -> LiteralStep {
        if self.open.len() == MAX_DEPTH {
            return LiteralStep::Invalid;
        }
        self.push_comma();
        let (json, close, state) = match bracket {
            '{' => ('{', '}', LiteralState::KeyOrClose),
            '(' => ('[', ')', LiteralState::ValueOrClose),
            _ => ('[', ']', LiteralState::ValueOrClose),
        };
        self.json.push(json);
        self.open.push(close);
        self.state = state;
        LiteralStep::More
    }

    fn close(&mut self) -> LiteralStep {
        let object = self.open.pop() == Some('}');
        self.json.push(if object { '}' } else { ']' });
        self.close_value()
    }

    /// Appends a complete string.
    fn complete_string(&mut self, key: bool, text: &str) -> LiteralStep {
        self.push_comma();
        self.json.push_str(&json_string(text));
        if key {
            self.state = LiteralState::Colon;
            return LiteralStep::More;
        }
        self.close_value()
    }

    /// Ends a value; the outermost one is complete.
    fn close_value(&mut self) -> LiteralStep {
        self.state = LiteralState::Next;
        if self.open.is_empty() {
            return LiteralStep::Done { json: std::mem::take(&mut self.json), consumed: true };
        }
        LiteralStep::More
    }

    /// Appends the comma before another element.
    fn push_comma(&mut self) {
        if !self.json.is_empty() && !self.json.ends_with(['[', '{', ':']) {
            self.json.push(',');
        }
    }
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, ',' | ']' | '}' | ')')
}

fn word_json(word: &str) -> String {
    match word {
        "True" => "true".to_owned(),
        "False" => "false".to_owned(),
        "None" => "null".to_owned(),
        word => match serde_json::from_str::<Value>(word) {
            Ok(value) => value.to_string(),
            Err(_) => json_string(word),
        },
    }
}

/// A text as a JSON string.
pub(crate) fn json_string(text: &str) -> String {
    Value::from(text).to_string()
}

/// The whole of `text` as one literal, as JSON; `None` if it is none.
pub(crate) fn parse_literal(text: &str) -> Option<String> {
    let mut parser = LiteralParser::new("");
    let mut chars = text.chars().chain([',']).enumerate();
    let last = text.chars().count();
    chars.find_map(|(at, c)| match parser.step(c) {
        LiteralStep::More => None,
        LiteralStep::Done { json, consumed } => {
            Some((at + usize::from(consumed) == last).then_some(json))
        }
        LiteralStep::Invalid => Some(None),
    })?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// The value that the text starts with, and how many characters it has.
    fn read(text: &str, quote: &str) -> Option<(String, usize)> {
        let mut parser = LiteralParser::new(quote);
        for (at, c) in text.chars().enumerate() {
            match parser.step(c) {
                LiteralStep::More => {}
                LiteralStep::Done { json, consumed } => {
                    return Some((json, at + usize::from(consumed)));
                }
                LiteralStep::Invalid => return None,
            }
        }
        None
    }

    #[track_caller]
    fn check(text: &str, quote: &str, expected: &Value) {
        let count = text.chars().count() - 1;
        assert_eq!(read(text, quote), Some((expected.to_string(), count)), "{text}");
        for (at, _) in text.char_indices().take(count) {
            assert_eq!(read(&text[..at], quote), None, "{:?}", &text[..at]);
        }
    }

    #[test]
    fn literals_of_every_kind() {
        check("'it\\'s \\u00e9\\n',", "'", &json!("it's é\n"));
        check(
            "{'a': [1, -2.5e3, True], 'b': None, 'c': ('x', False)})",
            "'",
            &json!({"a": [1, -2.5e3, true], "b": null, "c": ["x", false]}),
        );
        let q = "<|\"|>";
        check(
            "{city:<|\"|>It's, {here}<|\"|>,days:[1,2],deep:{on:true,off:null}},",
            q,
            &json!({"city": "It's, {here}", "days": [1, 2], "deep": {"on": true, "off": null}}),
        );
        check("{\"a\": [\"b\", 1], \"c\": {}})", q, &json!({"a": ["b", 1], "c": {}}));
        check("7)", "'", &json!(7));
        check("plain}", q, &json!("plain"));
        check("<plain}", q, &json!("<plain"));
        check("'\\ud83d\\udc4b\u{3000}',", "'", &json!("👋\u{3000}"));
        assert_eq!(read("[1 2],", "'"), None);
        assert_eq!(read(",", "'"), None);
    }

    #[test]
    fn quotes_that_begin_like_something_else() {
        check("'''it's''',", "'''", &json!("it's"));
        check("'its',", "'''", &json!("its"));
        check("[[1]],", "[[|", &json!([[1]]));
        check("[\"\",\"a\"],", "\"\"\"", &json!(["", "a"]));
    }

    #[test]
    fn brackets_nest_to_a_limit() {
        let deep = |depth: usize| format!("{}{},", "[".repeat(depth), "]".repeat(depth));
        check(&deep(64), "'", &serde_json::from_str(deep(64).trim_end_matches(',')).unwrap());
        assert_eq!(read(&deep(65), "'"), None);
        assert_eq!(read(&"{a:".repeat(1_000_000), "'"), None);
    }

    #[test]
    fn literals_are_parsed_as_a_whole() {
        assert_eq!(parse_literal("{'a': True}").as_deref(), Some("{\"a\":true}"));
        assert_eq!(parse_literal("None").as_deref(), Some("null"));
        assert_eq!(parse_literal("[1] and"), None);
        assert_eq!(parse_literal("[1"), None);
        assert_eq!(parse_literal("a b"), None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_json(text in "([\\[\\](){}:,\"'\\\\<|> a1\u{3000}é]|True|None|<\\|\"\\|>){0,16}") {
            for quote in ["'", "<|\"|>", "'''", "[[\""] {
                if let Some((json, _)) = read(&text, quote) {
                    prop_assert!(serde_json::from_str::<Value>(&json).is_ok(), "{} {}", text, json);
                }
            }
            let _ = parse_literal(&text);
        }

        #[test]
        fn json_is_read_as_what_it_is(text in "[\\[{][\\[\\]{}:,\"\\\\a1 .n]{0,16}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let got = parse_literal(text.trim_end()).map(|json| serde_json::from_str::<Value>(&json).unwrap());
                prop_assert_eq!(got, Some(value));
            }
        }
    }
}
