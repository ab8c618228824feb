//! Values as programs spell them: JSON, Python's literals, and what lies between, read one character
//! at a time and written as JSON.

use serde_json::Value;

use crate::json_scanner::Unescape;

/// How deep brackets may nest.
const DEEPEST: usize = 64;

/// A reader of one value. Strings stand in the dialect's quotes, or as in JSON or Python.
#[derive(Debug, Clone)]
pub(crate) struct LiteralReader {
    /// The dialect's quote, where that is longer than a character.
    quote: Vec<char>,
    /// The brackets that close what is open.
    open: Vec<char>,
    state: State,
    /// The value so far, as JSON.
    json: String,
}

#[derive(Debug, Clone)]
enum State {
    /// A value has to come.
    Value,
    /// A value or the list's end.
    ValueOrClose,
    /// A key or the object's end.
    KeyOrClose,
    /// This many characters of the long quote stand in front of `place`.
    Quote { read: usize, place: Place },
    /// Inside long quotes.
    Long { key: bool, text: String },
    /// Inside quotes of one character.
    Text { key: bool, quote: char, unescape: Unescape, text: String },
    /// A word up to what ends it.
    Word { key: bool, text: String },
    /// A colon.
    Colon,
    /// A comma or a closing bracket.
    Next,
}

/// Where a value or a key begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Value,
    ValueOrClose,
    KeyOrClose,
}

/// What became of a character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LiteralStep {
    /// The value goes on.
    More,
    /// The value is complete, as JSON; `taken` if the character belongs to it.
    Done { json: String, taken: bool },
    /// This is no value, or too deep.
    Invalid,
}

impl LiteralReader {
    pub(crate) fn new(quote: &str) -> Self {
        let quote: Vec<char> = if quote.len() > 1 { quote.chars().collect() } else { Vec::new() };
        Self { quote, open: Vec::new(), state: State::Value, json: String::new() }
    }

    /// Reads the next character.
    pub(crate) fn step(&mut self, c: char) -> LiteralStep {
        match &mut self.state {
            State::Value => self.begin(Place::Value, c),
            State::ValueOrClose => self.begin(Place::ValueOrClose, c),
            State::KeyOrClose => self.begin(Place::KeyOrClose, c),
            State::Quote { read, place } => {
                let (read, place) = (*read, *place);
                self.long_quote(read, place, c)
            }
            State::Long { key, text } => {
                text.push(c);
                let (quote, last) = (&self.quote, text.chars().rev());
                if !last.take(quote.len()).eq(quote.iter().rev().copied()) {
                    return LiteralStep::More;
                }
                let len: usize = quote.iter().map(|c| c.len_utf8()).sum();
                text.truncate(text.len() - len);
                let (key, text) = (*key, std::mem::take(text));
                self.string(key, &text)
            }
            State::Text { key, quote, unescape, text } => {
                if c != *quote || unescape.is_escaped() {
                    unescape.step(c, text);
                    return LiteralStep::More;
                }
                unescape.finish(text);
                let (key, text) = (*key, std::mem::take(text));
                self.string(key, &text)
            }
            State::Word { key: true, text } => {
                if c != ':' {
                    text.push(c);
                    return LiteralStep::More;
                }
                let key = std::mem::take(text);
                let _ = self.string(true, key.trim_end());
                self.step(c)
            }
            State::Word { key: false, text } => {
                if !ends_word(c) {
                    text.push(c);
                    return LiteralStep::More;
                }
                let word = std::mem::take(text);
                self.separate();
                self.json.push_str(&word_json(&word));
                match self.close_value() {
                    LiteralStep::Done { json, .. } => LiteralStep::Done { json, taken: false },
                    _ => self.step(c),
                }
            }
            State::Colon if c.is_whitespace() => LiteralStep::More,
            State::Colon if c == ':' => {
                self.json.push(':');
                self.state = State::Value;
                LiteralStep::More
            }
            State::Colon => LiteralStep::Invalid,
            State::Next => self.next(c),
        }
    }

    /// Reads the character with which a value, a key or an end may begin.
    fn begin(&mut self, place: Place, c: char) -> LiteralStep {
        if c.is_whitespace() {
            return LiteralStep::More;
        }
        if self.quote.first() == Some(&c) {
            self.state = State::Quote { read: 1, place };
            return LiteralStep::More;
        }
        self.begin_short(place, c)
    }

