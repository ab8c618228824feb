//! Reads JSON one character at a time and says what each character is.
//!
//! It keeps its place between characters, so text that comes in pieces is read once. The depth is a
//! counter: there is no recursion. jiter and other readers of partial JSON begin at the front of the
//! text each time, which is quadratic in a stream.
//!
//! Models write almost-JSON: bare words (`True`), keys without quotes, a comma before a closing
//! bracket and line breaks in strings are taken, and what does not nest is not.

/// How deep brackets may nest; `serde_json` reads no more either.
const DEEPEST: u32 = 128;

/// A scanner of one JSON value, an object or an array.
#[derive(Debug, Clone)]
pub(crate) struct JsonScanner {
    state: State,
    /// Brackets that are open.
    depth: u32,
    /// Which of them are arrays, the innermost in the lowest bit.
    arrays: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A value has to come.
    Value,
    /// A value or the array's end.
    ValueOrClose,
    /// A key or the object's end.
    KeyOrClose,
    /// A colon.
    Colon,
    /// A comma or a closing bracket.
    Next,
    /// Inside a string.
    Text { key: bool, escaped: bool },
    /// Inside a word or a number.
    Bare { key: bool },
    /// Behind the value.
    End,
}

/// What a character is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// White space between tokens.
    Space,
    /// An opening bracket.
    Open,
    /// A closing bracket.
    Close,
    /// The quote that begins or ends a string.
    Quote { key: bool, opens: bool },
    /// A character of a string, as it is spelled.
    Text { key: bool },
    /// A character of a word or a number.
    Bare { key: bool },
    /// A colon.
    Colon,
    /// A comma.
    Comma,
}

/// The text is not JSON from here on, or too deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl JsonScanner {
    /// A scanner in front of a value.
    pub(crate) fn new() -> Self {
        Self { state: State::Value, depth: 0, arrays: 0 }
    }

    /// How many brackets are open.
    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// Whether the value is complete.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::End
    }

    /// Reads the next character.
    pub(crate) fn step(&mut self, c: char) -> Result<Token, Malformed> {
        match self.state {
            State::Text { key, escaped } => return Ok(self.text(c, key, escaped)),
            State::Bare { key } if is_bare(c) => return Ok(Token::Bare { key }),
            State::Bare { key } => self.state = behind_scalar(key),
            _ => {}
        }
        if c.is_whitespace() {
            return Ok(Token::Space);
        }
        match (self.state, c) {
            (State::Value | State::ValueOrClose, '{') => self.open(false),
            (State::Value | State::ValueOrClose, '[') => self.open(true),
            (State::Value | State::ValueOrClose, '"') => Ok(self.quote(false)),
            (State::KeyOrClose, '"') => Ok(self.quote(true)),
            (State::ValueOrClose, ']') => Ok(self.close()),
            (State::KeyOrClose, '}') => Ok(self.close()),
            (State::Next, ']') if self.in_array() => Ok(self.close()),
            (State::Next, '}') if self.in_object() => Ok(self.close()),
            (State::Next, ',') if self.depth > 0 => {
                let array = self.in_array();
                self.state = if array { State::ValueOrClose } else { State::KeyOrClose };
                Ok(Token::Comma)
            }
            (State::Colon, ':') => {
                self.state = State::Value;
                Ok(Token::Colon)
            }
            (State::Value | State::ValueOrClose | State::KeyOrClose, c) if is_bare(c) => {
                let key = self.state == State::KeyOrClose;
                self.state = State::Bare { key };
                Ok(Token::Bare { key })
            }
            _ => Err(Malformed),
        }
    }

    fn in_array(&self) -> bool {
        self.depth > 0 && self.arrays & 1 == 1
    }

    fn in_object(&self) -> bool {
        self.depth > 0 && self.arrays & 1 == 0
    }

    fn text(&mut self, c: char, key: bool, escaped: bool) -> Token {
        if c == '"' && !escaped {
            self.state = behind_scalar(key);
            return Token::Quote { key, opens: false };
        }
        self.state = State::Text { key, escaped: c == '\\' && !escaped };
        Token::Text { key }
    }

    fn quote(&mut self, key: bool) -> Token {
        self.state = State::Text { key, escaped: false };
        Token::Quote { key, opens: true }
    }

    fn open(&mut self, array: bool) -> Result<Token, Malformed> {
        if self.depth == DEEPEST {
            return Err(Malformed);
        }
        self.depth += 1;
        self.arrays = self.arrays << 1 | u128::from(array);
        self.state = if array { State::ValueOrClose } else { State::KeyOrClose };
        Ok(Token::Open)
    }

    fn close(&mut self) -> Token {
        self.depth -= 1;
        self.arrays >>= 1;
        self.state = if self.depth == 0 { State::End } else { State::Next };
        Token::Close
    }
}

fn behind_scalar(key: bool) -> State {
    if key { State::Colon } else { State::Next }
}

fn is_bare(c: char) -> bool {
    !c.is_whitespace() && !matches!(c, '{' | '}' | '[' | ']' | ',' | ':' | '"')
}

/// Decodes the escapes of a string one character at a time. What is no valid escape becomes the
/// character behind the backslash, or U+FFFD.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unescape {
    state: Escape,
    /// The first half of a surrogate pair.
    high: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Escape {
    #[default]
    None,
    /// Behind a backslash.
    Backslash,
    /// Behind `\u` and some of its digits.
    Code { digits: u8, code: u32 },
}

