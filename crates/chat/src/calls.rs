//! Reads tool calls out of an answer's text as it grows.
//!
//! One pass: each reader keeps its place between pieces of text and goes on from there, so the result
//! does not depend on the pieces and the time is linear in the answer. What was emitted is final.
//! There are three states: text, in which the dialect's marker is looked for; a call
//! (`calls/object.rs`, `calls/named.rs`); and what stands between calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::dialect::Dialect;
use crate::pattern::{Alternatives, Choice};
use crate::text_buffer::{MarkerSearch, TextBuffer};

mod named;
mod object;
mod spelling;

use named::NamedCall;
pub(crate) use named::{LONGEST_KEY, is_text, without_breaks};
use object::ObjectCall;
use spelling::Spelling;

/// The bytes that are read again are at most this many times the answer's length.
const MOST_REREAD: usize = 4;

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Reasoning, where answers are messages in channels.
    Thought(String),
    /// Text that is no call.
    Text(String),
    /// A call begins.
    Call {
        /// Its number, from 0.
        index: u32,
        /// The tool's name.
        name: String,
    },
    /// More of a call's arguments, as JSON text.
    Arguments {
        /// The call's number.
        index: u32,
        /// What is added.
        text: String,
    },
}

/// A reader of one answer.
#[derive(Debug, Clone)]
pub struct CallReader {
    spelling: Arc<Spelling>,
    /// Whether what follows the first call is left out.
    only_one: bool,
    /// Text that is not emitted yet: of a call, or what may begin one.
    text: TextBuffer,
    /// White space before what may be a call; it is emitted only if there is no call.
    gap: String,
    state: State,
    /// Calls so far, the one being read aside.
    calls: u32,
    /// Whether the call being read is reported.
    reported: bool,
    /// Whether any text was emitted.
    spoke: bool,
    /// Bytes that were read again because they were no call after all.
    reread: usize,
}

#[derive(Debug, Clone)]
enum State {
    Text(MarkerSearch),
    /// A call that begins where the buffer does; `at` is how much of the buffer is read.
    Call {
        call: Box<Call>,
        at: usize,
    },
    /// Behind a call. Where something begins, the patterns that may match there, and how much of the
    /// buffer is read.
    After(Option<(Alternatives, usize)>),
}

/// A call that is being read.
#[derive(Debug, Clone)]
struct Call {
    form: Form,
    known: Known,
}

#[derive(Debug, Clone)]
enum Form {
    Object(ObjectCall),
    Named(NamedCall),
}

/// What is known of a call and not emitted yet.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The tool's name.
    name: Option<String>,
    /// Arguments, as JSON text.
    arguments: String,
}

/// What a character of a call leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The call goes on after reading the last `back` bytes again, the character's included.
    More { back: usize },
    /// The call is complete; the last `back` bytes do not belong to it, the character's included.
    End { back: usize },
    /// This character cannot follow: the text is no call, or no longer one.
    Broken,
}

impl CallReader {
    /// A reader of calls to `tools`: names, each with its parameters' schema. With `only_one` what
    /// follows the first call is left out.
    #[expect(clippy::needless_pass_by_value, reason = "callers hand over what a reader is made of")]
    pub fn new(dialect: Dialect, tools: Arc<BTreeMap<String, Value>>, only_one: bool) -> Self {
        Self {
            spelling: Arc::new(Spelling::new(&dialect, tools)),
            only_one,
            text: TextBuffer::default(),
            gap: String::new(),
            state: State::Text(MarkerSearch::default()),
            calls: 0,
            reported: false,
            spoke: false,
            reread: 0,
        }
    }

    /// How many calls there were.
    pub fn calls(&self) -> u32 {
        self.calls + u32::from(self.reported)
    }

    /// Reads more text and appends what it adds to the answer.
    pub fn push(&mut self, text: &str, out: &mut Vec<Part>) {
        self.text.push(text);
        self.read(false, out);
    }

