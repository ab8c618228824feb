//! The parser of a call that is one JSON object with the name in it.

use super::call_context::CallContext;
use super::step::{CallStep, PendingCall};
use crate::json_scanner::{JsonScanner, Token, Unescape};

/// Bytes of a key that are kept. No known key is as long.
const MAX_KNOWN_KEY: usize = 16;

/// Parses `{"name": .., "arguments": ..}`, or OpenAI's form, which has that within `function`. The first name and the
/// first arguments count.
#[derive(Debug, Clone, Default)]
pub(super) struct ObjectCall {
    /// `None` before the object.
    scanner: Option<JsonScanner>,
    /// Whether the members being read are those of `function`.
    in_function: bool,
    /// The last key, as far as it is read.
    key: String,
    unescape: Unescape,
    role: MemberRole,
    name: String,
    has_name: bool,
    has_arguments: bool,
}

/// The meaning of a member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum MemberRole {
    #[default]
    Other,
    Name,
    Arguments,
    /// OpenAI's object around name and arguments.
    Function,
}

impl ObjectCall {
    pub(super) fn step(
        &mut self,
        pending: &mut PendingCall,
        context: &CallContext,
        c: char,
    ) -> CallStep {
        let Some(scanner) = &mut self.scanner else {
            return match c {
                '{' => {
                    let scanner = self.scanner.insert(JsonScanner::new());
                    scanner.step(c).map_or(CallStep::Invalid, |_| CallStep::NEXT)
                }
                c if c == '[' || c.is_whitespace() => CallStep::NEXT,
                _ => CallStep::Invalid,
            };
        };
        let nested = scanner.depth() > 1 + u32::from(self.in_function);
        let Ok(token) = scanner.step(c) else { return CallStep::Invalid };
        if scanner.is_done() {
            if !self.has_name {
                return CallStep::Invalid;
            }
            if !self.has_arguments {
                pending.arguments.push_str("{}");
            }
            return CallStep::End { back: 0 };
        }
        if !nested {
            return self.member(pending, context, token, c);
        }
        if self.role == MemberRole::Arguments {
            pending.arguments.push(c);
        }
        CallStep::NEXT
    }

    /// Reads a character of the object that holds name and arguments.
    fn member(
        &mut self,
        pending: &mut PendingCall,
        context: &CallContext,
        token: Token,
        c: char,
    ) -> CallStep {
        match token {
            Token::Space => {}
            Token::Comma => self.start_member(),
            Token::Colon => self.role = self.member_role(),
            Token::Quote { key: true, opens: true } => self.unescape = Unescape::default(),
            Token::Quote { key: true, opens: false } => self.unescape.finish(&mut self.key),
            Token::Text { key: true } if self.key.len() <= MAX_KNOWN_KEY => {
                self.unescape.step(c, &mut self.key);
            }
            Token::Bare { key: true } if self.key.len() <= MAX_KNOWN_KEY => self.key.push(c),
            Token::Text { key: true } | Token::Bare { key: true } => {}
            Token::Open if self.role == MemberRole::Function && c == '{' => {
                self.in_function = true;
                self.start_member();
            }
            Token::Close => {
                self.in_function = false;
                self.start_member();
            }
            Token::Open | Token::Bare { key: false } => {
                if self.role == MemberRole::Arguments {
                    pending.arguments.push(c);
                }
            }
            Token::Quote { key: false, .. } | Token::Text { key: false } => {
                return self.string(pending, context, token, c);
            }
        }
        CallStep::NEXT
    }

    /// Reads a character of a member's string. Arguments in a string are JSON within JSON.
    fn string(
        &mut self,
        pending: &mut PendingCall,
        context: &CallContext,
        token: Token,
        c: char,
    ) -> CallStep {
        let out = match self.role {
            MemberRole::Name => &mut self.name,
            MemberRole::Arguments => &mut pending.arguments,
            MemberRole::Other | MemberRole::Function => return CallStep::NEXT,
        };
        match token {
            Token::Quote { opens: true, .. } => self.unescape = Unescape::default(),
            Token::Quote { .. } => self.unescape.finish(out),
            _ => self.unescape.step(c, out),
        }
        if self.role == MemberRole::Name {
            if self.name.len() > context.longest_name {
                return CallStep::Invalid;
            }
            if token == (Token::Quote { key: false, opens: false }) {
                if !context.tools.contains_key(&self.name) {
                    return CallStep::Invalid;
                }
                self.has_name = true;
                pending.name = Some(std::mem::take(&mut self.name));
            }
        }
        CallStep::NEXT
    }

    fn start_member(&mut self) {
        self.key.clear();
        self.role = MemberRole::Other;
    }

    /// The meaning of the member with the key just read.
    fn member_role(&mut self) -> MemberRole {
        match self.key.as_str() {
            "name" | "tool_name" | "function_name" if !self.has_name => MemberRole::Name,
            "arguments" | "parameters" | "args" | "input" if !self.has_arguments => {
                self.has_arguments = true;
                MemberRole::Arguments
            }
            "function" if !self.in_function => MemberRole::Function,
            _ => MemberRole::Other,
        }
    }
}