impl Unescape {
    /// Reads a character; what it completes is appended.
    pub(crate) fn step(&mut self, c: char, out: &mut String) {
        match (self.state, c) {
            (Escape::None, '\\') => self.state = Escape::Backslash,
            (Escape::None, c) => self.append(c, out),
            (Escape::Backslash, 'u') => self.state = Escape::Code { digits: 0, code: 0 },
            (Escape::Backslash, c) => {
                self.state = Escape::None;
                let c = match c {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    c => c,
                };
                self.append(c, out);
            }
            (Escape::Code { digits, code }, c) => match c.to_digit(16) {
                Some(digit) if digits == 3 => self.code(code << 4 | digit, out),
                Some(digit) => {
                    self.state = Escape::Code { digits: digits + 1, code: code << 4 | digit };
                }
                None => {
                    self.state = Escape::None;
                    self.append(char::REPLACEMENT_CHARACTER, out);
                    self.step(c, out);
                }
            },
        }
    }

    /// Whether the next character follows a backslash.
    pub(crate) fn is_escaped(&self) -> bool {
        matches!(self.state, Escape::Backslash)
    }

    /// Ends the string; what was not complete becomes U+FFFD.
    pub(crate) fn finish(&mut self, out: &mut String) {
        self.lone(out);
        if !matches!(self.state, Escape::None) {
            out.push(char::REPLACEMENT_CHARACTER);
        }
        self.state = Escape::None;
    }

    fn code(&mut self, code: u32, out: &mut String) {
        self.state = Escape::None;
        match (self.high.take(), code) {
            (Some(high), 0xdc00..=0xdfff) => {
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (code - 0xdc00);
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (high, code) => {
                self.high = high;
                self.lone(out);
                match code {
                    0xd800..=0xdbff => self.high = Some(code),
                    code => out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)),
                }
            }
        }
    }

    fn append(&mut self, c: char, out: &mut String) {
        self.lone(out);
        out.push(c);
    }

    /// The first half of a pair stays alone.
    fn lone(&mut self, out: &mut String) {
        if self.high.take().is_some() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// `json`, which is valid, without white space between its tokens.
pub(crate) fn compact(json: &str) -> String {
    let (mut out, mut inside, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        if inside || !c.is_ascii_whitespace() {
            out.push(c);
        }
        inside = inside != (c == '"' && !escaped);
        escaped = inside && c == '\\' && !escaped;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many characters of the text are read, and whether a value ended there.
    fn scan(text: &str) -> (usize, bool) {
        let mut scanner = JsonScanner::new();
        for (count, c) in text.chars().enumerate() {
            if scanner.is_done() || scanner.step(c).is_err() {
                return (count, scanner.is_done());
            }
        }
        (text.chars().count(), scanner.is_done())
    }

    #[test]
    fn what_nests_is_read() {
        for text in ["{}", "[]", r#"{"a": [1, {"b": "]}\""}], "c": null}"#, "{a: True, }", "[1,]"] {
            assert_eq!(scan(text), (text.chars().count(), true), "{text}");
        }
        for (text, read) in [("{]", 1), ("[}", 1), ("{\"a\" 1", 5), ("[1 2", 3), ("{,", 1)] {
            assert_eq!(scan(text), (read, false), "{text}");
        }
        assert_eq!(scan(&"[".repeat(1000)), (128, false));
        let deep = format!("{}{}", "[".repeat(128), "]".repeat(128));
        assert_eq!(scan(&deep), (256, true));
    }

    #[test]
    fn escapes_are_decoded() {
        let decode = |text: &str| {
            let (mut unescape, mut out) = (Unescape::default(), String::new());
            text.chars().for_each(|c| unescape.step(c, &mut out));
            unescape.finish(&mut out);
            out
        };
        assert_eq!(decode(r#"a\n\"\\\u00e9\ud83d\udc4b\/"#), "a\n\"\\é👋/");
        assert_eq!(decode(r"\ud83dx\udc4b\u12"), "\u{fffd}x\u{fffd}\u{fffd}");
        assert_eq!(decode(r"\u12zz\"), "\u{fffd}zz\u{fffd}");
    }

    proptest! {
        #[test]
        fn all_that_serde_json_takes_is_read(text in "[\\[{][\\[\\]{}:,\"\\\\a1 .n\u{3000}é]{0,16}") {
            let valid = serde_json::from_str::<serde_json::Value>(&text);
            if let Ok(value) = valid {
                prop_assert_eq!(scan(text.trim_end()), (text.trim_end().chars().count(), true));
                let again = serde_json::from_str::<serde_json::Value>(&compact(&text));
                prop_assert_eq!(again.ok(), Some(value));
            }
        }

        #[test]
        fn strings_are_decoded_as_serde_json_does(text in "([a\\\\\"né]|\\\\n|\\\\u00e9|\\\\ud83d|\\\\udc4b){0,8}") {
            if let Ok(decoded) = serde_json::from_str::<String>(&format!("\"{text}\"")) {
                let (mut unescape, mut out) = (Unescape::default(), String::new());
                text.chars().for_each(|c| unescape.step(c, &mut out));
                unescape.finish(&mut out);
                prop_assert_eq!(out, decoded);
            }
        }
    }
}