    /// Signals the end of the answer and flushes what was held back.
    pub fn finish(&mut self, out: &mut Vec<Part>) {
        self.read(true, out);
        let cut_off = matches!(self.state, State::Call { .. }) && self.reported;
        let rest = std::mem::take(&mut self.gap) + &self.text.take_all();
        if !cut_off && !rest.is_empty() {
            let rest = if self.calls > 0 { rest.trim_end() } else { &rest };
            self.emit(rest.to_owned(), out);
        }
    }

    fn read(&mut self, last: bool, out: &mut Vec<Part>) {
        loop {
            let goes_on = match &self.state {
                State::Text(_) => self.read_text(last, out),
                State::Call { .. } => self.read_call(last, out),
                State::After(_) => self.read_after(last),
            };
            if !goes_on {
                return;
            }
        }
    }

    fn emit(&mut self, text: String, out: &mut Vec<Part>) {
        if !text.is_empty() {
            self.spoke = true;
            out.push(Part::Text(text));
        }
    }

    // === Text ===

    /// Emits text up to where a call begins, or may. Returns whether one begins.
    fn read_text(&mut self, last: bool, out: &mut Vec<Part>) -> bool {
        let State::Text(search) = &mut self.state else { return false };
        if self.spelling.marker.is_empty() {
            return self.read_unmarked(last, out);
        }
        let marker = self.spelling.marker.as_str();
        let found = search.search(self.text.rest(), marker);
        match found.marker {
            Some(at) => {
                let text = self.text.take(found.len);
                self.gap = self.text.take(at - found.len);
                self.emit(text, out);
                let body = self.spelling.marker.len();
                self.begin_call(body);
                true
            }
            None => {
                let len = if last { self.text.rest().len() } else { found.len };
                let text = self.text.take(len);
                self.emit(text, out);
                false
            }
        }
    }

    /// The same without a marker: calls are the whole answer.
    fn read_unmarked(&mut self, last: bool, out: &mut Vec<Part>) -> bool {
        if !self.spoke {
            let rest = self.text.rest();
            let space = rest.len() - rest.trim_start().len();
            let begins = rest[space..].starts_with(['{', '[']);
            self.gap.push_str(&self.text.take(space));
            if begins {
                self.begin_call(0);
                return true;
            }
            if self.text.rest().is_empty() && !last {
                return false;
            }
        }
        let text = std::mem::take(&mut self.gap) + &self.text.take_all();
        self.emit(text, out);
        false
    }

    // === A call ===

    /// A call begins where the buffer does; `body` is the length of the marker that announces it.
    fn begin_call(&mut self, body: usize) {
        let (form, at) = match self.spelling.object {
            true => (Form::Object(ObjectCall::default()), body),
            false => (Form::Named(NamedCall::new(&self.spelling)), 0),
        };
        self.state = State::Call { call: Box::new(Call { form, known: Known::default() }), at };
    }

    /// Reads more of a call. Returns whether it ended, or was none.
    fn read_call(&mut self, last: bool, out: &mut Vec<Part>) -> bool {
        let State::Call { call, at } = &mut self.state else { return false };
        let mut end = None;
        while let Some(c) = self.text.char_at(*at) {
            match call.step(&self.spelling, c) {
                Step::More { back } => *at = *at + c.len_utf8() - back,
                Step::End { back } => {
                    *at = *at + c.len_utf8() - back;
                    end = Some(*at);
                    break;
                }
                Step::Broken => return self.break_call(out),
            }
        }
        if last && end.is_none() {
            end = call.finish(&self.spelling).map(|back| *at - back);
        }
        self.report(out);
        if let Some(end) = end {
            self.text.consume(end);
            self.after_call();
            return true;
        }
        let State::Call { call, at } = &mut self.state else { return false };
        if self.reported && call.reads_once() {
            self.text.consume(std::mem::take(at));
        }
        false
    }

