//! When the time of each request is up, in order: nobody goes through all of them to find out.

use std::collections::BTreeSet;
use std::time::Instant;

/// When the time of each request is up.
#[derive(Debug)]
pub(crate) struct Deadlines<K>(BTreeSet<(Instant, K)>);

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Ord + Copy> Deadlines<K> {
    pub(crate) fn insert(&mut self, deadline: Option<Instant>, key: K) {
        self.0.extend(deadline.map(|deadline| (deadline, key)));
    }

    pub(crate) fn remove(&mut self, deadline: Option<Instant>, key: K) {
        if let Some(deadline) = deadline {
            self.0.remove(&(deadline, key));
        }
    }

    /// Removes and returns a request whose time is up by `now`.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let &(deadline, _) = self.0.first()?;
        if deadline > now {
            return None;
        }
        self.0.pop_first().map(|(_, key)| key)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn deadlines_come_in_order_and_only_when_they_are_due() {
        let start = Instant::now();
        let at = |ms| Some(start + Duration::from_millis(ms));
        let mut deadlines = Deadlines::default();
        for (key, ms) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
            deadlines.insert(at(ms), key);
        }
        deadlines.insert(None, 5);
        deadlines.remove(at(20), 3);
        deadlines.remove(None, 1);
        let now = start + Duration::from_millis(15);
        let due: Vec<_> = std::iter::from_fn(|| deadlines.pop_due(now)).collect();
        assert_eq!((due, deadlines.len()), (vec![2, 4], 1));
    }
}
