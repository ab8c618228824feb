//! What a channel holds, and what happens to those who do not read.

use std::sync::atomic::AtomicBool;
use std::task::Wake;

use proptest::prelude::*;

use super::*;

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// Channels of requests with numbers of their own.
struct Channels {
    unread: Arc<Unread>,
    departed: Arc<Mutex<Vec<u64>>>,
    last: AtomicU64,
}

impl Channels {
    fn new(limit: usize) -> Self {
        let departed = Arc::<Mutex<Vec<u64>>>::default();
        let list = Arc::clone(&departed);
        let unread = Arc::new(Unread::new(limit, move |id| lock(&list).push(id)));
        Self { unread, departed, last: AtomicU64::new(0) }
    }

    fn channel(&self) -> (Sender, Receiver) {
        self.unread.channel(self.last.fetch_add(1, Relaxed) + 1, None)
    }

    fn take_departed(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.departed))
    }
}

impl std::ops::Deref for Channels {
    type Target = Unread;

    fn deref(&self) -> &Unread {
        &self.unread
    }
}

fn delta(bytes: usize) -> TimedEvent {
    let text = "x".repeat(bytes);
    let event = Event::Delta { choice: 0, text, tokens: 1, logprobs: Vec::new() };
    TimedEvent { after: Duration::ZERO, event }
}

fn with_logprobs(tokens: usize, top: usize) -> TimedEvent {
    let top = vec![TopLogprob { token: 1, logprob: -1.0 }; top];
    let logprobs = vec![TokenLogprob { token: 1, logprob: -1.0, top }; tokens];
    let event = Event::Delta { choice: 0, text: String::new(), tokens: 1, logprobs };
    TimedEvent { after: Duration::ZERO, event }
}

/// What a reader gets now.
fn read(receiver: &mut Receiver) -> Poll<Option<Event>> {
    let waker = Waker::noop();
    receiver.poll_recv(&mut Context::from_waker(waker)).map(|event| event.map(|e| e.event))
}

fn is_cut(receiver: &mut Receiver) -> bool {
    let cut = matches!(read(receiver), Poll::Ready(Some(Event::Failed(Failure::Unread))));
    cut && matches!(read(receiver), Poll::Ready(None))
}

#[test]
fn events_come_in_order_and_then_the_end() {
    let unread = Channels::new(1 << 20);
    let (sender, mut receiver) = unread.channel();
    assert!(read(&mut receiver).is_pending());
    for len in 1..200 {
        sender.send(delta(len));
    }
    assert!(unread.bytes() > 199 * 100);
    for len in 1..200 {
        let Poll::Ready(Some(Event::Delta { text, .. })) = read(&mut receiver) else { panic!() };
        assert_eq!(text.len(), len);
    }
    assert!(unread.bytes() < 64 * 200, "memory goes back while it is read: {}", unread.bytes());
    assert!(read(&mut receiver).is_pending());
    drop(sender);
    assert!(matches!(read(&mut receiver), Poll::Ready(None)));
    drop(receiver);
    assert_eq!((unread.bytes(), unread.take_departed()), (0, vec![]));
}

#[test]
fn a_reader_that_waits_is_woken_by_events_and_by_the_end() {
    let unread = Channels::new(1 << 20);
    let (sender, mut receiver) = unread.channel();
    let mut wait = || {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&flag));
        let poll = receiver.poll_recv(&mut Context::from_waker(&waker));
        (flag, poll.is_pending())
    };
    let (flag, pending) = wait();
    assert!(pending);
    sender.send(delta(1));
    assert!(flag.0.load(Relaxed));
    assert!(!wait().1);
    let (flag, _) = wait();
    drop(sender);
    assert!(flag.0.load(Relaxed));
}

#[test]
fn who_leaves_is_reported_once_and_only_while_it_runs() {
    let unread = Channels::new(1 << 20);
    let (sender, receiver) = unread.channel();
    let (finished, late) = unread.channel();
    finished.finish(delta(5));
    sender.send(delta(5));
    drop((receiver, late));
    assert!(sender.is_closed());
    sender.send(delta(5));
    assert_eq!((unread.take_departed(), unread.bytes()), (vec![sender.channel.id], 0));
    drop(sender);
    assert_eq!(unread.take_departed(), Vec::<u64>::new());
    assert!(lock(&unread.open).running.is_empty() && lock(&unread.open).finished.is_empty());
}

