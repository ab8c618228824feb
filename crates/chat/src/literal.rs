//! Values as programs spell them: JSON, Python's literals, and what lies between.

use serde_json::{Map, Value};

/// The value that a text begins with, and how long it is; texts stand in `quote`, or as in JSON or
/// Python. `None` where it is not all there, or none.
pub(crate) fn read(text: &str, quote: &str) -> Option<(Value, usize)> {
    let mut reader = Reader { text, at: 0, quote };
    let value = reader.value()?;
    Some((value, reader.at))
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    quote: &'t str,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// Passes `mark`, behind space.
    fn pass(&mut self, mark: &str) -> bool {
        let rest = self.rest().trim_start();
        let found = rest.starts_with(mark);
        if found {
            self.at = self.text.len() - rest.len() + mark.len();
        }
        found
    }

    fn value(&mut self) -> Option<Value> {
        if let Some(text) = self.quoted() {
            return text.map(Value::String);
        }
        for (open, close) in [("[", "]"), ("(", ")")] {
            if self.pass(open) {
                return self.list(close).map(Value::Array);
            }
        }
        if self.pass("{") {
            return self.object().map(Value::Object);
        }
        let word = self.word(|c| c.is_whitespace() || ",]})".contains(c))?;
        Some(match word {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::Null,
            word => serde_json::from_str(word).unwrap_or_else(|_| Value::String(word.to_owned())),
        })
    }

    /// A text in quotes, if one begins; nothing within, if it does not end.
    fn quoted(&mut self) -> Option<Option<String>> {
        if self.quote.len() > 1 && self.pass(self.quote) {
            let len = self.rest().find(self.quote);
            let text = len.map(|len| self.rest()[..len].to_owned());
            self.at += len.unwrap_or(0) + self.quote.len();
            return Some(text);
        }
        let quote = ["\"", "'"].into_iter().find(|quote| self.pass(quote))?;
        Some(self.escaped(quote))
    }

    /// A text up to `quote`; a backslash says what the next character means.
    fn escaped(&mut self, quote: &str) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                _ if quote.starts_with(c) => {
                    self.at += at + c.len_utf8();
                    return Some(text);
                }
                '\\' => match chars.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'u' => {
                        let digits: String =
                            (0..4).filter_map(|_| chars.next()).map(|d| d.1).collect();
                        let code = u32::from_str_radix(&digits, 16).ok();
                        text.push(code.and_then(char::from_u32).unwrap_or('\u{fffd}'));
                    }
                    other => text.push(other),
                },
                c => text.push(c),
            }
        }
        None
    }

    fn list(&mut self, close: &str) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        while !self.pass(close) {
            values.push(self.value()?);
            if !self.pass(",") && !self.rest().trim_start().starts_with(close) {
                return None;
            }
        }
        Some(values)
    }

    fn object(&mut self) -> Option<Map<String, Value>> {
        let mut members = Map::new();
        while !self.pass("}") {
            let key = match self.quoted() {
                Some(text) => text?,
                None => self.word(|c| c == ':')?.trim_end().to_owned(),
            };
            if !self.pass(":") {
                return None;
            }
            members.insert(key, self.value()?);
            if !self.pass(",") && !self.rest().trim_start().starts_with('}') {
                return None;
            }
        }
        Some(members)
    }

    /// What stands before a character that ends it; that has to be there.
    fn word(&mut self, ends: impl Fn(char) -> bool) -> Option<&'t str> {
        let rest = self.rest().trim_start();
        let word = &rest[..rest.find(ends)?];
        self.at = self.text.len() - rest.len() + word.len();
        (!word.is_empty()).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, quote: &str, expected: &Value) {
        assert_eq!(read(text, quote), Some((expected.clone(), text.len() - 1)), "{text}");
        for (at, _) in text.char_indices().take(text.chars().count() - 1) {
            let part = read(&text[..at], quote);
            assert_eq!(part, None, "{:?}", &text[..at]);
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
        assert_eq!(read("[1 2],", "'"), None);
        assert_eq!(read(",", "'"), None);
    }
}
