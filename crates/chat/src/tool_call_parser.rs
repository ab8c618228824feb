//! The parser of tool calls in a reply's text.
//!
//! It works in one pass: state machines for JSON, literals and delimiters continue with each piece of text where they
//! stopped. So the result does not depend on how the text is cut, the time is linear in its length, nesting is a
//! counter, and what was emitted is final. A parser of partial JSON such as jiter reads a whole buffer each time, which is
//! quadratic in a stream, and refuses the almost-JSON of models.
//!
//! There are three states: content, which is searched for the format's marker; a call (`object_call.rs`,
//! `named_call.rs`); and the text between calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::reply_part::ReplyPart;
use crate::text_buffer::{MarkerSearch, TextBuffer};
use crate::tool_call_format::ToolCallFormat;

mod call_context;
pub(crate) mod call_patterns;
mod named_call;
mod object_call;
mod pattern;
mod step;

use call_context::CallContext;
use call_patterns::CallPatterns;
use named_call::NamedCall;
use object_call::ObjectCall;
use pattern::{Choice, PatternSet};
use step::{CallStep, PendingCall};

/// Bytes that are read again, at most, as a multiple of the reply's length.
const MAX_REREAD: usize = 4;

/// Parses one reply while its text comes in.
#[derive(Debug, Clone)]
pub struct ToolCallParser {
    context: Arc<CallContext>,
    /// Whether all that follows the first call is dropped.
    only_one: bool,
    /// Text that is not emitted yet: of a call, or what may be the beginning of one.
    text: TextBuffer,
    /// White space before what may be a call. It is emitted only if there is no call.
    gap: String,
    state: ParserState,
    /// Calls that are complete.
    complete_calls: u32,
    /// Whether the call being read is emitted already, in part.
    is_call_emitted: bool,
    /// Whether any content was emitted.
    has_content: bool,
    /// Bytes that were read again because they were no call after all, all together.
    reread: usize,
}

#[derive(Debug, Clone)]
enum ParserState {
    Content(MarkerSearch),
    /// In a call that starts where the buffer does; `at` bytes of the buffer are read.
    Call {
        call: Box<OpenCall>,
        at: usize,
    },
    /// After a call. Within a delimiter: the patterns that may match, and how many bytes of the buffer are read.
    After(Option<(PatternSet, usize)>),
}

/// The call being read.
#[derive(Debug, Clone)]
struct OpenCall {
    parser: CallParser,
    pending: PendingCall,
}

#[derive(Debug, Clone)]
enum CallParser {
    Object(ObjectCall),
    Named(NamedCall),
}

impl ToolCallParser {
    /// A parser of calls to `tools`: names, each with its parameters' schema. With `only_one` all that follows the
    /// first call is dropped. The parsers of a request's replies are clones: they share the tools.
    ///
    /// [`ChatTemplate::tool_call_parser`](crate::ChatTemplate::tool_call_parser) does so without work on the format.
    pub fn new(
        format: &ToolCallFormat,
        tools: Arc<BTreeMap<String, Value>>,
        only_one: bool,
    ) -> Self {
        Self::with_patterns(Arc::new(CallPatterns::new(format)), tools, only_one)
    }

    /// [`Self::new`] with the patterns of the format.
    pub(crate) fn with_patterns(
        patterns: Arc<CallPatterns>,
        tools: Arc<BTreeMap<String, Value>>,
        only_one: bool,
    ) -> Self {
        Self {
            context: Arc::new(CallContext::new(patterns, tools)),
            only_one,
            text: TextBuffer::default(),
            gap: String::new(),
            state: ParserState::Content(MarkerSearch::default()),
            complete_calls: 0,
            is_call_emitted: false,
            has_content: false,
            reread: 0,
        }
    }

    /// The number of calls so far, one that is not complete included.
    pub fn call_count(&self) -> u32 {
        self.complete_calls + u32::from(self.is_call_emitted)
    }

    /// Reads more text and appends what it adds to the reply.
    pub fn push(&mut self, text: &str, out: &mut Vec<ReplyPart>) {
        self.text.push(text);
        self.advance(false, out);
    }

