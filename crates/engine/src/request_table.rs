//! The requests that a worker has accepted, with their deadlines: finding the overdue ones visits no others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::deadlines::{Deadlines, Timeouts};
use crate::failure::Failure;

/// A request with a time limit.
pub(crate) trait Timed {
    /// The limits that hold now; `queue` is the longest that a request may wait in the queue.
    fn timeouts(&self, queue: Option<Duration>) -> Timeouts;

    /// Records that the request has left the queue. Returns whether it was in the queue before.
    fn set_started(&mut self) -> bool;
}

/// Accepted requests by id.
#[derive(Debug)]
pub(crate) struct RequestTable<K, R> {
    requests: BTreeMap<K, R>,
    deadlines: Deadlines<K>,
    queue_timeout: Option<Duration>,
}

impl<K: Ord + Copy, R: Timed> RequestTable<K, R> {
    pub(crate) fn new(queue_timeout: Option<Duration>) -> Self {
        Self { requests: BTreeMap::new(), deadlines: Deadlines::default(), queue_timeout }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(crate) fn contains(&self, id: K) -> bool {
        self.requests.contains_key(&id)
    }

    pub(crate) fn get(&self, id: K) -> Option<&R> {
        self.requests.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: K) -> Option<&mut R> {
        self.requests.get_mut(&id)
    }

    pub(crate) fn insert(&mut self, id: K, request: R) {
        self.deadlines.insert(request.timeouts(self.queue_timeout).deadline(), id);
        self.requests.insert(id, request);
    }

    pub(crate) fn remove(&mut self, id: K) -> Option<R> {
        let request = self.requests.remove(&id)?;
        self.deadlines.remove(request.timeouts(self.queue_timeout).deadline(), id);
        Some(request)
    }

    /// Takes a request out of the queue: its queue timeout no longer counts. Returns whether it was in the queue.
    pub(crate) fn start(&mut self, id: K) -> bool {
        let Some(request) = self.requests.get_mut(&id) else { return false };
        let before = request.timeouts(self.queue_timeout).deadline();
        let was_queued = request.set_started();
        if was_queued {
            self.deadlines.remove(before, id);
            self.deadlines.insert(request.timeouts(self.queue_timeout).deadline(), id);
        }
        was_queued
    }

    /// Removes and returns a request whose deadline has passed, and which limit that was.
    pub(crate) fn pop_overdue(&mut self, now: Instant) -> Option<(K, R, Failure)> {
        let queue_timeout = self.queue_timeout;
        while let Some(id) = self.deadlines.pop_due(now) {
            let overdue = |request: &R| request.timeouts(queue_timeout).overdue(now);
            if let Some(failure) = self.requests.get(&id).and_then(overdue) {
                return Some((id, self.requests.remove(&id)?, failure));
            }
        }
        None
    }
}
