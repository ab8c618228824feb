//! A radix tree over the tokens that slots, or copies in host memory, hold.
//!
//! A node is a range of cells; the path from a root to a holder's tail is what the holder holds. If the
//! cache shares cells, a range that several hold is one node; if not, equal ranges are sibling nodes.
//! So the tree counts cells as the cache does, and a lookup may follow several children.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Salt, Token};

type NodeId = usize;

/// The tokens of each holder. `K` identifies holders.
#[derive(Debug)]
pub(crate) struct PrefixTree<K> {
    nodes: Vec<Node<K>>,
    vacant: Vec<NodeId>,
    roots: BTreeMap<Salt, Vec<NodeId>>,
    holders: BTreeMap<K, Holder>,
    cells: u64,
    shares: bool,
}

#[derive(Debug)]
struct Node<K> {
    tokens: Vec<Token>,
    parent: Option<NodeId>,
    children: Vec<NodeId>,
    /// Holders whose path goes through or ends at this node.
    through: BTreeSet<K>,
    salt: Salt,
}

#[derive(Debug, Clone, Copy)]
struct Holder {
    /// The last node of its path; `None` if it holds nothing.
    tail: Option<NodeId>,
    len: u32,
    salt: Salt,
}

/// A holder with a prefix in common with the tokens looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match<K> {
    pub(crate) holder: K,
    /// Length of the common prefix.
    pub(crate) len: u32,
    /// Whether the holder holds nothing else.
    pub(crate) whole: bool,
}

impl<K: Copy + Ord> PrefixTree<K> {
    /// An empty tree; `shares` says whether holders share cells.
    pub(crate) fn new(shares: bool) -> Self {
        Self {
            nodes: Vec::new(),
            vacant: Vec::new(),
            roots: BTreeMap::new(),
            holders: BTreeMap::new(),
            cells: 0,
            shares,
        }
    }

    /// Cells of all holders.
    pub(crate) fn cells(&self) -> u64 {
        self.cells
    }

    /// Number of tokens of a holder.
    pub(crate) fn len(&self, holder: K) -> u32 {
        self.holders.get(&holder).map_or(0, |h| h.len)
    }

    /// The tokens of a holder.
    pub(crate) fn tokens(&self, holder: K) -> Vec<Token> {
        let mut parts = Vec::new();
        let mut at = self.holders.get(&holder).and_then(|h| h.tail);
        while let Some(id) = at {
            parts.push(id);
            at = self.nodes[id].parent;
        }
        parts.iter().rev().flat_map(|&id| self.nodes[id].tokens.iter().copied()).collect()
    }

    /// The salt of a holder.
    pub(crate) fn salt(&self, holder: K) -> Salt {
        self.holders.get(&holder).map_or(Salt::default(), |h| h.salt)
    }

    /// Cells that would be free without this holder.
    pub(crate) fn exclusive(&self, holder: K) -> u32 {
        let mut cells = 0;
        let mut at = self.holders.get(&holder).and_then(|h| h.tail);
        while let Some(id) = at.filter(|&id| self.nodes[id].through.len() == 1) {
            cells += count(&self.nodes[id].tokens);
            at = self.nodes[id].parent;
        }
        cells
    }

    /// Cells of all holders for which `wanted` is true.
    pub(crate) fn cells_of(&self, wanted: impl Fn(K) -> bool) -> u64 {
        let held = self.nodes.iter().filter(|n| n.through.iter().any(|&k| wanted(k)));
        held.map(|n| u64::from(count(&n.tokens))).sum()
    }

    /// Adds a holder without tokens.
    pub(crate) fn open(&mut self, holder: K, salt: Salt) {
        self.close(holder);
        self.holders.insert(holder, Holder { tail: None, len: 0, salt });
    }

    /// Adds a holder of the first `len` tokens of another.
    pub(crate) fn fork(&mut self, from: K, to: K, len: u32) {
        let len = len.min(self.len(from));
        let salt = self.salt(from);
        self.open(to, salt);
        if !self.shares {
            let mut tokens = self.tokens(from);
            tokens.truncate(len as usize);
            return self.extend(to, &tokens);
        }
        let tail = self.node_ending_at(from, len);
        let mut at = tail;
        while let Some(id) = at {
            self.nodes[id].through.insert(to);
            at = self.nodes[id].parent;
        }
        self.holders.insert(to, Holder { tail, len, salt });
    }