    /// Signals the end of the reply and flushes held text.
    pub fn finish(&mut self, out: &mut Vec<ReplyPart>) {
        self.advance(true, out);
        let cut_off = matches!(self.state, ParserState::Call { .. }) && self.is_call_emitted;
        let rest = std::mem::take(&mut self.gap) + &self.text.take_all();
        if !cut_off && !rest.is_empty() {
            let rest = if self.complete_calls > 0 { rest.trim_end() } else { &rest };
            self.emit_content(rest.to_owned(), out);
        }
    }

    /// Reads the buffer as far as possible; `last` if no more text follows.
    fn advance(&mut self, last: bool, out: &mut Vec<ReplyPart>) {
        loop {
            let changed = match &self.state {
                ParserState::Content(_) => self.read_content(last, out),
                ParserState::Call { .. } => self.read_call(last, out),
                ParserState::After(_) => self.read_after(last),
            };
            if !changed {
                return;
            }
        }
    }

    fn emit_content(&mut self, text: String, out: &mut Vec<ReplyPart>) {
        if !text.is_empty() {
            self.has_content = true;
            out.push(ReplyPart::Content(text));
        }
    }

    // === Content ===

    /// Emits content up to where a call starts, or may start. Returns whether one starts.
    fn read_content(&mut self, last: bool, out: &mut Vec<ReplyPart>) -> bool {
        let ParserState::Content(search) = &mut self.state else { return false };
        if self.context.patterns.marker.is_empty() {
            return self.read_unmarked(last, out);
        }
        let marker = self.context.patterns.marker.as_str();
        let found = search.search(self.text.rest(), marker);
        match found.marker {
            Some(at) => {
                let text = self.text.take(found.len);
                self.gap = self.text.take(at - found.len);
                self.emit_content(text, out);
                let marker_len = self.context.patterns.marker.len();
                self.start_call(marker_len);
                true
            }
            None => {
                let len = if last { self.text.rest().len() } else { found.len };
                let text = self.text.take(len);
                self.emit_content(text, out);
                false
            }
        }
    }

    /// [`Self::read_content`] for formats without a marker: calls are the whole reply.
    fn read_unmarked(&mut self, last: bool, out: &mut Vec<ReplyPart>) -> bool {
        if !self.has_content {
            let rest = self.text.rest();
            let space = rest.len() - rest.trim_start().len();
            let is_call = rest[space..].starts_with(['{', '[']);
            self.gap.push_str(&self.text.take(space));
            if is_call {
                self.start_call(0);
                return true;
            }
            if self.text.rest().is_empty() && !last {
                return false;
            }
        }
        let text = std::mem::take(&mut self.gap) + &self.text.take_all();
        self.emit_content(text, out);
        false
    }

    // === A call ===

    /// Starts a call where the buffer starts, with a marker of `marker_len` bytes.
    fn start_call(&mut self, marker_len: usize) {
        let (parser, at) = match self.context.patterns.is_json_object {
            true => (CallParser::Object(ObjectCall::default()), marker_len),
            false => (CallParser::Named(NamedCall::new(&self.context)), 0),
        };
        let call = Box::new(OpenCall { parser, pending: PendingCall::default() });
        self.state = ParserState::Call { call, at };
    }

    /// Reads more of the call. Returns whether it ended, or turned out to be none.
    fn read_call(&mut self, last: bool, out: &mut Vec<ReplyPart>) -> bool {
        let ParserState::Call { call, at } = &mut self.state else { return false };
        let mut end = None;
        while let Some(c) = self.text.char_at(*at) {
            match call.step(&self.context, c) {
                CallStep::More { back } => *at = *at + c.len_utf8() - back,
                CallStep::End { back } => {
                    *at = *at + c.len_utf8() - back;
                    end = Some(*at);
                    break;
                }
                CallStep::Invalid => return self.abandon_call(out),
            }
        }
        if last && end.is_none() {
            end = call.finish(&self.context).map(|back| *at - back);
        }
        self.emit_pending(out);
        if let Some(end) = end {
            self.text.consume(end);
            self.complete_call();
            return true;
        }
        let ParserState::Call { call, at } = &mut self.state else { return false };
        if self.is_call_emitted && call.reads_once() {
            self.text.consume(std::mem::take(at));
        }
        false
    }

