//! The cost of compiling a grammar in Lark's notation.
//!
//! Reads the notation as llguidance's lexer does (`lark/lexer.rs`), to find which rule names which. What cannot be read is
//! refused, so nothing is hidden from the count.

use std::collections::HashMap;

use serde_json::Value;

use super::limits::{Cost, MAX_LEVELS, MAX_NESTING, MAX_TERMINALS, MAX_UNITS, within};
use super::schema_cost;
use super::source::GrammarError;

/// Counts the cost of a grammar.
///
/// # Errors
/// [`GrammarError`] if it is above a limit, or if the text cannot be read.
pub(super) fn check(text: &str) -> Result<Cost, GrammarError> {
    let mut reader = Reader::new(text);
    while reader.step()? {}
    if reader.braces > 0 {
        return Err(GrammarError("a '{' is not closed".to_owned()));
    }
    reader.end_line();
    reader.spend(0)?;
    let Reader { rules, units, .. } = reader;
    within(longest_chain(&rules), MAX_LEVELS, "levels of nested rules and groups")?;
    let terminals = expanded(&rules);
    within(terminals, MAX_TERMINALS, "characters of terminals once their names are resolved")?;
    Ok(Cost { units })
}

/// A rule or a terminal.
#[derive(Debug, Default)]
struct Rule {
    /// Whether it is a terminal: its name is in capital letters.
    terminal: bool,
    /// Depth of nested brackets.
    depth: u32,
    /// Characters of its own literals and regular expressions.
    size: u64,
    /// The rules that it names, each as often as it does.
    names: Vec<usize>,
}