    /// Appends tokens to a holder.
    pub(crate) fn extend(&mut self, holder: K, tokens: &[Token]) {
        let Some(&Holder { tail, len, salt }) = self.holders.get(&holder) else { return };
        if tokens.is_empty() {
            return;
        }
        let own =
            |id: &NodeId| self.nodes[*id].through.len() == 1 && self.nodes[*id].children.is_empty();
        let tail = match tail.filter(own) {
            Some(id) => {
                self.nodes[id].tokens.extend_from_slice(tokens);
                id
            }
            None => self.add(Node {
                tokens: tokens.to_vec(),
                parent: tail,
                children: Vec::new(),
                through: BTreeSet::from([holder]),
                salt,
            }),
        };
        self.cells += tokens.len() as u64;
        self.holders.insert(holder, Holder { tail: Some(tail), len: len + count(tokens), salt });
    }

    /// Cuts a holder to its first `len` tokens.
    pub(crate) fn truncate(&mut self, holder: K, len: u32) {
        let Some(&held) = self.holders.get(&holder) else { return };
        if len >= held.len {
            return;
        }
        let keep = self.node_ending_at(holder, len);
        self.leave(holder, held.tail, keep);
        self.holders.insert(holder, Holder { tail: keep, len, ..held });
    }

    /// Cuts a holder to its first `len` tokens; for 0 adds it anew under `salt`.
    pub(crate) fn truncate_or_open(&mut self, holder: K, len: u32, salt: Salt) {
        if len == 0 {
            self.open(holder, salt);
        } else {
            self.truncate(holder, len);
        }
    }

    /// Removes a holder.
    pub(crate) fn close(&mut self, holder: K) {
        if let Some(held) = self.holders.remove(&holder) {
            self.leave(holder, held.tail, None);
        }
    }

    /// Every holder with a prefix in common with `tokens`, with the longest of each.
    pub(crate) fn matches(&self, salt: Salt, tokens: &[Token]) -> Vec<Match<K>> {
        let mut found = BTreeMap::new();
        let mut open: Vec<(NodeId, u32)> =
            self.roots.get(&salt).into_iter().flatten().map(|&id| (id, 0)).collect();
        while let Some((id, before)) = open.pop() {
            let node = &self.nodes[id];
            let rest = tokens.get(before as usize..).unwrap_or_default();
            let common = common_prefix(&node.tokens, rest);
            if common == 0 {
                continue;
            }
            let len = before + common;
            for &holder in &node.through {
                let best = found.entry(holder).or_insert(0);
                *best = len.max(*best);
            }
            if common == count(&node.tokens) {
                open.extend(node.children.iter().map(|&child| (child, len)));
            }
        }
        let whole = |holder, len| len == self.len(holder);
        let found = found.into_iter();
        found.map(|(holder, len)| Match { holder, len, whole: whole(holder, len) }).collect()
    }

    /// The longest holder of at most `limit` tokens that holds a prefix of `tokens` and nothing else.
    pub(crate) fn longest_whole(
        &self,
        salt: Salt,
        tokens: &[Token],
        limit: u32,
    ) -> Option<Match<K>> {
        let found = self.matches(salt, tokens).into_iter();
        found.filter(|m| m.whole && m.len <= limit).max_by_key(|m| m.len)
    }

    /// The node of a holder's path that ends at `len`, after a split if need be.
    fn node_ending_at(&mut self, holder: K, len: u32) -> Option<NodeId> {
        let held = self.holders.get(&holder)?;
        let (mut at, mut end) = (held.tail?, held.len);
        loop {
            let start = end - count(&self.nodes[at].tokens);
            if len >= end {
                return Some(at);
            }
            if len > start {
                return Some(self.split(at, (len - start) as usize));
            }
            (at, end) = (self.nodes[at].parent?, start);
        }
    }

    /// Splits off a node's first `len` tokens and returns the new node. The rest keeps its id, so that
    /// tails remain valid.
    fn split(&mut self, id: NodeId, len: usize) -> NodeId {
        let node = &mut self.nodes[id];
        let rest = node.tokens.split_off(len);
        let upper = Node {
            tokens: std::mem::replace(&mut node.tokens, rest),
            parent: node.parent,
            children: Vec::new(),
            through: node.through.clone(),
            salt: node.salt,
        };
        self.detach(id);
        let upper = self.add(upper);
        self.nodes[id].parent = Some(upper);
        self.nodes[upper].children.push(id);
        upper
    }

    /// Removes `holder` from the nodes from `tail` up to, not including, `keep`.
    fn leave(&mut self, holder: K, tail: Option<NodeId>, keep: Option<NodeId>) {
        let mut at = tail;
        while let Some(id) = at.filter(|_| at != keep) {
            at = self.nodes[id].parent;
            self.nodes[id].through.remove(&holder);
            if self.nodes[id].through.is_empty() {
                self.cells -= self.nodes[id].tokens.len() as u64;
                self.detach(id);
                self.nodes[id].tokens = Vec::new();
                self.vacant.push(id);
            }
        }
    }

