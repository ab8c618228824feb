//! llama.cpp's EBNF (`root ::= "yes" | "no"`) to Lark's notation.
//!
//! Source: `grammars/README.md` of llama.cpp.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The longest source, in bytes. The result is up to seven times as long, and bounded again.
const MAX_BYTES: usize = 256 << 10;

/// A token of such a grammar.
#[derive(Debug, PartialEq)]
enum EbnfToken {
    /// `name ::=`
    Rule(String),
    Name(String),
    /// With its quotes.
    Literal(String),
    /// With its brackets.
    Class(String),
    /// `( ) | * + ? .` and repetitions in braces.
    Sign(String),
}

/// Converts a grammar to Lark's notation.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("it has {} bytes; the most is {MAX_BYTES}", text.len()));
    }
    let tokens = tokenize(text)?;
    let rules = tokens.iter().filter_map(|p| match p {
        EbnfToken::Rule(name) => Some(name.as_str()),
        _ => None,
    });
    // Lark's rules are in small letters, without dashes.
    let names: BTreeMap<&str, String> = (0..)
        .zip(rules)
        .map(|(i, name)| (name, if name == "root" { "start".to_owned() } else { format!("r{i}") }))
        .collect();
    if !names.contains_key("root") {
        return Err("it has no rule 'root'".to_owned());
    }
    let mut out = String::new();
    for token in &tokens {
        match token {
            EbnfToken::Rule(name) => write!(out, "\n{}:", names[name.as_str()]),
            EbnfToken::Name(name) => match names.get(name.as_str()) {
                Some(name) => write!(out, " {name}"),
                None => return Err(format!("it has no rule '{name}'")),
            },
            EbnfToken::Literal(text) => write!(out, " {text}"),
            EbnfToken::Class(class) => write!(out, " /{}/", class.replace('/', "\\/")),
            EbnfToken::Sign(sign) if sign == "." => write!(out, " /[\\s\\S]/"),
            EbnfToken::Sign(sign) if matches!(sign.as_str(), "(" | "|") => write!(out, " {sign}"),
            EbnfToken::Sign(sign) => write!(out, "{sign}"),
        }
        .map_err(|error| error.to_string())?;
    }
    out.push('\n');
    Ok(out.trim_start().to_owned())
}

fn tokenize(text: &str) -> Result<Vec<EbnfToken>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '"' => closing(rest, '"')?,
            '[' => closing(rest, ']')?,
            '{' => rest.find('}').ok_or("a '{' is not closed")? + 1,
            '(' | ')' | '|' | '*' | '+' | '?' | '.' => 1,
            c if is_name(c) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
            c => return Err(format!("unexpected '{c}'")),
        };
        let (token, after) = rest.split_at(len);
        rest = after.trim_start();
        let owned = token.to_owned();
        match first {
            '#' => {}
            '"' => tokens.push(EbnfToken::Literal(owned)),
            '[' => tokens.push(EbnfToken::Class(owned)),
            c if is_name(c) => match rest.strip_prefix("::=") {
                Some(after) => {
                    rest = after.trim_start();
                    tokens.push(EbnfToken::Rule(owned));
                }
                None => tokens.push(EbnfToken::Name(owned)),
            },
            _ => tokens.push(EbnfToken::Sign(owned)),
        }
    }
    Ok(tokens)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// Length of what begins here and ends with `end`, which a backslash can escape.
fn closing(text: &str, end: char) -> Result<usize, String> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == end => return Ok(at + 1),
            _ => {}
        }
    }
    Err(format!("a '{}' is not closed", text.chars().next().unwrap_or(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_rules() {
        let lark = to_lark(
            "# moves\nroot ::= move (\" \" move){1,3} .?\n\nmove ::= [a-h/] [1-8\\]]\n  | \"O-O\\\"\"",
        );
        let expected = "start: r1 ( \" \" r1){1,3} /[\\s\\S]/?\n\
                        r1: /[a-h\\/]/ /[1-8\\]]/ | \"O-O\\\"\"\n";
        assert_eq!(lark.unwrap(), expected);
    }

    #[test]
    fn errors_name_their_cause() {
        for (text, why) in [
            ("x ::= \"a\"", "no rule 'root'"),
            ("root ::= y", "no rule 'y'"),
            ("root ::= \"a", "not closed"),
            ("root ::= [a", "not closed"),
            ("root ::= <a>", "'<'"),
        ] {
            assert!(to_lark(text).unwrap_err().contains(why), "{text}");
        }
        let long = "root ::= \"a\" ".repeat(30_000);
        assert!(to_lark(&long).unwrap_err().contains("the most is"));
    }
}