struct Reader<'a> {
    rest: &'a str,
    rules: Vec<Rule>,
    /// By scope and name: a grammar within a grammar has names of its own.
    known: HashMap<(usize, &'a str), usize>,
    /// The enclosing grammars, the outermost first: number, depth of the bracket, and enclosing rule.
    scopes: Vec<(usize, u32, usize)>,
    next_scope: usize,
    depth: u32,
    /// Open braces: the compiler looks only for these to find the end of a nested grammar.
    braces: u32,
    /// The rule that is being read.
    current: usize,
    /// Names since the start of the line, while a colon may still make the first one the name of a rule.
    line_names: Option<Vec<usize>>,
    units: u64,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            // The first stands for statements such as `%ignore`.
            rules: vec![Rule::default()],
            known: HashMap::new(),
            scopes: vec![(0, 0, 0)],
            next_scope: 1,
            depth: 0,
            braces: 0,
            current: 0,
            line_names: Some(Vec::new()),
            units: 0,
        }
    }

    /// Reads the next lexeme.
    fn step(&mut self) -> Result<bool, GrammarError> {
        let Some(first) = self.rest.chars().next() else { return Ok(false) };
        let rest = self.rest;
        let len = match first {
            '\n' => {
                self.end_line();
                1
            }
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' => self.literal('/', "imslux")?,
            '"' => self.literal('"', "i")?,
            '<' => special(rest)?,
            '%' => self.directive()?,
            '@' => {
                let end = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-');
                1 + rest[1..].find(end).unwrap_or(rest.len() - 1)
            }
            '(' | '[' | '{' => {
                self.braces += u32::from(first == '{');
                self.open()?;
                1
            }
            ')' | ']' | '}' => {
                if first == '}' {
                    let closed = || GrammarError("a '}' closes nothing".to_owned());
                    self.braces = self.braces.checked_sub(1).ok_or_else(closed)?;
                }
                self.close();
                1
            }
            ':' if rest.starts_with("::") => 2,
            ':' => {
                self.define();
                1
            }
            '|' => {
                // A line that starts with '|' continues the previous rule.
                if self.line_names.as_ref().is_some_and(Vec::is_empty) {
                    self.line_names = None;
                }
                1
            }
            c => match word(rest) {
                0 => c.len_utf8(),
                len => {
                    self.name(&rest[..len]);
                    len
                }
            },
        };
        self.rest = &self.rest[len..];
        Ok(true)
    }

    fn spend(&mut self, units: u64) -> Result<(), GrammarError> {
        self.units += units;
        within(self.units, MAX_UNITS, "symbols and schemas")
    }

    /// A string or a regular expression: its length with delimiters and flags.
    fn literal(&mut self, sign: char, flags: &str) -> Result<usize, GrammarError> {
        let mut escaped = false;
        for (at, c) in self.rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '\n' if sign == '"' => break,
                c if c == sign => {
                    self.rule().size += at as u64;
                    self.spend(1)?;
                    let rest = &self.rest[at + 1..];
                    let own = rest.len() - rest.trim_start_matches(|c| flags.contains(c)).len();
                    return Ok(at + 1 + own);
                }
                _ => {}
            }
        }
        Err(GrammarError(format!("a '{sign}' is not closed")))
    }

    /// `%json {...}` and others with JSON, `%lark {`, or a statement.
    fn directive(&mut self) -> Result<usize, GrammarError> {
        let with_json = ["%json", "%regex", "%llguidance"];
        let Some(name) = with_json.into_iter().find(|name| self.rest.starts_with(name)) else {
            if self.rest.starts_with("%lark") {
                return self.nested();
            }
            // Names in other directives are read as names.
            return Ok(1);
        };
        let mut values =
            serde_json::Deserializer::from_str(&self.rest[name.len()..]).into_iter::<Value>();
        let value = match values.next() {
            Some(Ok(value @ Value::Object(_))) => value,
            Some(Err(error)) => return Err(GrammarError(format!("after '{name}': {error}"))),
            _ => return Err(GrammarError(format!("a JSON object has to follow '{name}'"))),
        };
        let json_len = values.byte_offset();
        match name {
            "%json" => {
                let units = schema_cost::check(&value)?.units;
                self.spend(units)?;
            }
            _ => {
                self.rule().size += json_len as u64;
                self.spend(1)?;
            }
        }
        Ok(name.len() + json_len)
    }

    /// A grammar within the grammar.
    fn nested(&mut self) -> Result<usize, GrammarError> {
        let name = "%lark".len();
        let space =
            self.rest[name..].len() - self.rest[name..].trim_start_matches([' ', '\t']).len();
        if !self.rest[name + space..].starts_with('{') {
            return Err(GrammarError("a '{' has to follow '%lark'".to_owned()));
        }
        self.end_statement();
        self.braces += 1;
        self.open()?;
        self.scopes.push((self.next_scope, self.depth, self.current));
        self.next_scope += 1;
        self.line_names = Some(Vec::new());
        Ok(name + space + 1)
    }

    fn open(&mut self) -> Result<(), GrammarError> {
        self.depth += 1;
        within(u64::from(self.depth), u64::from(MAX_NESTING), "nested brackets")?;
        let depth = self.depth;
        let rule = self.rule();
        rule.depth = rule.depth.max(depth);
        Ok(())
    }

    fn close(&mut self) {
        let ends = |&mut (_, at, _): &mut (usize, u32, usize)| at > 0 && at == self.depth;
        if let Some((_, _, current)) = self.scopes.pop_if(ends) {
            self.end_statement();
            (self.current, self.line_names) = (current, None);
        }
        self.depth = self.depth.saturating_sub(1);
    }

    /// The rule that is being read, or the first one that the line names.
    fn rule(&mut self) -> &mut Rule {
        let begun = self.line_names.as_ref().and_then(|names| names.first().copied());
        let at = begun.unwrap_or(self.current);
        &mut self.rules[at]
    }

    fn name(&mut self, name: &'a str) {
        let scope = self.scopes.last().map_or(0, |&(scope, ..)| scope);
        let next = self.rules.len();
        let at = *self.known.entry((scope, name)).or_insert(next);
        if at == next {
            let terminal = name.trim_start_matches('_').starts_with(|c: char| c.is_uppercase());
            self.rules.push(Rule { terminal, ..Rule::default() });
        }
        self.units += 1;
        match &mut self.line_names {
            Some(names) => names.push(at),
            None => self.rules[self.current].names.push(at),
        }
    }

    /// A colon: the line defines what it names first. Its attributes may name others.
    fn define(&mut self) {
        let Some(names) = self.line_names.take() else { return };
        let mut names = names.into_iter();
        self.current = names.next().unwrap_or(0);
        self.rules[self.current].names.extend(names);
    }

    /// Ends a line that is no definition: its names belong to no rule, or to the enclosing one.
    fn end_statement(&mut self) {
        if let Some(names) = self.line_names.take() {
            self.rules[0].names.extend(names);
        }
    }

    fn end_line(&mut self) {
        self.end_statement();
        self.line_names = Some(Vec::new());
    }
}

