//! A scanner of JSON that classifies one character at a time, without recursion and without reading any text twice.
//!
//! Models write almost-JSON: bare words (`True`), keys without quotes, a comma before a closing bracket and line breaks
//! in strings are accepted; brackets that do not match are not.

/// How deep brackets may nest, as in `serde_json`.
const MAX_DEPTH: u32 = 128;

/// A scanner of one JSON value, an object or an array.
#[derive(Debug, Clone)]
pub(crate) struct JsonScanner {
    state: ScannerState,
    /// The number of open brackets.
    depth: u32,
    /// Whether each of them is an array, the innermost in the lowest bit.
    arrays: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScannerState {
    /// Before a value.
    Value,
    /// Before a value or the array's end.
    ValueOrClose,
    /// Before a key or the object's end.
    KeyOrClose,
    /// Before a colon.
    Colon,
    /// Before a comma or a closing bracket.
    Next,
    /// Within a string.
    Text { key: bool, escaped: bool },
    /// Within a word or a number.
    Bare { key: bool },
    /// After the value.
    End,
}

/// The class of a character.
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
    /// A character of a string, escapes included as they stand.
    Text { key: bool },
    /// A character of a word or a number.
    Bare { key: bool },
    /// A colon.
    Colon,
    /// A comma.
    Comma,
}

/// The character cannot follow, or nests too deeply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl JsonScanner {
    /// A scanner before a value.
    pub(crate) fn new() -> Self {
        Self { state: ScannerState::Value, depth: 0, arrays: 0 }
    }

    /// The number of open brackets.
    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// Whether the value is complete.
    pub(crate) fn is_done(&self) -> bool {
        self.state == ScannerState::End
    }

    /// Classifies the next character.
    ///
    /// # Errors
    /// [`Malformed`]; the scanner is of no use after that.
    pub(crate) fn step(&mut self, c: char) -> Result<Token, Malformed> {
        match self.state {
            ScannerState::Text { key, escaped } => return Ok(self.text(c, key, escaped)),
            ScannerState::Bare { key } if is_bare(c) => return Ok(Token::Bare { key }),
            ScannerState::Bare { key } => self.state = after_scalar(key),
            _ => {}
        }
        if c.is_whitespace() {
            return Ok(Token::Space);
        }
        match (self.state, c) {
            (ScannerState::Value | ScannerState::ValueOrClose, '{') => self.open(false),
            (ScannerState::Value | ScannerState::ValueOrClose, '[') => self.open(true),
            (ScannerState::Value | ScannerState::ValueOrClose, '"') => Ok(self.quote(false)),
            (ScannerState::KeyOrClose, '"') => Ok(self.quote(true)),
            (ScannerState::ValueOrClose, ']') => Ok(self.close()),
            (ScannerState::KeyOrClose, '}') => Ok(self.close()),
            (ScannerState::Next, ']') if self.in_array() => Ok(self.close()),
            (ScannerState::Next, '}') if self.in_object() => Ok(self.close()),
            (ScannerState::Next, ',') if self.depth > 0 => {
                let array = self.in_array();
                self.state =
                    if array { ScannerState::ValueOrClose } else { ScannerState::KeyOrClose };
                Ok(Token::Comma)
            }
            (ScannerState::Colon, ':') => {
                self.state = ScannerState::Value;
                Ok(Token::Colon)
            }
            (ScannerState::Value | ScannerState::ValueOrClose | ScannerState::KeyOrClose, c)
                if is_bare(c) =>
            {
                let key = self.state == ScannerState::KeyOrClose;
                self.state = ScannerState::Bare { key };
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
            self.state = after_scalar(key);
            return Token::Quote { key, opens: false };
        }
        self.state = ScannerState::Text { key, escaped: c == '\\' && !escaped };
        Token::Text { key }
    }

    fn quote(&mut self, key: bool) -> Token {
        self.state = ScannerState::Text { key, escaped: false };
        Token::Quote { key, opens: true }
    }

    fn open(&mut self, array: bool) -> Result<Token, Malformed> {
        if self.depth == MAX_DEPTH {
            return Err(Malformed);
        }
        self.depth += 1;
        self.arrays = self.arrays << 1 | u128::from(array);
        self.state = if array { ScannerState::ValueOrClose } else { ScannerState::KeyOrClose };
        Ok(Token::Open)
    }

    fn close(&mut self) -> Token {
        self.depth -= 1;
        self.arrays >>= 1;
        self.state = if self.depth == 0 { ScannerState::End } else { ScannerState::Next };
        Token::Close
    }
}

fn after_scalar(key: bool) -> ScannerState {
    if key { ScannerState::Colon } else { ScannerState::Next }
}

fn is_bare(c: char) -> bool {
    !c.is_whitespace() && !matches!(c, '{' | '}' | '[' | ']' | ',' | ':' | '"')
}

/// Decodes the escapes of a string one character at a time. An invalid escape becomes the character after the backslash,
/// or U+FFFD.
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
    /// After a backslash.
    Backslash,
    /// After `\u` and some of its digits.
    Code { digits: u8, code: u32 },
}

impl Unescape {
    /// Reads a character and appends what it completes.
    pub(crate) fn step(&mut self, c: char, out: &mut String) {
        match (self.state, c) {
            (Escape::None, '\\') => self.state = Escape::Backslash,
            (Escape::None, c) => self.push(c, out),
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
                self.push(c, out);
            }
            (Escape::Code { digits, code }, c) => match c.to_digit(16) {
                Some(digit) if digits == 3 => self.push_code(code << 4 | digit, out),
                Some(digit) => {
                    self.state = Escape::Code { digits: digits + 1, code: code << 4 | digit };
                }
                None => {
                    self.state = Escape::None;
                    self.push(char::REPLACEMENT_CHARACTER, out);
                    self.step(c, out);
                }
            },
        }
    }

    /// Whether the next character follows a backslash.
    pub(crate) fn is_escaped(&self) -> bool {
        matches!(self.state, Escape::Backslash)
    }

    /// Ends the string; an incomplete escape becomes U+FFFD.
    pub(crate) fn finish(&mut self, out: &mut String) {
        self.push_lone_surrogate(out);
        if !matches!(self.state, Escape::None) {
            out.push(char::REPLACEMENT_CHARACTER);
        }
        self.state = Escape::None;
    }

    fn push_code(&mut self, code: u32, out: &mut String) {
        self.state = Escape::None;
        match (self.high.take(), code) {
            (Some(high), 0xdc00..=0xdfff) => {
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (code - 0xdc00);
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (high, code) => {
                self.high = high;
                self.push_lone_surrogate(out);
                match code {
                    0xd800..=0xdbff => self.high = Some(code),
                    code => out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)),
                }
            }
        }
    }

    fn push(&mut self, c: char, out: &mut String) {
        self.push_lone_surrogate(out);
        out.push(c);
    }

    /// Appends U+FFFD for the first half of a pair without its second.
    fn push_lone_surrogate(&mut self, out: &mut String) {
        if self.high.take().is_some() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Valid `json` without white space between its tokens.
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