#[test]
fn the_first_to_finish_is_cut_first_and_its_memory_is_free_at_once() {
    let unread = Channels::new(50_000);
    let mut readers = Vec::new();
    for _ in 0..5 {
        let (sender, receiver) = unread.channel();
        sender.finish(delta(15_000));
        readers.push(receiver);
    }
    assert!(unread.bytes() <= 50_000, "{} without anybody reading", unread.bytes());
    assert_eq!(unread.cuts(), 2);
    let cut: Vec<bool> = readers.iter_mut().map(is_cut).collect();
    assert_eq!(cut, [true, true, false, false, false]);
    // One that was read counts no more, so nothing else is cut for the next.
    let (sender, _receiver) = unread.channel();
    sender.finish(delta(15_000));
    assert_eq!(unread.cuts(), 2);
}

#[test]
fn what_runs_is_cut_only_where_it_is_too_much_alone() {
    let unread = Channels::new(50_000);
    let (finished, mut late) = unread.channel();
    finished.finish(delta(20_000));
    let (small, mut reads) = unread.channel();
    small.send(delta(1000));
    let (large, mut stalls) = unread.channel();
    large.send(with_logprobs(60, 20));
    assert!(unread.cuts() == 0 && unread.bytes() > 60 * 20 * 8, "tops count");
    large.send(with_logprobs(100, 20));
    assert_eq!((unread.cuts(), unread.take_departed()), (1, vec![]), "the finished one first");
    while !large.is_closed() {
        large.send(with_logprobs(10, 20));
    }
    assert_eq!(unread.take_departed(), [large.channel.id], "the engine hears of it");
    assert!(is_cut(&mut late) && is_cut(&mut stalls));
    assert!(matches!(read(&mut reads), Poll::Ready(Some(Event::Delta { .. }))));
    drop((large, stalls));
    assert_eq!(unread.take_departed(), Vec::<u64>::new());
}

#[test]
fn a_reader_that_waits_for_the_rest_hears_that_it_was_cut() {
    let unread = Channels::new(1000);
    let (sender, mut receiver) = unread.channel();
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&flag));
    assert!(receiver.poll_recv(&mut Context::from_waker(&waker)).is_pending());
    sender.send(delta(5000));
    assert!(flag.0.load(Relaxed) && is_cut(&mut receiver));
}

#[test]
fn readers_and_writers_on_many_threads_leave_nothing_behind() {
    let unread = Arc::new(Channels::new(200_000));
    std::thread::scope(|scope| {
        for thread in 0..8_usize {
            let unread = Arc::clone(&unread);
            scope.spawn(move || {
                for round in 0..300 {
                    let (sender, mut receiver) = unread.channel();
                    let reads = scope.spawn(move || {
                        // Some leave early, some never read, some read all.
                        let most = [0, 3, usize::MAX][(thread + round) % 3];
                        for _ in 0..most {
                            if matches!(read(&mut receiver), Poll::Ready(None)) {
                                break;
                            }
                        }
                        receiver
                    });
                    for _ in 0..20 {
                        sender.send(delta(200));
                    }
                    sender.finish(delta(1));
                    drop(reads.join().unwrap());
                }
            });
        }
    });
    assert_eq!(unread.bytes(), 0);
    let open = lock(&unread.open);
    assert_eq!((open.running.len(), open.finished.len()), (0, 0));
}

proptest! {
    #[test]
    fn the_limit_holds_and_what_is_not_cut_arrives_whole(
        deeds in proptest::collection::vec((0_usize..6, 0_usize..5, 0_usize..3000), 1..200),
    ) {
        let unread = Channels::new(20_000);
        let mut senders: Vec<Option<Sender>> = Vec::new();
        let mut readers: Vec<Option<Receiver>> = Vec::new();
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for (which, deed, len) in deeds {
            if which >= senders.len() {
                let (sender, receiver) = unread.channel();
                senders.push(Some(sender));
                readers.push(Some(receiver));
                sent.push(0_usize);
                got.push(0_usize);
                continue;
            }
            match (deed, &mut senders[which], &mut readers[which]) {
                (0 | 1, Some(sender), _) => {
                    sender.send(delta(len));
                    sent[which] += len;
                }
                (2, sender, _) => *sender = None,
                (3, _, reader) if len < 600 => *reader = None,
                (_, sender, Some(reader)) => match read(reader) {
                    Poll::Ready(Some(Event::Delta { text, .. })) => got[which] += text.len(),
                    Poll::Ready(Some(_)) => got[which] = usize::MAX,
                    Poll::Ready(None) => {
                        let whole = sender.is_none() && got[which] == sent[which];
                        prop_assert!(whole || got[which] == usize::MAX);
                    }
                    Poll::Pending => prop_assert!(sender.is_some()),
                },
                _ => {}
            }
            prop_assert!(unread.bytes() <= 20_000);
        }
        drop((senders, readers));
        prop_assert_eq!(unread.bytes(), 0);
    }
}
