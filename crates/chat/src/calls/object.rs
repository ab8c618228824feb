//! A call that is one JSON object, with the name in it.

use super::spelling::Spelling;
use super::{Known, Step};
use crate::json_scanner::{JsonScanner, Token, Unescape};

/// Bytes of a key that are kept; no key that matters has as many.
const LONGEST_KEY: usize = 16;

/// A call of the form `{"name": .., "arguments": ..}`, or OpenAI's, which has that within `function`.
///
/// The first name and the first arguments count.
#[derive(Debug, Clone, Default)]
pub(super) struct ObjectCall {
    /// `None` before the object.
    scanner: Option<JsonScanner>,
    /// Whether the members being read are those of `function`.
    within: bool,
    /// The key that is being read, or was.
    key: String,
    unescape: Unescape,
    role: Role,
    name: String,
    has_name: bool,
    has_arguments: bool,
}

/// What a member is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Role {
    #[default]
    Other,
    Name,
    Arguments,
    /// OpenAI's object around name and arguments.
    Function,
}

impl ObjectCall {
    pub(super) fn step(&mut self, known: &mut Known, spelling: &Spelling, c: char) -> Step {
        let Some(scanner) = &mut self.scanner else {
            return match c {
                '{' => {
                    let scanner = self.scanner.insert(JsonScanner::new());
                    scanner.step(c).map_or(Step::Broken, |_| Step::More { back: 0 })
                }
                c if c == '[' || c.is_whitespace() => Step::More { back: 0 },
                _ => Step::Broken,
            };
        };
        let nested = scanner.depth() > 1 + u32::from(self.within);
        let Ok(token) = scanner.step(c) else { return Step::Broken };
        if scanner.is_done() {
            if !self.has_name {
                return Step::Broken;
            }
            if !self.has_arguments {
                known.arguments.push_str("{}");
            }
            return Step::End { back: 0 };
        }
        if !nested {
            return self.member(known, spelling, token, c);
        }
        if self.role == Role::Arguments {
            known.arguments.push(c);
        }
        Step::More { back: 0 }
    }

    /// A character of the object that name and arguments stand in.
    fn member(&mut self, known: &mut Known, spelling: &Spelling, token: Token, c: char) -> Step {
        match token {
            Token::Space => {}
            Token::Comma => self.next_member(),
            Token::Colon => self.role = self.role(),
            Token::Quote { key: true, opens: true } => self.unescape = Unescape::default(),
            Token::Quote { key: true, opens: false } => self.unescape.finish(&mut self.key),
            Token::Text { key: true } if self.key.len() <= LONGEST_KEY => {
                self.unescape.step(c, &mut self.key);
            }
            Token::Bare { key: true } if self.key.len() <= LONGEST_KEY => self.key.push(c),
            Token::Text { key: true } | Token::Bare { key: true } => {}
            Token::Open if self.role == Role::Function && c == '{' => {
                self.within = true;
                self.next_member();
            }
            Token::Close => {
                self.within = false;
                self.next_member();
            }
            Token::Open | Token::Bare { key: false } => {
                if self.role == Role::Arguments {
                    known.arguments.push(c);
                }
            }
            Token::Quote { key: false, .. } | Token::Text { key: false } => {
                return self.string(known, spelling, token, c);
            }
        }
        Step::More { back: 0 }
    }

    /// A character of a member's value that is a string. Arguments in one are JSON within JSON.
    fn string(&mut self, known: &mut Known, spelling: &Spelling, token: Token, c: char) -> Step {
        let out = match self.role {
            Role::Name => &mut self.name,
            Role::Arguments => &mut known.arguments,
            Role::Other | Role::Function => return Step::More { back: 0 },
        };
        match token {
            Token::Quote { opens: true, .. } => self.unescape = Unescape::default(),
            Token::Quote { .. } => self.unescape.finish(out),
            _ => self.unescape.step(c, out),
        }
        if self.role == Role::Name {
            if self.name.len() > spelling.longest_name {
                return Step::Broken;
            }
            if token == (Token::Quote { key: false, opens: false }) {
                if !spelling.tools.contains_key(&self.name) {
                    return Step::Broken;
                }
                self.has_name = true;
                known.name = Some(std::mem::take(&mut self.name));
            }
        }
        Step::More { back: 0 }
    }

    fn next_member(&mut self) {
        self.key.clear();
        self.role = Role::Other;
    }

    /// What the member with the key just read is for.
    fn role(&mut self) -> Role {
        match self.key.as_str() {
            "name" | "tool_name" | "function_name" if !self.has_name => Role::Name,
            "arguments" | "parameters" | "args" | "input" if !self.has_arguments => {
                self.has_arguments = true;
                Role::Arguments
            }
            "function" if !self.within => Role::Function,
            _ => Role::Other,
        }
    }
}
