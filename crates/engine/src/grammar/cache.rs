//! A cache of compiled grammars, bounded by their estimated size.

use std::sync::{Arc, Mutex, OnceLock};

use lru::LruCache;

use super::constraint::CompiledGrammar;
use super::source::{Grammar, GrammarError};
use crate::lock::lock;

/// The most bytes of sources and compiled grammars in the cache.
const MAX_BYTES: usize = 64 << 20;

/// The result of compiling, and an estimate of its size in bytes.
pub(super) type Compiled = (Result<CompiledGrammar, GrammarError>, usize);

/// The most recently used grammars. Refusals are cached too: the same source would cost as much again.
#[derive(Default)]
pub(super) struct GrammarCache(Mutex<Entries>);

struct Entries {
    /// Compiled, or being compiled by the first thread that asked.
    grammars: LruCache<Grammar, Arc<OnceLock<Compiled>>>,
    bytes: usize,
}

impl Default for Entries {
    fn default() -> Self {
        Self { grammars: LruCache::unbounded(), bytes: 0 }
    }
}

impl GrammarCache {
    /// A compiled grammar; does not wait for one that is being compiled.
    pub(super) fn find(&self, grammar: &Grammar) -> Option<CompiledGrammar> {
        let mut entries = lock(&self.0);
        entries.grammars.get(grammar)?.get()?.0.clone().ok()
    }

    /// Finds a grammar or compiles it. Waits for another thread that compiles the same grammar.
    pub(super) fn get_or_compile(
        &self,
        grammar: &Grammar,
        compile: impl FnOnce() -> Compiled,
    ) -> Result<CompiledGrammar, GrammarError> {
        let entry = {
            let mut entries = lock(&self.0);
            match entries.grammars.get(grammar) {
                Some(entry) => Arc::clone(entry),
                None => entries.insert(grammar),
            }
        };
        let mut is_new = false;
        let (compiled, bytes) = entry.get_or_init(|| {
            is_new = true;
            compile()
        });
        if is_new {
            let mut entries = lock(&self.0);
            entries.account(grammar, &entry, *bytes);
        }
        compiled.clone()
    }
}

impl Entries {
    fn insert(&mut self, grammar: &Grammar) -> Arc<OnceLock<Compiled>> {
        let entry = Arc::default();
        self.grammars.put(grammar.clone(), Arc::clone(&entry));
        // The source counts while it is being compiled.
        self.bytes += grammar.source().len();
        self.shrink();
        entry
    }

    fn account(&mut self, grammar: &Grammar, entry: &Arc<OnceLock<Compiled>>, bytes: usize) {
        // It may have been evicted and inserted again.
        if self.grammars.peek(grammar).is_some_and(|present| Arc::ptr_eq(present, entry)) {
            self.bytes += bytes;
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        while self.bytes > MAX_BYTES {
            let Some((grammar, entry)) = self.grammars.pop_lru() else { break };
            let compiled = entry.get().map_or(0, |(_, bytes)| *bytes);
            self.bytes = self.bytes.saturating_sub(grammar.source().len() + compiled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(source: &str) -> Grammar {
        Grammar::Regex(source.into())
    }

    fn refusal() -> Compiled {
        (Err(GrammarError("no".to_owned())), 1000)
    }

    #[test]
    fn the_same_source_is_compiled_once() {
        let (cache, count) = (GrammarCache::default(), std::sync::atomic::AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    cache.get_or_compile(&regex("a"), || {
                        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        std::thread::sleep(std::time::Duration::from_millis(50));
                        refusal()
                    })
                });
            }
        });
        assert_eq!(count.into_inner(), 1);
    }

    #[test]
    fn another_source_does_not_wait() {
        let cache = GrammarCache::default();
        let outer = cache.get_or_compile(&regex("a"), || {
            // While one is compiled another one is.
            assert!(cache.get_or_compile(&regex("b"), refusal).is_err());
            refusal()
        });
        assert!(outer.is_err());
    }

    #[test]
    fn bytes_are_bounded() {
        let cache = GrammarCache::default();
        for at in 0..100 {
            let source = format!("{at}");
            let _ = cache.get_or_compile(&regex(&source), || (refusal().0, MAX_BYTES / 4));
        }
        let entries = cache.0.lock().unwrap();
        assert!(entries.bytes <= MAX_BYTES, "{}", entries.bytes);
        assert_eq!(entries.grammars.len(), 3);
        drop(entries);
        let _ = cache.get_or_compile(&regex("large"), || (refusal().0, MAX_BYTES + 1));
        let entries = cache.0.lock().unwrap();
        assert_eq!((entries.bytes, entries.grammars.len()), (0, 0));
    }
}
