//! Prefixes that were evicted, to tell a miss after an eviction from that of a new prompt.

use std::collections::VecDeque;
use std::hash::Hasher as _;

use fnv::FnvHasher;

use crate::ids::{Salt, Token};

/// Number of common tokens from which a prompt counts as known.
pub(super) const LENGTH: u32 = 32;
/// Maximum number of prefixes kept.
const REMEMBERED: usize = 1024;

/// Hashes of the first tokens of evicted sequences.
#[derive(Debug, Default)]
pub(crate) struct EvictedPrefixes(VecDeque<u64>);

impl EvictedPrefixes {
    pub(crate) fn add(&mut self, salt: Salt, tokens: &[Token]) {
        let Some(hash) = hash(salt, tokens) else { return };
        if !self.0.contains(&hash) {
            self.0.push_back(hash);
            if self.0.len() > REMEMBERED {
                self.0.pop_front();
            }
        }
    }

    pub(crate) fn knows(&self, salt: Salt, tokens: &[Token]) -> bool {
        hash(salt, tokens).is_some_and(|hash| self.0.contains(&hash))
    }
}

/// A hash of the salt and the first [`LENGTH`] tokens; `None` if there are fewer.
fn hash(salt: Salt, tokens: &[Token]) -> Option<u64> {
    let mut hasher = FnvHasher::default();
    hasher.write_u64(salt.0);
    for &token in tokens.get(..LENGTH as usize)? {
        hasher.write_u32(token);
    }
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evicted_prompts_are_known_by_their_prefix() {
        let mut evicted_prefixes = EvictedPrefixes::default();
        let long: Vec<u32> = (0..100).collect();
        evicted_prefixes.add(Salt(1), &long);
        assert!(evicted_prefixes.knows(Salt(1), &long[..40]));
        assert!(!evicted_prefixes.knows(Salt(2), &long));
        assert!(!evicted_prefixes.knows(Salt(1), &long[1..]));
        assert!(!evicted_prefixes.knows(Salt(1), &long[..8]), "too short to tell");
    }
}
