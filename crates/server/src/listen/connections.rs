//! The open connections: how many there are, from where, and which of them are idle.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// An idle connection is left alone for this long, as its first request may be on its way, unless
/// there is no room at all.
const FRESH: Duration = Duration::from_secs(1);

/// The connections of one listener. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Connections(Arc<ConnectionSet>);

#[derive(Debug)]
struct ConnectionSet {
    permits: Arc<Semaphore>,
    max: usize,
    /// Connections above which idle ones are closed.
    nearly_full: usize,
    /// 0 for any number.
    per_address: usize,
    table: Mutex<ConnectionTable>,
}

#[derive(Debug, Default)]
struct ConnectionTable {
    open: usize,
    /// Of those, the ones that are closing to make room.
    closing: usize,
    /// Whether a connection waits for a permit.
    awaited: bool,
    addresses: HashMap<IpAddr, usize>,
    /// By number, so the one that has been idle for longest is first.
    idle: BTreeMap<u64, (Instant, Arc<Activity>)>,
    next: u64,
}

/// A connection counted in its [`Connections`] until this is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    activity: Arc<Activity>,
    address: IpAddr,
    permit: Option<OwnedSemaphorePermit>,
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    shared: Arc<ConnectionSet>,
    state: Mutex<ActivityState>,
    became_idle: Notify,
    evicted: Notify,
    /// Whether it is closing to make room; changed under the table's lock.
    closing: AtomicBool,
}

#[derive(Debug)]
struct ActivityState {
    /// Requests whose response is not at its end.
    in_flight: usize,
    /// Whether written bytes wait for the client to read them.
    flushing: bool,
    /// Since when there is nothing in flight, and the number among the idle ones.
    idle: Option<(Instant, u64)>,
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct RequestInFlight(Arc<Activity>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts that are changed in one go: a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address by which connections are counted: an IPv6 host usually has a network of 64 bits to itself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

// === impl Connections ===

impl Connections {
    pub(super) fn new(max: usize, per_address: usize) -> Self {
        Self(Arc::new(ConnectionSet {
            permits: Arc::new(Semaphore::new(max)),
            max,
            nearly_full: (max - max / 10).min(max - 1),
            per_address,
            table: Mutex::default(),
        }))
    }

    /// Admits a connection once there is room for it, closing idle ones if there is little.
    /// `None` if its address has too many.
    pub(super) async fn admit(&self, address: IpAddr) -> Option<OpenConnection> {
        let shared = &self.0;
        let address = network(address);
        {
            let mut table = lock(&shared.table);
            let count = table.addresses.entry(address).or_default();
            if shared.per_address > 0 && *count >= shared.per_address {
                return None;
            }
            *count += 1;
            table.open += 1;
            table.close_idle(shared);
        }
        // Made before waiting, so that leaving the queue undoes the counts.
        let activity = Arc::new(Activity::new(Arc::clone(shared)));
        let mut entry = OpenConnection { activity, address, permit: None };
        // The connection that waits for room must not be closed to make some.
        let not_idle = entry.activity.start_request();
        entry.permit = match Arc::clone(&shared.permits).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => Some(self.wait().await?),
        };
        drop(not_idle);
        Some(entry)
    }

    /// Waits for a permit. Connections that are or become idle are closed meanwhile.
    async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        struct Awaited<'a>(&'a ConnectionSet);
        impl Drop for Awaited<'_> {
            fn drop(&mut self) {
                lock(&self.0.table).awaited = false;
            }
        }
        let awaited = Awaited(&self.0);
        {
            let mut table = lock(&self.0.table);
            table.awaited = true;
            table.close_idle(&self.0);
        }
        let permit = Arc::clone(&self.0.permits).acquire_owned().await.ok();
        drop(awaited);
        permit
    }
}

// === impl ConnectionTable ===

impl ConnectionTable {
    /// Closes idle connections, those first that have been idle for longest, until at most
    /// `nearly_full` are left.
    fn close_idle(&mut self, shared: &ConnectionSet) {
        while self.open - self.closing > shared.nearly_full {
            let full = self.awaited && self.open - self.closing > shared.max;
            let Some(first) = self.idle.first_entry() else { return };
            if !full && first.get().0.elapsed() < FRESH {
                return;
            }
            let (_, activity) = first.remove();
            self.closing += 1;
            activity.closing.store(true, Ordering::Relaxed);
            activity.evicted.notify_one();
        }
    }
}

// === impl OpenConnection ===

impl OpenConnection {
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let shared = &self.activity.shared;
        let idle = lock(&self.activity.state).idle.take();
        let mut table = lock(&shared.table);
        table.open -= 1;
        if self.activity.closing.load(Ordering::Relaxed) {
            table.closing -= 1;
        }
        if let Some((_, number)) = idle {
            table.idle.remove(&number);
        }
        if let Some(count) = table.addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                table.addresses.remove(&self.address);
            }
        }
        drop(table);
        drop(self.permit.take());
    }
}

// === impl Activity ===

impl Activity {
    fn new(shared: Arc<ConnectionSet>) -> Self {
        let state = Mutex::new(ActivityState { in_flight: 0, flushing: false, idle: None });
        let (became_idle, evicted) = (Notify::new(), Notify::new());
        Self { shared, state, became_idle, evicted, closing: AtomicBool::new(false) }
    }

