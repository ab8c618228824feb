//! Deadlines of requests, in order: finding those that have passed visits no others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// A request's time limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) submitted: Instant,
    /// From submission to the end.
    pub(crate) own: Option<Duration>,
    /// In the queue; `None` once it has left the queue.
    pub(crate) queue: Option<Duration>,
}

impl Timeouts {
    /// When the first limit is reached.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let timeout = [self.own, self.queue].into_iter().flatten().min();
        timeout.and_then(|timeout| self.submitted.checked_add(timeout))
    }

    /// The failure by the limit that was reached, if one was.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Failure> {
        let elapsed = now.saturating_duration_since(self.submitted);
        let over = |limit: Option<Duration>| limit.filter(|&limit| elapsed >= limit);
        let own = over(self.own).map(Failure::Timeout);
        own.or_else(|| over(self.queue).map(Failure::QueueTimeout))
    }
}

/// Deadlines by time.
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

    /// Removes and returns a request whose deadline is not after `now`.
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
    use super::*;

    #[test]
    fn time_is_up_by_the_first_limit_and_ones_own_is_told() {
        let submitted = Instant::now();
        let seconds = Duration::from_secs;
        let both = Timeouts { submitted, own: Some(seconds(5)), queue: Some(seconds(2)) };
        assert_eq!(both.deadline(), Some(submitted + seconds(2)));
        assert_eq!(both.overdue(submitted + seconds(1)), None);
        assert_eq!(both.overdue(submitted + seconds(2)), Some(Failure::QueueTimeout(seconds(2))));
        assert_eq!(both.overdue(submitted + seconds(5)), Some(Failure::Timeout(seconds(5))));
        let started = Timeouts { queue: None, ..both };
        assert_eq!(started.overdue(submitted + seconds(2)), None);
        assert_eq!(Timeouts { own: None, ..started }.deadline(), None);
    }

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
