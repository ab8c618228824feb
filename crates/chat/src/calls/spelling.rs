//! What a dialect's pieces mean for the readers of calls: patterns, made once for each request.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::argument::{Kind, Kinds};
use crate::dialect::{Arguments, Dialect, Values};
use crate::pattern::Pattern;

/// What the readers of all answers to a request share.
#[derive(Debug)]
pub(super) struct Spelling {
    /// The tools' names, each with its parameters' schema.
    pub(super) tools: Arc<BTreeMap<String, Value>>,
    /// Length of the longest name.
    pub(super) longest_name: usize,
    /// Whether a call is one JSON object that holds the name.
    pub(super) object: bool,
    /// What announces calls.
    pub(super) marker: String,
    /// What may follow a call: first the patterns that end it or all calls, then those that begin the
    /// next call.
    pub(super) after: Vec<Pattern>,
    /// How many patterns of `after` are ends; the others begin a call.
    pub(super) behind: usize,
    /// What begins a call, up to its name.
    pub(super) begins: Vec<Pattern>,
    /// What may follow a name: first what stands there if there are no arguments, if that is known, then
    /// what stands before arguments.
    pub(super) middles: Vec<Pattern>,
    /// How many patterns of `middles` are for calls without arguments: 0 or 1.
    pub(super) bare: usize,
    /// How arguments are spelled that come one by one.
    pub(super) each: Option<Each>,
}

/// How arguments are spelled that come one by one.
#[derive(Debug)]
pub(super) struct Each {
    /// What ends a key.
    pub(super) key_end: String,
    /// What ends the word for the kind of a value, and the word for texts.
    pub(super) kind: Option<(String, String)>,
    /// By tool: how arguments are spelled, where their schemas alone say that.
    kinds: HashMap<String, Kinds>,
    /// The quote that texts stand in.
    pub(super) quote: Option<String>,
    /// What ends a value that has no quotes.
    pub(super) value_end: String,
    /// What follows a value: first what leads to the next key, then what ends the call.
    pub(super) ends: [Pattern; 2],
}

impl Spelling {
    pub(super) fn new(dialect: &Dialect, tools: Arc<BTreeMap<String, Value>>) -> Self {
        let object = dialect.is_object();
        let marker = dialect.marker().to_owned();
        let ends = dialect.ends();
        let skipped = |c: char| is_skipped(object, c) || object && c == '}';
        let mut after: Vec<Pattern> = [ends.call, ends.all]
            .map(|end| Pattern::new(end.trim_start_matches(skipped)))
            .into_iter()
            .filter(|end| !end.is_empty())
            .collect();
        let behind = after.len();
        // Of an object, what stands before it.
        let next = match ends.next.rfind('{').filter(|_| object) {
            Some(at) => {
                ends.next[..at].trim_end().trim_end_matches('[').trim_start_matches(skipped)
            }
            None => ends.next,
        };
        let begins = [marker.as_str(), next].map(Pattern::new).into_iter();
        after.extend(begins.filter(|begin| !begin.is_empty()));
        let begins = [dialect.open.as_str(), ends.next].map(Pattern::new).into_iter();
        let begins = begins.filter(|begin| !begin.is_empty()).collect();
        let each = Each::new(dialect, &tools);
        let none = match &dialect.arguments {
            Arguments::Json => "",
            Arguments::Each { none, .. } => {
                none.trim_end().strip_suffix(ends.all.trim()).unwrap_or(none)
            }
        };
        let none = Pattern::new(none);
        let bare = usize::from(!none.is_empty());
        let middles = [none].into_iter().filter(|none| !none.is_empty());
        let middles = middles.chain([Pattern::new(&dialect.middle)]).collect();
        let longest_name = tools.keys().map(String::len).max().unwrap_or(0);
        Self { tools, longest_name, object, marker, after, behind, begins, middles, bare, each }
    }

    /// Whether this character may stand between calls.
    pub(super) fn is_skipped(&self, c: char) -> bool {
        is_skipped(self.object, c)
    }
}

fn is_skipped(object: bool, c: char) -> bool {
    c.is_whitespace() || object && matches!(c, ',' | ';' | ']')
}

impl Each {
    fn new(dialect: &Dialect, tools: &BTreeMap<String, Value>) -> Option<Self> {
        let Arguments::Each { key_value, value_key, values, .. } = &dialect.arguments else {
            return None;
        };
        let (key_end, kind, quote) = match values {
            Values::Bare => (key_value.trim(), None, None),
            Values::Quoted(quote) => (key_value.trim(), None, Some(quote.clone())),
            Values::Told { front, back, texts, .. } => {
                (front.as_str(), Some((back.clone(), texts.clone())), None)
            }
        };
        let kinds = match values {
            Values::Bare => tools.iter().map(|(name, of)| (name.clone(), Kinds::of(of))).collect(),
            Values::Quoted(_) | Values::Told { .. } => HashMap::new(),
        };
        Some(Self {
            kinds,
            key_end: key_end.to_owned(),
            kind,
            quote,
            value_end: dialect.value_end().to_owned(),
            ends: [value_key.as_str(), dialect.ends().call].map(Pattern::new),
        })
    }

    /// How an argument of a tool is spelled, where its schema alone says that.
    pub(super) fn kind_of(&self, tool: &str, key: &str) -> Kind {
        self.kinds.get(tool).map_or(Kind::Either, |kinds| kinds.get(key))
    }
}