    /// Reports the call's name once it is known, and what there is of its arguments.
    fn report(&mut self, out: &mut Vec<Part>) {
        let State::Call { call, .. } = &mut self.state else { return };
        let index = self.calls;
        if let Some(name) = call.known.name.take() {
            self.reported = true;
            out.push(Part::Call { index, name });
        }
        if self.reported && !call.known.arguments.is_empty() {
            let text = std::mem::take(&mut call.known.arguments);
            out.push(Part::Arguments { index, text });
        }
    }

    fn after_call(&mut self) {
        self.reported = false;
        self.gap.clear();
        self.calls += 1;
        self.state = State::After(None);
    }

    /// The text is no call from here on: what was reported stands, what was not is text.
    fn break_call(&mut self, out: &mut Vec<Part>) -> bool {
        self.report(out);
        let State::Call { at, .. } = self.state else { return false };
        if self.reported {
            self.text.consume(at);
            self.after_call();
            return true;
        }
        let first = self.text.char_at(0).map_or(0, char::len_utf8);
        // A call may begin within what was taken for one. Reading again is bounded by the length of
        // the answer so far, or markers within markers would make it quadratic.
        let again = self.reread <= (self.text.consumed() + at).saturating_mul(MOST_REREAD);
        self.reread += if again { at } else { 0 };
        let text = self.text.take(if again { first } else { first.max(at) });
        let text = std::mem::take(&mut self.gap) + &text;
        self.emit(text, out);
        self.state = State::Text(MarkerSearch::default());
        true
    }

    // === Between calls ===

    /// Skips what stands between calls and behind them. Returns whether something else begins.
    fn read_after(&mut self, last: bool) -> bool {
        if self.only_one {
            self.text.clear();
            return false;
        }
        let spelling = Arc::clone(&self.spelling);
        let pattern = |which: usize| &spelling.after[which];
        let State::After(patterns) = &mut self.state else { return false };
        let mut patterns = patterns.take();
        loop {
            let (mut alternatives, mut at) = match patterns.take() {
                Some(patterns) => patterns,
                None => {
                    let rest = self.text.rest();
                    let kept = rest.trim_start_matches(|c| spelling.is_skipped(c));
                    self.text.consume(rest.len() - kept.len());
                    if self.text.rest().is_empty() {
                        return false;
                    }
                    (Alternatives::new(spelling.after.iter()), 0)
                }
            };
            let mut choice = Choice::Pending;
            while choice == Choice::Pending {
                let Some(c) = self.text.char_at(at) else { break };
                choice = alternatives.step(pattern, c);
                at += c.len_utf8();
            }
            if choice == Choice::Pending && last {
                choice = alternatives.finish(pattern);
            }
            match choice {
                Choice::Pending => {
                    self.state = State::After(Some((alternatives, at)));
                    return false;
                }
                Choice::Matched { which, back } if which < spelling.behind => {
                    self.text.consume(at - back);
                    continue;
                }
                Choice::Matched { back, .. } => self.begin_call(at - back),
                Choice::None if spelling.object && self.text.rest().starts_with('{') => {
                    self.begin_call(0);
                }
                Choice::None => self.state = State::Text(MarkerSearch::default()),
            }
            return true;
        }
    }
}

impl Call {
    fn step(&mut self, spelling: &Spelling, c: char) -> Step {
        match &mut self.form {
            Form::Object(call) => call.step(&mut self.known, spelling, c),
            Form::Named(call) => call.step(&mut self.known, spelling, c),
        }
    }

    /// Signals the end of the answer. Where that completes the call: how many of the bytes that were
    /// read do not belong to it.
    fn finish(&mut self, spelling: &Spelling) -> Option<usize> {
        match &mut self.form {
            Form::Object(_) => None,
            Form::Named(call) => call.finish(&mut self.known, spelling),
        }
    }

    /// Whether no text is read twice.
    fn reads_once(&self) -> bool {
        match &self.form {
            Form::Object(_) => true,
            Form::Named(call) => call.reads_once(),
        }
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