    /// The same where no long quote stands.
    fn begin_short(&mut self, place: Place, c: char) -> LiteralStep {
        let key = place == Place::KeyOrClose;
        match (c, place) {
            (c, Place::ValueOrClose | Place::KeyOrClose) if self.open.last() == Some(&c) => {
                return self.close();
            }
            ('"' | '\'', _) => {
                let text = String::new();
                let unescape = Unescape::default();
                self.state = State::Text { key, quote: c, unescape, text };
            }
            ('[' | '(' | '{', Place::Value | Place::ValueOrClose) => return self.open(c),
            (':', Place::KeyOrClose) => return LiteralStep::Invalid,
            (c, Place::Value | Place::ValueOrClose) if ends_word(c) => return LiteralStep::Invalid,
            _ => self.state = State::Word { key, text: c.to_string() },
        }
        LiteralStep::More
    }

    fn long_quote(&mut self, read: usize, place: Place, c: char) -> LiteralStep {
        if self.quote.get(read) == Some(&c) {
            self.state = match read + 1 == self.quote.len() {
                true => State::Long { key: place == Place::KeyOrClose, text: String::new() },
                false => State::Quote { read: read + 1, place },
            };
            return LiteralStep::More;
        }
        // Not the quote: what it was taken for is read again as something else.
        let again: Vec<char> = self.quote[..read].to_vec();
        let mut step = LiteralStep::More;
        for (count, c) in again.into_iter().chain([c]).enumerate() {
            if step != LiteralStep::More {
                return LiteralStep::Invalid;
            }
            step = if count == 0 { self.begin_short(place, c) } else { self.step(c) };
        }
        step
    }

    fn next(&mut self, c: char) -> LiteralStep {
        match c {
            c if c.is_whitespace() => LiteralStep::More,
            c if self.open.last() == Some(&c) => self.close(),
            ',' => {
                let object = self.open.last() == Some(&'}');
                self.state = if object { State::KeyOrClose } else { State::ValueOrClose };
                LiteralStep::More
            }
            _ => LiteralStep::Invalid,
        }
    }

    fn open(&mut self, bracket: char) -> LiteralStep {
        if self.open.len() == DEEPEST {
            return LiteralStep::Invalid;
        }
        self.separate();
        let (json, close, state) = match bracket {
            '{' => ('{', '}', State::KeyOrClose),
            '(' => ('[', ')', State::ValueOrClose),
            _ => ('[', ']', State::ValueOrClose),
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

    /// A string is complete.
    fn string(&mut self, key: bool, text: &str) -> LiteralStep {
        self.separate();
        self.json.push_str(&json_string(text));
        if key {
            self.state = State::Colon;
            return LiteralStep::More;
        }
        self.close_value()
    }

    /// A value is complete.
    fn close_value(&mut self) -> LiteralStep {
        self.state = State::Next;
        if self.open.is_empty() {
            return LiteralStep::Done { json: std::mem::take(&mut self.json), taken: true };
        }
        LiteralStep::More
    }

    /// Writes the comma between what is there and what follows.
    fn separate(&mut self) {
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

/// The whole of `text` as one literal, as JSON.
pub(crate) fn whole(text: &str) -> Option<String> {
    let mut reader = LiteralReader::new("");
    let mut chars = text.chars().chain([',']).enumerate();
    let last = text.chars().count();
    chars.find_map(|(at, c)| match reader.step(c) {
        LiteralStep::More => None,
        LiteralStep::Done { json, taken } => {
            Some((at + usize::from(taken) == last).then_some(json))
        }
        LiteralStep::Invalid => Some(None),
    })?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// The value that the text begins with, and how many characters it has.
    fn read(text: &str, quote: &str) -> Option<(String, usize)> {
        let mut reader = LiteralReader::new(quote);
        for (at, c) in text.chars().enumerate() {
            match reader.step(c) {
                LiteralStep::More => {}
                LiteralStep::Done { json, taken } => return Some((json, at + usize::from(taken))),
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
    fn whole_literals() {
        assert_eq!(whole("{'a': True}").as_deref(), Some("{\"a\":true}"));
        assert_eq!(whole("None").as_deref(), Some("null"));
        assert_eq!(whole("[1] and"), None);
        assert_eq!(whole("[1"), None);
        assert_eq!(whole("a b"), None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_json(text in "([\\[\\](){}:,\"'\\\\<|> a1\u{3000}é]|True|None|<\\|\"\\|>){0,16}") {
            for quote in ["'", "<|\"|>", "'''", "[[\""] {
                if let Some((json, _)) = read(&text, quote) {
                    prop_assert!(serde_json::from_str::<Value>(&json).is_ok(), "{} {}", text, json);
                }
            }
            let _ = whole(&text);
        }

        #[test]
        fn json_is_read_as_what_it_is(text in "[\\[{][\\[\\]{}:,\"\\\\a1 .n]{0,16}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let got = whole(text.trim_end()).map(|json| serde_json::from_str::<Value>(&json).unwrap());
                prop_assert_eq!(got, Some(value));
            }
        }
    }
}
