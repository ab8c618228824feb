//! The state of rewriting a document: its budget, its references, and what is noted.

use std::collections::{HashMap, HashSet};

use forebay_chat::References;
use serde_json::Value;

use super::disjoint::Comparer;
use super::enforcement::Enforcement;
use super::not_enforced::{Keyword, NotEnforced};

/// Schemas, names and values that rewriting may visit.
const MAX_STEPS: usize = 400_000;

/// How much of a value a schema describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SchemaRole {
    /// All of it: an object has no properties but those that the schema names.
    Whole,
    /// A role: the schema is one of several that have to match together, and these name properties as well.
    Conjunct,
}

/// Rewrites a document. Its methods are in one file for each group of keywords.
pub(super) struct Rewriter<'a> {
    pub(super) root: &'a Value,
    /// Whether the root is a definition as well, rather than `#`.
    pub(super) defines_root: bool,
    pub(super) enforcement: Enforcement,
    pub(super) references: References<'a>,
    pub(super) comparer: Comparer<'a>,
    pub(super) not_enforced: NotEnforced,
    /// Whether some object may have other properties besides those that it names.
    pub(super) is_open: bool,
    /// Arrays that were listed for `uniqueItems`.
    pub(super) sequences: usize,
    /// Unicode classes of the expressions so far.
    pub(super) classes: u64,
    /// What is enforced of each expression.
    pub(super) expressions: HashMap<&'a str, Option<String>>,
    pub(super) definitions: Definitions<'a>,
    steps: usize,
}

/// The definitions that references of the new document name.
#[derive(Default)]
pub(super) struct Definitions<'a> {
    /// By the address of the schema as it was sent.
    names: HashMap<(usize, SchemaRole), String>,
    used: HashSet<String>,
    pub(super) todo: Vec<(String, &'a Value, SchemaRole)>,
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(root: &'a Value, enforcement: Enforcement, defines_root: bool) -> Self {
        Self {
            root,
            defines_root,
            enforcement,
            references: References::new(root),
            comparer: Comparer::new(root),
            not_enforced: NotEnforced::default(),
            is_open: false,
            sequences: 0,
            classes: 0,
            expressions: HashMap::new(),
            definitions: Definitions::default(),
            steps: 0,
        }
    }

    /// Charges steps to the document's budget.
    ///
    /// # Errors
    /// If it is used up.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), String> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS {
            return Err(format!(
                "it takes more than {MAX_STEPS} steps to read with its references resolved"
            ));
        }
        Ok(())
    }

    /// Resolves a reference within the document. Its length is charged: one long reference can be in many places.
    ///
    /// # Errors
    /// If the budget is used up.
    pub(super) fn resolve(&mut self, reference: &str) -> Result<Option<&'a Value>, String> {
        self.spend(reference.len() / 64)?;
        Ok(self.references.find(reference))
    }

    /// Leaves out a keyword that cannot be enforced, and notes it.
    ///
    /// # Errors
    /// If the schema is strict.
    pub(super) fn leave_out(&mut self, keyword: Keyword) -> Result<(), String> {
        if self.enforcement == Enforcement::Strict {
            return Err(format!("its '{}' is not supported", keyword.name()));
        }
        self.not_enforced.add(keyword);
        Ok(())
    }
}

impl<'a> Definitions<'a> {
    /// A reference to a definition, which is written if it is not yet.
    pub(super) fn name(&mut self, reference: &str, target: &'a Value, role: SchemaRole) -> String {
        let key = (std::ptr::from_ref(target).addr(), role);
        if let Some(name) = self.names.get(&key) {
            return format!("#/$defs/{name}");
        }
        // The compiler's messages contain it, so it is the client's name if that is a plain word.
        let last = reference.rsplit(['/', '#']).next().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let fits = (1..=64).contains(&last.len()) && last.chars().all(plain);
        let base = if fits { last } else { "schema" };
        let mut name = base.to_owned();
        if self.used.contains(&name) {
            name = format!("{base}-{}", self.used.len());
        }
        while !self.used.insert(name.clone()) {
            name.push('-');
        }
        self.names.insert(key, name.clone());
        self.todo.push((name.clone(), target, role));
        format!("#/$defs/{name}")
    }
}