    /// Emits the call's name once it is known, and its pending arguments.
    fn emit_pending(&mut self, out: &mut Vec<ReplyPart>) {
        let ParserState::Call { call, .. } = &mut self.state else { return };
        let index = self.complete_calls;
        if let Some(name) = call.pending.name.take() {
            self.is_call_emitted = true;
            out.push(ReplyPart::ToolCall { index, name });
        }
        if self.is_call_emitted && !call.pending.arguments.is_empty() {
            let text = std::mem::take(&mut call.pending.arguments);
            out.push(ReplyPart::Arguments { index, text });
        }
    }

    fn complete_call(&mut self) {
        self.is_call_emitted = false;
        self.gap.clear();
        self.complete_calls += 1;
        self.state = ParserState::After(None);
    }

    /// Ends a call at text that no call can have: what was emitted stands, all else is content.
    fn abandon_call(&mut self, out: &mut Vec<ReplyPart>) -> bool {
        self.emit_pending(out);
        let ParserState::Call { at, .. } = self.state else { return false };
        if self.is_call_emitted {
            self.text.consume(at);
            self.complete_call();
            return true;
        }
        let first = self.text.char_at(0).map_or(0, char::len_utf8);
        // A call may start within what was taken for one. Reading again is bounded by the length of the reply so far,
        // or markers within markers would make it quadratic.
        let again = self.reread <= (self.text.consumed() + at).saturating_mul(MAX_REREAD);
        self.reread += if again { at } else { 0 };
        let text = self.text.take(if again { first } else { first.max(at) });
        let text = std::mem::take(&mut self.gap) + &text;
        self.emit_content(text, out);
        self.state = ParserState::Content(MarkerSearch::default());
        true
    }

    // === Between calls ===

    /// Skips the delimiters between and after calls. Returns whether a call or content starts.
    fn read_after(&mut self, last: bool) -> bool {
        if self.only_one {
            self.text.clear();
            return false;
        }
        let patterns = Arc::clone(&self.context.patterns);
        let pattern = |which: usize| &patterns.after[which];
        let ParserState::After(delimiter) = &mut self.state else { return false };
        let mut delimiter = delimiter.take();
        loop {
            let (mut possible, mut at) = match delimiter.take() {
                Some(delimiter) => delimiter,
                None => {
                    let rest = self.text.rest();
                    let kept = rest.trim_start_matches(|c| patterns.is_skipped(c));
                    self.text.consume(rest.len() - kept.len());
                    if self.text.rest().is_empty() {
                        return false;
                    }
                    (PatternSet::new(patterns.after.iter()), 0)
                }
            };
            let mut choice = Choice::Pending;
            while choice == Choice::Pending {
                let Some(c) = self.text.char_at(at) else { break };
                choice = possible.step(pattern, c);
                at += c.len_utf8();
            }
            if choice == Choice::Pending && last {
                choice = possible.finish(pattern);
            }
            match choice {
                Choice::Pending => {
                    self.state = ParserState::After(Some((possible, at)));
                    return false;
                }
                Choice::Matched { which, back } if which < patterns.end_count => {
                    self.text.consume(at - back);
                    continue;
                }
                Choice::Matched { back, .. } => self.start_call(at - back),
                Choice::None if patterns.is_json_object && self.text.rest().starts_with('{') => {
                    self.start_call(0);
                }
                Choice::None => self.state = ParserState::Content(MarkerSearch::default()),
            }
            return true;
        }
    }
}

impl OpenCall {
    fn step(&mut self, context: &CallContext, c: char) -> CallStep {
        match &mut self.parser {
            CallParser::Object(call) => call.step(&mut self.pending, context, c),
            CallParser::Named(call) => call.step(&mut self.pending, context, c),
        }
    }

    /// Signals the end of the reply. If that completes the call, returns how many of the bytes read do not belong to
    /// it.
    fn finish(&mut self, context: &CallContext) -> Option<usize> {
        match &mut self.parser {
            CallParser::Object(_) => None,
            CallParser::Named(call) => call.finish(&mut self.pending, context),
        }
    }

    /// Whether no text of the call is read again.
    fn reads_once(&self) -> bool {
        match &self.parser {
            CallParser::Object(_) => true,
            CallParser::Named(call) => call.reads_once(),
        }
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
