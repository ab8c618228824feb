//! The channel from a generation to its reader, and the memory that unread events may take.
//!
//! Sending never blocks: a channel holds every event of its request. A reader that stops reading therefore costs
//! memory, which is bounded over all requests of an engine. Above the limit whole answers are cut, the earliest finished
//! ones first: their events are dropped, and their readers get [`Failure::Unread`]. If running answers alone exceed the
//! limit, the one with the most unread bytes is cut and cancelled.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::failure::Failure;
use crate::lock::lock;
use crate::request::{Event, FinishReason, TimedEvent, TokenLogprob, TopLogprob};

/// Bytes of the allocator's overhead per allocation.
const OVERHEAD: usize = 16;
/// Events for which a channel keeps capacity.
const MIN_CAPACITY: usize = 8;

/// The channels of an engine, and their unread bytes.
pub(crate) struct Unread {
    limit: usize,
    bytes: AtomicUsize,
    cut: AtomicU64,
    /// Called with running requests whose reader left or was cut.
    departed: Box<dyn Fn(u64) + Send + Sync>,
    /// Locked before any channel.
    open: Mutex<OpenChannels>,
}

/// The channels that have a reader.
#[derive(Default)]
struct OpenChannels {
    /// By id.
    running: BTreeMap<u64, Arc<Channel>>,
    /// In the order in which they finished.
    finished: BTreeMap<u64, Arc<Channel>>,
    /// How many channels have finished so far, which numbers them.
    finishes: u64,
}

struct Channel {
    id: u64,
    state: Mutex<ChannelState>,
}