    fn add(&mut self, node: Node<K>) -> NodeId {
        let (parent, salt) = (node.parent, node.salt);
        let id = match self.vacant.pop() {
            Some(id) => {
                self.nodes[id] = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        match parent {
            Some(parent) => self.nodes[parent].children.push(id),
            None => self.roots.entry(salt).or_default().push(id),
        }
        id
    }

    /// Removes a node from its parent's children.
    fn detach(&mut self, id: NodeId) {
        let Node { parent, salt, .. } = self.nodes[id];
        match parent {
            Some(parent) => self.nodes[parent].children.retain(|&child| child != id),
            None => {
                if let Some(roots) = self.roots.get_mut(&salt) {
                    roots.retain(|&root| root != id);
                    if roots.is_empty() {
                        self.roots.remove(&salt);
                    }
                }
            }
        }
    }
}

/// Length of the common prefix.
pub(crate) fn common_prefix(a: &[Token], b: &[Token]) -> u32 {
    let differs = a.iter().zip(b).position(|(x, y)| x != y);
    u32::try_from(differs.unwrap_or(a.len().min(b.len()))).unwrap_or(u32::MAX)
}

fn count(tokens: &[Token]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shared_ranges_are_counted_once() {
        let mut tree = PrefixTree::new(true);
        tree.open(1, Salt(0));
        tree.extend(1, &[5, 6, 7, 8]);
        tree.fork(1, 2, 3);
        tree.extend(2, &[9, 9]);
        assert_eq!((tree.cells(), tree.exclusive(1), tree.exclusive(2)), (6, 1, 2));
        assert_eq!(tree.tokens(2), [5, 6, 7, 9, 9]);
        tree.close(1);
        assert_eq!((tree.cells(), tree.exclusive(2)), (5, 5));
        tree.truncate(2, 1);
        assert_eq!((tree.cells(), tree.tokens(2)), (1, vec![5]));
    }

    #[test]
    fn a_lookup_returns_the_common_prefix_of_each_holder() {
        let mut tree = PrefixTree::new(true);
        tree.open(1, Salt(0));
        tree.extend(1, &[5, 6, 7, 8]);
        tree.fork(1, 2, 2);
        tree.open(3, Salt(1));
        tree.extend(3, &[5, 6, 7]);
        let found = tree.matches(Salt(0), &[5, 6, 7, 1]);
        assert_eq!(
            found,
            [Match { holder: 1, len: 3, whole: false }, Match { holder: 2, len: 2, whole: true }]
        );
        assert_eq!(tree.matches(Salt(1), &[5, 6, 7, 1])[0].holder, 3, "another salt, another tree");
        assert_eq!(tree.matches(Salt(2), &[5]), []);
    }

    /// An operation: its kind, two holders, a number of tokens.
    type Operation = (u8, u8, u8, u8);

    proptest! {
        #[test]
        fn tree_equals_a_map_from_holder_to_tokens(
            shares: bool,
            operations in proptest::collection::vec((0_u8..5, 0_u8..5, 0_u8..5, 0_u8..12), 1..60),
        ) {
            let mut tree = PrefixTree::new(shares);
            let mut map: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
            for (operation, a, b, n) in operations as Vec<Operation> {
                let tokens: Vec<Token> = (0..n).map(|i| u32::from(i % (b + 1))).collect();
                match operation {
                    0 => {
                        tree.open(a, Salt(0));
                        map.insert(a, Vec::new());
                    }
                    1 if map.contains_key(&a) => {
                        tree.extend(a, &tokens);
                        map.get_mut(&a).unwrap().extend(&tokens);
                    }
                    2 if map.contains_key(&a) && a != b => {
                        tree.fork(a, b, n.into());
                        let copy = map[&a].iter().copied().take(n.into()).collect();
                        map.insert(b, copy);
                    }
                    3 if map.contains_key(&a) => {
                        tree.truncate(a, n.into());
                        map.get_mut(&a).unwrap().truncate(n.into());
                    }
                    4 => {
                        tree.close(a);
                        map.remove(&a);
                    }
                    _ => {}
                }
                for (&holder, held) in &map {
                    prop_assert_eq!(&tree.tokens(holder), held);
                    for found in tree.matches(Salt(0), held) {
                        prop_assert_eq!(found.len, common_prefix(&map[&found.holder], held));
                    }
                }
                let held: u64 = map.values().map(|t| t.len() as u64).sum();
                let counts_once = tree.cells() <= held;
                prop_assert!(if shares { counts_once } else { tree.cells() == held }, "cells");
                prop_assert_eq!(tree.cells(), tree.cells_of(|_| true));
            }
            for holder in 0..5 {
                tree.close(holder);
            }
            prop_assert_eq!((tree.cells(), tree.roots.len(), tree.vacant.len()), (0, 0, tree.nodes.len()));
        }
    }
}