    /// Counts a request until its [`RequestInFlight`] is dropped.
    pub(super) fn start_request(self: &Arc<Self>) -> RequestInFlight {
        let mut state = lock(&self.state);
        state.in_flight += 1;
        if let Some((_, number)) = state.idle.take() {
            lock(&self.shared.table).idle.remove(&number);
        }
        RequestInFlight(Arc::clone(self))
    }

    fn end_request(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        state.in_flight -= 1;
        if state.in_flight > 0 {
            return;
        }
        let now = Instant::now();
        let mut table = lock(&self.shared.table);
        let number = table.next;
        table.next += 1;
        state.idle = Some((now, number));
        if !self.closing.load(Ordering::Relaxed) {
            table.idle.insert(number, (now, Arc::clone(self)));
        }
        if table.awaited {
            table.close_idle(&self.shared);
        }
        self.became_idle.notify_one();
    }

    /// Whether written bytes wait for the client.
    pub(super) fn set_flushing(&self, flushing: bool) {
        lock(&self.state).flushing = flushing;
    }

    /// Waits until the connection is to make room.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Waits until nothing has been in flight, nor anything to flush, for this long after `start`.
    pub(super) async fn idle_for(&self, time: Duration, start: Instant) {
        loop {
            let (idle, flushing) = {
                let state = lock(&self.state);
                (state.idle, state.flushing)
            };
            let Some((since, _)) = idle else {
                self.became_idle.notified().await;
                continue;
            };
            let end = since.max(start) + time;
            let now = Instant::now();
            if now < end {
                sleep_until(end).await;
            } else if flushing {
                // The socket's own timeout ends it, or the client reads.
                sleep_until(now + FRESH).await;
            } else {
                return;
            }
        }
    }
}

// === impl RequestInFlight ===

#[cfg(test)]
impl RequestInFlight {
    /// A request of a connection that is all there is.
    pub(super) fn none() -> Self {
        let shared = Arc::clone(&Connections::new(1, 0).0);
        Arc::new(Activity::new(shared)).start_request()
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.0.end_request();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    async fn admit(connections: &Connections) -> OpenConnection {
        let entered = tokio::time::timeout(Duration::from_secs(60), connections.admit(HERE));
        entered.await.expect("no room").expect("too many")
    }

    fn is_evicted(entry: &OpenConnection) -> bool {
        entry.activity.closing.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn the_one_that_is_idle_for_longest_makes_room() {
        let connections = Connections::new(4, 0);
        let (a, b, c) =
            (admit(&connections).await, admit(&connections).await, admit(&connections).await);
        tokio::time::sleep(FRESH).await;
        // It has had a request since.
        drop(a.activity().start_request());
        let d = admit(&connections).await;
        assert_eq!([&a, &b, &c, &d].map(is_evicted), [false, true, false, false]);
        b.activity().evicted().await;
        // The next one needs no room while that one is on its way out.
        let waits = tokio::time::timeout(Duration::from_millis(1), connections.admit(HERE));
        assert!(waits.await.is_err(), "four are open");
        drop(b);
        let e = admit(&connections).await;
        assert_eq!([&a, &c, &d, &e].map(is_evicted), [false, true, false, false]);
    }

    #[tokio::test]
    async fn a_full_server_closes_whatever_becomes_idle() {
        let connections = Connections::new(2, 0);
        let (a, b) = (admit(&connections).await, admit(&connections).await);
        let (busy, other) = (a.activity().start_request(), b.activity().start_request());
        let more = connections.clone();
        let waiting = tokio::spawn(async move { admit(&more).await });
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(![&a, &b].map(is_evicted).contains(&true), "busy ones stay");
        drop(busy);
        assert_eq!([&a, &b].map(is_evicted), [true, false]);
        drop(a);
        assert!(!is_evicted(&waiting.await.unwrap()));
        drop(other);
        drop(b);
        assert_eq!(lock(&connections.0.table).closing, 0);
        assert_eq!(lock(&connections.0.table).open, 0);
        assert!(lock(&connections.0.table).idle.is_empty());
    }

    #[tokio::test]
    async fn an_address_has_its_share() {
        let connections = Connections::new(10, 2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let a = connections.admit(address("2001:db8::1")).await;
        let _b = connections.admit(address("2001:db8::2:0:0:1")).await.unwrap();
        assert!(connections.admit(address("2001:db8::3")).await.is_none());
        assert!(connections.admit(address("2001:db8:0:1::3")).await.is_some());
        assert!(connections.admit(address("::ffff:127.0.0.1")).await.is_some());
        drop(a);
        assert!(connections.admit(address("2001:db8::3")).await.is_some());
    }

    #[tokio::test]
    async fn idling_starts_when_the_last_request_ends() {
        let connections = Connections::new(4, 0);
        let entry = admit(&connections).await;
        let start = Instant::now();
        let activity = Arc::clone(entry.activity());
        let busy = activity.start_request();
        let time = Duration::from_millis(50);
        tokio::spawn(async move {
            tokio::time::sleep(3 * time).await;
            drop(busy);
        });
        activity.idle_for(time, start).await;
        assert!(start.elapsed() >= 4 * time);
    }
}