/// Length of the name at the beginning of a text, 0 if there is none. A rule's name has small
/// letters and a terminal's capital ones, so `aB` is two names.
fn word(text: &str) -> usize {
    let front = usize::from(text.starts_with('_'));
    let rest = &text[front..];
    let length = |in_name: fn(&u8) -> bool| {
        front + rest.bytes().take_while(|b| in_name(b) || b"_-0123456789".contains(b)).count()
    };
    match rest.bytes().next() {
        Some(b'a'..=b'z') => length(u8::is_ascii_lowercase),
        Some(b'A'..=b'Z') => length(u8::is_ascii_uppercase),
        _ => 0,
    }
}

/// Length of a special token, `<...>`.
fn special(text: &str) -> Result<usize, GrammarError> {
    let end = text[1..].find(|c: char| c == '<' || c == '>' || c.is_whitespace());
    match end {
        Some(end) if end > 0 && text[1 + end..].starts_with('>') => Ok(end + 2),
        _ => Err(GrammarError("a '<' is not closed".to_owned())),
    }
}

/// Groups of rules that name one another, each group after all that it names (Tarjan's algorithm, with a list instead of
/// recursion). `follows` selects the names that count.
fn groups(rules: &[Rule], follows: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let (mut index, mut low) = (vec![NEW; rules.len()], vec![0; rules.len()]);
    let mut open = vec![false; rules.len()];
    let (mut stack, mut out, mut count) = (Vec::new(), Vec::new(), 0);
    for start in 0..rules.len() {
        let mut path: Vec<(usize, usize)> = Vec::new();
        if index[start] == NEW {
            path.push((start, 0));
        }
        while let Some((at, next)) = path.pop() {
            if next == 0 {
                (index[at], low[at], open[at]) = (count, count, true);
                count += 1;
                stack.push(at);
            }
            if let Some(&to) = rules[at].names.get(next) {
                path.push((at, next + 1));
                if !follows(at, to) {
                } else if index[to] == NEW {
                    path.push((to, 0));
                } else if open[to] {
                    low[at] = low[at].min(index[to]);
                }
                continue;
            }
            if let Some(&(parent, _)) = path.last() {
                low[parent] = low[parent].min(low[at]);
            }
            if low[at] == index[at] {
                let from = stack.iter().rposition(|&rule| rule == at).unwrap_or(0);
                let group = stack.split_off(from);
                group.iter().for_each(|&rule| open[rule] = false);
                out.push(group);
            }
        }
    }
    out
}

/// The most levels that the compiler descends: along the longest chain of rules, of which those
/// that name one another count all together.
fn longest_chain(rules: &[Rule]) -> u64 {
    let mut deepest = vec![0u64; rules.len()];
    for group in groups(rules, |_, _| true) {
        let own: u64 = group.iter().map(|&rule| u64::from(rules[rule].depth) + 1).sum();
        // Names within the group are still 0.
        let below = group.iter().flat_map(|&rule| &rules[rule].names).map(|&to| deepest[to]).max();
        let levels = own + below.unwrap_or(0);
        group.iter().for_each(|&rule| deepest[rule] = levels);
    }
    deepest.into_iter().max().unwrap_or(0)
}

/// Characters of all terminals, each with what it names in full.
fn expanded(rules: &[Rule]) -> u64 {
    let mut sizes = vec![0u64; rules.len()];
    let terminals = |from: usize, to: usize| rules[from].terminal && rules[to].terminal;
    for group in groups(rules, terminals) {
        for rule in group.into_iter().filter(|&rule| rules[rule].terminal) {
            let names = rules[rule].names.iter().filter(|&&to| rules[to].terminal);
            let below = names.fold(0u64, |sum, &to| sum.saturating_add(sizes[to]));
            sizes[rule] = rules[rule].size.saturating_add(below).saturating_add(1);
        }
    }
    sizes.into_iter().fold(0, u64::saturating_add)
}