#[derive(Default)]
struct ChannelState {
    events: VecDeque<TimedEvent>,
    /// Bytes on the heap that the events refer to.
    heap: usize,
    /// The bytes of this channel that are counted in [`Unread::bytes`].
    counted: usize,
    waker: Option<Waker>,
    sender: SenderState,
    reader: ReaderState,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum SenderState {
    #[default]
    Open,
    /// No event follows; the number is its key in [`OpenChannels::finished`].
    Finished(u64),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ReaderState {
    #[default]
    Reads,
    /// Its answer was cut; the next event reports that.
    Cut,
    /// It left, or it was cut and that was reported.
    Gone,
}

/// The engine's side. Dropping it ends the channel.
pub(crate) struct Sender {
    unread: Arc<Unread>,
    channel: Arc<Channel>,
    /// The request counts against the queue's limits until its last event.
    permits: Option<[OwnedSemaphorePermit; 2]>,
}

/// The reader's side. Dropping it cancels the request.
pub(crate) struct Receiver {
    unread: Arc<Unread>,
    channel: Arc<Channel>,
}

// === impl Unread ===

impl Unread {
    /// Channels may hold `limit` bytes together. `departed` is called once for each running request whose reader left or
    /// was cut; it must not block.
    pub(crate) fn new(limit: usize, departed: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self {
            limit,
            bytes: AtomicUsize::new(0),
            cut: AtomicU64::new(0),
            departed: Box::new(departed),
            open: Mutex::default(),
        }
    }

    /// A channel for a request that holds these permits. Its id is unique.
    pub(crate) fn channel(
        self: &Arc<Self>,
        id: u64,
        permits: Option<[OwnedSemaphorePermit; 2]>,
    ) -> (Sender, Receiver) {
        let channel = Arc::new(Channel { id, state: Mutex::default() });
        lock(&self.open).running.insert(id, Arc::clone(&channel));
        let receiver = Receiver { unread: Arc::clone(self), channel: Arc::clone(&channel) };
        (Sender { unread: Arc::clone(self), channel, permits }, receiver)
    }

    /// Unread bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Answers that were cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.cut.load(Relaxed)
    }

    /// Cuts answers until the unread bytes are within the limit.
    fn enforce(&self) {
        while self.bytes() > self.limit {
            let mut open = lock(&self.open);
            let holds = |channel: &&Arc<Channel>| !lock(&channel.state).events.is_empty();
            let channel = match open.finished.values().find(holds) {
                Some(channel) => Arc::clone(channel),
                None => {
                    let running = open.running.values();
                    let counted = |channel: &&Arc<Channel>| lock(&channel.state).counted;
                    match running.max_by_key(counted).filter(holds) {
                        Some(channel) => Arc::clone(channel),
                        None => return,
                    }
                }
            };
            self.cut.fetch_add(1, Relaxed);
            let (events, waker) = self.close(&mut open, &channel, ReaderState::Cut);
            drop((open, events));
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Removes a channel and empties it. Reports a running one as departed.
    fn close(
        &self,
        open: &mut OpenChannels,
        channel: &Channel,
        reader: ReaderState,
    ) -> (VecDeque<TimedEvent>, Option<Waker>) {
        let mut state = lock(&channel.state);
        let listed = match state.sender {
            SenderState::Open => open.running.remove(&channel.id),
            SenderState::Finished(place) => open.finished.remove(&place),
        };
        state.reader = reader;
        if listed.is_some() && state.sender == SenderState::Open {
            (self.departed)(channel.id);
        }
        let events = std::mem::take(&mut state.events);
        state.heap = 0;
        self.count(&mut state);
        (events, state.waker.take())
    }

    /// Updates the counted bytes of a channel.
    fn count(&self, state: &mut ChannelState) {
        let bytes = state.heap + state.events.capacity() * size_of::<TimedEvent>();
        match bytes.checked_sub(state.counted) {
            Some(more) => self.bytes.fetch_add(more, Relaxed),
            None => self.bytes.fetch_sub(state.counted - bytes, Relaxed),
        };
        state.counted = bytes;
    }
}

impl fmt::Debug for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unread").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

// === impl Sender ===

impl Sender {
    /// Whether there is no reader.
    #[cfg(test)]
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.channel.state).reader != ReaderState::Reads
    }

    /// Sends an event. Without a reader it is dropped.
    pub(crate) fn send(&self, event: TimedEvent) {
        let waker = {
            let mut state = lock(&self.channel.state);
            if state.reader != ReaderState::Reads {
                return;
            }
            state.heap += heap_bytes(&event.event);
            state.events.push_back(event);
            self.unread.count(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        self.unread.enforce();
    }

    /// Sends the last event. The permits are returned first: its reader may submit again at once.
    pub(crate) fn finish(mut self, event: TimedEvent) {
        self.permits = None;
        self.send(event);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.permits = None;
        let waker = {
            let mut open = lock(&self.unread.open);
            let mut state = lock(&self.channel.state);
            let place = open.finishes;
            open.finishes += 1;
            state.sender = SenderState::Finished(place);
            if open.running.remove(&self.channel.id).is_some() {
                open.finished.insert(place, Arc::clone(&self.channel));
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("id", &self.channel.id).finish_non_exhaustive()
    }
}

// === impl Receiver ===

impl Receiver {
    /// The next event; `None` after the last one.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<TimedEvent>> {
        let mut state = lock(&self.channel.state);
        match state.reader {
            ReaderState::Reads => {}
            ReaderState::Cut => {
                state.reader = ReaderState::Gone;
                let event = Event::Failed(Failure::Unread);
                return Poll::Ready(Some(TimedEvent { after: Duration::ZERO, event }));
            }
            ReaderState::Gone => return Poll::Ready(None),
        }
        if let Some(event) = state.events.pop_front() {
            state.heap -= heap_bytes(&event.event);
            let room = state.events.capacity();
            if room > MIN_CAPACITY && state.events.len() < room / 4 {
                state.events.shrink_to(room / 2);
            }
            self.unread.count(&mut state);
            return Poll::Ready(Some(event));
        }
        if state.sender != SenderState::Open {
            return Poll::Ready(None);
        }
        if state.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let left = {
            let mut open = lock(&self.unread.open);
            self.unread.close(&mut open, &self.channel, ReaderState::Gone)
        };
        drop(left);
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("id", &self.channel.id).finish_non_exhaustive()
    }
}

/// Bytes on the heap that an event refers to.
fn heap_bytes(event: &Event) -> usize {
    let block = |bytes: usize| if bytes > 0 { bytes + OVERHEAD } else { 0 };
    let logprobs = |all: &Vec<TokenLogprob>| {
        let tops = all.iter().map(|l| block(l.top.capacity() * size_of::<TopLogprob>()));
        block(all.capacity() * size_of::<TokenLogprob>()) + tops.sum::<usize>()
    };
    match event {
        Event::Delta { text, logprobs: all, .. } => block(text.capacity()) + logprobs(all),
        Event::Prompt(all) => logprobs(all),
        Event::Finished { reason: FinishReason::StopString(text), .. } => block(text.capacity()),
        Event::Finished { .. } | Event::Started { .. } | Event::Paused | Event::Failed(_) => 0,
    }
}

#[cfg(test)]
mod tests;
